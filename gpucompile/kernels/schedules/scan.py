"""Along one axis: the place of the best element, and running sums. Lanes of a workgroup share a line."""

from __future__ import annotations

from typing import Any

from gpucompile.ir.index import Index, delinearize
from gpucompile.kernels.kernel import Kernel
from gpucompile.kernels.schedules.base import Problem, Schedule, power_of_two, require_iterations
from gpucompile.kernels.schedules.map import numbered
from gpucompile.kernels.schedules.reduce import accumulator
from gpucompile.kernels.view import COMPUTE_TYPE
from gpucompile.ops.formula import is_wide, prefix
from gpucompile.ops.logical import Cast
from gpucompile.ops.scan import ArgMinMax, CumulativeSum


def line_coords(shape: tuple[int, ...], axis: int, element: Index) -> tuple[Index, ...]:
    """Coordinates of `element` of line `i`, lines along `axis` numbered in row-major order."""
    others = [d for a, d in enumerate(shape) if a != axis]
    lines = 1
    for d in others:
        lines *= d
    where = list(delinearize(Index.var("i", lines), others))
    where.insert(axis, element)
    return tuple(where)


class Pick(Schedule):
    name = "pick"

    def match(self, problem: Problem) -> bool:
        return problem.anchor is not None and isinstance(problem.anchor.op, ArgMinMax)

    def emit(self, problem: Problem, config: Any) -> list[Kernel]:
        node = problem.anchor
        assert node is not None and isinstance(node.op, ArgMinMax)
        op, (source,), out = node.op, node.operand_values, node.output
        extent, count = source.type.shape[op.axis], out.type.size
        lanes = power_of_two(extent, 256)
        columns = power_of_two(count, max(1, 64 // lanes))
        item = source.type.dtype.bits // 8
        require_iterations(problem, -(-extent // lanes))
        kernel = problem.builder()
        where = line_coords(source.type.shape, op.axis, Index.var("r", extent))
        load = kernel.load("load_x", source, [("i", count), ("r", extent)], where)
        place = Cast(out.type.dtype).wgsl(("v",), "u32", kernel.type_of(out.type.dtype, 1))
        store = kernel.store(
            "store_y", out, [("i", count)], numbered(count, out.type.shape, 1),
            source="u32", adjust=lambda fn, v, _: fn.let(place),
        )  # fmt: skip
        scalar, prefer = COMPUTE_TYPE[source.type.dtype], better(op, COMPUTE_TYPE[source.type.dtype])
        if source.type.dtype.is_float:  # NaN is best, and compilers may assume that there is none: compare integers
            sign = "" if op.better == ">" else "-"
            kernel.functions.append(f"fn key(i: u32, r: u32) -> i32 {{ return order({sign}f32({load}(i, r))); }}")
            load, scalar, prefer = "key", "i32", "($b > $a)"
        return [
            kernel.finish(
                "pick", -(-count // columns), (columns * lanes, 1, 1), columns * lanes * (4 + max(4, item)),
                count=count, columns=columns, lanes=lanes, extent=extent, type=scalar,
                load=load, better=prefer, store=store,
            )
        ]  # fmt: skip


def better(op: ArgMinMax, t: str) -> str:
    """WGSL: whether $b is to be preferred to $a."""
    if is_wide(t):
        return f"{prefix(t)}_less($a, $b)" if op.better == ">" else f"{prefix(t)}_less($b, $a)"
    return f"($b {op.better} $a)"


class Scan(Schedule):
    name = "scan"

    def match(self, problem: Problem) -> bool:
        return problem.anchor is not None and isinstance(problem.anchor.op, CumulativeSum)

    def emit(self, problem: Problem, config: Any) -> list[Kernel]:
        node = problem.anchor
        assert node is not None and isinstance(node.op, CumulativeSum)
        op, (source,) = node.op, node.operand_values
        shape = source.type.shape
        extent = shape[op.axis]
        count = source.type.size // extent
        lanes = power_of_two(extent, 256)
        columns = power_of_two(count, max(1, 64 // lanes))
        require_iterations(problem, -(-extent // lanes))
        element = Index.var("r", extent)
        where = line_coords(shape, op.axis, (extent - 1) - element if op.reversed else element)
        kernel = problem.builder()
        scalar, acc = COMPUTE_TYPE[source.type.dtype], accumulator(source.type.dtype)
        item = max(4, source.type.dtype.bits // 8)
        params = [("i", count), ("r", extent)]
        load = kernel.load("load_x", source, params, where)
        store = kernel.store(
            "store_y", node.output, params, where, source=acc,
            adjust=lambda fn, v, _: v if acc == scalar else fn.let(f"{scalar}({v})"),
        )  # fmt: skip
        return [
            kernel.finish(
                "scan", -(-count // columns), (columns * lanes, 1, 1), columns * lanes * item,
                count=count, columns=columns, lanes=lanes, extent=extent, type=acc, exclusive=op.exclusive,
                combine="add64($a, $b)" if is_wide(acc) else "($a + $b)",
                load=load, store=store,
            )
        ]  # fmt: skip
