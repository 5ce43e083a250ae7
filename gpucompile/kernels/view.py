"""Where tensors live: a `Storage` is a range of bytes of its own, a `View` says how a tensor lies in one.

A view is an element offset and a stride per axis, so reshapes, slices and the operands of a concat that is written in
place are views of another tensor's storage and cost no copy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gpucompile.ir.index import Index, dot, strides_of
from gpucompile.ir.types import DataType, TensorType

StorageKind = Literal["input", "output", "state", "weight", "scratch"]


@dataclass(eq=False)
class Storage:
    """A range of bytes: a model input or output, both in one (an input that is updated in place), a weight, or scratch
    memory of arena `arena`.

    Only the planner changes it after creation. `array` holds the data of a weight."""

    kind: StorageKind
    nbytes: int
    name: str = ""
    arena: int = 0
    array: object = field(default=None, repr=False)


@dataclass(frozen=True)
class View:
    """A tensor inside a storage; offset and strides in elements of its data type."""

    storage: Storage
    type: TensorType
    offset: int
    strides: tuple[int, ...]

    @staticmethod
    def whole(storage: Storage, type: TensorType) -> View:
        """A row-major tensor that starts at the beginning of its storage."""
        return View(storage, type, 0, strides_of(type.shape))

    @property
    def contiguous(self) -> bool:
        """Whether it is row-major without gaps (axes of extent 1 may have any stride)."""
        dense = strides_of(self.type.shape)
        return all(d == 1 or s == e for d, s, e in zip(self.type.shape, self.strides, dense, strict=True))

    def same_place(self, other: View) -> bool:
        """Whether the elements of both lie at the same positions (axes of extent 1 may have any stride)."""
        axes = zip(self.type.shape, self.strides, other.strides, strict=True)
        return (
            self.storage is other.storage
            and self.type == other.type
            and self.offset == other.offset
            and all(d == 1 or s == o for d, s, o in axes)
        )

    def position(self, coords: tuple[Index, ...]) -> Index:
        """Element position in the storage of the element at `coords`."""
        return dot(coords, self.strides) + self.offset

    @property
    def whole_words(self) -> bool:
        """Whether its runs begin and end at 32-bit words, so that kernels can write it without touching neighbours."""
        runs = self.runs()
        return runs is not None and all(x % 4 == 0 for x in (runs[0], runs[1], runs[3] if runs[2] > 1 else 0))

    def runs(self) -> tuple[int, int, int, int] | None:
        """The bytes it covers as (offset, size, count, stride): `count` equally spaced runs; None if it is not that
        regular."""
        bits = self.type.dtype.bits
        if bits < 8:  # several to a byte: only as a whole
            return (self.offset * bits // 8, self.type.nbytes, 1, 0) if self.contiguous and not self.offset else None
        item = bits // 8
        axes = sorted(((s, d) for s, d in zip(self.strides, self.type.shape, strict=True) if d > 1), reverse=True)
        merged: list[tuple[int, int]] = []  # (stride, extent), outermost first
        for stride, extent in axes:
            if merged and merged[-1][0] == stride * extent:
                merged[-1] = (stride, merged[-1][1] * extent)
            else:
                merged.append((stride, extent))
        offset = self.offset * item
        if merged and merged[-1][0] == 1:
            run = merged.pop()[1] * item
        else:
            run = item
        if len(merged) > 1:
            return None
        stride, count = merged[0] if merged else (0, 1)
        return offset, run, count, stride * item


def storage_bytes(type: TensorType) -> int:
    """Bytes of the storage of a whole tensor: elements below 4 bytes are packed into 32-bit words."""
    return max(4, (type.nbytes + 3) // 4 * 4)


#: The WGSL type a data type is computed in, by data type. The 64-bit ones are pairs of words, see `library`.
COMPUTE_TYPE = {
    DataType.FLOAT32: "f32",
    DataType.FLOAT16: "f16",
    DataType.INT32: "i32",
    DataType.UINT32: "u32",
    DataType.INT64: "Int64",
    DataType.UINT64: "Uint64",
    DataType.INT8: "i32",
    DataType.UINT8: "u32",
    DataType.INT4: "i32",
    DataType.UINT4: "u32",
}
