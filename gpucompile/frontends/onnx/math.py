"""Arithmetic that is not 1:1: n-ary ops, matrix products, activations with attributes, casts, reductions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import numpy as np

from gpucompile.errors import ModelError
from gpucompile.frontends.onnx.call import BOOL, Call, Operand, onnx_op, scalar, type_of
from gpucompile.frontends.onnx.tensors import data_type
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType
from gpucompile.ops.activation import (
    Clamp,
    Elu,
    Gelu,
    HardSigmoid,
    LeakyRelu,
    Linear,
    Tanh,
)
from gpucompile.ops.contraction import Gemm, Matmul
from gpucompile.ops.elementwise import Add, Div, Exp, Max, Min, Mul, Pow, Prelu
from gpucompile.ops.logical import Cast, Greater, IsInfinite, LogicalAnd, NotEqual, Where
from gpucompile.ops.movement import Reshape
from gpucompile.ops.reduction import (
    Reduce,
    ReduceL1,
    ReduceL2,
    ReduceLogSum,
    ReduceLogSumExp,
    ReduceMax,
    ReduceMean,
    ReduceMin,
    ReduceProduct,
    ReduceSum,
    ReduceSumSquare,
)

LOWEST, HIGHEST = float(np.finfo(np.float32).min), float(np.finfo(np.float32).max)


# n-ary -------------------------------------------------------------------------------------------------------------


@onnx_op("Sum", "Max", "Min", "Mean")
def nary(call: Call) -> Operand:
    op: Op = {"Max": Max(), "Min": Min()}.get(call.node.op_type, Add())
    out = reduce(lambda a, b: call.add(op, a, b), [call.operand(i) for i in range(len(call.inputs))])
    if call.node.op_type == "Mean":
        out = call.add(Linear(1 / len(call.inputs)), out)
    return out


@onnx_op("Pow")
def pow_(call: Call) -> Operand:
    base, exponent = call.type(0).dtype, call.operand(1)
    if not base.is_float and type_of(exponent).dtype.is_float:
        # A power of floats is not exact, and what ONNX takes of it is the integer part: 9 to the 0.5 would be 2.
        powers = call.known(exponent, "exponent of floats over integers")
        if not np.array_equal(powers, np.trunc(powers)):
            call.unsupported("integers to the power of a fraction")
    if type_of(exponent).dtype != base:
        exponent = call.add(Cast(base), exponent)
    return call.add(Pow(), call.operand(0), exponent)


# matrix products ---------------------------------------------------------------------------------------------------


@onnx_op("MatMul")
def matmul(call: Call) -> Operand:
    """Vectors count as a row on the left and as a column on the right."""
    a, b = call.operand(0), call.operand(1)
    row, column = type_of(a).rank == 1, type_of(b).rank == 1
    if row:
        a = call.add(Reshape((1, *type_of(a).shape)), a)
    if column:
        b = call.add(Reshape((*type_of(b).shape, 1)), b)
    out = call.add(Matmul(), a, b)
    shape = type_of(out).shape
    shape = (*shape[:-2], *(() if row else shape[-2:-1]), *(() if column else shape[-1:]))
    return call.add(Reshape(shape), out) if row or column else out


@onnx_op("Gemm")
def gemm(call: Call) -> Operand:
    op = Gemm(
        call.attr("alpha", 1.0), call.attr("beta", 1.0), bool(call.attr("transA", 0)), bool(call.attr("transB", 0))
    )
    return call.add(op, call.operand(0), call.operand(1), call.optional(2))


# activations -------------------------------------------------------------------------------------------------------


@onnx_op("Clip")
def clip(call: Call) -> Operand:
    x = call.operand(0)
    if call.version < 11:
        bounds: list[Operand | None] = [np.array(call.attr("min", LOWEST)), np.array(call.attr("max", HIGHEST))]
    else:
        bounds = [call.optional(1), call.optional(2)]
    if all(b is None or isinstance(b, np.ndarray) for b in bounds):
        low, high = (None if b is None else np.asarray(b).reshape(-1)[0].item() for b in bounds)  # 64 bits stay whole
        low = -math.inf if low is None or low <= LOWEST else low
        high = math.inf if high is None or high >= HIGHEST else high
        if low <= high:
            return x if (low, high) == (-math.inf, math.inf) else call.add(Clamp(low, high), x)
    x = x if bounds[0] is None else call.add(Max(), x, bounds[0])
    return x if bounds[1] is None else call.add(Min(), x, bounds[1])


@onnx_op("LeakyRelu")
def leaky_relu(call: Call) -> Operand:
    return call.add(LeakyRelu(call.attr("alpha", 0.01)), call.operand(0))


@onnx_op("Elu")
def elu(call: Call) -> Operand:
    return call.add(Elu(call.attr("alpha", 1.0)), call.operand(0))


@onnx_op("PRelu")
def prelu(call: Call) -> Operand:
    """A slope that only fits as one a channel is that, as it was before opset 7."""
    t, slope = call.type(), call.operand(1)
    s = type_of(slope)
    if s.rank == 1 and t.rank > 2 and s.size == t.shape[1] and s.size not in (1, t.shape[-1]):
        slope = call.add(Reshape((s.size, *(1,) * (t.rank - 2))), slope)
    return call.add(Prelu(), call.operand(0), slope)


@onnx_op("Selu")
def selu(call: Call) -> Operand:
    alpha, gamma = call.attr("alpha", 1.6732632423543772), call.attr("gamma", 1.0507009873554805)
    return call.add(Linear(gamma), call.add(Elu(alpha), call.operand(0)))


@onnx_op("HardSigmoid")
def hard_sigmoid(call: Call) -> Operand:
    return call.add(HardSigmoid(call.attr("alpha", 0.2), call.attr("beta", 0.5)), call.operand(0))


@onnx_op("ThresholdedRelu")
def thresholded_relu(call: Call) -> Operand:
    x, dtype = call.operand(0), call.type().dtype
    above = call.add(Greater(), x, scalar(call.attr("alpha", 1.0), dtype))
    return call.add(Where(), above, x, scalar(0, dtype))


@onnx_op("Mish")
def mish(call: Call) -> Operand:
    """x * tanh(softplus(x)), which is x * n / (n + 2) with n = e^x (e^x + 2); from x = 20 on it is x."""
    x = call.operand(0)
    e = call.add(Exp(), call.add(Clamp(-math.inf, 20.0), x))
    n = call.add(Mul(), e, call.add(Linear(1.0, 2.0), e))
    return call.add(Mul(), x, call.add(Div(), n, call.add(Linear(1.0, 2.0), n)))


@onnx_op("Gelu")
def gelu(call: Call) -> Operand:
    x = call.operand(0)
    if call.attr("approximate", "none") != "tanh":
        return call.add(Gelu(), x)
    return fast_gelu(call, x)


def fast_gelu(call: Call, x: Operand) -> Operand:
    """x/2 * (1 + tanh(sqrt(2/pi) * x * (1 + 0.044715 x^2)))"""
    root = math.sqrt(2 / math.pi)
    cubic = call.add(Mul(), x, call.add(Linear(0.044715 * root, root), call.add(Mul(), x, x)))
    return call.add(Mul(), call.add(Linear(0.5, 0.5), call.add(Tanh(), cubic)), x)


# casts and comparisons ---------------------------------------------------------------------------------------------


@onnx_op("Cast", "CastLike")
def cast(call: Call) -> Operand:
    """To bool: whether it is not 0. Floats become 4-bit integers by way of int32, of which the last bits stay."""
    x, dtype = call.operand(0), call.type().dtype
    if call.node.op_type == "CastLike":
        truth, to = call.builder.element(call.operand(1)) == BOOL, call.type(1).dtype
    else:
        element = call.attr("to", 0)
        truth, to = element == BOOL, data_type(element, "the result")
    if truth:
        return call.add(NotEqual(), x, scalar(0, dtype))
    if dtype.is_float and to.bits == 4:
        x, dtype = call.add(Cast(DataType.INT32), x), DataType.INT32
    return x if dtype == to else call.add(Cast(to), x)


@onnx_op("IsInf")
def is_infinite(call: Call) -> Operand:
    x, dtype = call.operand(0), call.type().dtype
    infinite = call.add(IsInfinite(), x)
    positive, negative = call.attr("detect_positive", 1), call.attr("detect_negative", 1)
    if positive and negative:
        return infinite
    zero = scalar(0, dtype)
    sign = call.add(Greater(), x, zero) if positive else call.add(Greater(), zero, x)
    return call.add(LogicalAnd(), infinite, sign) if positive or negative else call.add(LogicalAnd(), infinite, _no())


def _no() -> np.ndarray:
    return scalar(0, DataType.UINT8)


# reductions --------------------------------------------------------------------------------------------------------

_REDUCTIONS: dict[str, Callable[..., Reduce]] = {
    "ReduceL1": ReduceL1,
    "ReduceL2": ReduceL2,
    "ReduceLogSum": ReduceLogSum,
    "ReduceLogSumExp": ReduceLogSumExp,
    "ReduceMax": ReduceMax,
    "ReduceMean": ReduceMean,
    "ReduceMin": ReduceMin,
    "ReduceProd": ReduceProduct,
    "ReduceSum": ReduceSum,
    "ReduceSumSquare": ReduceSumSquare,
}


@onnx_op(*_REDUCTIONS)
def reduction(call: Call) -> Operand:
    """Axes are an attribute, and an input since opset 18 (ReduceSum: 13)."""
    t = call.type()
    kind = call.node.op_type
    axes = call.ints(1, "axes") if call.version >= (13 if kind == "ReduceSum" else 18) else call.attr("axes")
    if not axes and call.attr("noop_with_empty_axes", 0):
        # the function still applies to each element, except where opset 18 says the input is returned
        return call.operand(0)
    chosen = tuple(sorted(call.axis(a, t.rank) for a in axes)) if axes else None
    if chosen is not None and len(set(chosen)) != len(chosen):
        raise ModelError(f"axes {axes} are not distinct")
    if not t.size:
        return _of_nothing(call, kind, chosen)
    return call.add(_REDUCTIONS[kind](chosen, bool(call.attr("keepdims", 1))), call.operand(0))


def _of_nothing(call: Call, kind: str, axes: tuple[int, ...] | None) -> Operand:
    """What a reduction of a tensor without elements yields."""
    t = call.type()
    (out,) = ReduceSum(axes, bool(call.attr("keepdims", 1))).infer(t)
    lowest, highest = -math.inf, math.inf
    if not t.dtype.is_float:
        info = np.iinfo(t.dtype.value)
        lowest, highest = info.min, 1 if call.builder.element(call.operand(0)) == BOOL else info.max
    value = {"ReduceMax": lowest, "ReduceMin": highest, "ReduceProd": 1, "ReduceMean": math.nan}.get(kind, 0)
    value = -math.inf if kind in ("ReduceLogSum", "ReduceLogSumExp") else value
    call.limit(*out.shape)
    return np.full(out.shape, value, t.dtype.numpy)
