"""Which arena each scratch tensor goes to.

A dispatch that writes a buffer waits for all earlier dispatches that touch it, so kernels that write one arena run one
after the other. That costs nothing in a chain, and everything in parallel branches of kernels too small to fill the
device: those want results in different arenas, and their common input in one that none of them writes.
"""

from __future__ import annotations

from gpucompile.ir.graph import Graph
from gpucompile.plan.storage import Assignment
from gpucompile.target import Target


def choose_arenas(graph: Graph, assignment: Assignment, mode: str, target: Target) -> int:
    """Set `Storage.arena` of all scratch storages; returns the number of arenas. `memory` uses one."""
    return 1
