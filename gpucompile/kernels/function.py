"""One WGSL function of a kernel: evaluates what is fused into a load or a store, at symbolic coordinates.

A body's values are evaluated at index expressions, each once per scope: elementwise producers become formulas,
movements become index arithmetic and guards, tensors from outside become buffer accesses of the kernel being built. A
width of 4 means four neighbours as a vec4; the position in the vector is the variable LANE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpucompile.errors import VerificationError
from gpucompile.ir.graph import Constant, Node, Value
from gpucompile.ir.index import Index
from gpucompile.ir.types import DataType
from gpucompile.kernels.view import View
from gpucompile.ops.categories import Elementwise, Movement
from gpucompile.ops.formula import literal, nonfinite, retype

if TYPE_CHECKING:
    from gpucompile.kernels.builder import KernelBuilder

Param = tuple[str, int]  # name, extent
LANE = "lane__"


class Function:
    """One WGSL function being written: evaluates body values at coordinates, each once per scope."""

    def __init__(self, kernel: KernelBuilder, name: str, params: Sequence[Param]) -> None:
        self.kernel = kernel
        self.name = name
        self.params = [f"{p}: u32" for p, _ in params]
        self.result: str | None = None
        self._lines: list[str] = []
        self._depth = 1
        self._count = 0
        self._memo: list[dict[tuple[Value, tuple[Index, ...], int], str]] = [{}]
        self._open = 0

    def type_of(self, dtype: DataType, width: int) -> str:
        return self.kernel.type_of(dtype, width)

    def text(self) -> str:
        arrow = f" -> {self.result}" if self.result else ""
        lines = [*self._lines, *("  " * (self._open - i) + "}" for i in range(self._open))]
        return "\n".join([f"fn {self.name}({', '.join(self.params)}){arrow} {{", *lines, "}"])

    def line(self, text: str) -> None:
        """Append a statement."""
        self._lines.append("  " * self._depth + text)

    def let(self, expression: str) -> str:
        """Name an expression."""
        name = f"t{self._count}"
        self._count += 1
        self.line(f"let {name} = {expression};")
        return name

    def returns(self, expression: str, type: str) -> None:
        self.result = type
        self.line(f"return {expression};")

    def open_guards(self, guards: tuple[tuple[Index, int, int], ...], width: int) -> None:
        """Wrap the rest of the function in an `if`; guards that depend on the lane are left to the caller."""
        condition = condition_of([g for g in guards if LANE not in g[0].variables or _uniform(g, width)])
        if condition:
            self.line(f"if ({condition}) {{")
            self._depth += 1
            self._open += 1

    # evaluation ----------------------------------------------------------------------------------------------------

    def guarded(
        self,
        value: Value,
        coords: tuple[Index, ...],
        guards: tuple[tuple[Index, int, int], ...],
        width: int,
        outside: str,
    ) -> str:
        """`value` at `coords` where the guards hold, else `outside`."""
        if width == 4 and any(not _uniform(g, width) for g in guards):
            lanes = [self.guarded(value, _lane(coords, i), _lane_guards(guards, i), 1, outside) for i in range(4)]
            return self.let(f"{self.type_of(value.type.dtype, 4)}({', '.join(lanes)})")
        condition = condition_of(guards)
        if condition is None:
            return self.value(value, coords, width)
        t = self.type_of(value.type.dtype, width)
        if never(guards):
            return self.let(f"{t}({outside})")
        out = self._variable(f"{t}({outside})")
        self._block(condition, lambda: f"{out} = {self.value(value, coords, width)};")
        return out

    def value(self, value: Value, coords: tuple[Index, ...], width: int) -> str:
        """The name of `value` at `coords` (for width 4: of the vector over LANE)."""
        coords = _inside(coords, value)
        if width == 4 and not any(LANE in c.variables for c in coords):
            scalar = self.value(value, coords, 1)
            return self.let(f"{self.type_of(value.type.dtype, 4)}({scalar})")
        if width == 4 and has_no_vectors(value):
            t = self.type_of(value.type.dtype, 4)
            return self._by_lane(t, lambda i: self.value(value, _lane(coords, i), 1))
        key = (value, coords, width)
        for scope in reversed(self._memo):
            if key in scope:
                return scope[key]
        name = self._evaluate(value, coords, width)
        self._memo[-1][key] = name
        return name

    def remember(self, value: Value, coords: tuple[Index, ...], width: int, name: str) -> None:
        """`name` is `value` at `coords` from here on."""
        self._memo[-1][(value, _inside(coords, value), width)] = name

    def _evaluate(self, value: Value, coords: tuple[Index, ...], width: int) -> str:
        node = value.producer
        if node is None:
            return self.read(self.kernel.views[value], coords, width)
        if isinstance(node.op, Constant):
            return self._constant(value, node.op.value.array, coords, width)
        if isinstance(node.op, Elementwise):
            return self._elementwise(node, coords, width)
        if isinstance(node.op, Movement):
            return self._movement(node, node.op, coords, width)
        raise VerificationError(f"{self.kernel.label}: {node.op.name} cannot be fused into a load")

    def read(self, view: View, coords: tuple[Index, ...], width: int) -> str:
        position = view.position(coords)
        if width == 1:
            return self.let(self.kernel.read(view, position, 1))
        base, step = split_lane(position)
        if step == 1:
            return self.let(self.kernel.read(view, base, 4))
        return self._by_lane(self.type_of(view.type.dtype, 4), lambda i: self.read(view, _lane(coords, i), 1))

    def _by_lane(self, vector: str, one: Callable[[int], str]) -> str:
        return self.let(f"{vector}({', '.join([one(i) for i in range(4)])})")

    def _constant(self, value: Value, array: np.ndarray, coords: tuple[Index, ...], width: int) -> str:
        t = self.type_of(value.type.dtype, width)
        if array.size != 1:
            raise VerificationError(f"{self.kernel.label}: only scalar constants may stand inside a fused body")
        return self.let(literal(array.reshape(-1)[0].item(), t))

    def _elementwise(self, node: Node, coords: tuple[Index, ...], width: int) -> str:
        out = node.output.type
        args = []
        for v in node.operand_values:
            args.append(self.value(v, coords[len(coords) - v.type.rank :], width))
        t = self.type_of(node.operand_values[0].type.dtype, width)
        op, r = node.op, self.type_of(out.dtype, width)
        assert isinstance(op, Elementwise)
        text = op.wgsl(args, t, r)
        if op.wraps and out.dtype.bits < 32 and not out.dtype.is_float:  # computed in 32 bits
            u, unused = retype(r, "u32"), 32 - out.dtype.bits
            text = f"(({text}) << {u}({unused}u)) >> {u}({unused}u)"
        return self.let(text)

    def _movement(self, node: Node, op: Movement, coords: tuple[Index, ...], width: int) -> str:
        types = [v.type for v in node.operand_values]
        pieces = op.pieces(types, node.output.type, coords)
        if width == 4 and not all(_uniform(g, width) for p in pieces for g in p.guards):
            vector = self.type_of(node.output.type.dtype, 4)
            return self._by_lane(vector, lambda i: self.value(node.output, _lane(coords, i), 1))
        pieces = tuple(p for p in pieces if not never(p.guards))  # whose constant coordinates may lie outside
        if len(pieces) == 1 and condition_of(pieces[0].guards) is None:
            return self.value(node.operand_values[pieces[0].operand], pieces[0].coords, width)
        out = self._variable(literal(op.fill, self.type_of(node.output.type.dtype, width)))
        for i, p in enumerate(pieces):
            source = node.operand_values[p.operand]
            condition = condition_of(p.guards)

            def assign(source: Value = source, where: tuple[Index, ...] = p.coords) -> str:
                return f"{out} = {self.value(source, where, width)};"

            self._block(condition or "true", assign, "else " if i else "")
        return out

    def _variable(self, initial: str) -> str:
        name = f"t{self._count}"
        self._count += 1
        self.line(f"var {name} = {initial};")
        return name

    def _block(self, condition: str, inside: Callable[[], str], prefix: str = "") -> None:
        if prefix and self._lines[-1].strip() == "}":
            self._lines.pop()
            prefix = "} else "
        self.line(f"{prefix}if ({condition}) {{")
        self._depth += 1
        self._memo.append({})
        self.line(inside())
        self._memo.pop()
        self._depth -= 1
        self.line("}")

    # the way from the anchor to the result --------------------------------------------------------------------------

    def finish_chain(
        self,
        value: Value,
        name: str,
        coords: tuple[Index, ...],
        width: int,
        guards: tuple[tuple[Index, int, int], ...],
    ) -> None:
        """Compute what follows `value` in the body and write the body's result."""
        (end,) = self.kernel.body.outputs
        coords = _inside(coords, value)
        while value is not end:
            self._memo[-1][(value, coords, width)] = name
            if width == 4 and not any(LANE in c.variables for c in coords):  # an extent of 1: only lane 0 is stored
                self._memo[-1][(value, coords, 1)] = f"{name}.x"
            (node,) = value.users
            if isinstance(node.op, Elementwise):
                name = self._elementwise(node, coords, width)
            elif isinstance(node.op, Movement):
                moved = node.op.forward(value.type, node.output.type, coords)
                if moved is None:
                    raise VerificationError(f"{self.kernel.label}: {node.op.name} cannot follow an anchor")
                coords = moved
            else:
                raise VerificationError(f"{self.kernel.label}: {node.op.name} cannot be fused into a store")
            value = node.output
            coords = _inside(coords, value)
        self.write(self.kernel.views[end], name, coords, width, guards)

    def write(
        self,
        view: View,
        name: str,
        coords: tuple[Index, ...],
        width: int,
        guards: tuple[tuple[Index, int, int], ...],
    ) -> None:
        position = view.position(coords)
        if width == 1:
            self.line(self.kernel.write(view, position, 1, name))
            return
        ragged = [g for g in guards if not _uniform(g, width)]
        base, step = split_lane(position)
        if step == 1 and not ragged:
            self.line(self.kernel.write(view, base, 4, name))
            return
        for i in range(4):
            at = view.position(_lane(coords, i))
            statement = self.kernel.write(view, at, 1, f"{name}.{'xyzw'[i]}")
            condition = condition_of(_lane_guards(tuple(ragged), i))
            self.line(f"if ({condition}) {{ {statement} }}" if condition else statement)


# helpers -----------------------------------------------------------------------------------------------------------


def has_no_vectors(value: Value) -> bool:
    """Whether its formula must be computed one by one: 64-bit operands, which are vectors of two words already."""
    node = value.producer
    return (
        node is not None
        and isinstance(node.op, Elementwise)
        and any(v.type.dtype.bits == 64 for v in node.operand_values)
    )


def _inside(coords: tuple[Index, ...], value: Value) -> tuple[Index, ...]:
    """Coordinates in `value`: along an axis of extent 1 there is only 0 (also what broadcasting means)."""
    return tuple(Index() if d == 1 else c for c, d in zip(coords, value.type.shape, strict=True))


def float_literal(x: float) -> str:
    """A WGSL expression that is exactly the float32 nearest to x; infinity and NaN are library functions."""
    with np.errstate(over="ignore"):
        number = float(np.float32(x))
    return nonfinite(number) or repr(number)


def split_lane(position: Index) -> tuple[Index, int | None]:
    """position = base + step * lane; step None where it depends on the lane in another way."""
    base = position.substitute({LANE: Index()})
    difference = position - base
    if not difference.terms:
        return base, 0
    coefficients = difference.coefficients()
    if coefficients is None or set(coefficients) != {LANE}:
        return base, None
    return base, coefficients[LANE]


def _uniform(guard: tuple[Index, int, int], width: int) -> bool:
    """Whether a guard has one truth for all four lanes."""
    index, low, high = guard
    if width == 1 or LANE not in index.variables:
        return True
    base, step = split_lane(index)
    aligned = step == 1 and base.divisible(4) and low % 4 == 0 and high % 4 == 0
    return aligned or (index.range[0] >= low and index.range[1] < high)


def condition_of(guards: Iterable[tuple[Index, int, int]]) -> str | None:
    """WGSL for `low <= index < high` of all guards, None if always true. One unsigned comparison each: what is below
    `low` wraps around to a large number."""
    parts = []
    for index, low, high in guards:
        smallest, largest = index.range
        if smallest >= low and largest < high:
            continue
        index = index.substitute({LANE: Index()})
        if (smallest >= 0 and low == 0) or smallest >= low >= 0:
            parts.append(f"{index.wgsl()} < {high}u")
        else:
            parts.append(f"{(index - low).wgsl()} < {high - low}u")
    return " && ".join(parts) or None


def never(guards: Iterable[tuple[Index, int, int]]) -> bool:
    """Whether one of the guards `low <= index < high` holds nowhere."""
    return any(index.range[1] < low or index.range[0] >= high for index, low, high in guards)


def _lane(coords: tuple[Index, ...], i: int) -> tuple[Index, ...]:
    return tuple(c.substitute({LANE: Index.of(i)}) for c in coords)


def _lane_guards(guards: tuple[tuple[Index, int, int], ...], i: int) -> tuple[tuple[Index, int, int], ...]:
    return tuple((g.substitute({LANE: Index.of(i)}), low, high) for g, low, high in guards)
