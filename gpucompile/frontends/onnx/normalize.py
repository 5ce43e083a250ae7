"""Normalisations and softmax."""

from __future__ import annotations

import math

from gpucompile.frontends.onnx.call import Call, Operand, onnx_op
from gpucompile.ops.elementwise import Exp, Log, Sub
from gpucompile.ops.movement import Reshape
from gpucompile.ops.normalize import (
    BatchNormalization,
    InstanceNormalization,
    LayerNormalization,
    LocalResponseNormalization,
)
from gpucompile.ops.reduction import ReduceMax, ReduceSum
from gpucompile.ops.softmax import Softmax


@onnx_op("BatchNormalization")
def batch_normalization(call: Call) -> Operand:
    call.only_first_output()
    if call.attr("training_mode", 0) or not call.attr("spatial", 1):
        call.unsupported("training mode" if call.attr("training_mode", 0) else "spatial = 0")
    x, scale, bias, mean, variance = (call.operand(i) for i in range(5))
    return call.add(BatchNormalization(1, call.attr("epsilon", 1e-5)), x, mean, variance, scale, bias)


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
def layer_normalization(call: Call) -> Operand:
    call.only_first_output()
    rank = call.type().rank
    axes = tuple(range(call.axis(call.attr("axis", -1), rank), rank))
    shape = tuple(call.type().shape[a] for a in axes)
    parameters = []
    for i in (1, 2):
        p = call.optional(i)
        parameters.append(p if p is None or call.type(i).shape == shape else call.add(Reshape(shape), p))
    return call.add(LayerNormalization(axes, call.attr("epsilon", 1e-5)), call.operand(0), *parameters)


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
