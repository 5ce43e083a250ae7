"""Networks whose result is an image or a grid: Tiny YOLO v2, DeepLab v3, fast neural style."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto

from benchmarks.zoo.writer import Writer


def tiny_yolo_v2(side: int, width: float) -> onnx.ModelProto:
    """Redmon and Farhadi 2016, 20 classes and 5 anchors. Float32 [batch, 3, side, side] with levels 0..255 -> [batch,
    125, side/32, side/32]."""
    w = Writer("tiny_yolo_v2", opset=8)
    x = w.input("image", ("batch", 3, side, side))
    x = w.add(w.mul(x, w.data(np.array([1 / 255], np.float32))), w.data(np.zeros((3, 1, 1), np.float32)))
    channels = 3
    for i, filters in enumerate((16, 32, 64, 128, 256, 512, 1024, 1024)):
        out = int(filters * width)
        x = w.batch_norm(w.conv(x, channels, out, 3, pad="SAME_UPPER", bias=False), out)
        x = w.node("LeakyRelu", x, alpha=0.1)
        if i < 6:
            stride = [2, 2] if i < 5 else [1, 1]
            x = w.node("MaxPool", x, kernel_shape=[2, 2], strides=stride, auto_pad="SAME_UPPER")
        channels = out
    w.output("grid", w.conv(x, channels, 125, 1, pad="SAME_UPPER", gain=1.0), ("batch", 125, side // 32, side // 32))
    return w.model()


def deeplab_v3(side: int, width: int, blocks: Sequence[int], aspp: int, classes: int) -> onnx.ModelProto:
    """Chen et al. 2017 on ResNet50 with output stride 8, as torchvision exports it. Float32 [batch, 3, side, side] ->
    [batch, classes, side, side]."""
    w = Writer("deeplab_v3", opset=13)
    image = w.input("input", ("batch", 3, side, side))
    x = w.relu(w.batch_norm(w.conv(image, 3, width, 7, 2, bias=False), width))
    x = w.max_pool(x, 3, 2, 1)
    channels = width
    for stage, count in enumerate(blocks):
        inner = width << stage
        for i in range(count):
            stride = 2 if i == 0 and stage == 1 else 1
            dilation = 1 if stage < 2 else 1 << (stage - 1 - (i == 0))
            y = w.relu(w.batch_norm(w.conv(x, channels, inner, 1, bias=False), inner))
            y = w.conv(y, inner, inner, 3, stride, dilation=dilation, bias=False)
            y = w.conv(w.relu(w.batch_norm(y, inner)), inner, 4 * inner, 1, bias=False)
            y = w.batch_norm(y, 4 * inner, 0.3)
            if i == 0:
                x = w.batch_norm(w.conv(x, channels, 4 * inner, 1, stride, bias=False), 4 * inner)
            x = w.relu(w.add(y, x))
            channels = 4 * inner
    x = _aspp(w, x, channels, aspp)
    x = w.relu(w.batch_norm(w.conv(x, aspp, aspp, 3, bias=False), aspp))
    x = w.conv(x, aspp, classes, 1, gain=1.0)
    sizes = w.node("Slice", w.node("Shape", image), w.ints(-2), w.ints(2**63 - 1), w.ints(0))
    w.output("out", _resize(w, x, sizes, "linear"), ("batch", classes, side, side))
    return w.model()


def _aspp(w: Writer, x: str, channels: int, out: int) -> str:
    """Convolutions of the same image at four rates, and its average, resized back."""
    parts = [w.relu(w.batch_norm(w.conv(x, channels, out, 1, bias=False), out))]
    for rate in (12, 24, 36):
        parts.append(w.relu(w.batch_norm(w.conv(x, channels, out, 3, dilation=rate, bias=False), out)))
    size = w.node("Slice", w.node("Shape", x), w.ints(-2), w.ints(2**63 - 1), w.ints(0))
    pooled = w.conv(w.node("GlobalAveragePool", x), channels, out, 1, bias=False)
    parts.append(_resize(w, w.relu(w.batch_norm(pooled, out)), size, "linear"))
    x = w.conv(w.concat(parts, 1), 5 * out, out, 1, bias=False)
    return w.node("Dropout", w.relu(w.batch_norm(x, out)))


def _resize(w: Writer, x: str, size: str, mode: str) -> str:
    """Resize to an int64 [2] of height and width, as exported from torch.nn.functional.interpolate."""
    batch = w.node("Slice", w.node("Shape", x), w.ints(0), w.ints(2), w.ints(0))
    sizes = w.concat([batch, w.cast(size, TensorProto.INT64)], 0)
    transform = "pytorch_half_pixel" if mode == "linear" else "asymmetric"
    attributes = {"coordinate_transformation_mode": transform, "cubic_coeff_a": -0.75, "nearest_mode": "floor"}
    return w.node("Resize", x, "", "", sizes, mode=mode, **attributes)


def fast_neural_style(side: int, width: int, residuals: int) -> onnx.ModelProto:
    """Johnson et al. 2016 with instance normalisation and upsampling, as in the PyTorch examples. Float32 [1, 3, side,
    side] -> the same."""
    w = Writer("fast_neural_style", opset=11)
    x = w.input("input1", (1, 3, side, side))
    x = w.relu(_styled(w, x, 3, width, 9))
    x = w.relu(_styled(w, x, width, 2 * width, 3, 2))
    x = w.relu(_styled(w, x, 2 * width, 4 * width, 3, 2))
    for _ in range(residuals):
        y = w.relu(_styled(w, x, 4 * width, 4 * width, 3))
        x = w.add(_styled(w, y, 4 * width, 4 * width, 3), x)
    for channels in (4 * width, 2 * width):
        roi, scales = w.constant([]), w.constant([1.0, 1.0, 2.0, 2.0])
        x = w.node("Resize", x, roi, scales, mode="nearest", coordinate_transformation_mode="asymmetric",
                   nearest_mode="floor")  # fmt: skip
        x = w.relu(_styled(w, x, channels, channels // 2, 3))
    w.output("output1", _reflected(w, x, width, 3, 9, 1), (1, 3, side, side))
    return w.model()


def _reflected(w: Writer, x: str, channels: int, out: int, kernel: int, stride: int) -> str:
    border = kernel // 2
    padded = w.node("Pad", x, w.ints(0, 0, border, border, 0, 0, border, border), mode="reflect")
    return w.conv(padded, channels, out, kernel, stride, pad=0)


def _styled(w: Writer, x: str, channels: int, out: int, kernel: int, stride: int = 1) -> str:
    y = _reflected(w, x, channels, out, kernel, stride)
    scale, bias = w.weight(out, scale=0.1, mean=1.0), w.weight(out, scale=0.1)
    return w.node("InstanceNormalization", y, scale, bias, epsilon=1e-5)
