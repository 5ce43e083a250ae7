"""float16 networks: what is converted, what stays float32 and why, and what it costs."""

from __future__ import annotations

import numpy as np
import pytest

from gpucompile.ir.interpret import interpret
from gpucompile.ir.text import parse_graph, print_graph
from gpucompile.ir.types import DataType
from gpucompile.passes import precision
from gpucompile.passmanager import CheckReports, Context, PassManager


def converted(body: str, inputs: str = "%x: f32[4,4]", ports: bool = False) -> tuple[str, dict[str, int]]:
    """The text after the pass and dce, and what it counted. A second run changes nothing but counts the same."""
    graph = parse_graph(f"graph @g({inputs}) {{ {body} }}")
    ctx = Context()
    pipeline = "precision{ports=true},dce" if ports else "precision,dce"
    PassManager(pipeline, [CheckReports()]).run(graph, ctx)
    again = graph.clone()
    assert PassManager(pipeline).run(again) is False
    return print_graph(graph), ctx.counters["precision"]


def kinds(text: str, op: str) -> list[str]:
    """The data types of the results of an op."""
    found = []
    for node in parse_graph(text).nodes:
        if node.op.name == op:
            found += [v.type.dtype.short for v in node.outputs]
    return found


W = "%w = constant {value = splat<f32[4,4]>(0.3)}"


def test_a_chain_is_float16_between_its_ends() -> None:
    text, counts = converted(f"{W} %a = matmul(%x, %w) %b = relu(%a) %c = matmul(%b, %w) return y: %c")
    assert counts == {"converted": 3}
    assert kinds(text, "matmul") == ["f16", "f16"] and kinds(text, "constant") == ["f16"]
    assert kinds(text, "cast") == ["f16", "f32"]
    graph = parse_graph(text)
    assert graph.inputs[0].type.dtype is DataType.FLOAT32 and graph.outputs[0].type.dtype is DataType.FLOAT32


def test_ports_become_float16_when_asked() -> None:
    text, _ = converted(f"{W} %a = matmul(%x, %w) %b = exp(%a) return y: %a, z: %b", ports=True)
    graph = parse_graph(text)
    assert {v.type.dtype for v in (*graph.inputs, *graph.outputs)} == {DataType.FLOAT16}
    assert kinds(text, "exp") == ["f32"] and kinds(text, "cast") == ["f32", "f16"]


@pytest.mark.parametrize(
    ("body", "kept", "reason"),
    [
        ("%a = exp(%x)", "exp", "exp leaves float16's range above 11"),
        ("%a = log(%x)", "log", "logarithms show digits that float16 has lost"),
        ("%a = mul(%x, %x)", "mul", precision.SQUARE),
        ("%a = cumulative_sum(%x) {axis = 1}", "cumulative_sum", "sums leave float16's range"),
        ("%c = constant {value = dense<f32[]>(1e9)} %a = add(%x, %c)", "add", precision.CONSTANT),
        ("%c = constant {value = dense<f32[]>(1e-12)} %a = add(%x, %c)", "add", precision.CONSTANT),
        ("%a = linear(%x) {alpha = 1e6}", "linear", precision.CONSTANT),
    ],
)
def test_what_stays_float32(body: str, kept: str, reason: str) -> None:
    """And so does what reads it, up to an op that makes it moderate again."""
    text, counts = converted(f"{W} {body} %b = neg(%a) %s = sigmoid(%b) %y = matmul(%s, %w) return y: %y")
    after = {} if kept == "log" else {f"neg: {precision.LARGE}": 1, f"sigmoid: {precision.LARGE}": 1}
    assert counts == {f"{kept}: {reason}": 1, **after, "converted": 3 if kept == "log" else 1}
    assert kinds(text, kept) == ["f32"] and kinds(text, "matmul") == ["f16"]


def test_positions_stay_float32() -> None:
    """Until their sines are taken."""
    text, counts = converted(
        "%f = cast(%n) {to = f32} %a = mul(%f, %x) %s = sin(%a) %y = matmul(%s, %x) return y: %y",
        "%n: i32[4,4], %x: f32[4,4]",
    )
    assert counts == {
        f"cast: {precision.INTEGER}": 1, f"mul: {precision.LARGE}": 1, f"sin: {precision.LARGE}": 1, "converted": 1,
    }  # fmt: skip
    assert kinds(text, "matmul") == ["f16"]


def test_masks_of_bytes_and_infinities_are_converted() -> None:
    text, counts = converted(
        "%m = cast(%n) {to = f32} %i = constant {value = dense<f32[]>(-inf)} %a = where(%n, %x, %i) %b = softmax(%a)"
        " {axis = 1} %c = mul(%b, %m) return y: %c",
        "%n: u8[4,4], %x: f32[4,4]",
    )
    assert counts == {"converted": 3}
    assert kinds(text, "softmax") == ["f16"] and kinds(text, "where") == ["f16"]


def test_movement_alone_is_left_alone() -> None:
    body = "%a = transpose(%x) {permutation = [1, 0]} return y: %a"
    text, counts = converted(body)
    assert counts == {"converted": 0} and text == print_graph(parse_graph(f"graph @g(%x: f32[4,4]) {{ {body} }}"))


def test_sums_are_made_in_float32() -> None:
    """4096 products of 1/64 and 1/4 + 2^-11 are 16.03125; in float16 steps the sum would stop growing at 16 or so."""
    text, _ = converted(
        "%w = constant {value = splat<f32[4096,1]>(0.25048828125)} %y = matmul(%x, %w) return y: %y", "%x: f32[1,4096]"
    )
    y = interpret(parse_graph(text), {"x": np.full((1, 4096), 1 / 64, np.float32)})["y"]
    np.testing.assert_array_equal(y, [[16.03125]])
