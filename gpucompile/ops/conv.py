"""Convolutions over two spatial axes, and the window arithmetic that pooling shares.

    result[n, o, y, x] = bias[o] + sum over i, u, v of
                         filter[o, i, u, v] * input[n, i, y*sy + u*dy - top, x*sx + v*dx - left]

where positions outside the input count as zero, and a group of output channels sees its group of input channels only.
Padding is (top, bottom, left, right) as in WebNN; strides, dilations and sizes are (height, width).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gpucompile.errors import UnsupportedError
from gpucompile.ir.op import FLOATS, Constraint, MaybeType, Op
from gpucompile.ir.types import TensorType
from gpucompile.ops.categories import Anchor, Cases, tensor
from gpucompile.ops.contraction import operands

Pair = tuple[int, int]
Padding = tuple[int, int, int, int]
INPUT_LAYOUTS = ("nchw", "nhwc")


@dataclass(frozen=True)
class Geometry:
    """The extents of a convolution or pooling, whatever its layouts. Pooling has c_in = c_out = groups."""

    n: int
    c_in: int
    h: int
    w: int
    c_out: int
    kh: int
    kw: int
    oh: int
    ow: int
    groups: int = 1


@dataclass(frozen=True)
class Convolution(Anchor, abstract=True):
    """What conv2d and its transpose share. The filter's axes are named i and o as in the specification."""

    operands: ClassVar[tuple[str, ...]] = ("input", "filter", "bias?")
    constraints: ClassVar[dict[str, Constraint]] = {
        "input": (FLOATS, 4, 4),
        "filter": (FLOATS, 4, 4),
        "bias": (FLOATS, 1, 1),
    }
    filter_layouts: ClassVar[tuple[str, ...]] = ()

    padding: Padding = (0, 0, 0, 0)
    strides: Pair = (1, 1)
    dilations: Pair = (1, 1)
    groups: int = 1
    input_layout: str = "nchw"
    filter_layout: str = ""

    def geometry(self, input: TensorType, filter: TensorType) -> Geometry:
        """The extents for operands of these types. Raises TypeInferenceError where they clash."""
        raise NotImplementedError(f"{type(self).__name__}.geometry")

    def check_attributes(self, ins: tuple[MaybeType, ...]) -> None:
        check_window(self, ins, self.padding, self.strides, self.dilations, self.input_layout)
        if self.filter_layout not in self.filter_layouts:
            self.fail(ins, f"unknown filter layout {self.filter_layout!r}")

    def infer(self, *ins: MaybeType) -> tuple[TensorType, ...]:
        x, f, bias = operands(ins, 3)
        assert x is not None and f is not None
        g = self.geometry(x, f)
        if f.dtype != x.dtype or (bias is not None and bias.dtype != x.dtype):
            self.fail(ins, "data types differ")
        if bias is not None and bias.shape != (g.c_out,):
            self.fail(ins, f"bias needs the shape [{g.c_out}]")
        return (x.with_shape(by_name((g.n, g.c_out, g.oh, g.ow), "nchw", self.input_layout)),)


@dataclass(frozen=True)
class Conv2d(Convolution):
    """Convolution (WebNN conv2d). `input_layout` holds for input and result."""

    filter_layouts: ClassVar[tuple[str, ...]] = ("oihw", "hwio", "ohwi", "ihwo")
    filter_layout: str = "oihw"

    def geometry(self, input: TensorType, filter: TensorType) -> Geometry:
        """The extents for operands of these types. Raises TypeInferenceError where they clash."""
        ins = (input, filter)
        self.check_attributes(ins)
        n, c_in, h, w = by_name(input.shape, self.input_layout, "nchw")
        c_out, per_group, kh, kw = by_name(filter.shape, self.filter_layout, "oihw")
        if self.groups < 1 or c_in % self.groups or c_out % self.groups:
            self.fail(ins, f"{self.groups} groups do not divide {c_in} input and {c_out} output channels")
        if c_in // self.groups != per_group:
            self.fail(ins, f"the filter takes {per_group} input channels a group, there are {c_in // self.groups}")
        oh, ow = output_sizes(self, ins, (h, w), (kh, kw), self.padding, self.strides, self.dilations)
        return Geometry(n, c_in, h, w, c_out, kh, kw, oh, ow, self.groups)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        """im2col and one matrix product a group."""
        g = self.geometry(TensorType.of(ins[0]), TensorType.of(ins[1]))
        x = to_layout(ins[0], self.input_layout, "nchw")
        f = to_layout(ins[1], self.filter_layout, "oihw")
        wide = accumulator(x.dtype, g.n * g.c_out * g.oh * g.ow * f[0].size)
        columns = windows(x.astype(wide, copy=False), (g.kh, g.kw), self.padding, self.strides, self.dilations, g)
        columns = columns.reshape(g.n, g.groups, -1, g.oh * g.ow)
        out = np.matmul(f.astype(wide, copy=False).reshape(g.groups, g.c_out // g.groups, -1), columns)
        out = out.reshape(g.n, g.c_out, g.oh, g.ow)
        if len(ins) > 2 and ins[2] is not None:
            out = out + ins[2].astype(wide).reshape(-1, 1, 1)
        return to_layout(out.astype(x.dtype, copy=False), "nchw", self.input_layout)

    @classmethod
    def cases(cls) -> Cases:
        bias = tensor(5)
        yield cls(), (tensor(1, 3, 7, 9), tensor(5, 3, 1, 1), bias)
        yield cls(padding=(1, 1, 1, 1)), (tensor(2, 3, 7, 9), tensor(5, 3, 3, 3), bias)
        yield cls(padding=(0, 2, 1, 0), strides=(2, 3)), (tensor(1, 6, 11, 10), tensor(9, 6, 3, 2))
        yield cls(padding=(2, 2, 2, 2), dilations=(2, 2)), (tensor(1, 4, 9, 9), tensor(8, 4, 3, 3), tensor(8))
        yield cls(padding=(3, 3, 3, 3), strides=(2, 2)), (tensor(1, 3, 20, 21), tensor(16, 3, 7, 7), tensor(16))
        yield cls(padding=(1, 1, 1, 1)), (tensor(1, 32, 8, 8), tensor(36, 32, 3, 3), tensor(36))
        yield cls(), (tensor(1, 68, 6, 6), tensor(40, 68, 1, 1), None)
        yield cls(groups=3), (tensor(1, 9, 6, 5), tensor(12, 3, 1, 1), tensor(12))
        yield cls(groups=2, padding=(1, 1, 1, 1), strides=(2, 2)), (tensor(2, 8, 7, 7), tensor(6, 4, 3, 3), tensor(6))
        yield cls(groups=7, padding=(1, 1, 1, 1)), (tensor(1, 7, 6, 6), tensor(7, 1, 3, 3), tensor(7))
        yield cls(groups=8, padding=(1, 1, 1, 1), strides=(2, 2)), (tensor(1, 8, 8, 8), tensor(16, 1, 3, 3))
        for layout, shape in (("oihw", (5, 3, 3, 2)), ("hwio", (3, 2, 3, 5)), ("ohwi", (5, 3, 2, 3))):
            nhwc = cls((1, 1, 1, 0), input_layout="nhwc", filter_layout=layout)
            yield nhwc, (tensor(1, 7, 9, 3), tensor(*shape), bias)
        yield cls(input_layout="nhwc", filter_layout="hwio"), (tensor(1, 6, 7, 8), tensor(1, 1, 8, 12), tensor(12))
        nhwc = cls((1, 1, 1, 1), (2, 2), (1, 1), 8, "nhwc", "ihwo")
        yield nhwc, (tensor(2, 9, 8, 8), tensor(1, 3, 3, 8), tensor(8))


@dataclass(frozen=True)
class ConvTranspose2d(Convolution):
    """Transposed convolution: the gradient of conv2d (WebNN convTranspose2d). Every input element adds its multiple of
    the filter to the result at stride distance; `padding` is cut off the result.

    `output_sizes` overrides `output_padding`: the result may be up to stride - 1 larger at its end."""

    filter_layouts: ClassVar[tuple[str, ...]] = ("iohw", "hwoi", "ohwi")
    filter_layout: str = "iohw"
    output_padding: Pair = (0, 0)
    output_sizes: Pair | None = None

    def geometry(self, input: TensorType, filter: TensorType) -> Geometry:
        """The extents for operands of these types. Raises TypeInferenceError where they clash."""
        ins = (input, filter)
        self.check_attributes(ins)
        n, c_in, h, w = by_name(input.shape, self.input_layout, "nchw")
        filter_in, per_group, kh, kw = by_name(filter.shape, self.filter_layout, "iohw")
        if filter_in != c_in or self.groups < 1:
            self.fail(ins, f"{c_in} input channels, {filter_in} in the filter, {self.groups} groups")
        sizes = []
        for axis, (extent, size) in enumerate(((h, kh), (w, kw))):
            s, (begin, end) = self.strides[axis], self.padding[2 * axis : 2 * axis + 2]
            least = (extent - 1) * s + (size - 1) * self.dilations[axis] + 1 - begin - end
            chosen = self.output_sizes[axis] if self.output_sizes else least + self.output_padding[axis]
            if not max(1, least) <= chosen < least + s:
                self.fail(ins, f"output size {chosen} must be at least {max(1, least)} and less than {least + s}")
            sizes.append(chosen)
        return Geometry(n, c_in, h, w, per_group * self.groups, kh, kw, sizes[0], sizes[1], self.groups)

    def require_whole_groups(self, g: Geometry) -> None:
        """Raise UnsupportedError where groups would share an input channel: the specification gives such operands a
        result type, but no result."""
        if g.c_in % g.groups:
            raise UnsupportedError(f"{self.name}: {g.groups} groups do not divide {g.c_in} input channels")

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        """One product a filter tap, added into a canvas from which the padding is cut."""
        g = self.geometry(TensorType.of(ins[0]), TensorType.of(ins[1]))
        self.require_whole_groups(g)
        (sy, sx), (dy, dx), (top, _, left, _) = self.strides, self.dilations, self.padding
        wide = accumulator(ins[0].dtype, g.n * g.c_in * g.h * g.w * g.c_out * g.kh * g.kw // g.groups)
        x = to_layout(ins[0], self.input_layout, "nchw").astype(wide).reshape(g.n, g.groups, -1, g.h * g.w)
        f = to_layout(ins[1], self.filter_layout, "iohw").astype(wide)
        f = f.reshape(g.groups, g.c_in // g.groups, g.c_out // g.groups, g.kh, g.kw).swapaxes(1, 2)
        height = max(top + g.oh, (g.h - 1) * sy + (g.kh - 1) * dy + 1)
        width = max(left + g.ow, (g.w - 1) * sx + (g.kw - 1) * dx + 1)
        canvas = np.zeros((g.n, g.c_out, height, width), wide)
        for u in range(g.kh):
            for v in range(g.kw):
                part = np.matmul(f[..., u, v], x).reshape(g.n, g.c_out, g.h, g.w)
                canvas[:, :, u * dy :, v * dx :][:, :, : (g.h - 1) * sy + 1 : sy, : (g.w - 1) * sx + 1 : sx] += part
        out = canvas[:, :, top : top + g.oh, left : left + g.ow]
        if len(ins) > 2 and ins[2] is not None:
            out = out + ins[2].astype(wide).reshape(-1, 1, 1)
        return to_layout(out.astype(ins[0].dtype), "nchw", self.input_layout)

    @classmethod
    def cases(cls) -> Cases:
        yield cls(), (tensor(1, 3, 5, 6), tensor(3, 4, 3, 3), tensor(4))
        yield cls((1, 1, 1, 1), (2, 2), output_padding=(1, 1)), (tensor(1, 3, 5, 6), tensor(3, 5, 3, 3), tensor(5))
        yield cls((1, 0, 0, 1), (2, 3), (1, 2), output_sizes=(12, 19)), (tensor(2, 4, 6, 6), tensor(4, 2, 3, 2))
        yield cls(groups=3, strides=(2, 2)), (tensor(1, 6, 4, 4), tensor(6, 2, 2, 2), tensor(6))
        yield cls(input_layout="nhwc", filter_layout="hwoi"), (tensor(1, 5, 6, 3), tensor(3, 3, 4, 3), tensor(4))
        yield cls(input_layout="nhwc", filter_layout="ohwi"), (tensor(1, 5, 6, 3), tensor(4, 3, 3, 3))


# Window arithmetic, shared with pooling ----------------------------------------------------------------------------


def by_name(values: tuple[int, ...], source: str, target: str) -> tuple[int, ...]:
    """Values given in the order of the axis letters `source`, in the order of `target`."""
    return tuple(values[source.index(axis)] for axis in target)


def to_layout(array: np.ndarray, source: str, target: str) -> np.ndarray:
    """A view of `array` with its axes in another order."""
    return array.transpose([source.index(axis) for axis in target])


def accumulator(dtype: np.dtype[np.generic], multiplications: int) -> type[np.floating]:
    """float64, so that the oracle is better than what it judges; float32 where float64 would take too long."""
    return np.float32 if multiplications > 1 << 26 and dtype.itemsize <= 4 else np.float64


def check_window(
    op: Op, ins: tuple[MaybeType, ...], padding: Padding, strides: Pair, dilations: Pair, layout: str
) -> None:
    """The rules every windowed op has for its attributes."""
    if len(padding) != 4 or min(padding) < 0:
        op.fail(ins, f"padding {list(padding)} needs four values from 0")
    for name, pair in (("strides", strides), ("dilations", dilations)):
        if len(pair) != 2 or min(pair) < 1:
            op.fail(ins, f"{name} {list(pair)} needs two values from 1")
    if layout not in INPUT_LAYOUTS:
        op.fail(ins, f"unknown layout {layout!r}")


def output_sizes(
    op: Op,
    ins: tuple[MaybeType, ...],
    extents: Pair,
    window: Pair,
    padding: Padding,
    strides: Pair,
    dilations: Pair,
    chosen: Pair | None = None,
) -> Pair:
    """Result sizes, rounded down; or `chosen`, which may be rounded up instead on each axis."""
    sizes = []
    for axis in (0, 1):
        covered = (window[axis] - 1) * dilations[axis] + 1
        room = extents[axis] + padding[2 * axis] + padding[2 * axis + 1] - covered
        down, up = room // strides[axis] + 1, -(-room // strides[axis]) + 1
        size = chosen[axis] if chosen else down
        if size not in (down, up):
            op.fail(ins, f"output size {size} is neither {down} nor {up}")
        if size < 1:
            op.fail(ins, f"a window of {covered} does not fit into {extents[axis]} and its padding")
        sizes.append(size)
    return sizes[0], sizes[1]


def windows(
    x: np.ndarray, window: Pair, padding: Padding, strides: Pair, dilations: Pair, g: Geometry, fill: float = 0.0
) -> np.ndarray:
    """A view [n, c, kh, kw, oh, ow] of an NCHW array, filled up with `fill` as far as its windows reach."""
    ends = []
    for axis, size in enumerate((g.oh, g.ow)):
        reach = (size - 1) * strides[axis] + (window[axis] - 1) * dilations[axis] + 1
        ends.append(max(0, reach - padding[2 * axis] - x.shape[2 + axis]))
    if any((padding[0], padding[2], *ends)):
        x = np.pad(x, ((0, 0), (0, 0), (padding[0], ends[0]), (padding[2], ends[1])), constant_values=fill)
    n, c, y, z = x.strides
    return np.lib.stride_tricks.as_strided(
        x,
        (g.n, x.shape[1], *window, g.oh, g.ow),
        (n, c, y * dilations[0], z * dilations[1], y * strides[0], z * strides[1]),
        writeable=False,
    )
