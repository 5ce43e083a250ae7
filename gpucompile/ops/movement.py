"""Ops that only move elements: reshape, transpose, slice, concat, pad, expand, tile, reverse and the like.

Each gives its index map (`pieces`) for generated code and a numpy reference written independently of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpucompile.ir.index import Index, delinearize, linearize
from gpucompile.ir.op import ALL, MAX_RANK, Constraint
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.categories import Cases, Movement, Piece, broadcast, tensor

Coords = tuple[Index, ...]


@dataclass(frozen=True)
class Reshape(Movement):
    """The same elements in row-major order under another shape (WebNN reshape). No byte moves."""

    new_shape: tuple[int, ...] = ()

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        if math.prod(self.new_shape) != ins[0].size:
            self.fail(
                ins, f"cannot become {list(self.new_shape)}: {ins[0].size} and {math.prod(self.new_shape)} elements"
            )
        return (ins[0].with_shape(self.new_shape),)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        return ins[0].reshape(self.new_shape)

    def pieces(self, ins: Sequence[TensorType], out: TensorType, coords: Coords) -> tuple[Piece, ...]:
        return (Piece(0, delinearize(linearize(coords, out.shape), ins[0].shape)),)

    def forward(self, source: TensorType, out: TensorType, coords: Coords) -> Coords:
        return delinearize(linearize(coords, source.shape), out.shape)

    def openvino(self, ov: Any, *args: Any) -> Any:
        """To no axes as squeeze: a reshape of a matrix product to a scalar crashes the CPU device's compiler."""
        (x,) = args
        if not self.new_shape and ov.type(x).rank:
            return ov.squeeze(x, ov.integers(range(ov.type(x).rank)))
        return ov.reshape(x, ov.integers(self.new_shape), False)

    @classmethod
    def cases(cls) -> Cases:
        yield cls((6, 4)), (tensor(2, 3, 4),)
        yield cls((5, 1, 7)), (tensor(35),)
        yield cls(()), (tensor(1, 1),)


@dataclass(frozen=True)
class Transpose(Movement):
    """Result axis i is operand axis permutation[i] (WebNN transpose)."""

    permutation: tuple[int, ...] = ()

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        if sorted(self.permutation) != list(range(ins[0].rank)):
            self.fail(ins, f"{list(self.permutation)} is not a permutation of {ins[0].rank} axes")
        return (ins[0].with_shape(tuple(ins[0].shape[p] for p in self.permutation)),)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        return ins[0].transpose(self.permutation)

    def pieces(self, ins: Sequence[TensorType], out: TensorType, coords: Coords) -> tuple[Piece, ...]:
        source = [Index()] * len(coords)
        for i, p in enumerate(self.permutation):
            source[p] = coords[i]
        return (Piece(0, tuple(source)),)

    def forward(self, source: TensorType, out: TensorType, coords: Coords) -> Coords:
        return tuple(coords[p] for p in self.permutation)

    def openvino(self, ov: Any, *args: Any) -> Any:
        return ov.transpose(args[0], ov.integers(self.permutation))

    @classmethod
    def cases(cls) -> Cases:
        yield cls((1, 0)), (tensor(5, 7),)
        yield cls((0, 2, 3, 1)), (tensor(2, 3, 4, 5),)
        yield cls((3, 1, 0, 2)), (tensor(4, 8, 4, 12),)


@dataclass(frozen=True)
class Slice(Movement):
    """result[i] = input[starts + i * strides], as many as `sizes` cover (WebNN slice).

    `sizes` is the extent of the window in the input; the result has ceil(sizes / strides) elements an axis."""

    starts: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    strides: tuple[int, ...] | None = None

    @property
    def steps(self) -> tuple[int, ...]:
        return self.strides or (1,) * len(self.starts)

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        (t,) = ins
        if not len(self.starts) == len(self.sizes) == len(self.steps) == t.rank:
            self.fail(ins, f"starts, sizes and strides need {t.rank} values")
        for i, (a, n, s) in enumerate(zip(self.starts, self.sizes, self.steps, strict=True)):
            if a < 0 or n < 1 or s < 1 or a + n > t.shape[i]:
                self.fail(ins, f"axis {i}: start {a}, size {n}, stride {s} leave the extent {t.shape[i]}")
        return (t.with_shape(tuple(-(-n // s) for n, s in zip(self.sizes, self.steps, strict=True))),)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        window = zip(self.starts, self.sizes, self.steps, strict=True)
        return ins[0][tuple(slice(a, a + n, s) for a, n, s in window)]

    def pieces(self, ins: Sequence[TensorType], out: TensorType, coords: Coords) -> tuple[Piece, ...]:
        return (Piece(0, tuple(c * s + a for c, s, a in zip(coords, self.steps, self.starts, strict=True))),)

    def openvino(self, ov: Any, *args: Any) -> Any:
        if not self.starts:
            return args[0]
        ends = [a + n for a, n in zip(self.starts, self.sizes, strict=True)]
        return ov.slice(args[0], *map(ov.integers, (self.starts, ends, self.steps)))

    @classmethod
    def cases(cls) -> Cases:
        yield cls((1, 2), (3, 4)), (tensor(5, 7),)
        yield cls((0, 1, 0), (4, 7, 8), (2, 3, 1)), (tensor(5, 9, 8),)
        yield cls((0, 0, 4), (2, 3, 4)), (tensor(2, 3, 12),)


@dataclass(frozen=True)
class Concat(Movement):
    """Operands one after the other along `axis` (WebNN concat)."""

    operands: ClassVar[tuple[str, ...]] = ("inputs*",)
    constraints: ClassVar[dict[str, Constraint]] = {"inputs": (ALL, 1, MAX_RANK)}
    axis: int = 0

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        if not ins:
            self.fail(ins, "needs at least one operand")
        first = ins[0]
        if not 0 <= self.axis < first.rank:
            self.fail(ins, f"axis {self.axis} is not an axis of a rank {first.rank} tensor")
        for t in ins[1:]:
            same = t.rank == first.rank and all(
                i == self.axis or a == b for i, (a, b) in enumerate(zip(t.shape, first.shape, strict=True))
            )
            if t.dtype != first.dtype or not same:
                self.fail(ins, f"operands differ in data type, rank or an axis other than {self.axis}")
        shape = list(first.shape)
        shape[self.axis] = sum(t.shape[self.axis] for t in ins)
        return (first.with_shape(tuple(shape)),)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        return np.concatenate(ins, axis=self.axis)

    def pieces(self, ins: Sequence[TensorType], out: TensorType, coords: Coords) -> tuple[Piece, ...]:
        out_pieces = []
        start = 0
        for i, t in enumerate(ins):
            moved = list(coords)
            moved[self.axis] = coords[self.axis] - start
            end = start + t.shape[self.axis]
            out_pieces.append(Piece(i, tuple(moved), ((coords[self.axis], start, end),)))
            start = end
        return tuple(out_pieces)

    def openvino(self, ov: Any, *args: Any) -> Any:
        return ov.concat(list(args), self.axis)

    @classmethod
    def cases(cls) -> Cases:
        yield cls(1), (tensor(2, 3), tensor(2, 5))
        yield cls(0), (tensor(2, 3), tensor(1, 3), tensor(4, 3))
        yield cls(3), (tensor(1, 5, 5, 8), tensor(1, 5, 5, 4), tensor(1, 5, 5, 12))


@dataclass(frozen=True)
class Pad(Movement):
    """The input with `beginning` and `ending` elements added an axis (WebNN pad).

    `mode` is constant, edge or reflection; `value` fills in constant mode."""

    beginning: tuple[int, ...] = ()
    ending: tuple[int, ...] = ()
    mode: str = "constant"
    value: int | float = 0.0

    @property
    def fill(self) -> int | float:
        return self.value

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        (t,) = ins
        if len(self.beginning) != t.rank or len(self.ending) != t.rank:
            self.fail(ins, f"beginning and ending need {t.rank} values")
        if self.mode not in ("constant", "edge", "reflection"):
            self.fail(ins, f"unknown mode {self.mode!r}")
        if min((*self.beginning, *self.ending), default=0) < 0:
            self.fail(ins, "negative padding")
        if self.mode == "reflection":
            for i, d in enumerate(t.shape):
                if max(self.beginning[i], self.ending[i]) >= d:
                    self.fail(ins, f"axis {i}: reflection padding must be smaller than the extent {d}")
        shape = zip(self.beginning, t.shape, self.ending, strict=True)
        return (t.with_shape(tuple(b + d + e for b, d, e in shape)),)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        if not ins[0].ndim:
            return ins[0]  # numpy pads no scalars
        widths = list(zip(self.beginning, self.ending, strict=True))
        if self.mode == "constant":
            return np.pad(ins[0], widths, constant_values=np.array(self.value).astype(ins[0].dtype))
        return np.pad(ins[0], widths, mode="edge" if self.mode == "edge" else "reflect")

    def pieces(self, ins: Sequence[TensorType], out: TensorType, coords: Coords) -> tuple[Piece, ...]:
        shape = ins[0].shape
        padded = [i for i in range(len(shape)) if self.beginning[i] or self.ending[i]]
        inside = tuple(c - b for c, b in zip(coords, self.beginning, strict=True))
        guards = {i: (coords[i], self.beginning[i], self.beginning[i] + shape[i]) for i in padded}
        if self.mode == "constant":
            return (Piece(0, inside, tuple(guards.values())),)
        # one piece for every combination of before / inside / after on the padded axes
        pieces = [Piece(0, inside)]
        for i in padded:
            begin, extent = self.beginning[i], shape[i]
            if self.mode == "edge":
                before, after = Index(), Index.of(extent - 1)
            else:
                before, after = begin - coords[i], (2 * (extent - 1) + begin) - coords[i]
            options = [
                ((coords[i], 0, begin), before),
                ((coords[i], begin, begin + extent), inside[i]),
                ((coords[i], begin + extent, out.shape[i]), after),
            ]
            pieces = [
                Piece(0, (*p.coords[:i], where, *p.coords[i + 1 :]), (*p.guards, guard))
                for p in pieces
                for guard, where in options
                if guard[1] < guard[2]
            ]
        return tuple(pieces)

    def openvino(self, ov: Any, *args: Any) -> Any:
        (x,) = args
        mode = {"constant": "constant", "edge": "edge", "reflection": "reflect"}[self.mode]
        fill = ov.constant(np.array(self.value).astype(ov.type(x).dtype.numpy)) if mode == "constant" else None
        return ov.pad(x, ov.integers(self.beginning), ov.integers(self.ending), mode, fill)

    @classmethod
    def cases(cls) -> Cases:
        yield cls((1, 0), (2, 3)), (tensor(3, 5),)
        yield cls((0, 1, 1, 0), (0, 2, 1, 0), value=-1.5), (tensor(1, 3, 4, 8),)
        yield cls((1, 2), (2, 1), mode="edge"), (tensor(3, 4),)
        yield cls((1, 2), (2, 3), mode="reflection"), (tensor(3, 4),)


@dataclass(frozen=True)
class Expand(Movement):
    """Broadcast to `new_shape` (WebNN expand)."""

    new_shape: tuple[int, ...] = ()

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        out = ins[0].with_shape(self.new_shape)
        if broadcast(self, ins[0], out) != self.new_shape:
            self.fail(ins, f"cannot expand to {list(self.new_shape)}")
        return (out,)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        return np.broadcast_to(ins[0], self.new_shape)

    def pieces(self, ins: Sequence[TensorType], out: TensorType, coords: Coords) -> tuple[Piece, ...]:
        tail = coords[len(coords) - ins[0].rank :]
        return (Piece(0, tuple(Index() if d == 1 else c for c, d in zip(tail, ins[0].shape, strict=True))),)

    def openvino(self, ov: Any, *args: Any) -> Any:
        return ov.broadcast(args[0], ov.integers(self.new_shape))

    @classmethod
    def cases(cls) -> Cases:
        yield cls((3, 4, 5)), (tensor(4, 1),)
        yield cls((2, 8)), (tensor(),)


@dataclass(frozen=True)
class Tile(Movement):
    """The input repeated `repetitions` times along each axis (WebNN tile)."""

    repetitions: tuple[int, ...] = ()

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        (t,) = ins
        if len(self.repetitions) != t.rank or min(self.repetitions, default=1) < 1:
            self.fail(ins, f"repetitions {list(self.repetitions)} needs {t.rank} values from 1")
        return (t.with_shape(tuple(r * d for r, d in zip(self.repetitions, t.shape, strict=True))),)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        return np.tile(ins[0], self.repetitions)

    def pieces(self, ins: Sequence[TensorType], out: TensorType, coords: Coords) -> tuple[Piece, ...]:
        return (Piece(0, tuple(c % d for c, d in zip(coords, ins[0].shape, strict=True))),)

    def openvino(self, ov: Any, *args: Any) -> Any:
        return ov.tile(args[0], ov.integers(self.repetitions)) if self.repetitions else args[0]

    @classmethod
    def cases(cls) -> Cases:
        yield cls((2, 3)), (tensor(3, 5),)
        yield cls((1, 2, 2)), (tensor(3, 1, 4),)
        yield cls((3,)), (tensor(7),)
        yield cls((2, 1, 3, 1)), (tensor(1, 3, 5, 8),)
        yield cls(()), (tensor(),)
        yield cls((3, 2)), (tensor(2, 3, dtype=DataType.UINT8),)
        yield cls((2, 2)), (tensor(3, 3, dtype=DataType.INT32),)


@dataclass(frozen=True)
class Repeat(Movement):
    """Each element `repetitions` times along each axis, neighbours of itself (numpy's repeat; not in WebNN, where
    quantisation spreads its scales like this)."""

    repetitions: tuple[int, ...] = ()

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        (t,) = ins
        if len(self.repetitions) != t.rank or min(self.repetitions, default=1) < 1:
            self.fail(ins, f"repetitions {list(self.repetitions)} needs {t.rank} values from 1")
        return (t.with_shape(tuple(r * d for r, d in zip(self.repetitions, t.shape, strict=True))),)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        out = ins[0]
        for axis, count in enumerate(self.repetitions):
            out = np.repeat(out, count, axis)
        return out

    def pieces(self, ins: Sequence[TensorType], out: TensorType, coords: Coords) -> tuple[Piece, ...]:
        return (Piece(0, tuple(c // r for c, r in zip(coords, self.repetitions, strict=True))),)

    def openvino(self, ov: Any, *args: Any) -> Any:
        (x,) = args
        pairs = list(zip(ov.type(x).shape, self.repetitions, strict=True))
        apart = ov.reshape(x, ov.integers([n for d, _ in pairs for n in (d, 1)]), False)
        spread = ov.broadcast(apart, ov.integers([n for pair in pairs for n in pair]))
        return ov.reshape(spread, ov.integers([d * r for d, r in pairs]), False)

    @classmethod
    def cases(cls) -> Cases:
        yield cls((2, 3)), (tensor(3, 5),)
        yield cls((1, 4)), (tensor(3, 5),)
        yield cls((3, 1, 8)), (tensor(2, 3, 2),)
        yield cls((5, 1)), (tensor(1, 4),)
        yield cls(()), (tensor(),)
        yield cls((2, 2)), (tensor(3, 3, dtype=DataType.UINT8),)


@dataclass(frozen=True)
class Reverse(Movement):
    """The elements in reverse order along `axes`, None for all (WebNN reverse)."""

    axes: tuple[int, ...] | None = None

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        (t,) = ins
        axes = self.axes or ()
        if len(set(axes)) != len(axes) or any(not 0 <= a < t.rank for a in axes):
            self.fail(ins, f"axes {list(axes)} are not distinct axes of a rank {t.rank} tensor")
        return (t,)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        return np.flip(ins[0], self.axes)

    def pieces(self, ins: Sequence[TensorType], out: TensorType, coords: Coords) -> tuple[Piece, ...]:
        return (Piece(0, self.forward(ins[0], out, coords)),)

    def forward(self, source: TensorType, out: TensorType, coords: Coords) -> Coords:
        shape = source.shape
        reversed_ = range(len(shape)) if self.axes is None else self.axes
        return tuple(shape[i] - 1 - c if i in reversed_ else c for i, c in enumerate(coords))

    def openvino(self, ov: Any, *args: Any) -> Any:
        (x,) = args
        axes = range(ov.type(x).rank) if self.axes is None else self.axes
        if not axes:
            return x
        start, stop, step = ([value] * len(axes) for value in (-1, -(2**31) + 1, -1))
        return ov.slice(x, *map(ov.integers, (start, stop, step, axes)))

    @classmethod
    def cases(cls) -> Cases:
        yield cls(), (tensor(3, 5),)
        yield cls((1,)), (tensor(2, 3, 8),)
        yield cls((2, 0)), (tensor(2, 3, 8),)
        yield cls(()), (tensor(7),)
        yield cls(), (tensor(),)
        yield cls(), (tensor(3, 7, dtype=DataType.INT8),)


@dataclass(frozen=True)
class Triangular(Movement):
    """Of the last two axes what lies on or above (`upper`) or on or below the diagonal that is `diagonal` columns right
    of the main one; elsewhere 0 (WebNN triangular)."""

    constraints: ClassVar[dict[str, Constraint]] = {"input": (ALL, 2, MAX_RANK)}
    upper: bool = True
    diagonal: int = 0

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        return (ins[0],)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        return np.triu(ins[0], self.diagonal) if self.upper else np.tril(ins[0], self.diagonal)

    def pieces(self, ins: Sequence[TensorType], out: TensorType, coords: Coords) -> tuple[Piece, ...]:
        rows, columns = ins[0].shape[-2:]
        distance = coords[-1] - coords[-2] + (rows - 1)  # from the lower left corner's diagonal; never negative
        at = min(max(self.diagonal + rows - 1, -1), rows + columns)
        low, high = (at, rows + columns) if self.upper else (0, at + 1)
        return (Piece(0, coords, ((distance, max(low, 0), max(high, 0)),)),)

    def openvino(self, ov: Any, *args: Any) -> Any:
        (x,) = args
        ones = np.ones(ov.type(x).shape[-2:], np.bool_)
        kept = np.triu(ones, self.diagonal) if self.upper else np.tril(ones, self.diagonal)
        return ov.select(ov.constant(kept), x, ov.scalar(0, x))

    @classmethod
    def cases(cls) -> Cases:
        yield cls(), (tensor(5, 7),)
        yield cls(False), (tensor(7, 5),)
        yield cls(True, 2), (tensor(2, 4, 8),)
        yield cls(False, -1), (tensor(3, 3, 5, 8),)
        yield cls(False, 1), (tensor(6, 4),)
        yield cls(True, -2), (tensor(5, 3),)
        yield cls(True, -100), (tensor(3, 5),)
        yield cls(True, 100), (tensor(3, 5),)
        yield cls(False, -100), (tensor(3, 4),)
        yield cls(False, 100), (tensor(3, 4),)
        yield cls(True, 1), (tensor(3, 5, dtype=DataType.INT32),)
