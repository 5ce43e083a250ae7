"""Transformer encoders: BERT, DistilBERT, ViT, CLIP, the image encoder of SAM."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto

from benchmarks.zoo import attention as at
from benchmarks.zoo.writer import Writer

INT64 = TensorProto.INT64


def bert(layers: int, channels: int, heads: int, vocabulary: int, length: int, opset: int) -> onnx.ModelProto:
    """Devlin et al. 2018. int64 ids, mask and token types [batch, sequence] -> last_hidden_state [batch, sequence,
    channels] and pooler_output [batch, channels]. `length`: the most positions."""
    w = Writer("bert", opset)
    ids, mask, types = (
        w.input(n, ("batch", "sequence"), INT64) for n in ("input_ids", "attention_mask", "token_type_ids")
    )
    x = w.node("Gather", w.weight(vocabulary, channels, scale=0.7), ids, axis=0)
    x = w.add(x, w.node("Gather", w.weight(2, channels, scale=0.3), types, axis=0))
    x = w.add(x, _learned_positions(w, ids, length, channels))
    x = at.layer_norm(w, x, channels, 1e-12)
    scores = at.padding_mask(w, mask)
    for _ in range(layers):
        x = at.layer_norm(w, w.add(at.self_attention(w, x, channels, heads, scores), x), channels, 1e-12)
        x = at.layer_norm(w, w.add(at.mlp(w, x, channels, 4 * channels), x), channels, 1e-12)
    first = w.node("Gather", x, w.constant(0, np.int64), axis=1)
    w.output("last_hidden_state", x, ("batch", "sequence", channels))
    w.output("pooler_output", w.node("Tanh", w.gemm(first, channels, channels)), ("batch", channels))
    return w.model()


def _learned_positions(w: Writer, ids: str, length: int, channels: int) -> str:
    """[1, sequence, channels], by slicing the stored positions to the sequence and looking these up."""
    stored = w.data(np.arange(length, dtype=np.int64)[None])
    here = w.slice(stored, 0, w.unsqueeze(w.size(ids, 1), 0), 1)
    return w.node("Gather", w.weight(length, channels, scale=0.3), here, axis=0)


def distilbert(layers: int, channels: int, heads: int, vocabulary: int, length: int) -> onnx.ModelProto:
    """Sanh et al. 2019, classifying sequences. int64 ids and mask [batch, sequence] -> logits [batch, 2]. Scores are
    masked by Equal, Expand and Where, as masked_fill exports."""
    w = Writer("distilbert", opset=14)
    ids, mask = (w.input(n, ("batch", "sequence"), INT64) for n in ("input_ids", "attention_mask"))
    x = w.node("Gather", w.weight(vocabulary, channels, scale=0.7), ids, axis=0)
    x = at.layer_norm(w, w.add(x, _learned_positions(w, ids, length, channels)), channels, 1e-12)
    head = channels // heads
    hidden = w.node("Equal", mask, w.constant(0, np.int64))
    for _ in range(layers):
        q, k, v = (at.split_heads(w, w.linear(x, channels, channels), heads, head) for _ in range(3))
        scores = w.node("MatMul", w.node("Div", q, w.constant(math.sqrt(head))), w.transpose(k, 0, 1, 3, 2))
        shaped = w.node("Reshape", hidden, w.shape_of(w.size(ids, 0), 1, 1, w.size(k, 2)))
        wide = w.node("Expand", shaped, w.node("Shape", scores))
        scores = w.node("Where", w.cast(wide, TensorProto.BOOL), w.constant(at.LOWEST), scores)
        mixed = at.merge_heads(w, w.node("MatMul", w.node("Softmax", scores, axis=3), v), channels)
        x = at.layer_norm(w, w.add(w.linear(mixed, channels, channels, gain=0.3), x), channels, 1e-12)
        x = at.layer_norm(w, w.add(at.mlp(w, x, channels, 4 * channels), x), channels, 1e-12)
    first = w.node("Gather", x, w.constant(0, np.int64), axis=1)
    w.output("logits", w.gemm(w.relu(w.gemm(first, channels, channels)), channels, 2), ("batch", 2))
    return w.model()


def vit(side: int, patch: int, layers: int, channels: int, heads: int, classes: int) -> onnx.ModelProto:
    """Dosovitskiy et al. 2020. Float32 [batch, 3, side, side] -> logits [batch, classes]."""
    w = Writer("vit", opset=17)
    x = _image_tokens(w, w.input("pixel_values", ("batch", 3, side, side)), side, patch, channels)
    for _ in range(layers):
        x = w.add(at.self_attention(w, at.layer_norm(w, x, channels, 1e-12), channels, heads), x)
        x = w.add(at.mlp(w, at.layer_norm(w, x, channels, 1e-12), channels, 4 * channels), x)
    first = w.node("Gather", at.layer_norm(w, x, channels, 1e-12), w.constant(0, np.int64), axis=1)
    w.output("logits", w.gemm(first, channels, classes), ("batch", classes))
    return w.model()


def _image_tokens(w: Writer, image: str, side: int, patch: int, channels: int, bias: bool = True) -> str:
    """A token for each patch after a learned one, plus positions: [batch, 1 + patches, channels]."""
    patches = w.conv(image, 3, channels, patch, patch, pad=0, bias=bias, gain=1.0)
    flat = w.node("Reshape", patches, w.concat([w.node("Slice", w.node("Shape", patches), w.ints(0), w.ints(2)),
                                                w.ints(-1)], 0))  # fmt: skip
    size = w.shape_of(w.size(image, 0), -1, -1)
    ones = w.node("ConstantOfShape", w.ints(3), value=onnx.numpy_helper.from_array(np.array([1], np.int64)))
    size = w.node("Where", w.node("Equal", size, w.mul(ones, w.constant(-1, np.int64))), ones, size)
    learned = w.node("Expand", w.weight(1, 1, channels), size)
    x = w.concat([learned, w.transpose(flat, 0, 2, 1)], 1)
    return w.add(x, w.weight(1, 1 + (side // patch) ** 2, channels, scale=0.3))


def clip(
    side: int, patch: int, layers: int, channels: int, heads: int, text_channels: int, text_heads: int, vocabulary: int,
    length: int, shared: int,
) -> onnx.ModelProto:  # fmt: skip
    """Radford et al. 2021, both towers. Pixels float32 [images, 3, side, side], int64 ids [texts, sequence] -> logits
    per image [images, texts] and the normalised embeddings of both."""
    w = Writer("clip", opset=17)
    ids = w.input("input_ids", ("texts", "sequence"), INT64)
    x = _image_tokens(w, w.input("pixel_values", ("images", 3, side, side)), side, patch, channels, bias=False)
    x = at.layer_norm(w, x, channels)
    for _ in range(layers):
        x = w.add(at.self_attention(w, at.layer_norm(w, x, channels), channels, heads), x)
        x = w.add(at.mlp(w, at.layer_norm(w, x, channels), channels, 4 * channels, "quick"), x)
    pooled = at.layer_norm(w, w.node("Gather", x, w.constant(0, np.int64), axis=1), channels)
    image = _normalised(w, w.linear(pooled, channels, shared, bias=False))

    t = w.node("Gather", w.weight(vocabulary, text_channels, scale=0.7), ids, axis=0)
    t = w.add(t, _learned_positions(w, ids, length, text_channels))
    mask = at.causal_mask(w, w.size(ids, 1), w.size(ids, 1))
    for _ in range(layers):
        t = w.add(at.self_attention(w, at.layer_norm(w, t, text_channels), text_channels, text_heads, mask), t)
        t = w.add(at.mlp(w, at.layer_norm(w, t, text_channels), text_channels, 4 * text_channels, "quick"), t)
    t = at.layer_norm(w, t, text_channels)
    end = w.node("ArgMax", w.cast(ids, TensorProto.INT32), axis=-1, keepdims=0)  # the end's id is the highest
    rows = at.positions(w, w.constant(0, np.int64), w.size(ids, 0))
    pairs = w.concat([w.unsqueeze(rows, 1), w.unsqueeze(end, 1)], 1)
    text = _normalised(w, w.linear(w.node("GatherND", t, pairs), text_channels, shared, bias=False))

    scale = w.node("Exp", w.data(np.array(math.log(1 / 0.07), np.float32)))
    per_text = w.mul(w.node("MatMul", text, w.transpose(image, 1, 0)), scale)
    w.output("logits_per_image", w.transpose(per_text, 1, 0), ("images", "texts"))
    w.output("text_embeds", text, ("texts", shared))
    w.output("image_embeds", image, ("images", shared))
    return w.model()


def _normalised(w: Writer, x: str) -> str:
    return w.node("Div", x, w.node("ReduceL2", x, axes=[-1], keepdims=1))


# SAM ----------------------------------------------------------------------------------------------------------------


def sam_encoder(
    side: int, patch: int, layers: int, channels: int, heads: int, window: int, every: int, out: int
) -> onnx.ModelProto:
    """The image encoder of Kirillov et al. 2023 (ViT-B): attention within windows, in every `every`-th layer over the
    whole image, with decomposed relative positions. Float32 [1, 3, side, side] -> [1, out, side/patch, side/patch]."""
    w = Writer("sam_encoder", opset=17)
    grid = side // patch
    x = w.conv(w.input("image", (1, 3, side, side)), 3, channels, patch, patch, pad=0, gain=1.0)
    x = w.add(w.transpose(x, 0, 2, 3, 1), w.weight(1, grid, grid, channels, scale=0.3))
    for layer in range(layers):
        everywhere = layer % every == every - 1
        y = at.layer_norm(w, x, channels, 1e-6)
        y = _window_attention(w, y, grid, channels, heads, grid if everywhere else window)
        x = w.add(x, y)
        x = w.add(x, at.mlp(w, at.layer_norm(w, x, channels, 1e-6), channels, 4 * channels))
    x = w.conv(w.transpose(x, 0, 3, 1, 2), channels, out, 1, bias=False, gain=1.0)
    x = w.conv(_layer_norm_2d(w, x, out), out, out, 3, bias=False, gain=1.0)
    w.output("image_embeddings", _layer_norm_2d(w, x, out), (1, out, grid, grid))
    return w.model()


def _layer_norm_2d(w: Writer, x: str, channels: int) -> str:
    """Over the channels of an image."""
    centred = w.node("Sub", x, w.mean(x, 1))
    variance = w.mean(w.node("Pow", centred, w.constant(2.0)), 1)
    normal = w.node("Div", centred, w.node("Sqrt", w.add(variance, w.constant(1e-6))))
    scaled = w.mul(w.weight(channels, 1, 1, scale=0.1, mean=1.0), normal)
    return w.add(scaled, w.weight(channels, 1, 1, scale=0.1))


def _window_attention(w: Writer, x: str, grid: int, channels: int, heads: int, window: int) -> str:
    """[1, grid, grid, channels] -> the same; windows beyond the border are filled with zeros."""
    head = channels // heads
    padded = -(-grid // window) * window
    count = padded // window
    if window < grid:
        if padded > grid:
            x = w.node("Pad", x, w.ints(0, 0, 0, 0, 0, padded - grid, padded - grid, 0), mode="constant")
        x = w.transpose(w.reshape(x, 1, count, window, count, window, channels), 0, 1, 3, 2, 4, 5)
        x = w.reshape(x, -1, window, window, channels)
    batch, tokens = (count**2 if window < grid else 1), window * window
    qkv = w.reshape(w.linear(x, channels, 3 * channels), batch, tokens, 3, heads, head)
    qkv = w.reshape(w.transpose(qkv, 2, 0, 3, 1, 4), 3, batch * heads, tokens, head)
    q, k, v = (w.squeeze(p, 0) for p in w.split("Split", 3, qkv, axis=0))
    scores = w.node("MatMul", w.mul(q, w.constant(head**-0.5)), w.transpose(k, 0, 2, 1))
    image = w.reshape(q, batch * heads, window, window, head)
    rows = w.node("Einsum", image, _relative(w, window, head), equation="bhwc,hkc->bhwk")
    columns = w.node("Einsum", image, _relative(w, window, head), equation="bhwc,wkc->bhwk")
    scores = w.reshape(scores, batch * heads, window, window, window, window)
    scores = w.add(w.add(scores, w.unsqueeze(rows, 4)), w.unsqueeze(columns, 3))
    weights = w.node("Softmax", w.reshape(scores, batch * heads, tokens, tokens), axis=-1)
    y = w.reshape(w.node("MatMul", weights, v), batch, heads, window, window, head)
    y = w.linear(w.reshape(w.transpose(y, 0, 2, 3, 1, 4), batch, window, window, channels), channels, channels)
    if window < grid:
        y = w.transpose(w.reshape(y, 1, count, count, window, window, channels), 0, 1, 3, 2, 4, 5)
        y = w.reshape(y, 1, padded, padded, channels)
        if padded > grid:
            y = w.slice(w.slice(y, 0, grid, 1), 0, grid, 2)
    return y


def _relative(w: Writer, size: int, head: int) -> str:
    """[size, size, head]: the stored vector of each distance of two rows."""
    distances = np.arange(size)[:, None] - np.arange(size)[None] + size - 1
    return w.node("Gather", w.weight(2 * size - 1, head, scale=0.1), w.constant(distances, np.int64), axis=0)
