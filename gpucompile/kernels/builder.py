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

from gpucompile.errors import UnsupportedError, VerificationError
from gpucompile.ir.graph import Graph, Value
from gpucompile.ir.index import Index
from gpucompile.ir.types import DataType
from gpucompile.kernels.function import LANE, Function, Param
from gpucompile.kernels.kernel import Access, Argument, Kernel, Runs, fold_grid
from gpucompile.kernels.library import called
from gpucompile.kernels.packed import packed_access
from gpucompile.kernels.templates import render
from gpucompile.kernels.view import COMPUTE_TYPE, Storage, View
from gpucompile.target import Target


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
        self.type_of(dtype, 1)
        return slot

    def packed(self, dtype: DataType) -> bool:
        """Whether elements share 32-bit words: they can only be written in aligned fours."""
        return dtype.packed(self.target.features)

    def type_of(self, dtype: DataType, width: int) -> str:
        """The WGSL type in which `width` elements are computed: float32 for float16 that the target packs."""
        scalar = COMPUTE_TYPE[dtype]
        if dtype is DataType.FLOAT16:
            if self.packed(dtype):
                scalar = "f32"
            else:
                self.features.add("shader-f16")
        if width == 4 and dtype.bits == 64:
            raise VerificationError(f"{self.label}: there are no vectors of {dtype.value}")
        return scalar if width == 1 else f"vec4<{scalar}>"

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

    def keep(self, view: View) -> None:
        """Note that the kernel leaves what it does not write of a view as it was: it counts as reading it."""
        runs = _runs(view, self.label)
        slot = self.slot(view)
        if runs not in slot.reads:
            slot.reads.append(runs)

    def _access(self, kind: str, slot: _Slot, position: Index, width: int, value: str) -> str:
        aligned = width == 4 and position.divisible(4)
        if aligned:
            slot.vector_access = True
        if kind == "write" and not aligned:
            if self.packed(slot.dtype):  # neighbours share a word: only whole words can be written without a race
                raise UnsupportedError(f"{self.label}: cannot write single {slot.dtype.value} elements on a GPU yet")
            slot.scalar_store = True
        self._accesses.append((kind, slot, position, width, value))
        return f"@{len(self._accesses) - 1}@"

    def _resolve(self, number: int) -> str:
        kind, slot, position, width, value = self._accesses[number]
        name = f"b{list(self._slots).index(slot.storage)}"
        if self.packed(slot.dtype):
            return packed_access(kind, name, slot.dtype, position, width, value)
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
        fn.returns(result, self.type_of(value.type.dtype, width))
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
        scalar = source or self.type_of(value.type.dtype, 1)
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
        """Render the template around the functions, resolve all buffer accesses, add what is called of the library."""
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
            if self.packed(slot.dtype):
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
        text = "\n\n".join([*called(text), text])
        return Kernel(
            self.label, text, grid, workgroup, tuple(arguments), workgroup_bytes, tuple(sorted(self.features))
        )


def _runs(view: View, label: str) -> Runs:
    runs = view.runs()
    if runs is None:
        raise VerificationError(f"{label}: a view of {view.type} with strides {view.strides} is not regular")
    return runs
