"""The fusion categories an op belongs to by its base class.

- `Elementwise`: a scalar formula in WGSL, applied with broadcasting. Fuses anywhere.
- `Movement`: an index map. Fuses as index arithmetic into loads, or becomes an alias where no byte moves.
- `Reduction`: combines elements along axes with an identity and a combine formula.
- `Anchor`: owns a schedule and a template (matmul, convolution, pooling, softmax, ...).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpucompile.ir.index import Index
from gpucompile.ir.op import MaybeType, Op
from gpucompile.ir.types import DataType, TensorType

Case = tuple[Op, tuple[MaybeType, ...]]
Cases = Iterator[Case]


def tensor(*shape: int, dtype: DataType = DataType.FLOAT32) -> TensorType:
    """Shorthand for test cases: `tensor(2, 3)` is f32[2,3]."""
    return TensorType(dtype, shape)


def broadcast(op: Op, *ins: MaybeType) -> tuple[int, ...]:
    """The numpy-broadcast shape of the operands (WebNN "bidirectionally broadcast the shapes"), or op.fail."""
    out: list[int] = []
    for t in ins:
        if t is None:
            continue
        shape = list(t.shape)
        n = max(len(out), len(shape))
        out, shape = [1] * (n - len(out)) + out, [1] * (n - len(shape)) + shape
        for i, (a, b) in enumerate(zip(out, shape, strict=True)):
            if a != b and 1 not in (a, b):
                op.fail(ins, f"shapes do not broadcast: dimension {i} is {a} and {b}")
            out[i] = b if a == 1 else a
    return tuple(out)


@dataclass(frozen=True)
class Elementwise(Op, abstract=True):
    """result[i] = formula(operands[i]), operands broadcast. All operands have one data type unless `infer` differs."""

    #: Whether the formula can leave the range of integers narrower than 32 bits, and then has to wrap around.
    wraps: ClassVar[bool] = False

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        present = [t for t in ins if t is not None]
        if len({t.dtype for t in present}) > 1:
            self.fail(ins, "data types differ")
        return (TensorType(present[0].dtype, broadcast(self, *ins)),)

    def wgsl(self, args: Sequence[str], t: str, r: str) -> str:
        """A WGSL expression of type `r` from argument expressions of type `t`.

        `t` and `r` are constructors, `f32` or `vec4<f32>` and so on, and the formula must be right for scalars and
        vectors alike: write `max({x}, {t}(0.0))`, `select(a, b, condition)`. Arguments may be used more than once
        (callers pass names, not expressions). 64-bit integers are `Int64` and `Uint64`, pairs of words that are never
        in vectors: only the functions of `shaders/_library.wgsl.j2` compute with them."""
        raise NotImplementedError(f"{type(self).__name__}.wgsl")


@dataclass(frozen=True)
class Piece:
    """One part of an index map: where all guards `low <= index < high` hold, the result at the given coordinates is
    operand `operand` at `coords`."""

    operand: int
    coords: tuple[Index, ...]
    guards: tuple[tuple[Index, int, int], ...] = ()


@dataclass(frozen=True)
class Movement(Op, abstract=True):
    """A pure rearrangement: every result element is an element of an operand, or a constant."""

    def pieces(self, ins: Sequence[TensorType], out: TensorType, coords: tuple[Index, ...]) -> tuple[Piece, ...]:
        """The index map at result coordinates `coords`: the first piece whose guards hold; where none holds, `fill`."""
        raise NotImplementedError(f"{type(self).__name__}.pieces")

    def forward(self, source: TensorType, out: TensorType, coords: tuple[Index, ...]) -> tuple[Index, ...] | None:
        """For one-to-one maps: the result coordinates of operand element `coords`; None where there is no such map."""
        return None

    @property
    def fill(self) -> int | float:
        """The value where no piece applies."""
        return 0.0


@dataclass(frozen=True)
class Reduction(Op, abstract=True):
    """result = finish(combine over `axes` of map(x)). `axes` None means all, empty means none (WebNN section
    "reduction operations")."""

    axes: tuple[int, ...] | None = None
    keep_dimensions: bool = False

    identity: ClassVar[str] = "0.0"  # WGSL literal in f32, or "lowest"/"highest" of the type
    #: Whether `combine` may drop a NaN, so that kernels have to look for it themselves.
    drops_nan: ClassVar[bool] = False

    def reduced_axes(self, rank: int) -> tuple[int, ...]:
        """The axes it reduces, sorted."""
        return tuple(range(rank)) if self.axes is None else tuple(sorted(self.axes))

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        (t,) = ins
        axes = self.reduced_axes(t.rank)
        if len(set(axes)) != len(axes) or any(not 0 <= a < t.rank for a in axes):
            self.fail(ins, f"axes {list(axes)} are not distinct axes of a rank {t.rank} tensor")
        if self.keep_dimensions:
            return (t.with_shape(tuple(1 if i in axes else d for i, d in enumerate(t.shape))),)
        return (t.with_shape(tuple(d for i, d in enumerate(t.shape) if i not in axes)),)

    def map(self, x: str, t: str) -> str:
        """WGSL: what is done to an element before combining. `t` as in Elementwise.wgsl."""
        return x

    def combine(self, a: str, b: str, t: str) -> str:
        """WGSL: an associative combination of two accumulators of type `t`."""
        raise NotImplementedError(f"{type(self).__name__}.combine")

    def finish(self, x: str, count: int, t: str) -> str:
        """WGSL: the result from the combined accumulator of `count` elements."""
        return x

    def numpy_axes(self, x: np.ndarray) -> tuple[int, ...]:
        return self.reduced_axes(x.ndim)

    def openvino(self, ov: Any, *args: Any) -> Any:
        if self.opset is None:
            return super().openvino(ov, *args)
        (x,) = args
        return getattr(ov, self.opset)(x, ov.integers(self.reduced_axes(ov.type(x).rank)), self.keep_dimensions)


@dataclass(frozen=True)
class Anchor(Op, abstract=True):
    """An op with a schedule and a template of its own."""
