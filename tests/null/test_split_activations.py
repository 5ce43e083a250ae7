"""split-activations: the ways to compute ops in parts, and what it makes of graphs whose values are too large."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from gpucompile.errors import UnsupportedError
from gpucompile.ir.graph import Graph, Node, Value
from gpucompile.ir.interpret import interpret
from gpucompile.ops.activation import Relu, Sigmoid
from gpucompile.ops.contraction import Gemm, Matmul
from gpucompile.ops.conv import Conv2d
from gpucompile.ops.elementwise import Add, Div, Mul
from gpucompile.ops.movement import Concat, Reshape, Transpose
from gpucompile.ops.normalize import InstanceNormalization
from gpucompile.ops.reduction import ReduceSum
from gpucompile.ops.resample import Resample2d
from gpucompile.ops.softmax import Softmax
from gpucompile.passes._parts import Way, op_of_part, ways
from gpucompile.passmanager.base import Context
from gpucompile.passmanager.manager import PassManager
from gpucompile.target import Target
from tests.null.graphs import Build, chain, check
from tests.support import OPS, feeds_of, op_graphs


def small(limit: int, why_not: bool = False) -> Context:
    target = Target.portable()
    target = replace(target, limits={**target.limits, "max-storage-buffer-binding-size": limit})
    return Context(target=target, why_not=why_not)


# ways -----------------------------------------------------------------------------------------------------------------


def in_parts(node: Node, way: Way, count: int, arrays: list[np.ndarray | None]) -> np.ndarray:
    """The node's result by its definition, put together of parts."""
    parts = []
    for k in range(count):
        operands = [
            a if a is None or axis is None else np.split(a, count, axis)[k]
            for a, axis in zip(arrays, way.operands, strict=True)
        ]
        if k and way.once is not None and way.once < len(operands):
            operands[way.once] = None
        parts.append(op_of_part(node, way, count).reference(*operands))
    return np.asarray(sum(parts) if way.result is None else np.concatenate(parts, way.result))


def ways_of_cases(name: str) -> list[tuple[Graph, Node, Way, int]]:
    """Every way of every test case of an op, with the smallest number of parts."""
    found = []
    for graph in op_graphs(name):
        (node,) = graph.nodes
        for way in ways(node):
            cut = [v.type.shape[a] for v, a in zip(node.inputs, way.operands, strict=True) if v and a is not None]
            sizes = [*cut, *([] if way.result is None else [node.output.type.shape[way.result]]), way.units]
            common = math.gcd(*sizes)
            count = next((c for c in range(2, common + 1) if common % c == 0), 0)
            if count:
                found.append((graph, node, way, count))
    return found


@pytest.mark.parametrize("name", OPS)
def test_parts_make_the_whole(name: str) -> None:
    for graph, node, way, count in ways_of_cases(name):
        feeds = feeds_of(graph)
        arrays = [None if v is None else feeds[v.name] for v in node.inputs]
        with np.errstate(all="ignore"):
            whole = np.asarray(node.op.reference(*arrays))
            got = in_parts(node, way, count, arrays)
        assert got.shape == whole.shape and got.dtype == whole.dtype
        scale = np.abs(whole[np.isfinite(whole)].astype(np.float64)).max(initial=1)  # of others, the same must be NaN
        np.testing.assert_allclose(got, whole, rtol=1e-5, atol=1e-5 * scale, err_msg=f"{node!r} {way}")


def test_the_ops_that_have_ways() -> None:
    """Those that large activations pass through in images and attention; a contraction has a sum."""
    names = {name for name in OPS if ways_of_cases(name)}
    assert names >= {"add", "relu", "where", "cast", "matmul", "gemm", "conv2d", "conv_transpose2d", "max_pool2d"}
    assert names >= {"softmax", "layer_normalization", "instance_normalization", "resample2d", "reduce_mean"}
    assert names >= {"reshape", "transpose", "slice", "concat", "pad", "expand"}
    for name in ("matmul", "gemm", "conv2d", "conv_transpose2d"):
        assert any(way.result is None for _, _, way, _ in ways_of_cases(name)), name


# graphs ---------------------------------------------------------------------------------------------------------------


def attention(b: Build, heads: int, length: int, width: int) -> Value:
    q, k, v = (b.x(2, length, heads * width, name=name) for name in "qkv")
    q, k, v = (b(Transpose((0, 2, 1, 3)), b(Reshape((2, length, heads, width)), t)) for t in (q, k, v))
    scores = b(Div(), b(Matmul(), q, b(Transpose((0, 1, 3, 2)), k)), b.c())
    out = b(Matmul(), b(Softmax(3), scores), v)
    return b(Reshape((2, length, heads * width)), b(Transpose((0, 2, 1, 3)), out))


def test_attention_by_heads() -> None:
    b = Build()
    ctx = small(2 * 16 * 16 * 4)
    y = attention(b, 4, 16, 4)
    expected = {"reshape": 4, "transpose": 5, "slice": 12, "matmul": 8, "div": 4, "softmax": 4, "concat": 1}
    graph = check(b, "split-activations", expected, y, ctx=ctx)
    assert ctx.counters == {"split-activations": {"parts": 4}}
    order = [n.op.name for n in graph.nodes if n.op.name in ("matmul", "softmax")]
    assert order == ["matmul", "softmax", "matmul"] * 4  # one part goes all the way before the next


def test_positions_are_added_in_parts() -> None:
    """As in SAM: scores [heads, h w, h w] as [heads, h, w, h, w] plus one value per row, and one per column."""
    b = Build()
    scores = b(Matmul(), b.x(6, 16, 4, name="q"), b.x(6, 4, 16, name="k"))
    y = b(Reshape((6, 4, 4, 4, 4)), scores)
    y = b(Add(), b(Add(), y, b.x(6, 4, 4, 4, 1, name="h")), b.x(6, 4, 4, 1, 4, name="w"))
    y = b(Matmul(), b(Softmax(2), b(Reshape((6, 16, 16)), y)), b.x(6, 16, 4, name="v"))
    expected = {"slice": 15, "matmul": 6, "reshape": 6, "add": 6, "softmax": 3, "concat": 1}
    check(b, "split-activations", expected, y, ctx=small(2 * 16 * 16 * 4))


def test_images_by_channels() -> None:
    """As in the decoder of Stable Diffusion: a convolution reads all parts and gives parts."""
    b = Build()
    x = b(Resample2d(sizes=(16, 16)), b.x(1, 8, 8, 8))
    y = b.conv(x, 8)
    y = chain(b, y, Reshape((1, 4, 1, 512)), InstanceNormalization(), Reshape((1, 8, 16, 16)))
    y = b(Add(), b(Mul(), y, b.c(8, 1, 1)), b.c(8, 1, 1))
    y = b(Mul(), y, b(Sigmoid(), y))
    y = b(Add(), b.conv(y, 2), b.conv(x, 2, 1))
    expected = {"slice": 2, "resample2d": 2, "conv2d": 8, "reshape": 4, "instance_normalization": 2, "sigmoid": 2}
    ctx = small(4 * 16 * 16 * 4)
    graph = check(b, "split-activations", {**expected, "mul": 4, "add": 2 + 2 + 2 + 1}, y, ctx=ctx)
    biased = [n for n in graph.nodes if isinstance(n.op, Conv2d) and len(n.operand_values) == 3]
    assert len(biased) == 4  # one term of every sum


def test_the_outermost_axis_of_those_with_the_fewest_parts() -> None:
    b = Build()
    y = b(ReduceSum((1, 2)), b(Relu(), b(Add(), b.x(4, 1, 6), b.x(1, 6, 1, name="z"))))
    ctx = small(250)  # 576 bytes; axis 0 cannot be cut in 3, of 4 only 2 or 4
    check(b, "split-activations", {"slice": 4, "add": 4, "relu": 4, "reduce_sum": 4, "concat": 1}, y, ctx=ctx)
    assert ctx.counters["split-activations"]["parts"] == 4


def test_sums_along_what_is_contracted() -> None:
    b = Build()
    large = b(Softmax(1), b(Add(), b.x(6, 1), b.x(1, 8, name="z")))
    y = b(Gemm(beta=0.5), b(Transpose((1, 0)), large), b.c(6, 3), b.c(3))
    check(b, "split-activations", {"slice": 2, "add": 3, "softmax": 2, "transpose": 2, "gemm": 2}, y, ctx=small(100))


def test_no_sum_where_a_cut_does() -> None:
    b = Build()
    large = b(Relu(), b(Add(), b.x(6, 1), b.x(1, 8, name="z")))
    y = b(Gemm(), b(Transpose((1, 0)), large), b.c(6, 3), b.c(3))
    expected = {"slice": 2, "add": 2, "relu": 2, "transpose": 2, "gemm": 2, "concat": 1}
    check(b, "split-activations", expected, y, ctx=small(100))


def test_small_values_between() -> None:
    """A region may read what its own result became elsewhere."""
    b = Build()
    scores = b(Matmul(), b.x(4, 8, 2, name="q"), b.x(4, 2, 8, name="k"))
    mean = b(ReduceSum((2,), True), scores)
    y = b(Matmul(), b(Mul(), scores, b(Relu(), mean)), b.x(4, 8, 2, name="v"))
    expected = {"slice": 16, "matmul": 8, "reduce_sum": 4, "concat": 2, "relu": 1, "mul": 4}
    check(b, "split-activations", expected, y, ctx=small(256))


def test_what_fits_stays() -> None:
    b = Build()
    y = b(Softmax(1), b(Matmul(), b.x(8, 4), b.x(4, 8, name="z")))
    check(b, "split-activations", {"matmul": 1, "softmax": 1}, y, ctx=small(256))


@pytest.mark.parametrize("kind", ["an output", "no common axis", "a concat of its own axis"])
def test_what_cannot_be_cut_is_an_error(kind: str) -> None:
    b = Build()
    large = b(Matmul(), b.x(8, 4), b.x(4, 8, name="z"))
    if kind == "an output":
        b.graph.set_outputs({"y": b(Relu(), large)})
    elif kind == "no common axis":
        b.graph.set_outputs({"y": b(ReduceSum((0, 1)), b(Softmax(0), b(Softmax(1), large)))})
    else:
        both = b(Concat(0), large, b(Reshape((1, 8)), b.x(8, name="u")))
        b.graph.set_outputs({"y": b(ReduceSum((1,)), b(Softmax(1), both))})
    ctx = small(200, why_not=True)
    before = b.graph.statistics()
    PassManager("split-activations").run(b.graph, ctx)
    assert b.graph.statistics() == before
    assert [r.text for r in ctx.remarks] == [
        "its values above max-storage-buffer-binding-size have no axis along which all can be cut"
    ]
    with pytest.raises(UnsupportedError, match="max-storage-buffer-binding-size"):
        PassManager("split-large").run(b.graph, ctx)


@pytest.mark.parametrize("seed", range(3))
def test_many_regions_in_one_network(seed: int) -> None:
    """Attention after attention: each is a region of its own, and all numbers stay."""
    b = Build()
    y = attention(b, 2, 16, 1)
    for _ in range(2):
        y = b(Add(), y, b(Matmul(), b(Softmax(2), b(Matmul(), y, b(Transpose((0, 2, 1)), y))), y))
    b.graph.set_outputs({"y": y})
    rng = np.random.default_rng(seed)
    feeds = {v.name: rng.standard_normal(v.type.shape).astype(np.float32) for v in b.graph.inputs}
    before = interpret(b.graph, feeds)["y"]
    ctx = small(1024)
    PassManager("split-activations").run(b.graph, ctx)
    np.testing.assert_allclose(interpret(b.graph, feeds)["y"], before, rtol=1e-5, atol=1e-5)
    assert ctx.counters["split-activations"]["parts"] == 4 + 2 + 2
    assert all(v.type.nbytes <= 1024 for n in b.graph.nodes for v in n.outputs)
