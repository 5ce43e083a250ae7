"""float16 on devices whose shaders have none: stored as it is where it enters and leaves, computed in float32 between.

    x: f16 input        -> cast(x) as f32
    f(a, b): f16        -> round-float16(f(a, b)), so that every result is a float16 number, as IEEE 754 has it
    cast(x) as f16      -> round-float16(cast(x) as f32)
    cast(h: f16) as T   -> cast(h as f32) as T
    h: f16 output       -> cast(h) as f16

What only moves or chooses elements is not rounded again. update-slice, which writes a few elements of many, keeps its
float16 where these are whole words. Large constants stay float16 and are read through a cast.
Products and sums are exact in float32 before they are rounded, so that add, sub, mul, div and sqrt give the very bits
that float16 arithmetic gives. Nothing happens if the target has shader-f16. Linear time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpucompile.ir.graph import Constant, Graph, Node, Value
from gpucompile.ir.types import DataType
from gpucompile.ops.activation import Relu
from gpucompile.ops.categories import Movement
from gpucompile.ops.elementwise import Abs, Identity, Max, Min, Neg, RoundFloat16, Sign
from gpucompile.ops.gather import Indexed
from gpucompile.ops.logical import Cast, Where
from gpucompile.ops.pool import MaxPool2d
from gpucompile.ops.reduction import ReduceMax, ReduceMin
from gpucompile.ops.update import UpdateSlice
from gpucompile.passmanager.base import Context, Pass

F16, F32 = DataType.FLOAT16, DataType.FLOAT32

#: Ops whose results are float16 numbers if their operands are.
_EXACT = (Movement, Indexed, Abs, Identity, Max, Min, Neg, Sign, Relu, Where, MaxPool2d, ReduceMax, ReduceMin)


@dataclass(frozen=True)
class EmulateF16(Pass):
    """f(x: f16): f16 -> round-float16(f(x: f32): f32) where the target lacks shader-f16"""

    def run(self, graph: Graph, ctx: Context) -> bool:
        if not F16.packed(ctx.target.features):
            return False
        wide: dict[Value, Value] = {}
        old: dict[Node, None] = {}
        for node in graph.nodes:
            halves = any(v.type.dtype is F16 for v in (*node.operand_values, *node.outputs))
            if isinstance(node.op, UpdateSlice) and node.op.whole_words(node.operand_values[2].type):
                node.inputs = tuple(
                    graph.add(Cast(F16), wide[v], before=node) if v.producer in old and v in wide else v
                    for v in node.operand_values
                )
            elif halves and not isinstance(node.op, Constant):
                _widen(graph, node, wide)
                old[node] = None
        if not old:
            return False
        outputs = {}
        for name, v in zip(graph.output_names, graph.outputs, strict=True):
            outputs[name] = graph.add(Cast(F16), wide[v], name=v.name) if v in wide and v.producer in old else v
        graph.set_outputs(outputs)
        for node in reversed(old):
            graph.remove(node)
        ctx.count("nodes", len(old))
        return True


def _widen(graph: Graph, node: Node, wide: dict[Value, Value]) -> None:
    """Insert the node in float32 before it and note its results in `wide`; results of other types are replaced."""

    def operand(v: Value | None) -> Value | None:
        if v is None or v.type.dtype is not F16:
            return v
        if v not in wide:
            array = v.constant
            if array is not None and array.size == 1:
                wide[v] = graph.constant(array.astype(np.float32), before=node)
            else:
                wide[v] = graph.add(Cast(F32), v, before=node, name=v.name)
        return wide[v]

    op = node.op
    if isinstance(op, Cast) and op.to is F16:
        op = Cast(F32)
    new = graph.insert(op, tuple(operand(v) for v in node.inputs), before=node, name=node.outputs[0].name)
    for v, result in zip(node.outputs, new.outputs, strict=True):
        if v.type.dtype is F16:
            exact = isinstance(op, _EXACT)
            wide[v] = result if exact else graph.add(RoundFloat16(), result, before=node)
        else:
            v.replace_by(result)
