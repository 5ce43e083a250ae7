"""Products of quantised tensors, and weights of few bits. Quantising itself is in `quantize.py`.

Products of integers are products of floats, exact as long as no sum leaves 2^24; where one could, an operand is taken
apart into its upper and lower four bits first.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gpucompile.errors import ModelError
from gpucompile.frontends.onnx.call import MICROSOFT, Call, Operand, onnx_op, scalar, type_of
from gpucompile.frontends.onnx.conv import convolution
from gpucompile.frontends.onnx.movement import sliced
from gpucompile.ir.graph import Literal
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.activation import Clamp, Linear
from gpucompile.ops.contraction import Matmul
from gpucompile.ops.elementwise import Add, Div, Floor, Mul, RoundEven, Sub
from gpucompile.ops.gather import Gather
from gpucompile.ops.logical import Cast
from gpucompile.ops.movement import Expand, Reshape, Transpose

F32, I32 = DataType.FLOAT32, DataType.INT32
#: The lowest and highest value of each quantised type.
RANGES = {DataType.INT8: (-128, 127), DataType.UINT8: (0, 255)}


def _cast(call: Call, x: Operand, to: DataType) -> Operand:
    return x if type_of(x).dtype is to else call.add(Cast(to), x)


def spread(call: Call, parameter: Operand, shape: tuple[int, ...], axis: int, block: int) -> Operand:
    """Scales or zero points so that they broadcast to `shape`: one for all, one an index of `axis`, or one a block."""
    t = type_of(parameter)
    if t.size == 1 and not block:
        return call.add(Reshape(()), parameter)
    if t.rank == 1 and not block:
        if t.size != shape[axis]:
            raise ModelError(f"{t.size} scales or zero points for axis {axis} of {list(shape)}")
        return call.add(Reshape((t.size, *(1,) * (len(shape) - axis - 1))), parameter)
    if t.rank != len(shape) or not block or t.shape[axis] != -(-shape[axis] // block):
        raise ModelError(f"scales or zero points {t} do not suit {list(shape)} with blocks of {block}")
    own = t.shape
    wide = call.add(Reshape((*own[: axis + 1], 1, *own[axis + 1 :])), parameter)
    wide = call.add(Expand((*own[: axis + 1], block, *own[axis + 1 :])), wide)
    wide = call.add(Reshape((*own[:axis], own[axis] * block, *own[axis + 1 :])), wide)
    windows = [slice(None)] * len(shape)
    windows[axis] = slice(0, shape[axis])
    return sliced(call, wide, windows)


def quantized(call: Call, x: Operand, zero: Operand | None, to: DataType) -> Operand:
    """x rounded, moved by the zero point, saturated."""
    if to not in RANGES:
        call.unsupported(f"quantising to {to.value}")
    whole = call.add(RoundEven(), x)
    whole = whole if zero is None else call.add(Add(), whole, zero)
    low, high = RANGES[to]
    return call.add(Cast(to), call.add(Clamp(float(low), float(high)), whole))


# Products of integers ------------------------------------------------------------------------------------------------

Product = Callable[[Operand, Operand], Operand]


def integer_product(call: Call, a: Operand, b: Operand, terms: int, product: Product) -> Operand:
    """The exact int32 result of a bilinear `product` of floats, whole numbers within +-255, that sums `terms` terms."""
    if terms * 255 * 255 < 1 << 24:
        return call.add(Cast(I32), product(a, b))
    if terms * 16 * 255 < 1 << 24:
        return _joined(call, [product(part, b) for part in _nibbles(call, a)])
    if terms * 16 * 16 >= 1 << 24:
        call.unsupported(f"sums of {terms} products of integers")
    rows = [_joined(call, [product(x, y) for y in _nibbles(call, b)]) for x in _nibbles(call, a)]
    return call.add(Add(), call.add(Mul(), rows[0], scalar(16, I32)), rows[1])


def _nibbles(call: Call, x: Operand) -> tuple[Operand, Operand]:
    """x as 16 * upper + lower."""
    upper = call.add(Floor(), call.add(Linear(1 / 16), x))
    return upper, call.add(Sub(), x, call.add(Linear(16.0), upper))


def _joined(call: Call, parts: list[Operand]) -> Operand:
    upper, lower = (call.add(Cast(I32), p) for p in parts)
    return call.add(Add(), call.add(Mul(), upper, scalar(16, I32)), lower)


def _centered(call: Call, index: int, zero: int, axis: int) -> Operand:
    """Input `index` less its zero point (input `zero`), which is one for all or one an index of `axis`, as float32."""
    x = _cast(call, call.operand(index), F32)
    if not call.has(zero):
        return x
    t = call.type(index)
    return call.add(Sub(), x, spread(call, _cast(call, call.operand(zero), F32), t.shape, axis % t.rank, 0))


@onnx_op("MatMulInteger")
def matmul_integer(call: Call) -> Operand:
    a, b = _centered(call, 0, 2, -2), _centered(call, 1, 3, -1)
    return _integer_matmul(call, a, b)


def _integer_matmul(call: Call, a: Operand, b: Operand) -> Operand:
    return integer_product(call, a, b, type_of(a).shape[-1], lambda x, y: call.add(Matmul(), x, y))


@onnx_op("ConvInteger")
def conv_integer(call: Call) -> Operand:
    return _integer_conv(call, _centered(call, 0, 2, 1), _centered(call, 1, 3, 0))


def _integer_conv(call: Call, x: Operand, w: Operand) -> Operand:
    terms = math.prod(type_of(w).shape[1:])
    return integer_product(call, x, w, terms, lambda a, b: convolution(call, a, b, None))


@onnx_op("QLinearMatMul")
def q_linear_matmul(call: Call) -> Operand:
    a, b = _centered(call, 0, 2, -2), _centered(call, 3, 5, -1)
    out = call.add(Cast(F32), _integer_matmul(call, a, b))
    shapes = call.type(0).shape, call.type(3).shape
    scales = [
        spread(call, _cast(call, call.operand(i), F32), s, at % len(s), 0)
        for i, s, at in ((1, shapes[0], -2), (4, shapes[1], -1))
    ]
    return _requantized(call, out, scales[0], scales[1], 6)


@onnx_op("QLinearConv")
def q_linear_conv(call: Call) -> Operand:
    """Inputs: x, its scale and zero point, w and its, the result's scale and zero point, an int32 bias."""
    out = _integer_conv(call, _centered(call, 0, 2, 1), _centered(call, 3, 5, 0))
    t = type_of(out)
    channel = (-1, *(1,) * (t.rank - 2))
    if call.has(8):
        out = call.add(Add(), out, call.add(Reshape((t.shape[1], *channel[1:])), call.operand(8)))
    w_scale = spread(call, call.operand(4), t.shape, 1, 0)
    return _requantized(call, call.add(Cast(F32), out), call.add(Reshape(()), call.operand(1)), w_scale, 6)


def _requantized(call: Call, x: Operand, a_scale: Operand, b_scale: Operand, index: int) -> Operand:
    """x * a_scale * b_scale / (input `index`), quantised with the zero point after it."""
    y_scale = call.add(Reshape(()), _cast(call, call.operand(index), F32))
    factor = call.add(Div(), call.add(Mul(), a_scale, b_scale), y_scale)
    zero = call.add(Reshape(()), _cast(call, call.operand(index + 1), F32))
    return quantized(call, call.add(Mul(), x, factor), zero, call.type(index + 1).dtype)


# Weights of few bits -------------------------------------------------------------------------------------------------


def unpacked(data: np.ndarray, bits: int) -> np.ndarray:
    """The numbers of `bits` bits in the bytes of the last axis, lowest first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    numbers = (data[..., None] >> shifts) & np.uint8(2**bits - 1)
    return np.asarray(numbers.reshape(*data.shape[:-1], -1), np.uint8)


@onnx_op("MatMulNBits", domain=MICROSOFT)
def matmul_nbits(call: Call) -> Operand:
    """A times the transpose of B [n, k], whose rows are quantised in blocks. Weights stay packed until used."""
    k, n = call.attr("K"), call.attr("N")
    bits, block = call.attr("bits", 4), call.attr("block_size")
    if not k or not n or not block:
        raise ModelError("the attributes K, N and block_size are needed")
    if bits not in (2, 4, 8):
        call.unsupported(f"weights of {bits} bits")
    if call.has(4):
        call.unsupported("g_idx")
    dtype = call.type().dtype
    blocks = -(-k // block)
    packed = call.array(1, "weights").reshape(n, -1)
    weights = unpacked(packed, bits)[:, : blocks * block]
    if weights.shape != (n, blocks * block):
        raise ModelError(f"B {call.type(1)} does not hold {n} rows of {blocks} blocks of {block}")
    kind = DataType.UINT4 if bits <= 4 else DataType.UINT8
    literal = Literal(np.ascontiguousarray(weights), TensorType(kind, weights.shape))
    w = call.add(Cast(dtype), call.builder.graph.constant(literal, name=call.node.input[1]))
    zero: Operand = scalar(2 ** (bits - 1), dtype)
    if call.has(3):
        zero = call.operand(3)
        if type_of(zero).dtype is DataType.UINT8:
            points = unpacked(call.array(3, "zero points").reshape(n, -1), bits)[:, :blocks]
            zero = points.astype(dtype.numpy).reshape(n, blocks, 1)
        else:
            zero = call.add(Reshape((n, blocks, 1)), zero)
    scales = _cast(call, call.add(Reshape((n, blocks, 1)), call.operand(2)), dtype)
    w = call.add(Reshape((n, blocks, block)), w)
    w = call.add(Mul(), call.add(Sub(), w, zero), scales)
    w = call.add(Reshape((n, blocks * block)), w)
    w = sliced(call, w, [slice(None), slice(0, k)])
    out = call.add(Matmul(), call.operand(0), call.add(Transpose((1, 0)), w))
    return call.add(Add(), out, call.operand(5)) if call.has(5) else out


@onnx_op("GatherBlockQuantized", domain=MICROSOFT)
def gather_block_quantized(call: Call) -> Operand:
    """Rows of a table that is quantised in blocks of its last axis."""
    bits, block = call.attr("bits", 4), call.attr("block_size", 128)
    data = call.array(0, "table")
    if call.type().dtype is DataType.UINT8 and bits < 8:
        data = unpacked(data, bits)
    rank = data.ndim
    if call.axis(call.attr("gather_axis", 0), rank) != 0 or call.axis(call.attr("quantize_axis", 1), rank) != rank - 1:
        call.unsupported("axes other than gather_axis 0 and the last as quantize_axis")
    indices, scales = call.operand(1), call.operand(2)
    dtype = type_of(scales).dtype
    rows = call.add(Cast(dtype), call.add(Gather(0), data, indices))
    shape = type_of(rows).shape
    zero: Operand = scalar(2 ** (bits - 1) if data.dtype == np.uint8 else 0, dtype)
    if call.has(3):
        points = call.array(3, "zero points")
        points = unpacked(points, bits) if call.type().dtype is DataType.UINT8 and bits < 8 else points
        points = points[..., : type_of(scales).shape[-1]].astype(dtype.numpy)
        zero = spread(call, call.add(Gather(0), points, indices), shape, len(shape) - 1, block)
    wide = spread(call, call.add(Gather(0), scales, indices), shape, len(shape) - 1, block)
    return call.add(Mul(), call.add(Sub(), rows, zero), wide)
