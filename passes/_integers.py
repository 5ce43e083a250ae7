"""Rules that write ops on integers as simpler ones, for devices that compute them in floats or not at all.

    relu, prelu, clamp, abs, sign    by max and min
    a / b                            quotients in float32, corrected by their remainders
    a ^ b                            squares and products
    sum, product, max, min           halves combined elementwise until one element is left
    max_pool2d, cumulative_sum       shifted copies combined elementwise
    arg_max                          of what is the maximum

What is left are sums, products, comparisons, bits, choices and moves, all exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpucompile.ir.graph import Graph, Node, Value
from gpucompile.ir.literals import limits
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType
from gpucompile.ops import reduction
from gpucompile.ops.activation import Clamp
from gpucompile.ops.bitwise import BitwiseAnd, ShiftLeft, ShiftRight
from gpucompile.ops.categories import Reduction
from gpucompile.ops.elementwise import Abs, Add, Div, Identity, Max, Min, Mul, Neg, Sign, Sub
from gpucompile.ops.logical import Cast, Equal, Greater, GreaterOrEqual, Lesser, NotEqual, Where
from gpucompile.ops.movement import Concat, Pad, Reshape, Slice, Transpose
from gpucompile.ops.pool import MaxPool2d
from gpucompile.ops.scan import ArgMax, ArgMinMax, CumulativeSum
from gpucompile.passmanager.base import Context

F32, I32, U32, I64, U64 = map(DataType.parse, ("f32", "i32", "u32", "i64", "u64"))
WIDE = (I32, U32, I64, U64)
#: The signed type with as many bits.
SIGNED = {U32: I32, U64: I64, I32: I32, I64: I64}


@dataclass(frozen=True)
class Before:
    """Inserts nodes before one: `at(Add(), a, b)`."""

    graph: Graph
    node: Node

    def __call__(self, op: Op, *inputs: Value | None) -> Value:
        return self.graph.add(op, *inputs, before=self.node)

    def number(self, value: float, dtype: DataType) -> Value:
        """A constant without axes."""
        return self.graph.constant(np.array(value, dtype.numpy), before=self.node)

    def cast(self, x: Value, dtype: DataType) -> Value:
        """The value as another data type, itself if it has it."""
        return x if x.type.dtype is dtype else self(Cast(dtype), x)


# Functions of single elements ----------------------------------------------------------------------------------------


def integer_clamp(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """clamp of integers of 32 bits and more by max and min."""
    op, (out,) = node.op, node.operand_values
    dtype, at = out.type.dtype, Before(graph, node)
    assert isinstance(op, Clamp)
    if dtype not in WIDE:
        return None
    low, high = limits(dtype)
    bounds = (Max(), op.min_value > low, op.min_value), (Min(), op.max_value < high, op.max_value)
    for bound, matters, value in bounds:
        if matters:
            out = at(bound, out, at.number(int(min(max(value, low), high)), dtype))
    return out if out is not node.operand_values[0] else at(Identity(), out)


def integer_relu(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """relu and prelu of integers by max and min."""
    x, *slope = node.operand_values
    if x.type.dtype.is_float:
        return None
    at = Before(graph, node)
    zero = at.number(0, x.type.dtype)
    positive = at(Max(), x, zero)
    return at(Add(), positive, at(Mul(), at(Min(), x, zero), *slope)) if slope else positive


def magnitude(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """abs(x) = max(x, -x), which wraps as it should."""
    at, (x,) = Before(graph, node), node.operand_values
    return at(Max(), x, at(Neg(), x))


def sign(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """sign(x) = (x > 0) - (x < 0)"""
    at, (x,) = Before(graph, node), node.operand_values
    zero = at.number(0, x.type.dtype)
    above, below = (at(Cast(I32), at(op, x, zero)) for op in (Greater(), Lesser()))
    return at(Cast(x.type.dtype), at(Sub(), above, below))


def division(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """Quotients in float32, each of what the ones before left: every one makes the rest smaller by 22 bits, until it is
    within a divisor of the truth; then one step back where the sign of the rest is wrong. x / 0 = x.

    Unsigned numbers are halved, which leaves a bit for the sign; the rest tells whether one is missing."""
    a, b = node.operand_values
    at, dtype = Before(graph, node), a.type.dtype
    if dtype not in WIDE:
        return None
    if dtype is SIGNED[dtype]:
        b = at(Where(), at(Equal(), b, at.number(0, dtype)), at.number(1, dtype), b)
        return _signed_quotient(at, a, b)
    signed, one = SIGNED[dtype], at.number(1, dtype)
    divisor = at(Cast(signed), b)
    zero = at.number(0, signed)
    small = at(Where(), at(Greater(), divisor, zero), divisor, at.number(1, signed))
    half = _signed_quotient(at, at(Cast(signed), at(ShiftRight(), a, one)), small)
    quotient = at(ShiftLeft(), at(Cast(dtype), half), one)
    rest = at(Sub(), a, at(Mul(), quotient, b))
    missing = at(Cast(dtype), at(GreaterOrEqual(), rest, b))
    large = at(Cast(dtype), at(GreaterOrEqual(), a, b))
    out = at(Where(), at(Lesser(), divisor, zero), large, at(Add(), quotient, missing))
    return at(Where(), at(Equal(), divisor, zero), a, out)


def _signed_quotient(at: Before, a: Value, b: Value) -> Value:
    """a / b rounded toward zero, for b other than 0."""
    dtype = a.type.dtype
    quotient, rest = None, a
    for _ in range(3 if dtype.bits == 32 else 4):
        part = at(Cast(dtype), at(Div(), at(Cast(F32), rest), at(Cast(F32), b)))
        quotient = part if quotient is None else at(Add(), quotient, part)
        rest = at(Sub(), rest, at(Mul(), part, b))
    assert quotient is not None
    wrong = at(Equal(), at(Mul(), at(Sign(), rest), at(Sign(), a)), at.number(-1, dtype))
    step = at(Mul(), at(Sign(), a), at(Sign(), b))
    return at(Where(), wrong, at(Sub(), quotient, step), quotient)


def power(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """The product of base^(2^i) over the bits of the exponent. Of 64-bit integers by constants only: else that would be
    thousands of nodes."""
    a, b = node.operand_values
    at, dtype = Before(graph, node), node.output.type.dtype
    if dtype.is_float or (dtype.bits == 64 and b.constant is None):
        return None
    signed = SIGNED.get(dtype, I32)
    bits = (dtype.bits - dtype.is_signed) if b.constant is None else int(b.constant.max(initial=0)).bit_length()
    base, exponent, one = at.cast(a, signed), at.cast(b, signed), at.number(1, signed)
    zero, minus = at.number(0, signed), at.number(-1, signed)
    out: Value = one

    def odd(i: int) -> Value:
        mask = np.array(1 << i, np.uint64).astype(signed.numpy)
        return at(NotEqual(), at(BitwiseAnd(), exponent, graph.constant(mask, before=node)), zero)

    square = base
    for i in range(bits):
        out = at(Mul(), out, at(Where(), odd(i), square, one))
        square = at(Mul(), square, square) if i + 1 < bits else square
    if dtype.is_signed:
        inverse = at(Where(), at(Equal(), base, minus), at(Where(), odd(0), minus, one), zero)
        inverse = at(Where(), at(Equal(), base, one), one, inverse)
        out = at(Where(), at(Lesser(), exponent, zero), inverse, out)
    if out.type.shape != node.output.type.shape:  # an exponent of nothing but zeros
        out = at(Add(), out, at(Mul(), at(Add(), base, exponent), zero))
    return at.cast(out, dtype)


# Along axes ----------------------------------------------------------------------------------------------------------

COMBINE: dict[type[Op], Callable[[], Op]] = {
    reduction.ReduceSum: Add,
    reduction.ReduceProduct: Mul,
    reduction.ReduceMax: Max,
    reduction.ReduceMin: Min,
}


def integer_reduction(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """Integers of 32 bits and more: the reduced axes come last as one, whose halves are combined until one element is
    left."""
    op, (x,) = node.op, node.operand_values
    assert isinstance(op, Reduction)
    if x.type.dtype not in WIDE:
        return None
    at = Before(graph, node)
    if isinstance(op, (reduction.ReduceL1, reduction.ReduceSumSquare)):
        if isinstance(op, reduction.ReduceL1):
            x = at(Abs(), x) if x.type.dtype.is_signed else x
        else:
            x = at(Mul(), x, x)
        return at(reduction.ReduceSum(op.axes, op.keep_dimensions), x)
    axes = op.reduced_axes(x.type.rank)
    kept = tuple(i for i in range(x.type.rank) if i not in axes)
    rows, n = math.prod(x.type.shape[i] for i in kept), math.prod(x.type.shape[i] for i in axes)
    x = at(Reshape((rows, n)), at(Transpose((*kept, *axes)), x))
    while n > 1:
        half = n // 2
        combined = at(COMBINE[type(op)](), at(Slice((0, 0), (rows, half)), x), at(Slice((0, half), (rows, half)), x))
        x = at(Concat(1), combined, at(Slice((0, n - 1), (rows, 1)), x)) if n % 2 else combined
        n = half + n % 2
    return at(Reshape(node.output.type.shape), x)


def arg_of_extreme(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """The place of the first element that equals the extreme one; int32 where the elements are no 64-bit integers."""
    op, (x,) = node.op, node.operand_values
    assert isinstance(op, ArgMinMax)
    at = Before(graph, node)
    if x.type.dtype in (I64, U64):
        best = at((reduction.ReduceMax if op.better == ">" else reduction.ReduceMin)((op.axis,), True), x)
        first = at(Cast(I32), at(Equal(), x, best))
        return at(ArgMax(op.axis, op.keep_dimensions, op.output_data_type), first)
    if op.output_data_type is I64:
        return at(Cast(I64), at(type(op)(op.axis, op.keep_dimensions, I32), x))
    return None


def running_sum(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """x[i] += x[i - 1], then x[i] += x[i - 2], x[i - 4], ..."""
    op, (x,) = node.op, node.operand_values
    assert isinstance(op, CumulativeSum)
    at, shape, n = Before(graph, node), x.type.shape, x.type.shape[op.axis]

    def moved(v: Value, by: int) -> Value:
        """Along the axis, zeros entering."""
        sizes = tuple(n - by if i == op.axis else d for i, d in enumerate(shape))
        along = tuple(by if i == op.axis else 0 for i in range(len(shape)))
        nothing = (0,) * len(shape)
        if op.reversed:
            return at(Pad(nothing, along), at(Slice(along, sizes), v))
        return at(Pad(along, nothing), at(Slice(nothing, sizes), v))

    step = 1
    while step < n:
        x = at(Add(), x, moved(x, step))
        step *= 2
    if op.exclusive:
        return moved(x, 1) if n > 1 else at(Mul(), x, at.number(0, x.type.dtype))
    return x if x is not node.operand_values[0] else at(Identity(), x)


def integer_max_pool(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """Integers of 32 bits and more: the maximum of shifted copies, along one axis, then along the other."""
    op, (x,) = node.op, node.operand_values
    assert isinstance(op, MaxPool2d)
    dtype = x.type.dtype
    if dtype not in WIDE:
        return None
    at, g = Before(graph, node), op.geometry(x.type)
    for axis, place in enumerate("hw"):
        i = op.layout.index(place)
        size, extent, k = ((g.oh, g.h, g.kh), (g.ow, g.w, g.kw))[axis]
        step, spread, before = op.strides[axis], op.dilations[axis], op.padding[2 * axis]
        reach = (size - 1) * step + (k - 1) * spread + 1
        along = [0] * 4
        along[i] = before
        end = [0] * 4
        end[i] = max(0, reach - extent - before)
        x = at(Pad(tuple(along), tuple(end), value=limits(dtype)[0]), x)
        best = None
        for part in range(k):
            starts, sizes, strides = [0] * 4, list(x.type.shape), [1] * 4
            starts[i], sizes[i], strides[i] = part * spread, (size - 1) * step + 1, step
            copy = at(Slice(tuple(starts), tuple(sizes), tuple(strides)), x)
            best = copy if best is None else at(Max(), best, copy)
        assert best is not None
        x = best
    return x
