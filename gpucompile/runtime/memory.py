"""Memory on a device: what a session has there, counted as it is made, and scratch buffers that plans share.

A plan needs its scratch buffers only while it runs, and the runs of a queue follow one another. So the plans of a
context share them: there are as many, and as large, as the neediest plan wants.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from gpucompile.errors import DeviceError, UnsupportedError
from gpucompile.runtime.checks import port_bytes
from gpucompile.runtime.device import Device
from gpucompile.runtime.format import Plan

KINDS = ("weights", "scratch", "inputs", "outputs", "staging", "tensors")


def staging_layout(plan: Plan) -> tuple[dict[int, tuple[int, int, int]], int]:
    """Where each output buffer goes in the staging buffer (buffer -> buffer, offset, size), and the total size."""
    places: dict[int, tuple[int, int, int]] = {}
    at = 0
    for port in plan.outputs:
        size = max(port_bytes(p) for p in plan.outputs if p.buffer == port.buffer)
        if port.buffer not in places:
            places[port.buffer] = (port.buffer, at, size)
            at += (size + 7) // 8 * 8
    return places, max(at, 8)


def scratch_sizes(plan: Plan) -> tuple[int, ...]:
    """The sizes of a plan's scratch buffers, largest first."""
    return tuple(sorted((b.size for b in plan.buffers if b.kind == "scratch"), reverse=True))


def plan_bytes(plan: Plan) -> dict[str, int]:
    """Bytes on the GPU that a plan takes by itself, by kind."""
    return {
        "weights": plan.bytes_of("weight"), "scratch": plan.bytes_of("scratch"), "inputs": plan.bytes_of("input"),
        "outputs": plan.bytes_of("output"), "staging": staging_layout(plan)[1],
    }  # fmt: skip


def _largest(needs: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """What serves each of these, given largest first."""
    return tuple(max(sizes) for sizes in zip_longest(*needs, fillvalue=0))


class Memory:
    """The bytes that its maker has on a device, by the KINDS, and `peak`, the most that there were at a time.

    With a `limit`, whatever would exceed it is refused (UnsupportedError) before it is made. With `arenas`, scratch
    buffers are shared; then what counts is the need of the neediest plan of this maker's. Any thread may call."""

    def __init__(self, limit: int | None = None, arenas: Arenas | None = None) -> None:
        self.limit, self.arenas = limit, arenas
        self.peak = 0
        self._held = dict.fromkeys(KINDS, 0)
        self._scratch: weakref.WeakKeyDictionary[Any, tuple[int, ...]] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def held(self) -> dict[str, int]:
        """Bytes by kind."""
        with self._lock:
            return {**self._held, "scratch": self._scratch_with(())}

    def needed(self, plan: Plan) -> dict[str, int]:
        """What a plan needs beyond what is held, by kind."""
        with self._lock:
            scratch = self._scratch_with(scratch_sizes(plan)) - self._scratch_with(())
        return {**plan_bytes(plan), "scratch": scratch}

    def fits(self, needs: Mapping[str, int]) -> bool:
        """Whether there is room for this as well."""
        return self.limit is None or sum(self.held().values()) + sum(needs.values()) <= self.limit

    def require(self, what: str, needs: Mapping[str, int]) -> None:
        """Raise UnsupportedError unless there is room for `needs` as well, which `what` names in the message."""
        if not self.fits(needs):
            raise self._refusal(what, needs, sum(self.held().values()))

    def add(self, kind: str, size: int, what: str) -> None:
        """Count bytes that are about to be made, for `what`. Raises UnsupportedError if they are too many."""
        with self._lock:
            self._take(kind, size, what)
            self._held[kind] += size

    def sub(self, kind: str, size: int) -> None:
        """Count bytes that were freed."""
        with self._lock:
            self._held[kind] -= size

    def share(self, user: Any, plan: Plan) -> None:
        """Have the player of a plan use shared scratch buffers, until `unshare` or until it is garbage."""
        assert self.arenas is not None
        sizes = scratch_sizes(plan)
        with self._lock:
            self._take("scratch", self._scratch_with(sizes) - self._scratch_with(()), "a plan")
            self._scratch[user] = sizes
        try:
            self.arenas.join(user, sizes)
        except BaseException:
            self.unshare(user)
            raise

    def unshare(self, user: Any) -> None:
        """End what `share` began."""
        assert self.arenas is not None
        self.arenas.leave(user)
        with self._lock:
            self._scratch.pop(user, None)

    def _take(self, kind: str, size: int, what: str) -> None:
        total = sum({**self._held, "scratch": self._scratch_with(())}.values())
        if self.limit is not None and total + size > self.limit:
            raise self._refusal(what, {kind: size}, total)
        self.peak = max(self.peak, total + size)

    def _scratch_with(self, sizes: tuple[int, ...]) -> int:
        if self.arenas is None:
            return self._held["scratch"] + sum(sizes)
        return sum(_largest([sizes, *self._scratch.values()]))

    def _refusal(self, what: str, needs: Mapping[str, int], held: int) -> UnsupportedError:
        parts = ", ".join(f"{kind} {size:,}" for kind, size in needs.items())
        more = f", and {held:,} are in use" if held else ""
        return UnsupportedError(
            f"memory_budget is {self.limit:,} bytes, {what} needs {sum(needs.values()):,} ({parts}){more}"
        )


class Arenas:
    """Scratch buffers that the plans of a context share. `version` changes with the `buffers`, and whoever uses them
    makes its bind groups anew.

    A run must hold the device's submission lock from the look at `version` to its last submission, so that no other run
    gets between its steps."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._needs: weakref.WeakKeyDictionary[Any, tuple[int, ...]] = weakref.WeakKeyDictionary()
        self.buffers: list[Any] = []
        self.version = 0

    @property
    def bytes(self) -> int:
        """What they take on the device."""
        return sum(b.size for b in self.buffers)

    def join(self, user: Any, sizes: tuple[int, ...]) -> None:
        """Make the buffers large enough for one more user. Raises DeviceError, and then nothing has changed."""
        with self._device.holding(f"creating scratch buffers of {sum(sizes):,} bytes"):
            self._fit([*self._needs.values(), sizes])
            self._needs[user] = sizes

    def leave(self, user: Any) -> None:
        """Free what nobody needs any more."""
        # where there is no memory for smaller ones, or the device is lost, they stay
        with contextlib.suppress(DeviceError), self._device.holding("creating smaller scratch buffers"):
            if self._needs.pop(user, None) is not None:
                self._fit(list(self._needs.values()))

    def _fit(self, needs: Sequence[tuple[int, ...]]) -> None:
        sizes, old = _largest(needs), self.buffers
        kept = {i for i, size in enumerate(sizes) if i < len(old) and old[i].size == size}
        made: list[Any] = []
        try:
            for i, size in enumerate(sizes):
                made.append(old[i] if i in kept else self._create(size))
        except BaseException:
            _destroy(b for i, b in enumerate(made) if i not in kept)
            raise
        self.buffers = made
        self.version += made != old
        _destroy(b for i, b in enumerate(old) if i not in kept)  # what was submitted before still runs

    def _create(self, size: int) -> Any:
        u = self._device.api.BufferUsage
        usage = u.STORAGE | u.COPY_SRC | u.COPY_DST
        return self._device.handle.create_buffer(label="shared scratch", size=size, usage=usage)


def _destroy(buffers: Iterable[Any]) -> None:
    for buffer in buffers:
        buffer.destroy()
