"""Elementwise ops as formulas: the bases `Unary` and `Binary`, and the WGSL helpers that their formulas use.

A class gives `formula`, a WGSL expression with these fields: {x} (unary) or {a} and {b} (binary) for the operands, {T}
for the constructor of their type (`f32`, `vec4<f32>`, `i32`, ...), {R} for that of the result, and every attribute as a
constant of type T. Formulas keep NaN as numpy does: WGSL's `min`, `max` and `clamp` may drop it, a `select` on a
comparison does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gpucompile.ir.op import ALL, FLOATS, MAX_RANK, Constraint
from gpucompile.ir.types import DataType
from gpucompile.ops.categories import Cases, Elementwise, tensor

SIGNED = FLOATS | {DataType.INT32, DataType.INT64, DataType.INT8}
ANY_RANK = (0, MAX_RANK)


# WGSL and numpy helpers --------------------------------------------------------------------------------------------


def scalar(t: str) -> str:
    """The scalar type of a constructor: `vec4<f32>` -> `f32`."""
    return t[5:-1] if t.startswith("vec") else t


def is_wide(t: str) -> bool:
    """Whether it is a 64-bit integer: a pair of words."""
    return t in ("Int64", "Uint64")


def is_integer(t: str) -> bool:
    """Whether it is a constructor of integers."""
    return is_wide(t) or scalar(t) in ("i32", "u32")


def prefix(t: str) -> str:
    """How the names of the library's functions of a 64-bit type begin, where its sign matters."""
    return "i64" if t == "Int64" else "u64"


def retype(t: str, to: str) -> str:
    """The constructor with another scalar type: `vec4<f32>` to u32 -> `vec4<u32>`."""
    return t.replace(scalar(t), to)


def nonfinite(value: float) -> str | None:
    """Infinity or NaN as a WGSL expression of type f32, a call of the library (`shaders/_library.wgsl.j2`); None for
    other numbers."""
    if math.isnan(value):
        return "nan()"
    if math.isinf(value):
        return "infinity()" if value > 0 else "-infinity()"
    return None


def literal(value: float, t: str) -> str:
    """A constant of type `t`, rounded to it, exactly."""
    kind = scalar(t)
    if is_wide(kind):
        low, high = (-(2**63), 2**63 - 1) if kind == "Int64" else (0, 2**64 - 1)
        word = int(min(max(value, low), high)) % 2**64
        return f"{t}({word % 2**32}u, {word // 2**32}u)"
    if kind in ("i32", "u32"):
        low, high = (-(2**31), 2**31 - 1) if kind == "i32" else (0, 2**32 - 1)
        whole = int(min(max(value, low), high))
        return f"{t}({whole}{'' if whole == -(2**31) else kind[0]})"  # no literal: it is a negated 2^31
    with np.errstate(over="ignore"):
        number = np.float16(value) if kind == "f16" else np.float32(value)
    special = nonfinite(float(number))
    if special is not None:
        return f"{t}({special})" if kind == "f32" else f"{t}({kind}({special}))"
    text = str(number)  # the shortest that rounds to it; but Tint rejects text above the largest number
    if abs(float(text)) > float(np.finfo(number).max):
        text = repr(float(number))
    return f"{t}({text}{'h' if kind == 'f16' else 'f'})"


def bits(x: str, t: str) -> str:
    """The bits of a float expression, as u32 (float16 is widened to float32 first)."""
    return f"bitcast<{retype(t, 'u32')}>({retype(t, 'f32')}({x}))"


def is_nan(x: str, t: str) -> str:
    """Whether it is NaN, told by its bits: compilers may assume that there is none and fold `x != x` away."""
    u = retype(t, "u32")
    return f"(({bits(x, t)} & {u}(0x7fffffffu)) > {u}(0x7f800000u))"


def negative(x: str, t: str) -> str:
    """Whether it is below zero (-0 and NaN are not), told by its bits: compilers make a maximum of a comparison and a
    choice, and hardware's maxima drop NaN."""
    u = retype(t, "u32")
    return f"(({bits(x, t)} - {u}(0x80000001u)) <= {u}(0x7f7fffffu))"


def quotient(a: str, b: str, t: str) -> str:
    """a / b. WGSL promises nothing for float32 divisors beyond 2^126, whose reciprocal some devices flush to zero: both
    are made smaller then."""
    if scalar(t) != "f32":
        return f"{a} / {b}"
    scale = f"select({t}(1), {t}(0.0625), abs({b}) > {t}(1e37))"
    return f"({a} * {scale}) / ({b} * {scale})"


def library(name: str, args: Sequence[str], t: str) -> str:
    """A call of a function of `shaders/_library.wgsl.j2` that exists for f32 and for vec4<f32>."""
    return f"{'vector' if t.startswith('vec') else 'scalar'}_{name}({', '.join(args)})"


def wide(x: np.ndarray) -> np.ndarray:
    """Floats as float64, so that the oracle is better than what it judges."""
    return x.astype(np.float64) if x.dtype.kind == "f" else x


# Bases -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Formula(Elementwise, abstract=True):
    """An elementwise op whose WGSL is a format string."""

    formula: ClassVar[str] = ""
    #: The same for 64-bit integers: calls of library functions; {I} is i64 or u64.
    formula64: ClassVar[str] = ""
    #: Computed in float32 even for float16, where constants or intermediate values leave its range.
    in_f32: ClassVar[bool] = False
    #: Whether numpy's result in the operands' own type is exact, so that float64 would change nothing.
    exact: ClassVar[bool] = False
    #: The interval from which tests draw operands.
    domain: ClassVar[tuple[float, float]] = (-4.0, 4.0)

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        """`formula` filled in."""
        names = dict(zip(("x",) if len(args) == 1 else ("a", "b", "c"), args, strict=False))
        constants = {k: literal(v, t) for k, v in self.attributes().items() if isinstance(v, (int, float))}
        formula = self.formula64 if is_wide(t) else self.formula
        return f"({formula.format(T=t, R=r, I=prefix(t), **names, **constants)})"

    def wgsl(self, args: Sequence[str], t: str, r: str) -> str:
        if not (self.in_f32 and scalar(t) == "f16"):
            return self.expression(args, t, r)
        f = retype(t, "f32")
        return f"{r}({self.expression([f'{f}({a})' for a in args], f, f)})"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        """The numpy result; float operands come as float64 unless the op is `exact`."""
        raise NotImplementedError(f"{type(self).__name__}.compute")

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        out = self.compute(*(ins if self.exact else map(wide, ins)))
        return np.asarray(out).astype(ins[0].dtype, copy=False)


@dataclass(frozen=True)
class Unary(Formula, abstract=True):
    """result[i] = f(input[i])."""

    constraints: ClassVar[dict[str, Constraint]] = {"input": (FLOATS, *ANY_RANK)}

    @classmethod
    def cases(cls) -> Cases:
        for shape in ((), (5,), (2, 3, 4), (1, 3, 37), (2, 8, 6, 6)):
            yield cls(), (tensor(*shape),)
        if DataType.INT32 in cls.constraints["input"][0]:
            yield cls(), (tensor(3, 7, dtype=DataType.INT32),)


@dataclass(frozen=True)
class Binary(Formula, abstract=True):
    """result[i] = f(a[i], b[i]), broadcast."""

    operands: ClassVar[tuple[str, ...]] = ("a", "b")
    constraints: ClassVar[dict[str, Constraint]] = {"a": (ALL, *ANY_RANK), "b": (ALL, *ANY_RANK)}

    @classmethod
    def cases(cls) -> Cases:
        shapes = (((3, 5), (3, 5)), ((2, 3, 4), (4,)), ((1, 5, 6, 6), (5, 1, 1)), ((4, 1, 7), (3, 1)), ((), (9,)))
        for a, b in (*shapes, ((2, 8), ())):
            yield cls(), (tensor(*a), tensor(*b))
        if DataType.INT32 in cls.constraints["a"][0]:
            yield cls(), (tensor(3, 7, dtype=DataType.INT32), tensor(7, dtype=DataType.INT32))


# The error function --------------------------------------------------------------------------------------------------

# fmt: off
_ERF_P = (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
          -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02)
_ERF_Q = (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
          -1.42647390514189e-02)
# fmt: on


def erf_wgsl(x: str, t: str) -> str:
    """The error function in WGSL, for float32."""

    def polynomial(coefficients: tuple[float, ...]) -> str:
        out = literal(coefficients[0], t)
        for c in coefficients[1:]:
            out = f"({out} * ({x} * {x}) + {literal(c, t)})"
        return out

    inside = f"{x} * {polynomial(_ERF_P)} / {polynomial(_ERF_Q)}"
    return f"select({inside}, sign({x}), abs({x}) > {t}(4))"


def erf(x: np.ndarray) -> np.ndarray:
    """The error function, in float64."""
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(np.asarray(x, np.float64)), np.float64)
