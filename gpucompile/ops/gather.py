"""Ops that read or write where a tensor of indices says.

Negative indices count from the end; what still lies outside is moved to the nearest element, as WebNN wants indices to
be safe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gpucompile.ir.op import ALL, MAX_RANK, Constraint
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.categories import Anchor, Cases, tensor

I32, U32, U8 = DataType.INT32, DataType.UINT32, DataType.UINT8
INDICES = frozenset({DataType.INT32, DataType.UINT32, DataType.INT64})


def inside(indices: np.ndarray, extent: int) -> np.ndarray:
    """Indices as positions in [0, extent)."""
    i = indices.astype(np.int64)
    return np.clip(np.where(i < 0, i + extent, i), 0, extent - 1)


def tuple_of(indices: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """The last axis of `indices` as a tuple of positions in `shape`, for numpy's indexing."""
    return tuple(inside(indices[..., k], shape[k]) for k in range(indices.shape[-1]))


@dataclass(frozen=True)
class Indexed(Anchor, abstract=True):
    """What the five share: operand 1 is the indices."""

    def need_axis(self, axis: int, ins: tuple[TensorType, ...]) -> None:
        """`axis` is an axis of operand 0, or fail."""
        if not 0 <= axis < ins[0].rank:
            self.fail(ins, f"axis {axis} is not an axis of a rank {ins[0].rank} tensor")

    def need_same_but(self, axis: int, ins: tuple[TensorType, ...]) -> None:
        """The indices have the input's shape except along `axis`, or fail."""
        x, i = ins[:2]
        if i.rank != x.rank or any(a != axis and d != e for a, (d, e) in enumerate(zip(x.shape, i.shape, strict=True))):
            self.fail(ins, f"indices need the input's shape except along axis {axis}")

    def picked_shape(self, ins: tuple[TensorType, ...]) -> tuple[int, ...]:
        """The shape of what tuples of indices pick."""
        x, i = ins[:2]
        if i.shape[-1] > x.rank:
            self.fail(ins, f"tuples of {i.shape[-1]} indices for a rank {x.rank} tensor")
        return (*i.shape[:-1], *x.shape[i.shape[-1] :])


@dataclass(frozen=True)
class Gather(Indexed):
    """The elements at `indices` along `axis`: the axis is replaced by the axes of `indices` (WebNN gather)."""

    operands: ClassVar[tuple[str, ...]] = ("input", "indices")
    constraints: ClassVar[dict[str, Constraint]] = {"input": (ALL, 1, MAX_RANK), "indices": (INDICES, 0, MAX_RANK)}
    axis: int = 0

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        self.need_axis(self.axis, ins)
        x, i = ins
        return (x.with_shape((*x.shape[: self.axis], *i.shape, *x.shape[self.axis + 1 :])),)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        return np.take(ins[0], inside(ins[1], ins[0].shape[self.axis]), self.axis)

    @classmethod
    def cases(cls) -> Cases:
        yield cls(), (tensor(7, 5), tensor(3, dtype=I32))
        yield cls(1), (tensor(3, 7, 8), tensor(2, 3, dtype=I32))
        yield cls(2), (tensor(2, 3, 4), tensor(5, dtype=I32))
        yield cls(1), (tensor(3, 6), tensor(dtype=I32))
        yield cls(), (tensor(9), tensor(2, 5, dtype=U32))
        yield cls(), (tensor(2, 5), tensor(3, dtype=I32))  # many indices outside
        yield cls(), (tensor(5, 3, dtype=U8), tensor(3, dtype=I32))
        yield cls(1), (tensor(5, 3, 4, dtype=I32), tensor(3, dtype=I32))
        yield cls(), (tensor(7, 5), tensor(3, dtype=DataType.INT64))


@dataclass(frozen=True)
class GatherElements(Indexed):
    """result[.., i, ..] = input[.., indices[.., i, ..], ..] along `axis` (WebNN gatherElements)."""

    operands: ClassVar[tuple[str, ...]] = ("input", "indices")
    constraints: ClassVar[dict[str, Constraint]] = {"input": (ALL, 1, MAX_RANK), "indices": (INDICES, 1, MAX_RANK)}
    axis: int = 0

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        self.need_axis(self.axis, ins)
        self.need_same_but(self.axis, ins)
        return (ins[0].with_shape(ins[1].shape),)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        x, i = ins
        return np.take_along_axis(x, inside(i, x.shape[self.axis]), self.axis)

    @classmethod
    def cases(cls) -> Cases:
        yield cls(), (tensor(7, 5), tensor(3, 5, dtype=I32))
        yield cls(1), (tensor(3, 7, 8), tensor(3, 2, 8, dtype=I32))
        yield cls(2), (tensor(2, 3, 4), tensor(2, 3, 9, dtype=U32))
        yield cls(), (tensor(3, dtype=I32), tensor(5, dtype=I32))


@dataclass(frozen=True)
class GatherNd(Indexed):
    """The slices of the input at tuples of indices, which are the last axis of `indices` (WebNN gatherND)."""

    operands: ClassVar[tuple[str, ...]] = ("input", "indices")
    constraints: ClassVar[dict[str, Constraint]] = {"input": (ALL, 1, MAX_RANK), "indices": (INDICES, 1, MAX_RANK)}

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        return (ins[0].with_shape(self.picked_shape(ins)),)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(ins[0][tuple_of(ins[1], ins[0].shape)])

    @classmethod
    def cases(cls) -> Cases:
        yield cls(), (tensor(7, 5), tensor(3, 2, dtype=I32))
        yield cls(), (tensor(3, 7, 8), tensor(2, 3, 2, dtype=I32))
        yield cls(), (tensor(4, 3, 5), tensor(3, 1, dtype=U32))
        yield cls(), (tensor(4, 3), tensor(2, dtype=I32))
        yield cls(), (tensor(4, 3, dtype=U8), tensor(3, 1, dtype=I32))


@dataclass(frozen=True)
class Scatter(Indexed, abstract=True):
    """A copy of the input with `updates` written where `indices` say; where two updates meet, either may win."""

    operands: ClassVar[tuple[str, ...]] = ("input", "indices", "updates")

    def need_updates(self, shape: tuple[int, ...], ins: tuple[TensorType, ...]) -> None:
        """The updates have the input's data type and `shape`, or fail."""
        if ins[2].dtype != ins[0].dtype or ins[2].shape != shape:
            self.fail(ins, f"updates need the input's data type and the shape {list(shape)}")


@dataclass(frozen=True)
class ScatterElements(Scatter):
    """The input with element indices[.., i, ..] along `axis` replaced by updates[.., i, ..] (WebNN scatterElements)."""

    constraints: ClassVar[dict[str, Constraint]] = {
        "input": (ALL, 1, MAX_RANK),
        "indices": (INDICES, 1, MAX_RANK),
        "updates": (ALL, 1, MAX_RANK),
    }
    axis: int = 0

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        self.need_axis(self.axis, ins)
        self.need_same_but(self.axis, ins)
        self.need_updates(ins[1].shape, ins)
        return (ins[0],)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        x, i, updates = ins
        out = x.copy()
        np.put_along_axis(out, inside(i, x.shape[self.axis]), updates, self.axis)
        return out

    @classmethod
    def cases(cls) -> Cases:  # one update a line: random ones would meet
        yield cls(), (tensor(7, 5), tensor(1, 5, dtype=I32), tensor(1, 5))
        yield cls(1), (tensor(3, 7, 8), tensor(3, 1, 8, dtype=I32), tensor(3, 1, 8))
        yield cls(2), (tensor(2, 3, 9, dtype=I32), tensor(2, 3, 1, dtype=U32), tensor(2, 3, 1, dtype=I32))


@dataclass(frozen=True)
class ScatterNd(Scatter):
    """The input with its slices at tuples of indices replaced by `updates` (WebNN scatterND)."""

    constraints: ClassVar[dict[str, Constraint]] = {
        "input": (ALL, 1, MAX_RANK),
        "indices": (INDICES, 1, MAX_RANK),
        "updates": (ALL, 0, MAX_RANK),
    }

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        self.need_updates(self.picked_shape(ins), ins)
        return (ins[0],)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        x, i, updates = ins
        out = x.copy()
        out[tuple_of(i, x.shape)] = updates
        return out

    @classmethod
    def cases(cls) -> Cases:
        yield cls(), (tensor(7, 5), tensor(1, 2, dtype=I32), tensor(1))
        yield cls(), (tensor(7, 5), tensor(1, dtype=I32), tensor(5))
        yield cls(), (tensor(3, 4, 8), tensor(1, 1, 2, dtype=U32), tensor(1, 1, 8))
        yield cls(), (tensor(3, 7, dtype=I32), tensor(1, 1, dtype=I32), tensor(1, 7, dtype=I32))
