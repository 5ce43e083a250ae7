"""QuantizeLinear and DequantizeLinear: one scale for all, one for each index of an axis, or one for each block."""

from __future__ import annotations

import math

import numpy as np

from gpucompile.errors import ModelError
from gpucompile.frontends.onnx.call import MICROSOFT, Call, Operand, onnx_op, type_of
from gpucompile.frontends.onnx.tensors import data_type
from gpucompile.ir.graph import Literal
from gpucompile.ir.op import NIBBLES
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.logical import Cast
from gpucompile.ops.movement import Repeat, Reshape, Slice
from gpucompile.ops.quantize import DequantizeLinear, QuantizeLinear


@onnx_op("QuantizeLinear", since=10)
@onnx_op("QuantizeLinear", domain=MICROSOFT)
def quantize_linear(call: Call) -> Operand:
    """The division is done in float32, whatever `precision` says."""
    given = call.attr("output_dtype", 0)
    dtype = data_type(given, "the result") if given else DataType.UINT8
    if call.has(2):
        if given and call.type(2).dtype is not dtype:
            raise ModelError(f"output_dtype is {dtype.value}, the zero point {call.type(2).dtype.value}")
        dtype = call.type(2).dtype
    x, scale = call.operand(0), _parameter(call, 1)
    if type_of(x).dtype is not type_of(scale).dtype:
        x, scale = _cast(call, x, DataType.FLOAT32), _cast(call, scale, DataType.FLOAT32)
    return call.add(QuantizeLinear(dtype), x, scale, _zero_point(call, dtype, type_of(scale).shape))


@onnx_op("DequantizeLinear", since=10)
@onnx_op("DequantizeLinear", domain=MICROSOFT)
def dequantize_linear(call: Call) -> Operand:
    scale = _parameter(call, 1)
    zero_point = _zero_point(call, call.type().dtype, type_of(scale).shape)
    out = call.add(DequantizeLinear(), call.operand(0), scale, zero_point)
    given = call.attr("output_dtype", 0)
    return _cast(call, out, data_type(given, "the result")) if given else out


def _cast(call: Call, x: Operand, dtype: DataType) -> Operand:
    return x if type_of(x).dtype is dtype else call.add(Cast(dtype), x)


def _zero_point(call: Call, dtype: DataType, shape: tuple[int, ...]) -> Operand:
    """The zero point in the shape of the scale; 0 where there is none."""
    if call.has(2):
        return _parameter(call, 2)
    zeros = np.zeros(shape, dtype.numpy)
    if dtype in NIBBLES:
        return call.builder.graph.constant(Literal(zeros, TensorType(dtype, shape)))
    return zeros


def _parameter(call: Call, index: int) -> Operand:
    """The scale or zero point in a shape that is blockwise broadcastable to the input's."""
    shape, given = call.type().shape, call.type(index).shape
    operand, rank = call.operand(index), len(shape)
    size = call.attr("block_size", 0)
    if size < 0:
        raise ModelError(f"block_size {size} is negative")
    if not size and math.prod(given) == 1:
        return call.add(Reshape((1,) * rank), operand)
    axis = call.axis(call.attr("axis", 1), rank)
    if not size:
        if given != (shape[axis],):
            raise ModelError(f"a scale or zero point has the shape {list(given)}, axis {axis} {shape[axis]} elements")
        return call.add(Reshape(tuple(shape[axis] if i == axis else 1 for i in range(rank))), operand)
    blocks = -(-shape[axis] // size)
    wanted = tuple(blocks if i == axis else d for i, d in enumerate(shape))
    if given != wanted:
        raise ModelError(f"a scale or zero point has the shape {list(given)}, blocks of {size} need {list(wanted)}")
    if blocks * size == shape[axis]:
        return operand
    repeated = call.add(Repeat(tuple(size if i == axis else 1 for i in range(rank))), operand)
    return call.add(Slice((0,) * rank, shape), repeated)  # the last block is not whole
