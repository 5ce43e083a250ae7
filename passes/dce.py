"""Dead code elimination.

    y = op(...), y unused -> nothing

Nodes are visited from last to first, so what only dead nodes used dies in the same walk: linear time. Inputs stay,
they are public.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpucompile.ir.graph import Graph
from gpucompile.passmanager.base import Context, Pass


@dataclass(frozen=True)
class Dce(Pass):
    """y = op(...), y unused -> nothing"""

    def run(self, graph: Graph, ctx: Context) -> bool:
        removed = 0
        for node in graph.nodes_reversed:
            if not any(v.users for v in node.outputs):
                graph.remove(node)
                removed += 1
        ctx.count("removed", removed)
        return removed > 0
