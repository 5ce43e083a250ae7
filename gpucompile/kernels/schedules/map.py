"""Elementwise and movement ops: every invocation computes one vec4 (or one scalar) of the result.

Results are numbered in row-major order, four neighbours to a vector wherever the element count allows; index arithmetic
proves which loads are vectors. This is the fallback schedule: it lowers every body without an anchor.
"""

from __future__ import annotations

from typing import Any

from gpucompile.ir.index import Index, delinearize
from gpucompile.kernels.builder import LANE, Function
from gpucompile.kernels.kernel import Kernel
from gpucompile.kernels.schedules.base import Problem, Schedule, threads_for


class Map(Schedule):
    name = "map"

    def match(self, problem: Problem) -> bool:
        return problem.anchor is None

    def emit(self, problem: Problem, config: Any) -> list[Kernel]:
        kernel = problem.builder()
        out = problem.result
        width = 4 if out.type.size % 4 == 0 else 1
        count = out.type.size // width
        coords = numbered(count, out.type.shape, width)
        fn = Function(kernel, "apply", [("i", count)])
        value = fn.value(out, coords, width)
        fn._write(problem.views[out], value, coords, width, ())
        kernel.functions.append(fn.text())
        threads = threads_for(count, problem.target)
        return [kernel.finish("map", -(-count // threads), (threads, 1, 1), apply="apply", count=count)]


def numbered(count: int, shape: tuple[int, ...], width: int, name: str = "i") -> tuple[Index, ...]:
    """Coordinates in `shape` of result number `name` of `count`; for width 4 of the vector starting there."""
    position = Index.var(name, count) * width
    if width == 4:
        position = position + Index.var(LANE, 4)
    return delinearize(position, shape)
