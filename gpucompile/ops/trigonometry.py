"""Inverse circular functions and hyperbolic functions, which WebNN lacks and ONNX has.

WGSL's own are allowed errors of up to 4096 units in the last place, and adapters use that; these stay within a few.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gpucompile.ops.formula import Unary, literal

#: atan(x) = x + x^3 * P(x^2) up to |x| = tan(pi/8), as the Cephes library has it.
_ATAN = (8.05374449538e-2, -1.38776856032e-1, 1.99777106478e-1, -3.33329491539e-1)


def polynomial(coefficients: Sequence[float], x: str, t: str) -> str:
    """The polynomial in `x` with these coefficients, highest power first, in Horner's form."""
    out = literal(coefficients[0], t)
    for c in coefficients[1:]:
        out = f"({out} * {x} + {literal(c, t)})"
    return out


def atan_wgsl(x: str, t: str) -> str:
    """The arc tangent in WGSL, for float32: around 0, 1 or infinity, whichever is nearest."""
    size = f"abs({x})"
    far, middle = (
        f"({size} > {literal(math.tan(3 * math.pi / 8), t)})",
        f"({size} > {literal(math.tan(math.pi / 8), t)})",
    )
    near = f"select(select({size}, ({size} - {t}(1)) / ({size} + {t}(1)), {middle}), {t}(-1) / {size}, {far})"
    base = f"select(select({t}(0), {literal(math.pi / 4, t)}, {middle}), {literal(math.pi / 2, t)}, {far})"
    square = f"({near} * {near})"
    value = f"({base} + {near} + {near} * {square} * {polynomial(_ATAN, square, t)})"
    return f"select(select({value}, -{value}, {x} < {t}(0)), {x}, {x} == {t}(0))"  # the zero keeps its sign


@dataclass(frozen=True)
class Atan(Unary):
    """The arc tangent."""

    onnx: ClassVar[str | None] = "Atan"
    in_f32: ClassVar[bool] = True

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        return atan_wgsl(args[0], t)

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.arctan(ins[0]))


@dataclass(frozen=True)
class Asin(Unary):
    """The arc sine, as atan(x / sqrt((1 - x) (1 + x)))."""

    onnx: ClassVar[str | None] = "Asin"
    in_f32: ClassVar[bool] = True
    domain: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        (x,) = args
        inside = f"({x} / sqrt(({t}(1) - {x}) * ({t}(1) + {x})))"
        return f"select({atan_wgsl(inside, t)}, {literal(math.nan, t)}, abs({x}) > {t}(1))"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.arcsin(ins[0]))


@dataclass(frozen=True)
class Acos(Unary):
    """The arc cosine, as 2 atan(sqrt((1 - x) / (1 + x)))."""

    onnx: ClassVar[str | None] = "Acos"
    in_f32: ClassVar[bool] = True
    domain: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        (x,) = args
        inside = f"sqrt(({t}(1) - {x}) / ({t}(1) + {x}))"
        return f"select({t}(2) * {atan_wgsl(inside, t)}, {literal(math.nan, t)}, abs({x}) > {t}(1))"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.arccos(ins[0]))


@dataclass(frozen=True)
class Sinh(Unary):
    """The hyperbolic sine; below 1 its series, because there the exponentials cancel."""

    onnx: ClassVar[str | None] = "Sinh"
    in_f32: ClassVar[bool] = True

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        (x,) = args
        two = literal(math.log(2), t)  # half of e^x, without overflow at its end
        large = f"(exp(abs({x}) - {two}) - exp(-abs({x}) - {two}))"
        small = f"({x} * {polynomial((1 / 362880, 1 / 5040, 1 / 120, 1 / 6, 1.0), f'({x} * {x})', t)})"
        return f"select(select({large}, -{large}, {x} < {t}(0)), {small}, abs({x}) < {t}(1))"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.sinh(ins[0]))


@dataclass(frozen=True)
class Cosh(Unary):
    """The hyperbolic cosine."""

    onnx: ClassVar[str | None] = "Cosh"
    in_f32: ClassVar[bool] = True

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        (x,) = args
        two = literal(math.log(2), t)
        return f"(exp(abs({x}) - {two}) + exp(-abs({x}) - {two}))"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.cosh(ins[0]))


@dataclass(frozen=True)
class Asinh(Unary):
    """The inverse hyperbolic sine: its series below 1/4, log(2 |x|) where x^2 + 1 is x^2, log(|x| + sqrt(x^2 + 1))
    between."""

    onnx: ClassVar[str | None] = "Asinh"
    in_f32: ClassVar[bool] = True

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        (x,) = args
        series = polynomial((35 / 1152, -15 / 336, 3 / 40, -1 / 6, 1.0), f"({x} * {x})", t)
        middle = f"log(abs({x}) + sqrt({x} * {x} + {t}(1)))"
        large = f"(log(abs({x})) + {literal(math.log(2), t)})"
        value = f"select({middle}, {large}, abs({x}) > {literal(1e8, t)})"
        return f"select(select({value}, -{value}, {x} < {t}(0)), {x} * {series}, abs({x}) < {literal(0.25, t)})"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.arcsinh(ins[0]))


@dataclass(frozen=True)
class Acosh(Unary):
    """The inverse hyperbolic cosine."""

    onnx: ClassVar[str | None] = "Acosh"
    in_f32: ClassVar[bool] = True
    domain: ClassVar[tuple[float, float]] = (1.0, 10.0)

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        (x,) = args
        middle = f"log({x} + sqrt(({x} - {t}(1)) * ({x} + {t}(1))))"
        large = f"(log({x}) + {literal(math.log(2), t)})"
        value = f"select({middle}, {large}, {x} > {literal(1e8, t)})"
        return f"select({value}, {literal(math.nan, t)}, {x} < {t}(1))"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.arccosh(ins[0]))


@dataclass(frozen=True)
class Atanh(Unary):
    """The inverse hyperbolic tangent; its series below 1/4."""

    onnx: ClassVar[str | None] = "Atanh"
    in_f32: ClassVar[bool] = True
    domain: ClassVar[tuple[float, float]] = (-0.99, 0.99)

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        (x,) = args
        series = polynomial((1 / 11, 1 / 9, 1 / 7, 1 / 5, 1 / 3, 1.0), f"({x} * {x})", t)
        value = f"({literal(0.5, t)} * log(({t}(1) + {x}) / ({t}(1) - {x})))"
        value = f"select({value}, {x} * {series}, abs({x}) < {literal(0.25, t)})"
        return f"select({value}, {literal(math.nan, t)}, abs({x}) > {t}(1))"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.arctanh(ins[0]))
