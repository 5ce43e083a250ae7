"""What transformers share, in the forms in which exporters write them: normalisations, activations, heads, masks."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from benchmarks.zoo.writer import Writer

#: The most negative float32: what exporters mask scores with.
LOWEST = float(np.finfo(np.float32).min)


# normalisations -----------------------------------------------------------------------------------------------------


def layer_norm(w: Writer, x: str, channels: int, epsilon: float = 1e-5) -> str:
    """Layer normalisation of the last axis: the op since opset 17, before that nine nodes."""
    scale, bias = w.weight(channels, scale=0.1, mean=1.0), w.weight(channels, scale=0.1)
    if w.opset >= 17:
        return w.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)
    centred = w.node("Sub", x, w.mean(x, -1))
    variance = w.mean(w.node("Pow", centred, w.constant(2.0)), -1)
    deviation = w.node("Sqrt", w.add(variance, w.constant(epsilon)))
    return w.add(w.mul(w.node("Div", centred, deviation), scale), bias)


def rms_norm(w: Writer, x: str, channels: int, epsilon: float = 1e-6) -> str:
    """x / sqrt(mean(x^2) + epsilon) * scale"""
    square = w.mean(w.node("Pow", x, w.constant(2.0)), -1)
    deviation = w.node("Sqrt", w.add(square, w.constant(epsilon)))
    normal = w.mul(x, w.node("Div", w.constant(1.0), deviation))
    return w.mul(w.weight(channels, scale=0.1, mean=1.0), normal)


# activations --------------------------------------------------------------------------------------------------------


def gelu_erf(w: Writer, x: str) -> str:
    """x * (1 + erf(x / sqrt 2)) * 0.5"""
    one = w.add(w.node("Erf", w.node("Div", x, w.constant(math.sqrt(2)))), w.constant(1.0))
    return w.mul(w.mul(x, one), w.constant(0.5))


def gelu_tanh(w: Writer, x: str) -> str:
    """0.5 x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))"""
    cubic = w.mul(w.node("Pow", x, w.constant(3.0)), w.constant(0.044715))
    inside = w.mul(w.add(x, cubic), w.constant(math.sqrt(2 / math.pi)))
    return w.mul(w.mul(x, w.constant(0.5)), w.add(w.node("Tanh", inside), w.constant(1.0)))


def gelu_quick(w: Writer, x: str) -> str:
    """x * sigmoid(1.702 x)"""
    return w.mul(x, w.node("Sigmoid", w.mul(x, w.constant(1.702))))


# attention ----------------------------------------------------------------------------------------------------------


def split_heads(w: Writer, x: str, heads: int, head: int) -> str:
    """[batch, sequence, heads * head] -> [batch, heads, sequence, head], the sizes read from the tensor."""
    shape = w.shape_of(w.size(x, 0), w.size(x, 1), heads, head)
    return w.transpose(w.node("Reshape", x, shape), 0, 2, 1, 3)


def merge_heads(w: Writer, x: str, channels: int) -> str:
    """[batch, heads, sequence, head] -> [batch, sequence, channels]"""
    x = w.transpose(x, 0, 2, 1, 3)
    return w.node("Reshape", x, w.shape_of(w.size(x, 0), w.size(x, 1), channels))


def attend(w: Writer, q: str, k: str, v: str, head: int, mask: str | None = None, scaled: bool = True) -> str:
    """softmax(q k' / sqrt(head) + mask) v for [batch, heads, sequence, head] each."""
    scores = w.node("MatMul", q, w.transpose(k, 0, 1, 3, 2))
    if scaled:
        scores = w.node("Div", scores, w.constant(math.sqrt(head)))
    if mask:
        scores = w.add(scores, mask)
    return w.node("MatMul", w.node("Softmax", scores, axis=-1), v)


def self_attention(w: Writer, x: str, channels: int, heads: int, mask: str | None = None, bias: bool = True) -> str:
    """Multi-head attention of a sequence to itself, with its output layer."""
    head = channels // heads
    q, k, v = (split_heads(w, w.linear(x, channels, channels, bias), heads, head) for _ in range(3))
    return w.linear(merge_heads(w, attend(w, q, k, v, head, mask), channels), channels, channels, gain=0.3)


def mlp(w: Writer, x: str, channels: int, inner: int, activation: str = "erf") -> str:
    """Two linear layers; `activation`: erf, tanh, quick or relu."""
    act = {"erf": gelu_erf, "tanh": gelu_tanh, "quick": gelu_quick, "relu": lambda w, x: w.relu(x)}[activation]
    return w.linear(act(w, w.linear(x, channels, inner)), inner, channels, gain=0.3)


# masks and positions ------------------------------------------------------------------------------------------------


def padding_mask(w: Writer, mask: str) -> str:
    """int64 [batch, sequence], 1 for what counts -> float32 [batch, 1, 1, sequence]: 0, or the lowest number."""
    wide = w.cast(w.unsqueeze(w.unsqueeze(mask, 1), 2), TensorProto.FLOAT)
    return w.mul(w.node("Sub", w.constant(1.0), wide), w.constant(LOWEST))


def causal_mask(w: Writer, queries: str, keys: str) -> str:
    """Scalar counts of queries and keys -> float32 [1, 1, queries, keys]: the lowest number where a key lies in the
    future of its query; the last query sees all keys. By ConstantOfShape and Trilu."""
    shape = w.shape_of(queries, keys)
    lowest = w.node("Expand", w.constant(LOWEST), shape)
    first = w.add(w.node("Sub", keys, queries), w.constant(1, np.int64))
    return w.unsqueeze(w.node("Trilu", lowest, first, upper=1), 0, 1)


def positions(w: Writer, start: str, count: str) -> str:
    """The int64 positions `start` ... `start + count - 1`, for scalars."""
    return w.node("Range", start, w.add(start, count), w.constant(1, np.int64))


# decoders -----------------------------------------------------------------------------------------------------------


def past(w: Writer, layer: int, part: str, heads: int, head: int, length: str = "past_sequence") -> tuple[str, str]:
    """The inputs with the keys and values of a layer from earlier steps, float32 [batch, heads, length, head]."""
    shape = ("batch", heads, length, head)
    key, value = (w.input(f"past_key_values.{layer}.{part}{kind}", shape) for kind in ("key", "value"))
    return key, value


def present(w: Writer, layer: int, part: str, key: str, value: str) -> None:
    """The outputs that become `past` in the next step."""
    w.output(f"present.{layer}.{part}key", key)
    w.output(f"present.{layer}.{part}value", value)
