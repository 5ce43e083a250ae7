"""What no kernel takes as it is becomes what kernels take; what nothing can become is an error.

    reduce_log_sum_exp(x)             m = min(max(reduce_max(x), lowest), highest);  log(reduce_sum(exp(x - m))) + m
    batch_normalization(x, variables) (x - mean) / sqrt(variance + epsilon) * scale + bias, broadcast
    scatters of 8-bit elements        cast to 32 bits, scatter, cast back; reductions and pooling too
    layer_, instance_normalization    (x - mean) / sqrt(mean((x - mean)^2) + epsilon) * scale + bias
    reductions of single elements     (no axes, or extents of 1) -> abs(x), x * x, log(x) or x, reshaped
    concat of many narrow operands    concat of concats, as a kernel reads so many operands and no more
    quantize_, dequantize_linear      casts and arithmetic, see _quantize.py
    outputs                           that are inputs, constants or another output -> identity of them

Run fold-constants and dce first, so that what only served to compute shapes is gone. Linear time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpucompile.ir.graph import Graph, Node, Value
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType
from gpucompile.ops import elementwise, reduction
from gpucompile.ops.activation import Clamp
from gpucompile.ops.categories import Reduction
from gpucompile.ops.conv import ConvTranspose2d
from gpucompile.ops.gather import Scatter
from gpucompile.ops.logical import Cast
from gpucompile.ops.movement import Concat, Reshape, Transpose
from gpucompile.ops.normalize import BatchNormalization, InstanceNormalization, LayerNormalization
from gpucompile.ops.pool import Pool2d
from gpucompile.ops.update import UpdateSlice
from gpucompile.passes import _quantize
from gpucompile.passes._rewrite import Rules, rewrite
from gpucompile.passmanager.base import Context, Pass


@dataclass(frozen=True)
class Legalize(Pass):
    """reduce_log_sum_exp, batch_normalization with variable statistics, ... -> ops that have kernels"""

    def run(self, graph: Graph, ctx: Context) -> bool:
        changed = rewrite(graph, RULES, ctx)
        changed |= _own_outputs(graph)
        return changed


def _own_outputs(graph: Graph) -> bool:
    """Every output gets a node of its own."""
    values: list[Value] = []
    for v in graph.outputs:
        if v.producer is None or v.constant is not None or v in values:
            v = graph.add(elementwise.Identity(), v)
        values.append(v)
    if values == list(graph.outputs):
        return False
    graph.set_outputs(dict(zip(graph.output_names, values, strict=True)))
    return True


# Reductions ----------------------------------------------------------------------------------------------------------


def _log(graph: Graph, x: Value, before: Node) -> Value:
    return graph.add(elementwise.Log(), x, before=before)


def _abs(graph: Graph, x: Value, before: Node) -> Value:
    return graph.add(elementwise.Abs(), x, before=before)


def _square(graph: Graph, x: Value, before: Node) -> Value:
    return graph.add(elementwise.Mul(), x, x, before=before)


#: What a reduction does to a single element, where that is something.
OF_ONE: dict[type[Op], Callable[[Graph, Value, Node], Value]] = {
    reduction.ReduceL1: _abs,
    reduction.ReduceL2: _abs,
    reduction.ReduceSumSquare: _square,
    reduction.ReduceLogSum: _log,
}


def reduction_of_nothing(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """A reduction that combines no elements is elementwise."""
    op, (x,) = node.op, node.operand_values
    assert isinstance(op, Reduction)
    if any(x.type.shape[a] != 1 for a in op.reduced_axes(x.type.rank)):
        return None
    same = isinstance(op, reduction.ReduceL1) and not x.type.dtype.is_signed
    out = OF_ONE[type(op)](graph, x, node) if type(op) in OF_ONE and not same else x
    shape = node.output.type.shape
    return out if out.type.shape == shape else graph.add(Reshape(shape), out, before=node)


def log_sum_exp(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """The stable form. The maximum is kept finite, so that x - m is never inf - inf: nothing else overflows."""
    op, (x,) = node.op, node.operand_values
    assert isinstance(op, reduction.ReduceLogSumExp)
    limits = np.finfo(np.float32 if x.type.dtype is DataType.FLOAT32 else np.float16)
    top = graph.add(reduction.ReduceMax(op.axes, True), x, before=node)
    top = graph.add(Clamp(float(limits.min), float(limits.max)), top, before=node)
    shifted = graph.add(elementwise.Sub(), x, top, before=node)
    powers = graph.add(elementwise.Exp(), shifted, before=node)
    total = graph.add(reduction.ReduceSum(op.axes, op.keep_dimensions), powers, before=node)
    if not op.keep_dimensions:
        top = graph.add(Reshape(total.type.shape), top, before=node)
    return graph.add(elementwise.Add(), graph.add(elementwise.Log(), total, before=node), top, before=node)


# Normalisation -------------------------------------------------------------------------------------------------------


def batch_norm(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """factor = scale / sqrt(variance + epsilon); (x - mean) * factor + bias, in float32 for float16 as well"""
    op = node.op
    assert isinstance(op, BatchNormalization)
    source = node.inputs[0]
    assert source is not None
    half = source.type.dtype is DataType.FLOAT16

    def add(op: Op, *inputs: Value) -> Value:
        return graph.add(op, *inputs, before=node)

    def wide(v: Value | None) -> Value | None:
        return add(Cast(DataType.FLOAT32), v) if half and v is not None else v

    x, mean, variance, scale, bias = (*map(wide, node.inputs), None, None)[:5]
    assert x is not None and mean is not None and variance is not None
    shape = (mean.type.size, *(1,) * (x.type.rank - op.axis - 1))

    epsilon = graph.constant(np.asarray(op.epsilon, x.type.dtype.numpy), before=node)
    factor = add(elementwise.Reciprocal(), add(elementwise.Sqrt(), add(elementwise.Add(), variance, epsilon)))
    if scale is not None:
        factor = add(elementwise.Mul(), factor, scale)
    out = add(elementwise.Sub(), x, add(Reshape(shape), mean))
    out = add(elementwise.Mul(), out, add(Reshape(shape), factor))
    out = out if bias is None else add(elementwise.Add(), out, add(Reshape(shape), bias))
    return add(Cast(source.type.dtype), out) if half else out


def normalization(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """(x - mean) / sqrt(mean of squares + epsilon) * scale + bias, both means over the normalised axes; in float32 for
    float16 as well"""
    op = node.op
    assert isinstance(op, (InstanceNormalization, LayerNormalization))
    source = node.inputs[0]
    assert source is not None
    half = source.type.dtype is DataType.FLOAT16

    def add(op: Op, *inputs: Value) -> Value:
        return graph.add(op, *inputs, before=node)

    def wide(v: Value | None) -> Value | None:
        return add(Cast(DataType.FLOAT32), v) if half and v is not None else v

    x, scale, bias = (*map(wide, node.inputs), None, None)[:3]
    assert x is not None
    rank = x.type.rank
    if isinstance(op, LayerNormalization):
        axes = op.normalized_axes(rank)
        order = tuple(sorted(range(len(axes)), key=axes.__getitem__))  # of scale's axes, to stand as the input's do
        shape = tuple(d if i in axes else 1 for i, d in enumerate(x.type.shape))
    else:
        axes = tuple(op.layout.index(a) for a in "hw")
        order, shape = (0,), tuple(d if i == op.channel else 1 for i, d in enumerate(x.type.shape))

    def parameter(value: Value) -> Value:
        return add(Reshape(shape), add(Transpose(order), value) if len(order) > 1 else value)

    mean = reduction.ReduceMean(tuple(sorted(axes)), True)
    centred = add(elementwise.Sub(), x, add(mean, x))
    epsilon = graph.constant(np.asarray(op.epsilon, x.type.dtype.numpy), before=node)
    variance = add(mean, add(elementwise.Mul(), centred, centred))
    out = add(elementwise.Div(), centred, add(elementwise.Sqrt(), add(elementwise.Add(), variance, epsilon)))
    if scale is not None:
        out = add(elementwise.Mul(), out, parameter(scale))
    out = out if bias is None else add(elementwise.Add(), out, parameter(bias))
    return add(Cast(source.type.dtype), out) if half else out


# Bytes --------------------------------------------------------------------------------------------------------------


def widen_bytes(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """A scatter of 8-bit elements writes single bytes of shared words; in 32 bits it does not. The results of
    reductions and pooling are single elements too."""
    dtype = node.operand_values[0].type.dtype
    if isinstance(node.op, UpdateSlice) and node.op.whole_words(node.operand_values[2].type):
        return None
    if dtype.bits != 8 or node.output.type.dtype != dtype:
        return None
    wide = Cast(DataType.INT32 if dtype.is_signed else DataType.UINT32)

    def add(op: Op, *inputs: Value) -> Value:
        return graph.add(op, *inputs, before=node)

    operands = [add(wide, v) if v.type.dtype == dtype and i != 1 else v for i, v in enumerate(node.operand_values)]
    return add(Cast(dtype), add(node.op, *operands))


# Others --------------------------------------------------------------------------------------------------------------


def concat_in_parts(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """concat(a, b, c, ..) -> concat(concat(a, b, ..), concat(..), ..) where elements share words with their neighbours:
    such operands are not written one by one, but read by one kernel, which has so many bindings and no more."""
    op, values = node.op, node.operand_values
    assert isinstance(op, Concat)
    limit = ctx.target.limit("max-storage-buffers-per-shader-stage") - 1
    inner = math.prod(node.output.type.shape[op.axis + 1 :])
    bits = [v.type.shape[op.axis] * inner * v.type.dtype.bits for v in values]
    wide = values[0].type.dtype.bits
    if len(values) <= limit or wide >= 32 or (wide == 16 and all(b % 32 == 0 for b in bits)):
        return None
    chunks = [values[i : i + limit] for i in range(0, len(values), limit)]
    return graph.add(op, *(graph.add(op, *c, before=node) if len(c) > 1 else c[0] for c in chunks), before=node)


def whole_groups(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """Refuse a transposed convolution whose groups do not divide its channels, which has a type but no result."""
    op, (x, filter) = node.op, node.operand_values[:2]
    assert isinstance(op, ConvTranspose2d)
    op.require_whole_groups(op.geometry(x.type, filter.type))
    return None


RULES: Rules = {
    Concat: (concat_in_parts,),
    ConvTranspose2d: (whole_groups,),
    Scatter: (widen_bytes,),
    InstanceNormalization: (normalization,),
    LayerNormalization: (normalization,),
    Reduction: (reduction_of_nothing, widen_bytes),
    Pool2d: (widen_bytes,),
    reduction.ReduceLogSumExp: (reduction_of_nothing, log_sum_exp),
    BatchNormalization: (batch_norm,),
    **_quantize.RULES,
}
