"""Gather and scatter, the index of extremes, running sums, Resize. Constant indices become int32."""

from __future__ import annotations

import numpy as np

from gpucompile.errors import ModelError
from gpucompile.frontends.onnx.call import Call, Operand, onnx_op, type_of
from gpucompile.frontends.onnx.movement import sliced
from gpucompile.ir.graph import Value
from gpucompile.ir.types import DataType
from gpucompile.ops.gather import Gather, GatherElements, GatherNd, ScatterElements, ScatterNd
from gpucompile.ops.movement import Reshape
from gpucompile.ops.resample import Resample2d
from gpucompile.ops.scan import ArgMax, ArgMin, CumulativeSum


def _indices(call: Call, extents: list[int]) -> Operand:
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
    indices, x = _indices(call, [extent]), call.operand(0)
    if isinstance(indices, Value):
        return call.add(Gather(axis), x, indices)
    if not isinstance(x, Value):
        return np.take(x, indices, axis)
    flat = [int(i) % extent for i in indices.reshape(-1)]
    if not flat:
        call.unsupported("gather of nothing")
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
    indices = _indices(call, [t.shape[axis]])
    shape = type_of(indices).shape
    if len(shape) != t.rank or any(a != axis and n > d for a, (n, d) in enumerate(zip(shape, t.shape, strict=True))):
        raise ModelError(f"indices of shape {list(shape)} do not suit {t}")
    windows = [slice(0, d if a == axis else n) for a, (n, d) in enumerate(zip(shape, t.shape, strict=True))]
    x = x[tuple(windows)] if isinstance(x, np.ndarray) else sliced(call, x, windows)
    return call.add(GatherElements(axis), x, indices)


@onnx_op("GatherND")
def gather_nd(call: Call) -> Operand:
    if call.attr("batch_dims", 0):
        call.unsupported(f"batch_dims {call.attr('batch_dims')}")
    return call.add(GatherNd(), call.operand(0), _indices(call, _tuple_extents(call)))


def _tuple_extents(call: Call) -> list[int]:
    return list(call.type().shape[: call.type(1).shape[-1]])


def _no_reduction(call: Call) -> None:
    if call.attr("reduction", "none") != "none":
        call.unsupported(f"reduction {call.attr('reduction')!r}")


@onnx_op("ScatterElements", "Scatter")
def scatter_elements(call: Call) -> Operand:
    _no_reduction(call)
    t = call.type()
    axis = call.axis(call.attr("axis", 0), t.rank)
    indices = _indices(call, [t.shape[axis]])
    shape = type_of(indices).shape
    if any(a != axis and n != d for a, (n, d) in enumerate(zip(shape, t.shape, strict=True))):
        call.unsupported(f"indices of shape {list(shape)} that do not cover {t} along the other axes")
    return call.add(ScatterElements(axis), call.operand(0), indices, call.operand(2))


@onnx_op("ScatterND")
def scatter_nd(call: Call) -> Operand:
    _no_reduction(call)
    return call.add(ScatterNd(), call.operand(0), _indices(call, _tuple_extents(call)), call.operand(2))


# along an axis -----------------------------------------------------------------------------------------------------


@onnx_op("ArgMax", "ArgMin")
def arg_min_max(call: Call) -> Operand:
    if call.attr("select_last_index", 0):
        call.unsupported("select_last_index")
    op = ArgMax if call.node.op_type == "ArgMax" else ArgMin
    axis = call.axis(call.attr("axis", 0), call.type().rank)
    return call.add(op(axis, bool(call.attr("keepdims", 1)), DataType.INT64), call.operand(0))


@onnx_op("CumSum")
def cum_sum(call: Call) -> Operand:
    axis = call.axis((call.ints(1, "axis") or [0])[0], call.type().rank)
    op = CumulativeSum(axis, bool(call.attr("exclusive", 0)), bool(call.attr("reverse", 0)))
    return call.add(op, call.operand(0))


# Resize ------------------------------------------------------------------------------------------------------------


@onnx_op("Resize", "Upsample")
def resize(call: Call) -> Operand:
    """What is half-pixel sampling at exact ratios, or means the same: nearest with whole factors from the left."""
    t = call.type()
    old = call.node.op_type == "Upsample" or call.version < 11
    mode = call.attr("mode", "nearest")
    if mode not in ("nearest", "linear", "bilinear"):
        call.unsupported(f"mode {mode!r}")
    if call.attr("antialias", 0) or call.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        call.unsupported("antialias or a policy other than stretch")
    where = "asymmetric" if old else call.attr("coordinate_transformation_mode", "half_pixel")
    nearest = "floor" if old else call.attr("nearest_mode", "round_prefer_floor")
    axes = [call.axis(a, t.rank) for a in call.attr("axes") or range(t.rank)]
    sizes, scales = _sizes(call, old, axes)
    changed = [a for a in range(t.rank) if sizes[a] != t.shape[a]]
    if any(abs(sizes[a] - t.shape[a] * scales[a]) > 1e-4 for a in axes):
        call.unsupported(f"scales that lead from {list(t.shape)} to parts of elements")
    if not changed:
        return call.operand(0)
    whole = all(sizes[a] % t.shape[a] == 0 for a in changed)
    half = where in ("half_pixel", "half_pixel_symmetric") or (
        where == "pytorch_half_pixel" and min(sizes[a] for a in changed) > 1
    )
    if mode == "nearest":
        exact = half and (nearest == "round_prefer_floor" or (whole and nearest == "round_prefer_ceil"))
        exact = exact or (where == "asymmetric" and nearest == "floor" and whole)
    else:
        exact = half
    if not exact:
        call.unsupported(f"mode {mode}, {where}, {nearest} from {list(t.shape)} to {sizes}")
    if len(changed) > 2 or t.rank > 4:
        call.unsupported(f"resizing {len(changed)} axes of a rank {t.rank} tensor")
    lead = 4 - t.rank
    both = [a + lead for a in changed]
    both += [a for a in (3, 2) if a not in both][: 2 - len(both)]
    both.sort()
    full = [1] * lead + list(sizes)
    op = Resample2d(
        "nearest-neighbor" if mode == "nearest" else "linear", None, tuple(full[a] for a in both), tuple(both)
    )
    x = call.operand(0)
    if not lead:
        return call.add(op, x)
    return call.add(Reshape(tuple(sizes)), call.add(op, call.add(Reshape((*[1] * lead, *t.shape)), x)))


def _sizes(call: Call, old: bool, axes: list[int]) -> tuple[list[int], list[float]]:
    """The sizes of all axes of the result, and the scales that lead there."""
    shape = call.type().shape
    sizes, scales = list(shape), [1.0] * len(shape)
    if call.version < 9:
        given = call.attr("scales")
    else:
        at = 1 if old else 2
        given = [float(s) for s in call.array(at, "scales").reshape(-1)] if call.has(at) else None
    wanted = None if old else call.ints(3, "sizes")
    if wanted:
        if len(wanted) != len(axes):
            raise ModelError(f"{len(wanted)} sizes for {len(axes)} axes")
        for a, size in zip(axes, wanted, strict=True):
            sizes[a], scales[a] = size, size / shape[a]
    else:
        if given is None or len(given) != len(axes):
            raise ModelError(f"scales {given} do not suit {len(axes)} axes")
        for a, scale in zip(axes, given, strict=True):
            sizes[a], scales[a] = int(np.floor(shape[a] * np.float32(scale) + 1e-6)), scale
    return sizes, scales
