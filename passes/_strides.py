"""What a chain of reshapes and transposes does to its source, as strided axes.

Each axis of a value is a list of atoms (size, stride), strides in elements of the source:

    x f32[2,6]                  [(2,6)] [(6,1)]
    reshape [2,2,3]             [(2,6)] [(2,3)] [(3,1)]       an atom splits into outer and inner
    transpose (0,2,1)           [(2,6)] [(3,1)] [(2,3)]
    reshape [2,6]               [(2,6)] [(3,1)(2,3)]          atoms that are not adjacent stay apart

The chain is a mere reshape where the atoms stand in the source's order. Otherwise it is one transpose, with a reshape
before it where it splits an axis of the source, and one after it where it joins axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from gpucompile.ir.op import Op
from gpucompile.ops.movement import Reshape, Transpose

Atom = tuple[int, int]
Axes = list[list[Atom]]


def contiguous(shape: Sequence[int]) -> Axes:
    """The axes of a source; extents of 1 have no atom."""
    axes: Axes = []
    stride = math.prod(shape)
    for d in shape:
        stride //= d
        axes.append([(d, stride)] if d != 1 else [])
    return axes


def apply(axes: Axes, op: Op) -> Axes | None:
    """The axes after `op`, a reshape or transpose; None where a reshape cuts an atom at no divisor of it."""
    if isinstance(op, Transpose):
        return [axes[p] for p in op.permutation]
    assert isinstance(op, Reshape)
    rest = merge(axes)[::-1]
    out: Axes = []
    for extent in op.new_shape:
        group: list[Atom] = []
        while extent != 1:
            size, stride = rest.pop()
            if extent % size == 0:
                extent //= size
            elif size % extent == 0:
                rest.append((size // extent, stride))
                size, stride, extent = extent, stride * (size // extent), 1
            else:
                return None
            group.append((size, stride))
        out.append(merge([group]))
    return out


def merge(axes: Axes) -> list[Atom]:
    """All atoms in a row, adjacent ones joined where together they are one strided axis."""
    out: list[Atom] = []
    for size, stride in (atom for axis in axes for atom in axis):
        if out and out[-1][1] == size * stride:
            out[-1] = (out[-1][0] * size, stride)
        else:
            out.append((size, stride))
    return out


def in_order(atoms: Sequence[Atom]) -> bool:
    """Whether the atoms stand in the source's order."""
    return all(a[1] > b[1] for a, b in pairwise(atoms))


def to_ops(axes: Axes, source: tuple[int, ...]) -> list[Op]:
    """The fewest ops that make a value with these axes from one with shape `source`."""
    shape = tuple(math.prod(size for size, _ in axis) for axis in axes)
    atoms = merge(axes)
    if in_order(atoms):
        return [Reshape(shape)] if shape != source else []
    return _whole_source_axes(atoms, source, shape) or _whole_result_axes(axes, shape) or _general(atoms, shape)


def _whole_source_axes(atoms: list[Atom], source: tuple[int, ...], shape: tuple[int, ...]) -> list[Op] | None:
    """A transpose of the source, and a reshape where extents are joined or split afterwards. Needs atoms that begin and
    end with axes of the source."""
    begins = {axis[0][1] * axis[0][0]: i for i, axis in enumerate(contiguous(source)) if axis}
    order: list[int] = []
    for size, stride in atoms:
        top = size * stride
        while top > stride:
            if top not in begins:
                return None
            order.append(begins[top])
            top //= source[begins[top]]
        if top != stride:
            return None
    ones = [i for i, d in enumerate(source) if d == 1]
    if len(shape) == len(source) and [d for d in shape if d != 1] == [source[i] for i in order]:
        rest = iter(order)
        return [Transpose(tuple(ones.pop(0) if d == 1 else next(rest) for d in shape))]
    return [Transpose((*ones, *order)), Reshape(shape)]


def _whole_result_axes(axes: Axes, shape: tuple[int, ...]) -> list[Op] | None:
    """A reshape, then a transpose that gives the result. Needs axes of the result that are one atom each."""
    if any(len(axis) > 1 for axis in axes):
        return None
    strides = [axis[0][1] if axis else math.inf for axis in axes]
    order = sorted(range(len(axes)), key=lambda i: -strides[i])
    place = {axis: i for i, axis in enumerate(order)}
    return [Reshape(tuple(shape[i] for i in order)), Transpose(tuple(place[i] for i in range(len(axes))))]


def _general(atoms: list[Atom], shape: tuple[int, ...]) -> list[Op]:
    order = sorted(atoms, key=lambda atom: -atom[1])
    return [
        Reshape(tuple(size for size, _ in order)),
        Transpose(tuple(order.index(atom) for atom in atoms)),
        Reshape(shape),
    ]
