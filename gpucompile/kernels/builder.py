"""Builds one kernel: bindings, load and store functions with everything fused into them, and the template around.

A schedule asks for WGSL functions and a template calls them:

    load_x(p, q)       the value of a tensor of the body at coordinates that are index expressions of p and q;
                       producers (elementwise formulas, index maps) are evaluated inside
    store_y(p, q, v)   takes the anchor's result through the consumers in the body and writes it

Each is made for `width` 1 or 4: a width of 4 means four neighbours along the last axis, as a vec4. Buffer accesses stay
symbolic until `finish`: only then is it known whether a binding is best declared as `array<T>` or `array<vec4<T>>`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpucompile.errors import UnsupportedError, VerificationError
from gpucompile.ir.graph import Constant, Graph, Node, Value
from gpucompile.ir.index import Index
from gpucompile.ir.types import DataType
from gpucompile.kernels.kernel import Access, Argument, Kernel, Runs, fold_grid
from gpucompile.kernels.templates import render
from gpucompile.kernels.view import COMPUTE_TYPE, Storage, View
from gpucompile.ops.categories import Elementwise, Movement
from gpucompile.target import Target

Param = tuple[str, int]  # name, extent
LANE = "lane__"


@dataclass
class _Slot:
    """A storage bound by the kernel."""

    storage: Storage
    dtype: DataType
    reads: list[Runs] = field(default_factory=list)
    writes: list[Runs] = field(default_factory=list)
    scalar_store: bool = False
    vector_access: bool = False


class KernelBuilder:
    """Collects what one kernel needs. `views` says where the tensors outside the body lie, by body value."""

    def __init__(self, label: str, body: Graph, views: Mapping[Value, View], target: Target) -> None:
        self.label = label
        self.body = body
        self.views = views
        self.target = target
        self.functions: list[str] = []
        self.features: set[str] = set()
        self._slots: dict[Storage, _Slot] = {}
        self._accesses: list[tuple[str, _Slot, Index, int, str]] = []

    # bindings ------------------------------------------------------------------------------------------------------

    def slot(self, view: View) -> _Slot:
        """The binding of a view's storage, made on first use."""
        dtype = view.type.dtype
        slot = self._slots.setdefault(view.storage, _Slot(view.storage, dtype))
        if slot.dtype != dtype:
            raise VerificationError(f"{self.label}: one storage as {slot.dtype.value} and as {dtype.value}")
        if dtype not in COMPUTE_TYPE:
            raise UnsupportedError(f"{self.label}: no kernel reads or writes {dtype.value} tensors on a GPU yet")
        if dtype is DataType.FLOAT16:
            if "shader-f16" not in self.target.features:
                raise UnsupportedError(f"{self.label}: float16 needs the feature shader-f16, which the target lacks")
            self.features.add("shader-f16")
        return slot

    def read(self, view: View, position: Index, width: int) -> str:
        """An expression that reads `width` neighbours at `position` (elements)."""
        slot = self.slot(view)
        runs = _runs(view, self.label)
        if runs not in slot.reads:
            slot.reads.append(runs)
        return self._access("read", slot, position, width, "")

    def write(self, view: View, position: Index, width: int, value: str) -> str:
        """A statement that writes `width` neighbours at `position` (elements)."""
        slot = self.slot(view)
        runs = _runs(view, self.label)
        if runs not in slot.writes:
            slot.writes.append(runs)
        return self._access("write", slot, position, width, value)

    def _access(self, kind: str, slot: _Slot, position: Index, width: int, value: str) -> str:
        aligned = width == 4 and position.divisible(4)
        if aligned:
            slot.vector_access = True
        if kind == "write" and not aligned:
            if slot.dtype.bits == 8:  # neighbours share a word: only whole words can be written without a race
                raise UnsupportedError(f"{self.label}: cannot write single {slot.dtype.value} elements on a GPU yet")
            slot.scalar_store = True
        self._accesses.append((kind, slot, position, width, value))
        return f"@{len(self._accesses) - 1}@"

    def _resolve(self, number: int) -> str:
        kind, slot, position, width, value = self._accesses[number]
        name = f"b{list(self._slots).index(slot.storage)}"
        if slot.dtype.bits == 8:
            return _bytes_access(kind, name, slot.dtype, position, width, value)
        vector = slot.vector_access and not slot.scalar_store
        scalar = COMPUTE_TYPE[slot.dtype]

        def element(p: Index) -> str:
            return f"{name}[{(p // 4).wgsl()}][{(p % 4).wgsl()}]" if vector else f"{name}[{p.wgsl()}]"

        if kind == "read":
            if width == 1:
                return element(position)
            if vector and position.divisible(4):
                return f"{name}[{(position // 4).wgsl()}]"
            return f"vec4<{scalar}>({', '.join(element(position + i) for i in range(4))})"
        if width == 1:
            return f"{name}[{position.wgsl()}] = {value};"
        if vector:
            return f"{name}[{(position // 4).wgsl()}] = {value};"
        return " ".join(f"{name}[{(position + i).wgsl()}] = {value}.{'xyzw'[i]};" for i in range(4))

    # functions -----------------------------------------------------------------------------------------------------

    def load(
        self,
        name: str,
        value: Value,
        params: Sequence[Param],
        coords: Sequence[Index],
        width: int = 1,
        guards: Iterable[tuple[Index, int, int]] = (),
        outside: str = "0",
    ) -> str:
        """Make `fn name(params) -> T`: `value` at `coords`, `outside` where a guard fails; returns `name`.

        With `width` 4 the coordinates may contain `Index.var(LANE, 4)`, the position in the vector; without it the
        lanes run along the last axis. Guards may depend on LANE too: so vectors may hang over an extent that is no
        multiple of 4."""
        fn = Function(self, name, params)
        coords = tuple(coords)
        if width == 4 and not any(LANE in c.variables for c in coords):
            coords = (*coords[:-1], coords[-1] + Index.var(LANE, 4))
        result = fn.guarded(value, coords, tuple(guards), width, outside)
        fn.returns(result, _wgsl_type(value.type.dtype, width))
        self.functions.append(fn.text())
        return name

    def store(
        self,
        name: str,
        value: Value,
        params: Sequence[Param],
        coords: Sequence[Index],
        width: int = 1,
        guards: Iterable[tuple[Index, int, int]] = (),
        adjust: Callable[[Function, str, tuple[Index, ...]], str] | None = None,
        source: str | None = None,
    ) -> str:
        """Make `fn name(params, v: T)`: body value `value` is v at `coords`; what follows in the body is computed and
        its end stored. `adjust` may change v first. With `source`, T is that WGSL scalar type, not the value's."""
        fn = Function(self, name, params)
        coords = tuple(coords)
        if width == 4 and not any(LANE in c.variables for c in coords):
            coords = (*coords[:-1], coords[-1] + Index.var(LANE, 4))
        scalar = source or COMPUTE_TYPE[value.type.dtype]
        fn.params.append(f"v: {scalar if width == 1 else f'vec4<{scalar}>'}")
        fn.open_guards(tuple(guards), width)
        result = adjust(fn, "v", coords) if adjust else "v"
        fn.finish_chain(value, result, coords, width, tuple(guards))
        self.functions.append(fn.text())
        return name

    # the end -------------------------------------------------------------------------------------------------------

    def finish(
        self, template: str, groups: int, workgroup: tuple[int, int, int], workgroup_bytes: int = 0, **context: Any
    ) -> Kernel:
        """Render the template around the functions and resolve all buffer accesses."""
        grid = fold_grid(groups, self.target.limit("max-compute-workgroups-per-dimension"))
        written = {s.storage for s in self._slots.values() if s.writes}
        arenas = {s.arena for s in written if s.kind == "scratch"}
        arguments, declarations = [], []
        for i, slot in enumerate(self._slots.values()):
            s = slot.storage
            shared = s.kind == "scratch" and s.arena in arenas
            access: Access = "read_write" if s in written or shared else "read"
            scalar = COMPUTE_TYPE[slot.dtype]
            element = f"vec4<{scalar}>" if slot.vector_access and not slot.scalar_store else scalar
            if slot.dtype.bits == 8:
                element = "u32"
            declarations.append(f"@group(0) @binding({i}) var<storage, {access}> b{i}: array<{element}>;")
            arguments.append(Argument(s, access, tuple(slot.reads), tuple(slot.writes)))
        limit = self.target.limit("max-storage-buffers-per-shader-stage")
        if len(arguments) > limit:
            raise VerificationError(f"{self.label}: {len(arguments)} bindings, the target allows {limit}")
        text = render(
            template,
            declarations="\n".join(declarations),
            functions="\n".join(self.functions),
            workgroup=workgroup,
            groups=groups,
            grid=grid,
            **context,
        )
        text = re.sub(r"@(\d+)@", lambda m: self._resolve(int(m.group(1))), text)
        return Kernel(
            self.label, text, grid, workgroup, tuple(arguments), workgroup_bytes, tuple(sorted(self.features))
        )


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
            return self.let(f"{_wgsl_type(value.type.dtype, 4)}({', '.join(lanes)})")
        condition = condition_of(guards)
        if condition is None:
            return self.value(value, coords, width)
        t = _wgsl_type(value.type.dtype, width)
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
            return self.let(f"{_wgsl_type(value.type.dtype, 4)}({scalar})")
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
            return self._read(self.kernel.views[value], coords, width)
        if isinstance(node.op, Constant):
            return self._constant(value, node.op.value.array, coords, width)
        if isinstance(node.op, Elementwise):
            return self._elementwise(node, coords, width)
        if isinstance(node.op, Movement):
            return self._movement(node, node.op, coords, width)
        raise VerificationError(f"{self.kernel.label}: {node.op.name} cannot be fused into a load")

    def _read(self, view: View, coords: tuple[Index, ...], width: int) -> str:
        position = view.position(coords)
        if width == 1:
            return self.let(self.kernel.read(view, position, 1))
        base, step = _split_lane(position)
        if step == 1:
            return self.let(self.kernel.read(view, base, 4))
        return self._by_lane(_wgsl_type(view.type.dtype, 4), lambda i: self._read(view, _lane(coords, i), 1))

    def _by_lane(self, vector: str, one: Callable[[int], str]) -> str:
        return self.let(f"{vector}({', '.join([one(i) for i in range(4)])})")

    def _constant(self, value: Value, array: np.ndarray, coords: tuple[Index, ...], width: int) -> str:
        t = _wgsl_type(value.type.dtype, width)
        if array.size != 1:
            raise VerificationError(f"{self.kernel.label}: only scalar constants may stand inside a fused body")
        x = array.reshape(-1)[0]
        if value.type.dtype.is_float:
            return self.let(f"{t}({float_literal(float(x))})")
        return self.let(f"{t}({int(x)})")

    def _elementwise(self, node: Node, coords: tuple[Index, ...], width: int) -> str:
        out = node.output.type
        args = []
        for v in node.operand_values:
            args.append(self.value(v, coords[len(coords) - v.type.rank :], width))
        t = _wgsl_type(node.operand_values[0].type.dtype, width)
        op = node.op
        assert isinstance(op, Elementwise)
        return self.let(op.wgsl(args, t, _wgsl_type(out.dtype, width)))

    def _movement(self, node: Node, op: Movement, coords: tuple[Index, ...], width: int) -> str:
        types = [v.type for v in node.operand_values]
        pieces = op.pieces(types, node.output.type, coords)
        if width == 4 and not all(_uniform(g, width) for p in pieces for g in p.guards):
            vector = _wgsl_type(node.output.type.dtype, 4)
            return self._by_lane(vector, lambda i: self.value(node.output, _lane(coords, i), 1))
        pieces = tuple(p for p in pieces if not never(p.guards))  # whose constant coordinates may lie outside
        if len(pieces) == 1 and condition_of(pieces[0].guards) is None:
            return self.value(node.operand_values[pieces[0].operand], pieces[0].coords, width)
        out = self._variable(f"{_wgsl_type(node.output.type.dtype, width)}({_fill_literal(op, node)})")
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
        self._write(self.kernel.views[end], name, coords, width, guards)

    def _write(
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
        base, step = _split_lane(position)
        if step == 1 and not ragged:
            self.line(self.kernel.write(view, base, 4, name))
            return
        for i in range(4):
            at = view.position(_lane(coords, i))
            statement = self.kernel.write(view, at, 1, f"{name}.{'xyzw'[i]}")
            condition = condition_of(_lane_guards(tuple(ragged), i))
            self.line(f"if ({condition}) {{ {statement} }}" if condition else statement)


# helpers -----------------------------------------------------------------------------------------------------------


def _inside(coords: tuple[Index, ...], value: Value) -> tuple[Index, ...]:
    """Coordinates in `value`: along an axis of extent 1 there is only 0 (also what broadcasting means)."""
    return tuple(Index() if d == 1 else c for c, d in zip(coords, value.type.shape, strict=True))


def float_literal(x: float) -> str:
    """A WGSL literal that is exactly the float32 nearest to x. Infinity and NaN have none and are refused."""
    if not np.isfinite(np.float32(x)):
        raise UnsupportedError(f"WGSL has no literal for {x}")
    return repr(float(np.float32(x)))


def _fill_literal(op: Movement, node: Node) -> str:
    return float_literal(op.fill) if node.output.type.dtype.is_float else str(int(op.fill))


def _wgsl_type(dtype: DataType, width: int) -> str:
    if dtype not in COMPUTE_TYPE:
        raise UnsupportedError(f"no kernel computes in {dtype.value} on a GPU yet")
    scalar = COMPUTE_TYPE[dtype]
    return scalar if width == 1 else f"vec4<{scalar}>"


def _bytes_access(kind: str, name: str, dtype: DataType, position: Index, width: int, value: str) -> str:
    """8-bit elements, four to a 32-bit word, lowest byte first."""
    word = f"{name}[{(position // 4).wgsl()}]"
    if kind == "write":
        bits = f"bitcast<vec4<u32>>({value})" if dtype.is_signed else value
        return f"{word} = dot({bits} & vec4<u32>(255u), vec4<u32>(1u, 256u, 65536u, 16777216u));"
    if width == 4 and position.divisible(4):
        if dtype.is_signed:
            return f"(vec4<i32>(bitcast<i32>({word})) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u)"
        return f"(vec4<u32>({word}) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u)"
    if width == 4:
        scalars = [_bytes_access(kind, name, dtype, position + i, 1, value) for i in range(4)]
        return f"vec4<{COMPUTE_TYPE[dtype]}>({', '.join(scalars)})"
    source = f"bitcast<i32>({word})" if dtype.is_signed else word
    return f"extractBits({source}, {(position % 4 * 8).wgsl()}, 8u)"


def _runs(view: View, label: str) -> Runs:
    runs = view.runs()
    if runs is None:
        raise VerificationError(f"{label}: a view of {view.type} with strides {view.strides} is not regular")
    return runs


def _split_lane(position: Index) -> tuple[Index, int | None]:
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
    base, step = _split_lane(index)
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
