"""Einsum: operands are reduced and joined from left to right, two at a time by one matrix product.

An operand is carried with one label for each axis; the ellipsis stands for labels of its own, written as numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gpucompile.errors import ModelError
from gpucompile.frontends.onnx.call import Call, Operand, onnx_op, type_of
from gpucompile.frontends.onnx.movement import sliced
from gpucompile.ops.contraction import Matmul
from gpucompile.ops.elementwise import Mul
from gpucompile.ops.movement import Expand, Reshape, Transpose
from gpucompile.ops.reduction import ReduceSum

Term = tuple[Operand, list[str]]


@onnx_op("Einsum")
def einsum(call: Call) -> Operand:
    operands = call.operands()
    equation = str(call.attr("equation", "")).replace(" ", "")
    terms, output = _parsed(equation, [len(type_of(x).shape) for x in operands])
    extents: dict[str, int] = {}
    for x, labels in zip(operands, terms, strict=True):
        for label, extent in zip(labels, type_of(x).shape, strict=True):
            if extents.setdefault(label, extent) == 1:
                extents[label] = extent
            if extent not in (1, extents[label]):
                raise ModelError(f"equation {equation!r}: extents {extents[label]} and {extent} of one label")
    if any(label not in extents for label in output):
        raise ModelError(f"equation {equation!r}: the result has a label that no operand has")
    carried = [_diagonal(call, x, labels) for x, labels in zip(operands, terms, strict=True)]
    while len(carried) > 1:
        needed = {*output, *(label for _, labels in carried[2:] for label in labels)}
        carried[:2] = [_joined(call, carried[0], carried[1], needed, extents)]
    x, labels = _summed(call, carried[0], set(output))
    x = _ordered(call, x, labels, output)
    shape = tuple(extents[label] for label in output)
    return x if type_of(x).shape == shape else call.add(Expand(shape), x)


def _parsed(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """The labels of each operand and of the result."""
    left, arrow, right = equation.partition("->")
    parts = left.split(",")
    wrong = ModelError(f"equation {equation!r} does not suit operands of ranks {list(ranks)}")
    if len(parts) != len(ranks):
        raise wrong
    dots = 0
    terms = []
    for part, rank in zip(parts, ranks, strict=True):
        letters = part.replace("...", "")
        if "." in letters or not all(c.isalpha() for c in letters) or len(letters) > rank:
            raise wrong
        hidden = rank - len(letters)
        if hidden and "..." not in part:
            raise wrong
        dots = max(dots, hidden)
        before, _, after = part.partition("...")
        terms.append([*before, *(str(i) for i in range(-hidden, 0)), *after])
    batch = [str(i) for i in range(-dots, 0)]
    if not arrow:
        letters = left.replace("...", "").replace(",", "")
        return terms, batch + sorted(c for c in set(letters) if letters.count(c) == 1)
    before, found, after = right.partition("...")
    output = [*before, *(batch if found else []), *after]
    if len(set(output)) != len(output) or not all(c.isalpha() for c in before + after):
        raise wrong
    return terms, output


def _diagonal(call: Call, x: Operand, labels: list[str]) -> Term:
    """Only elements whose coordinates agree along axes with one label."""
    labels = list(labels)
    for label in set(labels):
        while labels.count(label) > 1:
            i, j = [k for k, other in enumerate(labels) if other == label][:2]
            rest = [k for k in range(len(labels)) if k not in (i, j)]
            shape = type_of(x).shape
            n = shape[i]
            if shape[j] != n:
                raise ModelError(f"extents {n} and {shape[j]} of one label")
            x = call.add(Transpose((*rest, i, j)), x)
            lead = tuple(shape[k] for k in rest)
            x = call.add(Reshape((*lead, n * n)), x)
            x = sliced(call, x, [slice(None)] * len(rest) + [slice(0, None, n + 1)])
            labels = [*(labels[k] for k in rest), label]
    return x, labels


def _summed(call: Call, term: Term, needed: set[str]) -> Term:
    """The sum over axes whose labels nobody needs."""
    x, labels = term
    axes = tuple(i for i, label in enumerate(labels) if label not in needed)
    return (call.add(ReduceSum(axes), x), [c for c in labels if c in needed]) if axes else term


def _ordered(call: Call, x: Operand, labels: list[str], order: Sequence[str]) -> Operand:
    """Axes in this order, with extent 1 where x has none for a label."""
    present = tuple(labels.index(label) for label in order if label in labels)
    x = call.add(Transpose(present), x) if present != tuple(range(len(labels))) else x
    shape = iter(type_of(x).shape)
    full = tuple(next(shape) if label in labels else 1 for label in order)
    return x if type_of(x).shape == full else call.add(Reshape(full), x)


def _joined(call: Call, a: Term, b: Term, needed: set[str], extents: dict[str, int]) -> Term:
    """Two operands multiplied, summed over the labels that are not needed any more."""
    (x, mine), (y, its) = (_summed(call, t, needed | set(other)) for t, other in ((a, b[1]), (b, a[1])))
    both = [c for c in mine if c in its]
    batch, inner = [c for c in both if c in needed], [c for c in both if c not in needed]
    rows, columns = [c for c in mine if c not in its], [c for c in its if c not in mine]
    result = [*batch, *rows, *columns]
    if not type_of(x).dtype.is_float or not inner:
        order = [*result, *inner]
        product = call.add(Mul(), _ordered(call, x, mine, order), _ordered(call, y, its, order))
        return _summed(call, (product, order), needed)
    left = _whole(call, x, mine, [*batch, *rows, *inner], extents)
    right = _whole(call, y, its, [*batch, *inner, *columns], extents)
    k, m, n = (math.prod(extents[c] for c in group) for group in (inner, rows, columns))
    lead = tuple(extents[c] for c in batch)
    product = call.add(Matmul(), call.add(Reshape((*lead, m, k)), left), call.add(Reshape((*lead, k, n)), right))
    return call.add(Reshape(tuple(extents[c] for c in result)), product), result


def _whole(call: Call, x: Operand, labels: list[str], order: list[str], extents: dict[str, int]) -> Operand:
    """Axes in this order, those of extent 1 that stand for more expanded."""
    x = _ordered(call, x, labels, order)
    shape = tuple(extents[c] for c in order)
    return x if type_of(x).shape == shape else call.add(Expand(shape), x)
