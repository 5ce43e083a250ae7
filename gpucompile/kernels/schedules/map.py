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
        size = out.type.size
        # 8-bit results are written in whole words, so the last one may hang over the end (storages are padded)
        width = 4 if size % 4 == 0 or out.type.dtype.bits == 8 else 1
        count = -(-size // width)
        coords = numbered(count, out.type.shape, width)
        fn = Function(kernel, "apply", [("i", count)])
        position = Index.var("i", count) * width + (Index.var(LANE, 4) if width == 4 else 0)
        value = fn.guarded(out, coords, ((position, 0, size),), width, "0")
        if position.range[1] < size:
            fn.write(problem.views[out], value, coords, width, ())
        else:
            fn.line(kernel.write(problem.views[out], Index.var("i", count) * 4, 4, value))
        kernel.functions.append(fn.text())
        threads = threads_for(count, problem.target)
        return [kernel.finish("map", -(-count // threads), (threads, 1, 1), apply="apply", count=count)]


def numbered(count: int, shape: tuple[int, ...], width: int, name: str = "i") -> tuple[Index, ...]:
    """Coordinates in `shape` of result number `name` of `count`; for width 4 of the vector starting there."""
    position = Index.var(name, count) * width
    if width == 4:
        position = position + Index.var(LANE, 4)
    return delinearize(position, shape)
