"""Resize and Upsample.

What is half-pixel sampling at exact ratios, or means the same, is resample2d. Everything else goes axis by axis:
nearest is a gather with constant indices; linear, cubic and antialiased are products with a constant matrix whose rows
are the weights of one result position.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gpucompile.errors import ModelError
from gpucompile.frontends.onnx.call import Call, Operand, onnx_op, type_of
from gpucompile.ir.types import DataType
from gpucompile.ops.contraction import Matmul
from gpucompile.ops.gather import Gather
from gpucompile.ops.logical import Cast, Where
from gpucompile.ops.movement import Reshape, Transpose
from gpucompile.ops.resample import Resample2d


@onnx_op("Resize", "Upsample")
def resize(call: Call) -> Operand:
    t = call.type()
    old = call.node.op_type == "Upsample" or call.version < 11
    mode = call.attr("mode", "nearest")
    mode = "linear" if mode == "bilinear" else mode
    if mode not in ("nearest", "linear", "cubic"):
        raise ModelError(f"unknown mode {mode!r}")
    where = "asymmetric" if old else call.attr("coordinate_transformation_mode", "half_pixel")
    nearest = "floor" if old else call.attr("nearest_mode", "round_prefer_floor")
    axes = [call.axis(a, t.rank) for a in call.attr("axes") or range(t.rank)]
    sizes, scales = _sizes(call, old, axes)
    if 0 in sizes:
        return np.zeros(sizes, t.dtype.numpy)
    crop = where == "tf_crop_and_resize"
    call.limit(*(sizes if crop else [max(sizes)]))
    antialias = bool(call.attr("antialias", 0))
    changed = [a for a in range(t.rank) if sizes[a] != t.shape[a] or (crop and a in axes) or scales[a] != 1.0]
    if not changed:
        return call.operand(0)
    exact = all(abs(sizes[a] - t.shape[a] * scales[a]) <= 1e-4 for a in axes)
    if exact and mode != "cubic" and not antialias and len(changed) <= 2 and t.rank <= 4 and t.dtype.is_float:
        whole = all(sizes[a] % t.shape[a] == 0 for a in changed)
        half = where in ("half_pixel", "half_pixel_symmetric")
        half = half or (where == "pytorch_half_pixel" and min(sizes[a] for a in changed) > 1)
        plain = half and (
            mode == "linear" or nearest == "round_prefer_floor" or (whole and nearest == "round_prefer_ceil")
        )
        if plain or (mode == "nearest" and where == "asymmetric" and nearest == "floor" and whole):
            return _resampled(call, mode, sizes, changed)
    roi = [float(v) for v in call.array(1, "roi").reshape(-1)] if crop else []
    if crop and len(roi) != 2 * len(axes):
        raise ModelError(f"a region of {len(roi)} numbers for {len(axes)} axes")
    x = call.operand(0)
    outside = np.zeros(sizes if crop else (), np.bool_)
    for a in changed:
        region = (roi[axes.index(a)], roi[len(axes) + axes.index(a)]) if crop else (0.0, 1.0)
        at = _coordinates(where, t.shape[a], sizes[a], scales[a], region)
        if crop:
            beyond = (at < 0) | (at > t.shape[a] - 1)
            outside |= beyond.reshape([-1 if i == a else 1 for i in range(t.rank)])
        if mode == "nearest":
            index = np.clip(_ROUND[nearest](at), 0, t.shape[a] - 1).astype(np.int32)
            x = call.add(Gather(a), x, index)
        else:
            cubic = call.attr("cubic_coeff_a", -0.75) if mode == "cubic" else None
            narrow = min(1.0, scales[a]) if antialias else 1.0
            call.limit(sizes[a], t.shape[a])
            matrix = _weights(at, t.shape[a], cubic, narrow, bool(call.attr("exclude_outside", 0)))
            x = _along(call, x, a, matrix)
    if outside.any():
        value = np.array(call.attr("extrapolation_value", 0.0), t.dtype.numpy)
        x = call.add(Where(), outside.astype(np.uint8), value, x)
    return x


_ROUND: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _coordinates(where: str, extent: int, size: int, scale: float, region: tuple[float, float]) -> np.ndarray:
    """The position in the input of each result position along an axis."""
    x = np.arange(size, dtype=np.float64)
    if where == "half_pixel":
        return (x + 0.5) / scale - 0.5
    if where == "half_pixel_symmetric":
        length = scale * extent  # before it was rounded to a size
        return extent / 2 * (1 - size / length) + (x + 0.5) / scale - 0.5
    if where == "pytorch_half_pixel":
        return (x + 0.5) / scale - 0.5 if size > 1 else np.zeros(1)
    if where == "align_corners":
        return x * (extent - 1) / (scale * extent - 1) if size > 1 else np.zeros(1)
    if where == "asymmetric":
        return x / scale
    if where == "tf_half_pixel_for_nn":
        return (x + 0.5) / scale
    if where == "tf_crop_and_resize":
        start, end = region
        if size == 1:
            return np.array([0.5 * (start + end) * (extent - 1)])
        return start * (extent - 1) + x * (end - start) * (extent - 1) / (size - 1)
    raise ModelError(f"unknown coordinate_transformation_mode {where!r}")


def _weights(at: np.ndarray, extent: int, cubic: float | None, narrow: float, exclude: bool) -> np.ndarray:
    """[result, input]: how much of each input position a result position takes. `narrow` below 1 widens the filter."""
    reach = (1 if cubic is None else 2) / narrow
    matrix = np.zeros((len(at), extent))
    for i, x in enumerate(at):
        taps = np.arange(math.floor(x - reach) + 1, math.ceil(x + reach))
        if narrow == 1.0:
            taps = np.arange(math.floor(x) + (0 if cubic is None else -1), math.floor(x) + (2 if cubic is None else 3))
        d = np.abs(x - taps) * narrow
        w = np.maximum(0.0, 1 - d) if cubic is None else _cubic(d, cubic)
        if exclude:
            w = np.where((taps < 0) | (taps >= extent), 0.0, w)
        if exclude or narrow != 1.0:
            w = w / w.sum()
        np.add.at(matrix[i], np.clip(taps, 0, extent - 1), w)
    return matrix


def _cubic(d: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    inner = ((a + 2) * d - (a + 3)) * d * d + 1
    outer = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, inner, np.where(d < 2, outer, 0.0))


def _along(call: Call, x: Operand, axis: int, matrix: np.ndarray) -> Operand:
    """The product of a matrix [result, input] with an axis; integers are rounded."""
    t = type_of(x)
    order = (*(a for a in range(t.rank) if a != axis), axis)
    back = tuple(order.index(a) for a in range(t.rank))
    float_type = t.dtype if t.dtype.is_float else DataType.FLOAT32
    rows = call.add(Transpose(order), x if t.dtype.is_float else call.add(Cast(float_type), x))
    shape = type_of(rows).shape
    rows = call.add(Reshape((math.prod(shape[:-1]), shape[-1])), rows)
    out = call.add(Matmul(), rows, np.ascontiguousarray(matrix.T).astype(float_type.numpy))
    if not t.dtype.is_float:
        out = call.add(Cast(t.dtype), out)
    return call.add(Transpose(back), call.add(Reshape((*shape[:-1], len(matrix))), out))


def _resampled(call: Call, mode: str, sizes: list[int], changed: list[int]) -> Operand:
    """By resample2d: rank 4, two axes."""
    t = call.type()
    lead = 4 - t.rank
    both = [a + lead for a in changed]
    both += [a for a in (3, 2) if a not in both][: 2 - len(both)]
    both.sort()
    full = [1] * lead + list(sizes)
    kind = "nearest-neighbor" if mode == "nearest" else "linear"
    op = Resample2d(kind, None, tuple(full[a] for a in both), tuple(both))
    if not lead:
        return call.add(op, call.operand(0))
    x = call.add(op, call.add(Reshape((*[1] * lead, *t.shape)), call.operand(0)))
    return call.add(Reshape(tuple(sizes)), x)


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
        policy = call.attr("keep_aspect_ratio_policy", "stretch")
        ratios = [size / shape[a] for a, size in zip(axes, wanted, strict=True)]
        if policy != "stretch":
            ratio = min(ratios) if policy == "not_larger" else max(ratios)
            ratios = [ratio] * len(axes)
            wanted = [math.floor(ratio * shape[a] + 0.5) for a in axes]
        for a, size, ratio in zip(axes, wanted, ratios, strict=True):
            sizes[a], scales[a] = size, ratio
    else:
        if given is None or len(given) != len(axes):
            raise ModelError(f"scales {given} do not suit {len(axes)} axes")
        for a, scale in zip(axes, given, strict=True):
            sizes[a], scales[a] = int(np.floor(shape[a] * np.float32(scale) + 1e-6)), scale
    return sizes, scales
