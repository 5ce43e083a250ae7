"""Execution order and arenas: memory against overlap.

A dispatch that writes a buffer waits for all earlier dispatches that touch it, so kernels that write one arena run one
after the other. That costs nothing in a chain, and everything in parallel branches of kernels too small to fill the
device. Three ways to plan:

    memory    the order of the graph, one arena: the fewest bytes
    overlap   level by level, so that independent kernels stand side by side; the small ones of a level get results in
              different arenas, and levels take turns between two sets of arenas, so that what a level reads is not
              written by it
    balanced  overlap, if that takes at most `PRICE` times the memory, else memory
"""

from __future__ import annotations

from gpucompile.ir.graph import Constant, Graph, Node
from gpucompile.kernels.view import Storage
from gpucompile.ops.movement import Concat, Reshape, Slice
from gpucompile.plan.memory import Item, pack
from gpucompile.plan.storage import Assignment, assign
from gpucompile.target import Target

PRICE = 1.1  # what `balanced` pays for overlap
WAYS = 4  # kernels of one level that get arenas of their own
ELEMENTS_PER_GROUP = 2048  # results a workgroup computes, roughly: says whether a kernel fills the device


def order_and_assign(graph: Graph, mode: str, target: Target) -> Assignment:
    """Order the graph and assign storages and arenas for `mode` (memory, overlap or balanced)."""
    if mode == "memory":
        return assign(graph)
    original = list(graph.nodes)
    levels = _levels(graph)
    wide = _wide_levels(levels, target)
    if not wide:
        return assign(graph)
    _reorder(graph, sorted(levels, key=levels.__getitem__))
    overlapped = assign(graph)
    _spread(graph, overlapped, levels, wide)
    if mode == "overlap":
        return overlapped
    cost = scratch_bytes(graph, overlapped)
    _reorder(graph, original)
    plain = assign(graph)
    if cost > PRICE * scratch_bytes(graph, plain):
        return plain
    _reorder(graph, sorted(levels, key=levels.__getitem__))
    return overlapped


def scratch_bytes(graph: Graph, assignment: Assignment) -> int:
    """Bytes of all arenas, by the lifetimes of nodes (temporaries inside a node are not known yet)."""
    spans: dict[Storage, tuple[int, int]] = {}
    for i, node in enumerate(graph.nodes):
        for v in (*node.operand_values, *node.outputs):
            storage = assignment.views[v].storage
            if storage.kind == "scratch":
                first, _ = spans.get(storage, (i, i))
                spans[storage] = (first, i)
    total = 0
    for arena in {s.arena for s in spans}:
        total += pack([Item(s.nbytes, *span) for s, span in spans.items() if s.arena == arena]).total
    return total


def _levels(graph: Graph) -> dict[Node, int]:
    """Longest path in kernels from the inputs to each node, in graph order; views take no step."""
    levels: dict[Node, int] = {}
    for node in graph.nodes:
        before = max((levels[v.producer] for v in node.operand_values if v.producer), default=0)
        free = isinstance(node.op, (Constant, Concat, Reshape, Slice))
        levels[node] = before if free else before + 1
    return levels


def _wide_levels(levels: dict[Node, int], target: Target) -> dict[int, list[Node]]:
    """Levels with several kernels that leave the device partly idle, and those kernels."""
    small: dict[int, list[Node]] = {}
    for node, level in levels.items():
        if isinstance(node.op, (Constant, Concat, Reshape, Slice)):
            continue
        groups = sum(v.type.size for v in node.outputs) / ELEMENTS_PER_GROUP
        if groups < target.cores:
            small.setdefault(level, []).append(node)
    return {level: nodes for level, nodes in small.items() if len(nodes) > 1}


def _reorder(graph: Graph, order: list[Node]) -> None:
    for node in order:
        graph.move(node, graph.return_node)


def _spread(graph: Graph, assignment: Assignment, levels: dict[Node, int], wide: dict[int, list[Node]]) -> None:
    """Arenas 0 .. WAYS-1 for results of even levels, WAYS .. 2*WAYS-1 for odd ones. A storage keeps its first."""
    done: set[Storage] = set()
    for node in graph.nodes:
        for v in node.outputs:
            storage = assignment.views[v].storage
            if storage.kind == "scratch" and storage not in done and node not in assignment.aliases:
                done.add(storage)
                level = levels[node]
                siblings = wide.get(level, [])
                way = siblings.index(node) % WAYS if node in siblings else 0
                storage.arena = (level % 2) * WAYS + way
