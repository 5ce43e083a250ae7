"""Ops of ONNX Runtime's own domain, com.microsoft: fused forms of other ops. Attention is in `attention.py`, weights of
few bits in `quantize.py`."""

from __future__ import annotations

import math
from collections.abc import Callable

from gpucompile.errors import ModelError
from gpucompile.frontends.onnx.call import MICROSOFT, Call, Operand, onnx_op, type_of
from gpucompile.frontends.onnx.conv import convolution
from gpucompile.frontends.onnx.math import fast_gelu
from gpucompile.frontends.onnx.movement import sliced
from gpucompile.frontends.onnx.normalize import group_normalized, layer_normalized, rms_normalized
from gpucompile.ops.activation import Clamp, Elu, Gelu, HardSigmoid, LeakyRelu, Linear, Relu, Sigmoid, Softplus, Tanh
from gpucompile.ops.contraction import Gemm, Matmul
from gpucompile.ops.elementwise import Add, Mul
from gpucompile.ops.movement import Reshape, Transpose
from gpucompile.ops.softmax import Softmax


@onnx_op("Gelu", domain=MICROSOFT)
def gelu(call: Call) -> Operand:
    return call.add(Gelu(), call.operand(0))


@onnx_op("BiasGelu", domain=MICROSOFT)
def bias_gelu(call: Call) -> Operand:
    return call.add(Gelu(), call.add(Add(), call.operand(0), call.operand(1)))


@onnx_op("FastGelu", domain=MICROSOFT)
def fast_gelu_(call: Call) -> Operand:
    x = call.operand(0)
    return fast_gelu(call, call.add(Add(), x, call.operand(1)) if call.has(1) else x)


@onnx_op("QuickGelu", domain=MICROSOFT)
def quick_gelu(call: Call) -> Operand:
    """x * sigmoid(alpha * x)"""
    x = call.operand(0)
    return call.add(Mul(), x, call.add(Sigmoid(), call.add(Linear(call.attr("alpha", 1.702)), x)))


@onnx_op("BiasAdd", domain=MICROSOFT)
def bias_add(call: Call) -> Operand:
    return call.add(Add(), call.add(Add(), call.operand(0), call.operand(1)), call.operand(2))


@onnx_op("BiasSplitGelu", domain=MICROSOFT)
def bias_split_gelu(call: Call) -> Operand:
    """The first half of the channels times the gelu of the second, after the bias."""
    x = call.add(Add(), call.operand(0), call.operand(1))
    t = type_of(x)
    half = t.shape[-1] // 2
    left, right = (sliced(call, x, [slice(None)] * (t.rank - 1) + [slice(i, i + half)]) for i in (0, half))
    return call.add(Mul(), left, call.add(Gelu(), right))


@onnx_op("BiasSoftmax", domain=MICROSOFT)
def bias_softmax(call: Call) -> Operand:
    """Softmax over all axes from `axis` on, after a bias that lacks the axes before (or has ones for some)."""
    t, bias = call.type(), call.type(1)
    axis = call.axis(call.attr("axis", 1), t.rank)
    b = call.operand(1)
    if not call.attr("is_inner_broadcast", 1) and bias.rank == t.rank and bias.shape != t.shape:
        # the bias' leading axes count for the outermost of the input's
        missing = t.size // bias.size
        wide = call.add(Reshape((bias.size // math.prod(t.shape[axis:]), 1, math.prod(t.shape[axis:]))), b)
        x = call.add(Reshape((type_of(wide).shape[0], missing, math.prod(t.shape[axis:]))), call.operand(0))
    else:
        x, wide = call.operand(0), b
    x = call.add(Add(), x, wide)
    rows = call.add(Reshape((math.prod(t.shape[:axis]), math.prod(t.shape[axis:]))), x)
    return call.add(Reshape(t.shape), call.add(Softmax(1), rows))


# Activations after other ops -----------------------------------------------------------------------------------------

_ACTIVATIONS: dict[str, Callable[[Call, Operand, list[float]], Operand]] = {
    "Relu": lambda call, x, p: call.add(Relu(), x),
    "Sigmoid": lambda call, x, p: call.add(Sigmoid(), x),
    "Tanh": lambda call, x, p: call.add(Tanh(), x),
    "Softplus": lambda call, x, p: call.add(Softplus(), x),
    "LeakyRelu": lambda call, x, p: call.add(LeakyRelu(p[0] if p else 0.01), x),
    "Elu": lambda call, x, p: call.add(Elu(p[0] if p else 1.0), x),
    "Clip": lambda call, x, p: call.add(Clamp(p[0], p[1]), x),
    "HardSigmoid": lambda call, x, p: call.add(HardSigmoid(*(p or (0.2, 0.5))), x),
    "HardSwish": lambda call, x, p: call.add(Mul(), x, call.add(HardSigmoid(1 / 6, 0.5), x)),
}


def activated(call: Call, x: Operand, name: str, parameters: list[float]) -> Operand:
    """x after the activation that an attribute names; an empty name is none."""
    if not name:
        return x
    if name not in _ACTIVATIONS:
        call.unsupported(f"activation {name!r}")
    return _ACTIVATIONS[name](call, x, parameters)


@onnx_op("FusedConv", domain=MICROSOFT)
def fused_conv(call: Call) -> Operand:
    """A convolution, the sum with input 3, an activation."""
    out = convolution(call, call.operand(0), call.operand(1), call.optional(2))
    out = call.add(Add(), out, call.operand(3)) if call.has(3) else out
    return activated(call, out, call.attr("activation", ""), call.attr("activation_params", []))


@onnx_op("FusedGemm", domain=MICROSOFT)
def fused_gemm(call: Call) -> Operand:
    op = Gemm(
        call.attr("alpha", 1.0), call.attr("beta", 1.0), bool(call.attr("transA", 0)), bool(call.attr("transB", 0))
    )
    out = call.add(op, call.operand(0), call.operand(1), call.optional(2))
    names = ("activation_alpha", "activation_beta", "activation_gamma")
    parameters = [call.attr(name) for name in names if name in call.attributes]
    return activated(call, out, call.attr("activation", ""), parameters)


@onnx_op("FusedMatMul", "TransposeMatMul", domain=MICROSOFT)
def fused_matmul(call: Call) -> Operand:
    """alpha * A' B', where ' swaps the last two axes, and moves the first behind them where the batch is meant."""
    operands = []
    for i, which in enumerate("AB"):
        rank = call.type(i).rank
        order = list(range(rank))
        if call.attr(f"transBatch{which}", 0):
            order = [*range(1, rank - 1), 0, rank - 1]
        if call.attr(f"trans{which}", 0):
            order[-2:] = order[:-3:-1]
        operands.append(
            call.add(Transpose(tuple(order)), call.operand(i)) if order != list(range(rank)) else call.operand(i)
        )
    out = call.add(Matmul(), *operands)
    alpha = call.attr("alpha", 1.0)
    return out if alpha == 1.0 else call.add(Linear(alpha), out)


# Normalisations after a sum ------------------------------------------------------------------------------------------


def _summed(call: Call, bias: int) -> Operand:
    """Input, skip and an optional bias."""
    total = call.add(Add(), call.operand(0), call.operand(1))
    return call.add(Add(), total, call.operand(bias)) if call.has(bias) else total


@onnx_op("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_normalization(call: Call) -> tuple[Operand | None, ...]:
    call.attributes.setdefault("epsilon", 1e-12)
    total = _summed(call, 4)
    axis = type_of(total).rank - 1
    results = layer_normalized(call, total, axis, call.operand(2), call.optional(3), call.wanted[1:3])
    return (*results, None, None)[:3] + (total,)


@onnx_op("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_simplified_layer_normalization(call: Call) -> tuple[Operand | None, ...]:
    total = _summed(call, 3)
    y, inverse = rms_normalized(call, total, type_of(total).rank - 1, call.operand(2), call.attr("epsilon", 1e-12))
    return y, None, inverse, total


@onnx_op("GroupNorm", "SkipGroupNorm", domain=MICROSOFT)
def group_norm(call: Call) -> tuple[Operand | None, ...]:
    """Channels are last unless channels_last is 0; activation 1 is x * sigmoid(x). SkipGroupNorm adds a skip (or one
    for each channel) and a bias first, and returns that sum too."""
    x, t = call.operand(0), call.type()
    last = bool(call.attr("channels_last", 1))
    if call.node.op_type == "SkipGroupNorm":
        skip = call.operand(3)
        if type_of(skip).rank == 2:
            n, c = type_of(skip).shape
            skip = call.add(Reshape((n, 1, 1, c) if last else (n, c, 1, 1)), skip)
        x = call.add(Add(), x, skip)
        if call.has(4):
            bias = call.operand(4)
            x = call.add(Add(), x, bias if last else call.add(Reshape((t.shape[1], 1, 1)), bias))
    total = x
    front = call.add(Transpose((0, t.rank - 1, *range(1, t.rank - 1))), x) if last else x
    groups, epsilon = call.attr("groups"), call.attr("epsilon", 1e-5)
    if not groups:
        raise ModelError("the attribute groups is missing")
    gamma, beta = call.operand(1), call.operand(2)
    y = group_normalized(call, front, groups, gamma, beta, epsilon, type_of(front))
    y = call.add(Transpose((0, *range(2, t.rank), 1)), y) if last else y
    if call.attr("activation", 0):
        y = call.add(Mul(), y, call.add(Sigmoid(), y))
    return y, total
