"""Weights: where they lie in buffers, and how these are cut into shards.

    tensors of a plan --WeightStore.add--> places in weight buffers; each buffer is one or more shards, back to back

Several plans share one store: a tensor whose bytes are in it already is not stored again. What a store holds never
moves, so plans can be added after others are in use. Shards are put together when they are read, so that weights mapped
from a model file are never in memory all at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gpucompile.runtime.format import SHARD_BYTES, Buffer

BytesLike: TypeAlias = "bytes | bytearray | memoryview | npt.NDArray[Any]"

_SAMPLE = 256  # bytes looked at before two tensors are compared as a whole


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes lie: weight buffer (an index into `Weights.buffers`), offset and size in bytes."""

    buffer: int
    offset: int
    size: int


@dataclass(frozen=True)
class Content:
    """`size` bytes: pieces at their offsets, zeros between them."""

    size: int
    pieces: tuple[tuple[int, memoryview], ...]

    @staticmethod
    def of(data: BytesLike) -> Content:
        """Bytes as they are."""
        view = flat(data)
        return Content(len(view), ((0, view),))

    def __len__(self) -> int:
        return self.size

    def bytes(self) -> memoryview:
        """The bytes: a view of the only piece, else a new copy."""
        if len(self.pieces) == 1 and len(self.pieces[0][1]) == self.size:
            return self.pieces[0][1]
        out = np.zeros(self.size, np.uint8)
        for offset, data in self.pieces:
            out[offset : offset + len(data)] = data
        return out.data


@dataclass(frozen=True)
class Weights:
    """Weight buffers, the place of each tensor in them (in the order given), and the content of the shards."""

    buffers: tuple[Buffer, ...]
    places: tuple[Place, ...]
    shards: tuple[Content, ...]


@dataclass
class WeightStore:
    """The weights of one or more plans, each tensor once. `max_buffer` limits buffers, in bytes."""

    max_buffer: int = 256 << 20
    buffers: list[Buffer] = field(default_factory=list)
    shards: list[Content] = field(default_factory=list)
    _known: dict[tuple[int, bytes], list[tuple[memoryview, Place]]] = field(default_factory=dict)

    def add(self, tensors: Sequence[BytesLike]) -> list[Place]:
        """Places for the tensors of one more plan, in order of first use; those that are new go to new buffers."""
        places: list[Place | None] = []
        new: list[tuple[tuple[int, bytes], memoryview]] = []
        for tensor in tensors:
            data = flat(tensor)
            key = len(data), bytes(data[:: max(1, len(data) // _SAMPLE)])
            old = next((p for d, p in self._known.get(key, ()) if _equal(d, data)), None)
            places.append(old)
            if old is None:
                new.append((key, data))
        made = make_shards([data for _, data in new], max_buffer=self.max_buffer, unit=16)
        first, first_shard = len(self.buffers), len(self.shards)
        self.buffers += [replace(b, shards=tuple(s + first_shard for s in b.shards)) for b in made.buffers]
        self.shards += made.shards
        moved = [replace(p, buffer=p.buffer + first) for p in made.places]
        for (key, data), place in zip(new, moved, strict=True):
            self._known.setdefault(key, []).append((data, place))
        fresh = iter(moved)
        return [next(fresh) if p is None else p for p in places]


def _equal(a: memoryview, b: memoryview) -> bool:
    return a is b or np.array_equal(np.asarray(a), np.asarray(b))


def flat(data: BytesLike) -> memoryview:
    """Any contiguous bytes-like object as a flat view of bytes, without copying."""
    if isinstance(data, np.ndarray):
        return np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
    return memoryview(data).cast("B")


def make_shards(
    tensors: Sequence[BytesLike],
    *,
    max_buffer: int = 256 << 20,
    shard_bytes: int = SHARD_BYTES,
    alignment: int = 256,
    unit: int = 4,
) -> Weights:
    """Lay tensors out back to back, `alignment` bytes aligned, in as few weight buffers as `max_buffer` allows, and cut
    each buffer into shards of at most `shard_bytes`.

    Give the tensors in order of first use. A tensor larger than `max_buffer` gets a buffer of its own (the target's
    limits then decide whether it runs). Sizes are rounded up to whole `unit`s of bytes, an empty tensor takes one; gaps
    are zero.
    """
    places: list[Place] = []
    contents: list[list[tuple[int, memoryview]]] = []  # per buffer: offset, bytes
    ends: list[int] = []
    for data in map(flat, tensors):
        size = max(unit, (len(data) + unit - 1) // unit * unit)
        offset = (ends[-1] + alignment - 1) // alignment * alignment if ends else 0
        if not ends or offset + size > max_buffer:
            contents.append([])
            ends.append(0)
            offset = 0
        places.append(Place(len(ends) - 1, offset, size))
        contents[-1].append((offset, data))
        ends[-1] = offset + size
    shards: list[Content] = []
    buffers = []
    for pieces, end in zip(contents, ends, strict=True):
        cut = [_cut(pieces, start, min(start + shard_bytes, end)) for start in range(0, end, shard_bytes)]
        buffers.append(Buffer("weight", end, "weights", tuple(range(len(shards), len(shards) + len(cut)))))
        shards += cut
    return Weights(tuple(buffers), tuple(places), tuple(shards))


def _cut(pieces: list[tuple[int, memoryview]], start: int, end: int) -> Content:
    """Bytes `start..end` of a buffer made of pieces (sorted by offset)."""
    inside = []
    for offset, data in pieces:
        low, high = max(offset, start), min(offset + len(data), end)
        if low < high:
            inside.append((low - start, data[low - offset : high - offset]))
    return Content(end - start, tuple(inside))
