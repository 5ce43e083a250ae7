"""Data layout: activations channels-last throughout, weights in the order in which kernels read them.

Activations (`activations=nhwc`). WebGPU kernels read vec4s along the innermost axis, and channels are what every op
of a convolutional network has many of. One forward walk keeps for each value [N, C.., H, W] its *twin* [N, H, W, C..]:

    conv2d, pooling, instance norm      begin twins: their operand is transposed if it has none
    elementwise, concat, slice, pad,    follow: computed on the twins once one operand has one;
    softmax, lrn, batch norm, reduce    axes, windows and broadcast operands are permuted with it
    reshape, transpose of C.. only      follow: a channel shuffle [N,g,k,H,W] <-> [N,k,g,H,W] happens on the last axes
    everything else                     reads a transposed twin, made once per value

so that a network gets one transpose at its input and one where it leaves the convolutional part; where they meet others
or move only extents of 1, simplify-movement removes them. `auto` does so if the graph has such an op; `nchw` never.

Weights. Filters become hwio, [K, N] for the implicit matrix product, or ohwi, [N, K], if there are few rows (see
`prefers_rows`); so do gemm's constant operands. This is done by transposes, which fold-constants evaluates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from gpucompile.ir.graph import Constant, Graph, Node, Value
from gpucompile.ir.op import Op
from gpucompile.ops import movement
from gpucompile.ops.categories import Elementwise, Reduction
from gpucompile.ops.contraction import Gemm, prefers_rows
from gpucompile.ops.conv import Conv2d, ConvTranspose2d
from gpucompile.ops.normalize import BatchNormalization, InstanceNormalization, LocalResponseNormalization
from gpucompile.ops.pool import Pool2d
from gpucompile.ops.softmax import Softmax
from gpucompile.passes._rewrite import erase, replace
from gpucompile.passmanager.base import Context, Pass

CHOICES = ("auto", "nhwc", "nchw")


@dataclass(frozen=True)
class Layout(Pass):
    """activations channels-last (`activations`: auto, nhwc, nchw), constant weights in the kernels' order"""

    activations: str = "auto"

    def __post_init__(self) -> None:
        if self.activations not in CHOICES:
            raise ValueError(f"activations is one of {', '.join(CHOICES)}, not {self.activations!r}")

    def run(self, graph: Graph, ctx: Context) -> bool:
        wanted = self.activations == "nhwc" or (
            self.activations == "auto" and any(_begins(node.op) for node in graph.nodes)
        )
        changed = _Twins(graph, ctx).run() if wanted else False
        for node in graph.nodes:
            if isinstance(node.op, Conv2d | Gemm):
                changed |= _pack_weights(graph, node, ctx)
        return changed


# Weights -------------------------------------------------------------------------------------------------------------


def _pack_weights(graph: Graph, node: Node, ctx: Context) -> bool:
    """Transpose the constant weights of a conv2d or gemm into the order that its kernel reads."""
    op, (x, w, *rest) = node.op, node.inputs
    assert x is not None and w is not None
    if isinstance(op, Gemm):
        rows = prefers_rows(node.output.type.shape[0])
        if op.b_transpose == rows or w.constant is None:
            return False
        new_op: Op = dataclasses.replace(op, b_transpose=rows)
        order: tuple[int, ...] = (1, 0)
    else:
        assert isinstance(op, Conv2d)
        if op.input_layout != "nhwc":
            ctx.remark(node, "its activations are not channels-last: the filter stays as it is")
            return False
        g = op.geometry(x.type, w.type)
        wanted = "ohwi" if op.groups == 1 and prefers_rows(g.n * g.oh * g.ow) else "hwio"
        if op.filter_layout == wanted:
            return False
        new_op = dataclasses.replace(op, filter_layout=wanted)
        order = tuple(op.filter_layout.index(axis) for axis in wanted)
    weights = graph.add(movement.Transpose(order), w, before=node, name=w.name)
    replace(graph, node, graph.add(new_op, x, weights, *rest, before=node))
    ctx.count("weights packed")
    return True


# Activations ---------------------------------------------------------------------------------------------------------


#: Ops with a layout attribute, and its name.
LAYOUT_FIELD: dict[type[Op], str] = {
    Conv2d: "input_layout",
    ConvTranspose2d: "input_layout",
    Pool2d: "layout",
    InstanceNormalization: "layout",
}


def _begins(op: Op) -> bool:
    """Whether the op has a layout attribute that says channels first."""
    return any(isinstance(op, kind) and getattr(op, field) == "nchw" for kind, field in LAYOUT_FIELD.items())


def last(rank: int) -> tuple[int, ...]:
    """The permutation that moves the channel axes behind the two spatial ones: (0, 2, 3, 1) for rank 4."""
    return (0, rank - 2, rank - 1, *range(1, rank - 2))


def first(rank: int) -> tuple[int, ...]:
    """The permutation that undoes `last`."""
    return (0, *range(3, rank), 1, 2)


class _Twins:
    """The walk. Nodes that get a twin stay until the end, for users that may still want the original order."""

    def __init__(self, graph: Graph, ctx: Context) -> None:
        self.graph, self.ctx = graph, ctx
        self.twin: dict[Value, Value] = {}  # channels first -> channels last
        self.results: dict[Value, Node] = {}  # those of them that are results of converted nodes
        self.back: dict[Value, Value] = {}  # result of a converted node -> its twin, transposed back
        self.moved: dict[tuple[Value, int], Value] = {}  # (operand, rank) -> itself channels-last, broadcast to rank
        self.count = 0

    def run(self) -> bool:
        for node in self.graph.nodes:
            if isinstance(node.op, Constant):
                continue
            new = self.convert(node)
            if new is None:
                self.restore(node)
                continue
            self.count += 1
            if node.graph is self.graph:  # else it was replaced by a value in the original order
                self.twin[node.output] = new
                self.results[node.output] = node
        self.restore(self.graph.return_node)
        for node in reversed(self.results.values()):
            if node.graph is self.graph:
                operands = node.operand_values
                self.graph.remove(node)
                erase(self.graph, operands)
        self.ctx.count("ops channels-last", self.count)
        return self.count > 0

    def restore(self, node: Node) -> None:
        """Give a node that keeps its order the original order of the operands that were converted."""
        if any(v in self.results for v in node.operand_values):
            node.inputs = tuple(None if v is None else self.original(v, node) for v in node.inputs)

    def original(self, v: Value, before: Node) -> Value:
        """`v` channels-first, as something that survives the walk."""
        if v not in self.results:
            return v
        if v not in self.back:
            self.ctx.remark(before, f"it needs {v!r} channels-first")
            op = movement.Transpose(first(v.type.rank))
            self.back[v] = self.graph.add(op, self.twin[v], before=before, name=v.name)
        return self.back[v]

    def convert(self, node: Node) -> Value | None:
        """The twin of the node's result, or None where the node keeps its order."""
        if len(node.outputs) != 1:
            return None
        if _begins(node.op):
            return self.anchor(node)
        if any(v in self.twin for v in node.operand_values):
            for kind, handler in HANDLERS.items():
                if isinstance(node.op, kind):
                    return handler(self, node)
        return None

    def operand(self, v: Value, rank: int, before: Node) -> Value:
        """`v` channels-last, for an op whose result has `rank` axes: lower ranks are broadcast."""
        if v in self.twin and v.type.rank == rank:
            return self.twin[v]
        if v.type.size == 1 and v.type.rank < rank:
            return self.original(v, before)
        if (v, rank) not in self.moved:
            source = self.original(v, before)
            if v.type.rank < rank:
                shape = (1,) * (rank - v.type.rank) + v.type.shape
                source = self.graph.add(movement.Reshape(shape), source, before=before)
            out = self.graph.add(movement.Transpose(last(rank)), source, before=before, name=v.name)
            self.moved[v, rank] = out
            if source is v and v.constant is None:
                self.twin[v] = out
        return self.moved[v, rank]

    def add(self, node: Node, op: Op, *inputs: Value | None) -> Value:
        return self.graph.add(op, *inputs, before=node, name=node.output.name)

    def instead(self, node: Node, value: Value) -> Value:
        """Replace the node's result by a value in the original order: it gets no twin."""
        operands = node.operand_values
        self.graph.replace(node, value)
        erase(self.graph, operands)
        return value

    # one handler for each kind of op

    def anchor(self, node: Node) -> Value:
        x, *rest = node.inputs
        assert x is not None
        field = next(field for kind, field in LAYOUT_FIELD.items() if isinstance(node.op, kind))
        op = dataclasses.replace(node.op, **{field: "nhwc"})
        return self.add(node, op, self.operand(x, 4, node), *rest)

    def elementwise(self, node: Node) -> Value | None:
        rank = node.output.type.rank
        if not any(v in self.twin and v.type.rank == rank for v in node.operand_values):
            return None
        return self.add(node, node.op, *(None if v is None else self.operand(v, rank, node) for v in node.inputs))

    def one_axis(self, node: Node) -> Value | None:
        """Ops with an attribute `axis`: the result has the rank of all operands that are not vectors."""
        rank = node.output.type.rank
        axis = last(rank).index(node.op.axis)  # type: ignore[attr-defined]
        op = dataclasses.replace(node.op, axis=axis)  # type: ignore[call-arg]
        if isinstance(node.op, movement.Concat):
            return self.add(node, op, *(self.operand(v, rank, node) for v in node.operand_values))
        x, *vectors = node.inputs
        assert x is not None
        return self.add(node, op, self.operand(x, rank, node), *vectors)

    def per_axis(self, node: Node) -> Value | None:
        """Ops whose attributes are tuples with a value for each axis."""
        (x,) = node.operand_values
        rank = node.output.type.rank
        permuted = {
            name: tuple(value[p] for p in last(rank))
            for name, value in node.op.attributes().items()
            if isinstance(value, tuple)
        }
        return self.add(node, dataclasses.replace(node.op, **permuted), self.operand(x, rank, node))

    def expand(self, node: Node) -> Value | None:
        (x,) = node.operand_values
        return self.per_axis(node) if x.type.rank == node.output.type.rank else None

    def reduction(self, node: Node) -> Value | None:
        op, (x,) = node.op, node.operand_values
        assert isinstance(op, Reduction)
        rank = x.type.rank
        gone = op.reduced_axes(rank)
        order = last(rank)  # of the twin's axes
        new_op = dataclasses.replace(op, axes=tuple(i for i, p in enumerate(order) if p in gone))
        if op.keep_dimensions:
            return self.add(node, new_op, self.twin[x])
        out = self.add(node, new_op, self.twin[x])
        kept = [p for p in order if p not in gone]
        if kept != sorted(kept):
            out = self.add(node, movement.Transpose(tuple(kept.index(p) for p in sorted(kept))), out)
        return self.instead(node, out)

    def reshape(self, node: Node) -> Value | None:
        """[N, C.., H, W] -> [N, D.., H, W]"""
        op, (x,) = node.op, node.operand_values
        assert isinstance(op, movement.Reshape)
        old, new = x.type.shape, op.new_shape
        if len(new) < 3 or new[0] != old[0] or new[-2:] != old[-2:]:
            return None
        return self.add(node, movement.Reshape((new[0], *new[-2:], *new[1:-2])), self.twin[x])

    def transpose(self, node: Node) -> Value | None:
        """Of channel axes only: a twin. Others read the twin and need no transpose back."""
        op, (x,) = node.op, node.operand_values
        assert isinstance(op, movement.Transpose)
        rank, order = x.type.rank, last(x.type.rank)
        place = first(rank)  # where the twin has an axis
        if all(op.permutation[i] == i for i in (0, rank - 2, rank - 1)):
            return self.add(node, movement.Transpose(tuple(place[op.permutation[p]] for p in order)), self.twin[x])
        out = self.add(node, movement.Transpose(tuple(place[p] for p in op.permutation)), self.twin[x])
        return self.instead(node, out)


HANDLERS: dict[type[Op], Callable[[_Twins, Node], Value | None]] = {
    Elementwise: _Twins.elementwise,
    Reduction: _Twins.reduction,
    movement.Concat: _Twins.one_axis,
    Softmax: _Twins.one_axis,
    LocalResponseNormalization: _Twins.one_axis,
    BatchNormalization: _Twins.one_axis,
    movement.Slice: _Twins.per_axis,
    movement.Pad: _Twins.per_axis,
    movement.Expand: _Twins.expand,
    movement.Reshape: _Twins.reshape,
    movement.Transpose: _Twins.transpose,
}
