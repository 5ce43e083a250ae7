"""Operations on the bits of integers, which WebNN lacks and ONNX has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpucompile.ir.op import INTS, Constraint
from gpucompile.ir.types import DataType
from gpucompile.ops.categories import Cases, tensor
from gpucompile.ops.formula import ANY_RANK, Binary, is_wide, retype, scalar


@dataclass(frozen=True)
class Bitwise(Binary, abstract=True):
    """A function of two integers, bit by bit."""

    constraints: ClassVar[dict[str, Constraint]] = {"a": (INTS, *ANY_RANK), "b": (INTS, *ANY_RANK)}
    exact: ClassVar[bool] = True
    domain: ClassVar[tuple[float, float]] = (0.0, 100.0)

    @classmethod
    def cases(cls) -> Cases:
        for dtype in (DataType.UINT32, DataType.INT32, DataType.UINT8, DataType.INT64, DataType.UINT64):
            if dtype in cls.constraints["a"][0]:
                yield cls(), (tensor(3, 7, dtype=dtype), tensor(7, dtype=dtype))
                yield cls(), (tensor(2, 8, dtype=dtype), tensor(2, 8, dtype=dtype))


@dataclass(frozen=True)
class BitwiseAnd(Bitwise):
    """a & b"""

    onnx: ClassVar[str | None] = "BitwiseAnd"
    opset: ClassVar[str | None] = "bitwise_and"
    formula: ClassVar[str] = "{a} & {b}"
    formula64: ClassVar[str] = "{a} & {b}"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.bitwise_and(*ins))


@dataclass(frozen=True)
class BitwiseOr(Bitwise):
    """a | b"""

    onnx: ClassVar[str | None] = "BitwiseOr"
    opset: ClassVar[str | None] = "bitwise_or"
    formula: ClassVar[str] = "{a} | {b}"
    formula64: ClassVar[str] = "{a} | {b}"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.bitwise_or(*ins))


@dataclass(frozen=True)
class BitwiseXor(Bitwise):
    """a ^ b"""

    onnx: ClassVar[str | None] = "BitwiseXor"
    opset: ClassVar[str | None] = "bitwise_xor"
    formula: ClassVar[str] = "{a} ^ {b}"
    formula64: ClassVar[str] = "{a} ^ {b}"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.bitwise_xor(*ins))


@dataclass(frozen=True)
class ShiftLeft(Bitwise):
    """a moved up by b bits. Bits that leave are lost, also where b, taken as unsigned, is all of them or more."""

    domain: ClassVar[tuple[float, float]] = (0.0, 70.0)
    formula64: ClassVar[str] = "shift_left64({a}, {b})"

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        a, b = args
        if is_wide(t):
            return super().expression(args, t, r)
        u = retype(t, "u32")
        return f"select({a} << ({u}({b}) & {u}(31u)), {t}(0), {u}({b}) > {u}(31u))"

    def openvino(self, ov: Any, *args: Any) -> Any:
        a, b = args
        count, inside = _openvino_count(ov, b)
        out = ov.bitwise_left_shift(a, count)
        return out if inside is None else ov.bitwise_and(out, inside)

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        a, b, bits = _unsigned(*ins)
        return np.where(b < bits, np.left_shift(a, np.minimum(b, bits - 1).astype(a.dtype)), 0).astype(a.dtype)


@dataclass(frozen=True)
class ShiftRight(Bitwise):
    """a moved down by b bits, copies of its sign entering where it is signed; b as in ShiftLeft."""

    domain: ClassVar[tuple[float, float]] = (0.0, 70.0)
    formula64: ClassVar[str] = "{I}_shift_right({a}, {b})"

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        a, b = args
        if is_wide(t):
            return super().expression(args, t, r)
        u = retype(t, "u32")
        most = f"min({u}({b}), {u}(31u))"
        return f"{a} >> {most}" if scalar(t) == "i32" else f"select({a} >> {most}, {t}(0), {u}({b}) > {u}(31u))"

    def openvino(self, ov: Any, *args: Any) -> Any:
        a, b = args
        count, inside = _openvino_count(ov, b)
        if inside is not None:  # 31 where it is more
            count = ov.bitwise_or(count, ov.bitwise_and(ov.bitwise_not(inside), ov.scalar(31, b)))
        return ov.bitwise_right_shift(a, count)

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        a, b, bits = _unsigned(*ins)
        moved = np.right_shift(a, np.minimum(b, bits - 1).astype(a.dtype))
        return np.asarray(moved if a.dtype.kind == "i" else np.where(b < bits, moved, 0)).astype(a.dtype)


def _openvino_count(ov: Any, b: Any) -> tuple[Any, Any]:
    """Counts in int32 that OpenVINO's shifts take, and -1 where those are the counts, else 0; None
    instead of the latter if they are known to be."""
    counts = ov.array(b)
    if counts is not None and ((counts >= 0) & (counts < 32)).all():
        return b, None
    # (n & ~31) is 0 or not; its sign, and that of its negation, are
    more = ov.bitwise_and(b, ov.scalar(-32, b))
    sign = ov.scalar(31, b)
    beyond = ov.bitwise_right_shift(ov.bitwise_or(more, ov.subtract(ov.scalar(0, b), more)), sign)
    return ov.bitwise_and(b, sign), ov.bitwise_not(beyond)


def _unsigned(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """The operands, the second as unsigned, and how many bits they have."""
    return a, b.astype(b.dtype.str.replace("i", "u")), a.dtype.itemsize * 8
