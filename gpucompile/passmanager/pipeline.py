"""Pipelines as text: `canonicalize,fuse{max_ops=4 maps=false},layout` <-> a tuple of passes.

    pipeline = [item ("," item)*]
    item     = pass ["{" option* "}"]  |  name of a pipeline in gpucompile.passes.pipelines, which stands for its text
    option   = name "=" value          values as in .gir: true, 4, 0.5, none, [1, 2], "text"; plain words need no quotes

Options are the fields of the pass's dataclass and typed by them; `-` and `_` are the same in their names. Printing
leaves out options equal to their default, and reads back as the same passes.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from gpucompile.errors import PassError
from gpucompile.ir.syntax import KEYWORDS, Tokens, conform, describe, field_types, format_scalar
from gpucompile.passmanager.base import Pass, all_passes, named_pipelines


def parse_pipeline(text: str) -> tuple[Pass, ...]:
    """The passes of a pipeline text, named pipelines expanded.

    Raises PassError with the column for malformed text, unknown passes or options, and values of the wrong type."""
    return tuple(_Parser(text, ()).passes())


def print_pipeline(passes: Iterable[Pass]) -> str:
    """The text of passes; `parse_pipeline` gives equal passes back."""
    return ",".join(map(print_pass, passes))


def print_pass(p: Pass) -> str:
    """The text of one pass: `fuse{max_ops=4}`."""
    options = []
    for f in dataclasses.fields(p):
        value = getattr(p, f.name)
        if field_types(type(p))[f.name] is float and isinstance(value, int):
            value = float(value)
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        text = format_scalar(value)
        if default is dataclasses.MISSING or text != format_scalar(default):
            options.append(f"{f.name}={text}")
    return f"{p.name}{{{' '.join(options)}}}" if options else p.name


class _Parser:
    """`within` are the named pipelines being expanded."""

    def __init__(self, text: str, within: Sequence[str]) -> None:
        self.t = Tokens(text, f"pipeline {within[-1]}" if within else "pipeline", PassError)
        self.within = within

    def passes(self) -> list[Pass]:
        t = self.t
        out: list[Pass] = []
        while t.kind != "end":
            out.extend(self.item())
            if t.kind != "end":
                t.expect(",")
                if t.kind == "end":
                    t.fail("expected a pass")
        return out

    def item(self) -> Sequence[Pass]:
        t = self.t
        name = t.take("word", "a pass")
        at = t.at - 1
        known, pipelines = all_passes(), named_pipelines()
        cls = known.get(name)
        if cls is not None:
            return (self.make(cls, at),)
        if name in self.within:
            t.fail(f"pipeline {name} contains itself: {' > '.join([*self.within, name])}", at)
        if name in pipelines:
            return _Parser(pipelines[name], [*self.within, name]).passes()
        near = difflib.get_close_matches(name, [*known, *pipelines], 1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join([*known, *pipelines])}"
        t.fail(f"unknown pass {name!r}; {hint}", at)

    def make(self, cls: type[Pass], at: int) -> Pass:
        t = self.t
        options: dict[str, Any] = {}
        if t.accept("{"):
            hints = field_types(cls)
            while not t.accept("}"):
                where = t.at
                name = t.take("word", "an option").replace("-", "_")
                if name not in hints:
                    near = difflib.get_close_matches(name, hints, 1)
                    known = f"did you mean {near[0]}?" if near else f"it has: {', '.join(hints) or 'none'}"
                    t.fail(f"{cls.name} has no option {name!r}; {known}", where)
                if name in options:
                    t.fail(f"option {name} of {cls.name} is given twice", where)
                t.expect("=")
                options[name] = self.value(cls, name, hints[name])
        try:
            return cls(**options)
        except (TypeError, ValueError) as e:  # a missing option, or one that the pass itself rejects
            t.fail(f"{cls.name}: {e}", at)

    def value(self, cls: type[Pass], name: str, hint: Any) -> Any:
        t = self.t
        at = t.at
        if t.kind == "word" and (hint is str or t.text not in KEYWORDS):
            value: Any = t.take("word", "a value")
        else:
            value = t.scalar()
        try:
            return conform(value, hint)
        except TypeError:
            t.fail(f"option {name} of {cls.name} wants {describe(hint)}, got {t.texts[at]!r}", at)
