"""Encoders and decoders for sequences: Whisper, T5, one layer each of M2M100. Decoders take one step with the keys and
values of earlier steps."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto

from benchmarks.zoo import attention as at
from benchmarks.zoo.writer import Writer

INT64 = TensorProto.INT64


def _heads_as_batch(w: Writer, x: str, heads: int, head: int) -> str:
    """[batch, heads, sequence, head] -> [batch * heads, sequence, head], as torch.bmm wants it."""
    return w.node("Reshape", x, w.shape_of(w.mul(w.size(x, 0), w.constant(heads, np.int64)), -1, head))


def _batched(w: Writer, q: str, k: str, v: str, heads: int, head: int, mask: str | None = None) -> str:
    """Attention of [batch, heads, sequence, head] through products of rank 3; the queries are already scaled. Returns
    [batch, sequence, heads * head]."""
    batch, queries, keys = w.size(q, 0), w.size(q, 2), w.size(k, 2)
    a, b, c = (_heads_as_batch(w, p, heads, head) for p in (q, k, v))
    scores = w.node("MatMul", a, w.transpose(b, 0, 2, 1))
    if mask:
        scores = w.node("Reshape", scores, w.shape_of(batch, heads, queries, keys))
        scores = w.node("Reshape", w.add(scores, mask), w.shape_of(-1, queries, keys))
    y = w.node("MatMul", w.node("Softmax", scores, axis=-1), c)
    return at.merge_heads(w, w.node("Reshape", y, w.shape_of(batch, heads, queries, head)), heads * head)


def _queries(w: Writer, x: str, channels: int, heads: int) -> str:
    head = channels // heads
    return at.split_heads(w, w.mul(w.linear(x, channels, channels), w.constant(head**-0.5)), heads, head)


def _cached_attention(w: Writer, x: str, old: tuple[str, str], layer: int, channels: int, heads: int,
                      mask: str | None = None, bias: bool = True) -> str:  # fmt: skip
    """Self-attention of new tokens to old and new ones; the keys' layer has a bias or none."""
    head = channels // heads
    q = _queries(w, x, channels, heads)
    k = at.split_heads(w, w.linear(x, channels, channels, bias=bias), heads, head)
    v = at.split_heads(w, w.linear(x, channels, channels), heads, head)
    k, v = w.concat([old[0], k], 2), w.concat([old[1], v], 2)
    at.present(w, layer, "decoder.", k, v)
    return w.linear(_batched(w, q, k, v, heads, head, mask), channels, channels, gain=0.3)


def _cross_attention(
    w: Writer, x: str, old: tuple[str, str], channels: int, heads: int, mask: str | None = None
) -> str:
    """Attention of new tokens to the encoder's keys and values."""
    y = _batched(w, _queries(w, x, channels, heads), *old, heads, channels // heads, mask)
    return w.linear(y, channels, channels, gain=0.3)


# Whisper ------------------------------------------------------------------------------------------------------------


def whisper_encoder(mels: int, frames: int, layers: int, channels: int, heads: int) -> onnx.ModelProto:
    """Radford et al. 2022. Float32 log-mel spectrogram [batch, mels, frames] -> [batch, frames/2, channels]."""
    w = Writer("whisper_encoder", opset=14)
    head = channels // heads
    x = w.input("input_features", ("batch", mels, frames))
    x = at.gelu_erf(w, w.conv(x, mels, channels, (3,)))
    x = at.gelu_erf(w, w.conv(x, channels, channels, (3,), 2))
    x = w.add(w.transpose(x, 0, 2, 1), w.weight(frames // 2, channels, scale=0.3))
    for _ in range(layers):
        y = at.layer_norm(w, x, channels)
        k, v = (at.split_heads(w, w.linear(y, channels, channels, bias=b), heads, head) for b in (False, True))
        y = _batched(w, _queries(w, y, channels, heads), k, v, heads, head)
        x = w.add(x, w.linear(y, channels, channels, gain=0.3))
        x = w.add(x, at.mlp(w, at.layer_norm(w, x, channels), channels, 4 * channels))
    w.output("last_hidden_state", at.layer_norm(w, x, channels), ("batch", frames // 2, channels))
    return w.model()


def whisper_decoder(layers: int, channels: int, heads: int, vocabulary: int, length: int) -> onnx.ModelProto:
    """int64 ids [batch, sequence], past keys and values of the decoder and of the encoder -> logits [batch, sequence,
    vocabulary] and the decoder's present ones."""
    w = Writer("whisper_decoder", opset=17)
    head = channels // heads
    ids = w.input("input_ids", ("batch", "sequence"), INT64)
    own = [at.past(w, i, "decoder.", heads, head) for i in range(layers)]
    other = [at.past(w, i, "encoder.", heads, head, "encoder_sequence") for i in range(layers)]
    embedding = w.weight(vocabulary, channels, scale=1 / math.sqrt(channels))
    start = w.size(own[0][0], 2)
    end = w.add(start, w.size(ids, 1))
    where = w.slice(w.weight(length, channels, scale=0.3), w.unsqueeze(start, 0), w.unsqueeze(end, 0), 0)
    x = w.add(w.node("Gather", embedding, ids, axis=0), where)
    mask = at.causal_mask(w, w.size(ids, 1), end)
    for i in range(layers):
        y = at.layer_norm(w, x, channels)
        x = w.add(x, _cached_attention(w, y, own[i], i, channels, heads, mask, bias=False))
        x = w.add(x, _cross_attention(w, at.layer_norm(w, x, channels), other[i], channels, heads))
        x = w.add(x, at.mlp(w, at.layer_norm(w, x, channels), channels, 4 * channels))
    x = at.layer_norm(w, x, channels)
    w.output("logits", w.node("MatMul", x, w.transpose(embedding, 1, 0)), ("batch", "sequence", vocabulary))
    return w.model()


# T5 -----------------------------------------------------------------------------------------------------------------


def _bucket(w: Writer, distance: str, buckets: int, both_ways: bool, farthest: int = 128) -> str:
    """T5's bucket of each relative position (key minus query): exact near 0, logarithmic farther away."""
    zero = w.constant(0, np.int64)
    base = None
    if both_ways:
        buckets //= 2
        later = w.cast(w.node("Greater", distance, zero), INT64)
        base = w.mul(later, w.constant(buckets, np.int64))
        distance = w.node("Abs", distance)
    else:
        shape = w.node("Shape", distance)
        zeros = w.node("ConstantOfShape", shape, value=onnx.numpy_helper.from_array(np.array([0], np.int64)))
        distance = w.node("Neg", w.node("Min", distance, zeros))
    exact = buckets // 2
    near = w.node("Less", distance, w.constant(exact, np.int64))
    ratio = w.node("Div", w.cast(distance, TensorProto.FLOAT), w.constant(float(exact)))
    steps = w.node("Div", w.node("Log", ratio), w.constant(math.log(farthest / exact)))
    far = w.cast(w.mul(steps, w.constant(float(buckets - exact))), INT64)
    far = w.node("Min", w.add(far, w.constant(exact, np.int64)), w.constant(buckets - 1, np.int64))
    bucket = w.node("Where", near, distance, far)
    return w.add(base, bucket) if base else bucket


def _position_bias(w: Writer, queries: tuple[str, str], keys: str, heads: int, both_ways: bool) -> str:
    """[1, heads, queries, keys]; `queries`: the first position and how many."""
    rows = w.unsqueeze(at.positions(w, *queries), 1)
    columns = w.unsqueeze(at.positions(w, w.constant(0, np.int64), keys), 0)
    bucket = _bucket(w, w.node("Sub", columns, rows), 32, both_ways)
    bias = w.node("Gather", w.weight(32, heads, scale=0.3), bucket, axis=0)
    return w.unsqueeze(w.transpose(bias, 2, 0, 1), 0)


def _t5_layer(w: Writer, x: str, channels: int, inner: int) -> str:
    y = w.relu(w.linear(at.rms_norm(w, x, channels), channels, inner, bias=False))
    return w.add(x, w.linear(y, inner, channels, bias=False, gain=0.3))


def t5_encoder(layers: int, channels: int, heads: int, head: int, inner: int, vocabulary: int) -> onnx.ModelProto:
    """Raffel et al. 2019. int64 ids and mask [batch, sequence] -> [batch, sequence, channels]."""
    w = Writer("t5_encoder", opset=13)
    ids, mask = (w.input(n, ("batch", "sequence"), INT64) for n in ("input_ids", "attention_mask"))
    x = w.node("Gather", w.weight(vocabulary, channels), ids, axis=0)
    count = w.size(ids, 1)
    bias = _position_bias(w, (w.constant(0, np.int64), count), count, heads, both_ways=True)
    bias = w.add(bias, at.padding_mask(w, mask))
    for _ in range(layers):
        y = at.rms_norm(w, x, channels)
        # scores are not divided by the root of the size: T5 has that in its initial weights
        gains = (1 / head, 1.0, 1.0)
        q, k, v = (
            at.split_heads(w, w.linear(y, channels, heads * head, bias=False, gain=g), heads, head) for g in gains
        )
        y = at.merge_heads(w, at.attend(w, q, k, v, head, bias, scaled=False), heads * head)
        x = w.add(x, w.linear(y, heads * head, channels, bias=False, gain=0.3))
        x = _t5_layer(w, x, channels, inner)
    w.output("last_hidden_state", at.rms_norm(w, x, channels), ("batch", "sequence", channels))
    return w.model()


def t5_decoder(layers: int, channels: int, heads: int, head: int, inner: int, vocabulary: int) -> onnx.ModelProto:
    """int64 ids [batch, 1], the encoder's mask [batch, encoder_sequence], past keys and values of both -> logits
    [batch, 1, vocabulary] and the decoder's present ones. The last layer is the transposed embedding, scaled."""
    w = Writer("t5_decoder", opset=14)
    ids = w.input("input_ids", ("batch", 1), INT64)
    encoder_mask = w.input("encoder_attention_mask", ("batch", "encoder_sequence"), INT64)
    own = [at.past(w, i, "decoder.", heads, head) for i in range(layers)]
    other = [at.past(w, i, "encoder.", heads, head, "encoder_sequence") for i in range(layers)]
    embedding = w.weight(vocabulary, channels)
    x = w.node("Gather", embedding, ids, axis=0)
    start = w.size(own[0][0], 2)
    total = w.add(start, w.size(ids, 1))
    bias = _position_bias(w, (start, w.size(ids, 1)), total, heads, both_ways=False)
    bias = w.add(bias, at.causal_mask(w, w.size(ids, 1), total))
    hidden = at.padding_mask(w, encoder_mask)
    wide = heads * head
    for i in range(layers):
        y = at.rms_norm(w, x, channels)
        q = at.split_heads(w, w.linear(y, channels, wide, bias=False, gain=1 / head), heads, head)
        k, v = (
            w.concat([old, at.split_heads(w, w.linear(y, channels, wide, bias=False), heads, head)], 2)
            for old in own[i]
        )
        at.present(w, i, "decoder.", k, v)
        y = at.merge_heads(w, at.attend(w, q, k, v, head, bias, scaled=False), wide)
        x = w.add(x, w.linear(y, wide, channels, bias=False, gain=0.3))
        y = at.rms_norm(w, x, channels)
        q = at.split_heads(w, w.linear(y, channels, wide, bias=False, gain=1 / head), heads, head)
        y = at.merge_heads(w, at.attend(w, q, *other[i], head, hidden, scaled=False), wide)
        x = w.add(x, w.linear(y, wide, channels, bias=False, gain=0.3))
        x = _t5_layer(w, x, channels, inner)
    x = w.mul(at.rms_norm(w, x, channels), w.constant(channels**-0.5))
    w.output("logits", w.node("MatMul", x, w.transpose(embedding, 1, 0)), ("batch", 1, vocabulary))
    return w.model()


# M2M100 -------------------------------------------------------------------------------------------------------------


def _sinusoids(w: Writer, where: str, channels: int, length: int) -> str:
    """The stored vectors of int64 positions; position 1 (padding) has zeros."""
    half = channels // 2
    rates = np.exp(-np.arange(half, dtype=np.float32) * (math.log(10000) / (half - 1)))
    angles = np.arange(length + 2, dtype=np.float32)[:, None] * rates
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    table[1] = 0
    shape = w.shape_of(w.size(where, 0), w.size(where, 1), -1)
    rows = w.node("Gather", w.data(table), w.reshape(where, -1), axis=0)
    return w.node("Reshape", rows, shape)


def m2m100_encoder_block(channels: int, heads: int, inner: int, vocabulary: int, length: int) -> onnx.ModelProto:
    """Embedding, positions and one layer of Fan et al. 2020. int64 ids [batch, sequence], 1 is padding, and mask ->
    [batch, sequence, channels]. Positions count what is not padding, by CumSum."""
    w = Writer("m2m100_encoder_block", opset=13)
    ids, mask = (w.input(n, ("batch", "sequence"), INT64) for n in ("input_ids", "attention_mask"))
    head = channels // heads
    x = w.node("Gather", w.weight(vocabulary, channels, scale=1 / math.sqrt(channels)), ids, axis=0)
    x = w.mul(x, w.constant(math.sqrt(channels)))
    real = w.cast(w.node("Not", w.node("Equal", ids, w.constant(1, np.int64))), TensorProto.INT32)
    counted = w.mul(w.node("CumSum", real, w.constant(1, np.int64)), real)
    where = w.add(w.cast(counted, INT64), w.constant(1, np.int64))
    x = w.add(x, _sinusoids(w, where, channels, length))
    batch, count = w.size(mask, 0), w.size(mask, 1)
    wide = w.node("Expand", w.unsqueeze(mask, 1, 2), w.shape_of(batch, 1, count, count))
    inverted = w.node("Sub", w.constant(1.0), w.cast(wide, TensorProto.FLOAT))
    scores = w.node("Where", w.cast(inverted, TensorProto.BOOL), w.constant(at.LOWEST), inverted)
    y = at.layer_norm(w, x, channels)
    k, v = (at.split_heads(w, w.linear(y, channels, channels), heads, head) for _ in range(2))
    y = _batched(w, _queries(w, y, channels, heads), k, v, heads, head, scores)
    x = w.add(x, w.linear(y, channels, channels, gain=0.3))
    x = w.add(x, at.mlp(w, at.layer_norm(w, x, channels), channels, inner, "relu"))
    w.output("last_hidden_state", at.layer_norm(w, x, channels), ("batch", "sequence", channels))
    return w.model()


def m2m100_decoder_block(channels: int, heads: int, inner: int) -> onnx.ModelProto:
    """One layer: float32 hidden states [batch, sequence, channels], the encoder's mask, past keys and values of both ->
    hidden states and the decoder's present ones."""
    w = Writer("m2m100_decoder_block", opset=17)
    head = channels // heads
    x = w.input("hidden_states", ("batch", "sequence", channels))
    mask = at.padding_mask(w, w.input("encoder_attention_mask", ("batch", "encoder_sequence"), INT64))
    own = at.past(w, 0, "decoder.", heads, head)
    other = at.past(w, 0, "encoder.", heads, head, "encoder_sequence")
    count = w.size(x, 1)
    causal = at.causal_mask(w, count, w.add(w.size(own[0], 2), count))
    x = w.add(x, _cached_attention(w, at.layer_norm(w, x, channels), own, 0, channels, heads, causal))
    x = w.add(x, _cross_attention(w, at.layer_norm(w, x, channels), other, channels, heads, mask))
    x = w.add(x, at.mlp(w, at.layer_norm(w, x, channels), channels, inner, "relu"))
    w.output("output", at.layer_norm(w, x, channels), ("batch", "sequence", channels))
    return w.model()
