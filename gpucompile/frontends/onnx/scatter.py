"""Scattering by indices, with and without a reduction.

A reduction where no index occurs twice is a gather, the combination, and a scatter. Where indices may meet (they depend
on the data, or do), every result element looks for the updates that mean it:

    result[o, n, r] = data[o, n, r] (+) reduce over m of (updates[o, m, r] where indices[o, m] == n)
"""

from __future__ import annotations

import math

import numpy as np

from gpucompile.errors import ModelError
from gpucompile.frontends.onnx.call import Call, Operand, onnx_op, type_of
from gpucompile.frontends.onnx.gather import indices_of, positive
from gpucompile.frontends.onnx.movement import sliced
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType
from gpucompile.ops.elementwise import Add, Max, Min, Mul
from gpucompile.ops.gather import GatherElements, GatherNd, ScatterElements, ScatterNd
from gpucompile.ops.logical import Equal, Where
from gpucompile.ops.movement import Pad, Reshape, Transpose
from gpucompile.ops.reduction import Reduce, ReduceMax, ReduceMin, ReduceProduct, ReduceSum
from gpucompile.ops.update import UpdateSlice

#: How many pairs of result elements and updates a reduction may look at.
PAIRS_LIMIT = 1 << 28

_COMBINE: dict[str, tuple[Op, type[Reduce]]] = {
    "add": (Add(), ReduceSum),
    "mul": (Mul(), ReduceProduct),
    "max": (Max(), ReduceMax),
    "min": (Min(), ReduceMin),
}


def identity(kind: str, dtype: DataType) -> np.ndarray:
    """What changes nothing in a reduction."""
    if kind in ("add", "mul"):
        return np.array(kind == "mul", dtype.numpy)
    if dtype.is_float:
        return np.array(-math.inf if kind == "max" else math.inf, dtype.numpy)
    info = np.iinfo(dtype.value)
    return np.array(info.min if kind == "max" else info.max, dtype.numpy)


def _reduction(call: Call) -> str:
    kind = call.attr("reduction", "none")
    if kind not in ("none", *_COMBINE):
        raise ModelError(f"unknown reduction {kind!r}")
    return str(kind)


@onnx_op("ScatterElements", "Scatter")
def scatter_elements(call: Call) -> Operand:
    """Indices may be fewer than the input along other axes too: then only that corner of it is written."""
    t, kind = call.type(), _reduction(call)
    axis = call.axis(call.attr("axis", 0), t.rank)
    indices, updates = indices_of(call, [t.shape[axis]]), call.operand(2)
    shape = type_of(indices).shape
    if len(shape) != t.rank or any(a != axis and n > d for a, (n, d) in enumerate(zip(shape, t.shape, strict=True))):
        raise ModelError(f"indices of shape {list(shape)} do not suit {t}")
    if not math.prod(shape):
        return call.operand(0)
    corner = tuple(d if a == axis else n for a, (n, d) in enumerate(zip(shape, t.shape, strict=True)))
    x = sliced(call, call.operand(0), [slice(0, n) for n in corner])
    if kind == "none":
        out = call.add(ScatterElements(axis), x, indices, updates)
    elif isinstance(indices, np.ndarray) and _distinct(indices % t.shape[axis], axis):
        op, _ = _COMBINE[kind]
        present = call.add(GatherElements(axis), x, indices)
        out = call.add(ScatterElements(axis), x, indices, call.add(op, present, updates))
    else:
        out = _scatter_along(call, kind, x, indices, updates, axis)
    if corner == t.shape:
        return out
    ends = tuple(d - n for d, n in zip(t.shape, corner, strict=True))
    begins = (0,) * t.rank
    call.limit(*t.shape)
    inside = np.pad(np.ones(corner, np.uint8), list(zip(begins, ends, strict=True)))
    return call.add(Where(), inside, call.add(Pad(begins, ends), out), call.operand(0))


def _distinct(indices: np.ndarray, axis: int) -> bool:
    """Whether no index occurs twice in a line along the axis."""
    ordered = np.sort(indices, axis)
    return not (np.diff(ordered, axis=axis) == 0).any()


def _scatter_along(call: Call, kind: str, x: Operand, indices: Operand, updates: Operand, axis: int) -> Operand:
    t = type_of(x)
    order = (*(a for a in range(t.rank) if a != axis), axis)
    back = tuple(order.index(a) for a in range(t.rank))
    parts = []
    for v in (x, indices, updates):
        moved = call.add(Transpose(order), v)
        parts.append(call.add(Reshape(_rows(type_of(moved).shape)), moved))
    x, indices, updates = parts
    out = _look_up(call, kind, x, positive(call, indices, t.shape[axis]), updates)
    return call.add(Transpose(back), call.add(Reshape(tuple(t.shape[a] for a in order)), out))


def _rows(shape: tuple[int, ...]) -> tuple[int, int]:
    return math.prod(shape[:-1]), shape[-1]


def _look_up(call: Call, kind: str, data: Operand, indices: Operand, updates: Operand) -> Operand:
    """The formula above for data [o, n] or [o, n, r], indices [o, m] and updates [o, m] or [o, m, r]."""
    t = type_of(data)
    o, n, *r = t.shape
    m = type_of(indices).shape[1]
    if o * n * m * math.prod(r) > PAIRS_LIMIT:
        call.unsupported(f"a reduction that compares {n} elements with {m} updates, {o * math.prod(r)} times")
    op, reduce = _COMBINE[kind]
    ones = (1,) * len(r)
    positions = np.arange(n).astype(type_of(indices).dtype.numpy).reshape(n, 1, *ones)
    meant = call.add(Equal(), call.add(Reshape((o, 1, m, *ones)), indices), positions)
    wide = call.add(Reshape((o, 1, m, *r)), updates)
    chosen = call.add(Where(), meant, wide, identity(kind, t.dtype))
    return call.add(op, data, call.add(reduce((2,)), chosen))


@onnx_op("ScatterND")
def scatter_nd(call: Call) -> Operand:
    t, kind = call.type(), _reduction(call)
    depth = call.type(1).shape[-1]
    extents = t.shape[:depth]
    x, indices, updates = call.operand(0), indices_of(call, list(extents)), call.operand(2)
    if not type_of(updates).size:
        return x
    if kind == "none":
        return call.add(ScatterNd(), x, indices, updates)
    op, _ = _COMBINE[kind]
    if isinstance(indices, np.ndarray):
        flat = (indices % np.asarray(extents)).reshape(-1, depth)
        if len(np.unique(flat, axis=0)) == len(flat):
            return call.add(ScatterNd(), x, indices, call.add(op, call.add(GatherNd(), x, indices), updates))
    count, rest = type_of(indices).size // depth, math.prod(t.shape[depth:])
    flat_index = _linear(call, indices, extents)
    data = call.add(Reshape((1, math.prod(extents), rest)), x)
    out = _look_up(call, kind, data, flat_index, call.add(Reshape((1, count, rest)), updates))
    return call.add(Reshape(t.shape), out)


def _linear(call: Call, indices: Operand, extents: tuple[int, ...]) -> Operand:
    """Tuples of indices as positions in row-major order, of shape [1, tuples]."""
    t = type_of(indices)
    depth = len(extents)
    indices = call.add(Reshape((t.size // depth, depth)), indices)
    total: Operand | None = None
    for k, extent in enumerate(extents):
        column = positive(call, sliced(call, indices, [slice(None), slice(k, k + 1)]), extent)
        stride = np.array(math.prod(extents[k + 1 :]), t.dtype.numpy)
        term = call.add(Mul(), column, stride)
        total = term if total is None else call.add(Add(), total, term)
    if total is None:
        raise ModelError("indices without components")
    return call.add(Reshape((1, t.size // depth)), total)


@onnx_op("TensorScatter")
def tensor_scatter(call: Call) -> Operand:
    """A cache with an update written at one place of each batch entry along `axis`, around its end if circular."""
    axis = call.axis(call.attr("axis", -2), call.type().rank)
    if axis == 0:
        raise ModelError("axis 0 is the batch's")
    start = call.operand(2) if call.has(2) else np.zeros((), np.int64)
    mode = call.attr("mode", "linear")
    if mode not in ("linear", "circular"):
        raise ModelError(f"unknown mode {mode!r}")
    return call.add(UpdateSlice(axis, mode == "circular"), call.operand(0), start, call.operand(1))
