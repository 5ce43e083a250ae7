"""Poolings: windows over one, two or three spatial axes, and over all of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from gpucompile.errors import ModelError
from gpucompile.frontends.onnx.call import Call, Operand, onnx_op, scalar, type_of
from gpucompile.frontends.onnx.conv import Window, planar, restored, spatial_rank, window_of
from gpucompile.frontends.onnx.movement import sliced
from gpucompile.frontends.onnx.volume import pool3d
from gpucompile.ir.types import DataType
from gpucompile.ops.activation import Linear
from gpucompile.ops.elementwise import Abs, Add, Max, Pow
from gpucompile.ops.gather import ScatterElements
from gpucompile.ops.logical import Cast, Greater, Lesser, LogicalAnd, LogicalOr, Where
from gpucompile.ops.movement import Pad, Reshape
from gpucompile.ops.pool import AveragePool2d, L2Pool2d, MaxPool2d, Pool2d
from gpucompile.ops.reduction import ReduceL1, ReduceL2, ReduceMax, ReduceMean, ReduceSum

#: The most positions of a window for which indices of maxima are found tap by tap.
TAPS_LIMIT = 1024


@onnx_op("MaxPool")
def max_pool(call: Call) -> Operand | tuple[Operand, ...]:
    return _max_with_indices(call) if any(call.wanted[1:]) else _pool(call, MaxPool2d, call.operand(0))


@onnx_op("AveragePool")
def average_pool(call: Call) -> Operand:
    return _pool(call, AveragePool2d, call.operand(0))


@onnx_op("LpPool")
def lp_pool(call: Call) -> Operand:
    """(sum of |x|^p)^(1/p); the sum is the average with zeros around, times the size of the window."""
    p = call.attr("p", 2)
    if p == 2:
        return _pool(call, L2Pool2d, call.operand(0))
    powers = _power(call, call.add(Abs(), call.operand(0)), p)
    mean = _pool(call, AveragePool2d, powers, padding_counts=True)
    return _power(call, call.add(Linear(math.prod(_size(call))), mean), 1 / p)


@onnx_op("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(call: Call) -> Operand:
    kind, x, rank = call.node.op_type, call.operand(0), call.type().rank
    p = call.attr("p", 2)
    axes = tuple(range(2, rank))
    if kind == "GlobalLpPool" and p not in (1, 2):
        total = call.add(ReduceSum(axes, True), _power(call, call.add(Abs(), x), p))
        return _power(call, total, 1 / p)
    if rank == 4 and (kind != "GlobalLpPool" or p == 2):
        whole = {"GlobalAveragePool": AveragePool2d, "GlobalMaxPool": MaxPool2d, "GlobalLpPool": L2Pool2d}
        return call.add(whole[kind](), x)
    lp = ReduceL1 if p == 1 else ReduceL2
    reduce = {"GlobalAveragePool": ReduceMean, "GlobalMaxPool": ReduceMax, "GlobalLpPool": lp}[kind]
    return call.add(reduce(axes, True), x)


def _power(call: Call, x: Operand, p: float) -> Operand:
    return x if p == 1 else call.add(Pow(), x, scalar(p, type_of(x).dtype))


def _size(call: Call) -> list[int]:
    size = call.attr("kernel_shape")
    if not size:
        raise ModelError("the attribute kernel_shape is missing")
    return [int(v) for v in size]


def _pool(call: Call, kind: type[Pool2d], x: Operand, padding_counts: bool = False) -> Operand:
    rank = spatial_rank(call)
    w = window_of(call, _size(call))
    sizes = rounded_up(call, w)
    begins, ends = w.begins, w.ends
    counts = padding_counts or bool(call.attr("count_include_pad", 0))
    if kind is AveragePool2d and counts and any((*begins, *ends)):
        # padding counts in the divisor, what hangs over it in ceil mode does not: so make it part of the input
        x = call.add(Pad((0, 0, *begins), (0, 0, *ends)), x)
        begins = ends = (0,) * rank
    if rank == 3:
        return pool3d(call, kind, x, w.size, w.strides, w.dilations, (*begins, *ends), sizes)
    p = Window(w.extents, w.size, w.strides, w.dilations, begins, ends).planar
    chosen = None if sizes is None else (sizes[0], sizes[1]) if rank == 2 else (1, sizes[0])
    op = kind(
        (p.size[0], p.size[1]),
        p.padding,
        (p.strides[0], p.strides[1]),
        (p.dilations[0], p.dilations[1]),
        "nchw",
        chosen,
    )
    return restored(call, call.add(op, planar(call, x)))


def rounded_up(call: Call, w: Window) -> tuple[int, ...] | None:
    """Result sizes in ceil mode: rounded up, but without windows that start in the padding at the end; None where that
    changes nothing."""
    if not call.attr("ceil_mode", 0) or call.attr("auto_pad", "NOTSET") != "NOTSET":
        return None
    sizes, down = [], []
    for i in range(len(w.extents)):
        room = w.extents[i] + w.begins[i] + w.ends[i] - (w.size[i] - 1) * w.dilations[i] - 1
        up = -(-room // w.strides[i]) + 1
        sizes.append(up - 1 if (up - 1) * w.strides[i] >= w.extents[i] + w.begins[i] else up)
        down.append(room // w.strides[i] + 1)
    return None if sizes == down else tuple(sizes)


# Indices of maxima ---------------------------------------------------------------------------------------------------


def _max_with_indices(call: Call) -> tuple[Operand, Operand]:
    """One tap of the window after the other: keep the larger element and where it lies in the whole input."""
    x, t = call.operand(0), call.type()
    w = window_of(call, _size(call))
    if math.prod(w.size) > TAPS_LIMIT:
        call.unsupported(f"indices of maxima of a window {list(w.size)}")
    sizes = rounded_up(call, w) or tuple(
        (w.extents[i] + w.begins[i] + w.ends[i] - (w.size[i] - 1) * w.dilations[i] - 1) // w.strides[i] + 1
        for i in range(len(w.extents))
    )
    lowest = -math.inf if t.dtype.is_float else float(np.iinfo(t.dtype.value).min)
    reach = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(sizes, w.strides, w.size, w.dilations, strict=True)]
    over = [max(0, r - e - b) for r, e, b in zip(reach, w.extents, w.begins, strict=True)]
    padded = call.add(Pad((0, 0, *w.begins), (0, 0, *over), "constant", lowest), x) if any((*w.begins, *over)) else x
    order = range(len(sizes)) if not call.attr("storage_order", 0) else range(len(sizes))[::-1]
    best: Operand | None = None
    call.limit(*sizes, arrays=math.prod(w.size))
    where: Operand = np.full(sizes, -1, np.int32)
    for tap in itertools.product(*(range(k) for k in w.size)):
        starts = [k * d for k, d in zip(tap, w.dilations, strict=True)]
        windows = [slice(a, a + (n - 1) * s + 1, s) for a, n, s in zip(starts, sizes, w.strides, strict=True)]
        part = sliced(call, padded, [slice(None)] * 2 + windows)
        places = np.meshgrid(
            *(a + np.arange(n) * s - b for a, n, s, b in zip(starts, sizes, w.strides, w.begins, strict=True)),
            indexing="ij",
        )
        inside = np.all([(at >= 0) & (at < e) for at, e in zip(places, w.extents, strict=True)], axis=0)
        here = np.where(inside, _position(places, w.extents, order), 0).astype(np.int32)
        # the first element inside the input is taken whatever it is
        better = scalar(1, DataType.UINT8) if best is None else call.add(Greater(), part, best)
        better = call.add(LogicalAnd(), inside.astype(np.uint8), better)
        better = call.add(LogicalOr(), better, call.add(LogicalAnd(), inside.astype(np.uint8), _unset(call, where)))
        where = call.add(Where(), better, here, where)
        best = part if best is None else call.add(Max(), best, part)
    assert best is not None
    first = np.arange(t.shape[0] * t.shape[1]).reshape(t.shape[0], t.shape[1], *(1,) * len(sizes)) * math.prod(
        w.extents
    )
    full = call.add(Add(), where, first.astype(np.int32))
    return best, call.add(Cast(DataType.INT64), full)


def _unset(call: Call, where: Operand) -> Operand:
    return call.add(Lesser(), where, scalar(0, DataType.INT32))


def _position(places: Sequence[np.ndarray], extents: Sequence[int], order: Sequence[int]) -> np.ndarray:
    """Coordinates as positions in a tensor whose axes lie in memory in this order, the last one contiguous."""
    total = np.zeros_like(places[0])
    for i in order:
        total = total * extents[i] + places[i]
    return total


@onnx_op("MaxUnpool")
def max_unpool(call: Call) -> Operand:
    """Elements back where MaxPool found them, zeros elsewhere."""
    t = call.type()
    rank = t.rank - 2
    size = _size(call)
    strides, pads = call.attr("strides", [1] * rank), call.attr("pads", [0] * 2 * rank)
    natural = [(d - 1) * s + k - b - e for d, s, k, b, e in zip(t.shape[2:], strides, size, pads, pads[rank:])]
    shape = (*t.shape[:2], *natural)
    if call.has(2):
        shape = tuple(call.ints(2, "output_shape") or ())
    spread = (*t.shape[:2], *natural)
    count = math.prod(spread)
    zeros = np.zeros(count, t.dtype.numpy)
    indices, x = (call.add(Reshape((t.size,)), call.operand(i)) for i in (1, 0))
    out = call.add(Reshape(spread), call.add(ScatterElements(0), zeros, indices, x))
    ends = tuple(a - b for a, b in zip(shape, spread, strict=True))
    return call.add(Pad((0,) * t.rank, ends), out) if any(ends) else out


@onnx_op("Col2Im")
def col2im(call: Call) -> Operand:
    """Columns of blocks added up where the blocks lie: one padded copy for each position within a block."""
    image, block = call.ints(1, "image_shape") or [], call.ints(2, "block_shape") or []
    rank = len(image)
    strides, dilations = call.attr("strides", [1] * rank), call.attr("dilations", [1] * rank)
    pads = call.attr("pads", [0] * 2 * rank)
    n, columns, _ = call.type().shape
    channels = columns // math.prod(block)
    padded = [image[i] + pads[i] + pads[rank + i] for i in range(rank)]
    counts = [(padded[i] - (block[i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in range(rank)]
    x = call.add(Reshape((n, channels, *block, *counts)), call.operand(0))
    total: Operand | None = None
    for tap in itertools.product(*(range(k) for k in block)):
        windows = [slice(None)] * 2 + [slice(k, k + 1) for k in tap] + [slice(None)] * rank
        part = call.add(Reshape((n, channels, *counts)), sliced(call, x, windows))
        part = _spread(call, part, strides)
        begins = [k * d for k, d in zip(tap, dilations, strict=True)]
        ends = [p - b - e for p, b, e in zip(padded, begins, type_of(part).shape[2:], strict=True)]
        part = call.add(Pad((0, 0, *begins), (0, 0, *ends)), part)
        total = part if total is None else call.add(Add(), total, part)
    assert total is not None
    return sliced(call, total, [slice(None)] * 2 + [slice(pads[i], pads[i] + image[i]) for i in range(rank)])


def _spread(call: Call, x: Operand, strides: list[int]) -> Operand:
    """x with zeros between its elements, so that they lie `strides` apart."""
    for i, s in enumerate(strides):
        if s > 1:
            shape = type_of(x).shape
            a = i + 2
            wide = call.add(Reshape((*shape[: a + 1], 1, *shape[a + 1 :])), x)
            ends = [0] * (len(shape) + 1)
            ends[a + 1] = s - 1
            wide = call.add(Pad((0,) * (len(shape) + 1), tuple(ends)), wide)
            x = call.add(Reshape((*shape[:a], shape[a] * s, *shape[a + 1 :])), wide)
            windows = [slice(None)] * len(shape)
            windows[a] = slice(0, (shape[a] - 1) * s + 1)
            x = sliced(call, x, windows)
    return x
