"""What the strategies of all ops draw with: shapes, axes, options and values, and the case they make of them."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from hypothesis import strategies as st

from gpucompile.ir.literals import limits
from gpucompile.ir.op import MAX_RANK, Op
from gpucompile.ir.types import DataType, TensorType

T = TypeVar("T")
Shape = tuple[int, ...]

#: No tensor that is drawn has more elements (results may).
MAX_SIZE = 320
#: One; no multiples of four; multiples of four.
EXTENTS = (1, 2, 3, 4, 5, 7, 8, 12, 17, 36)


@dataclass(frozen=True)
class Operand:
    """A type and the values of it (4-bit types: one element a byte)."""

    type: TensorType
    array: np.ndarray


@dataclass(frozen=True, repr=False)
class Case:
    """An op on operands (None: absent). `constant` says which operands are constants of the graph, the others are its
    inputs; `dressed` that inputs and results pass through another op, with which they may fuse."""

    op: Op
    operands: tuple[Operand | None, ...]
    constant: tuple[bool, ...] = ()
    dressed: bool = False

    @property
    def types(self) -> tuple[TensorType | None, ...]:
        return tuple(o and o.type for o in self.operands)

    def __repr__(self) -> str:
        how = ["input", "constant"]
        operands = ", ".join(
            "-" if o is None else f"{how[c]} {o.type}={np.array2string(o.array.ravel(), threshold=8)}"
            for o, c in zip(self.operands, self.constant, strict=True)
        )
        return f"{self.op}({operands}){' dressed' if self.dressed else ''}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # hypothesis would print every class variable of the op


class Draw:
    """One case being drawn: `dtype` is the data type of the op's main operand."""

    def __init__(self, draw: st.DrawFn, cls: type[Op], dtype: DataType) -> None:
        self._draw, self.cls, self.dtype = draw, cls, dtype
        # one drawn number for all arrays: hypothesis varies shapes and options, which is where the bugs are
        self.rng = np.random.default_rng([zlib.crc32(f"{cls.name} {dtype}".encode()), self.integer(0, 999)])

    # Choices --------------------------------------------------------------------------------------------------------

    def integer(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))

    def of(self, *values: T) -> T:
        return self._draw(st.sampled_from(values))

    def flag(self) -> bool:
        return self._draw(st.booleans())

    def pair(self, *values: int) -> tuple[int, int]:
        return self.of(*values), self.of(*values)

    def permutation(self, count: int) -> Shape:
        return tuple(self._draw(st.permutations(range(count))))

    def some_axes(self, rank: int) -> Shape:
        """Distinct axes in any order, perhaps none."""
        return self.permutation(rank)[: self.integer(0, rank)]

    def axis(self, rank: int) -> int:
        return self.integer(0, rank - 1)

    def attributes(self) -> dict[str, object]:
        """Every field of the op that is a number or a flag."""
        out: dict[str, object] = {}
        for f in dataclasses.fields(self.cls):
            out[f.name] = self.flag() if f.type == "bool" else self.of(f.default, 0.0, -0.3, 1.25, 3.0)
        return out

    # Shapes ---------------------------------------------------------------------------------------------------------

    def rank(self, low: int = 0, high: int = MAX_RANK) -> int:
        """Ranks up to 4 are more frequent than larger ones."""
        return self.integer(low, high) if self.integer(0, 3) == 3 else self.integer(low, max(low, min(high, 4)))

    def shape(self, low: int = 0, high: int = MAX_RANK, size: int = MAX_SIZE) -> Shape:
        """`low` to `high` extents, of a product of at most `size`, large ones anywhere."""
        rank = self.rank(low, high)
        extents = []
        for _ in range(rank):
            extents.append(self.of(*(e for e in EXTENTS if e <= size)))
            size //= extents[-1]
        order = self.permutation(rank)
        return tuple(extents[i] for i in order)

    def broadcastable(self, shape: Shape, full: bool = True) -> Shape:
        """A shape that broadcasts to `shape`: leading axes missing, others 1; often (if `full`) all of it."""
        if full and self.flag():
            return shape
        return tuple(d if self.flag() else 1 for d in shape)[self.integer(0, len(shape)) :]

    def operand_shapes(self, count: int) -> list[Shape]:
        """Shapes that broadcast together, and none of them needs to be the common one."""
        common = self.shape()
        return [self.broadcastable(common) for _ in range(count)]

    # Values ---------------------------------------------------------------------------------------------------------

    def operand(
        self, shape: Sequence[int], dtype: DataType | None = None, domain: tuple[float, float] | None = None
    ) -> Operand:
        """Values of the op's domain: anything, or halves, where ties and equal elements are; integers of all sizes."""
        dtype = dtype or self.dtype
        type = TensorType(dtype, tuple(shape))
        if not dtype.is_float:
            return Operand(type, self.integers(type))
        low, high = domain or getattr(self.cls, "domain", (-4.0, 4.0))
        x = self.rng.uniform(low, high, type.shape)
        if self.flag():
            x = np.clip(np.round(x * 2) / 2, low, high)
        return Operand(type, np.asarray(x).astype(dtype.numpy))

    def integers(self, type: TensorType) -> np.ndarray:
        """Small ones, any, or those at which types end."""
        low, high = limits(type.dtype)
        kind = self.of("small", "any", "edges")
        if kind == "small":
            some = list(range(max(low, -4), min(high, 5) + 1))
        elif kind == "edges":
            edges = {0, 1, low, high, low + 1, high - 1}
            edges |= {
                s * (2**b + d) for b in (3, 7, 8, 15, 16, 24, 31, 32, 53, 63) for d in (-1, 0, 1) for s in (1, -1)
            }
            some = sorted(e for e in edges if low <= e <= high)
        else:
            some = [int(v) for v in self.rng.integers(low, high, 64, type.dtype.numpy, endpoint=True)]
        return np.asarray(np.array(some, type.dtype.numpy)[self.rng.integers(0, len(some), type.shape)])

    def small(self, shape: Sequence[int], dtype: DataType) -> Operand:
        """Integers of at most 8 bits."""
        low, high = limits(dtype)
        x = self.rng.integers(max(low, -128), min(high, 127), tuple(shape), endpoint=True)
        return Operand(TensorType(dtype, tuple(shape)), np.asarray(x).astype(dtype.numpy))

    def indices(self, shape: Sequence[int], extent: int, dtype: DataType) -> Operand:
        """Positions along an axis, some counted from its end, some outside."""
        low = -extent if dtype.is_signed else 0
        reach = self.of(0, 0, 3)
        x = self.rng.integers(low - (reach if dtype.is_signed else 0), extent + reach, tuple(shape))
        return Operand(TensorType(dtype, tuple(shape)), np.asarray(x).astype(dtype.numpy))

    # Cases ----------------------------------------------------------------------------------------------------------

    def case(self, op: Op, *operands: Operand | None) -> Case:
        """Only what follows the first operand may be constant: graphs of constants alone are folded."""
        constant = tuple(i > 0 and o is not None and self.integer(0, 2) == 2 for i, o in enumerate(operands))
        return Case(op, operands, constant, self.flag())


def fits(shape: Sequence[int], size: int = 4 * MAX_SIZE) -> bool:
    """Whether a tensor of this shape is small enough to compute."""
    return math.prod(shape) <= size
