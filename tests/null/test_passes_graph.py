"""The rewriting passes: what they turn small graphs into, that the numbers stay, and what is left of the real networks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import networks
from gpucompile.errors import UnsupportedError
from gpucompile.frontends.onnx.importer import import_model
from gpucompile.ir.graph import Graph, Value
from gpucompile.ir.interpret import interpret
from gpucompile.ir.op import Op
from gpucompile.ir.text import print_graph
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.activation import Clamp, Relu
from gpucompile.ops.contraction import Gemm, Matmul
from gpucompile.ops.conv import Conv2d
from gpucompile.ops.elementwise import Add, Div, Exp, Identity, Mul, Sub
from gpucompile.ops.logical import Cast
from gpucompile.ops.movement import Concat, Expand, Pad, Reshape, Slice, Transpose
from gpucompile.ops.normalize import BatchNormalization, LocalResponseNormalization
from gpucompile.ops.pool import AveragePool2d, MaxPool2d
from gpucompile.ops.reduction import ReduceLogSumExp, ReduceMean, ReduceSum
from gpucompile.ops.softmax import Softmax
from gpucompile.passes.pipelines import PIPELINES
from gpucompile.passmanager.base import Context
from gpucompile.passmanager.manager import PassManager
from gpucompile.passmanager.pipeline import parse_pipeline
from gpucompile.target import Target

LAYOUT = "layout,fold-constants,canonicalize,simplify-movement,fold-constants,cse,dce"


class Build:
    """A graph under construction, with seeded constants: `b(Relu(), b.x(1, 3))`."""

    def __init__(self) -> None:
        self.graph = Graph("test")
        self.rng = np.random.default_rng(0)

    def x(self, *shape: int, name: str = "x", dtype: DataType = DataType.FLOAT32) -> Value:
        return self.graph.add_input(name, TensorType(dtype, shape))

    def c(self, *shape: int) -> Value:
        return self.value(self.rng.uniform(0.5, 1.5, shape).astype(np.float32))

    def value(self, array: object) -> Value:
        array = np.asarray(array)
        return self.graph.constant(array.astype(np.float32) if array.dtype.kind in "fi" else array)

    def __call__(self, op: Op, *inputs: Value | None) -> Value:
        return self.graph.add(op, *inputs)

    def conv(self, x: Value, out: int, k: int = 3, **attributes: object) -> Value:
        """An NCHW convolution with constant weights, `same` padding where nothing else is said."""
        op = replace(Conv2d(padding=(k // 2,) * 4), **attributes)  # type: ignore[arg-type]
        return self(op, x, self.c(out, x.type.shape[1] // op.groups, k, k), self.c(out))

    def bn(self, x: Value, axis: int = 1) -> Value:
        n = x.type.shape[axis]
        return self(BatchNormalization(axis), x, self.c(n), self.c(n), self.c(n), self.c(n))


def check(
    b: Build,
    pipeline: str,
    expected: Mapping[str, int],
    *results: Value,
    tolerance: float = 1e-5,
    ctx: Context | None = None,
) -> Graph:
    """Run the pipeline; assert the ops that are left (constants not counted) and that the outputs agree. A second run
    must find nothing to do."""
    graph = b.graph
    graph.set_outputs({f"y{i}": v for i, v in enumerate(results)})
    rng = np.random.default_rng(1)
    inputs = {v.name: rng.standard_normal(v.type.shape).astype(v.type.dtype.numpy) for v in graph.inputs}
    before = interpret(graph, inputs)
    manager = PassManager(pipeline)
    manager.run(graph, ctx)
    assert graph.statistics() == dict(expected)
    after = interpret(graph, inputs)
    assert list(after) == list(before)
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=tolerance, atol=tolerance * np.abs(value).max())
    assert not manager.run(graph, ctx), "a second run changes something"
    return graph


def the(graph: Graph, kind: type[Op]) -> Op:
    """The one op of a class."""
    (op,) = (node.op for node in graph.nodes if isinstance(node.op, kind))
    return op


# canonicalize --------------------------------------------------------------------------------------------------------

NO_OPS: dict[str, Callable[[Build, Value], Value]] = {
    "identity": lambda b, x: b(Identity(), x),
    "cast": lambda b, x: b(Cast(DataType.FLOAT32), x),
    "reshape": lambda b, x: b(Reshape(x.type.shape), x),
    "transpose": lambda b, x: b(Transpose((0, 1, 2)), x),
    "slice": lambda b, x: b(Slice((0, 0, 0), x.type.shape), x),
    "pad": lambda b, x: b(Pad((0, 0, 0), (0, 0, 0), value=3.0), x),
    "expand": lambda b, x: b(Expand(x.type.shape), x),
    "concat": lambda b, x: b(Concat(1), x),
    "add": lambda b, x: b(Add(), b.value(0.0), x),
    "sub": lambda b, x: b(Sub(), x, b.value(np.zeros((3, 1)))),
    "mul": lambda b, x: b(Mul(), x, b.value(np.ones((1, 3, 4)))),
    "div": lambda b, x: b(Div(), x, b.value(1.0)),
    "clamp": lambda b, x: b(Clamp(), x),
}


@pytest.mark.parametrize("name", NO_OPS)
def test_no_ops_disappear(name: str) -> None:
    b = Build()
    check(b, "canonicalize", {"relu": 1, "exp": 1}, b(Exp(), NO_OPS[name](b, b(Relu(), b.x(2, 3, 4)))))


def test_what_looks_like_a_no_op_stays() -> None:
    b = Build()
    x = b.x(1, 4)
    kept = [
        b(Transpose((1, 0)), b.x(3, 3, name="s")),
        b(Add(), x, b.value(np.zeros((2, 4)))),
        b(Sub(), b.value(0.0), x),
    ]
    kept += [b(Mul(), b.value(np.ones(5)), b.x(5, 1, name="z")), b(Slice((0, 1), (1, 3)), x), b(Clamp(-1.0), x)]
    check(b, "canonicalize", {"add": 1, "clamp": 1, "mul": 1, "slice": 1, "sub": 1, "transpose": 1}, *kept)


def test_clamps_become_relu_and_relus_merge() -> None:
    b = Build()
    x = b.x(3, 5)
    check(
        b,
        "canonicalize",
        {"clamp": 1, "relu": 1},
        b(Relu(), b(Relu(), b(Clamp(0.0), x))),
        b(Relu(), b(Clamp(0.0, 1.0), x)),
    )


def test_constants_go_right_and_lose_axes_of_one() -> None:
    b = Build()
    y = b(Add(), b.value(np.arange(4).reshape(1, 1, 4)), b.x(2, 3, 4))
    graph = check(b, "canonicalize", {"add": 1}, y)
    (add,) = (n for n in graph.nodes if isinstance(n.op, Add))
    assert add.operand_values[1].constant is not None and add.operand_values[1].type.shape == (4,)


def test_subtraction_and_division_by_constants() -> None:
    b = Build()
    x = b.x(2, 4)
    ctx = Context(why_not=True)
    results = [b(Sub(), x, b.c(4)), b(Div(), x, b.value([2.0, -0.25, 1.0, 1024.0])), b(Div(), x, b.value(3.0))]
    check(b, "canonicalize", {"add": 1, "div": 1, "mul": 1}, *results, tolerance=0.0, ctx=ctx)
    assert any("no power of two" in r.text for r in ctx.remarks)
    b = Build()
    check(b, "canonicalize", {"div": 1}, b(Div(), b.x(2), b.value([2.0**127, 2.0])), tolerance=0.0)


def test_expand_into_elementwise() -> None:
    b = Build()
    x = b.x(2, 3, 4)
    y = b(Add(), x, b(Expand((2, 3, 4)), b.x(3, 1, name="r")))
    alone = b(Add(), b(Expand((5, 4)), b.x(4, name="s")), b(Expand((5, 4)), b.x(1, name="t")))  # one has to stay
    check(b, "canonicalize", {"add": 2, "expand": 1}, y, alone)


def test_matmul_with_bias_becomes_gemm() -> None:
    b = Build()
    x = b.x(2, 5, 8)
    y = b(Add(), b.c(6), b(Matmul(), x, b.c(8, 6)))
    graph = check(b, "canonicalize,simplify-movement,dce", {"reshape": 2, "gemm": 1}, y)
    assert len([n for n in graph.nodes if isinstance(n.op, Gemm) and len(n.operand_values) == 3]) == 1


def test_products_that_stay() -> None:
    b = Build()
    batched = b(Matmul(), b.x(2, 5, 8), b.c(2, 8, 6))
    product = b(Matmul(), b.x(5, 8, name="z"), b.c(8, 6))
    used_twice = b(Add(), product, b.c(6))
    per_row = b(Add(), b(Reshape((5, 2, 3)), b(Matmul(), b.x(5, 8, name="w"), b.c(8, 6))), b.c(2, 1))
    expected = {"add": 2, "gemm": 2, "matmul": 1, "reshape": 1}
    check(b, "canonicalize,dce", expected, batched, product, used_twice, per_row)


def test_gemm_factors_go_into_constants() -> None:
    b = Build()
    y = b(Gemm(0.5, 2.0), b.x(3, 4), b.c(4, 5), b.c(5))
    variable = b(Gemm(0.5, 2.0), b.x(3, 4, name="a"), b.x(4, 5, name="b"), b.x(5, name="c"))
    without = b(Gemm(1.0, 0.0), b.x(3, 4, name="d"), b.c(4, 5), b.x(5, name="e"))
    graph = check(b, "canonicalize", {"gemm": 3}, y, variable, without)
    ops = [n.op for n in graph.nodes if isinstance(n.op, Gemm)]
    assert ops == [Gemm(), Gemm(0.5, 2.0), Gemm()]


def test_global_pooling_becomes_a_reduction() -> None:
    b = Build()
    x = b.x(1, 3, 7, 7)
    results = [b(AveragePool2d((7, 7)), x), b(AveragePool2d(), x), b(MaxPool2d(), x)]
    results += [b(AveragePool2d((9, 9), (1, 1, 1, 1)), x), b(AveragePool2d((7, 5), strides=(1, 3)), x)]
    check(b, "canonicalize", {"reduce_mean": 3, "average_pool2d": 1, "reduce_max": 1}, *results)


def test_padding_goes_into_conv_only() -> None:
    b = Build()
    pad = b(Pad((0, 0, 1, 2), (0, 0, 0, 1)), b.x(1, 3, 8, 8))
    channels = b(Pad((0, 0, 0, 0), (0, 1, 0, 0)), b.x(1, 3, 8, 8, name="z"))
    results = [b.conv(pad, 4), b(AveragePool2d((3, 3)), pad), b.conv(channels, 4)]
    graph = check(b, "canonicalize", {"conv2d": 2, "pad": 2, "average_pool2d": 1}, *results)
    assert (2, 1, 3, 2) in {n.op.padding for n in graph.nodes if isinstance(n.op, Conv2d)}


# simplify-movement ---------------------------------------------------------------------------------------------------

NHWC, NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


def chain(b: Build, x: Value, *ops: Op) -> Value:
    for op in ops:
        x = b(op, x)
    return x


CHAINS: dict[str, tuple[tuple[int, ...], tuple[Op, ...], dict[str, int]]] = {
    "inverse transposes": ((2, 3, 4, 5), (Transpose(NHWC), Transpose(NCHW)), {}),
    "two transposes": ((2, 3, 4, 5), (Transpose(NHWC),) * 2, {"transpose": 1}),
    "reshapes": ((2, 3, 4), (Reshape((6, 4)), Reshape((24,)), Reshape((4, 6))), {"reshape": 1}),
    "there and back": ((2, 3, 4), (Reshape((6, 4)), Reshape((2, 3, 4))), {}),
    "moves only ones": ((1, 3, 1, 5), (Transpose((1, 2, 0, 3)),), {"reshape": 1}),
    "spatial 1x1": ((2, 8, 1, 1), (Transpose(NHWC),), {"reshape": 1}),
    "nhwc, flatten hw, back": (
        (2, 4, 4, 3),
        (Transpose(NCHW), Reshape((2, 3, 16)), Transpose((0, 2, 1))),
        {"reshape": 1},
    ),
    "shuffle": ((1, 6, 2, 2), (Reshape((1, 2, 3, 2, 2)), Transpose((0, 2, 1, 3, 4)), Reshape((1, 6, 2, 2))), None),
    "split first": ((2, 12, 5), (Reshape((2, 3, 4, 5)), Transpose((0, 2, 1, 3))), {"reshape": 1, "transpose": 1}),
    "two shuffles": (
        (1, 6),
        (Reshape((2, 3)), Transpose((1, 0)), Reshape((6,)), Reshape((3, 2)), Transpose((1, 0)), Reshape((1, 6))),
        {},
    ),
    "ragged": ((4, 6), (Transpose((1, 0)), Reshape((8, 3)), Transpose((1, 0))), None),
}  # type: ignore[dict-item]


@pytest.mark.parametrize("name", CHAINS)
def test_chains_of_reshapes_and_transposes(name: str) -> None:
    shape, ops, expected = CHAINS[name]
    if expected is None:
        kinds = [op.name for op in ops]
        expected = {k: kinds.count(k) for k in sorted(set(kinds), key=lambda k: (-kinds.count(k), k))}
    b = Build()
    x = b(Exp(), b.x(*shape))
    check(b, "simplify-movement", {"exp": 1, **expected}, chain(b, x, *ops), tolerance=0.0)


def test_random_chains() -> None:
    """Whatever a chain is, its simplification has the same result and not more ops."""
    rng = np.random.default_rng(2)
    shapes = [(24,), (2, 12), (4, 6), (2, 3, 4), (1, 4, 6), (6, 2, 2), (2, 2, 2, 3), (24, 1)]
    for _ in range(300):
        b = Build()
        x = y = b.x(*shapes[rng.integers(len(shapes))])
        for _ in range(rng.integers(1, 7)):
            if rng.random() < 0.5:
                y = b(Reshape(shapes[rng.integers(len(shapes))]), y)
            else:
                y = b(Transpose(tuple(int(i) for i in rng.permutation(y.type.rank))), y)
        b.graph.set_outputs({"y": y})
        data = np.arange(24, dtype=np.float32).reshape(x.type.shape)
        before, size = interpret(b.graph, {"x": data})["y"], len(b.graph)
        PassManager("canonicalize,simplify-movement").run(b.graph)
        np.testing.assert_array_equal(interpret(b.graph, {"x": data})["y"], before)
        assert len(b.graph) <= size


def test_a_transpose_used_twice_is_not_doubled() -> None:
    b = Build()
    t = b(Transpose((1, 0)), b.x(4, 6))
    check(b, "simplify-movement", {"exp": 1, "reshape": 1, "transpose": 1}, b(Exp(), t), b(Reshape((8, 3)), t))


def test_slices() -> None:
    b = Build()
    x = b.x(8, 9)
    twice = b(Slice((1, 0), (3, 2), (2, 1)), b(Slice((1, 2), (7, 6), (1, 2)), x))
    joined = b(Concat(1), x, b.x(8, 4, name="z"))
    inside, across = b(Slice((0, 10), (8, 2)), joined), b(Slice((0, 8), (8, 2)), joined)
    check(b, "simplify-movement", {"slice": 3, "concat": 1}, twice, inside, across, tolerance=0.0)


def test_concats_flatten_unless_used_elsewhere() -> None:
    b = Build()
    x = b(Exp(), b.x(2, 3))
    nested = b(Concat(1), b(Concat(1), x, x), b(Concat(0), x))
    shared = b(Concat(1), x, x)
    ctx = Context(why_not=True)
    expected = {"concat": 3, "exp": 1, "relu": 1}
    check(b, "canonicalize,simplify-movement", expected, nested, b(Concat(1), shared, x), b(Relu(), shared), ctx=ctx)
    assert any("used elsewhere" in r.text for r in ctx.remarks)


def test_transposes_sink_where_they_cancel() -> None:
    b = Build()
    t = b(Transpose(NHWC), b.x(1, 3, 4, 5))
    y = b(Transpose(NCHW), b(Add(), b(Relu(), t), b.value([1.0, 2.0, 3.0])))
    both = b(Mul(), b(Transpose((1, 0)), b.x(3, 4, name="p")), b(Transpose((1, 0)), b.x(3, 4, name="q")))
    alone = b(Exp(), b(Transpose((1, 0)), b.x(3, 4, name="r")))
    expected = {"transpose": 2, "add": 1, "exp": 1, "mul": 1, "relu": 1}
    check(b, "simplify-movement,fold-constants,canonicalize,simplify-movement", expected, y, both, alone)


def test_reductions_take_transposes_in() -> None:
    b = Build()
    t = b(Transpose(NCHW), b.x(2, 4, 5, 3))
    results = [b(ReduceMean((2, 3)), t), b(ReduceSum((0, 2)), t), b(ReduceMean((2, 3), True), t)]
    check(b, "simplify-movement", {"reduce_mean": 2, "reduce_sum": 1, "reshape": 1, "transpose": 1}, *results)


def test_transposed_operands_of_gemm_become_flags() -> None:
    b = Build()
    x = b(Transpose((1, 0)), b.x(4, 3))
    y = b(Gemm(b_transpose=True), x, b(Transpose((1, 0)), b.x(4, 5, name="w")))
    graph = check(b, "simplify-movement", {"gemm": 1}, y)
    assert the(graph, Gemm) == Gemm(a_transpose=True)


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_flatten_after_a_transpose_permutes_weights(rows: bool, batch: int) -> None:
    b = Build()
    flat = b(Reshape((batch, 60)), b(Transpose(NCHW), b(Exp(), b.x(batch, 4, 5, 3))))
    y = b(Gemm(b_transpose=rows), flat, b.c(*((7, 60) if rows else (60, 7))), b.c(7))
    check(b, "simplify-movement,fold-constants,canonicalize", {"exp": 1, "gemm": 1, "reshape": 1}, y)


def test_weights_are_not_permuted_where_rows_mix_with_columns() -> None:
    b = Build()
    flat = b(Reshape((3, 60)), b(Transpose((1, 2, 3, 0)), b(Exp(), b.x(5, 3, 4, 3))))
    check(b, "simplify-movement", {"exp": 1, "gemm": 1, "reshape": 1, "transpose": 1}, b(Gemm(), flat, b.c(60, 7)))


# fold-batchnorm ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["oihw", "hwio", "ohwi", "ihwo"])
@pytest.mark.parametrize("bias", [False, True])
def test_batchnorm_into_conv(layout: str, bias: bool) -> None:
    b = Build()
    shape = tuple({"o": 5, "i": 3, "h": 3, "w": 2}[a] for a in layout)
    y = b(Conv2d(filter_layout=layout), b.x(2, 3, 6, 6), b.c(*shape), *([b.c(5)] if bias else []))
    check(b, "fold-batchnorm", {"conv2d": 1}, b.bn(y))


def test_affine_chain_into_conv_and_gemm() -> None:
    b = Build()
    y = b.conv(b.x(1, 4, 5, 5), 8, groups=2)
    y = b(Add(), b(Mul(), b.bn(y), b.c(8, 1, 1)), b.c(1, 8, 1, 1))
    y = b(Div(), b(Sub(), y, b.c(8, 1, 1)), b.value(3.0))
    z = b.bn(b(Gemm(0.5, 2.0, b_transpose=True), b.x(3, 4, name="z"), b.c(6, 4), b.c(3, 1)))
    check(b, "fold-batchnorm", {"conv2d": 1, "gemm": 1}, y, z)


def test_batchnorm_elsewhere_becomes_one_mul_and_add() -> None:
    b = Build()
    x = b(Concat(1), b.x(1, 4, 5, 5), b.x(1, 2, 5, 5, name="z"))
    y = b(Add(), b(Mul(), b.bn(x), b.c(6, 1, 1)), b.c(6, 1, 1))
    check(b, "fold-batchnorm", {"add": 1, "concat": 1, "mul": 1, "relu": 1}, b(Relu(), y), x)


def test_what_must_not_fold() -> None:
    b = Build()
    ctx = Context(why_not=True)
    shared = b.conv(b.x(1, 3, 6, 6), 5)
    wrong_axis = b(Mul(), b.conv(b.x(1, 3, 6, 6, name="u"), 5), b.c(6))
    two_axes = b(Add(), b.conv(b.x(1, 3, 6, 6, name="v"), 5), b.c(5, 6, 1))
    filters = b(Mul(), b(Conv2d(), b.x(1, 3, 6, 6, name="w"), b.x(5, 3, 3, 3, name="f")), b.c(5, 1, 1))
    c = [b.x(3, name=n) for n in ("mean", "variance")]
    variable = b(BatchNormalization(), b.x(1, 3, 2, name="q"), c[0], b(Exp(), c[1]))
    expected = {"conv2d": 4, "add": 2, "mul": 3, "batch_normalization": 1, "exp": 1}
    check(b, "fold-batchnorm", expected, shared, b.bn(shared), wrong_axis, two_axes, filters, variable, ctx=ctx)
    texts = " ".join(r.text for r in ctx.remarks)
    for why in ("used elsewhere", "not its channels", "2 axes", "weights of the conv2d", "statistics are not constant"):
        assert why in texts


def test_a_bias_folds_into_a_conv_with_variable_filter() -> None:
    b = Build()
    y = b(Add(), b(Conv2d(), b.x(1, 3, 6, 6, name="w"), b.x(5, 3, 3, 3, name="f")), b.c(5, 1, 1))
    check(b, "fold-batchnorm", {"conv2d": 1}, y)


def test_chains_along_different_axes() -> None:
    b = Build()
    y = b.conv(b.x(1, 3, 6, 6), 5)
    for shape in ((5, 1, 1), (6,), (6, 1), (), (6, 1)):
        y = b(Mul(), y, b.c(*shape))
    check(b, "fold-batchnorm", {"mul": 2, "conv2d": 1}, y)


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


@pytest.mark.parametrize("kind", ["activation", "weights of a grouped conv", "one column"])
def test_other_large_tensors_are_an_error(kind: str) -> None:
    b = Build()
    if kind == "activation":
        y = b(Exp(), b.x(200))
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


def test_data_types_without_kernels() -> None:
    b = Build()
    b.graph.set_outputs({"y": b(Cast(DataType.INT64), b.x(3))})
    with pytest.raises(UnsupportedError, match=r"cast.*int64 tensors.*float16, float32, int32, uint32"):
        PassManager("legalize").run(b.graph)


# Everything together -------------------------------------------------------------------------------------------------


def random_network(seed: int) -> Build:
    """A DAG of small rank-4 tensors through the ops that the passes know, with outputs of several ranks."""
    b, rng = Build(), np.random.default_rng(seed)
    pool = [b.x(2, 4, 6, 6), b.x(2, 4, 6, 6, name="z")]

    def pick() -> Value:
        return pool[-1 - int(rng.integers(min(4, len(pool))))]

    def same(v: Value) -> Value:
        """Another value of this type, or a broadcast constant."""
        candidates = [w for w in pool if w.type == v.type]
        n, c, h, w = v.type.shape
        shapes = [(), (1,), (c, 1, 1), (1, c, 1, 1), (h, w), (w,), (n, 1, 1, 1), (c, h, w)]
        if rng.random() < 0.5:
            return candidates[int(rng.integers(len(candidates)))]
        return b.c(*shapes[int(rng.integers(len(shapes)))])

    def window(v: Value) -> Value:
        starts = tuple(int(rng.integers(0, max(1, d // 2))) for d in v.type.shape)
        sizes = tuple(d - s for d, s in zip(v.type.shape, starts, strict=True))
        return b(Slice(starts, sizes, (1, 1, 2, 1)), v)

    def shuffle(v: Value) -> Value:
        n, c, h, w = v.type.shape
        return (
            chain(b, v, Reshape((n, 2, c // 2, h, w)), Transpose((0, 2, 1, 3, 4)), Reshape(v.type.shape))
            if c % 2 == 0
            else v
        )

    def moved(v: Value) -> Value:
        return b(Transpose(((0, 1, 3, 2), (0, 2, 3, 1), (0, 3, 1, 2))[int(rng.integers(3))]), v)

    def joined(v: Value) -> Value:
        fitting = [w for w in pool if w.type.shape[:1] + w.type.shape[2:] == v.type.shape[:1] + v.type.shape[2:]]
        return b(Concat(1), v, fitting[int(rng.integers(len(fitting)))])

    steps: list[Callable[[Value], Value]] = [
        lambda v: b.conv(v, int(rng.integers(1, 7)), 3),
        lambda v: b.conv(v, v.type.shape[1], 1, groups=v.type.shape[1]),
        lambda v: b.bn(v, int(rng.integers(4))),
        lambda v: b(Relu(), v),
        lambda v: b(Identity(), v),
        lambda v: b(Add(), same(v), v),
        lambda v: b(Mul(), v, same(v)),
        lambda v: b(MaxPool2d((2, 1)), v) if v.type.shape[2] > 1 else v,
        lambda v: b(AveragePool2d(None), v),
        lambda v: b(Pad((0, 0, 1, 0), (0, 0, 0, 1)), v),
        lambda v: b(ReduceMean((int(rng.integers(4)),), True), v),
        lambda v: b(Softmax(int(rng.integers(4))), v),
        lambda v: b(LocalResponseNormalization(3, 0.1), v),
        window,
        shuffle,
        moved,
        joined,
    ]
    for _ in range(14):
        v = steps[int(rng.integers(len(steps)))](pick())
        if v.type.size <= 3000:
            pool.append(v)
    last = pool[-1]
    n, size = last.type.shape[0], last.type.size
    head = b(Add(), b(Matmul(), b(Reshape((n, size // n)), last), b.c(size // n, 3)), b.c(3))
    results = [last, pick(), head, b(ReduceSum((1, 3)), pick()), b(Reshape((pool[-2].type.size,)), pool[-2])]
    b.graph.set_outputs({f"y{i}": v for i, v in enumerate(results)})
    return b


@pytest.mark.parametrize("seed", range(60))
def test_random_networks_keep_their_results(seed: int) -> None:
    """Also: a pass that has run finds nothing when it runs again at once."""
    graph = random_network(seed).graph
    rng = np.random.default_rng(seed)
    inputs = {v.name: rng.standard_normal(v.type.shape).astype(np.float32) for v in graph.inputs}
    before = interpret(graph, inputs)
    for p in parse_pipeline(PIPELINES["no-fuse"]):
        PassManager([p]).run(graph)
        after = interpret(graph, inputs)
        for name, value in before.items():
            np.testing.assert_allclose(
                after[name], value, rtol=2e-4, atol=2e-5 * max(1, np.abs(value).max()), err_msg=p.name
            )
        text = print_graph(graph)
        assert not p.run(graph, Context()) and print_graph(graph) == text, f"{p.name} changes its own result"


@pytest.mark.parametrize("shape", ["chain", "layers"])
def test_linear_time(shape: str) -> None:
    """Four times the nodes take less than eight times the time, pass by pass; small times are not compared."""

    def build(n: int) -> Graph:
        b = Build()
        previous = v = b.x(1, 4, 6, 6)
        ops: list[Op] = [Relu(), Transpose((0, 1, 3, 2)), Reshape((1, 4, 6, 6)), Mul(), Exp(), Add()]
        one, weights = b.value(1.5), b.c(4, 4, 1, 1)
        for i in range(n):
            op = ops[i % len(ops)]
            if i % 50 == 0:
                op, second = Conv2d(), weights
            else:
                second = one if isinstance(op, Mul) else previous if shape == "layers" else one
            v, previous = b(op, v, *([second] if isinstance(op, Add | Mul | Conv2d) else [])), v
        b.graph.set_outputs({"y": v})
        return b.graph

    def times(n: int) -> dict[str, float]:
        graph, out = build(n), {}
        for i, p in enumerate(parse_pipeline(PIPELINES["no-fuse"])):
            start = time.perf_counter()
            p.run(graph, Context())
            out[f"{i} {p.name}"] = time.perf_counter() - start
        return out

    small, large = times(1000), times(4000)
    assert {k: (small[k], t) for k, t in large.items() if t > 0.1 and t > 8 * small[k]} == {}


# Real networks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_real_networks(name: str) -> None:
    graph = import_model(networks.randomized(name))
    inputs = networks.random_input(name)
    before = interpret(graph, inputs)
    PassManager("no-fuse").run(graph)
    for key, value in interpret(graph, inputs).items():
        np.testing.assert_allclose(value, before[key], atol=1e-4 * np.abs(value).max())
    counts = graph.statistics()
    assert (
        counts["transpose"] == {"squeezenet": 1, "shufflenet": 17}[name]
    )  # one at the input, sixteen channel shuffles
    assert not counts.keys() & {"batch_normalization", "mul", "average_pool2d" if name == "squeezenet" else "clamp"}


@pytest.mark.slow
@pytest.mark.parametrize("name", networks.NAMES)
def test_no_layout_conversions_inside_real_networks(name: str) -> None:
    graph = import_model(networks.randomized(name))
    PassManager("no-fuse").run(graph)
    transposes = [n for n in graph.nodes if isinstance(n.op, Transpose)]
    shuffles = [n for n in transposes if n.op == Transpose((0, 1, 2, 4, 3))]
    (entry,) = [n for n in transposes if n not in shuffles]
    assert entry.operand_values[0] is graph.inputs[0] and len(shuffles) == (16 if name == "shufflenet" else 0)
    assert "batch_normalization" not in graph.statistics()
