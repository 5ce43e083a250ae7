"""Results larger than a binding are computed in parts, and never exist as a whole.

    z = g(f(x)), y = f(x) above the limit   -> z = concat(g(f(x[part 1])), g(f(x[part 2])), ..)
    z = conv2d(f(x), W)                     -> conv2d(f(x[part 1]), W[part 1]) + conv2d(f(x[part 2]), W[part 2]) + ..

A region is what hangs together by large values. All of it is cut into the same number of equal parts, each value along
one axis: the scores of attention by heads, images by channels (`_parts` knows the ways of each op). Of the axes that
work throughout, the one with the fewest parts is taken, then with the fewest sums, the outermost of these. One part
goes all the way before the next begins, so that little memory is alive at once. Runs before `layout`, while heads and
channels are axes of their own. Linear in nodes times axes. A region without such an axis stays; `split-large` says what
is too large then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gpucompile.ir.graph import Graph, Node, Value
from gpucompile.ops.elementwise import Add
from gpucompile.ops.movement import Concat
from gpucompile.passes._parts import Way, op_of_part, ways
from gpucompile.passes.split_large import LIMIT, part_of
from gpucompile.passmanager.base import Context, Pass


@dataclass(frozen=True)
class SplitActivations(Pass):
    """g(f(x)) -> concat(g(f(x1)), g(f(x2)), ..) where f(x) is larger than a storage buffer binding may be"""

    def run(self, graph: Graph, ctx: Context) -> bool:
        limit = ctx.target.limit(LIMIT)
        changed = False
        for region in _regions(graph, limit):
            cuts = _cuts(region, limit)
            if cuts is None:
                ctx.remark(region.nodes[0], f"its values above {LIMIT} have no axis along which all can be cut")
                continue
            ctx.count("parts", cuts.count)
            _Writer(graph, region, cuts).write()
            changed = True
        return changed


@dataclass(frozen=True)
class _Region:
    """Large values that hang together, and the nodes that compute or read them, in the graph's order."""

    values: set[Value]
    nodes: list[Node]


@dataclass(frozen=True)
class _Step:
    """How a node is computed: its result `cut`, `summed`, or each part of a cut by a sum."""

    cut: Way | None
    summed: Way | None

    def axes(self, operand: int) -> tuple[int | None, int | None]:
        """Along what an operand is cut for a part of the result, and for a term of its sum."""
        return tuple(None if w is None else w.operands[operand] for w in (self.cut, self.summed))  # type: ignore[return-value]


@dataclass(frozen=True)
class _Cuts:
    count: int
    steps: Mapping[Node, _Step]


def _regions(graph: Graph, limit: int) -> list[_Region]:
    large = {v: None for n in graph.nodes for v in n.outputs if v.type.nbytes > limit and v.constant is None}
    if not large:
        return []
    order = {node: i for i, node in enumerate(graph.nodes)}
    regions, seen = [], set()
    for start in large:
        if start in seen:
            continue
        values, nodes, stack = {start}, set(), [start]
        while stack:
            for node in _around(stack.pop()):
                if node in order and node not in nodes:
                    nodes.add(node)
                    new = [v for v in (*node.operand_values, *node.outputs) if v in large and v not in values]
                    values.update(new)
                    stack += new
        seen |= values
        regions.append(_Region(values, sorted(nodes, key=order.__getitem__)))
    return regions


def _around(v: Value) -> Iterator[Node]:
    if v.producer is not None:
        yield v.producer
    yield from v.users


# which axes -----------------------------------------------------------------------------------------------------------


def _cuts(region: _Region, limit: int) -> _Cuts | None:
    """The best way to cut a region; None if there is none."""
    if any(v.is_output for v in region.values) or any(len(node.outputs) > 1 for node in region.nodes):
        return None
    known = {node: _steps(node, region.values) for node in region.nodes}
    start = max((node.output for node in region.nodes if node.output in region.values), key=lambda v: v.type.nbytes)
    parts = -(-start.type.nbytes // limit)
    best, price = None, (math.inf, math.inf)
    for axis in range(start.type.rank):
        steps = _consistent(region, known, start, axis)
        if steps is None:
            continue
        common = math.gcd(*(size for node, step in steps.items() for size in _sizes(node, step)))
        count = next((c for c in range(parts, common + 1) if common % c == 0), 0)
        new = (count, sum(step.summed is not None for step in steps.values()))
        if count and new < price:
            best, price = _Cuts(count, steps), new
    return best


def _steps(node: Node, large: set[Value]) -> list[_Step]:
    """The ways in which a node never meets a large value as a whole."""
    known = ways(node)
    cuts: list[Way | None] = [w for w in known if w.result is not None]
    sums: list[Way | None] = [w for w in known if w.result is None]
    found = []
    for cut in [*cuts, None]:
        for summed in [None, *sums]:
            step = _Step(cut, summed)
            whole_result = cut is None and (summed is None or node.output in large)
            apart = all(step.axes(i).count(None) == 1 for i, v in enumerate(node.inputs) if v in large)
            needless = cut is not None and summed is not None and node.output not in large
            if not whole_result and apart and not needless:
                found.append(step)
    return found


def _consistent(
    region: _Region, known: Mapping[Node, list[_Step]], start: Value, axis: int
) -> dict[Node, _Step] | None:
    """What every node does if `start` is cut along an axis; None if some node cannot follow."""
    axes, steps, stack = {start: axis}, dict[Node, _Step](), [start]
    while stack:
        for node in _around(stack.pop()):
            if node in steps:
                continue
            for step in known[node]:
                new = _large_axes(node, step, region.values)
                if all(axes.get(v, a) == a for v, a in new):
                    break
            else:
                return None
            steps[node] = step
            stack += [v for v, _ in new if v not in axes]
            axes.update(new)
    return steps


def _large_axes(node: Node, step: _Step, large: set[Value]) -> list[tuple[Value, int]]:
    """The axes along which a step needs and leaves large values."""
    found = [
        (v, a) for i, v in enumerate(node.inputs) if v is not None and v in large for a in step.axes(i) if a is not None
    ]
    if step.cut is not None and step.cut.result is not None and node.output in large:
        found.append((node.output, step.cut.result))
    return found


def _sizes(node: Node, step: _Step) -> Iterator[int]:
    """What the number of parts must divide."""
    for way in (step.cut, step.summed):
        if way is not None:
            yield from (v.type.shape[a] for v, a in zip(node.inputs, way.operands, strict=True) if v and a is not None)
            yield from (way.units,) if way.units else ()
            yield from () if way.result is None else (node.output.type.shape[way.result],)


# writing --------------------------------------------------------------------------------------------------------------


class _Writer:
    """Writes the nodes of a region anew, in parts."""

    def __init__(self, graph: Graph, region: _Region, cuts: _Cuts) -> None:
        self.graph, self.region, self.cuts = graph, region, cuts
        self.parts: dict[Value, list[Value]] = {}
        self.made: set[Node] = set()

    def write(self) -> None:
        ends = []
        for node in self.region.nodes:
            step = self.cuts.steps[node]
            indices = range(self.cuts.count) if step.cut is not None else [None]
            results = [self.part(node, step, j) for j in indices]
            if node.output in self.region.values:
                self.parts[node.output] = results
                continue
            whole = results[0]
            if step.cut is not None and step.cut.result is not None:
                whole = self.add(node, Concat(step.cut.result), *results)
            ends.append(whole.producer)
            self.graph.replace(node, whole)
        for node in reversed(self.region.nodes):
            if node.graph is self.graph:
                self.graph.remove(node)
        self.order(ends)

    def add(self, before: Node, op: object, *operands: Value | None) -> Value:
        value = self.graph.add(op, *operands, before=before, name=before.output.name)  # type: ignore[arg-type]
        assert value.producer is not None
        self.made.add(value.producer)
        return value

    def part(self, node: Node, step: _Step, j: int | None) -> Value:
        """Part `j` of the result, or all of it."""
        op = node.op if step.cut is None else op_of_part(node, step.cut, self.cuts.count)
        total: Value | None = None
        for k in range(self.cuts.count) if step.summed is not None else [None]:
            operands = [self.operand(node, step, i, j, k) for i in range(len(node.inputs))]
            term = self.add(node, op, *operands)
            total = term if total is None else self.add(node, Add(), total, term)
        assert total is not None
        return total

    def operand(self, node: Node, step: _Step, i: int, j: int | None, k: int | None) -> Value | None:
        v = node.inputs[i]
        if v is None or (k and step.summed is not None and step.summed.once == i):
            return None
        for axis, index in zip(step.axes(i), (j, k), strict=True):
            if axis is not None and index is not None:
                if v in self.parts:
                    return self.parts[v][index]
                size = v.type.shape[axis] // self.cuts.count
                v = part_of(self.graph, node, v, axis, index * size, (index + 1) * size)
        return v

    def order(self, ends: list[Node | None]) -> None:
        """Move what was made to right before the end that needs it, one operand after the other."""
        done: set[Node] = set()
        for end in ends:
            assert end is not None
            stack = [(end, False)]
            while stack:
                node, ready = stack.pop()
                if node in done:
                    continue
                if not ready:
                    stack.append((node, True))
                    producers = [v.producer for v in reversed(node.operand_values)]
                    stack += [(p, False) for p in producers if p is not None and p in self.made]
                    continue
                done.add(node)
                self.graph.move(node, end)
