"""Image classifiers: MobileNetV2, ResNet50 v1 and v2, EfficientNet-Lite4, DenseNet121, SqueezeNet, FERPlus."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from benchmarks.zoo.writer import Writer

BRANCH = 0.3  # what the last normalisation of a residual branch scales by


def _rounded(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, but not more than 10 % below."""
    new = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return new + divisor if new < 0.9 * channels else new


def mobilenet_v2(side: int, width: float, repeats: Sequence[int], classes: int) -> onnx.ModelProto:
    """Sandler et al. 2018, as torchvision has it. Float32 [batch, 3, side, side] -> [batch, classes]."""
    w = Writer("mobilenet_v2", opset=11)
    x = w.input("input", ("batch", 3, side, side))
    channels = _rounded(32 * width)
    x = w.relu6(w.batch_norm(w.conv(x, 3, channels, 3, 2, bias=False), channels))
    expansions, outs, strides = (1, 6, 6, 6, 6, 6, 6), (16, 24, 32, 64, 96, 160, 320), (1, 2, 2, 2, 1, 2, 1)
    for expansion, out, stride, repeat in zip(expansions, outs, strides, repeats, strict=True):
        for i in range(repeat):
            x = _inverted_residual(w, x, channels, _rounded(out * width), expansion, stride if i == 0 else 1)
            channels = _rounded(out * width)
    last = _rounded(1280 * max(1.0, width))
    x = w.relu6(w.batch_norm(w.conv(x, channels, last, 1, bias=False), last))
    pooled = w.node("GlobalAveragePool", x)
    flat = w.node("Reshape", pooled, w.shape_of(w.size(x, 0), -1))
    w.output("output", w.gemm(flat, last, classes), ("batch", classes))
    return w.model()


def _inverted_residual(w: Writer, x: str, channels: int, out: int, expansion: int, stride: int) -> str:
    inner = channels * expansion
    y = x if expansion == 1 else w.relu6(w.batch_norm(w.conv(x, channels, inner, 1, bias=False), inner))
    y = w.relu6(w.batch_norm(w.conv(y, inner, inner, 3, stride, groups=inner, bias=False), inner))
    same = stride == 1 and channels == out
    y = w.batch_norm(w.conv(y, inner, out, 1, bias=False), out, BRANCH if same else 1.0)
    return w.add(x, y) if same else y


def resnet50_v1(side: int, width: int, blocks: Sequence[int], classes: int) -> onnx.ModelProto:
    """He et al. 2015; the stride is in the first 1x1. Float32 [batch, 3, side, side] -> [batch, classes]."""
    w = Writer("resnet50_v1", opset=8)
    x = w.input("data", ("batch", 3, side, side))
    x = w.relu(w.batch_norm(w.conv(x, 3, width, 7, 2, bias=False), width))
    x = w.max_pool(x, 3, 2, 1)
    channels = width
    for stage, count in enumerate(blocks):
        inner = width << stage
        for i in range(count):
            stride = 2 if i == 0 and stage else 1
            y = w.relu(w.batch_norm(w.conv(x, channels, inner, 1, stride), inner))
            y = w.relu(w.batch_norm(w.conv(y, inner, inner, 3, bias=False), inner))
            y = w.batch_norm(w.conv(y, inner, 4 * inner, 1), 4 * inner, BRANCH)
            if i == 0:
                x = w.batch_norm(w.conv(x, channels, 4 * inner, 1, stride, bias=False), 4 * inner)
            x = w.relu(w.add(y, x))
            channels = 4 * inner
    flat = w.node("Flatten", w.node("GlobalAveragePool", x))
    w.output("resnetv17_dense0_fwd", w.gemm(flat, channels, classes), ("batch", classes))
    return w.model()


def resnet50_v2(side: int, width: int, blocks: Sequence[int], classes: int) -> onnx.ModelProto:
    """He et al. 2016: normalisation and ReLU before each convolution, the input normalised too. Float32 [batch, 3,
    side, side] -> [batch, classes]."""
    w = Writer("resnet50_v2", opset=8)
    x = w.batch_norm(w.input("data", ("batch", 3, side, side)), 3)
    x = w.relu(w.batch_norm(w.conv(x, 3, width, 7, 2, bias=False), width))
    x = w.max_pool(x, 3, 2, 1)
    channels = width
    for stage, count in enumerate(blocks):
        inner = width << stage
        for i in range(count):
            stride = 2 if i == 0 and stage else 1
            before = w.relu(w.batch_norm(x, channels))
            y = w.conv(before, channels, inner, 1, bias=False)
            y = w.conv(w.relu(w.batch_norm(y, inner)), inner, inner, 3, stride, bias=False)
            y = w.conv(w.relu(w.batch_norm(y, inner)), inner, 4 * inner, 1, bias=False, gain=2 * BRANCH**2)
            shortcut = w.conv(before, channels, 4 * inner, 1, stride, bias=False) if i == 0 else x
            x = w.add(y, shortcut)
            channels = 4 * inner
    x = w.node("GlobalAveragePool", w.relu(w.batch_norm(x, channels)))
    w.output("resnetv24_dense0_fwd", w.gemm(w.node("Flatten", x), channels, classes), ("batch", classes))
    return w.model()


def efficientnet_lite4(side: int, width: float, depth: float, classes: int) -> onnx.ModelProto:
    """Tan and Le 2019, the Lite variant: no squeeze and excitation, ReLU6, stem and head not scaled, exported from
    TensorFlow with images in NHWC and its "same" padding. Float32 [batch, side, side, 3] -> [batch, classes]."""
    w = Writer("efficientnet_lite4", opset=11)
    x = w.transpose(w.input("images:0", ("batch", side, side, 3)), 0, 3, 1, 2)
    channels = 32
    x = w.relu6(w.batch_norm(w.conv(x, 3, channels, 3, 2, pad="SAME_UPPER", bias=False), channels, epsilon=1e-3))
    stages = (
        (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    )  # fmt: skip
    for stage, (repeat, kernel, stride, expansion, filters) in enumerate(stages):
        out = _rounded(filters * width)
        scaled = repeat if stage in (0, len(stages) - 1) else int(np.ceil(repeat * depth))
        for i in range(scaled):
            x = _mb_conv(w, x, channels, out, kernel, stride if i == 0 else 1, expansion)
            channels = out
    x = w.relu6(w.batch_norm(w.conv(x, channels, 1280, 1, bias=False), 1280, epsilon=1e-3))
    left = side
    for _ in range(5):
        left = -(-left // 2)
    pooled = w.node("AveragePool", x, kernel_shape=[left, left], strides=[1, 1])
    logits = w.linear(w.squeeze(pooled, 2, 3), 1280, classes)
    w.output("Softmax:0", w.node("Softmax", logits, axis=1), ("batch", classes))
    return w.model()


def _mb_conv(w: Writer, x: str, channels: int, out: int, kernel: int, stride: int, expansion: int) -> str:
    inner = channels * expansion
    y = x
    if expansion > 1:
        y = w.relu6(w.batch_norm(w.conv(y, channels, inner, 1, bias=False), inner, epsilon=1e-3))
    y = w.conv(y, inner, inner, kernel, stride, pad="SAME_UPPER", groups=inner, bias=False)
    y = w.relu6(w.batch_norm(y, inner, epsilon=1e-3))
    same = stride == 1 and channels == out
    y = w.batch_norm(w.conv(y, inner, out, 1, bias=False), out, BRANCH if same else 1.0, epsilon=1e-3)
    return w.add(y, x) if same else y


def densenet121(side: int, growth: int, blocks: Sequence[int], classes: int) -> onnx.ModelProto:
    """Huang et al. 2017. Float32 [batch, 3, side, side] -> [batch, classes]."""
    w = Writer("densenet121", opset=13)
    channels = 2 * growth
    x = w.input("input", ("batch", 3, side, side))
    x = w.relu(w.batch_norm(w.conv(x, 3, channels, 7, 2, bias=False), channels))
    x = w.max_pool(x, 3, 2, 1)
    for number, count in enumerate(blocks):
        parts = [x]
        for _ in range(count):
            y = w.concat(parts, 1) if len(parts) > 1 else parts[0]
            y = w.conv(w.relu(w.batch_norm(y, channels)), channels, 4 * growth, 1, bias=False)
            parts.append(w.conv(w.relu(w.batch_norm(y, 4 * growth)), 4 * growth, growth, 3, bias=False))
            channels += growth
        x = w.relu(w.batch_norm(w.concat(parts, 1), channels))
        if number < len(blocks) - 1:
            x = w.conv(x, channels, channels // 2, 1, bias=False)
            x = w.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
            channels //= 2
    flat = w.node("Flatten", w.node("GlobalAveragePool", x), axis=1)
    w.output("output", w.gemm(flat, channels, classes), ("batch", classes))
    return w.model()


def squeezenet(version: str, side: int, squeezes: Sequence[int], classes: int) -> onnx.ModelProto:
    """Iandola et al. 2016, "1.0" or "1.1"; `squeezes`: the narrow widths of the fire modules. Float32 [1, 3, side,
    side] -> [1, classes]."""
    w = Writer(f"squeezenet_{version}", opset=9)
    x = w.input("data", (1, 3, side, side))
    first, kernel, pools = (96, 7, (0, 3, 7)) if version == "1.0" else (64, 3, (0, 2, 4))
    channels = first * squeezes[0] // 16
    x = w.relu(w.conv(x, 3, channels, kernel, 2, pad=0))
    for i, squeeze in enumerate(squeezes):
        if i in pools:
            x = w.max_pool(x, 3, 2)
        expand = 4 * squeeze
        x = w.relu(w.conv(x, channels, squeeze, 1))
        x = w.concat([w.relu(w.conv(x, squeeze, expand, k)) for k in (1, 3)], 1)
        channels = 2 * expand
    x = w.relu(w.conv(w.node("Dropout", x, ratio=0.5), channels, classes, 1))
    x = w.reshape(w.node("GlobalAveragePool", x), 0, -1)
    w.output("softmaxout_1", w.node("Softmax", x, axis=1), (1, classes))
    return w.model()


def ferplus(side: int, width: float, hidden: int) -> onnx.ModelProto:
    """Barsoum et al. 2016: VGG13 on faces, as exported from CNTK. Float32 [1, 1, side, side] -> [1, 8]."""
    w = Writer("ferplus", opset=8)
    x = w.input("Input3", (1, 1, side, side))
    x = w.node("Div", w.node("Sub", x, w.data(np.float32(127.5))), w.data(np.float32(127.5)))
    channels = 1
    for filters, count in ((64, 2), (128, 2), (256, 3), (256, 3)):
        out = int(filters * width)
        for _ in range(count):
            x = w.conv(x, channels, out, 3, pad="SAME_UPPER", bias=False)
            x = w.relu(w.add(x, w.weight(out, 1, 1, scale=0.1)))
            channels = out
        x = w.node("Dropout", w.max_pool(x, 2, 2), ratio=0.25)
    size = channels * (side // 16) ** 2
    x = w.reshape(x, 1, size)
    for out in (hidden, hidden):
        x = w.node("Dropout", w.relu(w.linear(x, size, out, gain=2.0)), ratio=0.5)
        size = out
    w.output("Plus692_Output_0", w.linear(x, size, 8), (1, 8))
    return w.model()
