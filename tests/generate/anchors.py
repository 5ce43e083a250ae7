"""Strategies of contractions, windows and normalisations."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from gpucompile.ir.op import MAX_RANK
from gpucompile.ir.types import TensorType
from gpucompile.ops import conv, normalize, pool
from gpucompile.ops.contraction import Gemm, Matmul
from gpucompile.ops.resample import Resample2d
from tests.generate.draw import Case, Draw, Shape
from tests.generate.registry import strategy_for

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
