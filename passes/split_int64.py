"""64-bit integers as pairs of 32-bit words, for devices that compute them in 32 bits.

    x: i64                  -> l, h = word_of(x), word_of{high=1}(x), where it is a graph input
    f(x: i64): i64          -> the words of the result, computed in int32
    what returns the graph  -> join_words(l, h)

    a + b          l = a.l + b.l, h = a.h + b.h + carry; the carry is the top bit of (a & b) | ((a | b) & ~l)
    a * b          the products of 16-bit halves of the low words, and both mixed products of words
    a < b          the borrow of a - b, after the top bits of signed numbers are flipped
    cast           of float32 by float32's quotient and rest by 2^32; to float32 as h * 2^32 + l, rounded to the nearest
                   number or (beyond int32) its neighbour
    gather, ...    both words are moved; indices beyond int32 are moved to its ends, which are outside as well

What stays 64-bit (`rules.py` names it) are powers with computed exponents. Results are exact; narrow-int64 goes before
this and leaves little to do. Linear in nodes; a product is some twenty nodes, a quotient five hundred.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gpucompile.ir.graph import Constant, Graph, Node, Value
from gpucompile.ir.literals import limits
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType
from gpucompile.ops.activation import Clamp, Relu
from gpucompile.ops.bitwise import BitwiseAnd, BitwiseOr, BitwiseXor, ShiftLeft, ShiftRight
from gpucompile.ops.categories import Movement, Reduction
from gpucompile.ops.elementwise import Abs, Add, Div, Floor, Identity, Max, Min, Mul, Neg, Pow, Prelu, Sign, Sub
from gpucompile.ops.gather import Indexed
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
    Where,
)
from gpucompile.ops.movement import Pad
from gpucompile.ops.pool import MaxPool2d
from gpucompile.ops.scan import ArgMinMax, CumulativeSum
from gpucompile.ops.words import JoinWords, WordOf
from gpucompile.passes import _integers
from gpucompile.passes._integers import F32, I32, I64, U32, U64, Before
from gpucompile.passes._rewrite import Rule, Rules, rewrite
from gpucompile.passes.legalize import reduction_of_nothing
from gpucompile.passmanager.base import Context, Pass


def is_wide(v: Value) -> bool:
    """Whether it is a 64-bit integer."""
    return v.type.dtype in (I64, U64)


@dataclass(frozen=True)
class SplitInt64(Pass):
    """f(x: i64): i64 -> the words of the result from the words of x"""

    def run(self, graph: Graph, ctx: Context) -> bool:
        changed = rewrite(graph, RULES, ctx)
        work = _Splitting(graph)
        for node in list(graph.nodes):
            work.visit(node)
        ctx.count("split", len(work.replaced))
        return work.finish() or changed


def _of_wide(rule: Rule) -> tuple[Rule]:
    """The rule, for nodes with 64-bit integers only."""

    def checked(graph: Graph, node: Node, ctx: Context) -> Value | None:
        return rule(graph, node, ctx) if any(map(is_wide, (*node.operand_values, *node.outputs))) else None

    checked.__name__ = rule.__name__
    return (checked,)


RULES: Rules = {
    op: _of_wide(rule)
    for op, rule in {
        Clamp: _integers.integer_clamp,
        Relu: _integers.integer_relu,
        Prelu: _integers.integer_relu,
        Abs: _integers.magnitude,
        Sign: _integers.sign,
        Div: _integers.division,
        Pow: _integers.power,
        ArgMinMax: _integers.arg_of_extreme,
        CumulativeSum: _integers.running_sum,
        MaxPool2d: _integers.integer_max_pool,
    }.items()
}
RULES = {**RULES, Reduction: _of_wide(reduction_of_nothing) + _of_wide(_integers.integer_reduction)}


@dataclass(frozen=True)
class Words:
    """The low and the high word of a 64-bit integer, in int32."""

    low: Value
    high: Value


class _Splitting:
    """The words of the 64-bit values seen so far."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.words: dict[Value, Words] = {}
        self.replaced: list[Node] = []

    def visit(self, node: Node) -> None:
        """Find the words of a node's 64-bit result, or replace what it makes of 64-bit operands."""
        op = node.op
        if isinstance(op, (Constant, WordOf)) or not any(map(is_wide, (*node.operand_values, *node.outputs))):
            return
        if isinstance(op, JoinWords):
            low, high = node.operand_values
            if low.type.shape == high.type.shape:
                self.words[node.output] = Words(low, high)
            return
        result = _Arithmetic(self, node).result()
        if result is None:
            return
        self.replaced.append(node)
        if isinstance(result, Words):
            self.words[node.output] = result
        else:
            node.output.replace_by(result)

    def of(self, v: Value, before: Node) -> Words:
        """The words of a value; of a constant or a graph input they are made before the node that first wants them."""
        if v not in self.words:
            at = Before(self.graph, before)
            if v.constant is None:
                self.words[v] = Words(at(WordOf(), v), at(WordOf(True), v))
            else:
                low, high = (
                    self.graph.constant(np.asarray(WordOf(h).reference(v.constant)), before=before)
                    for h in (False, True)
                )
                self.words[v] = Words(low, high)
        return self.words[v]

    def finish(self) -> bool:
        """Remove the nodes that were replaced; whoever still reads a 64-bit result gets it joined."""
        for node in reversed(self.replaced):
            v = node.output
            if v.users:
                words = self.words[v]
                joined = self.graph.add(JoinWords(v.type.dtype), words.low, words.high, before=node, name=v.name)
                v.replace_by(joined)
            self.graph.remove(node)
        return bool(self.replaced)


class _Arithmetic:
    """Of one node: its result from its operands' words."""

    def __init__(self, splitting: _Splitting, node: Node) -> None:
        self.node = node
        self.splitting = splitting
        self.at = Before(splitting.graph, node)

    def words(self, v: Value) -> Words:
        return self.splitting.of(v, self.node)

    def result(self) -> Words | Value | None:
        """The words of a 64-bit result, or another result; None for what is not known."""
        op, values = self.node.op, self.node.operand_values
        if isinstance(op, Cast):
            return self.cast(values[0], op.to)
        if isinstance(op, Indexed):
            return self.indexed(op, *values)
        if isinstance(op, Where):
            return self.choice(values[0], *map(self.words, values[1:]))
        if isinstance(op, Movement):
            return self.moved(op, *values)
        if isinstance(op, Comparison) and is_wide(values[0]):
            return self.compared(op, *map(self.words, values))
        function = FUNCTIONS.get(type(op))
        if function is None or not all(map(is_wide, values)):
            return None
        return function(self, *map(self.words, values))

    # ------------------------------------------------------------------ bits

    def number(self, value: int) -> Value:
        return self.at.number(int(np.array(value % 2**32, np.uint32).astype(np.int32)), I32)

    def both(self, a: Value, b: Value) -> Value:
        return self.at(BitwiseAnd(), a, b)

    def either(self, a: Value, b: Value) -> Value:
        return self.at(BitwiseOr(), a, b)

    def differ(self, a: Value, b: Value) -> Value:
        return self.at(BitwiseXor(), a, b)

    def inverted(self, a: Value) -> Value:
        return self.differ(a, self.number(-1))

    def sign(self, a: Value) -> Value:
        """-1 where the top bit of an int32 is set, else 0."""
        return self.at(ShiftRight(), a, self.number(31))

    def half(self, a: Value, upper: bool) -> Value:
        """16 of the 32 bits."""
        return self.both(self.at(ShiftRight(), a, self.number(16)) if upper else a, self.number(0xFFFF))

    def true(self, mask: Value) -> Value:
        """uint8, 1 where an int32 is not 0."""
        return self.at(NotEqual(), mask, self.number(0))

    # ------------------------------------------------------------------ arithmetic

    def sum(self, a: Words, b: Words) -> Words:
        low = self.at(Add(), a.low, b.low)
        carry = self.either(self.both(a.low, b.low), self.both(self.either(a.low, b.low), self.inverted(low)))
        return Words(low, self.at(Sub(), self.at(Add(), a.high, b.high), self.sign(carry)))

    def borrow(self, a: Value, b: Value, difference: Value) -> Value:
        """-1 where a - b, whose low 32 bits are given, is below 0 for unsigned a and b (and a borrow before)."""
        same = self.both(self.inverted(self.differ(a, b)), difference)
        return self.sign(self.either(self.both(self.inverted(a), b), same))

    def difference(self, a: Words, b: Words) -> Words:
        low = self.at(Sub(), a.low, b.low)
        return Words(low, self.at(Add(), self.at(Sub(), a.high, b.high), self.borrow(a.low, b.low, low)))

    def negative(self, a: Words) -> Words:
        zero = self.number(0)
        return self.difference(Words(zero, zero), a)

    def product(self, a: Words, b: Words) -> Words:
        at = self.at
        a0, a1, b0, b1 = (self.half(x, upper) for x in (a.low, b.low) for upper in (False, True))
        first, second = at(Mul(), a0, b1), at(Mul(), a1, b0)
        middle = at(Add(), self.half(at(Mul(), a0, b0), True), self.half(first, False))
        middle = at(Add(), middle, self.half(second, False))
        high = at(Mul(), a1, b1)
        for part in (first, second, middle):
            high = at(Add(), high, self.half(part, True))
        for x, y in ((a.low, b.high), (a.high, b.low)):
            high = at(Add(), high, at(Mul(), x, y))
        return Words(at(Mul(), a.low, b.low), high)

    def less(self, a: Words, b: Words) -> Value:
        """-1 where a < b, by the order of the first operand's data type."""
        if self.node.operand_values[0].type.dtype is I64:
            a, b = (Words(x.low, self.differ(x.high, self.number(1 << 31))) for x in (a, b))
        difference = self.difference(a, b)
        return self.borrow(a.high, b.high, difference.high)

    def compared(self, op: Comparison, a: Words, b: Words) -> Value:
        if isinstance(op, (Equal, NotEqual)):
            bits = self.either(self.differ(a.low, b.low), self.differ(a.high, b.high))
            return self.at(type(op)(), bits, self.number(0))
        swapped = isinstance(op, (Greater, LesserOrEqual))
        less = self.less(b, a) if swapped else self.less(a, b)
        return self.at((Equal if isinstance(op, (GreaterOrEqual, LesserOrEqual)) else NotEqual)(), less, self.number(0))

    def choice(self, condition: Value, a: Words, b: Words) -> Words:
        return Words(self.at(Where(), condition, a.low, b.low), self.at(Where(), condition, a.high, b.high))

    def largest(self, a: Words, b: Words) -> Words:
        return self.choice(self.true(self.less(a, b)), b, a)

    def smallest(self, a: Words, b: Words) -> Words:
        return self.choice(self.true(self.less(b, a)), b, a)

    def bitwise(self, a: Words, b: Words) -> Words:
        return Words(self.at(self.node.op, a.low, b.low), self.at(self.node.op, a.high, b.high))

    def same(self, a: Words) -> Words:
        return a

    # ------------------------------------------------------------------ shifts

    def _count(self, b: Words) -> Value:
        """By how many bits: 64 for more, negative ones included."""
        more = self.either(b.high, self.both(b.low, self.number(~63)))
        return self.at(Where(), self.true(more), self.number(64), b.low)

    def _up(self, a: Value, b: Value) -> Value:
        """0 where b is above 31 or below 0."""
        return self.at(ShiftLeft(), a, b)

    def _down(self, a: Value, b: Value, dtype: DataType = U32) -> Value:
        """Of an int32 as `dtype`: 0, or copies of the sign, where b is above 31 or below 0."""
        return self.at.cast(self.at(ShiftRight(), self.at.cast(a, dtype), self.at.cast(b, dtype)), I32)

    def shifted_left(self, a: Words, b: Words) -> Words:
        n, word = self._count(b), self.number(32)
        high = self.either(self._up(a.high, n), self._down(a.low, self.at(Sub(), word, n)))
        return Words(self._up(a.low, n), self.either(high, self._up(a.low, self.at(Sub(), n, word))))

    def shifted_right(self, a: Words, b: Words) -> Words:
        n, word = self._count(b), self.number(32)
        dtype = I32 if self.node.operand_values[0].type.dtype is I64 else U32
        beyond = self._down(a.high, self.at(Sub(), n, word), dtype)
        lower = self.either(self._down(a.low, n), self._up(a.high, self.at(Sub(), word, n)))
        return Words(self.at(Where(), self.at(Lesser(), n, word), lower, beyond), self._down(a.high, n, dtype))

    # ------------------------------------------------------------------ moves

    def moved(self, op: Movement, *values: Value) -> Words:
        low, high = zip(*((w.low, w.high) for w in map(self.words, values)), strict=True)
        ops: tuple[Op, Op] = (op, op)
        if isinstance(op, Pad) and op.mode == "constant":
            fill = np.array(op.value).astype(self.node.output.type.dtype.numpy)
            ops = tuple(replace(op, value=int(WordOf(h).reference(fill))) for h in (False, True))  # type: ignore[assignment]
        return Words(self.at(ops[0], *low), self.at(ops[1], *high))

    def indexed(self, op: Indexed, x: Value, indices: Value, *updates: Value) -> Words | Value:
        where = self.narrow(self.words(indices)) if is_wide(indices) else indices
        if not is_wide(x):
            return self.at(op, x, where, *updates)
        words = [self.words(x), *map(self.words, updates)]
        low, high = (self.at(op, p[0], where, *p[1:]) for p in ([w.low for w in words], [w.high for w in words]))
        return Words(low, high)

    def narrow(self, a: Words) -> Value:
        """int32: the nearest number."""
        sign = self.sign(a.high)
        end = self.differ(sign, self.number(2**31 - 1))
        fits = self.at(Equal(), self.differ(a.high, self.sign(a.low)), self.number(0))
        return self.at(Where(), fits, a.low, end)

    # ------------------------------------------------------------------ casts

    def cast(self, x: Value, to: DataType) -> Words | Value:
        source, at = x.type.dtype, self.at
        if is_wide(x):
            words = self.words(x)
            if to in (I64, U64):
                return words
            return at.cast(self.to_float(words, source) if to.is_float else words.low, to)
        if source.is_float:
            return self.from_float(at.cast(x, F32), to)
        low = at.cast(x, I32)
        return Words(low, self.sign(low) if source.is_signed else at(Sub(), low, low))

    def to_float(self, a: Words, dtype: DataType) -> Value:
        at, power = self.at, self.at.number(2.0**32, F32)
        low = at(Cast(F32), at(Cast(U32), a.low))
        if dtype is U64:
            return at(Add(), at(Mul(), at(Cast(F32), at(Cast(U32), a.high)), power), low)
        whole = at(Add(), at(Mul(), at(Cast(F32), a.high), power), low)
        small = at(Equal(), self.differ(a.high, self.sign(a.low)), self.number(0))
        return at(Where(), small, at(Cast(F32), a.low), whole)

    def from_float(self, x: Value, to: DataType) -> Words:
        """Truncated, NaN as 0, at the ends of the data type beyond them."""
        at, zero = self.at, self.at.number(0.0, F32)
        x = at(Where(), at(IsNan(), x), zero, x)
        size = at(Abs(), x)
        high = at(Floor(), at(Mul(), size, at.number(2.0**-32, F32)))
        low = at(Sub(), size, at(Mul(), high, at.number(2.0**32, F32)))
        low, high = (at(Cast(I32), at(Cast(U32), part)) for part in (low, high))
        negative = at(Lesser(), x, zero)
        smallest, largest = limits(to)
        words = self.choice(negative, self.negative(Words(low, high)), Words(low, high))
        words = self.choice(at(GreaterOrEqual(), x, at.number(float(largest), F32)), self.constant(largest), words)
        return self.choice(at(LesserOrEqual(), x, at.number(float(smallest), F32)), self.constant(smallest), words)

    def constant(self, value: int) -> Words:
        return Words(self.number(value), self.number(value >> 32))


FUNCTIONS: dict[type[Op], Callable[..., Words]] = {
    Add: _Arithmetic.sum,
    Sub: _Arithmetic.difference,
    Neg: _Arithmetic.negative,
    Mul: _Arithmetic.product,
    Max: _Arithmetic.largest,
    Min: _Arithmetic.smallest,
    Identity: _Arithmetic.same,
    BitwiseAnd: _Arithmetic.bitwise,
    BitwiseOr: _Arithmetic.bitwise,
    BitwiseXor: _Arithmetic.bitwise,
    ShiftLeft: _Arithmetic.shifted_left,
    ShiftRight: _Arithmetic.shifted_right,
}
