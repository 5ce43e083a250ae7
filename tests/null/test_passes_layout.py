"""layout, split-large and legalize: what they make of small graphs, and that the numbers stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gpucompile.errors import UnsupportedError
from gpucompile.ir.graph import Value
from gpucompile.ir.interpret import interpret
from gpucompile.ir.types import DataType
from gpucompile.ops.activation import Relu
from gpucompile.ops.contraction import Gemm, Matmul
from gpucompile.ops.conv import Conv2d
from gpucompile.ops.elementwise import Add, Exp, Mul
from gpucompile.ops.gather import Gather
from gpucompile.ops.movement import Concat, Pad, Reshape, Slice, Transpose
from gpucompile.ops.normalize import BatchNormalization, LocalResponseNormalization
from gpucompile.ops.pool import MaxPool2d
from gpucompile.ops.reduction import ReduceLogSumExp, ReduceMean, ReduceSum
from gpucompile.ops.softmax import Softmax
from gpucompile.passes.split_large import reject
from gpucompile.passmanager.base import Context
from gpucompile.passmanager.manager import PassManager
from gpucompile.target import Target
from tests.null.graphs import Build, chain, check, the

LAYOUT = "layout,fold-constants,canonicalize,simplify-movement,fold-constants,cse,dce"


# layout --------------------------------------------------------------------------------------------------------------


def test_a_small_network_is_transposed_once_at_either_end() -> None:
    b = Build()
    x = b.x(2, 3, 16, 16)
    y = b(Relu(), b.conv(x, 8))
    y = b(LocalResponseNormalization(), b(MaxPool2d((2, 2), strides=(2, 2)), y))
    left, right = b.conv(y, 8, 1), b(Mul(), b.conv(y, 8), b.value(np.arange(8).reshape(1, 8, 1, 1) + 1))
    y = b(
        Concat(1), left, b(Add(), right, left), b(Slice((0, 0, 1, 0), (2, 4, 8, 8)), b(Pad((0, 0, 1, 0), (0,) * 4), y))
    )
    y = b(Softmax(1), y)
    expected = {"conv2d": 3, "transpose": 2, "add": 1, "concat": 1, "lrn": 1, "max_pool2d": 1, "mul": 1, "pad": 1}
    graph = check(b, LAYOUT, {**expected, "relu": 1, "slice": 1, "softmax": 1}, y)
    convs = [n.op for n in graph.nodes if isinstance(n.op, Conv2d)]
    assert all((op.input_layout, op.filter_layout) == ("nhwc", "hwio") for op in convs)
    assert isinstance(the(graph, Softmax), Softmax) and the(graph, Softmax) == Softmax(3)


def test_flatten_and_global_average_need_no_transpose() -> None:
    b = Build()
    y = b.conv(b.x(1, 3, 8, 8), 8)
    flat = b(Gemm(), b(Reshape((1, 128)), b(MaxPool2d((2, 2), strides=(2, 2)), y)), b.c(128, 10))
    mean = b(Reshape((1, 8)), b(ReduceMean((2, 3), True), y))
    no_keep = b(ReduceMean((2, 3)), y)
    expected = {"reduce_mean": 2, "reshape": 2, "conv2d": 1, "gemm": 1, "max_pool2d": 1, "transpose": 1}
    graph = check(b, LAYOUT, expected, flat, mean, no_keep)
    assert the(graph, Gemm) == Gemm(b_transpose=True)


def test_weights_follow_the_number_of_rows() -> None:
    b = Build()
    few = b.conv(b.conv(b.x(1, 3, 8, 8), 4, 8, padding=(0, 0, 0, 0)), 6, 1)
    many, one = b(Gemm(b_transpose=True), b.x(5, 4, name="m"), b.c(6, 4)), b(Gemm(), b.x(1, 4, name="o"), b.c(4, 6))
    graph = check(b, LAYOUT, {"conv2d": 2, "gemm": 2, "reshape": 1, "transpose": 1}, few, many, one)
    assert [n.op.filter_layout for n in graph.nodes if isinstance(n.op, Conv2d)] == ["ohwi", "ohwi"]
    assert [n.op.b_transpose for n in graph.nodes if isinstance(n.op, Gemm)] == [False, True]


def test_channel_shuffle_stays_channels_last() -> None:
    b = Build()
    y = b.conv(b.x(1, 3, 8, 8), 12)
    y = chain(b, y, Reshape((1, 3, 4, 8, 8)), Transpose((0, 2, 1, 3, 4)), Reshape((1, 12, 8, 8)))
    y = b.conv(y, 12, groups=12)
    graph = check(b, LAYOUT, {"transpose": 3, "conv2d": 2, "reshape": 2}, y)
    assert Transpose((0, 1, 2, 4, 3)) in [n.op for n in graph.nodes]


def test_users_of_the_original_order_share_one_transpose() -> None:
    b = Build()
    y = b.conv(b.x(1, 3, 8, 8), 12)
    shared = b(Relu(), y)
    flat = b(Reshape((12, 64)), shared)
    moved = b(Transpose((0, 1, 3, 2)), shared)
    rank5 = b(Add(), b.x(2, 1, 12, 8, 8, name="r"), shared)
    expected = {"transpose": 3, "add": 1, "conv2d": 1, "relu": 1, "reshape": 1}
    check(b, LAYOUT, expected, flat, moved, rank5, shared)


def test_reductions_of_some_axes() -> None:
    b = Build()
    y = b.conv(b.x(2, 3, 6, 8), 5)
    results = [b(ReduceSum((1,)), y), b(ReduceSum((2,)), y), b(ReduceSum((1,), True), y), b(ReduceSum(), y)]
    check(b, LAYOUT, {"reduce_sum": 4, "transpose": 2, "conv2d": 1, "reshape": 1}, *results)


def test_layout_can_be_refused() -> None:
    b = Build()
    y = b.conv(b.x(1, 3, 8, 8), 4)
    check(b, "layout{activations=nchw}", {"conv2d": 1}, y)
    b = Build()
    check(b, "layout", {"exp": 1}, b(Exp(), b.x(1, 3, 8, 8)))


# split-large and legalize --------------------------------------------------------------------------------------------


def small(limit: int) -> Context:
    target = Target.portable()
    return Context(target=replace(target, limits={**target.limits, "max-storage-buffer-binding-size": limit}))


def test_large_weights_are_cut() -> None:
    b = Build()
    rows = b(Gemm(b_transpose=True), b.x(1, 10), b.c(30, 10), b.c(30))
    columns = b(Gemm(), b.x(2, 10, name="z"), b.c(10, 30), b.c(2, 1))
    batched = b(Matmul(), b.x(2, 2, 4, name="w"), b.c(2, 4, 30))
    conv = b.conv(b.x(1, 3, 3, 3, name="u"), 16, padding=(0, 0, 0, 0))
    expected = {"gemm": 6, "concat": 4, "conv2d": 4, "exp": 3, "matmul": 3, "relu": 3}
    graph = check(b, "split-large", expected, b(Exp(), b(Relu(), rows)), columns, batched, conv, ctx=small(500))
    widths = [n.output.type.shape[-1] for n in graph.nodes if isinstance(n.op, Gemm)]
    assert widths == [12, 12, 6, 12, 12, 6]


@pytest.mark.parametrize("dtype", [DataType.INT32, DataType.INT64, DataType.UINT32])
@pytest.mark.parametrize("axis", [0, 1])
def test_large_tables_are_cut(dtype: DataType, axis: int) -> None:
    """Indices at the borders of the parts, negative ones, and ones far outside."""
    b = Build()
    shape, step = ((300, 100), 125) if axis == 0 else ((10, 300, 20), 62)
    b.graph.set_outputs({"y": b(Gather(axis), b.c(*shape), b.x(4, 5, dtype=dtype))})
    indices = [0, 299, 300, 2**31 - 1, *(k * step + i for k in (1, 2) for i in (-2, -1, 0, 1))]
    indices += [-1, -step, -299, -300, -301, -(2**31), *range(-175, -173)] if dtype.is_signed else range(8)
    feeds = {"x": np.reshape(indices, (4, 5)).astype(dtype.numpy)}
    (before,) = interpret(b.graph, feeds).values()
    PassManager("split-large").run(b.graph, small(50000))
    (after,) = interpret(b.graph, feeds).values()
    np.testing.assert_array_equal(after, before)
    parts = [n.inputs[0].type.nbytes for n in b.graph.nodes if isinstance(n.op, Gather)]
    assert len(parts) == (3 if axis == 0 else 5) and max(parts) <= 50000


def test_only_tables_that_are_constants_can_be_cut() -> None:
    """What the fallback asks before anything is cut."""
    b = Build()
    indices = b.x(2, dtype=DataType.INT32)
    constant, computed = b(Gather(), b.c(300, 10), indices), b(Gather(), b.x(300, 10, name="z"), indices)
    target = small(5000).target

    def known(v: Value) -> bool:
        return v.constant is not None

    assert constant.producer is not None and computed.producer is not None
    assert reject(constant.producer, target, known) is None
    assert "12000 bytes" in str(reject(computed.producer, target, known))


@pytest.mark.parametrize("kind", ["activation", "weights of a grouped conv", "one column", "one row"])
def test_other_large_tensors_are_an_error(kind: str) -> None:
    b = Build()
    if kind == "activation":
        y = b(Exp(), b.x(200))
    elif kind == "one row":
        y = b(Gather(1), b.c(200, 3), b.x(2, dtype=DataType.INT32))
    elif kind == "one column":
        y = b(Gemm(), b.x(1, 60), b.c(60, 4))
    else:
        y = b.conv(b.x(1, 4, 3, 3), 16, groups=2)
    b.graph.set_outputs({"y": y})
    with pytest.raises(UnsupportedError, match="max-storage-buffer-binding-size"):
        PassManager("split-large").run(b.graph, small(500))


@pytest.mark.parametrize("keep", [False, True])
def test_log_sum_exp_is_stable(keep: bool) -> None:
    b = Build()
    y = b(ReduceLogSumExp((1,), keep), b.x(3, 5))
    expected = {"add": 1, "clamp": 1, "exp": 1, "log": 1, "reduce_max": 1, "reduce_sum": 1}
    graph = check(b, "legalize", {**expected, **({} if keep else {"reshape": 1}), "sub": 1}, y)
    x = np.array([[-np.inf] * 5, [1e4] * 5, [np.inf, 1, 2, 3, 4]], np.float32)
    result = interpret(graph, {"x": x})["y0"].reshape(-1)
    np.testing.assert_allclose(result, [-np.inf, 1e4 + np.log(5), np.inf], rtol=1e-6)


def test_reductions_of_single_elements_and_batchnorm() -> None:
    b = Build()
    x = b.x(2, 3, 1)
    results = [b(ReduceSum(()), b(Exp(), x)), b(ReduceMean((2,)), x), b(ReduceLogSumExp((2,), True), b(Exp(), x))]
    mean, variance = b.x(3, name="m"), b(Exp(), b.x(3, name="v"))
    results.append(b(BatchNormalization(1), x, mean, variance, None, b.c(3)))
    ops = {"exp": 3, "reshape": 4, "add": 2, "mul": 1, "reciprocal": 1, "sqrt": 1, "sub": 1}
    check(b, "legalize", ops, *results)


def test_outputs_get_a_node_of_their_own() -> None:
    b = Build()
    x = b.x(3)
    y = b(Exp(), x)
    check(b, "legalize", {"identity": 3, "exp": 1}, x, b.c(2), y, y)


def test_concats_share_their_beginnings() -> None:
    b = Build()
    parts = [b(Relu(), b.x(1, 2, 3, name=f"x{i}")) for i in range(4)]
    wholes = [b(Exp(), b(Concat(1), *parts[:n])) for n in (2, 3, 4)]
    wholes += [b(Exp(), b(Concat(2), *parts[:3])), b(Exp(), b(Concat(1), parts[0], parts[2], parts[1]))]
    graph = check(b, "share-concats", {"relu": 4, "exp": 5, "concat": 5}, *wholes)
    counts = [len(n.operand_values) for n in graph.nodes if isinstance(n.op, Concat)]
    assert counts == [2, 2, 2, 3, 3]
