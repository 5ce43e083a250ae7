"""Movement that cancels, becomes a view, or moves into weights and attributes.

    chains        any chain of transposes and reshapes -> the shortest equal one: nothing, a reshape, a transpose with
                  at most one reshape on either side (see `_strides`)
    slices        slice(slice(x)) -> slice(x); slice(concat(x, y)) inside x -> slice(x)
    concat        concat(concat(x, y), z) -> concat(x, y, z), same axis, inner one used once
    sinking       f(transpose(x), transpose(y)) -> transpose(f(x, y)) where a transpose disappears by it, at once or by
                  meeting its inverse below; reduce(transpose(x)) -> reduce(x), transposed if axes remain
    products      gemm(transpose(a), b) -> gemm(a, b) with a_transpose turned; same for b
                  gemm(reshape(transpose(x)), W) -> gemm(reshape(x), W'): the rows of the constant W are permuted

Linear time: chains are followed `MAX_CHAIN` nodes up or `MAX_LOOK` nodes down. Transposed constants are left to
fold-constants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gpucompile.ir.graph import Graph, Node, Value
from gpucompile.ir.op import Op
from gpucompile.ops.categories import Elementwise, Reduction
from gpucompile.ops.contraction import Gemm
from gpucompile.ops.movement import Concat, Reshape, Slice, Transpose
from gpucompile.passes import _strides
from gpucompile.passes._rewrite import Rules, only_user, rewrite
from gpucompile.passmanager.base import Context, Pass

MAX_CHAIN = 6
MAX_LOOK = 16


@dataclass(frozen=True)
class SimplifyMovement(Pass):
    """transpose(transpose(x)) -> x, slice(concat) -> slice, gemm(transpose(a), b) -> gemm(a, b) with flags, ..."""

    def run(self, graph: Graph, ctx: Context) -> bool:
        return rewrite(graph, RULES, ctx)


# Chains of transposes and reshapes -----------------------------------------------------------------------------------


def chain_up(value: Value) -> list[Node]:
    """The reshapes and transposes that made `value`, from the value upwards, at most MAX_CHAIN."""
    nodes: list[Node] = []
    node = value.producer
    while node is not None and isinstance(node.op, Reshape | Transpose) and len(nodes) < MAX_CHAIN:
        nodes.append(node)
        node = node.operand_values[0].producer
    return nodes


def chain_axes(nodes: Sequence[Node]) -> _strides.Axes | None:
    """The strided axes of what `nodes` (from the last to the first) make, in terms of the operand of the first."""
    axes: _strides.Axes | None = _strides.contiguous(nodes[-1].operand_values[0].type.shape)
    for node in reversed(nodes):
        if axes is None:
            break
        axes = _strides.apply(axes, node.op)
    return axes


def shorten_chain(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """a chain of reshapes and transposes -> the fewest ops that do the same, fewest transposes first"""
    chain = chain_up(node.output)
    alone = 1  # how many of the chain's nodes disappear with its end
    while alone < len(chain) and only_user(chain[alone].output) is chain[alone - 1]:
        alone += 1
    for length in range(len(chain), 0, -1):
        nodes = chain[:length]
        x = nodes[-1].operand_values[0]
        axes = None if x.constant is not None else chain_axes(nodes)
        if axes is None:
            continue
        ops = _strides.to_ops(axes, x.type.shape)
        cost, saved = _cost(ops), _cost([n.op for n in nodes[:alone]])
        if cost < saved or (cost == saved and len(ops) < length):
            for op in ops:
                x = graph.add(op, x, before=node)
            return x
    return None


def _cost(ops: Sequence[Op]) -> tuple[int, int]:
    return sum(isinstance(op, Transpose) for op in ops), len(ops)


# Slices and concat ---------------------------------------------------------------------------------------------------


def slice_of_slice(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """slice(slice(x)) -> slice(x)"""
    outer, (y,) = node.op, node.operand_values
    inner = y.op
    if not isinstance(outer, Slice) or not isinstance(inner, Slice) or y.producer is None:
        return None
    axes = range(y.type.rank)
    steps = tuple(outer.steps[i] * inner.steps[i] for i in axes)
    starts = tuple(inner.starts[i] + outer.starts[i] * inner.steps[i] for i in axes)
    sizes = tuple((node.output.type.shape[i] - 1) * steps[i] + 1 for i in axes)
    strides = None if set(steps) <= {1} else steps
    return graph.add(Slice(starts, sizes, strides), y.producer.inputs[0], before=node)


def slice_of_concat(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """slice(concat(x, y)) -> slice(y) where the window lies inside y"""
    op, (joined,) = node.op, node.operand_values
    if not isinstance(op, Slice) or not isinstance(joined.op, Concat) or joined.producer is None:
        return None
    axis = joined.op.axis
    begin, end = op.starts[axis], op.starts[axis] + op.sizes[axis]
    start = 0
    for part in joined.producer.operand_values:
        stop = start + part.type.shape[axis]
        if start <= begin and end <= stop:
            starts = (*op.starts[:axis], begin - start, *op.starts[axis + 1 :])
            return graph.add(replace(op, starts=starts), part, before=node)
        start = stop
    ctx.remark(node, "the window covers several operands of the concat")
    return None


def concat_of_concat(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """concat(concat(x, y), z) -> concat(x, y, z)"""
    parts: list[Value] = []
    for v in node.operand_values:
        if v.op == node.op and v.producer is not None:
            if only_user(v) is node and node.operand_values.count(v) == 1:
                parts.extend(v.producer.operand_values)
                continue
            ctx.remark(node, f"the inner concat {v!r} is used elsewhere")
        parts.append(v)
    if len(parts) == len(node.operand_values):
        return None
    return graph.add(node.op, *parts, before=node)


# Sinking transposes --------------------------------------------------------------------------------------------------


def sink_transpose(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """f(transpose(x), transpose(y)) -> transpose(f(x, y)) where that saves a transpose"""
    rank = node.output.type.rank
    sources: dict[Value, Value] = {}  # operand -> what stands in its place
    moved = [v for v in node.operand_values if isinstance(v.op, Transpose) and v.type.rank == rank]
    if not moved or len(node.outputs) != 1:
        return None
    op = moved[0].op
    assert isinstance(op, Transpose)
    if not _saves_a_transpose(node, set(moved), op):
        return None
    for v in node.operand_values:
        if v.op == op and v.type.rank == rank and v.producer is not None:
            sources[v] = v.producer.operand_values[0]
        elif v.type.size == 1:
            sources[v] = v
        elif v.constant is None:
            ctx.remark(node, f"operand {v!r} is not transposed like the others")
            return None
    inverse = Transpose(invert(op.permutation))
    for v in node.operand_values:
        if v not in sources:
            full = graph.add(Reshape((1,) * (rank - v.type.rank) + v.type.shape), v, before=node)
            sources[v] = graph.add(inverse, full, before=node)
    out = graph.add(node.op, *(None if v is None else sources[v] for v in node.inputs), before=node)
    return graph.add(op, out, before=node)


def _saves_a_transpose(node: Node, moved: set[Value], op: Transpose) -> bool:
    """Two of its operands lose a transpose, or the transpose will meet its inverse below."""
    if sum(only_user(v) is node for v in moved) > 1:
        return True
    value = node.output
    for _ in range(MAX_LOOK):
        user = only_user(value)
        if user is None or len(user.outputs) != 1:
            return False
        if isinstance(user.op, Transpose):
            return user.op.permutation == invert(op.permutation)
        others = [v for v in user.operand_values if v is not value]
        if not isinstance(user.op, Elementwise) or any(v.constant is None for v in others):
            return False
        value = user.output
    return False


def invert(permutation: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes it."""
    return tuple(sorted(range(len(permutation)), key=permutation.__getitem__))


def reduce_of_transpose(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """reduce(transpose(x)) -> reduce(x), then a smaller transpose of what is left unless it is in order"""
    op, (y,) = node.op, node.operand_values
    if not isinstance(op, Reduction) or not isinstance(y.op, Transpose) or y.producer is None:
        return None
    permutation = y.op.permutation
    gone = [permutation[a] for a in op.reduced_axes(y.type.rank)]
    out = graph.add(replace(op, axes=tuple(sorted(gone))), y.producer.inputs[0], before=node)
    if op.keep_dimensions:
        return graph.add(Transpose(permutation), out, before=node)
    kept = [p for p in permutation if p not in gone]
    return graph.add(Transpose(tuple(sorted(kept).index(p) for p in kept)), out, before=node) if kept else out


# Products ------------------------------------------------------------------------------------------------------------


def transposed_operand(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """gemm(transpose(a), b) -> gemm(a, b) with a_transpose turned; same for b"""
    op, inputs = node.op, list(node.inputs)
    assert isinstance(op, Gemm)
    for i, flag in enumerate(("a_transpose", "b_transpose")):
        v = inputs[i]
        if v is None or v.op != Transpose((1, 0)) or v.producer is None:
            continue
        source = v.producer.operand_values[0]
        if source.constant is None:
            inputs[i], op = source, replace(op, **{flag: not getattr(op, flag)})
    return graph.add(op, *inputs, before=node) if op != node.op else None


def permute_weight_rows(graph: Graph, node: Node, ctx: Context) -> Value | None:
    """gemm(reshape(transpose(x)), W) -> gemm(reshape(x), W with permuted rows)

    The columns of `a` are a permutation of those of reshape(x, [M, K]); permuting K of the constant undoes it."""
    op, (a, w, *c) = node.op, node.inputs
    assert isinstance(op, Gemm) and a is not None and w is not None
    chain = chain_up(a)
    if op.a_transpose or not any(isinstance(n.op, Transpose) for n in chain):
        return None
    if w.constant is None:
        ctx.remark(node, "its weights are not constant: the columns of a cannot be permuted at compile time")
        return None
    axes = chain_axes(chain)
    if axes is None or _strides.in_order(_strides.merge(axes)):
        return None
    (m, k), rows, columns = a.type.shape, _strides.merge(axes[:1]), axes[1]
    if m != 1 and rows != [(m, k)]:
        ctx.remark(node, "the chain of transposes mixes rows with columns of a")
        return None
    order = sorted(columns, key=lambda atom: -atom[1])
    permutation = tuple(columns.index(atom) for atom in order)
    axis = 1 if op.b_transpose else 0
    (other,) = (d for i, d in enumerate(w.type.shape) if i != axis)
    sizes = tuple(size for size, _ in columns)
    if axis == 0:
        split, moved = (*sizes, other), (*permutation, len(sizes))
    else:
        split, moved = (other, *sizes), (0, *(p + 1 for p in permutation))
    weights = graph.add(Reshape(split), w, before=node)
    weights = graph.add(Transpose(moved), weights, before=node)
    weights = graph.add(Reshape(w.type.shape), weights, before=node)
    x = graph.add(Reshape((m, k)), chain[-1].operand_values[0], before=node)
    assert math.prod(sizes) == k
    return graph.add(op, x, weights, *c, before=node)


RULES: Rules = {
    Reshape: (shorten_chain,),
    Transpose: (shorten_chain,),
    Slice: (slice_of_slice, slice_of_concat),
    Concat: (concat_of_concat,),
    Elementwise: (sink_transpose,),
    Reduction: (reduce_of_transpose,),
    Gemm: (transposed_operand, permute_weight_rows),
}
