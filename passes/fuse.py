"""Fusion: one node becomes one kernel.

    anchor, elementwise, elementwise     -> fused(anchor; epilogue)       consumers move into the store
    elementwise, movement, anchor        -> fused(prologue; anchor)       producers move into the loads
    elementwise, movement, elementwise   -> fused(...)                    chains become one map

Three sweeps over the graph, each linear: epilogues of anchors, prologues of anchors, then maps of what is left.
A producer is taken only if nobody else reads it (recomputing a movement would cost nothing, but kept alone it may
become an alias), or if all who do are in the same map and read it at the same coordinates. A reshape, a concat or a
slice of rows at the edge of a group stays outside: the planner turns it into an alias.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gpucompile.ir.graph import Constant, Graph, Literal, Node, Return, Value
from gpucompile.ops.categories import Elementwise, Movement, Reduction
from gpucompile.ops.contraction import Gemm, Matmul
from gpucompile.ops.conv import Conv2d
from gpucompile.ops.fused import Fused
from gpucompile.ops.gather import Indexed, Scatter
from gpucompile.ops.movement import Concat, Reshape, Slice
from gpucompile.ops.scan import ArgMinMax, CumulativeSum
from gpucompile.passmanager.base import Context, Pass

#: Functions that are too slow to be evaluated again for every tile that reads an operand.
_SLOW = ("exp(", "pow(", "log", "tanh(", "sin(", "cos(", "tan(", "erf")


@dataclass(eq=False)
class _Group:
    """Nodes that become one. `root` produces the result; `anchor` is None for a map."""

    root: Node
    anchor: Node | None
    members: dict[Node, None] = field(default_factory=dict)
    aligned: set[Node] = field(default_factory=set)  # of a map: evaluated at the result's coordinates, so only once

    def __post_init__(self) -> None:
        if self.anchor is None:
            self.aligned.add(self.root)

    def externals(self) -> dict[Value, None]:
        """Values read from outside that need a binding."""
        out: dict[Value, None] = {}
        for node in self.members:
            for v in node.operand_values:
                if v.producer not in self.members and not _inline(v):
                    out[v] = None
        return out


@dataclass(frozen=True)
class Fuse(Pass):
    """Group nodes into kernels. `max_ops` bounds the ops of a group; bindings are bounded by the target."""

    max_ops: int = 32
    epilogues: bool = True
    prologues: bool = True
    maps: bool = True

    def run(self, graph: Graph, ctx: Context) -> bool:
        groups: dict[Node, _Group] = {}  # member -> group
        limit = ctx.target.limit("max-storage-buffers-per-shader-stage") - 1  # one for the result
        order = {node: i for i, node in enumerate(graph.nodes)}
        for node in graph.nodes:
            if not isinstance(node.op, (Elementwise, Movement, Constant, Fused)) and len(node.outputs) == 1:
                group = groups[node] = _Group(node, node, {node: None})
                if self.epilogues and not isinstance(node.op, Scatter):  # two kernels write its result, or one in place
                    self._epilogue(group, groups, limit, ctx)
        if self.prologues:
            for group in list(dict.fromkeys(groups.values())):
                assert group.anchor is not None
                for v in group.anchor.operand_values:
                    self._take(group, v, groups, limit, ctx, _reads_often(group.anchor))
        if self.maps:
            for node in graph.nodes_reversed:
                starts = isinstance(node.op, (Elementwise, Movement)) and not isinstance(
                    node.op, (Reshape, Slice, Concat)
                )
                if starts and node not in groups:
                    group = groups[node] = _Group(node, None, {node: None})
                    for v in node.operand_values:
                        self._take(group, v, groups, limit, ctx, False)
        changed = False
        for group in dict.fromkeys(groups.values()):
            if len(group.members) > 1:
                _replace(graph, group, order)
                ctx.count("kernels fused", 1)
                ctx.count("nodes fused", len(group.members))
                changed = True
        return changed

    def _epilogue(self, group: _Group, groups: dict[Node, _Group], limit: int, ctx: Context) -> None:
        value = group.root.output
        pending: list[Node] = []  # movements, taken only if an elementwise op follows
        while len(group.members) + len(pending) < self.max_ops:
            users = value.users
            if len(users) != 1 or isinstance(users[0].op, Return):
                if len(users) > 1:
                    ctx.remark(group.root, f"epilogue ends: {len(users)} nodes read its result")
                return
            (node,) = users
            if node in groups or len(node.outputs) != 1:
                return
            fits = isinstance(node.op, Elementwise) and node.output.type.shape == value.type.shape
            before, after = (v.type.dtype.packed(ctx.target.features) for v in (value, node.output))
            if not _types_fit(group.anchor, node):
                return
            if fits and after and not before:
                pending.append(node)  # anchors cannot store parts of words: taken only if something wider follows
            elif pending and before and (after or not fits):
                return
            elif fits:
                trial = _Group(node, group.anchor, {**group.members, **dict.fromkeys(pending), node: None})
                if len(trial.externals()) > limit:
                    ctx.remark(node, f"not fused into {group.root.op.name}: more than {limit + 1} bindings")
                    return
                for n in (*pending, node):
                    group.members[n] = None
                    groups[n] = group
                group.root = node
                pending = []
            elif isinstance(node.op, Movement) and len(node.operand_values) == 1 and _one_to_one(node):
                if not isinstance(node.op, Reshape):  # a transpose into the store saves a kernel
                    for n in (*pending, node):
                        group.members[n] = None
                        groups[n] = group
                    group.root = node
                    pending = []
                else:
                    pending.append(node)
            else:
                if isinstance(node.op, Elementwise):
                    ctx.remark(node, f"not fused into {group.root.op.name}: it broadcasts the result")
                return
            value = node.output

    def _take(
        self, group: _Group, value: Value, groups: dict[Node, _Group], limit: int, ctx: Context, often: bool
    ) -> bool:
        """Take the producer of `value` and what feeds it into `group`, as far as allowed; whether any was taken."""
        stack = [value]
        taken = False
        while stack:
            v = stack.pop()
            node = v.producer
            if node is None or node in groups or not isinstance(node.op, (Elementwise, Movement)):
                continue
            in_place = _at_result(group, v)
            if v.use_count != 1 and not in_place:
                ctx.remark(node, f"not fused into {group.root.op.name}: {v.use_count} operands read its result")
                continue
            if not _types_fit(group.anchor, node):
                continue
            if isinstance(node.op, Concat) and group.anchor is not None:
                continue  # operands written side by side are better than a choice at every load
            if often and isinstance(node.op, Elementwise) and _slow(node, groups):
                ctx.remark(node, f"not fused into {group.root.op.name}: too slow to repeat for every tile")
                continue
            if isinstance(node.op, Reshape) and not _worth(node, groups):
                continue
            if len(group.members) >= self.max_ops:
                ctx.remark(node, f"not fused into {group.root.op.name}: the group has {self.max_ops} ops")
                continue
            trial = _Group(group.root, group.anchor, {**group.members, node: None})
            if len(trial.externals()) > limit:
                ctx.remark(node, f"not fused into {group.root.op.name}: more than {limit + 1} bindings")
                continue
            group.members[node] = None
            groups[node] = group
            if in_place:
                group.aligned.add(node)
            taken = True
            stack.extend(node.operand_values)
        return taken


def _worth(node: Node, groups: dict[Node, _Group]) -> bool:
    """Whether a reshape is followed (upwards) by something that can be fused: alone it is a free alias."""
    (source,) = node.operand_values
    above = source.producer
    return (
        above is not None
        and above not in groups
        and source.use_count == 1
        and isinstance(above.op, (Elementwise, Movement))
        and not isinstance(above.op, Concat)
        and (not isinstance(above.op, Reshape) or _worth(above, groups))
    )


def _one_to_one(node: Node) -> bool:
    """Whether a movement has a forward index map, so that it can follow an anchor."""
    assert isinstance(node.op, Movement)
    return type(node.op).forward is not Movement.forward


def _reads_often(anchor: Node) -> bool:
    """Whether the anchor reads each operand element many times."""
    return isinstance(anchor.op, (Matmul, Gemm, Conv2d)) or not isinstance(anchor.op, Reduction)


def _types_fit(anchor: Node | None, node: Node) -> bool:
    """Whether the anchor's kernel, which may compute in vectors, can compute `node` too: 64-bit integers have none."""
    if anchor is None or isinstance(anchor.op, (Reduction, ArgMinMax, CumulativeSum, Indexed)):
        return True
    return all(v.type.dtype.bits != 64 for v in (*node.operand_values, node.output))


def _at_result(group: _Group, value: Value) -> bool:
    """Whether a map evaluates `value` at the coordinates of its result and nowhere else, though several nodes may read
    it: then it is computed once."""
    return value.type.shape == group.root.output.type.shape and all(
        node in group.aligned and isinstance(node.op, Elementwise) for node in value.users
    )


def _slow(node: Node, groups: dict[Node, _Group], depth: int = 4) -> bool:
    """Whether a formula, or one that only it reads (through at most `depth` others), is too slow to repeat: together
    they become one map."""
    assert isinstance(node.op, Elementwise)
    text = node.op.wgsl([f"x{i}" for i in range(len(node.operand_values))], "f32", "f32")
    if any(f in text for f in _SLOW):
        return True
    above = [v.producer for v in node.operand_values if v.use_count == 1] if depth else []
    return any(
        n is not None and n not in groups and isinstance(n.op, Elementwise) and _slow(n, groups, depth - 1)
        for n in above
    )


def _inline(value: Value) -> bool:
    """Whether an external value becomes a literal in the body."""
    return value.constant is not None and value.type.size == 1


def _leave_rows_outside(graph: Graph, group: _Group) -> None:
    """Where a group reads but some rows of a tensor, slice these outside: that is an alias, and groups that differ in
    nothing but the rows that they read, as the steps of a recurrent network do, share one shader."""
    for v in group.externals():
        readers = [node for node in group.members if v in node.operand_values]
        windows = [node.op for node in readers if isinstance(node.op, Slice)]
        if v.constant is not None or v.type.rank == 0 or len(windows) < len(readers):
            continue
        begin = min(w.starts[0] for w in windows)
        end = max(w.starts[0] + w.sizes[0] for w in windows)
        rows, *rest = v.type.shape
        if end - begin == rows or v.type.nbytes // rows % 4:  # the planner has aliases of whole words only
            continue
        outside = graph.add(Slice((begin, *(0 for _ in rest)), (end - begin, *rest)), v, before=group.root)
        for node, window in zip(readers, windows, strict=True):
            node.op = replace(window, starts=(window.starts[0] - begin, *window.starts[1:]))
            node.inputs = (outside,)


def _replace(graph: Graph, group: _Group, order: dict[Node, int]) -> None:
    """Put one `Fused` node in the place of the group's root, which is its last member."""
    _leave_rows_outside(graph, group)
    members = sorted(group.members, key=order.__getitem__)
    body = Graph("body")
    inner: dict[Value, Value] = {}
    externals: list[Value] = []
    for v in group.externals():
        inner[v] = body.add_input(f"in{len(externals)}", v.type)
        externals.append(v)
    for node in members:
        for v in node.operand_values:
            if v not in inner:
                array = v.constant
                assert array is not None
                inner[v] = body.constant(Literal(array, v.type))
        new = body.insert(node.op, tuple(None if v is None else inner[v] for v in node.inputs), name=node.output.name)
        inner[node.output] = new.output
    body.set_outputs({"out": inner[group.root.output]})
    fused = graph.insert(Fused(body), tuple(externals), before=group.root, name=group.root.output.name)
    group.root.output.replace_by(fused.output)
    for node in reversed(members):
        graph.remove(node)
