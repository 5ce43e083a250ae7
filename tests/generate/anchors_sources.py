"""Other sources of contractions, windows, normalisations, gathers and scatters, quantisation and recurrent networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from gpucompile.ir.literals import limits
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType
from tests.generate.reference import Array, each, evaluate, source

# Contractions, windows, normalisation ---------------------------------------------------------------------------------


@source("gemm")
def gemm(op: Any, a: Array, b: Array, c: Array | None = None) -> Array:
    flags = {"transA": int(op.a_transpose), "transB": int(op.b_transpose)}
    return evaluate("Gemm", a, b, c, alpha=op.alpha, beta=op.beta, **flags)


def axes_of(x: Array, layout: str, to: str) -> Array:
    return np.transpose(x, [layout.index(letter) for letter in to])


@source("conv2d")
def conv2d(op: Any, x: Array, f: Array, bias: Array | None = None) -> Array:
    x, f = axes_of(x, op.input_layout, "nchw"), axes_of(f, op.filter_layout, "oihw")
    y = evaluate("Conv", x, f, bias, group=op.groups, **window_attributes(op))
    return axes_of(y, "nchw", op.input_layout)


@source("conv_transpose2d")
def conv_transpose2d(op: Any, x: Array, f: Array, bias: Array | None = None) -> Array:
    """Group by group, image by image: onnx.reference cuts the filter wrongly where there are several."""
    x, f = axes_of(x, op.input_layout, "nchw"), axes_of(f, op.filter_layout, "iohw")
    extra = list(op.output_padding)
    if op.output_sizes is not None:
        for i in (0, 1):
            full = (x.shape[2 + i] - 1) * op.strides[i] + (f.shape[2 + i] - 1) * op.dilations[i] + 1
            extra[i] = op.output_sizes[i] - full + sum(op.padding[2 * i : 2 * i + 2])
    images = []
    for image in x:
        parts = zip(np.split(image[None], op.groups, 1), np.split(f, op.groups))
        options = {"output_padding": extra, **window_attributes(op)}
        images.append(np.concatenate([evaluate("ConvTranspose", *part, **options) for part in parts], 1))
    y = np.concatenate(images)
    return axes_of(y if bias is None else y + bias.reshape(-1, 1, 1), "nchw", op.input_layout)


def window_attributes(op: Any) -> dict[str, Any]:
    """Strides, dilations and padding as ONNX orders it."""
    top, bottom, left, right = op.padding
    return {"strides": op.strides, "dilations": op.dilations, "pads": [top, left, bottom, right]}


@source("average_pool2d", "l2_pool2d", "max_pool2d")
def pool(op: Any, x: Array) -> Array:
    """In loops: ONNX drops rounded up windows that begin in the padding, and pools no 64-bit integers."""
    x = axes_of(x, op.layout, "nchw")
    window = op.window_dimensions or x.shape[2:]
    sizes = []
    for i in (0, 1):
        room = x.shape[2 + i] + sum(op.padding[2 * i : 2 * i + 2]) - (window[i] - 1) * op.dilations[i] - 1
        sizes.append(op.output_sizes[i] if op.output_sizes else room // op.strides[i] + 1)
    out = np.zeros((*x.shape[:2], *sizes), x.dtype)
    for y, z in itertools.product(*map(range, sizes)):
        rows, columns = (
            [p for k in range(window[i]) if 0 <= (p := at * op.strides[i] + k * op.dilations[i] - pad) < x.shape[2 + i]]
            for i, at, pad in ((0, y, op.padding[0]), (1, z, op.padding[2]))
        )
        patch = x[:, :, rows][:, :, :, columns]
        if op.name == "max_pool2d":
            out[:, :, y, z] = patch.max(axis=(2, 3))
        elif op.name == "average_pool2d":
            out[:, :, y, z] = patch.mean(axis=(2, 3))
        else:
            out[:, :, y, z] = np.sqrt((patch**2).sum(axis=(2, 3)))
    return axes_of(out, "nchw", op.layout)


@source("resample2d")
def resample2d(op: Any, x: Array) -> Array:
    """In fractions: ONNX's Resize in half_pixel mode, whose evaluator works on single elements."""
    integer, y = x.dtype.kind != "f", x.astype(np.float64)
    for i, axis in enumerate(op.axes):
        extent = x.shape[axis]
        size = op.sizes[i] if op.sizes else math.floor(extent * (op.scales[i] if op.scales else 1))
        parts = []
        for k in range(size):
            at = min(max((k + Fraction(1, 2)) * extent / size - Fraction(1, 2), Fraction(0)), Fraction(extent - 1))
            low = math.floor(at)
            if op.mode == "nearest-neighbor":  # of two equally near ones, the first
                parts.append(y.take(low if at - low <= Fraction(1, 2) else low + 1, axis))
            else:
                rest = float(at - low)
                parts.append(y.take(low, axis) * (1 - rest) + y.take(min(low + 1, extent - 1), axis) * rest)
        y = np.stack(parts, axis)
    return np.rint(y) if integer else y


@source("batch_normalization")
def batch_normalization(
    op: Any, x: Array, mean: Array, variance: Array, scale: Array | None = None, bias: Array | None = None
) -> Array:
    x = np.moveaxis(x, op.axis, 0)[None]
    scale = np.ones_like(mean) if scale is None else scale
    bias = np.zeros_like(mean) if bias is None else bias
    y = evaluate("BatchNormalization", x, scale, bias, mean, variance, epsilon=op.epsilon)
    return np.moveaxis(y[0], 0, op.axis)


@source("instance_normalization")
def instance_normalization(op: Any, x: Array, scale: Array | None = None, bias: Array | None = None) -> Array:
    x = axes_of(x, op.layout, "nchw")
    scale = np.ones(x.shape[1]) if scale is None else scale
    bias = np.zeros(x.shape[1]) if bias is None else bias
    return axes_of(evaluate("InstanceNormalization", x, scale, bias, epsilon=op.epsilon), "nchw", op.layout)


@source("layer_normalization")
def layer_normalization(op: Any, x: Array, scale: Array | None = None, bias: Array | None = None) -> Array:
    """The axes moved to the end, as ONNX has them. No axes: each element is its own mean, and ONNX has no such case."""
    axes = tuple(range(1, x.ndim)) if op.axes is None else op.axes
    if not axes:
        return np.zeros_like(x) + (0 if bias is None else bias)
    order = [i for i in range(x.ndim) if i not in axes] + list(axes)
    moved = x.transpose(order)
    part = moved.shape[x.ndim - len(axes) :]
    scale = np.ones(part) if scale is None else scale
    y = evaluate("LayerNormalization", moved, scale, bias, axis=x.ndim - len(axes), epsilon=op.epsilon)
    return y.transpose(np.argsort(order))


@source("lrn")
def local_response_normalization(op: Any, x: Array) -> Array:
    """In loops: onnx.reference takes images for channels in its sum of squares."""
    rows = np.moveaxis(x, op.axis, 0)
    before, after = math.floor((op.size - 1) / 2), math.ceil((op.size - 1) / 2)
    out = np.zeros_like(rows)
    for c in range(len(rows)):
        window = [rows[i] ** 2 for i in range(len(rows)) if c - before <= i <= c + after]
        out[c] = rows[c] / (op.bias + op.alpha / op.size * sum(window)) ** op.beta
    return np.moveaxis(out, 0, op.axis)


# Indices -------------------------------------------------------------------------------------------------------------


def safe(indices: Array, extent: int) -> Array:
    """WebNN: negative ones count from the end, what is outside becomes the nearest; ONNX has an error for that."""
    return each(lambda i: min(max(i + extent if i < 0 else i, 0), extent - 1), indices).astype(np.int64)


def safe_tuples(indices: Array, shape: Sequence[int]) -> Array:
    return np.stack([safe(indices[..., k], shape[k]) for k in range(indices.shape[-1])], -1)


@source("gather")
def gather(op: Any, x: Array, indices: Array) -> Array:
    return evaluate("Gather", x, safe(indices, x.shape[op.axis]), axis=op.axis)


@source("gather_elements")
def gather_elements(op: Any, x: Array, indices: Array) -> Array:
    return evaluate("GatherElements", x, safe(indices, x.shape[op.axis]), axis=op.axis)


@source("gather_nd")
def gather_nd(op: Any, x: Array, indices: Array) -> Array:
    return evaluate("GatherND", x, safe_tuples(indices, x.shape))


@source("scatter_elements")
def scatter_elements(op: Any, x: Array, indices: Array, updates: Array) -> Array:
    return evaluate("ScatterElements", x, safe(indices, x.shape[op.axis]), updates, axis=op.axis)


@source("scatter_nd")
def scatter_nd(op: Any, x: Array, indices: Array, updates: Array) -> Array:
    return evaluate("ScatterND", x, safe_tuples(indices, x.shape), updates)


@source("update_slice")
def update_slice(op: Any, x: Array, start: Array, updates: Array) -> Array:
    """TensorScatter, for what stands before the axis as its batch; it has an error for starts outside."""
    lead, count, extent = x.shape[: op.axis], updates.shape[op.axis], x.shape[op.axis]
    first = safe(start, extent if op.circular else extent - count + 1)
    first = np.broadcast_to(first.reshape(first.shape + (1,) * (len(lead) - first.ndim)), lead).reshape(-1)
    flat = [a.reshape(math.prod(lead), a.shape[op.axis], -1) for a in (x, updates)]
    mode = "circular" if op.circular else "linear"
    return evaluate("TensorScatter", *flat, first, opset=24, axis=1, mode=mode).reshape(x.shape)


# Quantisation --------------------------------------------------------------------------------------------------------


def of_block(array: Array, shape: Sequence[int]) -> Array:
    """The element of a scale or zero point that serves each element of an input, as Python numbers."""
    out = np.empty(shape, object)
    for index in np.ndindex(*shape):
        out[index] = array[tuple(i * b // d for i, b, d in zip(index, array.shape, shape))].item()
    return out


@source("quantize_linear")
def quantize_linear(op: Any, x: Array, scale: Array, zero_point: Array) -> Array:
    """In fractions, which ONNX's blocks of one axis are too few for."""
    low, high = limits(op.output_data_type or DataType.of(zero_point.dtype))

    def one(v: float, s: float, z: int) -> int:
        return min(max(round(Fraction(v) / Fraction(s)) + z, low), high)  # Python rounds ties to even

    return each(one, x, of_block(scale, x.shape), of_block(zero_point, x.shape))


@source("dequantize_linear")
def dequantize_linear(op: Op, x: Array, scale: Array, zero_point: Array) -> Array:
    factors, zeros = of_block(scale, x.shape), of_block(zero_point, x.shape)
    return each(lambda v, s, z: float((v - z) * Fraction(s)), x, factors, zeros)


# Recurrent networks --------------------------------------------------------------------------------------------------

ACTIVATIONS = {
    "relu": lambda v: max(v, 0.0),
    "sigmoid": lambda v: 1 / (1 + math.exp(-v)),
    "tanh": math.tanh,
}


def step(op: Any, x: Array, state: list[Array], weights: dict[str, Array | None]) -> list[Array]:
    """One step of gru or lstm, number by number: onnx.reference knows neither other activations nor two directions."""
    functions = [ACTIVATIONS[a] for a in op.activations]
    size, h = op.hidden_size, state[0]
    new = [np.zeros_like(s) for s in state]

    def half(b: int, j: int, letter: str, values: Array, kind: str) -> float:
        """A row of W x + b or of R h + c."""
        row = op.layout.index(letter) * size + j
        prefix = "" if kind == "x" else "recurrent_"
        matrix, bias = weights[prefix + "weight"], weights[prefix + "bias"]
        assert matrix is not None
        return sum(v * w for v, w in zip(values[b], matrix[row])) + (0.0 if bias is None else bias[row])

    for b, j in itertools.product(range(len(x)), range(size)):
        if len(state) == 1:
            z, r = (functions[0](half(b, j, g, x, "x") + half(b, j, g, h, "h")) for g in "zr")
            if op.reset_after:
                other = r * half(b, j, "n", h, "h")
            else:
                resets = [functions[0](half(b, k, "r", x, "x") + half(b, k, "r", h, "h")) for k in range(size)]
                other = half(b, j, "n", h * np.array(resets), "h")
            n = functions[1](half(b, j, "n", x, "x") + other)
            new[0][b, j] = z * h[b, j] + (1 - z) * n
            continue
        peephole, cell = weights["peephole_weight"], state[1][b, j]
        sums = {g: half(b, j, g, x, "x") + half(b, j, g, h, "h") for g in "iofg"}
        if peephole is not None:
            sums |= {g: sums[g] + cell * peephole["iof".index(g) * size + j] for g in "iof"}
        i, o, f = (functions[0](sums[g]) for g in "iof")
        new[1][b, j] = f * cell + i * functions[1](sums["g"])
        new[0][b, j] = o * functions[2](new[1][b, j])
    return new


def by_name(op: Op, ins: Sequence[Array | None]) -> dict[str, Array | None]:
    names = [name.rstrip("?") for name in op.operands]
    return {name: ins[i] if i < len(ins) else None for i, name in enumerate(names)}


@source("gru_cell", "lstm_cell")
def recurrent_cell(op: Any, *ins: Array | None) -> tuple[Array, ...]:
    named = by_name(op, ins)
    states = [named[name] for name in ("hidden_state", "cell_state") if name in named]
    return tuple(step(op, named["input"], states, named))


@source("gru", "lstm")
def recurrent(op: Any, *ins: Array | None) -> tuple[Array, ...]:
    """Direction by direction; the second one of two goes backward."""
    named = by_name(op, ins)
    x = named["input"]
    ways = {"forward": [1], "backward": [-1], "both": [1, -1]}[op.direction]
    last, steps = [], []
    for d, way in enumerate(ways):
        weights = {name: None if a is None or name == "input" else a[d] for name, a in named.items()}
        states = [weights[name] for name in ("initial_hidden_state", "initial_cell_state") if name in named]
        states = [np.zeros((x.shape[1], op.hidden_size)) if s is None else s for s in states]
        hidden = []
        for t in list(range(op.steps))[::way]:
            states = step(op, x[t], states, weights)
            hidden.append(states[0])
        last.append(states)
        steps.append(np.stack(hidden[::way]))
    results = [np.stack(states) for states in zip(*last)]
    return (*results, np.stack(steps, 1)) if op.return_sequence else tuple(results)
