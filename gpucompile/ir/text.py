"""The text form of graphs (.gir): `print_graph` and `parse_graph`, inverse to each other.

    graph @name(%x: f32[1,3,4,4], %"gpu_0/data": f32[2]) {
      %w = constant {value = splat<f32[8,3,2,2]>(0.001)}
      %r = conv2d(%x, %w, _) {strides = [2, 2]} : f32[1,8,2,2]     // a comment
      %a, %b = split(%r) {splits = [4, 4], axis = 1} : f32[1,4,2,2], f32[1,4,2,2]
      return y: %a, %b
    }

- Names of inputs and outputs are public and survive. `return %b` stands for `return b: %b`. Other value names are
  hints, made unique by a suffix; nameless values are called after their op. Odd names are quoted.
- `_` is an absent operand. Attributes equal to their default are left out. Result types are optional when reading;
  given ones must equal the inferred ones.
- Attribute values: true false none, 1, 1.0 -inf nan, "text", [lists], data types (f32), graphs, literals.
- Literals: `dense<f32[2]>(1.0, 2.0)` up to 16 elements, `splat<f32[9]>(0.0)` where all bits agree, else
  `base64<f32[100]>("...")` (row-major, little-endian; one element per byte for 4-bit types), or with
  literals="ref" `ref<f32[100]>("sha256")`, whose data `collect_literals` gives and `parse_graph` takes.
  Everything is exact but the payload of NaN.

Printing and parsing are linear. Ops must have been imported (`gpucompile.ops`) before a graph that has them is parsed.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpucompile.errors import ParseError, TypeInferenceError
from gpucompile.ir.graph import Constant, Graph, Literal, Node, Value
from gpucompile.ir.literals import FORMS, collect_literals, print_literal, read_literal
from gpucompile.ir.op import Op
from gpucompile.ir.syntax import Tokens, conform, field_types, format_scalar, value_name, word

INLINE_LIMIT = 8 << 20  # bytes of literals up to which `write_gir` needs no side file

# Printing ------------------------------------------------------------------------------------------------------------


def print_graph(graph: Graph, literals: str = "inline") -> str:
    """The text of a graph, ending in a newline. `literals` is `inline` (self-contained) or `ref` (large constants by
    their sha256, see `collect_literals`)."""
    if literals not in ("inline", "ref"):
        raise ValueError(f"literals must be 'inline' or 'ref', not {literals!r}")
    return "\n".join(_Printer(literals == "ref").graph(graph, "")) + "\n"


class _Printer:
    def __init__(self, refs: bool) -> None:
        self.refs = refs

    def graph(self, graph: Graph, indent: str) -> list[str]:
        names = _Names()
        inputs = [f"{names.add(v, v.name)}: {v.type}" for v in graph.inputs]
        lines = [f"graph @{word(graph.name)}({', '.join(inputs)}) {{"]
        inner = indent + "  "
        lines.extend(inner + self.node(node, names, inner) for node in graph.nodes)
        outputs = []
        for public, v in zip(graph.output_names, graph.outputs, strict=True):
            text = names.text[v]
            outputs.append(text if text == value_name(public) else f"{word(public)}: {text}")
        lines.append(f"{inner}return {', '.join(outputs)}".rstrip())
        lines.append(indent + "}")
        return lines

    def node(self, node: Node, names: _Names, indent: str) -> str:
        results = ", ".join([names.add(v, v.name or node.op.name) for v in node.outputs])
        constant = isinstance(node.op, Constant)
        operands = "" if constant else f"({', '.join(['_' if v is None else names.text[v] for v in node.inputs])})"
        attributes = self.attributes(node.op, indent)
        types = "" if constant else f" : {', '.join([str(v.type) for v in node.outputs])}"
        return f"{results} = {node.op.name}{operands}{attributes}{types}"

    def attributes(self, op: Op, indent: str) -> str:
        out = []
        for name, default, is_float in _layout(type(op)):
            value = getattr(op, name)
            if value is None and default == "none":
                continue
            text = self.value(float(value) if is_float and isinstance(value, int) else value, indent)
            if text != default:
                out.append(f"{name} = {text}")
        return f" {{{', '.join(out)}}}" if out else ""

    def value(self, value: Any, indent: str) -> str:
        if isinstance(value, Literal):
            return print_literal(value, self.refs)
        if isinstance(value, Graph):
            return "\n".join(self.graph(value, indent))
        if isinstance(value, (tuple, list)):
            return f"[{', '.join([self.value(v, indent) for v in value])}]"
        return format_scalar(value)


class _Names:
    """Unique printed names of values; a taken name gets the suffix _1, _2, ..."""

    def __init__(self) -> None:
        self.text: dict[Value, str] = {}
        self.used: set[str] = set()
        self.next: dict[str, int] = {}

    def add(self, value: Value, hint: str) -> str:
        name = hint
        while name in self.used:
            n = self.next[hint] = self.next.get(hint, 0) + 1
            name = f"{hint}_{n}"
        self.used.add(name)
        text = self.text[value] = value_name(name)
        return text


_LAYOUTS: dict[type[Op], tuple[tuple[str, str | None, bool], ...]] = {}


def _layout(cls: type[Op]) -> tuple[tuple[str, str | None, bool], ...]:
    """(name, text of the default or None, whether ints are printed as floats) of each attribute. Cached."""
    found = _LAYOUTS.get(cls)
    if found is None:
        rows = []
        hints = field_types(cls)
        for f in dataclasses.fields(cls):
            default = f.default
            if f.default_factory is not dataclasses.MISSING:
                default = f.default_factory()
            try:
                text = None if default is dataclasses.MISSING else format_scalar(default)
            except TypeError:
                text = None
            rows.append((f.name, text, hints[f.name] is float))
        found = _LAYOUTS[cls] = tuple(rows)
    return found


# Parsing -------------------------------------------------------------------------------------------------------------


def parse_graph(text: str, literals: Mapping[str, np.ndarray] | None = None, source: str = "") -> Graph:
    """The graph of a text. `literals` holds the data of `ref` literals; `source` is a file name for messages.

    Raises ParseError with line and column, also for types that ops reject or that differ from the printed ones."""
    tokens = Tokens(text, source)
    graph = _Parser(tokens, literals or {}).graph()
    if tokens.kind != "end":
        tokens.fail("expected the end of the text")
    return graph


class _Parser:
    def __init__(self, tokens: Tokens, literals: Mapping[str, np.ndarray]) -> None:
        self.t = tokens
        self.literals = literals

    def graph(self) -> Graph:
        t = self.t
        t.expect("graph")
        name = t.take("symbol", "a graph name such as @main")[1:]
        graph = Graph(t.unquote(name, t.at - 1) if name.startswith('"') else name)
        values: dict[str, Value] = {}
        t.expect("(")
        while not t.accept(")"):
            if values:
                t.expect(",")
            (name,) = self.new_names(values, 1)
            t.expect(":")
            values[name] = graph.add_input(name, t.tensor_type())
        t.expect("{")
        while not t.accept("return"):
            self.node(graph, values)
        graph.set_outputs(self.outputs(values))
        t.expect("}")
        return graph

    def new_names(self, values: Mapping[str, Value], limit: int = 0) -> list[str]:
        """`%a, %b`: names not yet in `values`."""
        t, names = self.t, list[str]()
        while True:
            what = "a value such as %x" if names or limit else "a value such as %x, or return"
            name = self.name(t.take("value", what))
            if name in values or name in names:
                t.fail(f"%{name} is defined twice", t.at - 1)
            names.append(name)
            if len(names) == limit or not t.accept(","):
                return names

    def name(self, text: str) -> str:
        return self.t.unquote(text[1:], self.t.at - 1) if text[1] == '"' else text[1:]

    def operand(self, values: Mapping[str, Value]) -> Value:
        text = self.t.take("value", "a value such as %x")
        value = values.get(self.name(text))
        if value is None:
            self.t.fail(f"{text} is not defined before this use", self.t.at - 1)
        return value

    def outputs(self, values: Mapping[str, Value]) -> dict[str, Value]:
        t = self.t
        out: dict[str, Value] = {}
        while t.text != "}":
            if out:
                t.expect(",")
            at = t.at
            if t.kind == "value":
                public = text = self.name(t.text)
            else:
                text = t.text if t.kind == "word" else t.take("string", "an output, a name or %value")
                public = t.unquote(text, at) if t.kinds[at] == "string" else text
                t.at = at + 1
                t.expect(":")
            if public in out:
                t.fail(f"two outputs are called {public!r}", at, found=False)
            out[public] = self.operand(values)
        return out

    def node(self, graph: Graph, values: dict[str, Value]) -> None:
        t = self.t
        names = self.new_names(values)
        t.expect("=")
        at = t.at
        cls = self.op_class(t.take("word", "an op"))
        operands: list[Value | None] = []
        if t.accept("("):
            while not t.accept(")"):
                if operands:
                    t.expect(",")
                operands.append(None if t.accept("_") else self.operand(values))
        op = self.make_op(cls, at)
        try:
            node = graph.insert(op, tuple(operands))
        except TypeInferenceError as e:
            t.fail(str(e), at, found=False)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as e:
            t.fail(f"{op.name}: the operands do not suit the op ({e})", at, found=False)
        self.result_types(node)
        if len(names) != len(node.outputs):
            t.fail(f"{op.name} has {len(node.outputs)} results, {len(names)} are named", at, found=False)
        for name, v in zip(names, node.outputs, strict=True):
            v.name = name
            values[name] = v

    def op_class(self, name: str) -> type[Op]:
        cls = Op.registry.get(name)
        if cls is None or name == "return":
            near = difflib.get_close_matches(name, Op.registry, 1)
            self.t.fail(f"unknown op {name!r}{f', did you mean {near[0]}?' if near else ''}", self.t.at - 1)
        return cls

    def result_types(self, node: Node) -> None:
        t = self.t
        if not t.accept(":"):
            return
        at = t.at
        given = [t.tensor_type()]
        while t.accept(","):
            given.append(t.tensor_type())
        inferred = [v.type for v in node.outputs]
        if given != inferred:
            left, right = (", ".join(map(str, ts)) for ts in (given, inferred))
            t.fail(f"{node.op.name} is given the type {left}, but it has the type {right}", at, found=False)

    def make_op(self, cls: type[Op], at: int) -> Op:
        t = self.t
        attributes: dict[str, Any] = {}
        if t.accept("{"):
            hints = field_types(cls)
            while not t.accept("}"):
                if attributes:
                    t.expect(",")
                where = t.at
                name = t.take("word", "an attribute")
                if name not in hints:
                    known = ", ".join(hints) or "none"
                    t.fail(f"{cls.name} has no attribute {name!r}; it has: {known}", where, found=False)
                if name in attributes:
                    t.fail(f"attribute {name} is given twice", where, found=False)
                t.expect("=")
                try:
                    attributes[name] = conform(self.value(), hints[name])
                except TypeError as e:
                    t.fail(f"attribute {name} of {cls.name} {e}", where, found=False)
        try:
            return cls(**attributes)
        except (TypeError, ValueError) as e:
            t.fail(f"{cls.name}: {e}", at, found=False)

    def value(self) -> Any:
        t = self.t
        if t.kind == "word":
            if t.text == "graph":
                return self.graph()
            if t.text in FORMS:
                return self.literal()
        elif t.accept("["):
            out: list[Any] = []
            while not t.accept("]"):
                if out:
                    t.expect(",")
                out.append(self.value())
            return tuple(out)
        return t.scalar()

    def literal(self) -> Literal:
        t = self.t
        at = t.at
        form = t.take("word", "a literal")
        t.expect("<")
        kind = t.tensor_type()
        t.expect(">")
        t.expect("(")
        values = t.items(")")
        try:
            array = read_literal(form, kind, values, self.literals)
        except ValueError as e:
            t.fail(f"{form}<{kind}> {e}", at, found=False)
        return Literal(array, kind)


# Files ---------------------------------------------------------------------------------------------------------------


def write_gir(path: Path, graph: Graph, header: str = "") -> Path | None:
    """Write a graph to a file, after the comment lines `header`. Where its constants exceed 8 MiB they go to a side
    file with the suffix .npz, which is returned."""
    side = None
    table = collect_literals(graph)
    if sum(a.nbytes for a in table.values()) > INLINE_LIMIT:
        side = path.with_suffix(".npz")
        with side.open("wb") as file:
            np.savez(file, **table)  # type: ignore[arg-type]
    path.write_text(header + print_graph(graph, "ref" if side else "inline"), encoding="utf-8")
    return side


def read_gir(path: Path) -> Graph:
    """Read what `write_gir` wrote. Raises ParseError, with the place in the file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ParseError(f"cannot read {path}: {e}") from e
    side = path.with_suffix(".npz")
    if side.exists() and "ref<" in text:
        with np.load(side) as table:
            return parse_graph(text, table, str(path))
    return parse_graph(text, source=str(path))
