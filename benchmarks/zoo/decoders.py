"""Decoders with the keys and values of earlier steps as inputs and outputs: GPT-2, a LLaMA block."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto

from benchmarks.zoo import attention as at
from benchmarks.zoo.writer import Writer

INT64 = TensorProto.INT64


def gpt2(
    layers: int, channels: int, heads: int, vocabulary: int, length: int, with_positions: bool = False
) -> onnx.ModelProto:
    """Radford et al. 2019. int64 ids [batch, sequence], past keys and values -> logits [batch, sequence, vocabulary]
    and present ones. Linear layers of attention are Gemm between two Reshape; the causal mask is sliced out of a stored
    one. The last layer is the transposed embedding. `with_positions`: the int64 mask of all keys and the positions are
    inputs, as exporters for text generation have it; else positions are counted from the length of the past."""
    w = Writer("gpt2", opset=13)
    ids = w.input("input_ids", ("batch", "sequence"), INT64)
    head = channels // heads
    hidden = None
    if with_positions:
        hidden = at.padding_mask(w, w.input("attention_mask", ("batch", "past_sequence + sequence"), INT64))
        where = w.input("position_ids", ("batch", "sequence"), INT64)
    pasts = [at.past(w, i, "", heads, head) for i in range(layers)]
    start, count = w.size(pasts[0][0], 2), w.size(ids, 1)
    embedding = w.weight(vocabulary, channels, scale=1 / math.sqrt(channels))
    if not with_positions:
        where = w.unsqueeze(at.positions(w, start, count), 0)
        where = w.node("Reshape", where, w.shape_of(-1, count))
    x = w.node("Gather", w.weight(length, channels, scale=0.3), where, axis=0)
    x = w.add(w.node("Gather", embedding, ids, axis=0), x)
    stored = w.data(np.tril(np.ones((1, 1, length, length), np.bool_)))
    for i in range(layers):
        y = at.layer_norm(w, x, channels)
        q, k, v = w.split("Split", 3, _conv1d(w, y, channels, 3 * channels), w.ints(*[channels] * 3), axis=2)
        q, k, v = (at.split_heads(w, p, heads, head) for p in (q, k, v))
        k, v = (w.concat([old, new], 2) for old, new in zip(pasts[i], (k, v)))
        scores = w.node("Div", w.node("MatMul", q, w.transpose(k, 0, 1, 3, 2)), w.constant(math.sqrt(head)))
        keys = w.size(k, 2)
        seen = w.slice(stored, w.unsqueeze(w.node("Sub", keys, w.size(q, 2)), 0), w.unsqueeze(keys, 0), 2)
        seen = w.slice(seen, 0, w.unsqueeze(keys, 0), 3)
        scores = w.node("Where", seen, scores, w.constant(at.LOWEST))
        scores = w.add(scores, hidden) if hidden else scores
        mixed = at.merge_heads(w, w.node("MatMul", w.node("Softmax", scores, axis=-1), v), channels)
        x = w.add(_conv1d(w, mixed, channels, channels, 0.3), x)
        y = at.gelu_tanh(w, _conv1d(w, at.layer_norm(w, x, channels), channels, 4 * channels))
        x = w.add(x, _conv1d(w, y, 4 * channels, channels, 0.3))
        at.present(w, i, "", k, v)
    x = at.layer_norm(w, x, channels)
    logits = w.node("MatMul", x, w.transpose(embedding, 1, 0))
    w.output("logits", logits, ("batch", "sequence", vocabulary))
    return w.model()


def _conv1d(w: Writer, x: str, channels: int, out: int, gain: float = 1.0) -> str:
    """GPT-2's linear layer: flattened to a matrix, Gemm without a transpose, back."""
    flat = w.node("Reshape", x, w.shape_of(-1, w.size(x, 2)))
    weight = w.weight(channels, out, scale=math.sqrt(gain / channels))
    y = w.node("Gemm", flat, weight, w.weight(out, scale=0.1), alpha=1.0, beta=1.0)
    return w.node("Reshape", y, w.shape_of(w.size(x, 0), w.size(x, 1), out))


def llama_block(channels: int, heads: int, groups: int, inner: int, theta: float) -> onnx.ModelProto:
    """One layer of Touvron et al. 2023 with grouped keys and values. Float32 hidden states [batch, sequence, channels],
    the int64 mask of all keys [batch, total_sequence], int64 positions [batch, sequence] and past keys and values
    [batch, groups, past_sequence, head] -> hidden states and present ones."""
    w = Writer("llama_block", opset=17)
    head = channels // heads
    x = w.input("hidden_states", ("batch", "sequence", channels))
    mask = w.input("attention_mask", ("batch", "total_sequence"), INT64)
    where = w.input("position_ids", ("batch", "sequence"), INT64)
    old = at.past(w, 0, "", groups, head)
    cosine, sine = _rotary(w, where, head, theta)
    scores_mask = _causal_and_padding(w, mask, w.size(x, 1))
    x, k, v = _llama_layer(w, x, old, cosine, sine, scores_mask, channels, heads, groups, inner)
    w.output("output", x, ("batch", "sequence", channels))
    at.present(w, 0, "", k, v)
    return w.model()


def llama(
    layers: int, channels: int, heads: int, groups: int, inner: int, vocabulary: int, theta: float
) -> onnx.ModelProto:
    """The whole decoder of such layers: int64 ids [batch, sequence], the mask of all keys, positions, past keys and
    values -> logits [batch, sequence, vocabulary] and present ones."""
    w = Writer("llama", opset=17)
    head = channels // heads
    ids = w.input("input_ids", ("batch", "sequence"), INT64)
    mask = w.input("attention_mask", ("batch", "past_sequence + sequence"), INT64)
    where = w.input("position_ids", ("batch", "sequence"), INT64)
    pasts = [at.past(w, i, "", groups, head) for i in range(layers)]
    x = w.node("Gather", w.weight(vocabulary, channels), ids, axis=0)
    cosine, sine = _rotary(w, where, head, theta)
    scores_mask = _causal_and_padding(w, mask, w.size(ids, 1))
    for i, old in enumerate(pasts):
        x, k, v = _llama_layer(w, x, old, cosine, sine, scores_mask, channels, heads, groups, inner)
        at.present(w, i, "", k, v)
    logits = w.linear(at.rms_norm(w, x, channels, 1e-5), channels, vocabulary, bias=False)
    w.output("logits", logits, ("batch", "sequence", vocabulary))
    return w.model()


def _llama_layer(
    w: Writer, x: str, old: tuple[str, str], cosine: str, sine: str, scores_mask: str, channels: int, heads: int,
    groups: int, inner: int,
) -> tuple[str, str, str]:  # fmt: skip
    """One layer: its result, present keys and values."""
    head = channels // heads
    y = at.rms_norm(w, x, channels, 1e-5)
    q = _rotate(w, at.split_heads(w, w.linear(y, channels, channels, bias=False), heads, head), cosine, sine, head)
    k, v = (at.split_heads(w, w.linear(y, channels, groups * head, bias=False), groups, head) for _ in range(2))
    k, v = w.concat([old[0], _rotate(w, k, cosine, sine, head)], 2), w.concat([old[1], v], 2)
    many = [_repeated(w, p, groups, heads // groups, head) for p in (k, v)]
    y = at.merge_heads(w, at.attend(w, q, *many, head, scores_mask), channels)
    x = w.add(x, w.linear(y, channels, channels, bias=False, gain=0.3))
    y = at.rms_norm(w, x, channels, 1e-5)
    gated = w.mul(w.silu(w.linear(y, channels, inner, bias=False)), w.linear(y, channels, inner, bias=False))
    return w.add(x, w.linear(gated, inner, channels, bias=False)), k, v


def _rotary(w: Writer, where: str, head: int, theta: float) -> tuple[str, str]:
    """Cosines and sines of the angles of each position, [batch, 1, sequence, head]."""
    rates = theta ** (-np.arange(0, head, 2, dtype=np.float32) / head)
    wide = w.node("Expand", w.data(rates[None, :, None]), w.shape_of(w.size(where, 0), head // 2, 1))
    angles = w.node("MatMul", wide, w.cast(w.unsqueeze(where, 1), TensorProto.FLOAT))
    angles = w.transpose(angles, 0, 2, 1)
    both = w.concat([angles, angles], -1)
    cosine, sine = (w.mul(w.node(op, both), w.constant(1.0)) for op in ("Cos", "Sin"))
    return w.unsqueeze(cosine, 1), w.unsqueeze(sine, 1)


def _rotate(w: Writer, x: str, cosine: str, sine: str, head: int) -> str:
    """x * cos + concat(-second half, first half) * sin"""
    first, second = w.slice(x, 0, head // 2, 3), w.slice(x, head // 2, 2**63 - 1, 3)
    turned = w.concat([w.node("Neg", second), first], -1)
    return w.add(w.mul(x, cosine), w.mul(turned, sine))


def _repeated(w: Writer, x: str, groups: int, times: int, head: int) -> str:
    """[batch, groups, keys, head] -> [batch, groups * times, keys, head], each group `times` times."""
    if times == 1:
        return x
    batch, keys = w.size(x, 0), w.size(x, 2)
    wide = w.node("Expand", w.unsqueeze(x, 2), w.shape_of(batch, groups, times, keys, head))
    return w.node("Reshape", wide, w.shape_of(batch, groups * times, keys, head))


def _causal_and_padding(w: Writer, mask: str, count: str) -> str:
    """Float32 [batch, 1, sequence, total]: 0, or the lowest number where a key is padding or in its query's future."""
    total = w.size(mask, 1)
    start = w.node("Sub", total, count)
    keys = at.positions(w, w.constant(0, np.int64), total)
    queries = w.unsqueeze(at.positions(w, start, count), 1)
    future = w.node("Greater", keys, queries)
    lowest = w.mul(w.node("Expand", w.constant(at.LOWEST), w.shape_of(count, total)), w.cast(future, TensorProto.FLOAT))
    causal = w.node("Expand", w.unsqueeze(lowest, 0, 1), w.shape_of(w.size(mask, 0), 1, count, total))
    padding = w.cast(w.unsqueeze(mask, 1, 2), TensorProto.FLOAT)
    hidden = w.node("Equal", w.add(causal, padding), w.constant(0.0))
    return w.node("Where", hidden, w.constant(at.LOWEST), causal)
