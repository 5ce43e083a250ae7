"""`lean_types`: every text gives the type that it gave before."""

from __future__ import annotations

from typing import Any

import cffi
import pytest

from gpucompile.runtime.startup import lean_types

HEADER = "".join(f"typedef struct T{i} {{ int a; float b[{i + 1}]; }} T{i};\n" for i in range(50))
HEADER += "typedef int (*call)(T3 *, T4);\ntypedef enum E { E_A = 3, E_B } E;\n"


def parsers() -> tuple[Any, Any]:
    plain, lean = cffi.FFI(), cffi.FFI()
    for ffi in (plain, lean):
        ffi.cdef(HEADER)
    assert lean_types(lean)
    return plain, lean


@pytest.mark.parametrize(
    "text",
    ["T7", "T7 *", "T8[3]", "struct T9 *", "call", "int(*)(T1 const *, T2, void *)", "unsigned long", "uint8_t *", "E"],
)
def test_types_are_the_same(text: str) -> None:
    a, b = (ffi.typeof(text) for ffi in parsers())
    assert (str(a), a.kind) == (str(b), b.kind)
    if a.kind in ("struct", "array", "enum", "primitive"):
        assert len({ffi.sizeof(text) for ffi in parsers()}) == 1


def test_it_declares_what_a_text_names(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    for ffi in parsers():
        parser = cffi.cparser._get_parser()
        whole = parser.parse

        def counting(text: str, *args: Any, whole: Any = whole) -> Any:
            seen.append(text.count("typedef int T"))
            return whole(text, *args)

        monkeypatch.setattr(parser, "parse", counting)
        ffi.typeof("T11 *")
        monkeypatch.undo()
    assert seen == [50, 1]


def test_use() -> None:
    _, lean = parsers()
    assert lean.new("T7 *", {"a": 3}).a == 3
    assert lean.cast("E", 4) == 4
    assert lean.callback("int(T3 *, T4)", lambda p, v: v.a)(lean.NULL, lean.new("T4 *", {"a": 5})[0]) == 5
    lean.cdef("typedef struct { T1 *first; } Later;")  # declarations still add up
    assert lean.sizeof("Later") == lean.sizeof("void *")
    with pytest.raises(cffi.CDefError):
        lean.typeof("T99 *")
    assert lean.typeof("T5 *") == lean.typeof("T5*")


def test_what_it_leaves_alone() -> None:
    _, lean = parsers()
    once = lean._parser._parse
    assert lean_types(lean) and lean._parser._parse is once
    assert not lean_types(object()) and not lean_types(None)
