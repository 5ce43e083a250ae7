"""What each op's numpy reference is compared with: ONNX's reference implementation, or the definition in plain loops.

`SOURCES` maps op names to functions of the op and its operands (floats as float64, absent ones None). Ops that are one
ONNX op without attributes (`Op.onnx`) need no entry. Where onnx.reference is not what the ONNX or WebNN specification
says, the entry avoids it and says so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from gpucompile.ir.literals import limits
from gpucompile.ir.op import Op

Array = np.ndarray
Source = Callable[..., Array]
SOURCES: dict[str, Source] = {}

#: Ops whose reference has no other source, and why.
EXCUSED = {
    "return": "the end of a graph",
    "constant": "data",
    "fused": "interprets its body, whose ops have sources",
}


def source(*names: str) -> Callable[[Source], Source]:
    """Registers the source of these ops."""

    def register(function: Source) -> Source:
        SOURCES.update(dict.fromkeys(names, function))
        return function

    return register


def source_of(cls: type[Op]) -> Source | None:
    """The function that computes the op another way."""
    if cls.name in SOURCES:
        return SOURCES[cls.name]
    name = cls.onnx
    return None if name is None else lambda op, *ins: evaluate(name, *ins)


def evaluate(op_type: str, *arrays: Array | Sequence[int] | None, opset: int = 22, **attributes: Any) -> Array:
    """One ONNX op on arrays (sequences are int64), by onnx.reference, which computes in the arrays' types."""
    ins = [None if a is None else a if isinstance(a, np.ndarray) else np.array(a, np.int64) for a in arrays]
    names = ["" if a is None else f"x{i}" for i, a in enumerate(ins)]
    node = helper.make_node(op_type, names, ["y"], **attributes)
    value = [helper.make_tensor_value_info(n, onnx.TensorProto.UNDEFINED, None) for n in (*names, "y") if n]
    graph = helper.make_graph([node], "one", value[:-1], value[-1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    (y,) = ReferenceEvaluator(model).run(None, {n: a for n, a in zip(names, ins) if a is not None})
    return np.asarray(y)


def each(function: Callable[..., Any], *arrays: Array) -> Array:
    """A function of Python numbers for every element; an array of objects."""
    return np.asarray(np.frompyfunc(function, len(arrays), 1)(*(a.astype(object) for a in arrays)), object)


def wrapped(values: Array, dtype: np.dtype[Any]) -> Array:
    """Python integers modulo 2^bits."""
    low, high = (int(v) for v in (np.iinfo(dtype).min, np.iinfo(dtype).max))
    return np.asarray(each(lambda v: (int(v) - low) % (high - low + 1) + low, values).astype(dtype))


# Elementwise ---------------------------------------------------------------------------------------------------------

for _name, _onnx in {"max": "Max", "min": "Min", "is_infinite": "IsInf", "gelu": "Gelu", "matmul": "MatMul"}.items():
    SOURCES[_name] = lambda op, *ins, onnx=_onnx: evaluate(onnx, *ins)
for _name, _onnx in {"elu": "Elu", "hard_sigmoid": "HardSigmoid", "leaky_relu": "LeakyRelu"}.items():
    SOURCES[_name] = lambda op, x, onnx=_onnx: evaluate(onnx, x, **op.attributes())
for _name, _onnx in {"logical_and": "And", "logical_or": "Or", "logical_xor": "Xor", "logical_not": "Not"}.items():
    SOURCES[_name] = lambda op, *ins, onnx=_onnx: evaluate(onnx, *(np.asarray(x != 0) for x in ins))


@source("add", "sub", "mul")
def arithmetic(op: Op, a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return evaluate(str(type(op).onnx), a, b)
    function = {"add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y}[op.name]
    return wrapped(each(function, a, b), a.dtype)


@source("div")
def div(op: Op, a: Array, b: Array) -> Array:
    """onnx.reference rounds integers down, ONNX and WebNN toward zero; x / 0 is x on GPUs."""
    if a.dtype.kind == "f":
        return evaluate("Div", a, b)
    return wrapped(each(lambda x, y: x if y == 0 else abs(x) // abs(y) * (1 if x * y > 0 else -1), a, b), a.dtype)


@source("pow")
def power(op: Op, a: Array, b: Array) -> Array:
    """Whole numbers by Fraction, rounded toward zero; 0 to a negative power is 0 here."""
    if a.dtype.kind == "f":
        return evaluate("Pow", a, b)
    bits = a.dtype.itemsize * 8

    def one(x: int, y: int) -> int:
        return pow(x, y, 1 << bits) if y >= 0 else 0 if x == 0 else math.trunc(Fraction(1, x) ** min(-y, 2 - y % 2))

    return wrapped(each(one, a, b), a.dtype)


@source("not_equal")
def not_equal(op: Op, a: Array, b: Array) -> Array:
    return ~evaluate("Equal", a, b)


@source("clamp")
def clamp(op: Any, x: Array) -> Array:
    """Bounds are numbers of the operand's type: whole ones for integers, nearest to what it can hold."""
    bounds = [op.min_value, op.max_value]
    if x.dtype.kind != "f":
        low, high = int(np.iinfo(x.dtype).min), int(np.iinfo(x.dtype).max)
        bounds = [int(min(max(v, low), high)) for v in bounds]
    return evaluate("Clip", x, *(np.array(v, x.dtype) for v in bounds))


@source("linear")
def linear(op: Any, x: Array) -> Array:
    return evaluate("Add", evaluate("Mul", x, np.array(op.alpha)), np.array(op.beta))


@source("round_float16")
def round_float16(op: Op, x: Array) -> Array:
    return evaluate("Cast", evaluate("Cast", x, to=onnx.TensorProto.FLOAT16), to=onnx.TensorProto.FLOAT)


@source("softsign")
def softsign(op: Op, x: Array) -> Array:
    """onnx.reference fails for scalars."""
    return evaluate("Softsign", x.reshape(-1)).reshape(x.shape)


@source("where")
def where(op: Op, condition: Array, a: Array, b: Array) -> Array:
    return evaluate("Where", np.asarray(condition != 0), a, b)


@source("cast")
def cast(op: Any, x: Array) -> Array:
    """ONNX leaves floats beyond a type's range open; WebNN saturates them."""
    if op.to.is_float:
        return evaluate("Cast", x, to=helper.np_dtype_to_tensor_dtype(op.to.numpy))
    low, high = (int(v) for v in limits(op.to))
    if x.dtype.kind == "f":
        return each(lambda v: min(max(math.trunc(v), low), high), x)
    return each(lambda v: (v - low) % (high - low + 1) + low, x)


# Reductions and scans ------------------------------------------------------------------------------------------------


@source(*("reduce_" + n for n in ("sum", "mean", "max", "min", "product", "l1", "l2")))
@source("reduce_sum_square", "reduce_log_sum", "reduce_log_sum_exp")
def reduce(op: Any, x: Array) -> Array:
    """Always with an axis of 1 more: without axes, ONNX ops return their operand as it is, WebNN's |x|, x^2 and so on.
    Sums of integers in Python's, which know no overflow."""
    axes = list(range(x.ndim)) if op.axes is None else list(op.axes)
    kept = [d for i, d in enumerate(x.shape) if i not in axes]
    shape = [1 if i in axes else d for i, d in enumerate(x.shape)] if op.keep_dimensions else kept
    rows = x.transpose([i for i in range(x.ndim) if i not in axes] + axes).reshape(math.prod(kept), -1)
    if x.dtype.kind != "f" and op.name not in ("reduce_max", "reduce_min"):
        element = {"reduce_l1": abs, "reduce_sum_square": lambda v: v * v}.get(op.name, lambda v: v)
        total = math.prod if op.name == "reduce_product" else sum
        sums = [total(element(v) for v in row) for row in rows.tolist()]
        return wrapped(np.array(sums, object), x.dtype).reshape(shape)
    name = "".join(part.capitalize() for part in op.name.split("_")).replace("Product", "Prod")
    return evaluate(name, rows, [1], keepdims=0).reshape(shape)


@source("arg_max", "arg_min")
def arg_min_max(op: Any, x: Array) -> Array:
    return evaluate({"arg_max": "ArgMax", "arg_min": "ArgMin"}[op.name], x, axis=op.axis, keepdims=op.keep_dimensions)


@source("cumulative_sum")
def cumulative_sum(op: Any, x: Array) -> Array:
    axis = np.array(op.axis)
    return evaluate("CumSum", x, axis, exclusive=int(op.exclusive), reverse=int(op.reversed))


@source("softmax")
def softmax(op: Any, x: Array) -> Array:
    return evaluate("Softmax", x, axis=op.axis)


# Movement ------------------------------------------------------------------------------------------------------------


@source("reshape", "expand")
def to_shape(op: Any, x: Array) -> Array:
    return evaluate(op.name.capitalize(), x, op.new_shape)


@source("transpose")
def transpose(op: Any, x: Array) -> Array:
    return evaluate("Transpose", x, perm=op.permutation) if x.ndim else x


@source("slice")
def slice_(op: Any, x: Array) -> Array:
    ends = [a + n for a, n in zip(op.starts, op.sizes)]
    return evaluate("Slice", x, op.starts, ends, range(x.ndim), op.strides or [1] * x.ndim)


@source("concat")
def concat(op: Any, *ins: Array) -> Array:
    return evaluate("Concat", *ins, axis=op.axis)


@source("pad")
def pad(op: Any, x: Array) -> Array:
    """numpy, which onnx.reference asks, pads no scalars."""
    mode = {"constant": "constant", "edge": "edge", "reflection": "reflect"}[op.mode]
    value = np.array(op.value).astype(x.dtype)
    return evaluate("Pad", x, [*op.beginning, *op.ending], value, mode=mode) if x.ndim else x


@source("tile")
def tile(op: Any, x: Array) -> Array:
    return evaluate("Tile", x, op.repetitions)


@source("repeat")
def repeat(op: Any, x: Array) -> Array:
    """Tiled on an axis of 1 behind each axis."""
    shape = [d for e in x.shape for d in (e, 1)]
    tiled = evaluate("Tile", x.reshape(shape), [r for c in op.repetitions for r in (1, c)])
    return tiled.reshape([d * c for d, c in zip(x.shape, op.repetitions)])


@source("reverse")
def reverse(op: Any, x: Array) -> Array:
    axes = list(range(x.ndim)) if op.axes is None else list(op.axes)
    if not axes:
        return x
    return evaluate("Slice", x, [-1] * len(axes), [-(2**31)] * len(axes), axes, [-1] * len(axes))


@source("triangular")
def triangular(op: Any, x: Array) -> Array:
    return evaluate("Trilu", x, np.array(op.diagonal), upper=int(op.upper))


# Contractions, windows, normalisation ---------------------------------------------------------------------------------


@source("gemm")
def gemm(op: Any, a: Array, b: Array, c: Array | None = None) -> Array:
    flags = {"transA": int(op.a_transpose), "transB": int(op.b_transpose)}
    return evaluate("Gemm", a, b, c, alpha=op.alpha, beta=op.beta, **flags)


def axes_of(x: Array, layout: str, to: str) -> Array:
    return np.transpose(x, [layout.index(letter) for letter in to])


@source("conv2d")
def conv2d(op: Any, x: Array, f: Array, bias: Array | None = None) -> Array:
    x, f = axes_of(x, op.input_layout, "nchw"), axes_of(f, op.filter_layout, "oihw")
    y = evaluate("Conv", x, f, bias, group=op.groups, **window_attributes(op))
    return axes_of(y, "nchw", op.input_layout)


@source("conv_transpose2d")
def conv_transpose2d(op: Any, x: Array, f: Array, bias: Array | None = None) -> Array:
    """Group by group, image by image: onnx.reference cuts the filter wrongly where there are several."""
    x, f = axes_of(x, op.input_layout, "nchw"), axes_of(f, op.filter_layout, "iohw")
    extra = list(op.output_padding)
    if op.output_sizes is not None:
        for i in (0, 1):
            full = (x.shape[2 + i] - 1) * op.strides[i] + (f.shape[2 + i] - 1) * op.dilations[i] + 1
            extra[i] = op.output_sizes[i] - full + sum(op.padding[2 * i : 2 * i + 2])
    images = []
    for image in x:
        parts = zip(np.split(image[None], op.groups, 1), np.split(f, op.groups))
        options = {"output_padding": extra, **window_attributes(op)}
        images.append(np.concatenate([evaluate("ConvTranspose", *part, **options) for part in parts], 1))
    y = np.concatenate(images)
    return axes_of(y if bias is None else y + bias.reshape(-1, 1, 1), "nchw", op.input_layout)


def window_attributes(op: Any) -> dict[str, Any]:
    """Strides, dilations and padding as ONNX orders it."""
    top, bottom, left, right = op.padding
    return {"strides": op.strides, "dilations": op.dilations, "pads": [top, left, bottom, right]}


@source("average_pool2d", "l2_pool2d", "max_pool2d")
def pool(op: Any, x: Array) -> Array:
    """In loops: ONNX drops rounded up windows that begin in the padding, and pools no 64-bit integers."""
    x = axes_of(x, op.layout, "nchw")
    window = op.window_dimensions or x.shape[2:]
    sizes = []
    for i in (0, 1):
        room = x.shape[2 + i] + sum(op.padding[2 * i : 2 * i + 2]) - (window[i] - 1) * op.dilations[i] - 1
        sizes.append(op.output_sizes[i] if op.output_sizes else room // op.strides[i] + 1)
    out = np.zeros((*x.shape[:2], *sizes), x.dtype)
    for y, z in itertools.product(*map(range, sizes)):
        rows, columns = (
            [p for k in range(window[i]) if 0 <= (p := at * op.strides[i] + k * op.dilations[i] - pad) < x.shape[2 + i]]
            for i, at, pad in ((0, y, op.padding[0]), (1, z, op.padding[2]))
        )
        patch = x[:, :, rows][:, :, :, columns]
        if op.name == "max_pool2d":
            out[:, :, y, z] = patch.max(axis=(2, 3))
        elif op.name == "average_pool2d":
            out[:, :, y, z] = patch.mean(axis=(2, 3))
        else:
            out[:, :, y, z] = np.sqrt((patch**2).sum(axis=(2, 3)))
    return axes_of(out, "nchw", op.layout)


@source("resample2d")
def resample2d(op: Any, x: Array) -> Array:
    """In fractions: ONNX's Resize in half_pixel mode, whose evaluator works on single elements."""
    integer, y = x.dtype.kind != "f", x.astype(np.float64)
    for i, axis in enumerate(op.axes):
        extent = x.shape[axis]
        size = op.sizes[i] if op.sizes else math.floor(extent * (op.scales[i] if op.scales else 1))
        parts = []
        for k in range(size):
            at = min(max((k + Fraction(1, 2)) * extent / size - Fraction(1, 2), Fraction(0)), Fraction(extent - 1))
            low = math.floor(at)
            if op.mode == "nearest-neighbor":  # of two equally near ones, the first
                parts.append(y.take(low if at - low <= Fraction(1, 2) else low + 1, axis))
            else:
                rest = float(at - low)
                parts.append(y.take(low, axis) * (1 - rest) + y.take(min(low + 1, extent - 1), axis) * rest)
        y = np.stack(parts, axis)
    return np.rint(y) if integer else y


@source("batch_normalization")
def batch_normalization(
    op: Any, x: Array, mean: Array, variance: Array, scale: Array | None = None, bias: Array | None = None
) -> Array:
    x = np.moveaxis(x, op.axis, 0)[None]
    scale = np.ones_like(mean) if scale is None else scale
    bias = np.zeros_like(mean) if bias is None else bias
    y = evaluate("BatchNormalization", x, scale, bias, mean, variance, epsilon=op.epsilon)
    return np.moveaxis(y[0], 0, op.axis)


@source("instance_normalization")
def instance_normalization(op: Any, x: Array, scale: Array | None = None, bias: Array | None = None) -> Array:
    x = axes_of(x, op.layout, "nchw")
    scale = np.ones(x.shape[1]) if scale is None else scale
    bias = np.zeros(x.shape[1]) if bias is None else bias
    return axes_of(evaluate("InstanceNormalization", x, scale, bias, epsilon=op.epsilon), "nchw", op.layout)


@source("layer_normalization")
def layer_normalization(op: Any, x: Array, scale: Array | None = None, bias: Array | None = None) -> Array:
    """The axes moved to the end, as ONNX has them. No axes: each element is its own mean, and ONNX has no such case."""
    axes = tuple(range(1, x.ndim)) if op.axes is None else op.axes
    if not axes:
        return np.zeros_like(x) + (0 if bias is None else bias)
    order = [i for i in range(x.ndim) if i not in axes] + list(axes)
    moved = x.transpose(order)
    part = moved.shape[x.ndim - len(axes) :]
    scale = np.ones(part) if scale is None else scale
    y = evaluate("LayerNormalization", moved, scale, bias, axis=x.ndim - len(axes), epsilon=op.epsilon)
    return y.transpose(np.argsort(order))


@source("lrn")
def local_response_normalization(op: Any, x: Array) -> Array:
    """In loops: onnx.reference takes images for channels in its sum of squares."""
    rows = np.moveaxis(x, op.axis, 0)
    before, after = math.floor((op.size - 1) / 2), math.ceil((op.size - 1) / 2)
    out = np.zeros_like(rows)
    for c in range(len(rows)):
        window = [rows[i] ** 2 for i in range(len(rows)) if c - before <= i <= c + after]
        out[c] = rows[c] / (op.bias + op.alpha / op.size * sum(window)) ** op.beta
    return np.moveaxis(out, 0, op.axis)


# Indices -------------------------------------------------------------------------------------------------------------


def safe(indices: Array, extent: int) -> Array:
    """WebNN: negative ones count from the end, what is outside becomes the nearest; ONNX has an error for that."""
    return each(lambda i: min(max(i + extent if i < 0 else i, 0), extent - 1), indices).astype(np.int64)


def safe_tuples(indices: Array, shape: Sequence[int]) -> Array:
    return np.stack([safe(indices[..., k], shape[k]) for k in range(indices.shape[-1])], -1)


@source("gather")
def gather(op: Any, x: Array, indices: Array) -> Array:
    return evaluate("Gather", x, safe(indices, x.shape[op.axis]), axis=op.axis)


@source("gather_elements")
def gather_elements(op: Any, x: Array, indices: Array) -> Array:
    return evaluate("GatherElements", x, safe(indices, x.shape[op.axis]), axis=op.axis)


@source("gather_nd")
def gather_nd(op: Any, x: Array, indices: Array) -> Array:
    return evaluate("GatherND", x, safe_tuples(indices, x.shape))


@source("scatter_elements")
def scatter_elements(op: Any, x: Array, indices: Array, updates: Array) -> Array:
    return evaluate("ScatterElements", x, safe(indices, x.shape[op.axis]), updates, axis=op.axis)


@source("scatter_nd")
def scatter_nd(op: Any, x: Array, indices: Array, updates: Array) -> Array:
    return evaluate("ScatterND", x, safe_tuples(indices, x.shape), updates)


