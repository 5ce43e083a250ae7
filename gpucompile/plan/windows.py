"""Windows: a kernel binds a storage from near the first byte that it uses, not from its beginning.

The steps of a recurrent network read one row after the other of one tensor. As the offset of a view is part of the
shader's text, each would have a shader of its own; with the offset in the binding they share one. Bindings begin at
multiples of 256 bytes, WebGPU's default alignment; the rest of an offset stays in the text.

    windowed(values, views)   the views, rebased to windows of their storages, one for each storage
    unwrapped(kernel)         the kernel lowered from them, in terms of the storages again
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from gpucompile.ir.graph import Value
from gpucompile.kernels.kernel import Argument, Kernel, Runs
from gpucompile.kernels.view import Storage, View
from gpucompile.target import DEFAULT_LIMITS

ALIGNMENT = DEFAULT_LIMITS["min-storage-buffer-offset-alignment"]


@dataclass(eq=False)
class Window(Storage):
    """The end of a storage, from byte `begin` on."""

    whole: Storage | None = None
    begin: int = 0


def windowed(values: Iterable[Value], views: Mapping[Value, View]) -> dict[Value, View]:
    """The views of `values`, those of one storage moved to one window of it: a kernel binds each storage once."""
    out = {v: views[v] for v in values}
    begins: dict[Storage, int] = {}
    for view in out.values():
        first = view.offset * view.type.dtype.bits // 8 if min(view.strides, default=0) >= 0 else 0
        begins[view.storage] = min(begins.get(view.storage, first), first // ALIGNMENT * ALIGNMENT)
    made: dict[Storage, Window] = {}
    for v, view in out.items():
        s, begin = view.storage, begins[view.storage]
        if begin:
            if s not in made:
                made[s] = Window(s.kind, s.nbytes - begin, s.name, s.arena, s.array, s, begin)
            out[v] = replace(view, storage=made[s], offset=view.offset - begin * 8 // view.type.dtype.bits)
    return out


def unwrapped(kernel: Kernel) -> Kernel:
    """The kernel with whole storages as arguments, bound from where their windows begin."""
    return replace(kernel, arguments=tuple(map(_unwrapped, kernel.arguments)))


def _unwrapped(argument: Argument) -> Argument:
    window = argument.storage
    if not isinstance(window, Window) or window.whole is None:
        return argument

    def moved(runs: Runs) -> Runs:
        return (runs[0] + window.begin, *runs[1:])

    reads, writes = (tuple(map(moved, r)) for r in (argument.reads, argument.writes))
    return replace(argument, storage=window.whole, reads=reads, writes=writes, offset=window.begin)
