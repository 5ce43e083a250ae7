"""Reductions, and softmax over one axis.

A reduction gives each result (or four neighbouring ones, where the last axis is kept) to a column of a workgroup whose
lanes share the reduced elements. `columns * lanes` is at most 256 invocations.
"""

from __future__ import annotations

import math
from typing import Any

from gpucompile.ir.index import Index, delinearize
from gpucompile.ir.types import DataType
from gpucompile.kernels.function import LANE
from gpucompile.kernels.kernel import Kernel
from gpucompile.kernels.schedules.base import Problem, Schedule, power_of_two, require_iterations
from gpucompile.kernels.schedules.map import numbered
from gpucompile.kernels.view import COMPUTE_TYPE
from gpucompile.ops.categories import Reduction
from gpucompile.ops.softmax import Softmax

_LIMITS = {
    ("lowest", "f32"): "-infinity()",
    ("highest", "f32"): "infinity()",
    ("lowest", "i32"): "-2147483648",
    ("highest", "i32"): "2147483647",
    ("lowest", "u32"): "0",
    ("highest", "u32"): "4294967295",
    ("lowest", "Int64"): "0u, 0x80000000u",
    ("highest", "Int64"): "0xffffffffu, 0x7fffffffu",
    ("lowest", "Uint64"): "",
    ("highest", "Uint64"): "0xffffffffu, 0xffffffffu",
    **{(identity, t): word for t in ("Int64", "Uint64") for identity, word in (("0.0", ""), ("1.0", "1u, 0u"))},
}


def accumulator(dtype: DataType) -> str:
    """The WGSL scalar type in which elements of a data type are combined: float32 for all floats."""
    return "f32" if dtype.is_float else COMPUTE_TYPE[dtype]


def first_value(identity: str, dtype: DataType) -> str:
    """WGSL for an op's `identity` in its accumulator."""
    number = identity if dtype.is_float else identity.removesuffix(".0")  # no vector of integers takes a float
    return _LIMITS.get((identity, accumulator(dtype)), number)


class Reduce(Schedule):
    name = "reduce"

    def match(self, problem: Problem) -> bool:
        return problem.anchor is not None and isinstance(problem.anchor.op, Reduction)

    def emit(self, problem: Problem, config: Any) -> list[Kernel]:
        node = problem.anchor
        assert node is not None and isinstance(node.op, Reduction)
        op, (source,) = node.op, node.operand_values
        shape = source.type.shape
        axes = op.reduced_axes(len(shape))
        kept = [i for i in range(len(shape)) if i not in axes]
        extent = math.prod(shape[a] for a in axes)
        out = node.output.type
        vector = kept and kept[-1] == len(shape) - 1 and shape[-1] % 4 == 0 and not problem.has_64_bits
        width = 4 if vector else 1
        count = out.size // width
        lanes = power_of_two(min(extent, 64 if width == 4 else 256), 256)
        columns = power_of_two(count, max(1, 64 // lanes))
        require_iterations(problem, -(-extent // lanes))
        # coordinates: the kept axes from the result's number, the reduced ones from the element's number
        number = Index.var("i", count) * width + (Index.var(LANE, 4) if width == 4 else 0)
        where: list[Index] = [Index()] * len(shape)
        for axis, c in zip(kept, delinearize(number, [shape[a] for a in kept]), strict=True):
            where[axis] = c
        for axis, c in zip(axes, delinearize(Index.var("r", extent), [shape[a] for a in axes]), strict=True):
            where[axis] = c
        kernel = problem.builder()
        scalar, acc = COMPUTE_TYPE[source.type.dtype], accumulator(source.type.dtype)
        t = acc if width == 1 else f"vec4<{acc}>"
        load = kernel.load("load_x", source, [("i", count), ("r", extent)], where, width)
        result = kernel.type_of(out.dtype, width)
        store = kernel.store(
            "store_y", node.output, [("i", count)], numbered(count, out.shape, width), width,
            source=acc,
            adjust=lambda fn, v, _: v if acc == scalar else fn.let(f"{result}({v})"),
        )  # fmt: skip
        start = first_value(op.identity, source.type.dtype)
        item = max(4, source.type.dtype.bits // 8) * width
        nan = op.drops_nan and source.type.dtype.is_float
        return [
            kernel.finish(
                "reduce", -(-count // columns), (columns * lanes, 1, 1), columns * lanes * item if lanes > 1 else 0,
                count=count, columns=columns, lanes=lanes, extent=extent, type=t, word=t.replace(acc, "u32"), nan=nan,
                start=start, load=load, store=store,
                mapped=op.map(f"{t}($x)", t), combine=op.combine("$a", "$b", t), finish=op.finish("$x", extent, t),
            )
        ]  # fmt: skip


class SoftmaxRows(Schedule):
    name = "softmax"

    def match(self, problem: Problem) -> bool:
        return problem.anchor is not None and isinstance(problem.anchor.op, Softmax)

    def emit(self, problem: Problem, config: Any) -> list[Kernel]:
        node = problem.anchor
        assert node is not None and isinstance(node.op, Softmax)
        (source,) = node.operand_values
        shape = source.type.shape
        axis = node.op.axis
        extent = shape[axis]
        rows = source.type.size // extent
        others = [i for i in range(len(shape)) if i != axis]
        where: list[Index] = [Index()] * len(shape)
        for i, c in zip(others, delinearize(Index.var("i", rows), [shape[a] for a in others]), strict=True):
            where[i] = c
        where[axis] = Index.var("r", extent)
        kernel = problem.builder()
        half = source.type.dtype is DataType.FLOAT16
        params = [("i", rows), ("r", extent)]
        load = kernel.load("load_x", source, params, where)
        store = kernel.store(
            "store_y", node.output, params, where, source="f32",
            adjust=lambda fn, v, _: fn.let(f"f16({v})") if half else v,
        )  # fmt: skip
        lanes = power_of_two(extent, 256)
        require_iterations(problem, 3 * -(-extent // lanes))
        return [
            kernel.finish("softmax", rows, (lanes, 1, 1), lanes * 4, lanes=lanes, extent=extent, load=load, store=store)
        ]
