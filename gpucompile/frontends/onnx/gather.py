"""Gathering by indices, one-hot, the index of extremes, running sums. Constant indices become int32."""

from __future__ import annotations

import numpy as np

from gpucompile.errors import ModelError
from gpucompile.frontends.onnx.call import Call, Operand, empty, onnx_op, scalar, type_of
from gpucompile.frontends.onnx.movement import sliced, unsqueezed
from gpucompile.ir.graph import Value
from gpucompile.ir.types import DataType
from gpucompile.ops.elementwise import Add, Mul, Sub
from gpucompile.ops.gather import Gather, GatherElements, GatherNd
from gpucompile.ops.logical import Cast, Equal, Lesser, Where
from gpucompile.ops.movement import Concat, Reshape, Reverse, Slice
from gpucompile.ops.scan import ArgMax, ArgMin, CumulativeSum


def indices_of(call: Call, extents: list[int]) -> Operand:
    """Input 1; if constant, checked against the extents (of the last axis' positions, or of all) and as int32."""
    operand = call.operand(1)
    if isinstance(operand, Value):
        return operand
    limit = np.asarray(extents)
    if operand.size and ((operand < -limit) | (operand >= limit)).any():
        raise ModelError(f"indices leave the extents {extents}")
    return operand.astype(np.int32) if max(extents, default=0) < 2**31 else operand


@onnx_op("Gather")
def gather(call: Call) -> Operand:
    """Constants of constants; one index or neighbouring ones are a slice."""
    t = call.type()
    axis = call.axis(call.attr("axis", 0), t.rank)
    extent = t.shape[axis]
    indices, x = indices_of(call, [extent]), call.operand(0)
    if isinstance(indices, Value):
        return call.add(Gather(axis), x, indices)
    if not isinstance(x, Value):
        return np.take(x, indices, axis)
    flat = [int(i) % extent for i in indices.reshape(-1)]
    if not flat:
        return empty(t.with_shape((*t.shape[:axis], *indices.shape, *t.shape[axis + 1 :])))
    if flat != list(range(flat[0], flat[0] + len(flat))):
        return call.add(Gather(axis), x, indices)
    windows = [slice(None)] * t.rank
    windows[axis] = slice(flat[0], flat[-1] + 1)
    return call.add(Reshape((*t.shape[:axis], *indices.shape, *t.shape[axis + 1 :])), sliced(call, x, windows))


@onnx_op("GatherElements")
def gather_elements(call: Call) -> Operand:
    """ONNX lets the indices be smaller than the input along the other axes: those parts are not read."""
    t, x = call.type(), call.operand(0)
    axis = call.axis(call.attr("axis", 0), t.rank)
    indices = indices_of(call, [t.shape[axis]])
    shape = type_of(indices).shape
    if len(shape) != t.rank or any(a != axis and n > d for a, (n, d) in enumerate(zip(shape, t.shape, strict=True))):
        raise ModelError(f"indices of shape {list(shape)} do not suit {t}")
    windows = [slice(0, d if a == axis else n) for a, (n, d) in enumerate(zip(shape, t.shape, strict=True))]
    x = x[tuple(windows)] if isinstance(x, np.ndarray) else sliced(call, x, windows)
    return call.add(GatherElements(axis), x, indices)


@onnx_op("GatherND")
def gather_nd(call: Call) -> Operand:
    """Batch dimensions are further indices that count up."""
    batch = call.attr("batch_dims", 0)
    x, t = call.operand(0), call.type()
    lengths = call.type(1).shape
    if not lengths or lengths[:batch] != t.shape[:batch] or batch >= len(lengths):
        raise ModelError(f"indices of shape {list(lengths)} with {batch} batch dimensions do not suit {t}")
    indices = indices_of(call, list(t.shape[batch : batch + lengths[-1]]))
    if batch:
        indices = with_positions(call, indices, tuple(range(batch)))
    return call.add(GatherNd(), x, indices)


def with_positions(call: Call, indices: Operand, axes: tuple[int, ...]) -> Operand:
    """Tuples of indices with the position along `axes` of the tuple itself put in front."""
    t = type_of(indices)
    front = np.stack([np.indices(t.shape[:-1])[a] for a in axes], -1).astype(t.dtype.numpy)
    return call.add(Concat(t.rank - 1), front, indices)


def positive(call: Call, indices: Operand, extent: int) -> Operand:
    """Indices with those that count from the end counted from the start."""
    dtype = type_of(indices).dtype
    if not dtype.is_signed:
        return indices
    negative = call.add(Lesser(), indices, scalar(0, dtype))
    return call.add(Where(), negative, call.add(Add(), indices, scalar(extent, dtype)), indices)


def one_hot(call: Call, indices: Operand, depth: int, axis: int, off: Operand, on: Operand) -> Operand:
    """`on` where the position along a new axis is the index, else `off`."""
    call.limit(depth)
    t = type_of(indices)
    wide = unsqueezed(call, indices, axis) if t.rank < axis + 1 or t.shape[axis : axis + 1] != (1,) else indices
    positions = np.arange(depth).astype(t.dtype.numpy).reshape(-1, *(1,) * (type_of(wide).rank - axis - 1))
    return call.add(Where(), call.add(Equal(), wide, positions), on, off)


@onnx_op("OneHot")
def one_hot_(call: Call) -> Operand:
    depth = int(call.array(1, "depth").reshape(-1)[0])
    rank = call.type().rank
    values = call.operand(2)
    off, on = (call.add(Reshape(()), call.add(Slice((i,), (1,)), values)) for i in (0, 1))
    indices = positive(call, call.operand(0), depth)
    axis = call.axis(call.attr("axis", -1), rank + 1)
    return one_hot(call, unsqueezed(call, indices, axis), depth, axis, off, on)


# along an axis -----------------------------------------------------------------------------------------------------


@onnx_op("ArgMax", "ArgMin")
def arg_min_max(call: Call) -> Operand:
    op = ArgMax if call.node.op_type == "ArgMax" else ArgMin
    x, t = call.operand(0), call.type()
    axis = call.axis(call.attr("axis", 0), t.rank)
    keep = bool(call.attr("keepdims", 1))
    if not call.attr("select_last_index", 0):
        return call.add(op(axis, keep, DataType.INT64), x)
    first = call.add(op(axis, keep), call.add(Reverse((axis,)), x))
    last = call.add(Sub(), scalar(t.shape[axis] - 1, DataType.INT32), first)
    return call.add(Cast(DataType.INT64), last)


@onnx_op("CumProd")
def cum_prod(call: Call) -> Operand:
    """Products of all elements up to each, doubling the reach log2(n) times."""
    x, t = call.operand(0), call.type()
    axis = call.axis((call.ints(1, "axis") or [0])[0], t.rank)
    back = (axis,) if call.attr("reverse", 0) else None
    x = call.add(Reverse(back), x) if back else x
    if call.attr("exclusive", 0):
        x = _shifted(call, x, axis, 1)
    reach = 1
    while reach < t.shape[axis]:
        x = call.add(Mul(), x, _shifted(call, x, axis, reach))
        reach *= 2
    return call.add(Reverse(back), x) if back else x


def _shifted(call: Call, x: Operand, axis: int, by: int) -> Operand:
    """The elements `by` places further along, ones before them."""
    t = type_of(x)
    call.limit(*t.shape)
    ones = np.ones((*t.shape[:axis], min(by, t.shape[axis]), *t.shape[axis + 1 :]), t.dtype.numpy)
    windows = [slice(None)] * t.rank
    windows[axis] = slice(0, max(0, t.shape[axis] - by))
    rest = sliced(call, x, windows)
    return call.add(Concat(axis), ones, rest) if type_of(rest).size else ones


@onnx_op("CumSum")
def cum_sum(call: Call) -> Operand:
    axis = call.axis((call.ints(1, "axis") or [0])[0], call.type().rank)
    op = CumulativeSum(axis, bool(call.attr("exclusive", 0)), bool(call.attr("reverse", 0)))
    return call.add(op, call.operand(0))
