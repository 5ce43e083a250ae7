"""Data types and tensor types.

A `TensorType` is a data type and a static shape. It prints as `f32[1,3,224,224]`, a scalar as `f32[]`.
Names follow MLOperandDataType of the W3C WebNN specification.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


class DataType(enum.Enum):
    """Element type of a tensor; the value is WebNN's name for it."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT32 = "int32"
    UINT32 = "uint32"
    INT64 = "int64"
    UINT64 = "uint64"
    INT8 = "int8"
    UINT8 = "uint8"
    INT4 = "int4"
    UINT4 = "uint4"

    def __repr__(self) -> str:
        return self.value

    @property
    def short(self) -> str:
        """The name in the text form, such as `f32`."""
        kind = {"float": "f", "int": "i", "uint": "u"}[self.value.rstrip("0123456789")]
        return f"{kind}{self.bits}"

    @property
    def bits(self) -> int:
        """Bits per element."""
        return int(self.value.lstrip("uintfloa"))

    @property
    def is_float(self) -> bool:
        return self.value.startswith("float")

    @property
    def is_signed(self) -> bool:
        return not self.value.startswith("u")

    def packed(self, features: Collection[str]) -> bool:
        """Whether elements share 32-bit words, so that shaders can only write several at a time; `features` are those
        of the target."""
        return self.bits <= 8 or (self is DataType.FLOAT16 and "shader-f16" not in features)

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The numpy dtype that holds one element (4-bit types: one element per byte)."""
        if self.bits == 4:
            return np.dtype(np.int8 if self.is_signed else np.uint8)
        return np.dtype(self.value)

    @staticmethod
    def of(dtype: npt.DTypeLike) -> DataType:
        """The DataType of a numpy dtype; bool is uint8, as in WebNN. Raises KeyError for others."""
        name = np.dtype(dtype).name
        return _BY_NAME["uint8" if name == "bool" else name]

    @staticmethod
    def parse(text: str) -> DataType:
        """`f32` or `float32` -> FLOAT32. Raises KeyError for unknown names."""
        return _BY_NAME[text]


_BY_NAME = {d.value: d for d in DataType} | {d.short: d for d in DataType}


@dataclass(frozen=True)
class TensorType:
    """Data type and static shape (rank 0 is a scalar)."""

    dtype: DataType
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype.short}[{','.join(map(str, self.shape))}]"

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed row-major tensor, without padding."""
        return (self.size * self.dtype.bits + 7) // 8

    def with_shape(self, shape: tuple[int, ...]) -> TensorType:
        return TensorType(self.dtype, shape)

    def with_dtype(self, dtype: DataType) -> TensorType:
        return TensorType(dtype, self.shape)

    @staticmethod
    def of(array: np.ndarray) -> TensorType:
        """The type of a numpy array."""
        return TensorType(DataType.of(array.dtype), tuple(int(d) for d in array.shape))
