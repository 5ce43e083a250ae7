"""Ops and data types that OpenVINO lacks, in terms of what it has. What none of this helps is refused by the backend's
rules (`gpucompile/backends/openvino/rules.py`).

    reduce_log_sum_exp(x)                 -> log(sum(exp(x - m))) + m, m = max(x)
    batch_normalization(x, m, v, s, b)    -> x * f + (b - m * f), f = s / sqrt(v + epsilon)
    reductions of nothing                 -> elementwise
    lrn of even size, or not over axis 1  -> x / (bias + alpha / size * (sum of shifted squares)) ^ beta

Its CPU device computes integers in 32 bits with a sign, stores 8-bit results saturated, and compares, divides and
reduces in float32, whose 24 bits are not enough; add, sub, mul, max and min are exact. Hence

    8-bit arithmetic                      -> the same in int32, cast back (which wraps)
    max, min, a > b, ... of uint32        -> the same of a - 2^31, b - 2^31 in int32
    a == b, a > b, a >= b                 -> a - b == 0, max(a, b) - b != 0, max(a, b) - a == 0
    min(max(x, a), b) for large a, b      -> ~max(~max(x, a), ~b), as it makes a clamp in float32 of the two
    pad(x) of integers by a large c       -> pad(x ^ c by 0) ^ c, as c goes through float32
    relu, prelu of integers               -> max(x, 0), max(x, 0) + min(x, 0) * slope
    a / b of integers                     -> quotients in float32, corrected by their remainders
    sum, product, max, min of integers    -> halves combined elementwise until one element is left
    cast of floats to integers            -> clamped first, as it does not saturate
    cast of integers to 4 bits            -> modulo 16 first, as those lie in bytes
    cast of uint32 to floats              -> of its halves
    (x + c) * d for a large d             -> where(is_nan(x + c), x + c, (x + c) * d), which OpenVINO leaves alone
    transpose(softmax(..) @ v)            -> over five axes, where there are as many heads as queries
    max(x) of floats                      -> where(max(x > -inf), max(x), -inf), as it starts from a finite number

Linear time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from gpucompile.ir.graph import Graph, Node, Value
from gpucompile.ir.literals import limits
from gpucompile.ops import reduction
from gpucompile.ops.activation import Clamp, Relu
from gpucompile.ops.bitwise import BitwiseAnd, BitwiseXor, ShiftLeft, ShiftRight
from gpucompile.ops.categories import Reduction
from gpucompile.ops.contraction import Matmul
from gpucompile.ops.elementwise import (
    Abs,
    Add,
    Div,
    Max,
    Min,
    Mul,
    Neg,
    Pow,
    Prelu,
    Reciprocal,
    Sqrt,
    Sub,
)
from gpucompile.ops.gather import Gather, GatherElements, Indexed, ScatterElements
from gpucompile.ops.logical import (
    Cast,
    Comparison,
    Equal,
    Greater,
    GreaterOrEqual,
    IsNan,
    Lesser,
    LesserOrEqual,
    NotEqual,
    Predicate,
    Where,
)
from gpucompile.ops.movement import Pad, Reshape, Slice, Transpose
from gpucompile.ops.normalize import BatchNormalization, LayerNormalization, LocalResponseNormalization
from gpucompile.ops.pool import MaxPool2d
from gpucompile.ops.scan import ArgMinMax
from gpucompile.ops.update import UpdateSlice
from gpucompile.passes import _integers
from gpucompile.passes._integers import F32, I32, U32, Before
from gpucompile.passes._rewrite import Rules, rewrite
from gpucompile.passes.legalize import log_sum_exp, normalization, reduction_of_nothing
from gpucompile.passmanager.base import Context, Pass

#: Integers up to here are float32 numbers.
EXACT = 1 << 24


@dataclass(frozen=True)
class LegalizeOpenvino(Pass):
    """ops and data types that OpenVINO lacks -> those it has"""

    def run(self, graph: Graph, ctx: Context) -> bool:
        return rewrite(graph, RULES, ctx)


# 8-bit and unsigned integers -----------------------------------------------------------------------------------------


def eight_bits(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """Arithmetic of 8-bit integers in int32."""
    dtype, at = node.output.type.dtype, Before(graph, node)
    if dtype.bits != 8:
        return None
    return at(Cast(dtype), at(node.op, *(at(Cast(I32), v) for v in node.operand_values)))


def unsigned_order(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """What depends on the order of uint32, of the same numbers less 2^31 in int32."""
    dtype, at = node.operand_values[0].type.dtype, Before(graph, node)
    if dtype is not U32:
        return None
    half = at.number(-(2**31), I32)

    def moved(v: Value) -> Value:
        return at(Add(), at(Cast(I32), v), half)

    out = at(node.op, *map(moved, node.operand_values))
    return at(Cast(U32), at(Add(), out, half)) if node.output.type.dtype is U32 else out


def unsigned_indices(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """uint32 indices as int32, those beyond the end at the end."""
    x, indices, *rest = node.operand_values
    if indices.type.dtype is not U32:
        return None
    at, op = Before(graph, node), node.op
    if isinstance(op, (Gather, GatherElements, ScatterElements)):
        last = np.array(x.type.shape[op.axis] - 1, np.uint32)
    elif isinstance(op, UpdateSlice):
        last = np.array(op.places(x.type, rest[0].type) - 1, np.uint32)
    else:
        last = np.array([d - 1 for d in x.type.shape[: indices.type.shape[-1]]], np.uint32)
    inside = at(Cast(I32), at(Min(), indices, graph.constant(last, before=node)))
    return at(op, x, inside, *rest)


def unsigned_fill(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """uint32 is padded as int32, in which it lies."""
    op, (x,) = node.op, node.operand_values
    assert isinstance(op, Pad)
    if x.type.dtype is not U32:
        return None
    at = Before(graph, node)
    fill = int(np.array(op.value).astype(np.uint32).astype(np.int32)) if op.mode == "constant" else op.value
    return at(Cast(U32), at(replace(op, value=fill), at(Cast(I32), x)))


def large_fill(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """The CPU device rounds the value that it pads int32 with to float32: pad(x ^ value with 0) ^ value."""
    op, (x,) = node.op, node.operand_values
    assert isinstance(op, Pad)
    if x.type.dtype is not I32 or op.mode != "constant" or abs(op.value) < EXACT:
        return None
    at = Before(graph, node)
    low, high = limits(I32)
    fill = at.number(int(min(max(op.value, low), high)), I32)
    return at(BitwiseXor(), at(replace(op, value=0), at(BitwiseXor(), x, fill)), fill)


def unsigned_shift(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """uint32 moved up as int32; moved down by one without the sign that enters, then by the rest."""
    if node.output.type.dtype is not U32:
        return None
    at = Before(graph, node)
    x, n = (at(Cast(I32), v) for v in node.operand_values)
    if isinstance(node.op, ShiftLeft):
        return at(Cast(U32), at(ShiftLeft(), x, n))
    one = at.number(1, I32)
    moved = at(BitwiseAnd(), at(ShiftRight(), x, one), at.number(2**31 - 1, I32))
    moved = at(ShiftRight(), moved, at(Sub(), n, one))
    return at(Cast(U32), at(Where(), at(Equal(), n, at.number(0, I32)), x, moved))


# Comparisons and choices of 32-bit integers --------------------------------------------------------------------------


def _small(v: Value) -> bool:
    """Whether it is a constant of float32 numbers."""
    return v.constant is not None and bool(np.all(np.abs(v.constant.astype(np.float64)) < EXACT))


def comparison(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """Integers are compared by exact differences, which are compared with 0."""
    a, b = node.operand_values
    if a.type.dtype is not I32 or _small(a) or _small(b):
        return None
    at, zero = Before(graph, node), Before(graph, node).number(0, a.type.dtype)
    if isinstance(node.op, (Lesser, LesserOrEqual)):
        return at(Greater() if isinstance(node.op, Lesser) else GreaterOrEqual(), b, a)
    if isinstance(node.op, Greater):
        return at(NotEqual(), at(Sub(), at(Max(), a, b), b), zero)
    if isinstance(node.op, GreaterOrEqual):
        return at(Equal(), at(Sub(), at(Max(), a, b), a), zero)
    return at(node.op, at(Sub(), a, b), zero)


def large_factor(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """(x + c) * d, as masks of attention have it, behind a choice where d is large: OpenVINO makes x * d + c * d of it,
    and adds what comes next to c * d, in which it is lost."""
    x, y = node.operand_values
    x, factor = (x, y) if y.constant is not None else (y, x)
    if factor.constant is None or not node.output.type.dtype.is_float or not isinstance(x.op, (Add, Sub)):
        return None
    source = x.producer
    assert source is not None
    chosen = any(isinstance(user.op, IsNan) for user in x.users)
    if chosen or all(v.constant is None for v in source.operand_values) or np.abs(factor.constant).max() < 2**16:
        return None
    at = Before(graph, node)
    return at(Where(), at(IsNan(), x), x, at(Mul(), x, factor))


def float_order(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """a > b of floats as b < a: the CPU device takes the former for not a <= b, which NaN makes true."""
    a, b = node.operand_values
    if not a.type.dtype.is_float or not isinstance(node.op, (Greater, GreaterOrEqual)):
        return None
    return Before(graph, node)(Lesser() if isinstance(node.op, Greater) else LesserOrEqual(), b, a)


def integer_choice(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """where of 32-bit integers by their bits: b ^ ((a ^ b) & -condition). The CPU device computes a choice, and what it
    fuses with it, in float32."""
    condition, a, b = node.operand_values
    dtype, at = a.type.dtype, Before(graph, node)
    if dtype not in (I32, U32):
        return None
    if not isinstance(condition.op, (Comparison, Predicate)):
        condition = at(NotEqual(), condition, at.number(0, condition.type.dtype))
    mask = at(Sub(), at.number(0, I32), at(Cast(I32), condition))
    a, b = at.cast(a, I32), at.cast(b, I32)
    return at.cast(at(BitwiseXor(), b, at(BitwiseAnd(), at(BitwiseXor(), a, b), mask)), dtype)


def large_bound(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """A maximum and a minimum with constants become a clamp in float32; where one of the bounds may be no float32
    number, the second is made of the first's op instead: max(x, b) = ~min(~x, ~b)."""
    x, bound = node.operand_values
    other = Max if isinstance(node.op, Min) else Min
    if x.type.dtype is not I32 or bound.constant is None or not isinstance(x.op, other):
        return None
    inner = [v for v in x.producer.operand_values if v.constant is not None] if x.producer is not None else []
    if not inner or all(map(_small, (bound, *inner))):
        return None
    at = Before(graph, node)
    ones = at.number(-1, I32)
    return at(BitwiseXor(), at(other(), *(at(BitwiseXor(), v, ones) for v in (x, bound))), ones)


# Casts ---------------------------------------------------------------------------------------------------------------


def saturating_cast(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """Floats to integers: NaN is 0, what is outside is the nearest; 64-bit integers, which only the NPU has, get the
    range of int32."""
    (x,) = node.operand_values
    op = node.op
    assert isinstance(op, Cast)
    if op.to.is_float:
        return _unsigned_to_float(graph, node) if x.type.dtype is U32 else None
    source = x.producer
    if not x.type.dtype.is_float:
        back = source is not None and isinstance(source.op, Cast) and {op.to, x.type.dtype} == {I32, U32}
        if back and source is not None and source.operand_values[0].type.dtype is op.to:
            return source.operand_values[0]
        return _wrap(graph, node)
    if source is not None and isinstance(source.op, Clamp) and isinstance(source.operand_values[0].op, Where):
        return None  # made below
    at = Before(graph, node)
    wide = x if x.type.dtype is F32 else at(Cast(F32), x)
    wide = at(Where(), at(IsNan(), wide), at.number(0, F32), wide)
    low, high = limits(op.to)
    if op.to.bits <= 8:
        return at(op, at(Clamp(low, high), wide))
    if op.to is U32:
        upper = at(Cast(I32), at(Clamp(0, 2**31 - 128), at(Sub(), wide, at.number(2**31, F32))))
        upper = at(Add(), upper, at.number(-(2**31), I32))
        lower = at(Cast(I32), at(Clamp(0, 2**31 - 128), wide))
        out = at(Where(), at(GreaterOrEqual(), wide, at.number(2**31, F32)), upper, lower)
        over = at(GreaterOrEqual(), wide, at.number(2**32, F32))
        return at(Cast(U32), at(Where(), over, at.number(-1, I32), out))
    inside = at(op, at(Clamp(max(low, -(2**31)), 2**31 - 128), wide))
    over = at(GreaterOrEqual(), wide, at.number(2**31, F32))
    return at(Where(), over, at.number(2**31 - 1, op.to), inside)


def _unsigned_to_float(graph: Graph, node: Node) -> Value:
    """uint32 to floats: two halves of 16 bits, whose sum is rounded once. Plugins may take it for int32."""
    at = Before(graph, node)
    x, half = at(Cast(I32), node.operand_values[0]), at.number(0xFFFF, I32)
    upper = at(BitwiseAnd(), at(ShiftRight(), x, at.number(16, I32)), half)
    upper, lower = (at(Cast(F32), part) for part in (upper, at(BitwiseAnd(), x, half)))
    return at.cast(at(Add(), at(Mul(), upper, at.number(65536.0, F32)), lower), node.output.type.dtype)


def _wrap(graph: Graph, node: Node) -> Value | None:
    """Integers to 4 bits, which lie in bytes here: modulo 16."""
    (x,) = node.operand_values
    op, source = node.op, x.producer
    assert isinstance(op, Cast)
    made = source is not None and isinstance(source.op, Add) and isinstance(source.operand_values[0].op, BitwiseAnd)
    if op.to.bits != 4 or x.type.dtype.bits == 4 or made:
        return None
    at = Before(graph, node)
    low = at.number(limits(op.to)[0], I32)
    x = x if x.type.dtype is I32 else at(Cast(I32), x)
    return at(op, at(Add(), at(BitwiseAnd(), at(Sub(), x, low), at.number(15, I32)), low))


def infinite_extreme(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """max(x) of floats is -inf where no x is larger. OpenVINO starts from the lowest finite number, for min from the
    largest."""
    op, (x,) = node.op, node.operand_values
    chosen = any(isinstance(user.op, Where) for user in node.output.users)
    truths = x.producer is not None and isinstance(x.op, Cast) and not x.producer.operand_values[0].type.dtype.is_float
    if not x.type.dtype.is_float or chosen or truths:
        return None
    assert isinstance(op, Reduction)
    at, largest = Before(graph, node), isinstance(op, reduction.ReduceMax)
    end = at.number(-math.inf if largest else math.inf, x.type.dtype)
    inside = at(Cast(F32), at(Lesser(), *((end, x) if largest else (x, end))))
    some = at(reduction.ReduceMax(op.axes, op.keep_dimensions), inside)
    return at(Where(), at(Greater(), some, at.number(0, F32)), at(op, x), end)


# Attention -----------------------------------------------------------------------------------------------------------


def square_heads(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """The transpose after attention with as many heads as queries, over five axes. OpenVINO takes one of four into its
    kernel, which then reads queries transposed that come from an elementwise op."""
    op, (x,) = node.op, node.operand_values
    assert isinstance(op, Transpose)
    shape = x.type.shape
    if not isinstance(x.op, Matmul) or op.permutation != (0, 2, 1, 3) or shape[1] != shape[2]:
        return None
    at = Before(graph, node)
    return at(Reshape(node.output.type.shape), at(Transpose((0, 2, 1, 3, 4)), at(Reshape((*shape, 1)), x)))


# Normalisation -------------------------------------------------------------------------------------------------------


def batch_norm(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """A product and a sum, whose operands are constants where the statistics are: those fuse into what is before. In
    float32 for float16 as well."""
    op, source = node.op, node.operand_values[0]
    assert isinstance(op, BatchNormalization)
    at, dtype = Before(graph, node), source.type.dtype

    def wide(v: Value | None) -> Value | None:
        return at(Cast(F32), v) if v is not None and dtype is not F32 else v

    x, mean, variance, scale, bias = (*map(wide, node.inputs), None, None)[:5]
    assert x is not None and mean is not None and variance is not None
    factor = at(Reciprocal(), at(Sqrt(), at(Add(), variance, at.number(op.epsilon, F32))))
    factor = factor if scale is None else at(Mul(), factor, scale)
    shift = at(Neg(), at(Mul(), mean, factor))
    shift = shift if bias is None else at(Add(), shift, bias)
    spread = Reshape((mean.type.size, *(1,) * (x.type.rank - op.axis - 1)))
    out = at(Add(), at(Mul(), x, at(spread, factor)), at(spread, shift))
    return out if dtype is F32 else at(Cast(dtype), out)


def normalization_of_nothing(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """OpenVINO takes no axes for all."""
    return None if node.op.attributes()["axes"] != () else normalization(graph, node, ctx)


def local_response(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """OpenVINO has odd sizes over the axis 1 of two to four."""
    op, (x,) = node.op, node.operand_values
    assert isinstance(op, LocalResponseNormalization)
    if op.axis == 1 and op.size % 2 and x.type.rank == 4:
        return None
    at, shape = Before(graph, node), x.type.shape
    along = tuple(int(i == op.axis) for i in range(x.type.rank))
    before, after = op.window
    square = at(Pad(tuple(a * before for a in along), tuple(a * after for a in along)), at(Mul(), x, x))
    total = None
    for i in range(op.size):
        part = at(Slice(tuple(a * i for a in along), shape), square)
        total = part if total is None else at(Add(), total, part)
    assert total is not None
    dtype = x.type.dtype
    base = at(Add(), at(Mul(), total, at.number(op.alpha / op.size, dtype)), at.number(op.bias, dtype))
    return at(Div(), x, at(Pow(), base, at.number(op.beta, dtype)))


RULES: Rules = {
    **dict.fromkeys((Abs, Add, Neg, Sub), (eight_bits,)),
    **dict.fromkeys((Max, Min), (unsigned_order, large_bound)),
    Pad: (unsigned_fill, large_fill),
    Where: (integer_choice,),
    Transpose: (square_heads,),
    ArgMinMax: (unsigned_order, _integers.arg_of_extreme),
    Clamp: (_integers.integer_clamp,),
    Div: (eight_bits, _integers.division),
    Mul: (eight_bits, large_factor),
    MaxPool2d: (_integers.integer_max_pool,),
    Pow: (_integers.power,),
    Relu: (_integers.integer_relu,),
    Prelu: (eight_bits, _integers.integer_relu),
    **dict.fromkeys((ShiftLeft, ShiftRight), (eight_bits, unsigned_shift)),
    Comparison: (unsigned_order, comparison, float_order),
    Cast: (saturating_cast,),
    Indexed: (unsigned_indices,),
    Reduction: (reduction_of_nothing, _integers.integer_reduction),
    **dict.fromkeys((reduction.ReduceMax, reduction.ReduceMin), (reduction_of_nothing, infinite_extreme)),
    reduction.ReduceLogSumExp: (reduction_of_nothing, log_sum_exp),
    BatchNormalization: (batch_norm,),
    LayerNormalization: (normalization_of_nothing,),
    LocalResponseNormalization: (local_response,),
}
