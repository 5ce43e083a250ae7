"""The templates: each declares its parameters at its top, and knows schedules only: no op, no activation, no layout."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from jinja2 import Environment, meta

from tests.support import OPS

FOLDER = Path(__file__).resolve().parents[2] / "shaders"
LIBRARY = FOLDER / "_library.wgsl.j2"  # functions of numbers, which may have any names and types
TEMPLATES = sorted({*FOLDER.glob("*.wgsl.j2")} - {LIBRARY})
SCHEDULES = [t for t in TEMPLATES if not t.name.startswith("_")]

#: Names of ops that a template may say, and why: WGSL's own functions, and English for something else.
ALLOWED = {
    "exp": "softmax: what it is about",
    "max": "softmax: the largest element of a row; reduce, window: the largest bits, which tell NaN",
    "min": "matmul: where a split of k ends",
    "abs": "a builtin",
    "floor": "a builtin",
    "ceil": "a builtin",
    "sqrt": "a builtin",
    "sign": "a builtin",
    "tile": "matmul: the part of the result that a workgroup computes",
    "slice": "matmul: the share of a tile's k that an invocation sums",
}


def header(text: str) -> str:
    """The comment at the top."""
    found = re.match(r"\{#-(.*?)-#\}", text, re.DOTALL)
    assert found, "the template does not begin with a comment"
    return found[1]


def declared(text: str) -> set[str]:
    """The names listed after `params:`; what stands in parentheses describes them."""
    comment = header(text)
    assert "params:" in comment, "the header lists no params"
    listed = comment.split("params:", 1)[1]
    while "(" in listed:  # innermost first
        listed, before = re.sub(r"\([^()]*\)", "", listed), listed
        assert listed != before, "unbalanced parentheses"
    names = [name.strip() for name in listed.split(",")]
    for name in names:
        assert re.fullmatch(r"[a-z_]\w*", name), f"{name!r} is no parameter name: put descriptions in parentheses"
    assert len(set(names)) == len(names), "a parameter is listed twice"
    return set(names)


@pytest.mark.parametrize("path", SCHEDULES, ids=lambda p: p.name)
def test_the_header_lists_exactly_what_is_used(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert declared(text) == meta.find_undeclared_variables(Environment().parse(text))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.name)
def test_no_op_no_activation_no_layout_no_types(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    header(text)
    code = re.sub(r"\{#.*?#\}|//[^\n]*", "", text, flags=re.DOTALL).lower()
    code = re.sub(r'\{% (import|from|include) "[^"]*"', "", code)
    words = set(re.findall(r"[a-z][a-z0-9_]*", code))
    assert words & OPS.keys() <= ALLOWED.keys(), "templates know no op names"
    assert not words & {"nchw", "nhwc", "oihw", "ohwi", "hwio", "ihwo"}, "layouts are index maps in the hooks"
    assert not words & {"f16", "i32", "int8", "uint8", "float16", "float32", "dtype"}, "data types belong to the hooks"
    assert not re.search(r"pool|conv|relu|gelu|activation|epilogue|bias", code), "fusion lives in the hooks"


def test_every_template_is_used() -> None:
    assert len(SCHEDULES) >= 6, "templates were not found"
    folder = FOLDER.parent / "gpucompile" / "kernels" / "schedules"
    code = "".join(p.read_text(encoding="utf-8") for p in folder.glob("*.py"))
    for path in SCHEDULES:
        assert f'"{path.name.removesuffix(".wgsl.j2")}"' in code, f"no schedule renders {path.name}"
    assert ALLOWED.keys() <= OPS.keys()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{#- A map.\n params: a, b_1 (of x, y), c -#}", {"a", "b_1", "c"}),
        ("{#- params: a (nested (k/4, rounded), up), b -#}", {"a", "b"}),
    ],
)
def test_headers_are_read_right(text: str, names: set[str]) -> None:
    assert declared(text) == names


@pytest.mark.parametrize(
    "text", ["a", "{#- nothing -#}", "{#- params: a b -#}", "{#- params: a, a -#}", "{#- params: a (b -#}"]
)
def test_bad_headers_are_noticed(text: str) -> None:
    with pytest.raises(AssertionError):
        declared(text)
