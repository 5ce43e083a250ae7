"""Elementwise ops without an op of their own: Mod, bits, activations of newer opsets."""

from __future__ import annotations

import numpy as np

from gpucompile.errors import ModelError
from gpucompile.frontends.onnx.call import Call, Operand, onnx_op, scalar, type_of
from gpucompile.frontends.onnx.gather import one_hot
from gpucompile.ir.types import DataType
from gpucompile.ops.activation import Elu, Linear, Sigmoid
from gpucompile.ops.bitwise import BitwiseXor, ShiftLeft, ShiftRight
from gpucompile.ops.elementwise import Abs, Add, Div, Floor, Mul, Sign, Sub
from gpucompile.ops.logical import Cast, Greater, IsInfinite, Lesser, LogicalAnd, NotEqual, Where
from gpucompile.ops.movement import Reshape
from gpucompile.ops.scan import ArgMax


@onnx_op("Mod")
def mod(call: Call) -> Operand:
    """a - trunc(a / b) * b has the sign of a (fmod); where that is not b's sign, b is added."""
    a, b, dtype = call.operand(0), call.operand(1), call.type().dtype
    whole = call.add(Div(), a, b)
    if dtype.is_float:
        whole = call.add(Mul(), call.add(Sign(), whole), call.add(Floor(), call.add(Abs(), whole)))
    rest = call.add(Sub(), a, call.add(Mul(), whole, b))
    if dtype.is_float:  # what infinity leaves of a is a, and of infinity NaN
        finite = call.add(Add(), a, call.add(Mul(), a, scalar(0, dtype)))
        rest = call.add(Where(), call.add(IsInfinite(), b), finite, rest)
    if call.attr("fmod", 0) or not dtype.is_signed:
        return rest
    zero = scalar(0, dtype)
    differ = call.add(NotEqual(), call.add(Lesser(), rest, zero), call.add(Lesser(), b, zero))
    wrong = call.add(LogicalAnd(), call.add(NotEqual(), rest, zero), differ)
    return call.add(Where(), wrong, call.add(Add(), rest, b), rest)


@onnx_op("BitwiseNot")
def bitwise_not(call: Call) -> Operand:
    dtype = call.type().dtype
    ones = np.array(-1 if dtype.is_signed else 2**dtype.bits - 1, dtype.numpy)
    return call.add(BitwiseXor(), call.operand(0), ones)


@onnx_op("BitShift")
def bit_shift(call: Call) -> Operand:
    """Bytes are shifted as words, and cut off again."""
    dtype, a, b = call.type().dtype, call.operand(0), call.operand(1)
    direction = call.attr("direction")
    if direction not in ("LEFT", "RIGHT"):
        raise ModelError(f"unknown direction {direction!r}")
    op = ShiftLeft() if direction == "LEFT" else ShiftRight()
    if dtype.bits > 8:
        return call.add(op, a, b)
    word = Cast(DataType.INT32 if dtype.is_signed else DataType.UINT32)
    return call.add(Cast(dtype), call.add(op, call.add(word, a), call.add(word, b)))


@onnx_op("Celu")
def celu(call: Call) -> Operand:
    """alpha * elu(x / alpha)"""
    alpha = call.attr("alpha", 1.0)
    return call.add(Linear(alpha), call.add(Elu(), call.add(Linear(1 / alpha), call.operand(0))))


@onnx_op("Shrink")
def shrink(call: Call) -> Operand:
    """x + bias below -lambd, x - bias above lambd, 0 between"""
    x, dtype = call.operand(0), call.type().dtype
    bias, limit = call.attr("bias", 0.0), call.attr("lambd", 0.5)
    low, high = (scalar(v, dtype) for v in (-limit, limit))
    offset = scalar(bias, dtype)
    above = call.add(Where(), call.add(Greater(), x, high), call.add(Sub(), x, offset), scalar(0, dtype))
    return call.add(Where(), call.add(Lesser(), x, low), call.add(Add(), x, offset), above)


@onnx_op("Swish")
def swish(call: Call) -> Operand:
    """x * sigmoid(alpha * x)"""
    x, alpha = call.operand(0), call.attr("alpha", 1.0)
    inside = x if alpha == 1.0 else call.add(Linear(alpha), x)
    return call.add(Mul(), x, call.add(Sigmoid(), inside))


@onnx_op("Hardmax")
def hardmax(call: Call) -> Operand:
    """1 at the first largest element of each line, else 0; before opset 13 all axes from `axis` on are one line."""
    t, x = call.type(), call.operand(0)
    axis = call.axis(call.attr("axis", -1 if call.version >= 13 else 1), t.rank)
    if call.version < 13:
        x = call.add(Reshape((int(np.prod(t.shape[:axis])), int(np.prod(t.shape[axis:])))), x)
        axis = 1
    index = call.add(ArgMax(axis), x)
    out = one_hot(call, index, type_of(x).shape[axis], axis, scalar(0, t.dtype), scalar(1, t.dtype))
    return call.add(Reshape(t.shape), out)
