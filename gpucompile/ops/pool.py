"""Pooling over two spatial axes: average, L2 norm, maximum of the elements under a window.

Padding never takes part: it counts neither for the maximum nor for the divisor of the average. `output_sizes` chooses
between rounding the result sizes down (the default) and up, axis by axis; rounded up, the last window hangs over the
end, and what is outside counts as padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpucompile.ir.op import ALL, FLOATS, Constraint
from gpucompile.ir.types import TensorType
from gpucompile.ops.categories import Anchor, Cases, tensor
from gpucompile.ops.conv import (
    Geometry,
    Padding,
    Pair,
    by_name,
    check_window,
    output_sizes,
    to_layout,
    windows,
)
from gpucompile.ops.formula import is_wide, prefix


@dataclass(frozen=True)
class Pool2d(Anchor, abstract=True):
    """What the three poolings share. `window_dimensions` None is the whole input (global pooling).

    An accumulator starts at `identity`, takes `combine(accumulator, map(x))` for every element of the input under the
    window, and ends with `finish`; see `Reduction` for the conventions of these formulas."""

    constraints: ClassVar[dict[str, Constraint]] = {"input": (FLOATS, 4, 4)}
    identity: ClassVar[str] = "0.0"
    drops_nan: ClassVar[bool] = False

    window_dimensions: Pair | None = None
    padding: Padding = (0, 0, 0, 0)
    strides: Pair = (1, 1)
    dilations: Pair = (1, 1)
    layout: str = "nchw"
    output_sizes: Pair | None = None

    def geometry(self, input: TensorType) -> Geometry:
        """The extents for an input of this type. Raises TypeInferenceError where they clash."""
        check_window(self, (input,), self.padding, self.strides, self.dilations, self.layout)
        n, c, h, w = by_name(input.shape, self.layout, "nchw")
        kh, kw = window = self.window_dimensions or (h, w)
        if min(window) < 1:
            self.fail((input,), f"a window of {kh} x {kw}")
        oh, ow = output_sizes(
            self, (input,), (h, w), window, self.padding, self.strides, self.dilations, self.output_sizes
        )
        return Geometry(n, c, h, w, c, kh, kw, oh, ow, c)

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        g = self.geometry(ins[0])
        return (ins[0].with_shape(by_name((g.n, g.c_out, g.oh, g.ow), "nchw", self.layout)),)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        g = self.geometry(TensorType.of(ins[0]))
        out = self.compute(to_layout(ins[0], self.layout, "nchw"), g).astype(ins[0].dtype, copy=False)
        return to_layout(out, "nchw", self.layout)

    def windows(self, x: np.ndarray, g: Geometry, fill: Any = 0.0) -> np.ndarray:
        """The view [n, c, kh, kw, oh, ow] of an NCHW array."""
        return windows(x, (g.kh, g.kw), self.padding, self.strides, self.dilations, g, fill)

    def compute(self, x: np.ndarray, g: Geometry) -> np.ndarray:
        """The numpy result for an NCHW array."""
        raise NotImplementedError(f"{type(self).__name__}.compute")

    def map(self, x: str, t: str) -> str:
        """WGSL: what is done to an element before combining."""
        return x

    def combine(self, a: str, b: str, t: str) -> str:
        """WGSL: accumulator `a` with the mapped element `b`."""
        return f"({a} + {b})"

    def finish(self, x: str, count: str, t: str) -> str:
        """WGSL: the result from accumulator `x`; `count` is an expression of type `t`, the number of elements of the
        input under the window."""
        return x

    @classmethod
    def cases(cls) -> Cases:
        yield cls((2, 2), strides=(2, 2)), (tensor(1, 3, 8, 8),)
        yield cls((3, 3), (1, 1, 1, 1)), (tensor(2, 5, 7, 9),)
        yield cls((3, 2), (0, 1, 1, 0), (2, 3)), (tensor(1, 4, 11, 10),)
        yield cls((3, 3), strides=(2, 2), output_sizes=(6, 4)), (tensor(1, 6, 13, 8),)
        yield cls((2, 2), dilations=(2, 3)), (tensor(1, 3, 7, 8),)
        yield cls(), (tensor(1, 10, 7, 7),)
        yield cls(), (tensor(2, 3, 1, 33),)
        yield cls((3, 3), (1, 1, 1, 1), (2, 2), layout="nhwc"), (tensor(1, 9, 8, 12),)
        yield cls((2, 3), (1, 0, 0, 1), layout="nhwc"), (tensor(2, 5, 6, 7),)
        yield cls(layout="nhwc"), (tensor(1, 6, 5, 7),)


@dataclass(frozen=True)
class AveragePool2d(Pool2d):
    """The average of the elements under the window, padding left out (WebNN averagePool2d)."""

    def compute(self, x: np.ndarray, g: Geometry) -> np.ndarray:
        total = self.windows(x, g).sum(axis=(2, 3), dtype=np.float64)
        inside = np.ones((1, 1, g.h, g.w))
        one = Geometry(1, 1, g.h, g.w, 1, g.kh, g.kw, g.oh, g.ow)
        return np.asarray(total / self.windows(inside, one).sum(axis=(2, 3)))

    def finish(self, x: str, count: str, t: str) -> str:
        return f"({x} / {count})"


@dataclass(frozen=True)
class L2Pool2d(Pool2d):
    """The square root of the sum of squares (WebNN l2Pool2d)."""

    def compute(self, x: np.ndarray, g: Geometry) -> np.ndarray:
        return np.asarray(np.sqrt(self.windows(np.square(x, dtype=np.float64), g).sum(axis=(2, 3))))

    def map(self, x: str, t: str) -> str:
        return f"({x} * {x})"

    def finish(self, x: str, count: str, t: str) -> str:
        return f"sqrt({x})"


@dataclass(frozen=True)
class MaxPool2d(Pool2d):
    """The largest element under the window, NaN where there is one (WebNN maxPool2d)."""

    constraints: ClassVar[dict[str, Constraint]] = {"input": (ALL, 4, 4)}
    identity: ClassVar[str] = "lowest"
    drops_nan: ClassVar[bool] = True

    def compute(self, x: np.ndarray, g: Geometry) -> np.ndarray:
        lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        return np.asarray(self.windows(x, g, lowest).max(axis=(2, 3)))

    def combine(self, a: str, b: str, t: str) -> str:
        return f"select({a}, {b}, {prefix(t)}_less({a}, {b}))" if is_wide(t) else f"max({a}, {b})"
