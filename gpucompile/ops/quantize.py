"""Linear quantisation: integers that stand for (integer - zero_point) * scale.

Scale and zero point have the rank of the input, and each of their extents divides the input's: an element of theirs
serves a block. Extents of 1 are a scale for all, extents of the input's a scale each (WebNN "blockwise broadcastable").

No kernels of their own: `legalize` writes them as casts and arithmetic, which fuse into what reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpucompile.ir.literals import limits
from gpucompile.ir.op import FLOATS, MAX_RANK, NIBBLES, Constraint, Op
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.categories import Anchor, Cases, tensor
from gpucompile.ops.logical import Cast
from gpucompile.ops.movement import Repeat

INTEGERS = frozenset({DataType.INT8, DataType.UINT8, DataType.INT32, DataType.UINT32}) | NIBBLES
REAL: Constraint = (FLOATS, 0, MAX_RANK)
INTEGER: Constraint = (INTEGERS, 0, MAX_RANK)


#: Shapes of inputs, and of the scales and zero points of test cases.
_BLOCKS = (((4, 6), (4, 1)), ((4, 6), (2, 3)), ((3, 1, 9), (3, 1, 3)), ((2, 16), (2, 4)), ((1, 7), (1, 7)), ((), ()))


@dataclass(frozen=True)
class QuantizeLinear(Anchor):
    """round_even(input / scale) + zero_point, saturated to the data type of zero_point (WebNN quantizeLinear).

    `output_data_type` repeats that data type; 4-bit ones need it, as numpy holds them in bytes. Computed in float32;
    with a zero point other than 0, 32-bit results have its precision of 24 bits."""

    operands: ClassVar[tuple[str, ...]] = ("input", "scale", "zero_point")
    constraints: ClassVar[dict[str, Constraint]] = {"input": REAL, "scale": REAL, "zero_point": INTEGER}
    output_data_type: DataType | None = None

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        x, scale, zero_point = ins
        if scale.dtype is not x.dtype:
            self.fail(ins, "data types of input and scale differ")
        implied = None if zero_point.dtype in NIBBLES else zero_point.dtype
        if (self.output_data_type or implied) is not zero_point.dtype:
            self.fail(ins, f"output_data_type must be {zero_point.dtype.value}, that of zero_point")
        check_blocks(self, ins)
        return (x.with_dtype(zero_point.dtype),)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        x, scale, zero_point = ins
        dtype = self.output_data_type or DataType.of(zero_point.dtype)
        blocks = repetitions(x.shape, scale.shape)
        scale, zero_point = (spread(a.astype(np.float32), blocks) for a in (scale, zero_point))
        return Cast(dtype).reference(np.rint(x.astype(np.float32) / scale) + zero_point)

    def openvino(self, ov: Any, *args: Any) -> Any:
        """Where scale and zero point are known, as fake_quantize, which plugins look for to compute in 8 bits."""
        x, scale, zero_point = args
        dtype = self.output_data_type or ov.type(zero_point).dtype
        scales, zeros = ov.array(scale), ov.array(zero_point)
        blocks = repetitions(ov.type(x).shape, ov.type(scale).shape)
        low, high = limits(dtype)
        if scales is not None and zeros is not None and dtype.bits == 8 and max(blocks, default=1) == 1:
            ends = [ov.constant((end - zeros.astype(np.float32)) * scales.astype(np.float32)) for end in (low, high)]
            levels = [ov.constant(np.array(end, np.float32)) for end in (low, high)]
            return ov.cast(ov.fake_quantize(ov.cast(x, DataType.FLOAT32), *ends, *levels, 256), dtype)
        x, scale, zero_point = (ov.cast(v, DataType.FLOAT32) for v in args)
        scale, zero_point = (
            Repeat(blocks).openvino(ov, v) if max(blocks, default=1) > 1 else v for v in (scale, zero_point)
        )
        out = ov.add(ov.round(ov.divide(x, scale), "half_to_even"), zero_point)
        return ov.cast(ov.clamp(out, low, high), dtype)

    @classmethod
    def cases(cls) -> Cases:
        for dtype in (DataType.INT8, DataType.UINT8, DataType.INT32):
            yield cls(), (tensor(4, 6), tensor(1, 1), tensor(1, 1, dtype=dtype))
        for shape, blocks in _BLOCKS:
            yield cls(), (tensor(*shape), tensor(*blocks), tensor(*blocks, dtype=DataType.UINT8))
        for dtype in (DataType.INT4, DataType.UINT4):
            yield cls(dtype), (tensor(4, 6), tensor(2, 3), tensor(2, 3, dtype=dtype))


@dataclass(frozen=True)
class DequantizeLinear(Anchor):
    """(input - zero_point) * scale, in the data type of scale (WebNN dequantizeLinear). Computed in float32."""

    operands: ClassVar[tuple[str, ...]] = ("input", "scale", "zero_point")
    constraints: ClassVar[dict[str, Constraint]] = {"input": INTEGER, "scale": REAL, "zero_point": INTEGER}

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        x, scale, zero_point = ins
        if zero_point.dtype is not x.dtype:
            self.fail(ins, "data types of input and zero_point differ")
        check_blocks(self, ins)
        return (x.with_dtype(scale.dtype),)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        x, scale, zero_point = ins
        blocks = repetitions(x.shape, scale.shape)
        factor, zero_point = (spread(a.astype(np.float32), blocks) for a in (scale, zero_point))
        return np.asarray((x.astype(np.float32) - zero_point) * factor).astype(scale.dtype)

    def openvino(self, ov: Any, *args: Any) -> Any:
        x, scale, zero_point = args
        dtype, (shape, extents) = ov.type(scale).dtype, (ov.type(v).shape for v in (x, scale))
        blocks = repetitions(shape, extents)
        zeros = ov.array(zero_point)
        if max(blocks, default=1) > 1:
            scale = Repeat(blocks).openvino(ov, scale)
            zero_point = zero_point if zeros is None else ov.constant(spread(zeros, blocks), ov.type(x).dtype)
            zero_point = Repeat(blocks).openvino(ov, zero_point) if zeros is None else zero_point
        # plugins may subtract after they multiply, which only weights can take in float16
        kind = DataType.FLOAT32 if ov.array(x) is None else dtype
        out = ov.cast(x, kind)
        if zeros is None or zeros.any():
            out = ov.subtract(out, ov.cast(zero_point, kind))
        return ov.cast(ov.multiply(out, ov.cast(scale, kind)), dtype)

    @classmethod
    def cases(cls) -> Cases:
        for dtype in (DataType.INT8, DataType.UINT8, DataType.INT32, DataType.UINT32):
            yield cls(), (tensor(4, 6, dtype=dtype), tensor(1, 1), tensor(1, 1, dtype=dtype))
        for shape, blocks in _BLOCKS:
            yield cls(), (tensor(*shape, dtype=DataType.INT8), tensor(*blocks), tensor(*blocks, dtype=DataType.INT8))
        for dtype in (DataType.INT4, DataType.UINT4):
            yield cls(), (tensor(4, 6, dtype=dtype), tensor(2, 3), tensor(2, 3, dtype=dtype))


def check_blocks(op: Op, ins: tuple[TensorType, ...]) -> None:
    """Scale and zero point have one shape, which is blockwise broadcastable to that of the input."""
    x, scale, zero_point = ins
    if scale.shape != zero_point.shape:
        op.fail(ins, "shapes of scale and zero_point differ")
    if scale.rank != x.rank or any(d % b for d, b in zip(x.shape, scale.shape, strict=True)):
        op.fail(ins, f"the extents {list(scale.shape)} of scale do not divide the input's")


def repetitions(shape: tuple[int, ...], blocks: tuple[int, ...]) -> tuple[int, ...]:
    """How often a scale stands along each axis of the input; 1 where ordinary broadcasting spreads it."""
    return tuple(1 if b == 1 else d // b for d, b in zip(shape, blocks, strict=True))


def spread(array: np.ndarray, counts: tuple[int, ...]) -> np.ndarray:
    """The array with each element repeated."""
    return Repeat(counts).reference(array)
