"""dce, cse and fold-constants: text before, text after, and the same numbers."""

from __future__ import annotations

import time

import numpy as np
import pytest

from gpucompile.ir.graph import Constant, Graph
from gpucompile.ir.text import parse_graph, print_graph
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.contraction import Matmul
from gpucompile.ops.logical import Cast
from gpucompile.ops.movement import Pad, Slice, Transpose
from gpucompile.passmanager import CheckEach, CheckReports, Context, PassManager


def check(pipeline: str, before: str, after: str, ctx: Context | None = None) -> None:
    """Run passes on a text; compare with the expected one, and check numbers and the reported change."""
    graph, expected = parse_graph(before), parse_graph(after)
    changed = PassManager(pipeline, [CheckEach(), CheckReports()]).run(graph, ctx)
    assert print_graph(graph) == print_graph(expected)
    assert changed == (print_graph(parse_graph(before)) != print_graph(expected))
    assert PassManager(pipeline).run(graph) is False  # once is enough


def g(body: str, inputs: str = "%x: f32[2,2]") -> str:
    return f"graph @g({inputs}) {{ {body} }}"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "%a = transpose(%x) {permutation = [1, 0]} %b = matmul(%a, %a) %c = matmul(%b, %x) return y: %a",
            "%a = transpose(%x) {permutation = [1, 0]} return y: %a",
        ),
        ("%a = constant {value = splat<f32[2]>(1.0)} return %x", "return %x"),
        ("%a = matmul(%x, %x) return y: %a, z: %a", "%a = matmul(%x, %x) return y: %a, z: %a"),
        ("%a = matmul(%x, %x) return", "return"),
    ],
)
def test_dce(before: str, after: str) -> None:
    check("dce", g(before), g(after))


def test_dce_keeps_inputs() -> None:
    text = g("return %x", "%x: f32[2], %unused: f32[3]")
    check("dce", text, text)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "%a = matmul(%x, %x) %b = matmul(%x, %x) %c = matmul(%a, %b) %d = matmul(%b, %a) return y: %c, z: %d",
            "%a = matmul(%x, %x) %d = matmul(%a, %a) return y: %d, z: %d",
        ),
        (  # constants by content
            "%v = constant {value = splat<f32[2,2]>(1.5)} %w = constant {value = splat<f32[2,2]>(1.5)}"
            " %a = matmul(%x, %v) %b = matmul(%a, %w) return y: %b",
            "%v = constant {value = splat<f32[2,2]>(1.5)} %a = matmul(%x, %v) %b = matmul(%a, %v) return y: %b",
        ),
        ("%a = matmul(%x, %x) return %x, y: %a", "%a = matmul(%x, %x) return %x, y: %a"),
    ],
)
def test_cse(before: str, after: str) -> None:
    check("cse", g(before), g(after))


@pytest.mark.parametrize(
    "body",
    [
        "%a = pad(%x) {beginning = [1, 0], ending = [0, 0], value = -0.0}"
        " %b = pad(%x) {beginning = [1, 0], ending = [0, 0]} return y: %a, z: %b",
        "%a = constant {value = dense<f32[1]>(0.0)} %b = constant {value = dense<f32[1]>(-0.0)} return %a, %b",
        "%a = constant {value = dense<f32[1]>(1.0)} %b = constant {value = dense<i32[1]>(1)} return %a, %b",
        "%a = gemm(%x, %x) %b = gemm(%x, %x) {alpha = 2.0} %c = gemm(%x, %x, _) {beta = 2.0} return %a, %b, %c",
    ],
)
def test_cse_keeps_what_differs(body: str) -> None:
    check("cse", g(body), g(body))


def test_cse_takes_nan_for_equal() -> None:
    pad = "pad(%x) {beginning = [1, 0], ending = [0, 0], value = nan}"
    check("cse", g(f"%a = {pad} %b = {pad} return y: %a, z: %b"), g(f"%b = {pad} return y: %b, z: %b"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "%w = constant {value = dense<f32[2,2]>(1.0, 2.0, 3.0, 4.0)} %t = transpose(%w) {permutation = [1, 0]}"
            " %r = reshape(%t) {new_shape = [4]} %y = matmul(%x, %t) return %y, %r, %w",
            "%w = constant {value = dense<f32[2,2]>(1.0, 2.0, 3.0, 4.0)}"
            " %t = constant {value = dense<f32[2,2]>(1.0, 3.0, 2.0, 4.0)}"
            " %r = constant {value = dense<f32[4]>(1.0, 3.0, 2.0, 4.0)} %y = matmul(%x, %t) return %y, %r, %w",
        ),
        (  # operands nobody needs any more go too; optional operands may be absent
            "%a = constant {value = splat<f32[2,2]>(2.0)} %y = gemm(%a, %a, _) {alpha = 0.5} return %y",
            "%y = constant {value = splat<f32[2,2]>(4.0)} return %y",
        ),
        (
            "%a = constant {value = dense<f32[]>(2.0)} %y = expand(%a) {new_shape = [1]} return %y",
            "%y = constant {value = dense<f32[1]>(2.0)} return %y",
        ),
        ("%y = matmul(%x, %x) return %y", "%y = matmul(%x, %x) return %y"),
    ],
)
def test_fold_constants(before: str, after: str) -> None:
    check("fold-constants", g(before), g(after))


def test_fold_constants_keeps_what_would_grow() -> None:
    grows = g("%a = constant {value = splat<f32[3]>(2.0)} %y = expand(%a) {new_shape = [5, 3]} return %y")
    ctx = Context(why_not=True)
    check("fold-constants{max_bytes=59}", grows, grows, ctx)
    assert "the constant would have 60 bytes, its operands have 12" in str(ctx.remarks[0])
    folded = g("%y = constant {value = splat<f32[5,3]>(2.0)} return %y")
    check("fold-constants{max_bytes=60}", grows, folded)
    moved = g("%a = constant {value = splat<f32[3,2]>(2.0)} %y = transpose(%a) {permutation = [1, 0]} return %y")
    check("fold-constants{max_bytes=0}", moved, g("%y = constant {value = splat<f32[2,3]>(2.0)} return %y"))


def test_folded_constants_hold_no_larger_array() -> None:
    graph = Graph("g")
    big = graph.constant(np.arange(10000, dtype=np.float32).reshape(100, 100))
    graph.set_outputs({"y": graph.add(Slice((0, 0), (1, 100)), big)})
    PassManager("fold-constants").run(graph)
    array = graph.outputs[0].constant
    assert array is not None and array.flags.c_contiguous and not array.flags.writeable
    base = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert base.nbytes == 400


def test_linear_time() -> None:
    def seconds(length: int) -> float:
        graph = Graph("chain")
        x = graph.add_input("x", TensorType(DataType.FLOAT32, (8, 8)))
        k = graph.constant(np.ones((8, 8), np.float32))
        for i in range(length // 4):
            graph.add(Transpose((1, 0)), x)
            k = graph.add(Transpose((1, 0)), k)
            a, b = (graph.add(Pad((0, 0), (0, 0), value=float(i)), x) for _ in range(2))
            x = graph.add(Transpose((1, 0)), b if i % 2 else a)
        graph.set_outputs({"y": x, "k": k})
        start = time.process_time()
        PassManager("fold-constants,cse,dce").run(graph)
        return time.process_time() - start

    small, large = seconds(2000), seconds(16000)
    assert large < 8 * small * 3


@pytest.mark.parametrize(("kind", "rows", "folded"), [("i8", 64, True), ("i8", 65, False), ("f16", 65, False)])
def test_large_constants_stay_packed(kind: str, rows: int, folded: bool) -> None:
    """64 x 64 float32 numbers are 16 kB; more stay as they are, and what widens them goes to the kernels."""
    graph = Graph("packed")
    x = graph.add_input("x", TensorType(DataType.FLOAT32, (1, rows)))
    dtype = DataType.parse(kind)
    w = graph.constant(np.arange(rows * 64).reshape(rows, 64).astype(dtype.numpy))
    graph.set_outputs({"y": graph.add(Matmul(), x, graph.add(Cast(DataType.FLOAT32), w))})
    assert PassManager("fold-constants", [CheckEach(), CheckReports()]).run(graph) == folded
    (constant,) = [n.outputs[0].type.dtype for n in graph.nodes if isinstance(n.op, Constant)]
    assert constant is (DataType.FLOAT32 if folded else dtype)
