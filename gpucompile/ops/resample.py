"""Resampling of two axes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpucompile.ir.op import FLOATS, Constraint
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.categories import Anchor, Cases, tensor
from gpucompile.ops.formula import wide


@dataclass(frozen=True)
class Resample2d(Anchor):
    """Two axes at other sizes: the nearest element, or linear between neighbours, of the input at
    (i + 0.5) / scale - 0.5, where scale is the ratio of the sizes (WebNN resample2d). A neighbour of weight 0 takes no
    part, even if it is infinite or NaN.

    `sizes` are those of the result; without them they are floor(size * scale)."""

    constraints: ClassVar[dict[str, Constraint]] = {"input": (FLOATS | {DataType.UINT8, DataType.INT8}, 4, 4)}
    mode: str = "nearest-neighbor"
    scales: tuple[float, ...] | None = None
    sizes: tuple[int, ...] | None = None
    axes: tuple[int, ...] = (2, 3)

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        (t,) = ins
        if self.mode not in ("nearest-neighbor", "linear"):
            self.fail(ins, f"unknown mode {self.mode!r}")
        if len(self.axes) != 2 or len(set(self.axes)) != 2 or any(not 0 <= a < 4 for a in self.axes):
            self.fail(ins, f"axes {list(self.axes)} are not two axes of a rank 4 tensor")
        scales = (1.0, 1.0) if self.scales is None else self.scales
        if len(scales) != 2 or min(scales) <= 0:
            self.fail(ins, f"scales {list(scales)} needs two positive values")
        sizes = self.sizes
        if sizes is None:
            sizes = tuple(math.floor(t.shape[a] * s) for a, s in zip(self.axes, scales, strict=True))
        if len(sizes) != 2 or min(sizes) < 1:
            self.fail(ins, f"sizes {list(sizes)} needs two values from 1")
        shape = list(t.shape)
        for a, size in zip(self.axes, sizes, strict=True):
            shape[a] = size
        return (t.with_shape(tuple(shape)),)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        (x,) = ins
        (out,) = self.infer(TensorType.of(x))
        y = wide(x) if self.mode == "nearest-neighbor" else x.astype(np.float64)
        for a in self.axes:
            size, extent = out.shape[a], x.shape[a]
            # in units of 1 / (2 * size), so that nothing is rounded
            at = np.clip((2 * np.arange(size) + 1) * extent - size, 0, (extent - 1) * 2 * size)
            if self.mode == "nearest-neighbor":
                y = np.take(y, -((size - at) // (2 * size)), a)
                continue
            low, high = at // (2 * size), -(-at // (2 * size))
            part = (at % (2 * size) / (2 * size)).reshape([-1 if i == a else 1 for i in range(4)])
            y, above = np.take(y, low, a), np.take(y, high, a)
            y = np.where(part == 0, y, y * (1 - part) + above * part)  # 0 * inf would be NaN
        if x.dtype.kind != "f":
            y = np.rint(y)
        return y.astype(x.dtype)

    def openvino(self, ov: Any, *args: Any) -> Any:
        (x,) = args
        (out,) = self.infer(ov.type(x))
        mode = "nearest" if self.mode == "nearest-neighbor" else "linear_onnx"
        sizes = ov.integers([out.shape[a] for a in self.axes])
        return ov.interpolate(x, sizes, mode, "sizes", nearest_mode="round_prefer_floor", axes=ov.integers(self.axes))

    @classmethod
    def cases(cls) -> Cases:
        linear = "linear"
        yield cls(scales=(2.0, 2.0)), (tensor(1, 3, 5, 7),)
        yield cls(sizes=(7, 3)), (tensor(2, 3, 4, 5),)
        yield cls(sizes=(8, 5), axes=(1, 2)), (tensor(1, 4, 3, 8),)
        yield cls(scales=(0.5, 3.0)), (tensor(1, 2, 6, 5),)
        yield cls(), (tensor(1, 2, 3, 3),)
        yield cls(linear, (2.0, 2.0)), (tensor(1, 3, 5, 7),)
        yield cls(linear, None, (7, 3)), (tensor(2, 3, 4, 5),)
        yield cls(linear, None, (8, 5), (1, 2)), (tensor(1, 4, 3, 8),)
        yield cls(linear, (0.5, 3.0)), (tensor(1, 2, 6, 5),)
        yield cls(linear, None, (4, 4), (0, 3)), (tensor(1, 2, 3, 1),)
        yield cls(linear, None, (4, 3), (3, 1)), (tensor(1, 2, 3, 7),)
        yield cls(scales=(2.0, 2.0)), (tensor(1, 1, 3, 5, dtype=DataType.UINT8),)
