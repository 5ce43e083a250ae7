"""Whether GPU buffers, and the device itself, may go into a submission.

wgpu-native ends the process when a submission uses a buffer that is destroyed or mapped, or goes to a device that is
destroyed, and wgpu-py cannot tell whether one was. So their `destroy` is made to leave a mark, and to wait for the lock
under which everything of gpucompile checks what it uses and submits it: no thread destroys between the two.
"""

from __future__ import annotations

import threading
from typing import Any

from gpucompile.errors import InputError

_MARK = "_gpucompile_destroyed"
_LOCK = "_gpucompile_lock"


def submission_lock(handle: Any) -> Any:
    """The lock of a `wgpu.GPUDevice` that is held from the check of what a submission uses to the submission. It is
    taken last: nothing that needs another lock is done under it."""
    return handle.__dict__.setdefault(_LOCK, threading.RLock())


def watch_destroy(cls: type[Any]) -> None:
    """Have `destroy` of a class of GPU buffers or devices mark its object; once for every class."""
    destroy = cls.destroy
    if getattr(destroy, "marks", False):
        return

    def marking(self: Any) -> None:
        with submission_lock(getattr(self, "_device", None) or self):
            setattr(self, _MARK, True)
            destroy(self)
            poll = getattr(self, "_poll", None)
            if poll is not None:  # a device: wgpu-py polls it no more, and whoever waits for it would wait forever
                poll(True)

    marking.__doc__ = destroy.__doc__
    marking.marks = True  # type: ignore[attr-defined]
    cls.destroy = marking


def is_destroyed(thing: Any) -> bool:
    """Whether `destroy` was called on a buffer or device."""
    return getattr(thing, _MARK, False)


def require_usable(buffer: Any, handle: Any, where: str) -> None:
    """Raise InputError unless a submission of device `handle` may use the buffer; `where` starts the message."""
    if is_destroyed(buffer):
        raise InputError(f"{where}: the GPU buffer {buffer.label!r} of {buffer.size:,} bytes was destroyed")
    if buffer.map_state != "unmapped":
        raise InputError(f"{where}: the GPU buffer {buffer.label!r} is mapped; unmap it first")
    if getattr(buffer, "_device", handle) is not handle:
        raise InputError(f"{where}: the GPU buffer {buffer.label!r} belongs to another device")
