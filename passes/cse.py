"""Common subexpression elimination.

    y = op(a, b), z = op(a, b) -> y, z := y

Two nodes are the same if op, attributes and operands are, bit by bit (0.0 is not -0.0); constants are compared by their
content. Operands come before their users, so one walk with a hash table finds everything: linear time. Ops are pure.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, fields

from gpucompile.ir.graph import Graph, Node
from gpucompile.ir.op import Op
from gpucompile.passmanager.base import Context, Pass


@dataclass(frozen=True)
class Cse(Pass):
    """y = op(a, b), z = op(a, b) -> y, z := y"""

    def run(self, graph: Graph, ctx: Context) -> bool:
        seen: dict[Hashable, Node] = {}
        merged = 0
        for node in graph.nodes:
            first = seen.setdefault((_key(node.op), node.inputs), node)
            if first is not node:
                graph.replace(node, *first.outputs)
                merged += 1
        ctx.count("merged", merged)
        return merged > 0


def _key(op: Op) -> Hashable:
    return type(op), tuple(_exact(getattr(op, f.name)) for f in fields(op))


def _exact(value: object) -> Hashable:
    """A key that tells 0.0 from -0.0 and 1 from 1.0, and takes NaN for equal to itself."""
    if isinstance(value, float):
        return "float", value.hex()
    if isinstance(value, tuple):
        return tuple(_exact(v) for v in value)
    return type(value), value
