"""How nodes are computed in parts: along which axes operands and result may be cut.

    cut along an axis     op(x, w)[part j] = op(x[part j], w), or op(x, w[part j]), ...
    summed                op(x, w) = sum over k of op(x[part k], w[part k]): contractions, along what they add up

All parts have the same size. Ops without a function here have no way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from gpucompile.ir.graph import Node
from gpucompile.ir.op import Op
from gpucompile.ir.types import TensorType
from gpucompile.ops.categories import Elementwise, Reduction
from gpucompile.ops.contraction import Gemm, Matmul
from gpucompile.ops.conv import Conv2d, Convolution
from gpucompile.ops.movement import Concat, Expand, Pad, Reshape, Slice, Transpose
from gpucompile.ops.normalize import (
    BatchNormalization,
    InstanceNormalization,
    LayerNormalization,
    LocalResponseNormalization,
)
from gpucompile.ops.pool import Pool2d
from gpucompile.ops.resample import Resample2d
from gpucompile.ops.softmax import Softmax


@dataclass(frozen=True)
class Way:
    """The axis along which each operand is cut, None where every part reads it whole; the axis of the result, None
    where the parts are summed. Of a sum, only the first part reads operand `once`. The number of parts divides
    `units`, where that is not 0."""

    operands: tuple[int | None, ...]
    result: int | None
    once: int | None = None
    units: int = 0


def ways(node: Node) -> list[Way]:
    """The ways to compute a node in parts, cuts along outer axes first, sums last."""
    if len(node.outputs) != 1:
        return []
    for kind, function in _WAYS.items():
        if isinstance(node.op, kind):
            return [w for w in function(node) if w.result is None or node.output.type.shape[w.result] > 1]
    return []


def op_of_part(node: Node, way: Way, count: int) -> Op:
    """The op of one of `count` parts, where its attributes hold sizes."""
    op, axis = node.op, way.result
    if axis is not None and isinstance(op, Reshape | Expand):
        return replace(op, new_shape=_divided(op.new_shape, axis, count))
    if axis is not None and isinstance(op, Slice):
        return replace(op, sizes=_divided(op.sizes, axis, count))
    if way.units and isinstance(op, Conv2d):
        return replace(op, groups=op.groups // count)
    return op


def _divided(shape: tuple[int, ...], axis: int, count: int) -> tuple[int, ...]:
    return tuple(d // count if i == axis else d for i, d in enumerate(shape))


# what the functions are made of -------------------------------------------------------------------------------------


def _types(node: Node) -> list[TensorType | None]:
    return [None if v is None else v.type for v in node.inputs]


def _axes(node: Node, *without: int) -> Iterator[int]:
    """The result's axes but some."""
    return (a for a in range(node.output.type.rank) if a not in without)


def _first(node: Node, axis: int | None, result: int | None) -> Way:
    """A cut of the first operand only."""
    return Way((axis, *(None,) * (len(node.inputs) - 1)), result)


def _broadcast(t: TensorType | None, axis: int, out: TensorType) -> int | None:
    """The axis of an operand that becomes `axis` of the result it is broadcast to; None if it has one index there."""
    if t is None:
        return None
    own = axis - (out.rank - t.rank)
    return own if own >= 0 and t.shape[own] == out.shape[axis] else None


# by op ----------------------------------------------------------------------------------------------------------------


def _elementwise(node: Node) -> Iterator[Way]:
    for a in _axes(node):
        yield Way(tuple(_broadcast(t, a, node.output.type) for t in _types(node)), a)


def _matmul(node: Node) -> Iterator[Way]:
    out = node.output.type
    ranks = [t.rank for t in _types(node) if t is not None]
    for a in range(out.rank - 2):
        yield Way(tuple(_broadcast(t, a, out) for t in _types(node)), a)
    yield Way((ranks[0] - 2, None), out.rank - 2)
    yield Way((None, ranks[1] - 1), out.rank - 1)
    yield Way((ranks[0] - 1, ranks[1] - 2), None)


def _gemm(node: Node) -> Iterator[Way]:
    op, out = node.op, node.output.type
    assert isinstance(op, Gemm)
    a, b = int(op.a_transpose), int(op.b_transpose)  # the axes of rows
    c = _types(node)[2:]
    yield Way((a, None, *(_broadcast(t, 0, out) for t in c)), 0)
    yield Way((None, 1 - b, *(_broadcast(t, 1, out) for t in c)), 1)
    yield Way((1 - a, b, *(None for _ in c)), None, once=2)


def _convolution(node: Node) -> Iterator[Way]:
    op = node.op
    assert isinstance(op, Convolution)
    n, c = (op.input_layout.index(letter) for letter in "nc")
    o, i = (op.filter_layout.index(letter) for letter in "oi")
    bias = len(node.inputs) - 2
    yield _first(node, n, n)
    if op.groups == 1:
        yield Way((None, o, *(0,) * bias), c)
        yield Way((c, i, *(None,) * bias), None, once=2)
    elif isinstance(op, Conv2d):
        yield Way((c, o, *(0,) * bias), c, units=op.groups)


def _untouched(node: Node) -> Iterator[Way]:
    """Ops that treat some axes alike everywhere."""
    op, rank = node.op, node.output.type.rank
    without: tuple[int, ...] = ()
    if isinstance(op, Softmax | LocalResponseNormalization):
        without = (op.axis,)
    elif isinstance(op, Resample2d):
        without = op.axes
    elif isinstance(op, LayerNormalization):
        without = op.normalized_axes(rank)
    elif isinstance(op, Pool2d):
        without = tuple(op.layout.index(letter) for letter in "hw")
    elif isinstance(op, Pad):
        without = tuple(a for a in range(rank) if op.beginning[a] or op.ending[a])
    elif isinstance(op, Slice):
        (source,) = node.operand_values
        without = tuple(a for a in range(rank) if op.sizes[a] != source.type.shape[a])
    for a in _axes(node, *without):
        yield _first(node, a, a)


def _normalization(node: Node) -> Iterator[Way]:
    """Parameters along one axis."""
    op = node.op
    assert isinstance(op, BatchNormalization | InstanceNormalization)
    channel = op.axis if isinstance(op, BatchNormalization) else op.channel
    for a in (0, channel) if isinstance(op, InstanceNormalization) else _axes(node):
        yield Way((a, *(0 if a == channel else None for _ in node.inputs[1:])), a)


def _reduction(node: Node) -> Iterator[Way]:
    op, (x,) = node.op, node.operand_values
    assert isinstance(op, Reduction)
    reduced = op.reduced_axes(x.type.rank)
    for a in range(x.type.rank):
        if a not in reduced:
            yield Way((a,), a if op.keep_dimensions else a - sum(r < a for r in reduced))


def _reshape(node: Node) -> Iterator[Way]:
    """Axes with the same number of elements before them."""
    (x,) = node.operand_values
    before = {math.prod(x.type.shape[:a]): a for a in reversed(range(x.type.rank)) if x.type.shape[a] > 1}
    out = node.output.type.shape
    for a in _axes(node):
        own = before.get(math.prod(out[:a]))
        if own is not None:
            yield Way((own,), a)


def _transpose(node: Node) -> Iterator[Way]:
    assert isinstance(node.op, Transpose)
    for a in _axes(node):
        yield Way((node.op.permutation[a],), a)


def _concat(node: Node) -> Iterator[Way]:
    assert isinstance(node.op, Concat)
    for a in _axes(node, node.op.axis):
        yield Way((a,) * len(node.inputs), a)


_ALIKE = (Softmax, LocalResponseNormalization, LayerNormalization, Resample2d, Pool2d, Pad, Slice)
_WAYS: dict[type[Op], Callable[[Node], Iterator[Way]]] = {
    Elementwise: _elementwise,
    Expand: _elementwise,
    Matmul: _matmul,
    Gemm: _gemm,
    Convolution: _convolution,
    **dict.fromkeys(_ALIKE, _untouched),
    BatchNormalization: _normalization,
    InstanceNormalization: _normalization,
    Reduction: _reduction,
    Reshape: _reshape,
    Transpose: _transpose,
    Concat: _concat,
}
