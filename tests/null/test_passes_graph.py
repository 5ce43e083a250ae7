"""canonicalize, simplify-movement and fold-batchnorm: what they make of small graphs, and that the numbers stay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gpucompile.compiler import compile
from gpucompile.errors import UnsupportedError
from gpucompile.ir.graph import Value
from gpucompile.ir.interpret import interpret
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType
from gpucompile.ops.activation import Clamp, Relu
from gpucompile.ops.contraction import Gemm, Matmul
from gpucompile.ops.conv import Conv2d, ConvTranspose2d
from gpucompile.ops.elementwise import Add, Div, Exp, Identity, Mul, Sub
from gpucompile.ops.logical import Cast
from gpucompile.ops.movement import Concat, Expand, Pad, Reshape, Slice, Transpose
from gpucompile.ops.normalize import BatchNormalization
from gpucompile.ops.pool import AveragePool2d, MaxPool2d
from gpucompile.ops.quantize import DequantizeLinear, QuantizeLinear
from gpucompile.ops.reduction import ReduceMean, ReduceSum
from gpucompile.passmanager.base import Context
from gpucompile.passmanager.manager import PassManager
from gpucompile.target import DEFAULT_LIMITS, Target
from tests.null.graphs import Build, chain, check, the

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


def test_batchnorm_of_float16_is_rounded_once() -> None:
    b = Build()
    x = b.x(2, 6, 5, dtype=DataType.FLOAT16)
    mean, variance, scale, shift = (b.graph.constant(b.rng.uniform(0.5, 3, 6).astype(np.float16)) for _ in range(4))
    y = b(BatchNormalization(), x, mean, variance, scale, shift)
    check(b, "fold-batchnorm", {"cast": 2, "mul": 1, "add": 1}, y, tolerance=0.0)


# legalize ------------------------------------------------------------------------------------------------------------


def test_groups_that_share_channels_have_a_type_but_no_result() -> None:
    b = Build()
    y = b(ConvTranspose2d((1, 1, 1, 1), groups=3), b.x(1, 1, 5, 5), b.c(1, 1, 3, 3))
    assert y.type.shape == (1, 3, 5, 5)
    b.graph.set_outputs({"y": y})
    for pipeline in ("legalize", "default"):
        with pytest.raises(UnsupportedError, match="3 groups do not divide 1 input channels"):
            PassManager(pipeline).run(b.graph.clone())


@pytest.mark.parametrize(("dtype", "columns", "concats"), [("u8", 3, 4), ("f16", 3, 4), ("f16", 4, 1), ("f32", 3, 1)])
def test_concat_of_many_narrow_operands(dtype: str, columns: int, concats: int) -> None:
    """At most 7 operands where neighbours share words; others are written one by one, whatever their number."""
    b = Build()
    operands = [b.x(1, columns, name=f"x{i}", dtype=DataType.parse(dtype)) for i in range(20)]
    check(b, "legalize", {"concat": concats}, b(Concat(0), *operands), tolerance=0.0)
    compile(b.graph, Target(("shader-f16",), DEFAULT_LIMITS))


def test_quantisation_becomes_casts_and_arithmetic() -> None:
    b = Build()
    x, zero = b.x(4, 6), b.graph.constant(np.zeros((4, 1), np.uint8))
    q = b(QuantizeLinear(), x, b.c(4, 1), zero)  # no zero point to add, nothing to repeat
    check(b, "legalize", {"div": 1, "round_even": 1, "cast": 1}, q, tolerance=0.0)
    b = Build()
    q, z = (b.x(*s, name=n, dtype=DataType.INT8) for n, s in (("q", (4, 6)), ("z", (2, 3))))
    y = b(DequantizeLinear(), q, b.c(2, 3), z)  # blocks of 2 x 2
    graph = check(b, "legalize", {"cast": 2, "repeat": 2, "sub": 1, "mul": 1}, y, tolerance=0.0)
    PassManager("fuse").run(graph)
    assert graph.statistics() == {"fused": 1}


@pytest.mark.parametrize("dtype", [DataType.FLOAT32, DataType.FLOAT16])
def test_float16_is_quantised_in_float32(dtype: DataType) -> None:
    b = Build()
    x, scale = b.x(3, 8, dtype=dtype), b.graph.constant(np.full((1, 1), 0.01, dtype.numpy))
    q = b(QuantizeLinear(), x, scale, b.graph.constant(np.full((1, 1), 3, np.int8)))
    y = b(DequantizeLinear(), q, scale, b.graph.constant(np.full((1, 1), 3, np.int8)))
    assert y.type.dtype is dtype
    check(b, "legalize,fold-constants,cse", BY_DTYPE[dtype], q, y, tolerance=0.0)


BY_DTYPE = {
    DataType.FLOAT32: {"cast": 2, "add": 1, "div": 1, "mul": 1, "round_even": 1, "sub": 1},
    DataType.FLOAT16: {"cast": 4, "add": 1, "div": 1, "mul": 1, "round_even": 1, "sub": 1},
}
