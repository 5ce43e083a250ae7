"""Concats that begin like an earlier one are made from it.

    a = concat(x, y);  b = concat(x, y, z)   ->   b = concat(a, z)   same axis, the longest such a

The planner writes the operands of a concat side by side into its result, but x can lie in one result only: without
this, b copies x and y. Dense networks that are exported with the list of all earlier results in each concat (DenseNet
of torchvision: 58 concats of up to 25 operands) become chains in which nothing is copied.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpucompile.ir.graph import Graph, Value
from gpucompile.ops.movement import Concat
from gpucompile.passmanager.base import Context, Pass

MAX_LOOK = 64  # concats with the same first operand that are compared


@dataclass(frozen=True)
class ShareConcats(Pass):
    """concat(x, y, z) -> concat(concat(x, y), z) where concat(x, y) exists"""

    def run(self, graph: Graph, ctx: Context) -> bool:
        changed = False
        earlier: dict[tuple[int, Value], list[tuple[Value, ...]]] = {}  # operands, by axis and first operand
        results: dict[tuple[int, tuple[Value, ...]], Value] = {}
        for node in list(graph.nodes):
            if not isinstance(node.op, Concat):
                continue
            axis, operands = node.op.axis, node.operand_values
            known = earlier.setdefault((axis, operands[0]), [])
            begins = [k for k in known[-MAX_LOOK:] if len(k) < len(operands) and operands[: len(k)] == k]
            known.append(operands)
            output = node.output
            if begins:
                longest = max(begins, key=len)
                rest = operands[len(longest) :]
                output = graph.add(node.op, results[axis, longest], *rest, before=node, name=node.output.name)
                graph.replace(node, output)
                ctx.count("shared")
                changed = True
            results[axis, operands] = output
        return changed
