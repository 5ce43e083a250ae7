"""Elementwise arithmetic: functions of two operands, and of one. `formula.py` explains the formulas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpucompile.ir.op import ALL, NIBBLES, Constraint
from gpucompile.ir.types import DataType
from gpucompile.ops.categories import Cases, broadcast, tensor
from gpucompile.ops.formula import (
    ANY_RANK,
    SIGNED,
    Binary,
    Unary,
    erf,
    erf_wgsl,
    is_integer,
    is_nan,
    is_wide,
    library,
    prefix,
    quotient,
    scalar,
)

# Binary ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Add(Binary):
    """a + b; integers wrap."""

    onnx: ClassVar[str | None] = "Add"
    opset: ClassVar[str | None] = "add"
    formula: ClassVar[str] = "{a} + {b}"
    formula64: ClassVar[str] = "add64({a}, {b})"
    wraps: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(ins[0] + ins[1])


@dataclass(frozen=True)
class Sub(Binary):
    """a - b; integers wrap."""

    onnx: ClassVar[str | None] = "Sub"
    opset: ClassVar[str | None] = "subtract"
    formula: ClassVar[str] = "{a} - {b}"
    formula64: ClassVar[str] = "subtract64({a}, {b})"
    wraps: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(ins[0] - ins[1])


@dataclass(frozen=True)
class Mul(Binary):
    """a * b; integers wrap."""

    onnx: ClassVar[str | None] = "Mul"
    opset: ClassVar[str | None] = "multiply"
    formula: ClassVar[str] = "{a} * {b}"
    formula64: ClassVar[str] = "multiply64({a}, {b})"
    wraps: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(ins[0] * ins[1])


@dataclass(frozen=True)
class Div(Binary):
    """a / b; integers are truncated toward zero, and x / 0 = x as WGSL has it."""

    onnx: ClassVar[str | None] = "Div"
    opset: ClassVar[str | None] = "divide"
    formula: ClassVar[str] = "{a} / {b}"
    formula64: ClassVar[str] = "{I}_divide({a}, {b})"
    wraps: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        return super().expression(args, t, r) if is_integer(t) else f"({quotient(args[0], args[1], t)})"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        a, b = ins
        if a.dtype.kind == "f":
            return np.asarray(a / b)
        b = np.where(b == 0, np.ones_like(b), b)
        return np.asarray((a - np.fmod(a, b)) // b)


@dataclass(frozen=True)
class Max(Binary):
    """The larger one; NaN if either is."""

    opset: ClassVar[str | None] = "maximum"
    formula: ClassVar[str] = "max({a}, {b})"
    formula64: ClassVar[str] = "select({a}, {b}, {I}_less({a}, {b}))"
    exact: ClassVar[bool] = True

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        return _keep_nan(super().expression(args, t, r), args, t)

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.maximum(*ins))


@dataclass(frozen=True)
class Min(Binary):
    """The smaller one; NaN if either is."""

    opset: ClassVar[str | None] = "minimum"
    formula: ClassVar[str] = "min({a}, {b})"
    formula64: ClassVar[str] = "select({a}, {b}, {I}_less({b}, {a}))"
    exact: ClassVar[bool] = True

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        return _keep_nan(super().expression(args, t, r), args, t)

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.minimum(*ins))


@dataclass(frozen=True)
class Pow(Binary):
    """a to the power b. Floats are as in IEEE 754; integers wrap, and a negative power of an integer is 1 / a^|b|
    rounded toward zero (0 for a = 0)."""

    opset: ClassVar[str | None] = "power"
    in_f32: ClassVar[bool] = True
    wraps: ClassVar[bool] = True
    domain: ClassVar[tuple[float, float]] = (0.1, 4.0)

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        a, b = args
        if is_integer(t):
            if t.startswith("vec4"):
                lanes = [self.expression((f"{a}.{i}", f"{b}.{i}"), scalar(t), scalar(r)) for i in "xyzw"]
                return f"{t}({', '.join(lanes)})"
            return f"{prefix(t) if is_wide(t) else t}_power({a}, {b})"
        return library("pow", args, t)

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        a, b = ins
        if a.dtype.kind == "f":
            return np.asarray(np.power(a, b))
        out = np.power(a, np.maximum(b, 0))  # numpy raises for negative ones
        odd = b.astype(np.int64) % 2 == 1
        inverse = np.where(a == 1, 1, np.where((a == -1 if a.dtype.kind == "i" else False), np.where(odd, -1, 1), 0))
        return np.where(b < 0, inverse.astype(a.dtype), out)

    @classmethod
    def cases(cls) -> Cases:
        for shape in ((3, 5), (2, 3, 4)):
            yield cls(), (tensor(*shape), tensor(*shape))
        yield cls(), (tensor(4, 1, 7), tensor(3, 1))
        yield cls(), (tensor(2, 9), tensor())


@dataclass(frozen=True)
class Prelu(Binary):
    """x where it is positive, slope * x where it is negative (WebNN prelu)."""

    operands: ClassVar[tuple[str, ...]] = ("input", "slope")
    constraints: ClassVar[dict[str, Constraint]] = {"input": (SIGNED, *ANY_RANK), "slope": (SIGNED, *ANY_RANK)}
    formula: ClassVar[str] = "select({a}, {a} * {b}, {a} < {T}(0))"
    formula64: ClassVar[str] = "select({a}, multiply64({a}, {b}), i64_negative({a}))"
    wraps: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.where(ins[0] < 0, ins[0] * ins[1], ins[0])

    def openvino(self, ov: Any, *args: Any) -> Any:
        x, slope = args
        if broadcast(self, ov.type(x), ov.type(slope)) != ov.type(x).shape:  # prelu broadcasts the slope only
            return ov.select(ov.less(x, ov.scalar(0, x)), ov.multiply(x, slope), x)
        return ov.prelu(x, ov.pad_rank(slope, ov.type(x).rank))

    @classmethod
    def cases(cls) -> Cases:
        yield cls(), (tensor(2, 3, 5), tensor(3, 1))
        yield cls(), (tensor(2, 8, 4, 4), tensor(8, 1, 1))
        yield cls(), (tensor(2, 3, 4), tensor(4))
        yield cls(), (tensor(7), tensor())


def _keep_nan(chosen: str, args: Sequence[str], t: str) -> str:
    """`chosen` of min or max, but a + b (which is NaN) where a or b is."""
    if is_integer(t):
        return chosen
    a, b = args
    return f"select({chosen}, {a} + {b}, {is_nan(a, t)} | {is_nan(b, t)})"


# Unary -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Abs(Unary):
    """|x|"""

    onnx: ClassVar[str | None] = "Abs"
    opset: ClassVar[str | None] = "abs"
    constraints: ClassVar[dict[str, Constraint]] = {"input": (SIGNED, *ANY_RANK)}
    formula: ClassVar[str] = "abs({x})"
    formula64: ClassVar[str] = "select({x}, negate64({x}), i64_negative({x}))"
    wraps: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.abs(ins[0]))


@dataclass(frozen=True)
class Neg(Unary):
    """-x"""

    onnx: ClassVar[str | None] = "Neg"
    opset: ClassVar[str | None] = "negative"
    constraints: ClassVar[dict[str, Constraint]] = {"input": (SIGNED, *ANY_RANK)}
    formula: ClassVar[str] = "-{x}"
    formula64: ClassVar[str] = "negate64({x})"
    wraps: ClassVar[bool] = True
    exact: ClassVar[bool] = True

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(-ins[0])


@dataclass(frozen=True)
class Sign(Unary):
    """-1, 0 or 1; NaN stays."""

    onnx: ClassVar[str | None] = "Sign"
    opset: ClassVar[str | None] = "sign"
    constraints: ClassVar[dict[str, Constraint]] = {"input": (SIGNED, *ANY_RANK)}
    formula: ClassVar[str] = (
        "select(select(select({x}, {T}(0), {x} == {T}(0)), {T}(-1), {x} < {T}(0)), {T}(1), {x} > {T}(0))"
    )
    formula64: ClassVar[str] = (
        "select(select({T}(1u, 0u), {x}, all({x} == {T}())), {T}(0xffffffffu), i64_negative({x}))"
    )
    exact: ClassVar[bool] = True

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.sign(ins[0]))


@dataclass(frozen=True)
class Identity(Unary):
    """x"""

    onnx: ClassVar[str | None] = "Identity"
    constraints: ClassVar[dict[str, Constraint]] = {"input": (ALL | NIBBLES, *ANY_RANK)}
    formula: ClassVar[str] = "{x}"
    formula64: ClassVar[str] = "{x}"
    exact: ClassVar[bool] = True

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return ins[0]

    def openvino(self, ov: Any, *args: Any) -> Any:
        return args[0]


@dataclass(frozen=True)
class Ceil(Unary):
    """The next integer above."""

    onnx: ClassVar[str | None] = "Ceil"
    opset: ClassVar[str | None] = "ceiling"
    formula: ClassVar[str] = "ceil({x})"
    exact: ClassVar[bool] = True

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.ceil(ins[0]))


@dataclass(frozen=True)
class Floor(Unary):
    """The next integer below."""

    onnx: ClassVar[str | None] = "Floor"
    opset: ClassVar[str | None] = "floor"
    formula: ClassVar[str] = "floor({x})"
    exact: ClassVar[bool] = True

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.floor(ins[0]))


@dataclass(frozen=True)
class RoundEven(Unary):
    """The nearest integer, the even one of two (WGSL's `round` does so too)."""

    onnx: ClassVar[str | None] = "Round"
    opset: ClassVar[str | None] = "round"
    formula: ClassVar[str] = "round({x})"
    exact: ClassVar[bool] = True

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.rint(ins[0]))


@dataclass(frozen=True)
class RoundFloat16(Unary):
    """The nearest float16 number, as float32; made by the `emulate-f16` pass."""

    constraints: ClassVar[dict[str, Constraint]] = {"input": (frozenset({DataType.FLOAT32}), *ANY_RANK)}
    exact: ClassVar[bool] = True

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        return f"half_round4({args[0]})" if t.startswith("vec4") else f"half_round({args[0]})"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.asarray(ins[0].astype(np.float16).astype(np.float32))


@dataclass(frozen=True)
class Cos(Unary):
    """cos x"""

    onnx: ClassVar[str | None] = "Cos"
    opset: ClassVar[str | None] = "cos"
    in_f32: ClassVar[bool] = True

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        return library("cos", args, t)

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.cos(ins[0]))


@dataclass(frozen=True)
class Sin(Unary):
    """sin x"""

    onnx: ClassVar[str | None] = "Sin"
    opset: ClassVar[str | None] = "sin"
    in_f32: ClassVar[bool] = True

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        return library("sin", args, t)

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.sin(ins[0]))


@dataclass(frozen=True)
class Tan(Unary):
    """tan x"""

    onnx: ClassVar[str | None] = "Tan"
    opset: ClassVar[str | None] = "tan"
    in_f32: ClassVar[bool] = True
    domain: ClassVar[tuple[float, float]] = (-1.4, 1.4)

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        return library("tan", args, t)

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.tan(ins[0]))


@dataclass(frozen=True)
class Exp(Unary):
    """e to the power x"""

    onnx: ClassVar[str | None] = "Exp"
    opset: ClassVar[str | None] = "exp"
    in_f32: ClassVar[bool] = True
    formula: ClassVar[str] = "exp({x})"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(ins[0]))


@dataclass(frozen=True)
class Log(Unary):
    """The natural logarithm."""

    onnx: ClassVar[str | None] = "Log"
    opset: ClassVar[str | None] = "log"
    in_f32: ClassVar[bool] = True
    formula: ClassVar[str] = "log({x})"
    domain: ClassVar[tuple[float, float]] = (0.01, 10.0)

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.log(ins[0]))


@dataclass(frozen=True)
class Sqrt(Unary):
    """The square root."""

    onnx: ClassVar[str | None] = "Sqrt"
    opset: ClassVar[str | None] = "sqrt"
    formula: ClassVar[str] = "sqrt({x})"
    domain: ClassVar[tuple[float, float]] = (0.0, 10.0)

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.sqrt(ins[0]))


@dataclass(frozen=True)
class Reciprocal(Unary):
    """1 / x"""

    onnx: ClassVar[str | None] = "Reciprocal"
    formula: ClassVar[str] = "{T}(1) / {x}"
    domain: ClassVar[tuple[float, float]] = (0.1, 10.0)

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(1.0 / ins[0])

    def openvino(self, ov: Any, *args: Any) -> Any:
        return ov.divide(ov.scalar(1, args[0]), args[0])


@dataclass(frozen=True)
class Erf(Unary):
    """The Gauss error function: x * P(x^2) / Q(x^2) up to |x| = 4 (relative error below 5e-7), the sign beyond."""

    onnx: ClassVar[str | None] = "Erf"
    opset: ClassVar[str | None] = "erf"
    in_f32: ClassVar[bool] = True

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        return erf_wgsl(args[0], t)

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return erf(ins[0])
