"""Symbolic index arithmetic for generated code: affine expressions over variables of known range, with exact division.

An `Index` is `const + sum(coefficient * atom)`; an atom is a variable `0 <= v < extent`, or `e // c`, or `e % c`.
Sums are canonical, and division and remainder simplify where the ranges prove it, e.g. with `0 <= x < 4`:

    (4*y + x) // 4 -> y          (4*y + x) % 4 -> x          (y // 8) * 8 + y % 8 -> y

Generated code computes in u32 with wrap-around: an expression may be negative only where a guard discards it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Var:
    """A variable: 0 <= name < extent."""

    name: str
    extent: int

    @property
    def order(self) -> str:
        """What terms with equal coefficients are sorted by."""
        return self.name


@dataclass(frozen=True)
class DivMod:
    """`of // by` or `of % by`, kept because it did not simplify."""

    kind: str  # "/" or "%"
    of: Index
    by: int

    @cached_property
    def order(self) -> str:
        """As Var.order."""
        return f"{self.of.order}{self.kind}{self.by}"

    @cached_property
    def _hash(self) -> int:
        return hash((self.kind, self.of, self.by))

    def __hash__(self) -> int:
        return self._hash


Atom = Var | DivMod


@dataclass(frozen=True)
class Index:
    """An affine integer expression; build it with `var`, integers, and the operators + - * // %."""

    terms: tuple[tuple[Atom, int], ...] = ()
    const: int = 0

    @staticmethod
    def var(name: str, extent: int) -> Index:
        """A variable in [0, extent); one that can only be zero is the constant 0."""
        return Index(((Var(name, extent), 1),)) if extent > 1 else Index()

    @staticmethod
    def of(value: Index | int) -> Index:
        return value if isinstance(value, Index) else Index((), value)

    @cached_property
    def range(self) -> tuple[int, int]:
        """The smallest and largest value it can take (both inclusive, by interval arithmetic)."""
        low = high = self.const
        for atom, k in self.terms:
            top = _top(atom)
            low += min(0, k * top)
            high += max(0, k * top)
        return low, high

    @cached_property
    def order(self) -> str:
        """A text that tells expressions apart, to sort by."""
        return f"({'+'.join(f'{a.order}*{k}' for a, k in self.terms)}+{self.const})"

    @cached_property
    def _hash(self) -> int:
        return hash((self.terms, self.const))

    def __hash__(self) -> int:
        return self._hash

    @property
    def value(self) -> int | None:
        """Its value if it is a constant."""
        return None if self.terms else self.const

    def __add__(self, other: Index | int) -> Index:
        other = Index.of(other)
        if not other.terms:
            return Index(self.terms, self.const + other.const)
        sums = dict(self.terms)
        for atom, k in other.terms:
            sums[atom] = sums.get(atom, 0) + k
        return _sum(sums, self.const + other.const)

    __radd__ = __add__

    def __mul__(self, k: int) -> Index:
        return Index(tuple((a, c * k) for a, c in self.terms), self.const * k) if k else Index()

    __rmul__ = __mul__

    def __sub__(self, other: Index | int) -> Index:
        return self + Index.of(other) * -1

    def __rsub__(self, other: int) -> Index:
        return Index.of(other) - self

    def __floordiv__(self, by: int) -> Index:
        if by == 1:
            return self
        whole, rest = self._split(by)
        low, high = rest.range
        if low >= 0 and high < by:
            return whole
        g, big, _ = rest._coarse(by)
        if g > 1:
            return whole + big // (by // g)
        if len(rest.terms) == 1 and rest.const == 0:
            ((atom, k),) = rest.terms
            if k == 1 and isinstance(atom, DivMod) and atom.kind == "/":  # (x / a) / b -> x / (a*b)
                return whole + atom.of // (atom.by * by)
        return whole + Index(((DivMod("/", rest, by), 1),))

    def __mod__(self, by: int) -> Index:
        if by == 1:
            return Index()
        _, rest = self._split(by)
        low, high = rest.range
        if low >= 0 and high < by:
            return rest
        g, big, small = rest._coarse(by)
        if g > 1:
            return (big % (by // g)) * g + small
        return Index(((DivMod("%", rest, by), 1),))

    def _split(self, by: int) -> tuple[Index, Index]:
        """self = whole * by + rest, as far as coefficients tell; rest is never negative, as u32 needs it."""
        whole = {a: k // by for a, k in self.terms if k % by == 0}
        rest = {a: k for a, k in self.terms if k % by != 0}
        remainder = _sum(rest, self.const % by)
        lift = max(0, -(remainder.range[0] // by))
        return _sum(whole, self.const // by - lift), remainder + lift * by

    def _coarse(self, by: int) -> tuple[int, Index, Index]:
        """The largest g that divides `by` with self = g * big + small and 0 <= small < g; g = 1 if there is none.

        Then self // by = big // (by / g), and self % by = (big % (by / g)) * g + small."""
        terms = sorted(self.terms, key=lambda t: abs(t[1]), reverse=True)
        best = (1, self, Index())
        g = by
        for i, (_, k) in enumerate(terms):
            g = math.gcd(g, k)
            if g == 1:
                break
            small = Index(tuple(terms[i + 1 :]), self.const % g)
            low, high = small.range
            if low >= 0 and high < g and g > best[0]:
                big = Index(tuple((a, c // g) for a, c in terms[: i + 1]), self.const // g)
                best = (g, _sum(dict(big.terms), big.const), _sum(dict(small.terms), small.const))
        return best

    def substitute(self, values: Mapping[str, Index]) -> Index:
        """Replace variables by expressions and simplify again."""
        out = Index((), self.const)
        for atom, k in self.terms:
            if isinstance(atom, Var):
                out = out + values.get(atom.name, Index(((atom, 1),))) * k
            else:
                inner = atom.of.substitute(values)
                out = out + (inner // atom.by if atom.kind == "/" else inner % atom.by) * k
        return out

    def coefficients(self) -> dict[str, int] | None:
        """Variable name -> coefficient if the expression is affine in variables alone, else None."""
        if any(not isinstance(a, Var) for a, _ in self.terms):
            return None
        return {a.name: k for a, k in self.terms if isinstance(a, Var)}

    def divisible(self, by: int) -> bool:
        """Whether every value it takes is a multiple of `by`, as far as coefficients tell."""
        return self.const % by == 0 and all(k % by == 0 for _, k in self.terms)

    @property
    def variables(self) -> set[str]:
        """Names of the variables it depends on."""
        names: set[str] = set()
        for atom, _ in self.terms:
            names |= {atom.name} if isinstance(atom, Var) else atom.of.variables
        return names

    def wgsl(self) -> str:
        """A WGSL expression of type u32."""
        plus = [_term(a, k) for a, k in self.terms if k > 0] + ([f"{self.const}u"] if self.const > 0 else [])
        minus = [_term(a, -k) for a, k in self.terms if k < 0] + ([f"{-self.const}u"] if self.const < 0 else [])
        text = " + ".join(plus) or "0u"
        if minus:
            text = " - ".join([text, *minus])
        return text if len(plus) + len(minus) <= 1 and "*" not in text else f"({text})"

    def __str__(self) -> str:
        return self.wgsl()


def _top(atom: Atom) -> int:
    if isinstance(atom, Var):
        return max(atom.extent - 1, 0)
    high = max(atom.of.range[1], 0)
    return high // atom.by if atom.kind == "/" else min(high, atom.by - 1)


def _term(atom: Atom, k: int) -> str:
    text = atom.name if isinstance(atom, Var) else f"({atom.of.wgsl()} {atom.kind} {atom.by}u)"
    return text if k == 1 else f"{text} * {k}u"


def _sum(sums: Mapping[Atom, int], const: int) -> Index:
    terms = {a: k for a, k in sums.items() if k}
    if len(terms) < 2:
        return Index(tuple(terms.items()), const)
    for atom, k in list(terms.items()):  # (e / c) * c*k + (e % c) * k -> e * k
        if isinstance(atom, DivMod) and atom.kind == "%" and terms.get(atom) == k:
            quotient = _only_atom(atom.of // atom.by)
            if quotient is not None and terms.get(quotient) == k * atom.by:
                del terms[atom], terms[quotient]
                return _sum(terms, const) + atom.of * k
    return Index(tuple(sorted(terms.items(), key=lambda t: (-abs(t[1]), t[0].order))), const)


def _only_atom(index: Index) -> Atom | None:
    """The atom of an expression that is just an atom."""
    return index.terms[0][0] if len(index.terms) == 1 and index.const == 0 and index.terms[0][1] == 1 else None


def linearize(coords: Sequence[Index], shape: Sequence[int]) -> Index:
    """Row-major position of `coords` in a tensor of `shape`."""
    out = Index()
    for c, d in zip(coords, shape, strict=True):
        out = out * d + c
    return out


def delinearize(position: Index, shape: Sequence[int]) -> tuple[Index, ...]:
    """The coordinates of row-major `position` in a tensor of `shape`; inverse of `linearize`."""
    coords: list[Index] = []
    for i in range(len(shape) - 1, -1, -1):
        coords.append(position % shape[i] if i > 0 else position)
        position = position // shape[i]
    return tuple(reversed(coords))


def strides_of(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    out: list[int] = []
    step = 1
    for d in reversed(shape):
        out.append(step)
        step *= d
    return tuple(reversed(out))


def dot(coords: Iterable[Index], strides: Iterable[int]) -> Index:
    """sum(coords[i] * strides[i])."""
    out = Index()
    for c, s in zip(coords, strides, strict=True):
        out = out + c * s
    return out
