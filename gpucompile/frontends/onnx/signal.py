"""Fourier transforms and their relatives: products with constant matrices of cosines and sines."""

from __future__ import annotations

import numpy as np

from gpucompile.errors import ModelError
from gpucompile.frontends.onnx.call import Call, Operand, onnx_op, type_of
from gpucompile.frontends.onnx.movement import sliced
from gpucompile.frontends.onnx.tensors import data_type
from gpucompile.ops.contraction import Matmul
from gpucompile.ops.elementwise import Mul
from gpucompile.ops.movement import Concat, Pad, Reshape, Transpose

#: The most frames of a signal, each of which is a slice of it.
FRAMES_LIMIT = 1 << 14


def fourier(call: Call, count: int, results: int, inverse: bool, imaginary: bool, one_sided: bool) -> np.ndarray:
    """[count * parts, results * 2]: the transform of `count` numbers, each of one or two parts (real, imaginary),
    interleaved. A one-sided inverse makes real numbers of half a spectrum: [count * 2, results]."""
    call.limit(count, results, arrays=8)
    n = results if inverse and one_sided else count
    angle = 2 * np.pi * np.outer(np.arange(count), np.arange(results)) / n
    if inverse and one_sided:  # what is missing of the spectrum is the conjugate of what is there
        weight = np.where((np.arange(count) == 0) | (2 * np.arange(count) == n), 1.0, 2.0)[:, None] / n
        return np.stack([np.cos(angle) * weight, -np.sin(angle) * weight], 1).reshape(2 * count, results)
    sign = 1.0 if inverse else -1.0
    scale = 1.0 / n if inverse else 1.0
    real = np.stack([np.cos(angle), sign * np.sin(angle)], -1)
    if not imaginary:
        return (real * scale).reshape(count, 2 * results)
    rotated = np.stack([-sign * np.sin(angle), np.cos(angle)], -1)
    return (np.stack([real, rotated], 1) * scale).reshape(2 * count, 2 * results)


@onnx_op("DFT")
def dft(call: Call) -> Operand:
    x, t = call.operand(0), call.type()
    if call.version < 20:
        axis = call.axis(call.attr("axis", 1), t.rank)
    else:
        axis = call.axis(int(call.array(2, "axis").reshape(-1)[0]) if call.has(2) else -2, t.rank)
    inverse, one_sided = bool(call.attr("inverse", 0)), bool(call.attr("onesided", 0))
    parts = t.shape[-1]
    if parts not in (1, 2) or axis == t.rank - 1:
        raise ModelError(f"{t} is no signal along axis {axis}: its last axis must be 1 or 2 parts")
    count = t.shape[axis]
    length = (call.ints(1, "dft_length") or [0])[0] if call.has(1) else 0
    length = length or (2 * (count - 1) if inverse and one_sided else count)
    wanted = length // 2 + 1 if inverse and one_sided else length
    if wanted != count:  # cut or filled up with zeros
        windows = [slice(None)] * t.rank
        windows[axis] = slice(0, wanted)
        x = sliced(call, x, windows)
        ends = [0] * t.rank
        ends[axis] = wanted - type_of(x).shape[axis]
        x = call.add(Pad((0,) * t.rank, tuple(ends)), x) if any(ends) else x
    results = length // 2 + 1 if one_sided and not inverse else length
    matrix = fourier(call, wanted, results, inverse, parts == 2, one_sided)
    order = (*(a for a in range(t.rank - 1) if a != axis), axis, t.rank - 1)
    moved = call.add(Transpose(order), x)
    lead = type_of(moved).shape[:-2]
    rows = call.add(Reshape((int(np.prod(lead)), wanted * parts)), moved)
    out = call.add(Matmul(), rows, matrix.astype(t.dtype.numpy))
    out = call.add(Reshape((*lead, results, matrix.shape[1] // results)), out)
    return call.add(Transpose(tuple(order.index(a) for a in range(t.rank))), out)


@onnx_op("STFT")
def stft(call: Call) -> Operand:
    """Overlapping frames of a signal [batch, length, parts], each multiplied by the window and transformed."""
    x, t = call.operand(0), call.type()
    step = (call.ints(1, "frame_step") or [0])[0]
    size = (call.ints(3, "frame_length") or [0])[0] if call.has(3) else call.type(2).size
    x = call.add(Reshape((*t.shape, 1)), x) if t.rank == 2 else x
    batch, length, parts = type_of(x).shape
    if step < 1 or not 1 <= size <= length:
        raise ModelError(f"frames of {size} every {step} of a signal of {length}")
    frames = (length - size) // step + 1
    if frames > FRAMES_LIMIT:
        call.unsupported(f"{frames:,} frames; up to {FRAMES_LIMIT:,} are supported")
    pieces = [
        call.add(
            Reshape((batch, 1, size, parts)),
            sliced(call, x, [slice(None), slice(i * step, i * step + size), slice(None)]),
        )
        for i in range(frames)
    ]
    framed = call.add(Concat(1), *pieces) if frames > 1 else pieces[0]
    if call.has(2):
        framed = call.add(Mul(), framed, call.add(Reshape((size, 1)), call.operand(2)))
    one_sided = bool(call.attr("onesided", 1))
    results = size // 2 + 1 if one_sided else size
    matrix = fourier(call, size, results, False, parts == 2, one_sided).astype(t.dtype.numpy)
    out = call.add(Matmul(), call.add(Reshape((batch * frames, size * parts)), framed), matrix)
    return call.add(Reshape((batch, frames, results, 2)), out)


@onnx_op("MelWeightMatrix")
def mel_weight_matrix(call: Call) -> Operand:
    """Triangular filters, evenly spaced on the mel scale; everything about them must be constant."""
    bins, length, rate = (int(call.array(i, "parameters").reshape(-1)[0]) for i in range(3))
    low, high = (float(call.array(i, "parameters").reshape(-1)[0]) for i in (3, 4))
    dtype = data_type(call.attr("output_datatype", 1), "the result").numpy
    ends = [2595 * np.log10(1 + f / 700) for f in (low, high)]
    call.limit(bins, length // 2 + 1)
    mels = ends[0] + np.arange(bins + 2) * (ends[1] - ends[0]) / (bins + 2)
    at = [int((length + 1) * 700 * (10 ** (mel / 2595) - 1) // rate) for mel in mels]
    out = np.zeros((length // 2 + 1, bins))
    for i, (left, center, right) in enumerate(zip(at, at[1:], at[2:], strict=False)):
        out[left : center + 1, i] = np.linspace(0, 1, center - left + 1) if center > left else 1
        out[center:right, i] = np.arange(right - center, 0, -1) / max(right - center, 1)
    return out.astype(dtype)
