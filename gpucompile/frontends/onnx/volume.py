"""Convolutions and poolings over three spatial axes, by those over two.

Depth joins the batch: a result plane is a 2-D convolution whose input channels are those of all the planes under the
filter. Poolings are separable: first height and width, then depth.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpucompile.errors import ModelError
from gpucompile.frontends.onnx.call import Call, Operand, type_of
from gpucompile.frontends.onnx.movement import sliced
from gpucompile.ops.conv import Conv2d, ConvTranspose2d
from gpucompile.ops.movement import Concat, Pad, Reshape, Transpose
from gpucompile.ops.pool import Pool2d

Triple = Sequence[int]


def conv3d(
    call: Call,
    x: Operand,
    f: Operand,
    bias: Operand | None,
    strides: Triple,
    dilations: Triple,
    pads: Triple,
    groups: int,
) -> Operand:
    """x [n, c, d, h, w] with a filter [o, c / groups, kd, kh, kw]; pads are three begins and three ends."""
    if pads[0] or pads[3]:
        x = call.add(Pad((0, 0, pads[0], 0, 0), (0, 0, pads[3], 0, 0)), x)
    depth = type_of(f).shape[2]
    planes = (type_of(x).shape[2] - (depth - 1) * dilations[0] - 1) // strides[0] + 1
    if planes < 1:
        raise ModelError(f"a filter {type_of(f)} does not fit into {call.type()}")
    starts = [t * dilations[0] for t in range(depth)]
    folded = _fold(call, x, starts, strides[0], planes)
    o, per_group, _, kh, kw = type_of(f).shape
    flat = call.add(Reshape((o, per_group * depth, kh, kw)), f)
    op = Conv2d((pads[1], pads[4], pads[2], pads[5]), (strides[1], strides[2]), (dilations[1], dilations[2]), groups)
    return _unfold(call, call.add(op, folded, flat, bias), planes)


def conv_transpose3d(
    call: Call,
    x: Operand,
    f: Operand,
    bias: Operand | None,
    strides: Triple,
    dilations: Triple,
    pads: Triple,
    extra: Triple,
    groups: int,
) -> Operand:
    """x [n, c, d, h, w] with a filter [c, o / groups, kd, kh, kw]: planes of zeros between those of x make a strided
    depth an unstrided one, along which the filter runs backwards."""
    n, c, d, h, w = type_of(x).shape
    _, per_group, depth, kh, kw = type_of(f).shape
    if strides[0] > 1:
        wide = call.add(
            Pad((0, 0, 0, 0, 0, 0), (0, 0, 0, strides[0] - 1, 0, 0)), call.add(Reshape((n, c, d, 1, h, w)), x)
        )
        x = call.add(Reshape((n, c, d * strides[0], h, w)), wide)
        x = sliced(call, x, [slice(None), slice(None), slice(0, (d - 1) * strides[0] + 1)] + [slice(None)] * 2)
    reach = (depth - 1) * dilations[0]
    begin, end = reach - pads[0], reach - pads[3] + extra[0]
    x = call.add(Pad((0, 0, max(0, begin), 0, 0), (0, 0, max(0, end), 0, 0)), x)
    x = sliced(
        call, x, [slice(None)] * 2 + [slice(max(0, -begin), type_of(x).shape[2] - max(0, -end))] + [slice(None)] * 2
    )
    planes = type_of(x).shape[2] - reach
    folded = _fold(call, x, [reach - t * dilations[0] for t in range(depth)], 1, planes)
    flat = call.add(Reshape((c * depth, per_group, kh, kw)), call.add(Transpose((0, 2, 1, 3, 4)), f))
    op = ConvTranspose2d(
        (pads[1], pads[4], pads[2], pads[5]),
        (strides[1], strides[2]),
        (dilations[1], dilations[2]),
        groups,
        output_padding=(extra[1], extra[2]),
    )
    return _unfold(call, call.add(op, folded, flat, bias), planes)


def pool3d(
    call: Call,
    kind: type[Pool2d],
    x: Operand,
    size: Triple,
    strides: Triple,
    dilations: Triple,
    pads: Triple,
    chosen: Triple | None,
) -> Operand:
    """x [n, c, d, h, w]: a pooling of planes, then one along depth. `chosen` are the result's extents if rounded up."""
    n, c, d, h, w = type_of(x).shape
    planes = call.add(Reshape((n * d, c, h, w)), call.add(Transpose((0, 2, 1, 3, 4)), x))
    last = None if chosen is None else (chosen[1], chosen[2])
    op = kind(
        (size[1], size[2]),
        (pads[1], pads[4], pads[2], pads[5]),
        (strides[1], strides[2]),
        (dilations[1], dilations[2]),
        "nchw",
        last,
    )
    y = call.add(op, planes)
    oh, ow = type_of(y).shape[2:]
    columns = call.add(Transpose((0, 2, 1, 3, 4)), call.add(Reshape((n, d, c, oh, ow)), y))
    columns = call.add(Reshape((n, c, d, oh * ow)), columns)
    first = None if chosen is None else (chosen[0], oh * ow)
    op = kind((size[0], 1), (pads[0], pads[3], 0, 0), (strides[0], 1), (dilations[0], 1), "nchw", first)
    y = call.add(op, columns)
    return call.add(Reshape((n, c, type_of(y).shape[2], oh, ow)), y)


def _fold(call: Call, x: Operand, starts: Sequence[int], stride: int, planes: int) -> Operand:
    """[n * planes, c * taps, h, w]: for each result plane the input planes at start + plane * stride."""
    n, c, _, h, w = type_of(x).shape
    parts = []
    for start in starts:
        part = sliced(
            call, x, [slice(None)] * 2 + [slice(start, start + (planes - 1) * stride + 1, stride)] + [slice(None)] * 2
        )
        parts.append(call.add(Reshape((n, c, 1, planes, h, w)), part))
    joined = call.add(Concat(2), *parts) if len(parts) > 1 else parts[0]
    return call.add(Reshape((n * planes, c * len(starts), h, w)), call.add(Transpose((0, 3, 1, 2, 4, 5)), joined))


def _unfold(call: Call, y: Operand, planes: int) -> Operand:
    """[n * planes, o, h, w] -> [n, o, planes, h, w]"""
    n, o, h, w = type_of(y).shape
    return call.add(Transpose((0, 2, 1, 3, 4)), call.add(Reshape((n // planes, planes, o, h, w)), y))
