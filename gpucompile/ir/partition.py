"""Partitioning: who runs which node, as a sequence of segments that each run on one backend.

    nodes, what each needs, the backend that takes each  ->  Segment, Segment, ...

A segment only needs what earlier segments give, so segments are convex and run one after the other. Each takes every
node of its backend that is ready, so a change of backend is forced: two backends never alternate more often than
somewhere in the graph a chain of nodes does.

`cut` knows nothing about graphs; `extract` makes a graph of its own of some nodes of one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from gpucompile.ir.graph import Constant, Graph, Node, Value

N = TypeVar("N", bound=Hashable)


@dataclass(frozen=True)
class Segment(Generic[N]):
    """Nodes that one backend runs at once, in the order in which they were given."""

    backend: str
    nodes: tuple[N, ...]


def cut(
    nodes: Sequence[N], needs: Callable[[N], Iterable[N]], backend: Callable[[N], str], first: str = ""
) -> list[Segment[N]]:
    """Segments of the nodes, as few as possible for two backends; few for more.

    `needs(node)` gives the nodes whose results it reads, `backend(node)` who takes it. Nodes of one backend must stand
    in an order that defines before use. Among equally good cuts one that starts with `first` is preferred."""
    work = _Work(nodes, needs, backend)
    starts = sorted(dict.fromkeys(work.backends), key=lambda b: b != first)
    return min((work.schedule(start) for start in starts), key=len, default=[])


class _Work(Generic[N]):
    """The nodes as numbers."""

    def __init__(self, nodes: Sequence[N], needs: Callable[[N], Iterable[N]], backend: Callable[[N], str]) -> None:
        self.nodes = nodes
        self.backends = [backend(n) for n in nodes]
        number = {n: i for i, n in enumerate(nodes)}
        self.users: list[list[int]] = [[] for _ in nodes]
        self.needed = [0] * len(nodes)
        for i, node in enumerate(nodes):
            for j in {number[n] for n in needs(node)}:
                self.users[j].append(i)
                self.needed[i] += 1

    def schedule(self, start: str) -> list[Segment[N]]:
        """Segments, the first of them on backend `start` if anything can run there at once."""
        waiting = list(self.needed)
        ready: dict[str, list[int]] = {start: []}
        for i, count in enumerate(waiting):
            if not count:
                ready.setdefault(self.backends[i], []).append(i)
        segments = []
        while any(ready.values()):
            if ready.get(start):
                chosen, found = start, self._reach(ready[start], start, waiting)
            else:
                reached = {b: self._reach(r, b, waiting) for b, r in ready.items() if r}
                chosen, found = max(reached.items(), key=lambda item: len(item[1]))
            ready[chosen], start = [], ""
            inside = set(found)
            for i in found:
                for user in self.users[i]:
                    waiting[user] -= 1
                    if not waiting[user] and user not in inside:
                        ready.setdefault(self.backends[user], []).append(user)
            segments.append(Segment(chosen, tuple(self.nodes[i] for i in sorted(found))))
        return segments

    def _reach(self, ready: list[int], backend: str, waiting: list[int]) -> list[int]:
        """What a backend can run if nobody else does anything."""
        found: list[int] = []
        left: dict[int, int] = {}
        stack = list(ready)
        while stack:
            i = stack.pop()
            found.append(i)
            for user in self.users[i]:
                left[user] = left.get(user, waiting[user]) - 1
                if not left[user] and self.backends[user] == backend:
                    stack.append(user)
        return found


def extract(name: str, nodes: Iterable[Node], results: Iterable[Value], name_of: Callable[[Value], str]) -> Graph:
    """A new graph of some nodes: what they read from outside are its inputs, `results` its outputs, both called by
    `name_of`. Constants that they read are copied."""
    graph = Graph(name)
    mapping: dict[Value, Value] = {}

    def mapped(value: Value) -> Value:
        if value not in mapping:
            if isinstance(value.op, Constant):
                mapping[value] = graph.constant(value.op.value, name=value.name)
            else:
                mapping[value] = graph.add_input(name_of(value), value.type)
        return mapping[value]

    for node in nodes:
        new = graph.insert(node.op, tuple(None if v is None else mapped(v) for v in node.inputs))
        for old, out in zip(node.outputs, new.outputs, strict=True):
            out.name = old.name
            mapping[old] = out
    graph.set_outputs({name_of(v): mapped(v) for v in results})
    return graph
