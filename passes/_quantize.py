"""Quantisation as casts and arithmetic in float32; part of `legalize`.

    quantize_linear(x, scale, zero_point)     cast(round_even(x / scale) + zero_point), where the cast saturates
    dequantize_linear(x, scale, zero_point)   (cast(x) - zero_point) * scale

A zero point that is known to be 0 is left out. Scales of blocks are repeated; those of axes or of all just broadcast.
"""

from __future__ import annotations

from gpucompile.ir.graph import Graph, Node, Value
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType
from gpucompile.ops import elementwise
from gpucompile.ops.logical import Cast
from gpucompile.ops.movement import Repeat
from gpucompile.ops.quantize import DequantizeLinear, QuantizeLinear, repetitions
from gpucompile.passes._rewrite import Rules
from gpucompile.passmanager.base import Context


class _Writer:
    """Adds ops before a node."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph, self.node = graph, node

    def add(self, op: Op, *inputs: Value) -> Value:
        return self.graph.add(op, *inputs, before=self.node)

    def single(self, v: Value) -> Value:
        """The value as float32."""
        return v if v.type.dtype is DataType.FLOAT32 else self.add(Cast(DataType.FLOAT32), v)

    def parameter(self, v: Value, input: Value) -> Value:
        """A scale or zero point as float32, in a shape that broadcasts to the input's."""
        counts = repetitions(input.type.shape, v.type.shape)
        out = self.single(v)
        return out if set(counts) <= {1} else self.add(Repeat(counts), out)


def _is_zero(v: Value) -> bool:
    return v.constant is not None and not v.constant.any()


def quantize(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """cast(round_even(x / scale) + zero_point)"""
    w, (x, scale, zero_point) = _Writer(graph, node), node.operand_values
    out = w.add(elementwise.RoundEven(), w.add(elementwise.Div(), w.single(x), w.parameter(scale, x)))
    if not _is_zero(zero_point):
        out = w.add(elementwise.Add(), out, w.parameter(zero_point, x))
    return w.add(Cast(zero_point.type.dtype), out)


def dequantize(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """(cast(x) - zero_point) * scale"""
    w, (x, scale, zero_point) = _Writer(graph, node), node.operand_values
    out = w.single(x)
    if not _is_zero(zero_point):
        out = w.add(elementwise.Sub(), out, w.parameter(zero_point, x))
    out = w.add(elementwise.Mul(), out, w.parameter(scale, x))
    return out if scale.type.dtype is DataType.FLOAT32 else w.add(Cast(scale.type.dtype), out)


RULES: Rules = {QuantizeLinear: (quantize,), DequantizeLinear: (dequantize,)}
