"""Sampling at positions that are data: GridSample, DeformConv, RoiAlign.

A sample is a weighted sum of the input's elements around a position: 2 or 4 taps an axis. A tap is gathered from the
input with its spatial axes as one; what lies outside counts as zero, or its position is moved inside first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpucompile.errors import ModelError
from gpucompile.frontends.onnx.call import Call, Operand, onnx_op, scalar, type_of
from gpucompile.frontends.onnx.conv import window_of
from gpucompile.frontends.onnx.movement import sliced
from gpucompile.ir.types import DataType
from gpucompile.ops.activation import Clamp, Linear
from gpucompile.ops.contraction import Matmul
from gpucompile.ops.elementwise import Abs, Add, Div, Floor, Mul, RoundEven, Sub
from gpucompile.ops.gather import GatherElements
from gpucompile.ops.logical import Cast, GreaterOrEqual, LesserOrEqual, LogicalAnd, Where
from gpucompile.ops.movement import Concat, Expand, Reshape

I32 = DataType.INT32


@dataclass
class Math:
    """Arithmetic on operands, to keep formulas readable."""

    call: Call

    def add(self, a: Operand, b: Operand) -> Operand:
        return self.call.add(Add(), a, b)

    def sub(self, a: Operand, b: Operand) -> Operand:
        return self.call.add(Sub(), a, b)

    def mul(self, a: Operand, b: Operand) -> Operand:
        return self.call.add(Mul(), a, b)

    def div(self, a: Operand, b: Operand) -> Operand:
        return self.call.add(Div(), a, b)

    def linear(self, a: Operand, alpha: float, beta: float = 0.0) -> Operand:
        return self.call.add(Linear(alpha, beta), a)

    def floor(self, a: Operand) -> Operand:
        return self.call.add(Floor(), a)

    def clamp(self, a: Operand, low: float, high: float) -> Operand:
        return self.call.add(Clamp(low, high), a)

    def within(self, a: Operand, low: float, high: float) -> Operand:
        dtype = type_of(a).dtype
        above = self.call.add(GreaterOrEqual(), a, scalar(low, dtype))
        return self.call.add(LogicalAnd(), above, self.call.add(LesserOrEqual(), a, scalar(high, dtype)))

    def where(self, condition: Operand, a: Operand, b: Operand) -> Operand:
        return self.call.add(Where(), condition, a, b)


def picked(call: Call, x: Operand, places: Sequence[Operand], extents: Sequence[int], zeros: bool) -> Operand:
    """x [n, c, size] at positions [n, 1, p] (whole numbers, one an axis): [n, c, p]; outside 0, or what is nearest."""
    m = Math(call)
    n, c, _ = type_of(x).shape
    flat: Operand | None = None
    inside: Operand | None = None
    for at, extent in zip(places, extents, strict=True):
        if zeros:
            here = m.within(at, 0, extent - 1)
            inside = here if inside is None else call.add(LogicalAnd(), inside, here)
        index = call.add(Cast(I32), m.clamp(at, 0, extent - 1))
        flat = index if flat is None else m.add(m.mul(flat, scalar(extent, I32)), index)
    assert flat is not None
    wide = call.add(Expand((n, c, type_of(flat).shape[-1])), flat)
    out = call.add(GatherElements(2), x, wide)
    return out if inside is None else m.where(inside, out, scalar(0, type_of(out).dtype))


@onnx_op("GridSample")
def grid_sample(call: Call) -> Operand:
    t, g = call.type(), call.type(1)
    rank = t.rank - 2
    if g.rank != t.rank or g.shape[-1] != rank or g.shape[0] != t.shape[0]:
        raise ModelError(f"a grid {g} does not suit {t}")
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(call.attr("mode", "linear"), call.attr("mode", "linear"))
    padding, aligned = call.attr("padding_mode", "zeros"), bool(call.attr("align_corners", 0))
    if mode not in ("linear", "nearest", "cubic") or padding not in ("zeros", "border", "reflection"):
        raise ModelError(f"unknown mode {mode!r} or padding_mode {padding!r}")
    m = Math(call)
    n, c, *extents = t.shape
    count = math.prod(g.shape[1:-1])
    x = call.add(Reshape((n, c, math.prod(extents))), call.operand(0))
    grid = call.add(Reshape((n, count, rank)), call.operand(1))
    places = []
    for i, extent in enumerate(extents):  # the grid's coordinates are in reverse order of the axes
        k = rank - 1 - i
        at = call.add(Reshape((n, 1, count)), sliced(call, grid, [slice(None), slice(None), slice(k, k + 1)]))
        at = m.linear(at, (extent - 1) / 2, (extent - 1) / 2) if aligned else m.linear(at, extent / 2, (extent - 1) / 2)
        places.append(at)

    def inner(at: Operand, extent: int) -> Operand:
        """A position moved inside, as the padding mode says."""
        if padding == "border":
            return m.clamp(at, 0, extent - 1)
        if padding == "reflection":
            return _reflected(m, at, extent, aligned)
        return at

    if mode == "nearest":
        rounded = [inner(call.add(RoundEven(), at), e) for at, e in zip(places, extents, strict=True)]
        out = picked(call, x, rounded, extents, padding == "zeros")
        return call.add(Reshape((n, c, *g.shape[1:-1])), out)
    if mode == "linear":
        places = [inner(at, e) for at, e in zip(places, extents, strict=True)]
    if mode == "linear":
        out = _summed(call, x, [_linear_taps(m, at) for at in places], extents, padding == "zeros")
    else:
        taps = []
        for at, extent in zip(places, extents, strict=True):
            base = m.floor(at)
            part = m.sub(at, base)
            taps.append([(inner(m.linear(base, 1.0, float(k)), extent), _keys(m, part, k)) for k in (-1, 0, 1, 2)])
        out = _summed(call, x, taps, extents, padding == "zeros")
    return call.add(Reshape((n, c, *g.shape[1:-1])), out)


Taps = list[tuple[Operand, Operand]]  # positions along an axis, and their weights


def _linear_taps(m: Math, at: Operand) -> Taps:
    """The two whole positions around each position."""
    base = m.floor(at)
    part = m.sub(at, base)
    return [(base, m.linear(part, -1.0, 1.0)), (m.linear(base, 1.0, 1.0), part)]


def _summed(call: Call, x: Operand, taps: Sequence[Taps], extents: Sequence[int], zeros: bool) -> Operand:
    """The weighted sum over all combinations of the axes' taps."""
    m = Math(call)
    total: Operand | None = None
    for combination in itertools.product(*taps):
        value = picked(call, x, [at for at, _ in combination], extents, zeros)
        for _, weight in combination:
            value = m.mul(value, weight)
        total = value if total is None else m.add(total, value)
    assert total is not None
    return total


def _reflected(m: Math, at: Operand, extent: int, aligned: bool) -> Operand:
    """A position folded back at the ends: at the outer elements' centers if `aligned`, else at their edges."""
    low, high = (0.0, extent - 1.0) if aligned else (-0.5, extent - 0.5)
    span = high - low
    if span == 0:
        return m.mul(at, scalar(0, type_of(at).dtype))
    from_low = m.call.add(Abs(), m.linear(at, 1.0, -low))
    turns = m.floor(m.linear(from_low, 1 / span))
    rest = m.sub(from_low, m.linear(turns, span))
    odd = m.sub(turns, m.linear(m.floor(m.linear(turns, 0.5)), 2.0))  # 1 where it comes back
    there, back = m.linear(rest, 1.0, low), m.linear(rest, -1.0, high)
    out = m.where(m.within(odd, 0.5, 1.5), back, there)
    return m.clamp(out, 0, extent - 1)


def _keys(m: Math, part: Operand, k: int) -> Operand:
    """The cubic weight (a = -0.75) of the tap `k` elements from the one below, `part` of the way to the next."""
    a = -0.75
    d = m.linear(part, 1.0, float(-k)) if k <= 0 else m.linear(part, -1.0, float(k))
    if k in (0, 1):
        return m.linear(m.mul(m.mul(m.linear(d, a + 2, -(a + 3)), d), d), 1.0, 1.0)
    return m.linear(m.mul(m.linear(m.mul(m.linear(d, a, -5 * a), d), 1.0, 8 * a), d), 1.0, -4 * a)


@onnx_op("DeformConv")
def deform_conv(call: Call) -> Operand:
    """A convolution whose taps are moved by offsets: each tap is sampled linearly for every result position, then all
    taps and channels meet in one matrix product a group."""
    t, f = call.type(), call.type(1)
    if t.rank != 4:
        call.unsupported(f"its input 0 is {t}; only 2 spatial axes are supported")
    w = window_of(call, f.shape[2:])
    groups, parts = call.attr("group", 1), call.attr("offset_group", 1)
    (n, c, h, wide), (o, per_group, kh, kw) = t.shape, f.shape
    _, _, oh, ow = call.type(2).shape
    if call.type(2).shape[1] != parts * kh * kw * 2 or c % parts or c // groups != per_group:
        raise ModelError(f"offsets {call.type(2)} or filter {f} do not suit {t}")
    m = Math(call)
    x = call.add(Reshape((n * parts, c // parts, h * wide)), call.operand(0))
    offsets = call.add(Reshape((n * parts, kh * kw, 2, oh * ow)), call.operand(2))
    masks = call.add(Reshape((n * parts, kh * kw, oh * ow)), call.operand(4)) if call.has(4) else None
    taps = []
    for k, (i, j) in enumerate(itertools.product(range(kh), range(kw))):
        places = []
        for axis, tap in enumerate((i, j)):
            base = tap * w.dilations[axis] - w.begins[axis] + w.strides[axis] * np.arange((oh, ow)[axis])
            grid = np.broadcast_to(base[:, None] if axis == 0 else base, (oh, ow)).reshape(1, 1, oh * ow)
            moved = sliced(call, offsets, [slice(None), slice(k, k + 1), slice(axis, axis + 1), slice(None)])
            moved = call.add(Reshape((n * parts, 1, oh * ow)), moved)
            places.append(m.add(moved, grid.astype(t.dtype.numpy)))
        value = _summed(call, x, [_linear_taps(m, at) for at in places], (h, wide), True)
        if masks is not None:
            value = m.mul(value, sliced(call, masks, [slice(None), slice(k, k + 1), slice(None)]))
        taps.append(call.add(Reshape((n, c, 1, oh * ow)), value))
    columns = call.add(Concat(2), *taps) if len(taps) > 1 else taps[0]
    columns = call.add(Reshape((n, groups, per_group * kh * kw, oh * ow)), columns)
    rows = call.add(Reshape((groups, o // groups, per_group * kh * kw)), call.operand(1))
    out = call.add(Reshape((n, o, oh, ow)), call.add(Matmul(), rows, columns))
    return m.add(out, call.add(Reshape((o, 1, 1)), call.operand(3))) if call.has(3) else out


@onnx_op("RoiAlign")
def roi_align(call: Call) -> Operand:
    """Averages of linear samples in the bins of regions. Regions are constant: they become matrices of weights."""
    t = call.type()
    height, width = call.attr("output_height", 1), call.attr("output_width", 1)
    ratio, scale = call.attr("sampling_ratio", 0), call.attr("spatial_scale", 1.0)
    half = call.version >= 16 and call.attr("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    if call.attr("mode", "avg") != "avg":
        call.unsupported("mode max, the largest of weighted elements")
    rois, batch = call.array(1, "regions"), call.array(2, "batch indices")
    n, c, h, w = t.shape
    x = call.add(Reshape((1, n * c, h * w)), call.operand(0))
    results = []
    for roi, b in zip(rois, batch, strict=True):
        x1, y1, x2, y2 = (float(v) * scale - (0.5 if half else 0.0) for v in roi)
        sizes = (y2 - y1, x2 - x1) if half else (max(y2 - y1, 1.0), max(x2 - x1, 1.0))
        matrix = []
        for start, size, bins, extent in ((y1, sizes[0], height, h), (x1, sizes[1], width, w)):
            count = ratio or math.ceil(size / bins)
            call.limit(bins, count, extent)
            at = start + size / bins * (np.arange(bins)[:, None] + (np.arange(count) + 0.5) / count)
            matrix.append(_sampling(at.reshape(-1), extent).reshape(bins, count, extent))
        mine = sliced(call, call.add(Reshape((n, c, h * w)), x), [slice(int(b), int(b) + 1), slice(None), slice(None)])
        results.append(_binned(call, call.add(Reshape((c, h, w)), mine), matrix[0], matrix[1]))
    return call.add(Concat(0), *results) if len(results) > 1 else results[0]


def _sampling(at: np.ndarray, extent: int) -> np.ndarray:
    """[samples, extent]: linear weights; samples more than 1 outside are 0."""
    out = np.zeros((len(at), extent))
    for i, x in enumerate(at):
        if -1.0 <= x <= extent:
            x = min(max(x, 0.0), extent - 1.0)
            low = int(x)
            out[i, low] += 1 - (x - low)
            out[i, min(low + 1, extent - 1)] += x - low
    return out


def _binned(call: Call, x: Operand, rows: np.ndarray, columns: np.ndarray) -> Operand:
    """x [c, h, w] -> [1, c, bins, bins]."""
    c = type_of(x).shape[0]
    dtype = type_of(x).dtype.numpy
    a, b = rows.mean(1).astype(dtype), columns.mean(1).astype(dtype)
    out = call.add(Matmul(), call.add(Matmul(), a, x), np.ascontiguousarray(b.T))
    return call.add(Reshape((1, c, len(rows), len(columns))), out)
