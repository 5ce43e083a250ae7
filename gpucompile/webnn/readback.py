"""Reading tensors back: one copy into a staging buffer, which is mapped, read and used again.

Staging buffers are as large as the next power of two, so that tensors of about a size share them; at most KEPT_BYTES
of them wait for the next read.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gpucompile.errors import DeviceError, InputError
from gpucompile.ir.op import NIBBLES
from gpucompile.runtime.buffers import require_usable
from gpucompile.runtime.device import Device

if TYPE_CHECKING:
    from gpucompile.webnn.objects import MLTensor

_SMALLEST = 256
KEPT_BYTES = 64 << 20


class Reading(Protocol):
    """A read that was started: `wait` or await `wait_async`, once."""

    def wait(self) -> Any:
        """A new array, or the caller's `out`."""

    async def wait_async(self) -> Any:
        """`wait`, without blocking the event loop."""


class Readback:
    """The staging buffers of a context."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._spare: dict[int, list[Any]] = {}
        self._flying: set[Any] = set()
        self._lock = threading.RLock()  # held while a mapped buffer is read, so that nobody destroys it then

    def start(self, tensor: MLTensor, out: Any) -> Read:
        """Submit the copy of a tensor; `Read` then waits for it. `out` is an array or buffer to fill, or None."""
        target = None if out is None else bytes_of(out, tensor)
        size = (tensor._type.nbytes + 3) // 4 * 4
        handle = self._device.handle
        with self._device.guard(f"reading {tensor!r}"):
            staging = self._take(max(_SMALLEST, 1 << (size - 1).bit_length()))
        try:
            with self._device.holding(f"reading {tensor!r}"):
                require_usable(tensor.gpu_buffer, handle, "read_tensor")
                encoder = handle.create_command_encoder()
                encoder.copy_buffer_to_buffer(tensor.gpu_buffer, 0, staging, 0, size)
                handle.queue.submit([encoder.finish()])
        except BaseException:
            self._drop(staging)
            raise
        return Read(self, tensor, staging, size, target, out)

    @property
    def bytes(self) -> int:
        """What all staging buffers take."""
        with self._lock:
            return sum(b.size for b in (*self._flying, *(b for each in self._spare.values() for b in each)))

    def clear(self) -> None:
        """Free all staging buffers; reads in flight fail."""
        with self._lock:
            buffers = [*self._flying, *(b for each in self._spare.values() for b in each)]
            self._spare.clear()
            self._flying.clear()
            for buffer in buffers:
                buffer.destroy()

    def _take(self, size: int) -> Any:
        with self._lock:
            spare = self._spare.get(size)
            staging = spare.pop() if spare else None
        if staging is None:
            u = self._device.api.BufferUsage
            staging = self._device.handle.create_buffer(label="read", size=size, usage=u.COPY_DST | u.MAP_READ)
        with self._lock:
            self._flying.add(staging)
        return staging

    def _give(self, staging: Any) -> None:
        with self._lock:
            if staging not in self._flying:
                return  # cleared meanwhile
            self._flying.discard(staging)
            kept = sum(size * len(each) for size, each in self._spare.items())
            if kept + staging.size <= KEPT_BYTES:
                self._spare.setdefault(staging.size, []).append(staging)
                return
        staging.destroy()

    def _forget(self, staging: Any) -> None:
        """Let go of a staging buffer, which frees it. Garbage collection may strike under any lock: none is taken."""
        self._flying.discard(staging)

    def _drop(self, staging: Any) -> None:
        with self._lock:
            self._flying.discard(staging)
            staging.destroy()


class Read:
    """One read in flight: `wait` or await `wait_async`, once."""

    def __init__(
        self, pool: Readback, tensor: MLTensor, staging: Any, size: int, target: np.ndarray | None, out: Any
    ) -> None:
        self._pool, self._device = pool, pool._device
        self._tensor, self._staging, self._size = tensor, staging, size
        self._target, self._out = target, out
        self._abandoned = weakref.finalize(self, pool._forget, staging)  # nobody waited for it
        self._abandoned.atexit = False

    def wait(self) -> Any:
        """A new array, or the caller's `out`."""
        try:
            with self._device.guard(f"reading {self._tensor!r}"):
                self._device.map_read(self._staging, self._size).sync_wait()
                result = self._copy()
        except BaseException:
            self._fail()
            raise
        self._abandoned.detach()
        self._pool._give(self._staging)
        return result

    async def wait_async(self) -> Any:
        """`wait`, without blocking the event loop."""
        try:
            try:
                await self._device.map_read(self._staging, self._size)
            except DeviceError:
                raise
            except Exception as e:
                raise self._device.translate(e, f"reading {self._tensor!r}") from e
            result = self._copy()
        except BaseException:
            self._fail()
            raise
        self._abandoned.detach()
        self._pool._give(self._staging)
        return result

    def _copy(self) -> Any:
        with self._pool._lock:
            self._check()
            with self._device.holding(f"reading {self._tensor!r}"):
                return self._copy_mapped()

    def _copy_mapped(self) -> Any:
        type = self._tensor._type
        data = np.frombuffer(self._staging.read_mapped(0, self._size, copy=False), np.uint8)[: type.nbytes]
        try:
            if self._target is not None:
                self._target[:] = data
                return self._out
            if type.dtype in NIBBLES:
                return data.copy()  # packed: two elements in a byte
            return data.copy().view(type.dtype.numpy).reshape(type.shape)
        finally:
            del data
            self._staging.unmap()

    def _fail(self) -> None:
        self._abandoned.detach()
        self._pool._drop(self._staging)
        self._check()  # the reason, where it is one of ours

    def _check(self) -> None:
        self._tensor._context._require_open()
        if self._tensor.destroyed:
            raise InputError(f"read_tensor: {self._tensor!r} while it was read")


def bytes_of(out: Any, tensor: MLTensor) -> np.ndarray:
    """A writable view of the bytes of `out`."""
    type = tensor._type
    try:
        view = memoryview(out)
    except TypeError:
        raise InputError(f"read_tensor: an array or buffer is wanted, not {out.__class__.__name__}") from None
    if view.readonly or not view.c_contiguous or view.nbytes != type.nbytes:
        found = f"{'read-only ' if view.readonly else ''}{'' if view.c_contiguous else 'strided '}{view.nbytes} bytes"
        raise InputError(f"read_tensor: {tensor!r} needs {type.nbytes} writable bytes in one piece, not {found}")
    if isinstance(out, np.ndarray) and out.dtype not in (type.dtype.numpy, np.uint8):
        raise InputError(f"read_tensor: {tensor!r} does not go into an array of {out.dtype}")
    return np.frombuffer(view.cast("B"), np.uint8)
