"""Every op class: cases, inference against the reference, WGSL formulas against numpy, definitions as plain loops.

Formulas are evaluated here in numpy float32, one WGSL function for one numpy function, so that a wrong formula fails
without a GPU; the values include NaN, infinities and both zeros.
"""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import numpy as np
import pytest

import gpucompile.ops  # noqa: F401  (registers all ops)
from gpucompile.errors import TypeInferenceError
from gpucompile.ir.graph import Graph, Return
from gpucompile.ir.interpret import interpret
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType, TensorType
from gpucompile.kernels.library import functions
from gpucompile.ops.activation import Clamp, Relu
from gpucompile.ops.categories import Elementwise, Reduction, tensor
from gpucompile.ops.contraction import Matmul
from gpucompile.ops.conv import Conv2d, ConvTranspose2d, by_name
from gpucompile.ops.elementwise import Add, Div, Erf, Max, Min, Sqrt
from gpucompile.ops.formula import literal
from gpucompile.ops.logical import Cast, LogicalAnd, Where
from gpucompile.ops.normalize import BatchNormalization, LocalResponseNormalization
from gpucompile.ops.pool import AveragePool2d, L2Pool2d, MaxPool2d, Pool2d
from gpucompile.ops.quantize import DequantizeLinear, QuantizeLinear
from gpucompile.ops.recurrent import Gru, GruCell, Lstm
from gpucompile.ops.reduction import ReduceLogSumExp, ReduceSum
from gpucompile.ops.softmax import Softmax

OPS = sorted((op for op in Op.registry.values() if op is not Return), key=lambda op: op.name)
CASES = [(op, types) for cls in OPS for op, types in cls.cases()]
IDS = [f"{op.name}-{i}" for cls in OPS for i, (op, _) in enumerate(cls.cases())]
SPECIAL = [math.nan, math.inf, -math.inf, 0.0, -0.0, 100.0, -100.0, 1e30, -1e30, 1e-30]


def data(op: Op, types: tuple[TensorType | None, ...], seed: int = 0) -> list[np.ndarray | None]:
    """Operands from the op's domain; variances and the like must be positive, so all are."""
    rng = np.random.default_rng(seed)
    low, high = getattr(op, "domain", (0.1, 3.0))
    arrays = [None if t is None else rng.uniform(low, high, t.shape) for t in types]
    return [
        None if a is None else np.asarray(np.rint(a) if not t.dtype.is_float else a).astype(t.dtype.numpy)
        for a, t in zip(arrays, types)
    ]


def run(
    op: Op, arrays: list[np.ndarray | None], types: tuple[TensorType | None, ...] | None = None
) -> tuple[np.ndarray, ...]:
    """The op alone in a graph, verified and interpreted: checks the reference's type against `infer`. Arrays of 4-bit
    types need `types`."""
    graph = Graph()
    known = types or [None if a is None else TensorType.of(np.asarray(a)) for a in arrays]
    values = [None if t is None else graph.add_input(f"x{i}", t) for i, t in enumerate(known)]
    node = graph.insert(op, tuple(values))
    graph.set_outputs({f"y{i}": v for i, v in enumerate(node.outputs)})
    graph.verify()
    return tuple(interpret(graph, {f"x{i}": a for i, a in enumerate(arrays) if a is not None}).values())


@pytest.mark.parametrize("cls", OPS, ids=lambda c: c.name)
def test_every_op_has_cases_and_says_what_it_is(cls: type[Op]) -> None:
    assert list(cls.cases())
    assert cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}(")  # dataclass's own is no documentation
    assert all(isinstance(op, cls) for op, _ in cls.cases())


@pytest.mark.parametrize(("op", "types"), CASES, ids=IDS)
def test_reference_has_the_inferred_type(op: Op, types: tuple[TensorType | None, ...]) -> None:
    arrays = data(op, types)
    before = [None if a is None else a.copy() for a in arrays]
    for y in run(op, arrays, types):
        assert y.dtype.kind != "f" or np.isfinite(y).all()
    for a, b in zip(arrays, before):
        if a is not None and b is not None:
            np.testing.assert_array_equal(a, b)  # operands are not written to


def test_cases_cover_sizes_that_are_no_multiple_of_4() -> None:
    for cls in OPS:
        sizes = [t.shape[-1] for _, types in cls.cases() for t in types if t is not None and t.rank]
        assert cls.name in ("constant", "fused") or any(s % 4 for s in sizes), cls.name


# WGSL formulas -----------------------------------------------------------------------------------------------------

FUNCTIONS: dict[str, Any] = {
    "f32": lambda x: np.asarray(x, np.float32),
    "f16": lambda x: np.asarray(x, np.float16),
    "i32": lambda x: np.asarray(x).astype(np.int32),
    "u32": lambda x: np.asarray(x).astype(np.uint32),
    "bitcast_u32": lambda x: np.asarray(x, np.float32).view(np.uint32),
    "bitcast_f32": lambda x: np.asarray(x, np.uint32).view(np.float32),
    "select": lambda a, b, c: np.where(c, b, a),
    "clamp": np.clip,
    "round": np.rint,
    "pow": lambda a, b: np.exp2(b * np.log2(a)),  # as GPUs do
    "max": np.fmax,  # WGSL may drop NaN
    "min": np.fmin,
    **{f.__name__: f for f in (np.ceil, np.floor, np.trunc, np.sign, np.sqrt, np.exp, np.log)},
    **{f.__name__: f for f in (np.sin, np.cos, np.tan, np.tanh)},
    "abs": np.abs,
    "nan": lambda: np.float32(np.nan),
    "infinity": lambda: np.float32(np.inf),
}


def evaluate(expression: str, args: dict[str, np.ndarray]) -> np.ndarray:
    """A scalar WGSL expression in numpy."""
    text = re.sub(r"bitcast<(\w+)>", r"bitcast_\1", expression)
    text = re.sub(r"\b(0x[0-9a-f]+|\d+)u\b", r"np.uint32(\1)", text)
    text = text.replace("(!(", "(~(")
    text = re.sub(r"\b(\d+)i\b", r"np.int32(\1)", text)
    text = re.sub(r"(?<![\w.])(\d[\d.]*(?:e[+-]?\d+)?)f\b", r"np.float32(\1)", text)
    with np.errstate(all="ignore"):
        return np.asarray(eval(text, {"np": np, **FUNCTIONS, **args}))


WGSL_TYPE = {DataType.FLOAT32: "f32", DataType.INT32: "i32", DataType.UINT32: "u32"}
WGSL_TYPE |= {DataType.UINT8: "u32", DataType.INT8: "i32"}


def expressible(op: Op, types: tuple[TensorType | None, ...]) -> bool:
    """Whether it is an expression of 32-bit numbers; functions of the library are tested on an adapter."""
    values = [*types, *op.result_types(*types)]
    names = tuple(f"x{i}" for i in range(len(types)))
    dtypes = [WGSL_TYPE.get(t.dtype) for t in values if t is not None]
    return (
        isinstance(op, Elementwise)
        and all(dtypes)
        and not set(functions()) & set(re.findall(r"\w+", op.wgsl(names, str(dtypes[0]), str(dtypes[-1]))))
    )


ELEMENTWISE = [(op, types) for op, types in CASES if expressible(op, types)]


@pytest.mark.parametrize(("op", "types"), ELEMENTWISE, ids=[i for i, c in zip(IDS, CASES) if c in ELEMENTWISE])
def test_formula_is_the_reference(op: Elementwise, types: tuple[TensorType, ...]) -> None:
    arrays = data(op, types)
    (out,) = op.result_types(*types)
    t, r = WGSL_TYPE[types[0].dtype], WGSL_TYPE[out.dtype]
    names = [f"x{i}" for i in range(len(types))]
    got = evaluate(op.wgsl(names, t, r), dict(zip(names, arrays))).astype(out.dtype.numpy)
    (want,) = run(op, arrays, types)
    np.testing.assert_allclose(np.broadcast_to(got, out.shape), want, rtol=3e-6, atol=1e-6)


#: One case of each op on floats; Pow and casts have tests of their own.
ON_FLOATS = {op.name: (op, ts) for op, ts in ELEMENTWISE if all(t.dtype.is_float for t in ts)}
ON_FLOATS = {name: case for name, case in ON_FLOATS.items() if name not in ("pow", "cast")}


@pytest.mark.parametrize("name", ON_FLOATS)
def test_formula_keeps_nan_and_infinity(name: str) -> None:
    op, types = ON_FLOATS[name]
    values = np.array(list(itertools.product(SPECIAL, repeat=len(types))), np.float32).T
    (out,) = op.result_types(*(tensor(values.shape[1]),) * len(types))
    names = [f"x{i}" for i in range(len(types))]
    got = evaluate(op.wgsl(names, "f32", WGSL_TYPE[out.dtype]), dict(zip(names, values))).astype(out.dtype.numpy)
    (want,) = run(op, list(values))
    periodic = name in ("sin", "cos", "tan")  # 1e30 is too much for them
    sane = np.abs(values[0]) < 1e29 if periodic else np.ones(len(want), bool)
    np.testing.assert_allclose(got[sane], want[sane], rtol=3e-6, atol=1e-6 if periodic else 1e-30)


@pytest.mark.parametrize("to", [DataType.INT32, DataType.UINT32, DataType.INT8, DataType.UINT8])
def test_cast_of_floats_saturates(to: DataType) -> None:
    info = np.iinfo(to.value)
    x = [*SPECIAL, 0.7, -0.7, 1.5, -1.5, 254.9, -127.9, info.max, info.min, info.max * 1.5, info.min * 1.5 - 1]
    want = [0 if math.isnan(v) else int(min(max(v, info.min), info.max)) for v in x]
    array = np.array(x, np.float32)
    np.testing.assert_array_equal(evaluate(Cast(to).wgsl(["x"], "f32", WGSL_TYPE[to]), {"x": array}), want)
    np.testing.assert_array_equal(run(Cast(to), [array])[0], want)


@pytest.mark.parametrize(("op", "types"), ELEMENTWISE, ids=[i for i, c in zip(IDS, CASES) if c in ELEMENTWISE])
def test_vector_formula_is_the_scalar_one(op: Elementwise, types: tuple[TensorType, ...]) -> None:
    t, r = WGSL_TYPE[types[0].dtype], WGSL_TYPE[op.result_types(*types)[0].dtype]
    names = [f"x{i}" for i in range(len(types))]
    vector = op.wgsl(names, f"vec4<{t}>", f"vec4<{r}>")
    assert re.sub(r"vec4<(\w+)>", r"\1", vector) == op.wgsl(names, t, r)


def test_erf_is_accurate() -> None:
    x = np.concatenate([np.linspace(-5, 5, 20001), np.logspace(-20, 0, 100)]).astype(np.float32)
    want = np.array([math.erf(v) for v in x.tolist()])
    np.testing.assert_allclose(evaluate(Erf().wgsl(["x"], "f32", "f32"), {"x": x}), want, rtol=1e-6)


def test_float16_formulas_stay_in_range() -> None:
    assert literal(0.1, "vec4<f16>") == "vec4<f16>(0.1h)"
    assert "f16(" not in Erf().wgsl(["x"], "f16", "f16")[4:]  # computed in f32, converted once
    assert Clamp(-math.inf, math.inf).wgsl(["x"], "f16", "f16") == "x"
    assert literal(1e9, "f16") == "f16(f16(infinity()))"
    assert literal(-1e9, "vec4<f16>") == "vec4<f16>(f16(-infinity()))"


@pytest.mark.parametrize("cls", [c for c in OPS if issubclass(c, (Reduction, Pool2d))], ids=lambda c: c.name)
def test_reduction_formulas_are_the_reference(cls: type[Any]) -> None:
    op = cls()
    x = data(op, (tensor(1, 1, 3, 5),))[0]
    assert x is not None
    start = {"lowest": -3.4e38, "highest": 3.4e38}.get(op.identity) if not op.identity[0].isdigit() else None
    total = np.float32(float(op.identity) if start is None else start)
    for v in x.reshape(-1):
        mapped = evaluate(op.map("x", "f32"), {"x": v})
        total = evaluate(op.combine("a", "b", "f32"), {"a": total, "b": mapped})
    count: Any = "f32(15)" if isinstance(op, Pool2d) else 15
    got = evaluate(op.finish("a", count, "f32"), {"a": total})
    np.testing.assert_allclose(got, run(op, [x])[0].reshape(()), rtol=1e-5)


# definitions -------------------------------------------------------------------------------------------------------


def _nchw(x: np.ndarray, layout: str, target: str = "nchw") -> np.ndarray:
    return np.transpose(x, [layout.index(a) for a in target]).astype(np.float64)


@pytest.mark.parametrize(("op", "types"), list(Conv2d.cases()))
def test_conv2d_is_its_definition(op: Conv2d, types: tuple[TensorType | None, ...]) -> None:
    x, f, *bias = arrays = data(op, types)
    assert x is not None and f is not None
    xs, fs = _nchw(x, op.input_layout), _nchw(f, op.filter_layout, "oihw")
    (top, bottom, left, right), (sy, sx), (dy, dx) = op.padding, op.strides, op.dilations
    xs = np.pad(xs, ((0, 0), (0, 0), (top, bottom), (left, right)))
    (got,) = run(op, arrays)
    got = _nchw(got, op.input_layout)
    n, c_out, oh, ow = got.shape
    want = np.zeros(got.shape)
    per_in, per_out = fs.shape[1], c_out // op.groups
    for b, o, y, z in itertools.product(range(n), range(c_out), range(oh), range(ow)):
        first = o // per_out * per_in
        rows = slice(y * sy, y * sy + (fs.shape[2] - 1) * dy + 1, dy)
        columns = slice(z * sx, z * sx + (fs.shape[3] - 1) * dx + 1, dx)
        want[b, o, y, z] = (xs[b, first : first + per_in, rows, columns] * fs[o]).sum()
    if bias and bias[0] is not None:
        want += bias[0].reshape(-1, 1, 1)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize(("op", "types"), list(ConvTranspose2d.cases()))
def test_conv_transpose2d_is_its_definition(op: ConvTranspose2d, types: tuple[TensorType | None, ...]) -> None:
    x, f, *bias = arrays = data(op, types)
    assert x is not None and f is not None
    xs, fs = _nchw(x, op.input_layout), _nchw(f, op.filter_layout, "iohw")
    (top, _, left, _), (sy, sx), (dy, dx) = op.padding, op.strides, op.dilations
    (got,) = run(op, arrays)
    got = _nchw(got, op.input_layout)
    want = np.zeros(got.shape)
    _, c_in, h, w = xs.shape
    per_in, per_out = c_in // op.groups, fs.shape[1]
    for i, y, z, u, v in itertools.product(range(c_in), range(h), range(w), range(fs.shape[2]), range(fs.shape[3])):
        row, column = y * sy + u * dy - top, z * sx + v * dx - left
        if 0 <= row < got.shape[2] and 0 <= column < got.shape[3]:
            first = i // per_in * per_out
            part = xs[:, i, y, z, None] * fs[None, i, :, u, v]
            want[:, first : first + per_out, row, column] += part
    if bias and bias[0] is not None:
        want += bias[0].reshape(-1, 1, 1)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize(("op", "types"), [c for cls in (AveragePool2d, L2Pool2d, MaxPool2d) for c in cls.cases()])
def test_pooling_is_its_definition(op: Pool2d, types: tuple[TensorType]) -> None:
    (x,) = arrays = data(op, types)
    assert x is not None
    xs = _nchw(x - 2, op.layout)
    (got,) = run(op, [np.asarray(x - 2, np.float32)])
    got = _nchw(got, op.layout)
    (top, _, left, _), (sy, sx), (dy, dx) = op.padding, op.strides, op.dilations
    h, w = xs.shape[2:]
    kh, kw = op.window_dimensions or (h, w)
    last = {"average_pool2d": np.mean, "max_pool2d": np.max, "l2_pool2d": lambda v, **k: np.sqrt(np.sum(v * v, **k))}
    for y, z in itertools.product(range(got.shape[2]), range(got.shape[3])):
        rows = [r for r in (y * sy + u * dy - top for u in range(kh)) if 0 <= r < h]
        columns = [c for c in (z * sx + v * dx - left for v in range(kw)) if 0 <= c < w]
        patch = xs[:, :, rows][:, :, :, columns]
        np.testing.assert_allclose(got[:, :, y, z], last[op.name](patch, axis=(2, 3)), rtol=1e-6)
    assert arrays


def test_large_arguments_do_not_overflow() -> None:
    x = np.array([[1000.0, 1000.0], [-1000.0, 0.0]], np.float32)
    np.testing.assert_allclose(run(Softmax(1), [x])[0], [[0.5, 0.5], [0.0, 1.0]])
    np.testing.assert_allclose(run(ReduceLogSumExp((1,)), [x])[0], [1000 + math.log(2), 0.0], rtol=1e-6)


def test_integer_arithmetic() -> None:
    a, b = np.array([7, -7, 7, -7, 5], np.int32), np.array([2, 2, -2, -2, 0], np.int32)
    np.testing.assert_array_equal(run(Div(), [a, b])[0], [3, -3, -3, 3, 5])
    top = np.array([255, 200], np.uint8)
    np.testing.assert_array_equal(run(Add(), [top, top])[0], [254, 144])
    np.testing.assert_array_equal(run(Clamp(-1.0, 300.0), [top])[0], top)
    nan = np.array([math.nan, 1.0], np.float32)
    for op in (Max(), Min()):
        assert np.isnan(run(op, [nan, nan[::-1]])[0]).all()


def test_cast_truncates_saturates_and_wraps() -> None:
    f = np.array([1.9, -1.9, 300.0, -300.0, math.nan], np.float32)
    np.testing.assert_array_equal(run(Cast(DataType.UINT8), [f])[0], [1, 0, 255, 0, 0])
    np.testing.assert_array_equal(run(Cast(DataType.INT8), [f])[0], [1, -1, 127, -128, 0])
    i = np.array([1, -1, 300, 128], np.int32)
    np.testing.assert_array_equal(run(Cast(DataType.UINT8), [i])[0], [1, 255, 44, 128])
    np.testing.assert_array_equal(run(Cast(DataType.INT8), [i])[0], [1, -1, 44, -128])
    np.testing.assert_array_equal(run(Cast(DataType.INT4), [f])[0], [1, -1, 7, -8, 0])
    np.testing.assert_array_equal(run(Cast(DataType.UINT4), [f])[0], [1, 0, 15, 0, 0])
    n = np.array([1, -1, 24, -9], np.int32)
    np.testing.assert_array_equal(run(Cast(DataType.INT4), [n])[0], [1, -1, -8, 7])
    np.testing.assert_array_equal(run(Cast(DataType.UINT4), [n])[0], [1, 15, 8, 7])


# errors ------------------------------------------------------------------------------------------------------------

I32 = DataType.INT32
ERRORS: list[tuple[Op, tuple[TensorType | None, ...], str]] = [
    (Matmul(), (tensor(37, 50), tensor(60, 30)), "matmul f32[37,50] x f32[60,30]: inner dimensions 50 and 60 differ"),
    (Add(), (tensor(2, 3), tensor(2, 4)), "add f32[2,3] x f32[2,4]: shapes do not broadcast: dimension 1 is 3 and 4"),
    (Add(), (tensor(2), tensor(2, dtype=I32)), "add f32[2] x i32[2]: data types differ"),
    (Sqrt(), (tensor(2, dtype=I32),), "sqrt i32[2]: input is int32, allowed: float16, float32"),
    (Relu(), (), "relu : takes 1 operands"),
    (Clamp(2.0, 1.0), (tensor(2),), "clamp f32[2]: min_value 2.0 is greater than max_value 1.0"),
    (Conv2d(), (tensor(1, 3, 5, 5), tensor(4, 2, 3, 3)), "the filter takes 2 input channels a group, there are 3"),
    (Conv2d(groups=2), (tensor(1, 3, 5, 5), tensor(4, 2, 3, 3)), "2 groups do not divide 3 input and 4 output"),
    (Conv2d(), (tensor(1, 3, 2, 5), tensor(4, 3, 3, 3)), "a window of 3 does not fit into 2 and its padding"),
    (Conv2d(), (tensor(1, 3, 5, 5), tensor(4, 3, 3, 3), tensor(3)), "bias needs the shape [4]"),
    (Conv2d(filter_layout="iohw"), (tensor(1, 3, 5, 5), tensor(4, 3, 3, 3)), "unknown filter layout 'iohw'"),
    (Conv2d(strides=(0, 1)), (tensor(1, 3, 5, 5), tensor(4, 3, 3, 3)), "strides [0, 1] needs two values from 1"),
    (
        ConvTranspose2d(output_sizes=(9, 9)),
        (tensor(1, 3, 5, 5), tensor(3, 4, 3, 3)),
        "output size 9 must be at least 7",
    ),
    (MaxPool2d((3, 3), output_sizes=(5, 5)), (tensor(1, 1, 5, 5),), "output size 5 is neither 3 nor 3"),
    (AveragePool2d(), (tensor(5, 5),), "average_pool2d f32[5,5]: input has rank 2, needs rank 4"),
    (Softmax(2), (tensor(5, 5),), "softmax f32[5,5]: axis 2 is not an axis of a rank 2 tensor"),
    (ReduceSum((0, 0)), (tensor(5, 5),), "axes [0, 0] are not distinct axes of a rank 2 tensor"),
    (
        BatchNormalization(),
        (tensor(1, 3, 5), tensor(3), tensor(4)),
        "variance needs the input's data type and the shape",
    ),
    (LocalResponseNormalization(0), (tensor(1, 3),), "lrn f32[1,3]: size 0 is less than 1"),
    (LogicalAnd(), (tensor(2), tensor(2)), "logical_and f32[2] x f32[2]: a is float32, allowed: uint8"),
    (Where(), (tensor(2, dtype=DataType.UINT8), tensor(2), tensor(2, dtype=I32)), "data types of true_value and false"),
    (
        QuantizeLinear(),
        (tensor(4), tensor(2), tensor(2, dtype=DataType.INT4)),
        "output_data_type must be int4, that of zero_point",
    ),
    (
        DequantizeLinear(),
        (tensor(4, dtype=I32), tensor(3), tensor(3, dtype=I32)),
        "the extents [3] of scale do not divide the input's",
    ),
    (GruCell(), (tensor(2, 3), tensor(3, 3), tensor(3, 1), tensor(2, 2)), "hidden_state needs the input's data type"),
    (Lstm(steps=2), (tensor(3, 1, 1), *(tensor(1, 4, 1),) * 2), "lstm f32[3,1,1] x f32[1,4,1] x f32[1,4,1]: the input"),
    (Lstm(layout="zrn"), (tensor(1, 1, 1), *(tensor(1, 4, 1),) * 2), "unknown layout 'zrn', there are iofg, ifgo"),
    (
        Gru(activations=("relu", "elu")),
        (tensor(1, 1, 1), *(tensor(1, 3, 1),) * 2),
        "activations ['relu', 'elu'] are not 2 of relu, sigmoid, tanh",
    ),
]


@pytest.mark.parametrize(("op", "types", "text"), ERRORS, ids=[f"{o.name}-{i}" for i, (o, *_) in enumerate(ERRORS)])
def test_errors_name_op_operands_and_clash(op: Op, types: tuple[TensorType | None, ...], text: str) -> None:
    with pytest.raises(TypeInferenceError, match=re.escape(text)) as error:
        op.result_types(*types)
    assert str(error.value).startswith(op.name)


def test_by_name_orders_axes() -> None:
    assert by_name((1, 2, 3, 4), "nhwc", "nchw") == (1, 4, 2, 3)
