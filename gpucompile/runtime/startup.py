"""A faster start of wgpu-py.

wgpu-py names C types by text (`ffi.new("WGPULimits *")`), some 35 of them until a first result. cffi parses each such
text once, behind a declaration of every type of webgpu.h, although the text names one or two: 14 ms each, half a second
in all. `lean_types` lets it declare only the types that a text names; what comes out is the same.
"""

from __future__ import annotations

import importlib
import re
import sys
from types import ModuleType
from typing import Any

_WORD = re.compile(r"\w+")


def prepare(api: ModuleType) -> None:
    """Load the backend of wgpu (or of a module with its API), and make its C types lean where it has them."""
    try:
        importlib.import_module(f"{api.__name__}.backends.auto")
    except Exception:  # the first call loads it again, and then its error counts
        return
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{api.__name__}.backends.") and name.endswith("._ffi"):
            lean_types(getattr(module, "ffi", None))


def lean_types(ffi: Any) -> bool:
    """Make a `cffi.FFI` parse the texts of types without declarations that they do not need.

    Returns False, and changes nothing, where it is not the cffi that this knows."""
    parser: Any = getattr(ffi, "_parser", None)
    parse = getattr(parser, "_parse", None)
    if not callable(parse) or not isinstance(getattr(parser, "_declarations", None), dict):
        return False
    if getattr(parse, "__name__", "") == "lean":
        return True

    def lean(source: str) -> Any:
        everything = parser._declarations  # read by `parse`, for the names of types only
        words = set(_WORD.findall(source))
        kept = {key: value for key, value in everything.items() if key.removeprefix("typedef ") in words}
        parser._declarations = kept
        try:
            return parse(source)
        finally:
            parser._declarations = everything

    parser._parse = lean
    return True
