"""Normalisations and softmax."""

from __future__ import annotations

import math

from gpucompile.errors import ModelError
from gpucompile.frontends.onnx.call import MICROSOFT, Call, Operand, onnx_op, scalar, type_of
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.activation import Linear
from gpucompile.ops.elementwise import Add, Div, Exp, Log, Mul, Reciprocal, Sqrt, Sub
from gpucompile.ops.logical import Cast, Equal, Where
from gpucompile.ops.movement import Expand, Reshape
from gpucompile.ops.normalize import (
    BatchNormalization,
    InstanceNormalization,
    LayerNormalization,
    LocalResponseNormalization,
)
from gpucompile.ops.reduction import ReduceL1, ReduceL2, ReduceMax, ReduceMean, ReduceSum
from gpucompile.ops.softmax import Softmax


@onnx_op("BatchNormalization")
def batch_normalization(call: Call) -> tuple[Operand, ...]:
    x, scale, bias, mean, variance = (call.operand(i) for i in range(5))
    epsilon = call.attr("epsilon", 1e-5)
    if not call.attr("spatial", 1):
        call.unsupported("spatial = 0")
    if not call.attr("training_mode", 0):
        call.only_first_output()
        return (call.add(BatchNormalization(1, epsilon), x, mean, variance, scale, bias),)
    axes = (0, *range(2, call.type().rank))
    own_mean = call.add(ReduceMean(axes), x)
    column = (call.type().shape[1], *(1,) * (call.type().rank - 2))
    centered = call.add(Sub(), x, call.add(Reshape(column), own_mean))
    own_variance = call.add(ReduceMean(axes), call.add(Mul(), centered, centered))
    y = call.add(BatchNormalization(1, epsilon), x, own_mean, own_variance, scale, bias)
    momentum = call.attr("momentum", 0.9)
    running = (
        call.add(Add(), call.add(Linear(momentum), old), call.add(Linear(1 - momentum), new))
        for old, new in ((mean, own_mean), (variance, own_variance))
    )
    return (y, *running)


@onnx_op("InstanceNormalization")
def instance_normalization(call: Call) -> Operand:
    t = call.type()
    if t.rank < 3:
        call.unsupported(f"its input is {t}")
    planar = (t.shape[0], t.shape[1], math.prod(t.shape[2:-1]), t.shape[-1])
    x = call.operand(0) if t.rank == 4 else call.add(Reshape(planar), call.operand(0))
    out = call.add(InstanceNormalization(call.attr("epsilon", 1e-5)), x, call.operand(1), call.operand(2))
    return out if t.rank == 4 else call.add(Reshape(t.shape), out)


@onnx_op("LayerNormalization")
@onnx_op("LayerNormalization", domain=MICROSOFT)
def layer_normalization(call: Call) -> tuple[Operand | None, ...]:
    t = call.type()
    axis = call.axis(call.attr("axis", -1), t.rank)
    return layer_normalized(call, call.operand(0), axis, call.operand(1), call.optional(2), call.wanted[1:])


def layer_normalized(
    call: Call, x: Operand, axis: int, scale: Operand | None, bias: Operand | None, wanted: tuple[bool, ...]
) -> tuple[Operand | None, ...]:
    """x normalised over the axes from `axis` on; the mean and the inverse deviation where they are wanted."""
    t, epsilon = type_of(x), call.attr("epsilon", 1e-5)
    axes = tuple(range(axis, t.rank))
    shape = t.shape[axis:]
    parameters = [p if p is None else fitted(call, p, shape) for p in (scale, bias)]
    y = call.add(LayerNormalization(axes, epsilon), x, *parameters)
    if not any(wanted):
        return (y,)
    mean = call.add(ReduceMean(axes, True), x)
    centered = call.add(Sub(), x, mean)
    variance = call.add(ReduceMean(axes, True), call.add(Mul(), centered, centered))
    deviation = call.add(Sqrt(), call.add(Linear(1.0, epsilon), variance))
    return y, mean, call.add(Reciprocal(), deviation)


def fitted(call: Call, parameter: Operand, shape: tuple[int, ...]) -> Operand:
    """A parameter broadcast to the shape that is normalised."""
    own = type_of(parameter).shape
    if own == shape:
        return parameter
    if math.prod(own) == math.prod(shape):
        return call.add(Reshape(shape), parameter)
    return call.add(Expand(shape), parameter)


@onnx_op("RMSNormalization")
@onnx_op("SimplifiedLayerNormalization")
@onnx_op("SimplifiedLayerNormalization", "RMSNormalization", domain=MICROSOFT)
def rms_normalization(call: Call) -> tuple[Operand | None, ...]:
    axis = call.axis(call.attr("axis", -1), call.type().rank)
    return rms_normalized(call, call.operand(0), axis, call.operand(1), call.attr("epsilon", 1e-5))


def rms_normalized(call: Call, x: Operand, axis: int, scale: Operand, epsilon: float) -> tuple[Operand, Operand]:
    """x / sqrt(mean(x^2) + epsilon) * scale over the axes from `axis` on, and the inverse of that root. In float32."""
    t = type_of(x)
    axes = tuple(range(axis, t.rank))
    half = t.dtype is DataType.FLOAT16
    wide = call.add(Cast(DataType.FLOAT32), x) if half else x
    mean = call.add(ReduceMean(axes, True), call.add(Mul(), wide, wide))
    inverse = call.add(Reciprocal(), call.add(Sqrt(), call.add(Linear(1.0, epsilon), mean)))
    normal = call.add(Mul(), wide, inverse)
    normal = call.add(Cast(t.dtype), normal) if half else normal
    if type_of(scale).dtype != t.dtype:
        scale = call.add(Cast(t.dtype), scale)
    return call.add(Mul(), normal, fitted(call, scale, t.shape[axis:])), inverse


@onnx_op("GroupNormalization")
def group_normalization(call: Call) -> Operand:
    """Scale and bias are one a channel since opset 21, one a group before."""
    t, groups = call.type(), call.attr("num_groups")
    return group_normalized(
        call, call.operand(0), groups, call.operand(1), call.operand(2), call.attr("epsilon", 1e-5), t
    )


def group_normalized(
    call: Call, x: Operand, groups: int, scale: Operand, bias: Operand, epsilon: float, t: TensorType
) -> Operand:
    """x [n, c, ...] normalised over each group of channels and all that follows."""
    n, c = t.shape[:2]
    if not groups or c % groups:
        raise ModelError(f"{groups} groups do not divide {c} channels")
    rows = call.add(Reshape((n, groups, t.size // (n * groups))), x)
    normal = call.add(Reshape(t.shape), call.add(LayerNormalization((2,), epsilon), rows))
    parameters = []
    for p in (scale, bias):
        if type_of(p).size == groups != c:
            p = call.add(Expand((groups, c // groups)), call.add(Reshape((groups, 1)), p))
        parameters.append(call.add(Reshape((c, *(1,) * (t.rank - 2))), p))
    return call.add(Add(), call.add(Mul(), normal, parameters[0]), parameters[1])


@onnx_op("MeanVarianceNormalization")
def mean_variance_normalization(call: Call) -> Operand:
    """(x - mean) / (deviation + 1e-9)"""
    x, t = call.operand(0), call.type()
    axes = tuple(sorted(call.axis(a, t.rank) for a in call.attr("axes", [0, 2, 3])))
    centered = call.add(Sub(), x, call.add(ReduceMean(axes, True), x))
    variance = call.add(ReduceMean(axes, True), call.add(Mul(), centered, centered))
    return call.add(Div(), centered, call.add(Linear(1.0, 1e-9), call.add(Sqrt(), variance)))


@onnx_op("LpNormalization")
def lp_normalization(call: Call) -> Operand:
    """x divided by its norm along an axis; zero vectors stay zero."""
    x, t = call.operand(0), call.type()
    p = call.attr("p", 2)
    if p not in (1, 2):
        raise ModelError(f"p is {p}, it must be 1 or 2")
    axis = (call.axis(call.attr("axis", -1), t.rank),)
    norm = call.add(ReduceL1(axis, True) if p == 1 else ReduceL2(axis, True), x)
    zero = scalar(0, t.dtype)
    safe = call.add(Where(), call.add(Equal(), norm, zero), scalar(1, t.dtype), norm)
    return call.add(Div(), x, safe)


@onnx_op("LRN")
def lrn(call: Call) -> Operand:
    alpha, beta, bias = (call.attr(n, d) for n, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    return call.add(LocalResponseNormalization(call.attr("size"), alpha, beta, bias), call.operand(0))


@onnx_op("Softmax", "LogSoftmax")
def softmax(call: Call) -> Operand:
    """Before opset 13 all axes from `axis` on count as one."""
    t = call.type()
    x = call.operand(0)
    if call.version >= 13:
        return _softmax(call, x, call.axis(call.attr("axis", -1), t.rank))
    axis = call.axis(call.attr("axis", 1), t.rank)
    if math.prod(t.shape[axis + 1 :]) == 1:
        return _softmax(call, x, axis)
    x = call.add(Reshape((math.prod(t.shape[:axis]), math.prod(t.shape[axis:]))), x)
    return call.add(Reshape(t.shape), _softmax(call, x, 1))


def _softmax(call: Call, x: Operand, axis: int) -> Operand:
    if call.node.op_type == "Softmax":
        return call.add(Softmax(axis), x)
    shifted = call.add(Sub(), x, call.add(ReduceMax((axis,), True), x))
    total = call.add(ReduceSum((axis,), True), call.add(Exp(), shifted))
    return call.add(Sub(), shifted, call.add(Log(), total))
