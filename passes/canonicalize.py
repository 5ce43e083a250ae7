"""Canonicalisation: one normal form for what can be written in several ways, so that later passes match one pattern.

    nothing to do     identity(x), cast(x) to its type, reshape / expand to its shape, transpose(x, 0..n), pad by 0,
                      slice of everything, concat(x), x + 0, x - 0, x * 1, x / 1, clamp(x, -inf, inf)     -> x
    elementwise       clamp(x, 0, inf) -> relu(x); relu(relu(x)) -> relu(x); relu(clamp(x, a >= 0, b)) -> clamp(x, a, b)
                      c + x -> x + c (add, mul, max, min); x - c -> x + (-c); x / c -> x * (1/c) where c is a power of 2
                      f(expand(x), y) -> f(x, y); constant operands lose their leading axes of extent 1
    products          matmul(a, b) of matrices -> gemm(a, b)
                      matmul(a, b[K,N]) -> reshape(gemm(reshape(a), b))
                      gemm(a, b) + c -> gemm(a, b, c), also through a reshape that keeps the columns
                      alpha, beta -> into constant b and c
    pooling           a window over the whole input: average -> reduce_mean, max -> reduce_max, l2 -> reduce_l2
    padding           conv2d(pad(x, 0)) -> conv2d(x) with more padding; not for pooling, which does not count padding

All exact but for two: alpha and beta round once more, and `x + 0 -> x` leaves -0.0 where -0.0 + 0.0 is 0.0.
Linear time: every rule looks at a node and its operands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gpucompile.errors import TypeInferenceError
from gpucompile.ir.graph import Graph, Literal, Node, Value
from gpucompile.ir.op import MaybeType, Op
from gpucompile.ops import conv, elementwise, movement, pool, reduction
from gpucompile.ops.activation import Clamp, Relu
from gpucompile.ops.categories import Elementwise, Reduction
from gpucompile.ops.contraction import Gemm, Matmul
from gpucompile.ops.logical import Cast
from gpucompile.passes._rewrite import Rules, only_user, rewrite
from gpucompile.passmanager.base import Context, Pass


@dataclass(frozen=True)
class Canonicalize(Pass):
    """one normal form: no-ops removed, constants on the right, matmul + bias -> gemm, global pooling -> reduction"""

    def run(self, graph: Graph, ctx: Context) -> bool:
        return rewrite(graph, RULES, ctx)


# Nothing to do -------------------------------------------------------------------------------------------------------


def drop_no_op(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """identity, and any cast or movement of one operand that keeps the type -> its operand"""
    (x, *others) = node.operand_values
    if others or x.type != node.output.type:
        return None
    if isinstance(node.op, movement.Transpose):
        return x if node.op.permutation == tuple(range(x.type.rank)) else None
    return x


NEUTRAL: dict[type[Op], float] = {elementwise.Add: 0, elementwise.Sub: 0, elementwise.Mul: 1, elementwise.Div: 1}


def drop_neutral(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """x + 0, x - 0, x * 1, x / 1 -> x"""
    x, c = node.operand_values
    if c.constant is None or x.type != node.output.type or not np.all(c.constant == NEUTRAL[type(node.op)]):
        return None
    return x


# Elementwise ---------------------------------------------------------------------------------------------------------


def simplify_clamp(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """clamp(x, -inf, inf) -> x; clamp(x, 0, inf) -> relu(x), which is x where there are no negative numbers"""
    op, (x,) = node.op, node.operand_values
    assert isinstance(op, Clamp)
    if op.max_value < math.inf:
        return None
    if op.min_value == -math.inf or (op.min_value <= 0 and not x.type.dtype.is_signed):
        return x
    return graph.add(Relu(), x, before=node) if op.min_value == 0 else None


def simplify_relu(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """relu(relu(x)) -> relu(x); relu(clamp(x, a >= 0, b)) -> clamp(x, a, b)"""
    (x,) = node.operand_values
    inner = x.op
    if isinstance(inner, Relu) or (isinstance(inner, Clamp) and inner.min_value >= 0):
        return x
    return None


def constant_to_the_right(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """c + x -> x + c"""
    a, b = node.operand_values
    if a.constant is None or b.constant is not None:
        return None
    return graph.add(node.op, b, a, before=node)


def subtract_constant(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """x - c -> x + (-c), for floats: the same bits"""
    x, c = node.operand_values
    if c.constant is None or not c.type.dtype.is_float:
        return None
    return graph.add(elementwise.Add(), x, graph.constant(-c.constant, before=node), before=node)


def divide_by_power_of_two(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """x / c -> x * (1/c) where every c is a power of two, so that nothing is rounded"""
    x, c = node.operand_values
    if c.constant is None or not c.type.dtype.is_float:
        return None
    with np.errstate(all="ignore"):
        inverse = np.asarray(1 / c.constant, c.constant.dtype)
    normal = np.isfinite(inverse) & (np.abs(inverse) >= np.finfo(inverse.dtype).tiny)
    if not np.all(normal & (np.abs(np.frexp(c.constant)[0]) == 0.5)):
        ctx.remark(node, "the divisor is no power of two: multiplying by its inverse would round differently")
        return None
    return graph.add(elementwise.Mul(), x, graph.constant(inverse, before=node), before=node)


def shrink_operands(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """f(expand(x), y) -> f(x, y), f(c[1,3], y[2,3]) -> f(c[3], y), where the result keeps its type"""
    inputs = list(node.inputs)
    types = list(node.input_types)
    changed = False
    for i, v in enumerate(inputs):
        if v is None:
            continue
        shape = v.type.shape
        if isinstance(v.op, movement.Expand) and v.producer:
            source = v.producer.inputs[0]
            types[i] = None if source is None else source.type
            if _keeps_types(node, types):
                inputs[i], changed = source, True
                continue
        elif v.constant is not None and shape and shape[0] == 1:
            lead = next((i for i, d in enumerate(shape) if d != 1), len(shape))
            types[i] = v.type.with_shape(shape[lead:])
            if _keeps_types(node, types):
                literal = Literal(v.constant.reshape(shape[lead:]), types[i])
                inputs[i] = graph.constant(literal, before=node, name=v.name)
                changed = True
                continue
        types[i] = v.type
    return graph.add(node.op, *inputs, before=node) if changed else None


def _keeps_types(node: Node, types: Sequence[MaybeType]) -> bool:
    try:
        return node.op.result_types(*types) == tuple(v.type for v in node.outputs)
    except TypeInferenceError:
        return False


# Products ------------------------------------------------------------------------------------------------------------


def matmul_to_gemm(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """matmul(a, b[K,N]) -> gemm(a, b), the leading axes of a flattened into its rows"""
    a, b = node.operand_values
    k, n = b.type.shape[-2:]
    if math.prod(b.type.shape[:-2]) != 1 or b.type.rank > a.type.rank:
        ctx.remark(node, "b has leading axes: this stays a batched product")
        return None
    if b.type.rank > 2:
        b = graph.add(movement.Reshape((k, n)), b, before=node)
    if a.type.rank > 2:
        a = graph.add(movement.Reshape((a.type.size // k, k)), a, before=node)
    out = graph.add(Gemm(), a, b, before=node, name=node.output.name)
    shape = node.output.type.shape
    return out if out.type.shape == shape else graph.add(movement.Reshape(shape), out, before=node)


def bias_into_gemm(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """gemm(a, b) + c -> gemm(a, b, c); reshape(gemm(a, b)) + c -> reshape(gemm(a, b, c)) where the columns stay"""
    x, c = node.operand_values
    product = x
    if isinstance(x.op, movement.Reshape) and x.producer and x.producer.inputs[0]:
        product = x.producer.inputs[0]
        if c.type.rank > 1 or not x.type.shape or x.type.shape[-1:] != product.type.shape[-1:]:
            return None
    if not isinstance(product.op, Gemm) or c.constant is None or x.type != node.output.type:
        return None
    assert product.producer is not None
    a, b, *bias = product.producer.inputs
    if any(bias):
        ctx.remark(node, "the gemm has a bias already")
        return None
    if only_user(x) is None or only_user(product) is None:
        ctx.remark(node, "the product without the bias is used elsewhere")
        return None
    out = graph.add(replace(product.op, beta=1.0), a, b, c, before=node)
    return out if x is product else graph.add(movement.Reshape(x.type.shape), out, before=node)


def fold_gemm_factors(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """alpha into a constant b that nobody else reads, beta into a constant c; c with beta 0 disappears"""
    op = node.op
    assert isinstance(op, Gemm)
    a, b, c = (*node.inputs, None)[:3]
    assert b is not None
    if c is None or op.beta == 0:
        c, op = None, replace(op, beta=1.0)
    if op.beta != 1 and c is not None and c.constant is not None:
        c = graph.constant(_scaled(c.constant, op.beta), before=node, name=c.name)
        op = replace(op, beta=1.0)
    if op.alpha != 1 and b.constant is not None and only_user(b) is node:
        b = graph.constant(_scaled(b.constant, op.alpha), before=node, name=b.name)
        op = replace(op, alpha=1.0)
    if op == node.op:
        return None
    return graph.add(op, a, b, *([] if c is None else [c]), before=node)


def _scaled(array: np.ndarray, factor: float) -> np.ndarray:
    out = np.empty(array.shape, array.dtype)
    np.multiply(array, factor, out=out, dtype=np.float64, casting="same_kind")
    return out


# Pooling and padding -------------------------------------------------------------------------------------------------

GLOBAL: dict[type[Op], type[Reduction]] = {
    pool.AveragePool2d: reduction.ReduceMean,
    pool.MaxPool2d: reduction.ReduceMax,
    pool.L2Pool2d: reduction.ReduceL2,
}


def global_pool_to_reduction(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """one window over the whole input -> a reduction over the spatial axes"""
    op, (x,) = node.op, node.operand_values
    assert isinstance(op, pool.Pool2d)
    g = op.geometry(x.type)
    (top, _, left, _) = op.padding
    if (g.oh, g.ow) != (1, 1) or g.kh - top < g.h or g.kw - left < g.w:
        return None
    if op.dilations != (1, 1):
        ctx.remark(node, "a dilated window skips elements")
        return None
    axes = (op.layout.index("h"), op.layout.index("w"))
    return graph.add(GLOBAL[type(op)](axes, keep_dimensions=True), x, before=node)


def pad_into_conv(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """conv2d(pad(x, 0)) -> conv2d(x) with more padding"""
    op, (x, *others) = node.op, node.inputs
    assert isinstance(op, conv.Conv2d) and x is not None
    pad = x.op
    if not isinstance(pad, movement.Pad) or x.producer is None:
        return None
    if pad.mode != "constant" or pad.value != 0:
        ctx.remark(node, "its input is padded with something other than zeros")
        return None
    h, w = op.input_layout.index("h"), op.input_layout.index("w")
    if any(pad.beginning[i] or pad.ending[i] for i in range(4) if i not in (h, w)):
        ctx.remark(node, "its input is padded on the batch or channel axis")
        return None
    top, bottom, left, right = op.padding
    more = (top + pad.beginning[h], bottom + pad.ending[h], left + pad.beginning[w], right + pad.ending[w])
    return graph.add(replace(op, padding=more), x.producer.inputs[0], *others, before=node)


RULES: Rules = {
    **{cls: (drop_no_op,) for cls in (elementwise.Identity, Cast, movement.Reshape, movement.Transpose)},
    **{cls: (drop_no_op,) for cls in (movement.Slice, movement.Pad, movement.Expand, movement.Concat)},
    Elementwise: (shrink_operands,),
    Clamp: (simplify_clamp,),
    Relu: (simplify_relu,),
    elementwise.Add: (constant_to_the_right, drop_neutral, bias_into_gemm),
    elementwise.Mul: (constant_to_the_right, drop_neutral),
    elementwise.Max: (constant_to_the_right,),
    elementwise.Min: (constant_to_the_right,),
    elementwise.Sub: (drop_neutral, subtract_constant),
    elementwise.Div: (drop_neutral, divide_by_power_of_two),
    Matmul: (matmul_to_gemm,),
    Gemm: (fold_gemm_factors,),
    conv.Conv2d: (pad_into_conv,),
    pool.Pool2d: (global_pool_to_reduction,),
}
