"""Other sources of elementwise ops, reductions, scans and movement."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
from onnx import helper

from gpucompile.ir.literals import limits
from gpucompile.ir.op import Op
from tests.generate.reference import SOURCES, Array, each, evaluate, source, wrapped

# Elementwise ---------------------------------------------------------------------------------------------------------

for _name, _onnx in {
    "max": "Max",
    "min": "Min",
    "is_infinite": "IsInf",
    "gelu": "Gelu",
    "prelu": "PRelu",
    "matmul": "MatMul",
}.items():
    SOURCES[_name] = lambda op, *ins, onnx=_onnx: evaluate(onnx, *ins)
for _name, _onnx in {"elu": "Elu", "hard_sigmoid": "HardSigmoid", "leaky_relu": "LeakyRelu"}.items():
    SOURCES[_name] = lambda op, x, onnx=_onnx: evaluate(onnx, x, **op.attributes())
for _name, _onnx in {"logical_and": "And", "logical_or": "Or", "logical_xor": "Xor", "logical_not": "Not"}.items():
    SOURCES[_name] = lambda op, *ins, onnx=_onnx: evaluate(onnx, *(np.asarray(x != 0) for x in ins))


@source("add", "sub", "mul")
def arithmetic(op: Op, a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return evaluate(str(type(op).onnx), a, b)
    function = {"add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y}[op.name]
    return wrapped(each(function, a, b), a.dtype)


@source("div")
def div(op: Op, a: Array, b: Array) -> Array:
    """onnx.reference rounds integers down, ONNX and WebNN toward zero; x / 0 is x on GPUs."""
    if a.dtype.kind == "f":
        return evaluate("Div", a, b)
    return wrapped(each(lambda x, y: x if y == 0 else abs(x) // abs(y) * (1 if x * y > 0 else -1), a, b), a.dtype)


@source("pow")
def power(op: Op, a: Array, b: Array) -> Array:
    """Whole numbers by Fraction, rounded toward zero; 0 to a negative power is 0 here."""
    if a.dtype.kind == "f":
        return evaluate("Pow", a, b)
    bits = a.dtype.itemsize * 8

    def one(x: int, y: int) -> int:
        return pow(x, y, 1 << bits) if y >= 0 else 0 if x == 0 else math.trunc(Fraction(1, x) ** min(-y, 2 - y % 2))

    return wrapped(each(one, a, b), a.dtype)


@source("shift_left", "shift_right")
def shift(op: Op, a: Array, b: Array) -> Array:
    """By the second operand taken as unsigned; Python's numbers have as many bits as it takes."""
    bits = a.dtype.itemsize * 8
    left = op.name == "shift_left"

    def one(x: int, y: int) -> int:
        count = min(y % (1 << bits), bits)
        return x << count if left else x >> count

    return wrapped(each(one, a, b), a.dtype)


@source("word_of")
def word_of(op: Op, x: Array) -> Array:
    return wrapped(each(lambda v: v >> 32 if op.attributes()["high"] else v, x), np.dtype(np.int32))


@source("join_words")
def join_words(op: Op, low: Array, high: Array) -> Array:
    return wrapped(each(lambda x, y: x % 2**32 + (y << 32), low, high), op.attributes()["to"].numpy)


@source("not_equal")
def not_equal(op: Op, a: Array, b: Array) -> Array:
    return ~evaluate("Equal", a, b)


@source("clamp")
def clamp(op: Any, x: Array) -> Array:
    """Bounds are numbers of the operand's type: whole ones for integers, nearest to what it can hold."""
    bounds = [op.min_value, op.max_value]
    if x.dtype.kind != "f":
        low, high = int(np.iinfo(x.dtype).min), int(np.iinfo(x.dtype).max)
        bounds = [int(min(max(v, low), high)) for v in bounds]
    return evaluate("Clip", x, *(np.array(v, x.dtype) for v in bounds))


@source("linear")
def linear(op: Any, x: Array) -> Array:
    return evaluate("Add", evaluate("Mul", x, np.array(op.alpha)), np.array(op.beta))


@source("round_float16")
def round_float16(op: Op, x: Array) -> Array:
    return evaluate("Cast", evaluate("Cast", x, to=onnx.TensorProto.FLOAT16), to=onnx.TensorProto.FLOAT)


@source("softsign")
def softsign(op: Op, x: Array) -> Array:
    """onnx.reference fails for scalars."""
    return evaluate("Softsign", x.reshape(-1)).reshape(x.shape)


@source("where")
def where(op: Op, condition: Array, a: Array, b: Array) -> Array:
    return evaluate("Where", np.asarray(condition != 0), a, b)


@source("cast")
def cast(op: Any, x: Array) -> Array:
    """ONNX leaves floats beyond a type's range open; WebNN saturates them."""
    if op.to.is_float:
        return evaluate("Cast", x, to=helper.np_dtype_to_tensor_dtype(op.to.numpy))
    low, high = (int(v) for v in limits(op.to))
    if x.dtype.kind == "f":
        return each(lambda v: min(max(math.trunc(v), low), high), x)
    return each(lambda v: (v - low) % (high - low + 1) + low, x)


# Reductions and scans ------------------------------------------------------------------------------------------------


@source(*("reduce_" + n for n in ("sum", "mean", "max", "min", "product", "l1", "l2")))
@source("reduce_sum_square", "reduce_log_sum", "reduce_log_sum_exp")
def reduce(op: Any, x: Array) -> Array:
    """Always with an axis of 1 more: without axes, ONNX ops return their operand as it is, WebNN's |x|, x^2 and so on.
    Sums of integers in Python's, which know no overflow."""
    axes = list(range(x.ndim)) if op.axes is None else list(op.axes)
    kept = [d for i, d in enumerate(x.shape) if i not in axes]
    shape = [1 if i in axes else d for i, d in enumerate(x.shape)] if op.keep_dimensions else kept
    rows = x.transpose([i for i in range(x.ndim) if i not in axes] + axes).reshape(math.prod(kept), -1)
    if x.dtype.kind != "f" and op.name not in ("reduce_max", "reduce_min"):
        element = {"reduce_l1": abs, "reduce_sum_square": lambda v: v * v}.get(op.name, lambda v: v)
        total = math.prod if op.name == "reduce_product" else sum
        sums = [total(element(v) for v in row) for row in rows.tolist()]
        return wrapped(np.array(sums, object), x.dtype).reshape(shape)
    name = "".join(part.capitalize() for part in op.name.split("_")).replace("Product", "Prod")
    return evaluate(name, rows, [1], keepdims=0).reshape(shape)


@source("arg_max", "arg_min")
def arg_min_max(op: Any, x: Array) -> Array:
    return evaluate({"arg_max": "ArgMax", "arg_min": "ArgMin"}[op.name], x, axis=op.axis, keepdims=op.keep_dimensions)


@source("cumulative_sum")
def cumulative_sum(op: Any, x: Array) -> Array:
    axis = np.array(op.axis)
    return evaluate("CumSum", x, axis, exclusive=int(op.exclusive), reverse=int(op.reversed))


@source("softmax")
def softmax(op: Any, x: Array) -> Array:
    return evaluate("Softmax", x, axis=op.axis)


# Movement ------------------------------------------------------------------------------------------------------------


@source("reshape", "expand")
def to_shape(op: Any, x: Array) -> Array:
    return evaluate(op.name.capitalize(), x, op.new_shape)


@source("transpose")
def transpose(op: Any, x: Array) -> Array:
    return evaluate("Transpose", x, perm=op.permutation) if x.ndim else x


@source("slice")
def slice_(op: Any, x: Array) -> Array:
    ends = [a + n for a, n in zip(op.starts, op.sizes)]
    return evaluate("Slice", x, op.starts, ends, range(x.ndim), op.strides or [1] * x.ndim)


@source("concat")
def concat(op: Any, *ins: Array) -> Array:
    return evaluate("Concat", *ins, axis=op.axis)


@source("pad")
def pad(op: Any, x: Array) -> Array:
    """numpy, which onnx.reference asks, pads no scalars."""
    mode = {"constant": "constant", "edge": "edge", "reflection": "reflect"}[op.mode]
    value = np.array(op.value).astype(x.dtype)
    return evaluate("Pad", x, [*op.beginning, *op.ending], value, mode=mode) if x.ndim else x


@source("tile")
def tile(op: Any, x: Array) -> Array:
    return evaluate("Tile", x, op.repetitions)


@source("repeat")
def repeat(op: Any, x: Array) -> Array:
    """Tiled on an axis of 1 behind each axis."""
    shape = [d for e in x.shape for d in (e, 1)]
    tiled = evaluate("Tile", x.reshape(shape), [r for c in op.repetitions for r in (1, c)])
    return tiled.reshape([d * c for d, c in zip(x.shape, op.repetitions)])


@source("reverse")
def reverse(op: Any, x: Array) -> Array:
    axes = list(range(x.ndim)) if op.axes is None else list(op.axes)
    if not axes:
        return x
    return evaluate("Slice", x, [-1] * len(axes), [-(2**31)] * len(axes), axes, [-1] * len(axes))


@source("triangular")
def triangular(op: Any, x: Array) -> Array:
    return evaluate("Trilu", x, np.array(op.diagonal), upper=int(op.upper))
