"""Reductions of many elements to few results, in two steps.

    sum(x[.., L, ..], axes)    -> sum(sum(reshape(x, [.., parts, L / parts, ..]), axes), axis of parts)
    product, max, min          -> the same with themselves
    l1, sum_square             -> the same with sum as the second step
    mean, l2, log_sum          -> the same of sum, sum_square, sum; then / count, sqrt, log

A workgroup computes one result (or four), so that few results would leave a device idle; and an invocation may not loop
as often as it likes. L is the longest run of reduced axes that lie side by side; the others are reduced in the first
step. Where no suitable number divides L, x is padded: by what changes nothing, or by its last element for max and min.
Parts of float16 are kept in float32, those of 8-bit integers in 32 bits. Linear time; run legalize first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gpucompile.ir.graph import Graph, Node, Value
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType
from gpucompile.ops import reduction
from gpucompile.ops.categories import Reduction
from gpucompile.ops.elementwise import Div, Log, Sqrt
from gpucompile.ops.logical import Cast
from gpucompile.ops.movement import Pad, Reshape
from gpucompile.passes._rewrite import rewrite
from gpucompile.passmanager.base import Context, Pass

SUM = reduction.ReduceSum
#: The two steps of a reduction.
STEPS: dict[type[Op], tuple[type[Reduction], type[Reduction]]] = {
    reduction.ReduceSum: (SUM, SUM),
    reduction.ReduceMean: (SUM, SUM),
    reduction.ReduceLogSum: (SUM, SUM),
    reduction.ReduceL1: (reduction.ReduceL1, SUM),
    reduction.ReduceSumSquare: (reduction.ReduceSumSquare, SUM),
    reduction.ReduceL2: (reduction.ReduceSumSquare, SUM),
    reduction.ReduceProduct: (reduction.ReduceProduct, reduction.ReduceProduct),
    reduction.ReduceMax: (reduction.ReduceMax, reduction.ReduceMax),
    reduction.ReduceMin: (reduction.ReduceMin, reduction.ReduceMin),
}


@dataclass(frozen=True)
class SplitReductions(Pass):
    """sum(x) -> sum(sum(parts of x)) where more than `min_elements` make one of few results, or more than
    `max_elements` one of any (64 lanes that loop 60,000 times)"""

    min_elements: int = 1 << 16
    max_elements: int = 64 * 60_000

    def run(self, graph: Graph, ctx: Context) -> bool:
        return rewrite(graph, {Reduction: (self.split,)}, ctx)

    def split(self, graph: Graph, node: Node, ctx: Context) -> Value | None:
        op, (x,) = node.op, node.operand_values
        assert isinstance(op, Reduction)
        axes = op.reduced_axes(x.type.rank)
        elements = math.prod(x.type.shape[a] for a in axes)
        least = -(-elements // self.max_elements)
        vectors = bool(x.type.rank) and x.type.rank - 1 not in axes and x.type.shape[-1] % 4 == 0
        groups = -(-node.output.type.size // (4 if vectors else 1))
        wanted = 2 * ctx.target.cores
        parts = max(least, wanted // groups, 2)
        if least == 1 and (elements <= self.min_elements or elements < 2 * parts or 2 * groups > wanted):
            return None
        if type(op) not in STEPS:
            ctx.remark(node, f"{op.name} has no two steps; legalize decomposes it")
            return None
        return in_two_steps(graph, node, axes, parts)


def in_two_steps(graph: Graph, node: Node, axes: tuple[int, ...], parts: int) -> Value:
    """The result of a reduction over `axes`, its first step in about `parts` parts."""
    op, (x,) = node.op, node.operand_values
    first, second = STEPS[type(op)]
    shape, source = x.type.shape, x.type.dtype

    def add(op: Op, *inputs: Value) -> Value:
        return graph.add(op, *inputs, before=node)

    start, stop = longest_run(axes, shape)
    run = math.prod(shape[start:stop])
    parts, length = division(run, parts)
    before, after = shape[:start], shape[stop:]
    if parts * length > run:
        x = add(Reshape((*before, run, *after)), x)
        none = (0,) * x.type.rank
        ending = tuple(parts * length - run if i == start else 0 for i in range(x.type.rank))
        mode = "edge" if first in (reduction.ReduceMax, reduction.ReduceMin) else "constant"
        x = add(Pad(none, ending, mode, 1.0 if first is reduction.ReduceProduct else 0.0), x)
    x = add(Reshape((*before, parts, length, *after)), x)
    wide = _wide(source)
    if wide is not source:
        x = add(Cast(wide), x)
    gained = 2 - (stop - start)  # axes by which the shape has grown
    inner = (*(a for a in axes if a < start), start + 1, *(a + gained for a in axes if a >= stop))
    out = add(first(inner), x)
    out = add(second((start - sum(a < start for a in axes),)), out)
    if isinstance(op, reduction.ReduceMean):
        count = math.prod(shape[a] for a in axes)
        out = add(Div(), out, graph.constant(np.asarray(count, wide.numpy), before=node))
    elif isinstance(op, reduction.ReduceL2):
        out = add(Sqrt(), out)
    elif isinstance(op, reduction.ReduceLogSum):
        out = add(Log(), out)
    if wide is not source:
        out = add(Cast(source), out)
    result = node.output.type.shape
    return out if out.type.shape == result else add(Reshape(result), out)


def longest_run(axes: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int]:
    """Of the neighbours among sorted `axes` those with the most elements together: the first, and the one after."""
    runs: list[tuple[int, int]] = []
    for a in axes:
        if runs and runs[-1][1] == a:
            runs[-1] = (runs[-1][0], a + 1)
        else:
            runs.append((a, a + 1))
    return max(runs, key=lambda r: math.prod(shape[r[0] : r[1]]))


def division(run: int, parts: int) -> tuple[int, int]:
    """How many parts of which length: the first number from `parts` to its double that divides `run`; else about
    `parts`, the last of them not full."""
    if run <= parts:
        return run, 1
    for p in range(parts, min(2 * parts, run) + 1):
        if run % p == 0:
            return p, run // p
    length = -(-run // parts)
    return -(-run // length), length


def _wide(dtype: DataType) -> DataType:
    """The data type of the parts."""
    if dtype is DataType.FLOAT16:
        return DataType.FLOAT32
    if dtype.bits < 32:
        return DataType.INT32 if dtype.is_signed else DataType.UINT32
    return dtype
