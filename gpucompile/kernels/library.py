"""The WGSL helper functions and types of `shaders/_library.wgsl.j2`: a kernel is given exactly those that it uses."""

from __future__ import annotations

import functools
import re

from gpucompile.kernels.templates import render

_ENTRY = re.compile(r"^fn (?P<fn>\w+)\(.*?^}$|^alias (?P<type>\w+) = [^;]*;$", re.MULTILINE | re.DOTALL)
_USE = re.compile(r"\b([A-Za-z_]\w*)\s*\(|\b(Uint64|Int64)\b")


@functools.cache
def functions() -> dict[str, str]:
    """The text of each function and type by its name, in the order of the file."""
    return {m["fn"] or m["type"]: m[0] for m in _ENTRY.finditer(render("_library"))}


def called(text: str) -> list[str]:
    """The texts of the library's entries that `text` uses, directly or through others: each once, in the order of the
    file."""
    library = functions()
    found: set[str] = set()
    rest = [text]
    while rest:
        new = {a or b for a, b in _USE.findall(rest.pop())} & library.keys() - found
        found |= new
        rest += [library[name] for name in sorted(new)]
    return [library[name] for name in library if name in found]
