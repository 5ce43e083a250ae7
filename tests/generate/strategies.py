"""A strategy for every op class: operand shapes, all options, values.

Found by class, then by base class, so that a new unary or binary op, comparison or reduction has one at once. All draw
valid operands only. Where numbers are not determined (two updates of one place, a window that holds nothing but
padding), strategies do not draw them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from gpucompile.ir.op import MAX_RANK, Op
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops import activation, conv, elementwise, formula, logical, movement, normalize, pool, reduction, scan
from gpucompile.ops.contraction import Gemm, Matmul
from gpucompile.ops.gather import INDICES, Gather, GatherElements, GatherNd, ScatterElements, ScatterNd
from gpucompile.ops.resample import Resample2d
from gpucompile.ops.softmax import Softmax
from tests.generate.draw import Case, Draw, Operand, Shape

Strategy = Callable[[Draw], Case]
STRATEGIES: dict[type[Op], Strategy] = {}

#: Registered ops without a strategy, and why.
EXCUSED = {
    "return": "the end of a graph",
    "constant": "takes no operands; constant operands are drawn for all ops",
    "fused": "made by the fuse pass; test_random_graphs.py covers it",
}


def strategy_for(*classes: type[Op]) -> Callable[[Strategy], Strategy]:
    """Registers a strategy for op classes and what derives from them."""

    def register(strategy: Strategy) -> Strategy:
        STRATEGIES.update(dict.fromkeys(classes, strategy))
        return strategy

    return register


def strategy_of(cls: type[Op]) -> Strategy | None:
    """The strategy of the op or of its nearest base class that has one."""
    return next((STRATEGIES[base] for base in cls.__mro__ if base in STRATEGIES), None)


def data_types(cls: type[Op]) -> list[DataType]:
    """What the op's main operand may be: the one that most others share their data type with."""
    name = {"where": "true_value"}.get(cls.name, cls.operands[0].rstrip("?*"))
    allowed = cls.constraints.get(name, (frozenset(DataType), 0, MAX_RANK))[0]
    return [d for d in DataType if d in allowed]


@st.composite
def cases(draw: st.DrawFn, cls: type[Op], dtype: DataType) -> Case:
    """A case of one op, whose main operand is of one data type."""
    strategy = strategy_of(cls)
    assert strategy is not None, cls.name
    case = strategy(Draw(draw, cls, dtype))
    case.op.result_types(*case.types)  # a strategy that draws nonsense raises TypeInferenceError
    return case


# Elementwise ---------------------------------------------------------------------------------------------------------


@strategy_for(formula.Unary)
def unary(d: Draw) -> Case:
    return d.case(d.cls(**d.attributes()), d.operand(d.shape()))


@strategy_for(formula.Binary)
def binary(d: Draw) -> Case:
    a, b = d.operand_shapes(2)
    return d.case(d.cls(**d.attributes()), d.operand(a), d.operand(b))


@strategy_for(elementwise.Div)
def div(d: Draw) -> Case:
    """Floats are not divided by zero: WGSL leaves it open."""
    a, b = d.operand_shapes(2)
    return d.case(elementwise.Div(), d.operand(a), d.operand(b, domain=d.of((0.1, 4.0), (-4.0, -0.1))))


@strategy_for(elementwise.Pow)
def power(d: Draw) -> Case:
    """Negative bases with whole exponents only."""
    a, b = d.operand_shapes(2)
    if not d.dtype.is_float or d.flag():
        return d.case(elementwise.Pow(), d.operand(a), d.operand(b))
    exponent = d.operand(b, domain=(-3.0, 3.0))
    return d.case(
        elementwise.Pow(), d.operand(a, domain=(-3.0, -0.1)), Operand(exponent.type, np.rint(exponent.array))
    )


@strategy_for(activation.Clamp)
def clamp(d: Draw) -> Case:
    low, high = d.of(-math.inf, -2.5, -1.0, 0.0, 3.0), d.of(math.inf, 3.0, 6.25, 200.0, 1e6)
    return d.case(activation.Clamp(low, high), d.operand(d.shape()))


@strategy_for(activation.HardSigmoid)
def hard_sigmoid(d: Draw) -> Case:
    return d.case(activation.HardSigmoid(d.of(0.2, 0.0, -0.5, 1.25), d.of(0.5, 0.0, -0.5)), d.operand(d.shape()))


@strategy_for(logical.Where)
def where(d: Draw) -> Case:
    condition, a, b = d.operand_shapes(3)
    return d.case(logical.Where(), d.operand(condition, DataType.UINT8), d.operand(a), d.operand(b))


@strategy_for(logical.Cast)
def cast(d: Draw) -> Case:
    """Floats beyond the ends of 8 bits, and halves, which truncation shows."""
    to = d.of(*DataType)
    return d.case(logical.Cast(to), d.operand(d.shape(), domain=d.of((-4.0, 4.0), (-300.0, 300.0))))


# Reductions and scans ------------------------------------------------------------------------------------------------


@strategy_for(reduction.Reduce)
def reduce(d: Draw) -> Case:
    shape = d.shape()
    axes = d.of(None, d.some_axes(len(shape)))
    return d.case(d.cls(axes, d.flag()), d.operand(shape))


@strategy_for(scan.ArgMinMax)
def arg_min_max(d: Draw) -> Case:
    shape = d.shape(1)
    op = d.cls(d.axis(len(shape)), d.flag(), d.of(DataType.INT32, DataType.INT64))
    return d.case(op, d.operand(shape))


@strategy_for(scan.CumulativeSum)
def cumulative_sum(d: Draw) -> Case:
    shape = d.shape(1)
    return d.case(scan.CumulativeSum(d.axis(len(shape)), d.flag(), d.flag()), d.operand(shape))


@strategy_for(Softmax)
def softmax(d: Draw) -> Case:
    shape = d.shape(1)
    return d.case(Softmax(d.axis(len(shape))), d.operand(shape))


# Movement ------------------------------------------------------------------------------------------------------------


@strategy_for(movement.Reshape)
def reshape(d: Draw) -> Case:
    shape = d.shape()
    rest, new = math.prod(shape), []
    for _ in range(d.rank(0, MAX_RANK - 1)):
        new.append(d.of(*(f for f in range(1, rest + 1) if rest % f == 0)))
        rest //= new[-1]
    if rest > 1 or d.flag():
        new.append(rest)
    return d.case(movement.Reshape(tuple(new)), d.operand(shape))


@strategy_for(movement.Transpose)
def transpose(d: Draw) -> Case:
    shape = d.shape()
    return d.case(movement.Transpose(d.permutation(len(shape))), d.operand(shape))


@strategy_for(movement.Slice)
def slice_(d: Draw) -> Case:
    shape = d.shape()
    starts = tuple(d.integer(0, e - 1) for e in shape)
    sizes = tuple(d.integer(1, e - s) for e, s in zip(shape, starts, strict=True))
    strides = tuple(d.integer(1, 4) for _ in shape) if d.flag() else None
    return d.case(movement.Slice(starts, sizes, strides), d.operand(shape))


@strategy_for(movement.Concat)
def concat(d: Draw) -> Case:
    shape = d.shape(1, size=80)
    axis = d.axis(len(shape))
    parts = [(*shape[:axis], d.integer(1, 8), *shape[axis + 1 :]) for _ in range(d.of(1, 2, 3, 12))]
    return d.case(movement.Concat(axis), *(d.operand(p) for p in parts))


@strategy_for(movement.Pad)
def pad(d: Draw) -> Case:
    """A few axes only: as each may double."""
    shape = d.shape(size=80)
    mode = d.of("constant", "edge", "reflection")
    axes = d.some_axes(len(shape))[:3]
    most = [0 if i not in axes else 3 if mode != "reflection" else min(3, e - 1) for i, e in enumerate(shape)]
    beginning, ending = (tuple(d.integer(0, m) for m in most) for _ in range(2))
    value = d.of(0.0, 1.0, 7.0, *((-2.5, 0.1) if d.dtype.is_float else ()))
    return d.case(movement.Pad(beginning, ending, mode, value), d.operand(shape))


@strategy_for(movement.Expand)
def expand(d: Draw) -> Case:
    shape = d.shape()
    return d.case(movement.Expand(shape), d.operand(d.broadcastable(shape, full=False)))


@strategy_for(movement.Tile)
def tile(d: Draw) -> Case:
    shape = d.shape(size=80)
    repetitions = [1] * len(shape)
    for axis in d.some_axes(len(shape))[:2]:
        repetitions[axis] = d.integer(1, 4)
    return d.case(movement.Tile(tuple(repetitions)), d.operand(shape))


@strategy_for(movement.Reverse)
def reverse(d: Draw) -> Case:
    shape = d.shape()
    return d.case(movement.Reverse(d.of(None, d.some_axes(len(shape)))), d.operand(shape))


@strategy_for(movement.Triangular)
def triangular(d: Draw) -> Case:
    shape = d.shape(2)
    return d.case(movement.Triangular(d.flag(), d.integer(-9, 9)), d.operand(shape))


# Contractions --------------------------------------------------------------------------------------------------------


@strategy_for(Matmul)
def matmul(d: Draw) -> Case:
    lead = d.shape(0, MAX_RANK - 2, size=12)
    m, k, n = (d.of(1, 2, 3, 4, 5, 8, 17, 32) for _ in range(3))
    a, b = ((*d.broadcastable(lead), *tail) for tail in ((m, k), (k, n)))
    return d.case(Matmul(), d.operand(a), d.operand(b))


@strategy_for(Gemm)
def gemm(d: Draw) -> Case:
    m, k, n = (d.of(1, 2, 3, 4, 5, 8, 17, 32) for _ in range(3))
    scale = (1.0, 0.0, -0.5, 2.0)
    op = Gemm(d.of(*scale), d.of(*scale), d.flag(), d.flag())
    a, b = (k, m) if op.a_transpose else (m, k), (n, k) if op.b_transpose else (k, n)
    c = d.operand(d.broadcastable((m, n))) if d.flag() else None
    return d.case(op, d.operand(a), d.operand(b), c)


def window(d: Draw, kernel: tuple[int, int]) -> tuple[Shape, tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Padding, strides, dilations, and extents of an image into which the dilated window fits."""
    padding = tuple(d.of(0, 0, 1, 2, 3) for _ in range(4))
    strides, dilations = d.pair(1, 1, 2, 3), d.pair(1, 1, 2)
    extents = []
    for axis in (0, 1):
        covered = (kernel[axis] - 1) * dilations[axis] + 1
        least = max(1, covered - padding[2 * axis] - padding[2 * axis + 1])
        extents.append(least + d.integer(0, 6))
    return padding, strides, dilations, (extents[0], extents[1])


def channels(d: Draw, most: int = 6) -> tuple[int, int, int]:
    """Groups, and input and output channels of each."""
    groups = d.of(1, 1, 2, 3, 8)
    return groups, *((d.of(1, 1, 2, 4) if groups > 1 else d.of(1, 2, 3, 4, most, 8, 17)) for _ in range(2))


@strategy_for(conv.Conv2d)
def conv2d(d: Draw) -> Case:
    kernel = d.pair(1, 1, 2, 3)
    padding, strides, dilations, extents = window(d, kernel)
    groups, c_in, c_out = channels(d)
    input_layout, filter_layout = d.of("nchw", "nhwc"), d.of(*conv.Conv2d.filter_layouts)
    op = conv.Conv2d(padding, strides, dilations, groups, input_layout, filter_layout)
    x = conv.by_name((d.integer(1, 2), groups * c_in, *extents), "nchw", input_layout)
    f = conv.by_name((groups * c_out, c_in, *kernel), "oihw", filter_layout)
    bias = d.operand((groups * c_out,)) if d.flag() else None
    return d.case(op, d.operand(x), d.operand(f), bias)


@strategy_for(conv.ConvTranspose2d)
def conv_transpose2d(d: Draw) -> Case:
    kernel = d.pair(1, 2, 3)
    strides, dilations, extents = d.pair(1, 2, 3), d.pair(1, 1, 2), d.pair(1, 2, 3, 4, 6)
    groups, c_in, c_out = channels(d)
    padding, sizes, extra = [], [], []
    for axis in (0, 1):
        full = (extents[axis] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        begin = d.integer(0, min(2, full - 1))
        padding += [begin, d.integer(0, min(2, full - 1 - begin))]
        extra.append(d.integer(0, strides[axis] - 1))
        sizes.append(full - padding[-1] - padding[-2] + d.integer(0, strides[axis] - 1))
    input_layout, filter_layout = d.of("nchw", "nhwc"), d.of(*conv.ConvTranspose2d.filter_layouts)
    op = conv.ConvTranspose2d(
        tuple(padding), strides, dilations, groups, input_layout, filter_layout, tuple(extra), d.of(None, tuple(sizes))
    )
    x = conv.by_name((d.integer(1, 2), groups * c_in, *extents), "nchw", input_layout)
    f = conv.by_name((groups * c_in, c_out, *kernel), "iohw", filter_layout)
    bias = d.operand((groups * c_out,)) if d.flag() else None
    return d.case(op, d.operand(x), d.operand(f), bias)


# Windows and normalisation -------------------------------------------------------------------------------------------


def holds_elements(op: pool.Pool2d, g: conv.Geometry) -> bool:
    """Whether every window holds an element of the input."""
    inside = conv.windows(np.ones((1, 1, g.h, g.w)), (g.kh, g.kw), op.padding, op.strides, op.dilations, g)
    return bool(inside.any((2, 3)).all())


@strategy_for(pool.Pool2d)
def pool2d(d: Draw) -> Case:
    layout = d.of("nchw", "nhwc")
    kernel = d.pair(1, 2, 3, 5)
    padding, strides, dilations, extents = window(d, kernel)
    if d.integer(0, 2) == 2:  # the whole input
        kernel, padding, strides, dilations = extents, (0, 0, 0, 0), (1, 1), (1, 1)
        op = d.cls(layout=layout)
    else:
        op = d.cls(kernel, padding, strides, dilations, layout)
    type = TensorType(d.dtype, conv.by_name((d.integer(1, 2), d.of(1, 2, 3, 4, 8, 9), *extents), "nchw", layout))
    if d.flag():  # rounded up on each axis that is drawn
        g = op.geometry(type)
        sizes = []
        for axis, down in enumerate((g.oh, g.ow)):
            covered = (kernel[axis] - 1) * dilations[axis] + 1
            room = extents[axis] + padding[2 * axis] + padding[2 * axis + 1] - covered
            sizes.append(d.of(down, -(-room // strides[axis]) + 1))
        op = dataclasses.replace(op, output_sizes=tuple(sizes))
    if not holds_elements(op, op.geometry(type)):
        op = dataclasses.replace(op, window_dimensions=(1, 1), padding=(0,) * 4, dilations=(1, 1), output_sizes=None)
    return d.case(op, d.operand(type.shape))


@strategy_for(Resample2d)
def resample2d(d: Draw) -> Case:
    """Integers between powers of two only: elsewhere it is for rounding to say on which side of a tie a result is."""
    shape = [d.of(1, 2, 3, 4, 5, 8) for _ in range(4)]
    axes = d.permutation(4)[:2]
    mode = d.of("nearest-neighbor", "linear")
    exact = mode == "linear" and not d.dtype.is_float
    factors = [d.of(0.5, 1.0, 2.0, 4.0) if exact else d.of(0.25, 0.75, 1.0, 1.5, 2.0, 3.0) for _ in range(2)]
    scales = tuple(s if math.floor(shape[a] * s) == shape[a] * s else 1.0 for a, s in zip(axes, factors, strict=True))
    sizes = tuple(int(shape[a] * s) for a, s in zip(axes, scales, strict=True)) if exact else d.pair(1, 2, 3, 4, 7, 9)
    if not exact:  # result sizes are rounded down
        scales = tuple(f if shape[a] * f >= 1 else 1.0 for a, f in zip(axes, factors, strict=True))
    op = Resample2d(mode, d.of(None, scales), d.of(None, sizes), axes)
    return d.case(op, d.operand(shape))


EPSILONS = (1e-5, 1e-3, 0.5)


@strategy_for(normalize.BatchNormalization)
def batch_normalization(d: Draw) -> Case:
    shape = d.shape(1)
    op = normalize.BatchNormalization(d.axis(len(shape)), d.of(*EPSILONS))
    c = (shape[op.axis],)
    mean, variance = d.operand(c), d.operand(c, domain=(0.2, 4.0))
    scale, bias = (d.operand(c) if d.flag() else None for _ in range(2))
    return d.case(op, d.operand(shape), mean, variance, scale, bias)


@strategy_for(normalize.InstanceNormalization)
def instance_normalization(d: Draw) -> Case:
    op = normalize.InstanceNormalization(d.of(*EPSILONS), d.of("nchw", "nhwc"))
    shape = d.shape(4, 4)
    scale, bias = (d.operand((shape[op.channel],)) if d.flag() else None for _ in range(2))
    return d.case(op, d.operand(shape), scale, bias)


@strategy_for(normalize.LayerNormalization)
def layer_normalization(d: Draw) -> Case:
    shape = d.shape()
    op = normalize.LayerNormalization(d.of(None, d.some_axes(len(shape))), d.of(*EPSILONS))
    part = tuple(shape[a] for a in op.normalized_axes(len(shape)))
    scale, bias = (d.operand(part) if d.flag() else None for _ in range(2))
    return d.case(op, d.operand(shape), scale, bias)


@strategy_for(normalize.LocalResponseNormalization)
def local_response_normalization(d: Draw) -> Case:
    shape = d.shape(1)
    alpha, beta, bias = d.of(1e-4, 0.5, 2.0), d.of(0.75, 0.5, 1.0), d.of(1.0, 0.5)
    op = normalize.LocalResponseNormalization(d.integer(1, 7), alpha, beta, bias, d.axis(len(shape)))
    return d.case(op, d.operand(shape))


# Indices -------------------------------------------------------------------------------------------------------------

INDEX_TYPES = sorted(INDICES, key=lambda t: t.value)


@strategy_for(Gather)
def gather(d: Draw) -> Case:
    shape = d.shape(1, size=60)
    axis = d.axis(len(shape))
    indices = d.shape(0, MAX_RANK - len(shape) + 1, size=12)
    return d.case(Gather(axis), d.operand(shape), d.indices(indices, shape[axis], d.of(*INDEX_TYPES)))


@strategy_for(GatherElements)
def gather_elements(d: Draw) -> Case:
    shape = d.shape(1, size=80)
    axis = d.axis(len(shape))
    picked = (*shape[:axis], d.integer(1, 8), *shape[axis + 1 :])
    return d.case(GatherElements(axis), d.operand(shape), d.indices(picked, shape[axis], d.of(*INDEX_TYPES)))


@strategy_for(GatherNd)
def gather_nd(d: Draw) -> Case:
    shape = d.shape(1, size=60)
    count = d.integer(1, len(shape))
    lead = d.shape(0, MAX_RANK - (len(shape) - count), size=8)[: MAX_RANK - 1]
    dtype = d.of(*INDEX_TYPES)
    columns = [d.indices(lead, shape[k], dtype).array for k in range(count)]
    indices = Operand(TensorType(dtype, (*lead, count)), np.stack(columns, -1))
    return d.case(GatherNd(), d.operand(shape), indices)


def from_the_end(d: Draw, places: np.ndarray, extents: np.ndarray | int, dtype: DataType) -> np.ndarray:
    """Some of the places as negative numbers, where the type has them."""
    if dtype.is_signed:
        places = np.where(d.rng.integers(0, 2, places.shape) == 1, places - extents, places)
    return places.astype(dtype.numpy)


@strategy_for(ScatterElements)
def scatter_elements(d: Draw) -> Case:
    """Distinct places in each line."""
    shape = d.shape(1, size=80)
    axis = d.axis(len(shape))
    count, dtype = d.integer(1, shape[axis]), d.of(*INDEX_TYPES)
    places = np.argsort(d.rng.random(shape), axis).take(range(count), axis)
    indices = Operand(TensorType(dtype, places.shape), from_the_end(d, places, shape[axis], dtype))
    return d.case(ScatterElements(axis), d.operand(shape), indices, d.operand(places.shape))


@strategy_for(ScatterNd)
def scatter_nd(d: Draw) -> Case:
    """Distinct places; their shape has one or two axes."""
    shape = d.shape(1, size=80)
    count, dtype = d.integer(1, len(shape)), d.of(*INDEX_TYPES)
    space = math.prod(shape[:count])
    n = d.integer(1, min(8, space))
    lead = (n,) if n % 2 or d.flag() or len(shape) - count + 2 > MAX_RANK else (2, n // 2)
    flat = d.rng.permutation(space)[:n].reshape(lead)
    places = np.stack(np.unravel_index(flat, shape[:count]), -1)
    indices = Operand(
        TensorType(dtype, places.shape), from_the_end(d, places, np.array(shape[:count], np.int64), dtype)
    )
    return d.case(ScatterNd(), d.operand(shape), indices, d.operand((*lead, *shape[count:])))
