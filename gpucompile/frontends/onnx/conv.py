"""Conv, ConvTranspose and the poolings. One spatial axis is treated as two, the first of extent 1."""

from __future__ import annotations

from dataclasses import dataclass

from gpucompile.errors import ModelError
from gpucompile.frontends.onnx.call import Call, Operand, onnx_op, type_of
from gpucompile.ops.conv import Conv2d, ConvTranspose2d
from gpucompile.ops.movement import Pad, Reshape
from gpucompile.ops.pool import AveragePool2d, L2Pool2d, MaxPool2d, Pool2d
from gpucompile.ops.reduction import ReduceL2, ReduceMax, ReduceMean

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """The attributes all windowed ops have, for two spatial axes."""

    extents: Pair
    size: Pair
    strides: Pair
    dilations: Pair
    begins: Pair
    ends: Pair

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """In WebNN's order: top, bottom, left, right."""
        return self.begins[0], self.ends[0], self.begins[1], self.ends[1]


@onnx_op("Conv")
def conv(call: Call) -> Operand:
    x, f = _planar(call, 0), _planar(call, 1)
    kernel = call.type(1).shape[2:]
    if call.attr("kernel_shape", list(kernel)) != list(kernel):
        raise ModelError(f"kernel_shape is {call.attr('kernel_shape')}, the filter is {call.type(1)}")
    w = _window(call, list(kernel))
    op = Conv2d(w.padding, w.strides, w.dilations, call.attr("group", 1))
    return _restore(call, call.add(op, x, f, call.optional(2)))


@onnx_op("ConvTranspose")
def conv_transpose(call: Call) -> Operand:
    x, f = _planar(call, 0), _planar(call, 1)
    rank = call.type().rank - 2
    size = _pair(list(call.type(1).shape[2:]), 1)
    strides, dilations = _pair(call.attr("strides", [1] * rank), 1), _pair(call.attr("dilations", [1] * rank), 1)
    extra = _pair(call.attr("output_padding", [0] * rank), 0)
    pads = call.attr("pads", [0] * 2 * rank)
    begins, ends = list(_pair(pads[:rank], 0)), list(_pair(pads[rank:], 0))
    extents = type_of(x).shape[2:]
    same = call.attr("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
    target = call.attr("output_shape")
    target = _pair(target[-rank:], 1) if target else None
    for i in (0, 1):
        if not (same or target):
            break
        wanted = target[i] if target else extents[i] * strides[i]
        total = (extents[i] - 1) * strides[i] + extra[i] + (size[i] - 1) * dilations[i] + 1 - wanted
        if total < 0:  # the result is larger than the filter reaches
            extra = (extra[0] - total, extra[1]) if i == 0 else (extra[0], extra[1] - total)
            total = 0
        begins[i] = total - total // 2 if call.attr("auto_pad") != "SAME_UPPER" else total // 2
        ends[i] = total - begins[i]
    padding = (begins[0], ends[0], begins[1], ends[1])
    op = ConvTranspose2d(padding, strides, dilations, call.attr("group", 1), output_padding=extra)
    return _restore(call, call.add(op, x, f, call.optional(2)))


@onnx_op("MaxPool")
def max_pool(call: Call) -> Operand:
    call.only_first_output()
    return _pool(call, MaxPool2d)


@onnx_op("AveragePool")
def average_pool(call: Call) -> Operand:
    return _pool(call, AveragePool2d)


@onnx_op("LpPool")
def lp_pool(call: Call) -> Operand:
    if call.attr("p", 2) != 2:
        call.unsupported(f"p is {call.attr('p')}, only 2 is supported")
    return _pool(call, L2Pool2d)


@onnx_op("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(call: Call) -> Operand:
    kind = call.node.op_type
    if kind == "GlobalLpPool" and call.attr("p", 2) != 2:
        call.unsupported(f"p is {call.attr('p')}, only 2 is supported")
    rank = call.type().rank
    if rank == 4:
        planar = {"GlobalAveragePool": AveragePool2d, "GlobalMaxPool": MaxPool2d, "GlobalLpPool": L2Pool2d}
        return call.add(planar[kind](), call.operand(0))
    reduce = {"GlobalAveragePool": ReduceMean, "GlobalMaxPool": ReduceMax, "GlobalLpPool": ReduceL2}[kind]
    return call.add(reduce(tuple(range(2, rank)), True), call.operand(0))


def _pool(call: Call, kind: type[Pool2d]) -> Operand:
    x = _planar(call, 0)
    size = call.attr("kernel_shape")
    if not size:
        raise ModelError("the attribute kernel_shape is missing")
    w = _window(call, size)
    padding, chosen = w.padding, None
    if call.attr("ceil_mode", 0) and call.attr("auto_pad", "NOTSET") == "NOTSET":
        chosen = _rounded_up(w)
    if kind is AveragePool2d and call.attr("count_include_pad", 0) and any(padding):
        # padding counts in the divisor, what hangs over it in ceil mode does not: so make it part of the input
        x = call.add(Pad((0, 0, *w.begins), (0, 0, *w.ends)), x)
        padding = (0, 0, 0, 0)
    return _restore(call, call.add(kind(w.size, padding, w.strides, w.dilations, "nchw", chosen), x))


def _rounded_up(w: Window) -> Pair | None:
    """Result sizes rounded up, but without windows that start in the padding at the end; None where that changes
    nothing."""
    sizes, down = [], []
    for i in (0, 1):
        room = w.extents[i] + w.begins[i] + w.ends[i] - (w.size[i] - 1) * w.dilations[i] - 1
        up = -(-room // w.strides[i]) + 1
        sizes.append(up - 1 if (up - 1) * w.strides[i] >= w.extents[i] + w.begins[i] else up)
        down.append(room // w.strides[i] + 1)
    return None if sizes == down else (sizes[0], sizes[1])


def _window(call: Call, size: list[int]) -> Window:
    """Strides, dilations and padding of a node, with auto_pad resolved."""
    spatial = call.type().shape[2:]
    rank = len(spatial)
    strides, dilations = call.attr("strides", [1] * rank), call.attr("dilations", [1] * rank)
    pads = call.attr("pads", [0] * 2 * rank)
    for name, values, count in (("strides", strides, rank), ("dilations", dilations, rank), ("pads", pads, 2 * rank)):
        if len(values) != count or len(size) != rank:
            raise ModelError(f"{name} {values} and a window {size} do not suit {call.type()}")
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
    return Window(
        _pair(list(spatial), 1),
        _pair(size, 1),
        _pair(strides, 1),
        _pair(dilations, 1),
        _pair(pads[:rank], 0),
        _pair(pads[rank:], 0),
    )


def _pair(values: list[int], neutral: int) -> Pair:
    """Values of one or two spatial axes, for two."""
    return (neutral, values[0]) if len(values) == 1 else (values[0], values[1])


def _planar(call: Call, index: int) -> Operand:
    """Input `index` with two spatial axes."""
    t = call.type(index)
    if t.rank == 4:
        return call.operand(index)
    if t.rank == 3:
        return call.add(Reshape((*t.shape[:2], 1, t.shape[2])), call.operand(index))
    call.unsupported(f"its input {index} is {t}: {t.rank - 2} spatial axes; 1 and 2 are supported")


def _restore(call: Call, result: Operand) -> Operand:
    """The result with as many axes as input 0."""
    if call.type().rank == 4:
        return result
    n, c, _, w = type_of(result).shape
    return call.add(Reshape((n, c, w)), result)
