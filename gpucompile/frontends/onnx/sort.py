"""TopK, and ops whose result sizes depend on data: those are computed at import, where the data are known."""

from __future__ import annotations

import numpy as np

from gpucompile.errors import ModelError
from gpucompile.frontends.onnx.call import Call, Operand, onnx_op, scalar, type_of
from gpucompile.frontends.onnx.movement import sliced
from gpucompile.frontends.onnx.tensors import data_type
from gpucompile.ir.graph import Value
from gpucompile.ir.types import DataType
from gpucompile.ops.elementwise import Add, Mul, Sub
from gpucompile.ops.gather import Gather
from gpucompile.ops.logical import Cast, Equal, Greater, Lesser, LogicalAnd, LogicalOr, Where
from gpucompile.ops.movement import Reshape, Transpose
from gpucompile.ops.reduction import ReduceSum

#: The longest axis that is sorted: the work grows with its square.
SORT_LIMIT = 1 << 13


@onnx_op("TopK")
def top_k(call: Call) -> tuple[Operand, ...]:
    """An element's rank is the number of those before it: larger ones, and equal ones with smaller indices.

    Result r is then the sum over i of x[i] where rank[i] is r, and likewise for the indices."""
    t = call.type()
    axis = call.axis(call.attr("axis", -1), t.rank)
    k = int(call.array(1, "k").reshape(-1)[0]) if call.version >= 10 else call.attr("k")
    n = t.shape[axis]
    if not 0 <= k <= n:
        raise ModelError(f"k is {k}, axis {axis} of {t} has {n} elements")
    if n > SORT_LIMIT:
        call.unsupported(f"sorting {n} elements; up to {SORT_LIMIT} are supported")
    order = (*(a for a in range(t.rank) if a != axis), axis)
    x = call.add(Transpose(order), call.operand(0))
    lead = type_of(x).shape[:-1]
    if k == 0:
        shape = tuple(0 if a == axis else d for a, d in enumerate(t.shape))
        return np.zeros(shape, t.dtype.numpy), np.zeros(shape, np.int64)
    row, column = call.add(Reshape((*lead, 1, n)), x), call.add(Reshape((*lead, n, 1)), x)
    first = Greater() if call.attr("largest", 1) else Lesser()
    ahead = np.tril(np.ones((n, n), np.uint8), -1)  # [i, j]: j < i
    tied = call.add(LogicalAnd(), call.add(Equal(), row, column), ahead)
    before = call.add(LogicalOr(), call.add(first, row, column), tied)
    i32 = DataType.INT32
    rank = call.add(ReduceSum((len(lead) + 1,)), call.add(Cast(i32), before))
    meant = call.add(Equal(), call.add(Reshape((*lead, 1, n)), rank), np.arange(k, dtype=np.int32).reshape(k, 1))
    wide = call.add(Cast(i32), row) if t.dtype.bits == 8 else row  # bytes are not summed
    zero = scalar(0, type_of(wide).dtype)
    values = call.add(ReduceSum((len(lead) + 1,)), call.add(Where(), meant, wide, zero))
    values = call.add(Cast(t.dtype), values) if t.dtype.bits == 8 else values
    positions = np.arange(n, dtype=np.int32)
    indices = call.add(ReduceSum((len(lead) + 1,)), call.add(Where(), meant, positions, scalar(0, i32)))
    back = tuple(order.index(a) for a in range(t.rank))
    return call.add(Transpose(back), values), call.add(Cast(DataType.INT64), call.add(Transpose(back), indices))


@onnx_op("NonZero")
def non_zero(call: Call) -> Operand:
    return np.array(np.nonzero(call.array(0, "result's size")), np.int64)


@onnx_op("Compress")
def compress(call: Call) -> Operand:
    """The condition chooses sizes, so it must be constant."""
    chosen = np.nonzero(call.array(1, "condition").reshape(-1))[0].astype(np.int32)
    x, t = call.operand(0), call.type()
    axis = call.attr("axis")
    if axis is None:
        x, axis = call.add(Reshape((t.size,)), x), 0
    axis = call.axis(axis, type_of(x).rank)
    shape = type_of(x).shape
    if chosen.size and chosen.max() >= shape[axis]:
        raise ModelError(f"the condition has more elements than axis {axis} of {type_of(x)}")
    if not chosen.size:
        return np.zeros((*shape[:axis], 0, *shape[axis + 1 :]), t.dtype.numpy)
    return call.add(Gather(axis), x, chosen)


@onnx_op("Unique")
def unique(call: Call) -> tuple[Operand, ...]:
    x = call.array(0, "result's size")
    axis = call.attr("axis")
    values, first, inverse, counts = np.unique(x, True, True, True, axis=axis)
    inverse = inverse.reshape(-1)
    if not call.attr("sorted", 1):
        order = np.argsort(first)
        values = np.take(values, order, 0 if axis is None else axis)
        first, counts = first[order], counts[order]
        inverse = np.argsort(order)[inverse]
    return values, *(a.astype(np.int64) for a in (first, inverse, counts))


@onnx_op("EyeLike")
def eye_like(call: Call) -> Operand:
    t = call.type()
    if t.rank != 2:
        raise ModelError(f"{t} is no matrix")
    dtype = t.dtype.numpy
    if "dtype" in call.attributes:
        dtype = data_type(call.attr("dtype"), "the result").numpy
    call.limit(*t.shape)
    return np.eye(t.shape[0], t.shape[1], call.attr("k", 0), dtype=dtype)


@onnx_op("Det")
def det(call: Call) -> Operand:
    """By elimination with pivots for constants; by cofactors, which need none, for matrices up to 4 x 4."""
    x, t = call.operand(0), call.type()
    if t.rank < 2 or t.shape[-1] != t.shape[-2]:
        raise ModelError(f"{t} is no square matrix")
    if not isinstance(x, Value):
        return np.asarray(np.linalg.det(x.astype(np.float64))).astype(x.dtype)
    if t.shape[-1] > 4:
        call.unsupported(f"determinants of {t.shape[-1]} x {t.shape[-1]} matrices; up to 4 x 4 are supported")
    return _cofactors(call, x, list(range(t.shape[-1])), 0)


def _cofactors(call: Call, x: Operand, columns: list[int], row: int) -> Operand:
    """The determinant of the rows from `row` on and these columns."""
    t = type_of(x)
    total: Operand | None = None
    for i, c in enumerate(columns):
        windows = [slice(None)] * (t.rank - 2) + [slice(row, row + 1), slice(c, c + 1)]
        term = call.add(Reshape(t.shape[:-2]), sliced(call, x, windows))
        if len(columns) > 1:
            term = call.add(Mul(), term, _cofactors(call, x, [d for d in columns if d != c], row + 1))
        total = term if total is None else call.add(Sub() if i % 2 else Add(), total, term)
    assert total is not None
    return total
