"""What the text forms (.gir graphs, pipeline strings) share: tokens, error places, scalar values, typed fields.

    text --Tokens--> kinds, texts, offsets      one regular expression, offsets become line:column only in errors
    value --format_scalar--> text               exact: reading it back gives the same value of the same type
    value --conform(annotation)--> value        int -> float where a float is wanted; TypeError for anything else

Imports nothing of the graph, so that pipelines use it too.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from typing import Any, NoReturn

import numpy as np

from gpucompile.errors import GpucompileError, ParseError
from gpucompile.ir.types import DataType, TensorType

_STRING = r'"[^"\\\n]*(?:\\.[^"\\\n]*)*"'
_WORD = r"[A-Za-z_][A-Za-z0-9_.\-]*"
_TYPES = "|".join(d.short for d in DataType)
_TOKEN = re.compile(
    r"[ \t\r\n]*(?://[^\n]*[ \t\r\n]*)*(?:"
    rf"(?P<value>%(?:[A-Za-z0-9_.]+|{_STRING}))"
    rf"|(?P<type>(?:{_TYPES})\[[0-9,\ ]*\])"
    r"|(?P<float>-?(?:[0-9]+\.[0-9]*(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+|inf\b|nan\b))"
    r"|(?P<int>-?[0-9]+)"
    rf"|(?P<word>{_WORD})"
    rf"|(?P<string>{_STRING})"
    rf"|(?P<symbol>@(?:{_WORD}|{_STRING}))"
    r"|(?P<punct>[()\[\]{}<>=,:])"
    r"|(?P<end>\Z)"
    r"|(?P<bad>.))"
)
_BARE_VALUE = re.compile(r"[A-Za-z0-9_.]+")
_BARE_WORD = re.compile(_WORD)
_TYPE_CACHE: dict[str, TensorType] = {}


class Tokens:
    """A cursor over the tokens of a text. `kind` and `text` describe the current token; `kind` is value (`%x`), type,
    float, int, word, string, symbol (`@x`), punct, end or bad. Errors are `error` classes with line and column."""

    def __init__(self, text: str, source: str = "", error: type[GpucompileError] = ParseError) -> None:
        self.source = text
        self.file = source
        self.error = error
        self.kinds: list[str] = []
        self.texts: list[str] = []
        self.offsets: list[int] = []
        for m in _TOKEN.finditer(text):
            kind = m.lastgroup or "end"
            self.kinds.append(kind)
            self.texts.append(m[kind])
            self.offsets.append(m.start(kind))
        self.at = 0

    @property
    def kind(self) -> str:
        return self.kinds[self.at]

    @property
    def text(self) -> str:
        return self.texts[self.at]

    def accept(self, text: str) -> bool:
        """Step over the current token if it is the punctuation or word `text`."""
        if self.texts[self.at] == text and self.kinds[self.at] in ("punct", "word"):
            self.at += 1
            return True
        return False

    def expect(self, text: str) -> None:
        """Step over the punctuation or word `text`, or fail."""
        if not self.accept(text):
            self.fail(f"expected {text!r}")

    def take(self, kind: str, what: str) -> str:
        """Step over a token of one kind and return its text, or fail saying that `what` was expected."""
        if self.kinds[self.at] != kind:
            self.fail(f"expected {what}")
        self.at += 1
        return self.texts[self.at - 1]

    def fail(self, why: str, at: int | None = None, found: bool = True) -> NoReturn:
        """Raise the error at token `at` (default: the current one): `line 3, column 8: expected '=', found '('`."""
        at = self.at if at is None else at
        offset = self.offsets[at]
        line = self.source.count("\n", 0, offset) + 1
        column = offset - (self.source.rfind("\n", 0, offset) + 1) + 1
        text = self.texts[at]
        what = "the end of the text" if self.kinds[at] == "end" else repr(text if len(text) < 40 else text[:37] + "...")
        place = f"{self.file}:{line}:{column}" if self.file else f"line {line}, column {column}"
        raise self.error(f"{place}: {why}{f', found {what}' if found and at == self.at else ''}")

    def unquote(self, text: str, at: int) -> str:
        """The content of a quoted string token."""
        try:
            return str(json.loads(text, strict=False))
        except ValueError:
            self.fail(f"invalid string {text[:40]}", at)

    def scalar(self) -> Any:
        """A value: true, false, none, a number, a string, a data type, or a list of values (a tuple)."""
        kind, text, at = self.kinds[self.at], self.texts[self.at], self.at
        self.at += 1
        if kind == "int":
            if len(text) > 4000:
                self.fail("too many digits", at)
            return int(text)
        if kind == "float":
            return float(text)
        if kind == "string":
            return self.unquote(text, at)
        if kind == "word":
            if text in KEYWORDS:
                return KEYWORDS[text]
        elif text == "[":
            return tuple(self.items("]"))
        self.at = at
        self.fail("expected a value")

    def items(self, end: str) -> list[Any]:
        """Comma-separated scalars up to `end`."""
        out: list[Any] = []
        while not self.accept(end):
            if out:
                self.expect(",")
            out.append(self.scalar())
        return out

    def tensor_type(self) -> TensorType:
        """A type such as `f32[1,3]`."""
        text = self.take("type", "a type such as f32[1,3]")
        found = _TYPE_CACHE.get(text)
        if found is None:
            name, _, rest = text.partition("[")
            try:
                shape = tuple(int(d) for d in rest[:-1].split(",")) if rest.strip("] ") else ()
            except ValueError:
                self.fail(f"malformed type {text!r}", self.at - 1)
            found = TensorType(DataType.parse(name), shape)
            if len(_TYPE_CACHE) < 4096:
                _TYPE_CACHE[text] = found
        return found


KEYWORDS: dict[str, Any] = {"true": True, "false": False, "none": None} | {d.short: d for d in DataType}


def quote(text: str) -> str:
    """A string literal."""
    out = json.dumps(text, ensure_ascii=False)
    try:
        out.encode()
    except UnicodeEncodeError:  # a lone surrogate
        out = json.dumps(text)
    return out


def value_name(text: str) -> str:
    """`%x`, or `%"a/b"` where the name is odd."""
    return f"%{text}" if _BARE_VALUE.fullmatch(text) else f"%{quote(text)}"


def word(text: str) -> str:
    """`text` itself where it reads back as a word, else quoted."""
    return text if _BARE_WORD.fullmatch(text) else quote(text)


def format_scalar(value: Any) -> str:
    """The text of a value that `Tokens.scalar` reads back. Raises TypeError for values that have no text form."""
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if value is None:
        return "none"
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        return repr(float(value))
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(format_scalar, value))}]"
    if isinstance(value, DataType):
        return value.short
    raise TypeError(f"{type(value).__name__} has no text form")


def conform(value: Any, annotation: Any) -> Any:
    """`value` if it suits a field annotated so, ints made floats where only a float does. Raises TypeError."""
    if annotation is Any or annotation is dataclasses.MISSING:
        return value
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        for exact in (True, False):  # prefer a member that needs no conversion
            for member in args:
                try:
                    out = conform(value, member)
                except TypeError:
                    continue
                if not exact or type(out) is type(value):
                    return out
    elif origin is tuple and isinstance(value, tuple):
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(conform(v, args[0]) for v in value)
        if len(args) == len(value):
            return tuple(conform(v, a) for v, a in zip(value, args, strict=True))
    elif origin is typing.Literal:
        if value in args:
            return value
    elif annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif annotation is int and isinstance(value, bool):
        pass
    elif isinstance(value, annotation if isinstance(annotation, type) else ()):
        return value
    raise TypeError(f"wants {describe(annotation)}, got {_shown(value)}")


def describe(annotation: Any) -> str:
    """An annotation in words for messages: `int`, `float or none`, `list of int`, `"a" or "b"`."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(a) for a in args)
    if origin is typing.Literal:
        return " or ".join(format_scalar(a) for a in args)
    if origin is tuple:
        return f"list of {describe(args[0])}" if args and args[-1] is Ellipsis else f"list of {len(args)} values"
    if annotation in (None, type(None)):
        return "none"
    return {"bool": "true or false", "str": "string"}.get(annotation.__name__, str(annotation.__name__))


def _shown(value: Any) -> str:
    try:
        return format_scalar(value)
    except TypeError:
        return repr(value)


def field_types(cls: type) -> dict[str, Any]:
    """Field name -> annotation of a dataclass, resolved; unresolvable annotations become Any. Cached."""
    found = _FIELD_TYPES.get(cls)
    if found is None:
        try:
            hints = typing.get_type_hints(cls)
        except NameError:
            hints = {}
        found = {f.name: hints.get(f.name, Any) for f in dataclasses.fields(cls)}
        _FIELD_TYPES[cls] = found
    return found


_FIELD_TYPES: dict[type, dict[str, Any]] = {}
