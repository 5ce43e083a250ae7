"""Elementwise and movement ops: every invocation computes one vec4 (or one scalar) of the result.

Results are numbered in row-major order, four neighbours to a vector wherever the element count allows; index arithmetic
proves which loads are vectors. This is the fallback schedule: it lowers every body without an anchor.
"""

from __future__ import annotations

from typing import Any

from gpucompile.ir.index import Index, delinearize
from gpucompile.kernels.function import LANE, Function
from gpucompile.kernels.kernel import Kernel
from gpucompile.kernels.schedules.base import Problem, Schedule, threads_for


class Map(Schedule):
    name = "map"

    def match(self, problem: Problem) -> bool:
        return problem.anchor is None

    def emit(self, problem: Problem, config: Any) -> list[Kernel]:
        kernel = problem.builder()
        out = problem.result
        size, dtype = out.type.size, out.type.dtype
        # packed results are written in whole words, so the last one may hang over the end (storages are padded)
        whole = kernel.packed(dtype)
        width = 4 if whole or (size % 4 == 0 and dtype.bits < 64) else 1
        vectors = 2 if dtype.bits == 4 else 1
        count = -(-size // (width * vectors))
        fn = Function(kernel, "apply", [("i", count)])
        values = []
        for vector in range(vectors):
            first = Index.var("i", count) * (width * vectors) + vector * 4
            position = first + Index.var(LANE, 4) if width == 4 else first
            coords = delinearize(position, out.type.shape)
            values.append(fn.guarded(out, coords, ((position, 0, size),), width, ""))
        if whole and (vectors > 1 or size % 4):
            fn.line(kernel.write(problem.views[out], Index.var("i", count) * (width * vectors), 4, " ".join(values)))
        else:
            fn.write(problem.views[out], values[0], coords, width, ())
        kernel.functions.append(fn.text())
        threads = threads_for(count, problem.target)
        return [kernel.finish("map", -(-count // threads), (threads, 1, 1), apply="apply", count=count)]


def numbered(count: int, shape: tuple[int, ...], width: int, name: str = "i") -> tuple[Index, ...]:
    """Coordinates in `shape` of result number `name` of `count`; for width 4 of the vector starting there."""
    position = Index.var(name, count) * width
    if width == 4:
        position = position + Index.var(LANE, 4)
    return delinearize(position, shape)
