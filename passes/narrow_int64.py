"""64-bit integers that are provably small become int32.

    f(a: i64, b: i64): i64   -> cast(f(cast(a) as i32, cast(b) as i32)) as i64   if a, b and the result fit into int32
    compare(a: i64, b: i64)  -> compare(cast(a) as i32, cast(b) as i32)
    cast(a: i64) as T        -> cast(cast(a) as i32) as T
    cast(a: T) as i64        -> cast(cast(a) as i32) as i64, where T is an integer
    gather(x, i: i64)        -> gather(x, cast(i) as i32), and its like
    arg_max(x): i64          -> cast(arg_max(x): i32) as i64, and arg_min

Casts of casts cancel, so a chain of such nodes is int32 throughout. ONNX computes shapes, positions and token numbers
in int64, WebGPU has words of 32 bits: what stays int64 is computed exactly, in two words, at several times the cost.

Ranges go forward: a constant's is that of its elements, a graph input's is that of its type (nothing is assumed about
data, unless `int32_inputs` says that someone checks it), the others follow from their operands by interval arithmetic.
A sum, a product and so on whose range is not within its own type may wrap: its range is then that of the type. The
results are the same integers as before, always.

Linear in nodes and in the elements of 64-bit constants.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gpucompile.ir.graph import Constant, Graph, Node, Value
from gpucompile.ir.literals import limits
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType
from gpucompile.ops.activation import Clamp, Relu
from gpucompile.ops.categories import Elementwise, Movement
from gpucompile.ops.elementwise import Abs, Add, Div, Identity, Max, Min, Mul, Neg, Sign, Sub
from gpucompile.ops.gather import Indexed, Scatter
from gpucompile.ops.logical import Cast, Comparison, Predicate, Where
from gpucompile.ops.movement import Pad, Triangular
from gpucompile.ops.reduction import ReduceMax, ReduceMin, ReduceSum
from gpucompile.ops.scan import ArgMinMax, CumulativeSum
from gpucompile.passmanager.base import Context, Pass

Range = tuple[int, int]
I32 = DataType.INT32
NARROW: Range = limits(I32)


@dataclass(frozen=True)
class NarrowInt64(Pass):
    """f(x: i64): i64 -> f(x: i32): i32 where operands and results provably fit"""

    int32_inputs: bool = False

    def run(self, graph: Graph, ctx: Context) -> bool:
        work = _Narrowing(graph)
        if self.int32_inputs:
            work.ranges |= {
                v: (max(NARROW[0], limits(v.type.dtype)[0]), NARROW[1]) for v in graph.inputs if _is_wide(v)
            }
        for node in graph.nodes:
            work.visit(node, ctx)
        work.finish()
        ctx.count("narrowed", len(work.replaced))
        return bool(work.replaced)


class _Narrowing:
    """Ranges of the values seen so far, and the int32 twins of 64-bit values."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.ranges: dict[Value, Range] = {}
        self.twins: dict[Value, Value] = {}
        self.replaced: list[tuple[Node, Node]] = []

    def bounds(self, v: Value) -> Range:
        """What the elements of an integer value lie between."""
        return self.ranges.get(v) or limits(v.type.dtype)

    def fits(self, v: Value) -> bool:
        low, high = self.bounds(v)
        return NARROW[0] <= low and high <= NARROW[1]

    def visit(self, node: Node, ctx: Context) -> None:
        """Note the ranges of a node's results; insert its narrow form before it, if there is one."""
        for v in node.outputs:
            found = None if v.type.dtype.is_float else _range_of(node, self.bounds)
            if found is not None and limits(v.type.dtype)[0] <= found[0] and found[1] <= limits(v.type.dtype)[1]:
                self.ranges[v] = found
        op = node.op
        if isinstance(op, Constant) or not any(map(_is_wide, (*node.operand_values, *node.outputs))):
            return
        if isinstance(op, Cast) and self._meets(node.operand_values[0], node.output):
            return
        if not isinstance(op, KNOWN) or (isinstance(op, Cast) and node.operand_values[0].type.dtype.is_float):
            ctx.remark(node, f"nothing is known about the results of {op.name}")
            return
        wide = self._to_narrow(node)
        for v in wide:
            if not self.fits(v):
                low, high = self.bounds(v)
                ctx.remark(node, f"the elements of {v!r} lie between {low} and {high} as far as is known")
                return
        if wide and (not isinstance(op, Movement) or any(v in self.twins for v in node.operand_values)):
            self._replace(node, wide)

    def _meets(self, x: Value, y: Value) -> bool:
        """Whether a cast of x to y is between int32 and 64 bits: then one is the twin of the other."""
        if x.type.dtype is I32 and self.fits(y):
            self.twins[y] = x
        elif y.type.dtype is I32 and x not in self.twins and self.fits(x):
            self.twins[x] = y
        else:
            return False
        return True

    def _to_narrow(self, node: Node) -> list[Value]:
        """The 64-bit values of a node that have to become int32 together."""
        wide = [v for v in (*node.operand_values, *node.outputs) if _is_wide(v)]
        if isinstance(node.op, Indexed) and not all(map(self.fits, wide)):
            return [v for v in node.operand_values[1:2] if _is_wide(v)]
        if isinstance(node.op, ArgMinMax):  # the elements that are compared, and their places
            return [v for v in wide if v is not node.operand_values[0] or self.fits(v)]
        return wide

    def _replace(self, node: Node, wide: list[Value]) -> None:
        inputs = tuple(self.twin(v, node) if v in wide and v is not None else v for v in node.inputs)
        new = self.graph.insert(_narrowed(node.op), inputs, before=node, name=node.outputs[0].name)
        self.replaced.append((node, new))
        for v, result in zip(node.outputs, new.outputs, strict=True):
            if _is_wide(v) and not _is_wide(result):
                self.twins[v] = result

    def twin(self, v: Value, before: Node) -> Value:
        """The value as int32."""
        if v not in self.twins:
            array = v.constant
            if array is not None:
                self.twins[v] = self.graph.constant(array.astype(np.int32), before=before, name=v.name)
            else:
                self.twins[v] = self.graph.add(Cast(I32), v, before=before, name=v.name)
        return self.twins[v]

    def finish(self) -> None:
        """Remove the nodes that were replaced; what still reads their 64-bit results gets them by a cast."""
        for old, new in reversed(self.replaced):
            for v, result in zip(old.outputs, new.outputs, strict=True):
                if not v.users:
                    continue
                if v.type.dtype != result.type.dtype:
                    result = self.graph.add(Cast(v.type.dtype), result, before=old, name=v.name)
                v.replace_by(result)
            self.graph.remove(old)


def _is_wide(v: Value) -> bool:
    return v.type.dtype in (DataType.INT64, DataType.UINT64)


def _narrowed(op: Op) -> Op:
    """The op, with int32 in place of the 64-bit type that it makes."""
    if isinstance(op, Cast) and op.to.bits == 64:
        return Cast(I32)
    if isinstance(op, ArgMinMax):
        return replace(op, output_data_type=I32)
    return op


# Ranges --------------------------------------------------------------------------------------------------------------


def _range_of(node: Node, bounds: Callable[[Value], Range]) -> Range | None:
    """The range of a node's result, as if integers had no end; None where nothing is known."""
    op, values = node.op, node.operand_values
    if isinstance(op, Constant):
        array = op.value.array
        return (int(array.min()), int(array.max())) if array.size else (0, 0)
    if isinstance(op, (Comparison, Predicate)):
        return 0, 1
    if isinstance(op, ArgMinMax):
        return 0, values[0].type.shape[op.axis] - 1
    if any(v.type.dtype.is_float for v in values[:1]):
        return None
    ranges = [bounds(v) for v in values]
    if isinstance(op, Elementwise):
        rule = next((RANGES[c] for c in type(op).__mro__ if c in RANGES), None)
        return rule(op, ranges) if rule else None
    if isinstance(op, (Pad, Triangular)):
        return _union([*ranges, (math.floor(op.fill), math.ceil(op.fill))])
    if isinstance(op, Scatter):
        return _union([ranges[0], ranges[2]])
    if isinstance(op, Movement):
        return _union(ranges)
    if isinstance(op, (Indexed, ReduceMax, ReduceMin)):
        return ranges[0]
    if isinstance(op, (ReduceSum, CumulativeSum)):
        extent = values[0].type.size // max(1, node.output.type.size)
        if isinstance(op, CumulativeSum):
            extent = values[0].type.shape[op.axis]
        (low, high) = ranges[0]
        return min(low * extent, low, 0), max(high * extent, high, 0)
    return None


def _union(ranges: list[Range]) -> Range:
    return min(r[0] for r in ranges), max(r[1] for r in ranges)


def _product(op: Op, r: list[Range]) -> Range:
    corners = [a * b for a in r[0] for b in r[1]]
    return min(corners), max(corners)


def _quotient(op: Op, r: list[Range]) -> Range:
    """Truncated towards zero, and x / 0 = x."""
    largest = max(map(abs, r[0]))
    return (0 if min(*r[0], *r[1]) >= 0 else -largest), largest


def _clamped(op: Op, r: list[Range]) -> Range:
    assert isinstance(op, Clamp)
    low, high = (v if math.isinf(v) else int(v) for v in (op.min_value, op.max_value))
    return int(min(max(r[0][0], low), high)), int(min(max(r[0][1], low), high))


def _magnitude(op: Op, r: list[Range]) -> Range:
    low, high = r[0]
    return max(low, -high, 0), max(abs(low), abs(high))


RANGES: dict[type[Op], Callable[[Op, list[Range]], Range]] = {
    Add: lambda op, r: (r[0][0] + r[1][0], r[0][1] + r[1][1]),
    Sub: lambda op, r: (r[0][0] - r[1][1], r[0][1] - r[1][0]),
    Mul: _product,
    Div: _quotient,
    Max: lambda op, r: (max(r[0][0], r[1][0]), max(r[0][1], r[1][1])),
    Min: lambda op, r: (min(r[0][0], r[1][0]), min(r[0][1], r[1][1])),
    Neg: lambda op, r: (-r[0][1], -r[0][0]),
    Abs: _magnitude,
    Sign: lambda op, r: (-1, 1),
    Identity: lambda op, r: r[0],
    Relu: lambda op, r: (max(r[0][0], 0), max(r[0][1], 0)),
    Clamp: _clamped,
    Cast: lambda op, r: r[0],
    Where: lambda op, r: _union(r[1:]),
}

#: Ops that compute the same in int32 as in 64 bits where operands and results fit.
KNOWN = (
    *RANGES, Comparison, Predicate, Movement, Indexed, ArgMinMax, CumulativeSum, ReduceSum, ReduceMax, ReduceMin,
)  # fmt: skip
