"""Parts of Stable Diffusion 1.5: the first block of the UNet, and the decoder of the autoencoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from benchmarks.zoo import attention as at
from benchmarks.zoo.writer import Writer

GROUPS = 32


def _resnet(w: Writer, x: str, channels: int, out: int, time: str | None, width: int, groups: int) -> str:
    """Normalisation, SiLU and convolution twice; `time` [batch, width] is added between."""
    epsilon = 1e-5 if time else 1e-6
    y = w.conv(w.silu(w.group_norm(x, channels, groups, epsilon)), channels, out, gain=1.5)
    if time:
        y = w.add(y, w.unsqueeze(w.gemm(w.silu(time), width, out), 2, 3))
    y = w.conv(w.silu(w.group_norm(y, out, groups, epsilon)), out, out, gain=0.5)
    return w.add(x if channels == out else w.conv(x, channels, out, 1, gain=1.0), y)


def unet_block(
    side: int, channels: int, heads: int, context: int, text: int, layers: int, groups: int = GROUPS
) -> onnx.ModelProto:
    """Time embedding, the first convolution and the first block (ResNet layers, transformers with cross-attention and
    GEGLU, a strided convolution) of Rombach et al. 2022. Latents float32 [batch, 4, side, side], timestep float32
    [batch], text [batch, text, context] -> [batch, channels, side/2, side/2]."""
    w = Writer("sd15_unet_block", opset=14)
    sample = w.input("sample", ("batch", 4, side, side))
    step = w.input("timestep", ("batch",))
    states = w.input("encoder_hidden_states", ("batch", text, context))
    half = channels // 2
    rates = np.exp(-np.log(10000.0) * np.arange(half) / half).astype(np.float32)
    angles = w.mul(w.unsqueeze(step, 1), w.data(rates[None]))
    waves = w.concat([w.node("Sin", angles), w.node("Cos", angles)], 1)
    turned = w.concat([w.slice(waves, half, 2**63 - 1, 1), w.slice(waves, 0, half, 1)], 1)
    width = 4 * channels
    time = w.gemm(w.silu(w.gemm(turned, channels, width)), width, width)
    x = w.conv(sample, 4, channels, gain=1.0)
    for _ in range(layers):
        x = _resnet(w, x, channels, channels, time, width, groups)
        x = _transformer(w, x, side, channels, heads, states, context, groups)
    w.output("down", w.conv(x, channels, channels, 3, 2, pad=1, gain=1.0), ("batch", channels, side // 2, side // 2))
    return w.model()


def _transformer(
    w: Writer, x: str, side: int, channels: int, heads: int, states: str, context: int, groups: int
) -> str:
    head = channels // heads
    y = w.conv(w.group_norm(x, channels, groups, 1e-6), channels, channels, 1, gain=1.0)
    batch = w.size(y, 0)
    y = w.node("Reshape", w.transpose(y, 0, 2, 3, 1), w.shape_of(batch, side * side, channels))
    for source, size in ((None, channels), (states, context)):
        normal = at.layer_norm(w, y, channels)
        q = at.split_heads(w, w.linear(normal, channels, channels, bias=False), heads, head)
        k, v = (
            at.split_heads(w, w.linear(source or normal, size, channels, bias=False), heads, head) for _ in range(2)
        )
        mixed = at.merge_heads(w, at.attend(w, q, k, v, head), channels)
        y = w.add(w.linear(mixed, channels, channels, gain=0.3), y)
    wide = w.linear(at.layer_norm(w, y, channels), channels, 8 * channels)
    value, gate = w.split("Split", 2, wide, w.ints(4 * channels, 4 * channels), axis=-1)
    y = w.add(w.linear(w.mul(value, at.gelu_erf(w, gate)), 4 * channels, channels, gain=0.3), y)
    y = w.transpose(w.node("Reshape", y, w.shape_of(batch, side, side, channels)), 0, 3, 1, 2)
    return w.add(w.conv(y, channels, channels, 1, gain=0.5), x)


def vae_decoder(side: int, widths: Sequence[int], layers: int, groups: int = GROUPS) -> onnx.ModelProto:
    """Latents float32 [batch, 4, side, side] -> images [batch, 3, 8 side, 8 side] for four `widths`, outermost last."""
    w = Writer("sd15_vae_decoder", opset=17)
    x = w.conv(w.input("latent_sample", ("batch", 4, side, side)), 4, 4, 1, gain=1.0)
    channels = widths[0]
    x = w.conv(x, 4, channels, gain=1.0)
    x = _resnet(w, x, channels, channels, None, 0, groups)
    x = _image_attention(w, x, channels, groups)
    x = _resnet(w, x, channels, channels, None, 0, groups)
    for number, width in enumerate(widths):
        for _ in range(layers):
            x = _resnet(w, x, channels, width, None, 0, groups)
            channels = width
        if number < len(widths) - 1:
            scales = w.constant([1.0, 1.0, 2.0, 2.0])
            x = w.node("Resize", x, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric",
                       nearest_mode="floor")  # fmt: skip
            x = w.conv(x, channels, channels, gain=1.0)
    x = w.conv(w.silu(w.group_norm(x, channels, groups, 1e-6)), channels, 3, gain=1.0)
    size = side << (len(widths) - 1)
    w.output("sample", x, ("batch", 3, size, size))
    return w.model()


def _image_attention(w: Writer, x: str, channels: int, groups: int) -> str:
    """Attention with one head among all places of an image."""
    normal = w.group_norm(x, channels, groups, 1e-6)
    flat = w.node("Reshape", normal, w.shape_of(w.size(x, 0), channels, w.mul(w.size(x, 2), w.size(x, 3))))
    y = w.transpose(flat, 0, 2, 1)
    q, k, v = (w.linear(y, channels, channels) for _ in range(3))
    scores = w.mul(w.node("MatMul", q, w.transpose(k, 0, 2, 1)), w.constant(channels**-0.5))
    weights = w.cast(w.node("Softmax", scores, axis=-1), TensorProto.FLOAT)
    y = w.transpose(w.linear(w.node("MatMul", weights, v), channels, channels, gain=0.3), 0, 2, 1)
    return w.add(w.node("Reshape", y, w.node("Shape", x)), x)
