"""The .gir text form: printing and parsing are inverse, for every op and for random graphs; errors name their place."""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpucompile.ops
from gpucompile.errors import ParseError
from gpucompile.ir.graph import Graph, Literal, Value
from gpucompile.ir.interpret import interpret
from gpucompile.ir.literals import collect_literals, print_literal
from gpucompile.ir.op import Op
from gpucompile.ir.syntax import Tokens, format_scalar
from gpucompile.ir.text import parse_graph, print_graph, read_gir, write_gir
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.contraction import Matmul
from gpucompile.ops.movement import Concat, Pad, Reshape, Transpose

for module in pkgutil.iter_modules(gpucompile.ops.__path__):
    importlib.import_module(f"gpucompile.ops.{module.name}")

F32 = DataType.FLOAT32
NAMES = st.text(min_size=1, max_size=6) | st.sampled_from(["x", "x_1", "a/b", "7", "graph", "return", '"', "\\", "é"])


def round_trip(graph: Graph) -> Graph:
    """Parse what was printed, both ways; check that it prints the same again."""
    text = print_graph(graph)
    again = parse_graph(text)
    assert print_graph(again) == text
    refs = print_graph(graph, "ref")
    by_ref = parse_graph(refs, collect_literals(graph))
    assert print_graph(by_ref, "ref") == refs
    assert print_graph(by_ref) == text
    again.verify()
    return again


@pytest.mark.parametrize("name", sorted(n for n in Op.registry if n != "return"))
def test_every_op_round_trips(name: str) -> None:
    cases = list(Op.registry[name].cases())
    assert cases
    for op, types in cases:
        graph = Graph(name)
        ins = [None if t is None else graph.add_input(f"in{i}", t) for i, t in enumerate(types)]
        node = graph.insert(op, tuple(ins))
        graph.set_outputs({f"out{v.index}": v for v in node.outputs})
        again = round_trip(graph)
        (copy,) = again.nodes
        assert type(copy.op) is type(op)
        if not any(isinstance(a, Graph) for a in op.attributes().values()):
            assert copy.op == op
        assert [v.type for v in copy.outputs] == [v.type for v in node.outputs]


# Random graphs -------------------------------------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    graph = Graph(draw(NAMES))
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    pool: list[Value] = [
        graph.add_input(n, TensorType(F32, (draw(st.integers(1, 3)), draw(st.integers(1, 4))))) for n in names
    ]
    for _ in range(draw(st.integers(0, 12))):
        x = draw(st.sampled_from(pool))
        rows, columns = x.type.shape
        hint = draw(st.just("") | NAMES)
        kind = draw(st.sampled_from(["constant", "transpose", "reshape", "concat", "pad", "matmul"]))
        if kind == "constant":
            shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6))
            y = graph.constant(draw(hnp.arrays(np.float32, shape)), name=hint)
        elif kind == "transpose":
            y = graph.add(Transpose((1, 0)), x, name=hint)
        elif kind == "reshape":
            y = graph.add(Reshape((columns, rows)), x, name=hint)
        elif kind == "concat":
            y = graph.add(Concat(1), x, x, name=hint)
        elif kind == "pad":
            y = graph.add(Pad((0, 1), (1, 0), value=draw(st.floats(width=32))), x, name=hint)
        else:
            y = graph.add(Matmul(), x, graph.constant(np.full((columns, 2), draw(st.floats(-9, 9, width=32)))
                                                      .astype(np.float32)), name=hint)  # fmt: skip
        pool.append(y)
    outs = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=3))
    publics = draw(st.lists(NAMES, min_size=len(outs), max_size=len(outs), unique=True))
    graph.set_outputs(dict(zip(publics, outs, strict=True)))
    return graph


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_random_graphs_round_trip_and_mean_the_same(graph: Graph) -> None:
    again = round_trip(graph)
    assert again.name == graph.name
    assert [v.name for v in again.inputs] == [v.name for v in graph.inputs]
    assert again.output_names == graph.output_names
    rng = np.random.default_rng(0)
    feeds = {v.name: rng.standard_normal(v.type.shape).astype(np.float32) for v in graph.inputs}
    left, right = interpret(graph, feeds), interpret(again, feeds)
    assert list(left) == list(right)
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(list(DataType)), st.data())
def test_literals_are_exact(dtype: DataType, data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    elements = {4: st.integers(-8, 7) if dtype.is_signed else st.integers(0, 15)}.get(dtype.bits)
    array = data.draw(hnp.arrays(dtype.numpy, shape, elements=elements))
    graph = Graph("g")
    graph.set_outputs({"y": graph.constant(Literal(array, TensorType(dtype, array.shape)))})
    (node,) = round_trip(graph).nodes
    result = node.output.constant
    assert result is not None
    assert node.output.type == TensorType(dtype, array.shape)
    nan = np.isnan(array)  # payloads are not kept
    assert (np.isnan(result) == nan).all()
    np.testing.assert_array_equal(np.where(nan, 0, array), np.where(nan, 0, result))
    if dtype.is_float:
        np.testing.assert_array_equal(np.signbit(array[~nan]), np.signbit(result[~nan]))


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.float32(0.1), "dense<f32[]>(0.1)"),
        (np.float16(0.1), "dense<f16[]>(0.1)"),
        (np.array([1e20, -0.0, np.inf, -np.inf, np.nan], np.float32), "dense<f32[5]>(1.0e+20, -0.0, inf, -inf, nan)"),
        (np.array([16777216.0, 1e-45], np.float32), "dense<f32[2]>(16777216.0, 1.0e-45)"),
        (np.full((100, 2), -0.0, np.float32), "splat<f32[100,2]>(-0.0)"),
        (np.array([0.0, -0.0], np.float32), "dense<f32[2]>(0.0, -0.0)"),
        (np.zeros((0, 3), np.int64), "dense<i64[0,3]>()"),
        (np.array([2**63], np.uint64), "dense<u64[1]>(9223372036854775808)"),
        (np.array([True, False]), "dense<u8[2]>(1, 0)"),
        (np.broadcast_to(np.arange(2, dtype=np.int8), (9, 2)), 'base64<i8[9,2]>("AAEAAQABAAEAAQABAAEAAQAB")'),
    ],
)
def test_literal_forms(array: np.ndarray, text: str) -> None:
    assert print_literal(Literal(array)) == text


def test_names_defaults_and_layout() -> None:
    graph = Graph("net")
    x = graph.add_input("gpu_0/data", TensorType(F32, (2, 3)))
    w = graph.constant(np.full((3, 2), 0.5, np.float32), name="w")
    a = graph.add(Matmul(), x, w, name="w")
    b = graph.add(Pad((0, 1), (0, 0)), graph.add(Matmul(), a, a))
    graph.set_outputs({"b c": b, "pad": b})
    assert print_graph(graph) == (
        'graph @net(%"gpu_0/data": f32[2,3]) {\n'
        "  %w = constant {value = splat<f32[3,2]>(0.5)}\n"
        '  %w_1 = matmul(%"gpu_0/data", %w) : f32[2,2]\n'
        "  %matmul = matmul(%w_1, %w_1) : f32[2,2]\n"
        "  %pad = pad(%matmul) {beginning = [0, 1], ending = [0, 0]} : f32[2,3]\n"
        '  return "b c": %pad, %pad\n'
        "}\n"
    )


@pytest.fixture
def odd_op() -> Iterator[type[Op]]:
    """An op with attributes of every kind, registered for one test."""

    @dataclass(frozen=True)
    class OddForTest(Op):
        operands: ClassVar[tuple[str, ...]] = ("a", "b?", "c?")
        flag: bool = False
        real: float = -0.0
        maybe: float | None = None
        pair: tuple[tuple[int, ...], ...] = ()
        text: str = "x"
        dtype: DataType = F32
        data: Literal | None = None
        bodies: tuple[Graph, ...] = ()

        def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
            return (ins[0], ins[0].with_dtype(self.dtype))

    yield OddForTest
    del Op.registry[OddForTest.name]


def test_attributes_of_every_kind(odd_op: type[Op]) -> None:
    inner = Graph("inner body")
    inner.set_outputs({"t": inner.add(Transpose((1, 0)), inner.add_input("t", TensorType(F32, (2, 3))))})
    graph = Graph("g")
    x = graph.add_input("x", TensorType(F32, (2,)))
    graph.insert(odd_op(), (x, None, x), name="plain")
    literal = Literal(np.arange(40))
    op = odd_op(True, 2, float("-inf"), ((1, 2), ()), 'a"\\\n\u2028', DataType.UINT4, literal, (inner, inner))  # type: ignore[call-arg]
    first, second = graph.insert(op, (x, None, x)).outputs
    graph.insert(odd_op(real=0.0, maybe=3), (x,))  # type: ignore[call-arg]
    graph.set_outputs({"a": first, "b": second})
    text = print_graph(graph)
    assert "%plain.0, %plain.1 = odd_for_test(%x, _, %x) : f32[2], f32[2]\n" in text
    assert "real = 2.0, maybe = -inf, pair = [[1, 2], []]" in text
    assert "odd_for_test(%x) {real = 0.0, maybe = 3} :" in text  # maybe may be an int or not: the text keeps what it is
    again = parse_graph(text)
    assert print_graph(again) == text.replace("maybe = 3}", "maybe = 3.0}")
    op2 = list(again.nodes)[1].op
    assert (op2.real, op2.maybe, op2.text, op2.data) == (2.0, float("-inf"), 'a"\\\n\u2028', literal)  # type: ignore[attr-defined]
    assert print_graph(op2.bodies[1]) == print_graph(inner)  # type: ignore[attr-defined]


SCALARS = st.recursive(
    st.sampled_from([True, False, None, *DataType]) | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda x: st.lists(x, max_size=3).map(tuple),
)


@given(SCALARS)
def test_scalars_round_trip(value: object) -> None:
    tokens = Tokens(format_scalar(value))
    again = tokens.scalar()
    assert tokens.kind == "end"
    assert again == value and repr(again) == repr(value)


# Errors --------------------------------------------------------------------------------------------------------------

HEAD = "graph @g(%x: f32[2,3]) {\n  "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1: expected 'graph', found the end of the text"),
        ("graph g", "line 1, column 7: expected a graph name such as @main, found 'g'"),
        ("graph @g(%x: f33[2]) {", "line 1, column 14: expected a type such as f32[1,3], found 'f33'"),
        ("graph @g(%x: f32[2,]) {", "line 1, column 14: malformed type 'f32[2,]'"),
        ("graph @g(%x: f32[2], %x: f32[2]) {", "line 1, column 22: %x is defined twice"),
        (HEAD + "%y = ", "line 2, column 8: expected an op, found the end of the text"),
        (HEAD + "%y = matmull(%x, %x)", "line 2, column 8: unknown op 'matmull', did you mean matmul?"),
        (HEAD + "%y = return(%x)", "line 2, column 8: unknown op 'return'"),
        (HEAD + "%y = matmul(%x, %z)", "line 2, column 19: %z is not defined before this use"),
        (HEAD + "%y = matmul(%x, %x)", "line 2, column 8: matmul f32[2,3] x f32[2,3]: inner dimensions 3 and 2 differ"),
        (HEAD + "%y = transpose(%x) {perm = [1, 0]}", "line 2, column 23: transpose has no attribute 'perm'; it has"),
        (HEAD + "%y = concat(%x) {axis = 0.5}", "line 2, column 20: attribute axis of concat wants int, got 0.5"),
        (HEAD + "%y = concat(%x) {axis = 0, axis = 0}", "line 2, column 30: attribute axis is given twice"),
        (HEAD + "%y = concat(%x) {axis = [0}", "line 2, column 29: expected ',', found '}'"),
        (
            HEAD + "%y = transpose(%x) {permutation = [1, 0]} : f32[2,3]",
            "line 2, column 47: transpose is given the type f32[2,3], but it has the type f32[3,2]",
        ),
        (HEAD + "%y, %z = concat(%x)", "line 2, column 12: concat has 1 results, 2 are named"),
        (HEAD + "%y = constant {value = dense<f32[2]>(1.0)}", "dense<f32[2]> takes 2 elements, 1 are given"),
        (HEAD + "%y = constant {value = dense<u8[1]>(256)}", "dense<u8[1]> cannot hold 256, its range is 0 to 255"),
        (HEAD + "%y = constant {value = dense<i4[1]>(1.5)}", "dense<i4[1]> cannot hold 1.5"),
        (HEAD + '%y = constant {value = base64<f32[1]>("AA==")}', "base64<f32[1]> needs 4 bytes, 1 are given"),
        (HEAD + '%y = constant {value = base64<f32[1]>("A")}', "base64<f32[1]> is not valid base64"),
        (HEAD + '%y = constant {value = ref<f32[1]>("12")}', "ref<f32[1]> has no data: the side table lacks '12'"),
        (HEAD + "return %x, x: %x }", "line 2, column 14: two outputs are called 'x'"),
        (HEAD + 'return "\\q": %x }', 'line 2, column 10: invalid string "\\q"'),
        (HEAD + "return x: %x } }", "line 2, column 18: expected the end of the text, found '}'"),
        (HEAD + "; %x", "line 2, column 3: expected a value such as %x, or return, found ';'"),
        (HEAD + "%y = constant", "line 2, column 8: constant: the operands do not suit the op"),
    ],
)
def test_errors_say_where_and_what(text: str, message: str) -> None:
    with pytest.raises(ParseError) as e:
        parse_graph(text)
    assert message in str(e.value)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_text_gives_parse_errors_only(data: st.DataObject) -> None:
    text = (
        'graph @g(%x: f32[2,3], %"a/b": f32[2]) { // comment\n  %w = constant {value = dense<f32[3,2]>(1.0, 2.0, 3.0,'
        " 4.0, 5.0, 6.0)}\n  %y = matmul(%x, %w) : f32[2,2]\n  %p = pad(%y) {beginning = [0, 1], ending = [1, 0],"
        ' mode = "edge"} : f32[3,3]\n  return y: %y, %p\n}\n'
    )
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 10)))
    damaged = text[:start] + data.draw(st.text(max_size=3) | st.sampled_from(list("%@,:{}[]()<>"))) + text[end:]
    try:
        parse_graph(damaged).verify()
    except ParseError as e:
        assert "line " in str(e)


def test_source_names_the_file() -> None:
    with pytest.raises(ParseError, match=r"^a\.gir:2:3: expected"):
        parse_graph(HEAD + ")", source="a.gir")


# Files and size ------------------------------------------------------------------------------------------------------


def test_large_constants_go_to_a_side_file(tmp_path: Path) -> None:
    graph = Graph("big")
    x = graph.add_input("x", TensorType(F32, (1, 4)))
    small = graph.constant(np.arange(20, dtype=np.float32).reshape(4, 5))
    graph.set_outputs({"y": graph.add(Matmul(), x, small)})
    assert write_gir(tmp_path / "a.gir", graph, "// hello\n") is None
    assert (tmp_path / "a.gir").read_text().startswith("// hello\ngraph @big")
    big = graph.constant(np.arange(3 << 20, dtype=np.float32).reshape(4, -1))
    graph.set_outputs({"y": graph.add(Matmul(), x, big)})
    assert write_gir(tmp_path / "b.gir", graph) == tmp_path / "b.npz"
    assert (tmp_path / "b.gir").stat().st_size < 1000
    assert print_graph(read_gir(tmp_path / "b.gir"), "ref") == print_graph(graph, "ref")
    (tmp_path / "b.npz").unlink()
    with pytest.raises(ParseError, match="the side table lacks"):
        read_gir(tmp_path / "b.gir")
    with pytest.raises(ParseError, match="cannot read"):
        read_gir(tmp_path / "none.gir")


def chain(length: int) -> Graph:
    graph = Graph("chain")
    x = graph.add_input("x", TensorType(F32, (1, 4, 8, 8)))
    for i in range(length // 2):
        x = graph.add(Pad((0, 0, 0, 0), (0, 0, 0, 0), value=float(i)), x)
        x = graph.add(Transpose((0, 1, 3, 2)), x)
    graph.set_outputs({"y": x})
    return graph


def test_text_is_linear_in_the_graph() -> None:
    seconds = []
    for length in (2000, 16000):
        graph = chain(length)
        start = time.process_time()
        text = print_graph(graph)
        middle = time.process_time()
        parse_graph(text)
        seconds.append((middle - start, time.process_time() - middle))
    assert max(seconds[1]) < 6.0  # 0.2 s and 0.8 s on an idle core; the goal is 1.5
    assert seconds[1][1] < 8 * seconds[0][1] * 3
