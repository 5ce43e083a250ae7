"""The WGSL helper functions of `shaders/_library.wgsl.j2`: a kernel is given exactly those that it calls."""

from __future__ import annotations

import functools
import re

from gpucompile.kernels.templates import render

_FUNCTION = re.compile(r"^fn (\w+)\(.*?^}$", re.MULTILINE | re.DOTALL)
_CALL = re.compile(r"\b([A-Za-z_]\w*)\s*\(")


@functools.cache
def functions() -> dict[str, str]:
    """The text of each function by its name, in the order of the file."""
    return {m[1]: m[0] for m in _FUNCTION.finditer(render("_library"))}


def called(text: str) -> list[str]:
    """The texts of the library functions that `text` calls, directly or through others: each once, in the order of the
    file."""
    library = functions()
    found: set[str] = set()
    rest = [text]
    while rest:
        new = set(_CALL.findall(rest.pop())) & library.keys() - found
        found |= new
        rest += [library[name] for name in sorted(new)]
    return [library[name] for name in library if name in found]
