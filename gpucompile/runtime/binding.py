"""Runs on callers' buffers: bind groups with their buffers in the place of the plan's own, so that nothing is copied.

    (input buffers, output buffers) -> copies before, recorders, copies after

Only the steps that touch an input or output get bind groups of their own. The last KEPT combinations stay ready, which
keeps their buffers from being garbage (not from being destroyed). A buffer that cannot be bound (no STORAGE usage, or
smaller than what shaders bind, which are whole vectors of 16 bytes) is copied from or to instead.

A state is an input and an output in one buffer, which the run updates in place: the output's, if one is given. Then the
input is copied there first, unless it is given as the same buffer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpucompile.runtime.buffers import require_usable
from gpucompile.runtime.checks import port_bytes
from gpucompile.runtime.device import Device
from gpucompile.runtime.format import Plan, Port

#: Combinations of buffers that stay ready for the next run.
KEPT = 32

Copy = tuple[Any, Any, int]  # source, target, bytes


@dataclass(frozen=True)
class Bound:
    """One combination of buffers, ready to be recorded."""

    copies_in: tuple[Copy, ...]
    records: Sequence[Callable[[Any], None]]
    copies_out: tuple[Copy, ...]
    buffers: tuple[Any, ...]  # kept, so that their identities stay theirs


class Bindings:
    """The combinations of one player. `group(step, buffers)` makes the bind group of a step; `record(groups by step)`
    the recorders of all steps with some bind groups replaced."""

    def __init__(
        self,
        device: Device,
        plan: Plan,
        own: Sequence[Any],
        group: Callable[[int, Sequence[Any]], Any],
        record: Callable[[dict[int, Any]], Sequence[Callable[[Any], None]]],
        make_states: Callable[[], None],
    ) -> None:
        self._plan, self._own, self._group, self._record = plan, own, group, record
        self._make_states = make_states
        self._handle = device.handle
        self._storage = int(device.api.BufferUsage.STORAGE)
        self._ready: OrderedDict[tuple[int, ...], Bound] = OrderedDict()
        ports = [p.buffer for p in (*plan.inputs, *plan.outputs)]
        self._states = {p.buffer: i for i, p in enumerate(plan.inputs) if plan.buffers[p.buffer].kind == "state"}
        self._shared = {b for b in ports if ports.count(b) > 1} - set(self._states)
        self._bytes = dict.fromkeys(ports, 0)  # what the shaders bind of a port's buffer
        self._steps: dict[int, list[int]] = {b: [] for b in ports}
        for i, step in enumerate(plan.steps):
            for b in step.bindings:
                if b.buffer in self._bytes:
                    self._bytes[b.buffer] = max(self._bytes[b.buffer], b.offset + b.size)
                    self._steps[b.buffer].append(i)

    def bind(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> Bound:
        """The run on these buffers, one for every port in order; None stands for the plan's own.

        InputError for a buffer that was destroyed, is mapped, or belongs to another device."""
        for kind, ports, given in (("input", self._plan.inputs, inputs), ("output", self._plan.outputs, outputs)):
            for port, buffer in zip(ports, given, strict=True):
                if buffer is not None:
                    require_usable(buffer, self._handle, f"{kind} {port.name!r}")
        key = tuple(0 if b is None else id(b) for b in (*inputs, *outputs))
        bound = self._ready.get(key)
        if bound is None:
            bound = self._ready[key] = self._bind(inputs, outputs)
            if len(self._ready) > KEPT:
                self._ready.popitem(last=False)
        else:
            self._ready.move_to_end(key)
        return bound

    def clear(self) -> None:
        """Let go of all callers' buffers."""
        self._ready.clear()

    def copied_bytes(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
        """How many bytes a run on these buffers copies because they cannot be bound."""
        bound = self.bind(inputs, outputs)
        return sum(size for _, _, size in (*bound.copies_in, *bound.copies_out))

    def _bind(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> Bound:
        if self._states and self.needs_states(inputs, outputs):
            self._make_states()
        buffers = list(self._own)
        copies: tuple[list[Copy], list[Copy]] = [], []
        touched: set[int] = set()
        pairs = [(p, b, False) for p, b in zip(self._plan.inputs, inputs, strict=True)]
        pairs += [(p, b, True) for p, b in zip(self._plan.outputs, outputs, strict=True)]
        for port, buffer, is_output in pairs:
            if port.buffer in self._states:
                if is_output:
                    self._bind_state(port, inputs[self._states[port.buffer]], buffer, buffers, copies)
                    touched.update(self._steps[port.buffer] if buffers[port.buffer] is buffer else ())
                continue
            if buffer is None:
                continue
            if self._fits(port, buffer):
                buffers[port.buffer] = buffer
                touched.update(self._steps[port.buffer])
            elif is_output:
                copies[1].append((self._own[port.buffer], buffer, port_bytes(port)))
            else:
                copies[0].append((buffer, self._own[port.buffer], port_bytes(port)))
        records = self._record({i: self._group(i, buffers) for i in sorted(touched)})
        return Bound(tuple(copies[0]), records, tuple(copies[1]), (*inputs, *outputs))

    def _bind_state(
        self, port: Port, given: Any, taken: Any, buffers: list[Any], copies: tuple[list[Copy], list[Copy]]
    ) -> None:
        """Have the steps work in the output's buffer, or else in the player's own, on what the input holds (None: what
        was written to the player's own)."""
        own, size = self._own[port.buffer], port_bytes(port)
        place = taken if taken is not None and self._fits(port, taken) else own
        source = own if given is None else given
        if source is not place:
            copies[0].append((source, place, size))
        if taken is not None and taken is not place:
            copies[1].append((place, taken, size))
        buffers[port.buffer] = place

    def needs_states(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> bool:
        """Whether a run on these buffers needs one of the player's own states."""
        ends = {p.buffer: (p, b) for p, b in zip(self._plan.outputs, outputs, strict=True)}
        for buffer, number in self._states.items():
            port, taken = ends[buffer]
            if inputs[number] is None or taken is None or not self._fits(port, taken):
                return True
        return False

    def _fits(self, port: Port, buffer: Any) -> bool:
        return (
            port.buffer not in self._shared
            and bool(int(buffer.usage) & self._storage)
            and buffer.size >= self._bytes[port.buffer]
        )
