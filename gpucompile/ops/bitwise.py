"""Operations on the bits of integers, which WebNN lacks and ONNX has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gpucompile.ir.op import INTS, Constraint
from gpucompile.ir.types import DataType
from gpucompile.ops.categories import Cases, tensor
from gpucompile.ops.formula import ANY_RANK, Binary, retype

UNSIGNED = frozenset(d for d in INTS if not d.is_signed)


@dataclass(frozen=True)
class Bitwise(Binary, abstract=True):
    """A function of two integers, bit by bit."""

    constraints: ClassVar[dict[str, Constraint]] = {"a": (INTS, *ANY_RANK), "b": (INTS, *ANY_RANK)}
    exact: ClassVar[bool] = True
    domain: ClassVar[tuple[float, float]] = (0.0, 100.0)

    @classmethod
    def cases(cls) -> Cases:
        for dtype in (DataType.UINT32, DataType.INT32, DataType.UINT8):
            if dtype in cls.constraints["a"][0]:
                yield cls(), (tensor(3, 7, dtype=dtype), tensor(7, dtype=dtype))
                yield cls(), (tensor(2, 8, dtype=dtype), tensor(2, 8, dtype=dtype))


@dataclass(frozen=True)
class BitwiseAnd(Bitwise):
    """a & b"""

    onnx: ClassVar[str | None] = "BitwiseAnd"
    formula: ClassVar[str] = "{a} & {b}"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.bitwise_and(*ins))


@dataclass(frozen=True)
class BitwiseOr(Bitwise):
    """a | b"""

    onnx: ClassVar[str | None] = "BitwiseOr"
    formula: ClassVar[str] = "{a} | {b}"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.bitwise_or(*ins))


@dataclass(frozen=True)
class BitwiseXor(Bitwise):
    """a ^ b"""

    onnx: ClassVar[str | None] = "BitwiseXor"
    formula: ClassVar[str] = "{a} ^ {b}"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.bitwise_xor(*ins))


@dataclass(frozen=True)
class Shift(Bitwise, abstract=True):
    """Unsigned integers moved by b bits; bits that leave are lost, also where b is all of them or more."""

    constraints: ClassVar[dict[str, Constraint]] = {"a": (UNSIGNED, *ANY_RANK), "b": (UNSIGNED, *ANY_RANK)}
    domain: ClassVar[tuple[float, float]] = (0.0, 40.0)
    symbol: ClassVar[str] = ""

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        a, b = args
        u = retype(t, "u32")
        return f"select({a} {self.symbol} ({u}({b}) & {u}(31u)), {t}(0), {b} > {t}(31))"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        a, b = ins
        bits = a.dtype.itemsize * 8
        moved = np.left_shift if self.symbol == "<<" else np.right_shift
        return np.where(b < bits, moved(a, np.minimum(b, bits - 1).astype(a.dtype)), 0).astype(a.dtype)


@dataclass(frozen=True)
class ShiftLeft(Shift):
    """a << b"""

    symbol: ClassVar[str] = "<<"


@dataclass(frozen=True)
class ShiftRight(Shift):
    """a >> b"""

    symbol: ClassVar[str] = ">>"
