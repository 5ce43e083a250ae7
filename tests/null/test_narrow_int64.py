"""64-bit integers become int32 where that changes no result, and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucompile.ir.graph import Graph, Value
from gpucompile.ir.interpret import interpret
from gpucompile.ir.op import Op
from gpucompile.ir.text import parse_graph, print_graph
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.activation import Clamp, Relu
from gpucompile.ops.elementwise import Abs, Add, Div, Identity, Max, Min, Mul, Neg, Sign, Sub
from gpucompile.ops.logical import Cast, Greater, Where
from gpucompile.ops.movement import Concat, Reshape
from gpucompile.ops.reduction import ReduceSum
from gpucompile.ops.scan import CumulativeSum
from gpucompile.passes import narrow_int64
from gpucompile.passmanager import CheckEach, CheckReports, Context, PassManager


def narrowed(body: str, inputs: str) -> str:
    """The text after the pass and dce, checked against the interpreter; a second run finds nothing."""
    graph = parse_graph(f"graph @g({inputs}) {{ {body} }}")
    PassManager("narrow-int64,dce", [CheckEach(), CheckReports()]).run(graph)
    again = graph.clone()
    assert PassManager("narrow-int64").run(again) is False
    return print_graph(graph)


@pytest.mark.parametrize(
    ("inputs", "body", "wide"),
    [
        # positions of 8-bit numbers, whose sum is small
        ("%x: u8[4]", "%a = cast(%x) {to = i64} %b = add(%a, %a) %c = cast(%b) {to = f32} return y: %c", 0),
        # the output is i64: one cast at the end
        ("%x: i8[4]", "%a = cast(%x) {to = i64} %b = mul(%a, %a) %c = neg(%b) return y: %c", 1),
        # an i32 times an i32 does not fit
        ("%x: i32[4]", "%a = cast(%x) {to = i64} %b = mul(%a, %a) %c = cast(%b) {to = f32} return y: %c", 2),
        # of an i64 input nothing is known ...
        ("%x: i64[4]", "%b = add(%x, %x) %c = cast(%b) {to = f32} return y: %c", 2),
        # ... but what is left of it after a clamp
        ("%x: i64[4]", "%a = clamp(%x) {min_value = 0.0, max_value = 99.0} %b = add(%a, %a) %c = cast(%b) {to = f32}"
         " return y: %c", 2),
        # places, and what is gathered by them
        ("%x: f32[3,5], %t: f32[5,2]", "%i = arg_max(%x) {axis = 1, output_data_type = i64} %c = gather(%t, %i)"
         " return y: %c", 0),
        # constant indices
        ("%t: f32[5,2]", "%i = constant {value = dense<i64[3]>(0, -1, 4)} %c = gather(%t, %i) return y: %c", 0),
        ("%t: f32[5,2]", "%i = constant {value = dense<i64[2]>(0, 4294967296)} %c = gather(%t, %i) return y: %c", 1),
        # a comparison of small ones; where; movement
        ("%x: u8[4], %z: u8[4]", "%a = cast(%x) {to = i64} %b = cast(%z) {to = i64} %c = greater(%a, %b)"
         " %d = where(%c, %a, %b) %e = reshape(%d) {new_shape = [2, 2]} %f = cast(%e) {to = u8} return y: %f", 0),
        # movement alone is no reason
        ("%x: i64[4]", "%a = clamp(%x) {min_value = 0.0, max_value = 9.0} %b = reshape(%a) {new_shape = [2, 2]}"
         " return y: %b", 3),
        # the places of elements that stay 64 bits
        ("%x: i64[4]", "%i = arg_max(%x) {output_data_type = i64} %c = cast(%i) {to = f32} return y: %c", 1),
    ],
)  # fmt: skip
def test_what_is_narrowed(inputs: str, body: str, wide: int) -> None:
    text = narrowed(body, inputs)
    graph = parse_graph(text)
    values = [*graph.inputs, *(v for n in graph.nodes for v in n.outputs)]
    assert sum(v.type.dtype is DataType.INT64 for v in values) == wide, text


def test_remarks_and_counts() -> None:
    graph = parse_graph(
        "graph @g(%x: i64[4], %z: u8[4]) { %a = add(%x, %x) %b = cast(%z) {to = i64} %c = add(%b, %b)"
        " %d = cast(%c) {to = f32} return y: %a, z: %d }"
    )
    ctx = Context(why_not=True)
    PassManager("narrow-int64").run(graph, ctx)
    assert [str(r) for r in ctx.remarks] == [
        "narrow-int64: %a: i64[4] = add(%x: i64[4], %x: i64[4]): the elements of %x: i64[4] lie between "
        "-9223372036854775808 and 9223372036854775807 as far as is known"
    ]
    assert ctx.counters == {"narrow-int64": {"narrowed": 3}}


EDGES = [0, 1, -1, 7, 2**31 - 1, -(2**31), 2**31, 2**32, -(2**32) - 5, 2**62, 2**63 - 1, -(2**63)]


@settings(deadline=None)
@given(data=st.data())
def test_random_graphs_give_the_same_integers(data: st.DataObject) -> None:
    """Sources of every width, with numbers at the edges of int32 and int64 likely; all results compared exactly."""
    graph = Graph("random")
    feeds: dict[str, np.ndarray] = {}
    pool: list[Value] = []
    wide = data.draw(st.sampled_from([DataType.INT64, DataType.UINT64]))
    low, high = (int(v) for v in (np.iinfo(wide.numpy).min, np.iinfo(wide.numpy).max))
    numbers = st.one_of(st.sampled_from([e for e in EDGES if low <= e <= high]), st.integers(max(low, -300), 300))
    for i, kind in enumerate((wide, DataType.INT32, DataType.UINT8, DataType.INT8, DataType.UINT32)):
        x = graph.add_input(f"x{i}", TensorType(kind, (3,)))
        drawn = data.draw(st.lists(numbers, min_size=3, max_size=3))
        feeds[x.name] = np.array(drawn, wide.numpy).astype(kind.numpy)
        pool.append(x if kind is wide else graph.add(Cast(wide), x))
    for _ in range(data.draw(st.integers(1, 8))):
        a, b = (data.draw(st.sampled_from(pool)) for _ in range(2))
        if data.draw(st.booleans()):
            values = data.draw(st.lists(numbers, min_size=3, max_size=3))
            b = graph.constant(np.array(values, wide.numpy))
        bounds = sorted(data.draw(st.lists(st.integers(-1000, 1000), min_size=2, max_size=2)))
        kind = data.draw(st.integers(0, 10))
        binary = (Add(), Sub(), Mul(), Div(), Max(), Min())
        if kind < 6:
            y = graph.add(binary[kind], a, b)
        elif kind == 6:
            y = graph.add(Clamp(float(bounds[0]), float(bounds[1])), a)
        elif kind == 7:
            signs = (Abs(), Neg()) if wide is DataType.INT64 else (Clamp(),)
            y = graph.add(data.draw(st.sampled_from(signs)), a)
        elif kind == 8:
            y = graph.add(Where(), graph.add(Greater(), a, b), a, b)
        elif kind == 9:
            both = graph.add(Reshape((2, 3)), graph.add(Concat(0), a, b))
            y = graph.add(ReduceSum((0,)), both)
        else:
            y = graph.add(Cast(wide), graph.add(Cast(DataType.INT32), a))
        pool.append(y)
    graph.set_outputs({f"y{i}": v for i, v in enumerate(pool[5:])} | {"z": graph.add(Cast(DataType.FLOAT32), pool[-1])})
    before = interpret(graph, feeds)
    PassManager("narrow-int64,dce", [CheckReports()]).run(graph)
    after = interpret(graph, feeds)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)


INTEGERS = st.one_of(st.sampled_from(EDGES), st.integers(-(2**63), 2**63 - 1), st.integers(-20, 20))

#: What an op computes, in integers without an end.
EXACT: dict[Op, Callable[..., int]] = {
    Add(): lambda a, b: a + b,
    Sub(): lambda a, b: a - b,
    Mul(): lambda a, b: a * b,
    Div(): lambda a, b: a if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1),
    Max(): max,
    Min(): min,
    Neg(): lambda a, b: -a,
    Abs(): lambda a, b: abs(a),
    Sign(): lambda a, b: (a > 0) - (a < 0),
    Identity(): lambda a, b: a,
    Relu(): lambda a, b: max(a, 0),
    Clamp(-5.0, 9.0): lambda a, b: min(max(a, -5), 9),
    Clamp(-math.inf, 9.0): lambda a, b: min(a, 9),
    Cast(DataType.INT64): lambda a, b: a,
}


def test_every_rule_is_checked() -> None:
    assert {type(op) for op in EXACT} | {Where} == set(narrow_int64.RANGES)


@pytest.mark.parametrize("op", EXACT, ids=lambda op: op.name)
@given(data=st.data())
def test_results_lie_within_the_range(op: Op, data: st.DataObject) -> None:
    """Of operands within theirs, the ends of which are the likely ones."""
    ranges, values = [], []
    for _ in range(2):
        low, high = sorted((data.draw(INTEGERS), data.draw(INTEGERS)))
        ranges.append((low, high))
        values.append(data.draw(st.one_of(st.sampled_from((low, high)), st.integers(low, high))))
    low, high = narrow_int64.RANGES[type(op)](op, ranges)
    assert low <= EXACT[op](*values) <= high


@pytest.mark.parametrize("value", [2**31 - 1, -(2**31), 2**30, -(2**30) - 1])
@pytest.mark.parametrize("op", [ReduceSum((0,)), CumulativeSum(0), CumulativeSum(0, True)], ids=str)
def test_sums_that_leave_int32(op: Op, value: int) -> None:
    """Of three elements; two of 2^30 are too many already, of the smaller ones -2^30 - 1 is one too small."""
    graph = Graph("sum")
    x = graph.add_input("x", TensorType(DataType.INT32, (3,)))
    graph.set_outputs({"y": graph.add(op, graph.add(Cast(DataType.INT64), x))})
    feeds = {"x": np.full(3, value, np.int32)}
    before = interpret(graph, feeds)["y"]
    PassManager("narrow-int64,dce").run(graph)
    np.testing.assert_array_equal(interpret(graph, feeds)["y"], before)


def test_small_sums_are_narrowed() -> None:
    text = narrowed(
        "%a = cast(%x) {to = i64} %b = reduce_sum(%a) {axes = [0]} %c = cumulative_sum(%a) {axis = 0}"
        " %d = cast(%b) {to = f32} %e = cast(%c) {to = f32} return y: %d, z: %e",
        "%x: u8[3]",
    )
    assert "i64" not in text


@pytest.mark.parametrize(("low", "high"), [(-(2**31), 2**31 - 1), (-(2**31) - 1, 0), (0, 2**31)])
def test_where_takes_both_ranges(low: int, high: int) -> None:
    graph = Graph("where")
    c = graph.add_input("c", TensorType(DataType.UINT8, (2,)))
    values = (graph.constant(np.array([v], np.int64)) for v in (low, high))
    graph.set_outputs({"y": graph.add(Where(), c, *values)})
    PassManager("narrow-int64,dce").run(graph)
    np.testing.assert_array_equal(interpret(graph, {"c": np.array([1, 0], np.uint8)})["y"], [low, high])
    assert any(n.op == Cast(DataType.INT64) for n in graph.nodes) == (low >= -(2**31) and high < 2**31)
