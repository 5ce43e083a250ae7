"""Conv and ConvTranspose. One spatial axis is treated as two, the first of extent 1; three are in `volume.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpucompile.errors import ModelError
from gpucompile.frontends.onnx.call import Call, Operand, onnx_op, type_of
from gpucompile.frontends.onnx.volume import conv3d, conv_transpose3d
from gpucompile.ops.conv import Conv2d, ConvTranspose2d
from gpucompile.ops.movement import Reshape

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """The attributes all windowed ops have, one number for each spatial axis."""

    extents: tuple[int, ...]
    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """In WebNN's order: top, bottom, left, right. For two axes."""
        return self.begins[0], self.ends[0], self.begins[1], self.ends[1]

    @property
    def planar(self) -> Window:
        """One axis as two, the first of extent 1."""
        if len(self.extents) != 1:
            return self
        return Window(*((v, values[0]) for v, values in zip((1, 1, 1, 1, 0, 0), vars(self).values(), strict=True)))


def window_of(call: Call, size: Sequence[int]) -> Window:
    """Strides, dilations and padding of a node, with auto_pad resolved."""
    spatial = call.type().shape[2:]
    rank = len(spatial)
    strides, dilations = call.attr("strides", [1] * rank), call.attr("dilations", [1] * rank)
    pads = call.attr("pads", [0] * 2 * rank)
    for name, values, count in (("strides", strides, rank), ("dilations", dilations, rank), ("pads", pads, 2 * rank)):
        if len(values) != count or len(size) != rank:
            raise ModelError(f"{name} {values} and a window {list(size)} do not suit {call.type()}")
    auto = call.attr("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = [0] * 2 * rank
        for i in range(rank):
            reach = (-(-spatial[i] // strides[i]) - 1) * strides[i] + (size[i] - 1) * dilations[i] + 1
            total = max(reach - spatial[i], 0)
            pads[i] = total // 2 if auto == "SAME_UPPER" else total - total // 2
            pads[rank + i] = total - pads[i]
    elif auto == "VALID":
        pads = [0] * 2 * rank
    elif auto != "NOTSET":
        raise ModelError(f"unknown auto_pad {auto!r}")
    if min(pads, default=0) < 0:
        call.unsupported(f"negative padding {pads}")
    groups = (spatial, size, strides, dilations, pads[:rank], pads[rank:])
    return Window(*(tuple(int(v) for v in values) for values in groups))


def spatial_rank(call: Call) -> int:
    """1, 2 or 3 spatial axes, or UnsupportedError."""
    t = call.type()
    if not 3 <= t.rank <= 5:
        call.unsupported(f"its input 0 is {t}: {t.rank - 2} spatial axes; 1, 2 and 3 are supported")
    return t.rank - 2


def planar(call: Call, x: Operand) -> Operand:
    """An operand with two spatial axes."""
    shape = type_of(x).shape
    return x if len(shape) == 4 else call.add(Reshape((*shape[:2], 1, shape[2])), x)


def restored(call: Call, result: Operand) -> Operand:
    """The result with as many axes as input 0."""
    if call.type().rank == 4:
        return result
    n, c, _, w = type_of(result).shape
    return call.add(Reshape((n, c, w)), result)


@onnx_op("Conv")
def conv(call: Call) -> Operand:
    return convolution(call, call.operand(0), call.operand(1), call.optional(2))


def convolution(call: Call, x: Operand, f: Operand, bias: Operand | None) -> Operand:
    """Conv with the attributes of a node."""
    rank = spatial_rank(call)
    kernel = type_of(f).shape[2:]
    if len(kernel) != rank:
        raise ModelError(f"a filter {type_of(f)} does not suit {call.type()}")
    if call.attr("kernel_shape", list(kernel)) != list(kernel):
        raise ModelError(f"kernel_shape is {call.attr('kernel_shape')}, the filter is {type_of(f)}")
    w, groups = window_of(call, kernel), call.attr("group", 1)
    if rank == 3:
        return conv3d(call, x, f, bias, w.strides, w.dilations, (*w.begins, *w.ends), groups)
    w = w.planar
    op = Conv2d(w.padding, (w.strides[0], w.strides[1]), (w.dilations[0], w.dilations[1]), groups)
    return restored(call, call.add(op, planar(call, x), planar(call, f), bias))


@onnx_op("ConvTranspose")
def conv_transpose(call: Call) -> Operand:
    rank = spatial_rank(call)
    if call.type(1).rank != rank + 2:
        raise ModelError(f"a filter {call.type(1)} does not suit {call.type()}")
    extents, size = call.type().shape[2:], call.type(1).shape[2:]
    strides, dilations = call.attr("strides", [1] * rank), call.attr("dilations", [1] * rank)
    extra = list(call.attr("output_padding", [0] * rank))
    pads = call.attr("pads", [0] * 2 * rank)
    begins, ends = list(pads[:rank]), list(pads[rank:])
    auto = call.attr("auto_pad", "NOTSET")
    target = call.attr("output_shape")
    for i in range(rank if auto in ("SAME_UPPER", "SAME_LOWER") or target else 0):
        wanted = target[i - rank] if target else extents[i] * strides[i]
        total = (extents[i] - 1) * strides[i] + extra[i] + (size[i] - 1) * dilations[i] + 1 - wanted
        if total < 0:  # the result is larger than the filter reaches
            extra[i] -= total
            total = 0
        begins[i] = total - total // 2 if auto != "SAME_UPPER" else total // 2
        ends[i] = total - begins[i]
    x, f, bias, groups = call.operand(0), call.operand(1), call.optional(2), call.attr("group", 1)
    if rank == 3:
        return conv_transpose3d(call, x, f, bias, strides, dilations, (*begins, *ends), extra, groups)
    w = Window(extents, size, tuple(strides), tuple(dilations), tuple(begins), tuple(ends)).planar
    two = (extra[0], extra[1]) if rank == 2 else (0, extra[0])
    op = ConvTranspose2d(
        w.padding, (w.strides[0], w.strides[1]), (w.dilations[0], w.dilations[1]), groups, output_padding=two
    )
    return restored(call, call.add(op, planar(call, x), planar(call, f), bias))
