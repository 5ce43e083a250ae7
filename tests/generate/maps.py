"""Strategies of elementwise ops, reductions, scans and movement."""

from __future__ import annotations

import math

import numpy as np

from gpucompile.ir.op import MAX_RANK
from gpucompile.ir.types import DataType
from gpucompile.ops import activation, elementwise, formula, logical, movement, reduction, scan, words
from gpucompile.ops.softmax import Softmax
from tests.generate.draw import Case, Draw, Operand
from tests.generate.registry import strategy_for

# Elementwise ---------------------------------------------------------------------------------------------------------


@strategy_for(formula.Unary)
def unary(d: Draw) -> Case:
    return d.case(d.cls(**d.attributes()), d.operand(d.shape()))


@strategy_for(formula.Binary)
def binary(d: Draw) -> Case:
    a, b = d.operand_shapes(2)
    return d.case(d.cls(**d.attributes()), d.operand(a), d.operand(b))


@strategy_for(elementwise.Div)
def div(d: Draw) -> Case:
    """Floats are not divided by zero: WGSL leaves it open."""
    a, b = d.operand_shapes(2)
    return d.case(elementwise.Div(), d.operand(a), d.operand(b, domain=d.of((0.1, 4.0), (-4.0, -0.1))))


@strategy_for(elementwise.Pow)
def power(d: Draw) -> Case:
    """Negative bases with whole exponents only."""
    a, b = d.operand_shapes(2)
    if not d.dtype.is_float or d.flag():
        return d.case(elementwise.Pow(), d.operand(a), d.operand(b))
    exponent = d.operand(b, domain=(-3.0, 3.0))
    return d.case(elementwise.Pow(), d.operand(a, domain=(-3.0, -0.1)), Operand(exponent.type, np.rint(exponent.array)))


@strategy_for(activation.Clamp)
def clamp(d: Draw) -> Case:
    low, high = d.of(-math.inf, -2.5, -1.0, 0.0, 3.0), d.of(math.inf, 3.0, 6.25, 200.0, 1e6)
    return d.case(activation.Clamp(low, high), d.operand(d.shape()))


@strategy_for(activation.HardSigmoid)
def hard_sigmoid(d: Draw) -> Case:
    return d.case(activation.HardSigmoid(d.of(0.2, 0.0, -0.5, 1.25), d.of(0.5, 0.0, -0.5)), d.operand(d.shape()))


@strategy_for(logical.Where)
def where(d: Draw) -> Case:
    condition, a, b = d.operand_shapes(3)
    return d.case(logical.Where(), d.operand(condition, DataType.UINT8), d.operand(a), d.operand(b))


@strategy_for(logical.Cast)
def cast(d: Draw) -> Case:
    """Floats beyond the ends of 8 bits, and halves, which truncation shows."""
    to = d.of(*DataType)
    return d.case(logical.Cast(to), d.operand(d.shape(), domain=d.of((-4.0, 4.0), (-300.0, 300.0))))


@strategy_for(words.WordOf)
def word_of(d: Draw) -> Case:
    return d.case(words.WordOf(d.flag()), d.operand(d.shape()))


@strategy_for(words.JoinWords)
def join_words(d: Draw) -> Case:
    low, high = d.operand_shapes(2)
    return d.case(words.JoinWords(d.of(DataType.INT64, DataType.UINT64)), d.operand(low), d.operand(high))


# Reductions and scans ------------------------------------------------------------------------------------------------


@strategy_for(reduction.Reduce)
def reduce(d: Draw) -> Case:
    shape = d.shape()
    axes = d.of(None, d.some_axes(len(shape)))
    return d.case(d.cls(axes, d.flag()), d.operand(shape))


@strategy_for(scan.ArgMinMax)
def arg_min_max(d: Draw) -> Case:
    shape = d.shape(1)
    op = d.cls(d.axis(len(shape)), d.flag(), d.of(DataType.INT32, DataType.INT64))
    return d.case(op, d.operand(shape))


@strategy_for(scan.CumulativeSum)
def cumulative_sum(d: Draw) -> Case:
    shape = d.shape(1)
    return d.case(scan.CumulativeSum(d.axis(len(shape)), d.flag(), d.flag()), d.operand(shape))


@strategy_for(Softmax)
def softmax(d: Draw) -> Case:
    shape = d.shape(1)
    return d.case(Softmax(d.axis(len(shape))), d.operand(shape))


# Movement ------------------------------------------------------------------------------------------------------------


@strategy_for(movement.Reshape)
def reshape(d: Draw) -> Case:
    shape = d.shape()
    rest, new = math.prod(shape), []
    for _ in range(d.rank(0, MAX_RANK - 1)):
        new.append(d.of(*(f for f in range(1, rest + 1) if rest % f == 0)))
        rest //= new[-1]
    if rest > 1 or d.flag():
        new.append(rest)
    return d.case(movement.Reshape(tuple(new)), d.operand(shape))


@strategy_for(movement.Transpose)
def transpose(d: Draw) -> Case:
    shape = d.shape()
    return d.case(movement.Transpose(d.permutation(len(shape))), d.operand(shape))


@strategy_for(movement.Slice)
def slice_(d: Draw) -> Case:
    shape = d.shape()
    starts = tuple(d.integer(0, e - 1) for e in shape)
    sizes = tuple(d.integer(1, e - s) for e, s in zip(shape, starts, strict=True))
    strides = tuple(d.integer(1, 4) for _ in shape) if d.flag() else None
    return d.case(movement.Slice(starts, sizes, strides), d.operand(shape))


@strategy_for(movement.Concat)
def concat(d: Draw) -> Case:
    shape = d.shape(1, size=80)
    axis = d.axis(len(shape))
    parts = [(*shape[:axis], d.integer(1, 8), *shape[axis + 1 :]) for _ in range(d.of(1, 2, 3, 12))]
    return d.case(movement.Concat(axis), *(d.operand(p) for p in parts))


@strategy_for(movement.Pad)
def pad(d: Draw) -> Case:
    """A few axes only: as each may double."""
    shape = d.shape(size=80)
    mode = d.of("constant", "edge", "reflection")
    axes = d.some_axes(len(shape))[:3]
    most = [0 if i not in axes else 3 if mode != "reflection" else min(3, e - 1) for i, e in enumerate(shape)]
    beginning, ending = (tuple(d.integer(0, m) for m in most) for _ in range(2))
    value = d.of(0.0, 1.0, 7.0, *((-2.5, 0.1) if d.dtype.is_float else ()))
    return d.case(movement.Pad(beginning, ending, mode, value), d.operand(shape))


@strategy_for(movement.Expand)
def expand(d: Draw) -> Case:
    shape = d.shape()
    return d.case(movement.Expand(shape), d.operand(d.broadcastable(shape, full=False)))


@strategy_for(movement.Tile)
def tile(d: Draw) -> Case:
    shape = d.shape(size=80)
    repetitions = [1] * len(shape)
    for axis in d.some_axes(len(shape))[:2]:
        repetitions[axis] = d.integer(1, 4)
    return d.case(movement.Tile(tuple(repetitions)), d.operand(shape))


@strategy_for(movement.Repeat)
def repeat(d: Draw) -> Case:
    shape = d.shape(size=80)
    repetitions = [1] * len(shape)
    for axis in d.some_axes(len(shape))[:2]:
        repetitions[axis] = d.integer(1, 4)
    return d.case(movement.Repeat(tuple(repetitions)), d.operand(shape))


@strategy_for(movement.Reverse)
def reverse(d: Draw) -> Case:
    shape = d.shape()
    return d.case(movement.Reverse(d.of(None, d.some_axes(len(shape)))), d.operand(shape))


@strategy_for(movement.Triangular)
def triangular(d: Draw) -> Case:
    shape = d.shape(2)
    return d.case(movement.Triangular(d.flag(), d.integer(-9, 9)), d.operand(shape))
