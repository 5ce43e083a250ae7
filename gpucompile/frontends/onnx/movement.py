"""Ops that rearrange: Reshape, Transpose, Concat, Slice, Split, Pad, Squeeze, Unsqueeze, Flatten, Expand, Tile, ..."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gpucompile.errors import ModelError
from gpucompile.frontends.onnx.call import Call, Operand, empty, onnx_op, type_of
from gpucompile.ops.gather import Gather
from gpucompile.ops.movement import Concat, Expand, Pad, Reshape, Reverse, Slice, Transpose, Triangular
from gpucompile.ops.movement import Tile as TileOp


@onnx_op("Reshape")
def reshape(call: Call) -> Operand:
    t = call.type()
    wanted = call.ints(1, "shape") or []
    shape = list(wanted)
    if not call.attr("allowzero", 0):
        if any(d == 0 and i >= t.rank for i, d in enumerate(shape)):
            raise ModelError(f"shape {wanted} copies a dimension that {t} does not have")
        shape = [t.shape[i] if d == 0 else d for i, d in enumerate(shape)]
    if shape.count(-1) > 1:
        raise ModelError(f"shape {wanted} has more than one -1")
    if -1 in shape:
        rest = -math.prod(shape)
        if not rest or t.size % rest:
            raise ModelError(f"{t} cannot become {wanted}")
        shape[shape.index(-1)] = t.size // rest
    return call.add(Reshape(tuple(shape)), call.operand(0))


@onnx_op("Flatten")
def flatten(call: Call) -> Operand:
    t = call.type()
    axis = call.attr("axis", 1)
    axis = axis + t.rank if axis < 0 else axis
    return call.add(Reshape((math.prod(t.shape[:axis]), math.prod(t.shape[axis:]))), call.operand(0))


def _axes(call: Call, rank: int, since: int = 13) -> list[int] | None:
    """Axes from an attribute, or from input 1 since an opset version."""
    axes = call.ints(1, "axes") if call.version >= since else call.attr("axes")
    return None if axes is None else sorted(call.axis(a, rank) for a in axes)


@onnx_op("Squeeze")
def squeeze(call: Call) -> Operand:
    t = call.type()
    axes = _axes(call, t.rank)
    if axes is None:
        axes = [i for i, d in enumerate(t.shape) if d == 1]
    if any(t.shape[a] != 1 for a in axes):
        raise ModelError(f"cannot squeeze axes {axes} of {t}")
    return call.add(Reshape(tuple(d for i, d in enumerate(t.shape) if i not in axes)), call.operand(0))


@onnx_op("Unsqueeze")
def unsqueeze(call: Call) -> Operand:
    t = call.type()
    given = (call.ints(1, "axes") if call.version >= 13 else call.attr("axes")) or []
    rank = t.rank + len(given)
    axes = [call.axis(a, rank) for a in given]
    if len(set(axes)) != len(axes):
        raise ModelError(f"axes {given} are not distinct")
    rest = iter(t.shape)
    return call.add(Reshape(tuple(1 if i in axes else next(rest) for i in range(rank))), call.operand(0))


@onnx_op("Transpose")
def transpose(call: Call) -> Operand:
    rank = call.type().rank
    return call.add(Transpose(tuple(call.attr("perm", range(rank)[::-1]))), call.operand(0))


@onnx_op("Concat")
def concat(call: Call) -> Operand:
    operands = call.operands()
    axis = call.axis(call.attr("axis", 1), call.type().rank)
    full = [v for v in operands if type_of(v).shape[axis]] or operands[:1]  # others add nothing
    return call.add(Concat(axis), *full) if len(full) > 1 else full[0]


@onnx_op("Slice")
def slice_(call: Call) -> Operand:
    t = call.type()
    if call.version < 10:
        starts, ends, axes, steps = (call.attr(n) for n in ("starts", "ends", "axes", "steps"))
    else:
        starts, ends, axes, steps = (call.ints(i + 1, n) for i, n in enumerate(("starts", "ends", "axes", "steps")))
    if starts is None or ends is None or len(starts) != len(ends):
        raise ModelError("starts and ends are missing or of different lengths")
    axes = list(range(len(starts))) if axes is None else [call.axis(a, t.rank) for a in axes]
    windows = [slice(None)] * t.rank
    for axis, start, end, step in zip(axes, starts, ends, steps or [1] * len(starts), strict=True):
        if step == 0:
            raise ModelError(f"axis {axis}: step 0")
        windows[axis] = slice(start, end, step)
    return sliced(call, call.operand(0), windows)


def sliced(call: Call, x: Operand, windows: Sequence[slice]) -> Operand:
    """x[windows], as numpy has it."""
    if isinstance(x, np.ndarray):
        return x[tuple(windows)]
    shape = type_of(x).shape
    ranges = [range(d)[w] for d, w in zip(shape, windows, strict=True)]
    sizes = tuple(len(r) for r in ranges)
    if 0 in sizes:
        return np.zeros(sizes, type_of(x).dtype.numpy)
    backward = tuple(i for i, r in enumerate(ranges) if r.step < 0 and len(r) > 1)
    ranges = [r[::-1] if i in backward else r for i, r in enumerate(ranges)]
    steps = tuple(r.step if len(r) > 1 else 1 for r in ranges)
    spans = tuple((n - 1) * s + 1 for n, s in zip(sizes, steps, strict=True))
    if spans != shape:
        x = call.add(Slice(tuple(r.start for r in ranges), spans, steps if max(steps) > 1 else None), x)
    elif sizes != shape:
        x = call.add(Slice((0,) * len(shape), spans, steps), x)
    return call.add(Reverse(backward), x) if backward else x


def unsqueezed(call: Call, x: Operand, axis: int) -> Operand:
    """x with an axis of extent 1 inserted."""
    shape = type_of(x).shape
    return call.add(Reshape((*shape[:axis], 1, *shape[axis:])), x)


@onnx_op("Split")
def split(call: Call) -> tuple[Operand, ...]:
    t = call.type()
    axis = call.axis(call.attr("axis", 0), t.rank)
    sizes = call.ints(1, "split") if call.version >= 13 else call.attr("split")
    if not sizes:
        count = call.attr("num_outputs", len(call.node.output))
        chunk = -(-t.shape[axis] // count)
        sizes = [min(chunk, t.shape[axis] - i * chunk) for i in range(count)]
    if sum(sizes) != t.shape[axis] or len(sizes) != len(call.node.output):
        raise ModelError(f"cannot split axis {axis} of {t} into {sizes} for {len(call.node.output)} outputs")
    results, start = [], 0
    for size in sizes:
        windows = [slice(None)] * t.rank
        windows[axis] = slice(start, start + size)
        results.append(sliced(call, call.operand(0), windows))
        start += size
    return tuple(results)


@onnx_op("Pad")
def pad(call: Call) -> Operand:
    t = call.type()
    if call.version < 11:
        pads, value = list(call.attr("pads", [])), float(call.attr("value", 0.0))
    else:
        pads = call.ints(1, "pads") or []
        value = call.array(2, "constant_value").reshape(-1)[0].item() if call.has(2) else 0.0
    axes = [call.axis(a, t.rank) for a in call.ints(3, "axes") or []] or list(range(t.rank))
    if len(pads) != 2 * len(axes):
        raise ModelError(f"pads {pads} do not suit {len(axes)} axes")
    names = {"constant": "constant", "edge": "edge", "reflect": "reflection", "wrap": "wrap"}
    mode = names.get(call.attr("mode", "constant"))
    if mode is None:
        raise ModelError(f"unknown mode {call.attr('mode')!r}")
    begins, ends = [0] * t.rank, [0] * t.rank
    for i, axis in enumerate(axes):
        begins[axis], ends[axis] = pads[i], pads[len(axes) + i]
    x = call.operand(0)
    if min((*begins, *ends), default=0) < 0:  # negative padding cuts off
        pairs = zip(begins, ends, t.shape, strict=True)
        x = sliced(call, x, [slice(max(0, -b), d + min(0, e)) for b, e, d in pairs])
    if max((*begins, *ends), default=0) <= 0:
        return x
    begins, ends = [max(0, b) for b in begins], [max(0, e) for e in ends]
    extents = type_of(x).shape
    if mode == "wrap" or (mode == "reflection" and any(max(p) >= d for p, d in zip(zip(begins, ends), extents))):
        return _repeated(call, x, begins, ends, mode == "wrap")
    return call.add(Pad(tuple(begins), tuple(ends), mode, value), x)


def _repeated(call: Call, x: Operand, begins: list[int], ends: list[int], wrap: bool) -> Operand:
    """x going round, or back and forth, as often as the padding is wide."""
    for axis, extent in enumerate(type_of(x).shape):
        if begins[axis] or ends[axis]:
            call.limit(begins[axis] + extent + ends[axis])
            at = np.arange(-begins[axis], extent + ends[axis])
            if wrap:
                at %= extent
            else:
                at = np.abs((at + extent - 1) % max(1, 2 * extent - 2) - extent + 1)
            x = call.add(Gather(axis), x, at.astype(np.int32))
    return x


@onnx_op("Expand")
def expand(call: Call) -> Operand:
    t = call.type()
    wanted = tuple(call.ints(1, "shape") or ())
    rank = max(t.rank, len(wanted))
    pairs = zip((1,) * (rank - t.rank) + t.shape, (1,) * (rank - len(wanted)) + wanted, strict=True)
    shape = tuple(w if d == 1 else d for d, w in pairs)
    if any(w not in (1, d) for d, w in zip(shape[rank - len(wanted) :], wanted, strict=True)):
        raise ModelError(f"{t} cannot expand to {list(wanted)}")
    return call.operand(0) if shape == t.shape else call.add(Expand(shape), call.operand(0))


@onnx_op("Tile")
def tile(call: Call) -> Operand:
    t = call.type()
    repeats = call.ints(1, "repeats") or []
    if len(repeats) != t.rank:
        raise ModelError(f"{len(repeats)} repeats for {t}")
    if 0 in repeats:
        return empty(t.with_shape(tuple(r * d for r, d in zip(repeats, t.shape, strict=True))))
    return call.add(TileOp(tuple(repeats)), call.operand(0))


@onnx_op("Trilu")
def trilu(call: Call) -> Operand:
    diagonal = call.ints(1, "k")
    return call.add(Triangular(bool(call.attr("upper", 1)), diagonal[0] if diagonal else 0), call.operand(0))


@onnx_op("DepthToSpace")
def depth_to_space(call: Call) -> Operand:
    n, c, h, w = call.type().shape
    b = call.attr("blocksize")
    deep = c // (b * b)
    if call.attr("mode", "DCR") == "DCR":
        shape, order = (n, b, b, deep, h, w), (0, 3, 4, 1, 5, 2)
    else:
        shape, order = (n, deep, b, b, h, w), (0, 1, 4, 2, 5, 3)
    x = call.add(Transpose(order), call.add(Reshape(shape), call.operand(0)))
    return call.add(Reshape((n, deep, h * b, w * b)), x)


@onnx_op("SpaceToDepth")
def space_to_depth(call: Call) -> Operand:
    n, c, h, w = call.type().shape
    b = call.attr("blocksize")
    order = (0, 3, 5, 1, 2, 4) if call.attr("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    x = call.add(Reshape((n, c, h // b, b, w // b, b)), call.operand(0))
    return call.add(Reshape((n, c * b * b, h // b, w // b)), call.add(Transpose(order), x))
