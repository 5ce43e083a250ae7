"""Whether a caller's GPU buffer may go into a submission.

wgpu-native ends the process when a submission uses a buffer that is destroyed or mapped, and wgpu-py cannot tell
whether a buffer was destroyed. So its `destroy` is made to leave a mark.
"""

from __future__ import annotations

from typing import Any

from gpucompile.errors import InputError

_MARK = "_gpucompile_destroyed"


def watch_destroy(cls: type[Any]) -> None:
    """Have `destroy` of a class of GPU buffers mark its object; once for every class."""
    destroy = cls.destroy
    if getattr(destroy, "marks", False):
        return

    def marking(self: Any) -> None:
        setattr(self, _MARK, True)
        destroy(self)

    marking.__doc__ = destroy.__doc__
    marking.marks = True  # type: ignore[attr-defined]
    cls.destroy = marking


def is_destroyed(buffer: Any) -> bool:
    """Whether `destroy` was called on it."""
    return getattr(buffer, _MARK, False)


def require_usable(buffer: Any, handle: Any, where: str) -> None:
    """Raise InputError unless a submission of device `handle` may use the buffer; `where` starts the message."""
    if is_destroyed(buffer):
        raise InputError(f"{where}: the GPU buffer {buffer.label!r} of {buffer.size:,} bytes was destroyed")
    if buffer.map_state != "unmapped":
        raise InputError(f"{where}: the GPU buffer {buffer.label!r} is mapped; unmap it first")
    if getattr(buffer, "_device", handle) is not handle:
        raise InputError(f"{where}: the GPU buffer {buffer.label!r} belongs to another device")
