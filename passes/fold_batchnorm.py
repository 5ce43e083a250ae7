"""Batch normalisation, and every other per-channel affine map, into the weights before it.

    affine          batch_normalization(x, constants), x * c, x + c, x - c, x / c, linear(x): x * scale + shift, where
                    scale and shift vary along one axis at most
    chains          affine(affine(x)) -> one scale and shift, if the value between has no other use
    conv2d, gemm    affine(conv2d(x, W, b)) -> conv2d(x, W * scale, b * scale + shift), same for gemm's columns
    otherwise       -> x * scale + shift: one mul and one add, without those that do nothing; in float32 for float16,
                    with casts around them, as rounded scales and shifts would err more than the ops they replace

Scales and shifts are combined in float64 and rounded once. Weights must be constant and the product used only here.
Linear time and one copy of the weights, whatever the length of the chain.

A batch normalisation with statistics that are not constant stays; `legalize` takes it apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gpucompile.ir.graph import Graph, Node, Value, constant_of
from gpucompile.ir.types import DataType
from gpucompile.ops.activation import Linear
from gpucompile.ops.contraction import Gemm
from gpucompile.ops.conv import Conv2d
from gpucompile.ops.elementwise import Add, Div, Mul, Sub
from gpucompile.ops.logical import Cast
from gpucompile.ops.normalize import BatchNormalization
from gpucompile.passes._rewrite import erase, only_user
from gpucompile.passmanager.base import Context, Pass


@dataclass(frozen=True)
class FoldBatchnorm(Pass):
    """batch_normalization(conv2d(x, W, b)) -> conv2d(x, W', b'); elsewhere -> x * scale + shift"""

    def run(self, graph: Graph, ctx: Context) -> bool:
        changed = False
        with np.errstate(all="ignore"):  # odd statistics give NaN and infinity, as they would in the op
            for node in graph.nodes:
                step = affine(node, ctx)
                if step is not None and not _continues(step):
                    changed |= _fold(graph, step, ctx)
        return changed


@dataclass(frozen=True)
class Affine:
    """`output` of the nodes = x * scale + shift, both float64: [channels] along `axis` of x, or [1] with axis None."""

    nodes: tuple[Node, ...]
    x: Value
    axis: int | None
    scale: np.ndarray
    shift: np.ndarray

    @property
    def output(self) -> Value:
        return self.nodes[-1].output

    def then(self, later: Affine) -> Affine:
        """This map and `later` on its result."""
        axis = self.axis if later.axis is None else later.axis
        shift = self.shift * later.scale + later.shift
        return Affine((*self.nodes, *later.nodes), self.x, axis, self.scale * later.scale, shift)

    def joins(self, later: Affine) -> bool:
        return None in (self.axis, later.axis) or self.axis == later.axis


# What is affine ------------------------------------------------------------------------------------------------------


def affine(node: Node, ctx: Context) -> Affine | None:
    """The node as an affine map of its operand that is not constant, or None."""
    op = node.op
    if isinstance(op, BatchNormalization):
        return _batchnorm(node, op, ctx)
    if isinstance(op, Linear):
        (x,) = node.operand_values
        return Affine((node,), x, None, np.full(1, op.alpha), np.full(1, op.beta))
    if not isinstance(op, Add | Sub | Mul | Div):
        return None
    x, c = node.operand_values
    if x.constant is not None and isinstance(op, Add | Mul):
        x, c = c, x
    if c.constant is None or x.constant is not None or x.type != node.output.type or not x.type.dtype.is_float:
        return None
    axes = [i + x.type.rank - c.type.rank for i, d in enumerate(c.type.shape) if d != 1]
    if len(axes) > 1:
        ctx.remark(node, f"its constant varies along {len(axes)} axes")
        return None
    value = c.constant.astype(np.float64).reshape(-1)
    axis = axes[0] if axes else None
    zero, one = np.zeros(1), np.ones(1)
    scale = value if isinstance(op, Mul) else 1 / value if isinstance(op, Div) else one
    shift = value if isinstance(op, Add) else -value if isinstance(op, Sub) else zero
    if not np.all(np.isfinite(scale)):
        return None
    return Affine((node,), x, axis, scale, shift)


def _batchnorm(node: Node, op: BatchNormalization, ctx: Context) -> Affine | None:
    x, mean, variance, scale, bias = (*node.inputs, None, None)[:5]
    assert x is not None
    if any(v is not None and v.constant is None for v in (mean, variance, scale, bias)):
        ctx.remark(node, "its statistics are not constant")
        return None
    m, v, s, b = (None if c is None else c.astype(np.float64) for c in map(constant_of, (mean, variance, scale, bias)))
    assert m is not None and v is not None
    factor = (1 if s is None else s) / np.sqrt(v + op.epsilon)
    return Affine((node,), x, op.axis if factor.size > 1 else None, factor, (0 if b is None else b) - m * factor)


def _continues(step: Affine) -> bool:
    """Whether its only user is affine too, so that the chain ends further down."""
    user = only_user(step.output)
    return user is not None and affine(user, Context()) is not None


# Folding -------------------------------------------------------------------------------------------------------------


def _fold(graph: Graph, last: Affine, ctx: Context) -> bool:
    """Fold the chain that ends with `last`; whether anything changed."""
    steps = [last]
    while True:
        before = steps[0].x
        step = affine(before.producer, ctx) if before.producer and only_user(before) else None
        if step is None:
            break
        steps.insert(0, step)
    chains = [steps[0]]
    for step in steps[1:]:
        if chains[-1].joins(step):
            chains[-1] = chains[-1].then(step)
        else:
            chains.append(step)
    changed = False
    for chain in reversed(chains):  # a later chain reads the result of an earlier one, so it goes first
        changed |= _into_product(graph, chain, ctx) or _as_mul_add(graph, chain, ctx)
    return changed


def _into_product(graph: Graph, chain: Affine, ctx: Context) -> bool:
    """Fold into the weights and the bias of the conv2d or gemm that made x."""
    product = chain.x.producer
    if product is None or not isinstance(product.op, Conv2d | Gemm):
        return False
    op: Conv2d | Gemm = product.op
    if isinstance(op, Conv2d):
        channels, weight_axis, beta = op.input_layout.index("c"), op.filter_layout.index("o"), 1.0
    else:
        channels, weight_axis, beta = 1, 0 if op.b_transpose else 1, op.beta
    x, w, bias = (*product.inputs, None)[:3]
    assert w is not None
    if chain.axis not in (None, channels):
        ctx.remark(chain.nodes[0], f"it scales axis {chain.axis} of the {op.name} before it, not its channels")
    elif only_user(chain.x) is None:
        ctx.remark(chain.nodes[0], f"the result of the {op.name} before it is used elsewhere too")
    elif w.constant is None and np.any(chain.scale != 1):
        ctx.remark(chain.nodes[0], f"the weights of the {op.name} before it are not constant")
    elif bias is not None and bias.constant is None:
        ctx.remark(chain.nodes[0], f"the bias of the {op.name} before it is not constant")
    else:
        last = chain.nodes[-1]
        if np.any(chain.scale != 1):
            assert w.constant is not None
            w = graph.constant(scaled(w.constant, chain.scale, weight_axis), before=last, name=w.name)
        old = constant_of(bias)
        b = chain.shift if old is None else old.astype(np.float64) * beta * chain.scale + chain.shift
        new_bias = None
        if bias is not None or np.any(b != 0):
            if isinstance(op, Conv2d):
                b = np.broadcast_to(b, w.type.shape[weight_axis])
            new_bias = graph.constant(np.asarray(b, w.type.dtype.numpy), before=last, name=bias.name if bias else "")
        new_op = replace(op, beta=1.0) if isinstance(op, Gemm) else op
        value = graph.add(new_op, x, w, *([] if new_bias is None else [new_bias]), before=last)
        ctx.count(f"into {op.name}", len(chain.nodes))
        return _replace(graph, chain, value)
    return False


def scaled(weights: np.ndarray, scale: np.ndarray, axis: int) -> np.ndarray:
    """weights * scale along `axis`, multiplied in float64 and rounded once, without a float64 copy of the weights."""
    factor = scale.reshape([-1 if i == axis else 1 for i in range(weights.ndim)])
    out = np.empty(weights.shape, weights.dtype)
    np.multiply(weights, factor, out=out, dtype=np.float64, casting="same_kind")
    return out


def _as_mul_add(graph: Graph, chain: Affine, ctx: Context) -> bool:
    """x * scale + shift with one mul and one add at most; not if that is what stands there already."""
    factors = [(Mul(), chain.scale, 1.0), (Add(), chain.shift, 0.0)]
    needed = [(op, values) for op, values, neutral in factors if np.any(values != neutral)]
    normalises = any(isinstance(n.op, BatchNormalization) for n in chain.nodes)
    if not normalises and len(needed) >= len(chain.nodes):
        return False
    value, last = chain.x, chain.nodes[-1]
    half = value.type.dtype is DataType.FLOAT16
    if half and needed:
        value = graph.add(Cast(DataType.FLOAT32), value, before=last)
    for op, values in needed:
        shape = (values.size, *(1,) * (value.type.rank - (chain.axis or 0) - 1)) if values.size > 1 else ()
        constant = np.asarray(values, value.type.dtype.numpy).reshape(shape)
        value = graph.add(op, value, graph.constant(constant, before=last), before=last)
    if half and needed:
        value = graph.add(Cast(DataType.FLOAT16), value, before=last)
    ctx.count("mul and add", len(chain.nodes))
    return _replace(graph, chain, value)


def _replace(graph: Graph, chain: Affine, value: Value) -> bool:
    last = chain.nodes[-1]
    operands = last.operand_values
    graph.replace(last, value)
    erase(graph, operands)
    return True
