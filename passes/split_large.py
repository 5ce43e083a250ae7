"""Weights larger than a binding are cut.

    gemm(a, W[K,N], c)       -> concat(gemm(a, W[:, :n1], c[:n1]), gemm(a, W[:, n1:], c[n1:]), ...) along the columns
    matmul(a, W[..,K,N])     -> the same
    conv2d(x, W, b)          -> the same along the output channels (one group only)
    f(gemm(a, W, c))         -> concat(f(gemm(..)), f(gemm(..)), ..) for unary elementwise f, so that it can be fused
    gather(W[N,..], i)       -> where(i < n1, gather(W[:n1], i), where(i < n2, gather(W[n1:n2], i - n1), ...))

The fewest parts that fit into `max-storage-buffer-binding-size` (vgg19's first fully connected layer: 392 MiB of
weights against 128 MiB), all a multiple of 4 columns but the last. Parts of weights stored as rows [N, K] share the
memory of the whole, as do those of tables. `split-activations` has cut what is computed; any tensor that is still above
the limit is an UnsupportedError.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpucompile.errors import UnsupportedError
from gpucompile.ir.graph import Graph, Node, Value
from gpucompile.ir.op import Op
from gpucompile.ops.categories import Elementwise
from gpucompile.ops.contraction import Gemm, Matmul
from gpucompile.ops.conv import Conv2d
from gpucompile.ops.elementwise import Add, Max, Sub
from gpucompile.ops.gather import Gather
from gpucompile.ops.logical import Lesser, Where
from gpucompile.ops.movement import Concat, Reshape, Slice
from gpucompile.passes._parts import ways
from gpucompile.passes._rewrite import erase, only_user
from gpucompile.passmanager.base import Context, Pass
from gpucompile.target import Target

LIMIT = "max-storage-buffer-binding-size"
ALIGNMENT = 4  # columns, for vec4 loads


@dataclass(frozen=True)
class SplitLarge(Pass):
    """gemm(a, W) -> concat(gemm(a, W1), gemm(a, W2), ..) where W is larger than a storage buffer binding may be"""

    def run(self, graph: Graph, ctx: Context) -> bool:
        limit = ctx.target.limit(LIMIT)
        changed = False
        for node in list(graph.nodes):
            axes = _column_axes(node)
            w = node.inputs[1] if axes else None
            if axes and w is not None and w.constant is not None and w.type.nbytes > limit:
                changed |= _split(graph, node, w, axes, limit, ctx)
            elif isinstance(node.op, Gather):
                table = node.operand_values[0]
                if table.constant is not None and table.type.nbytes > limit:
                    changed |= _split_table(graph, node, node.op.axis, limit, ctx)
        for v in [*graph.inputs, *(v for node in graph.nodes for v in node.outputs)]:
            if v.type.nbytes > limit and v.users:
                raise UnsupportedError(f"{too_large(v, ctx.target)}; choose a larger target")
        return changed


def too_large(value: Value, target: Target) -> str:
    """What to say about a value above the limit."""
    return (
        f"{value!r} has {value.type.nbytes} bytes, the target {target.name} binds {target.limit(LIMIT)} at most "
        f"({LIMIT}), and it cannot be cut"
    )


def reject(node: Node, target: Target, known: Callable[[Value], bool]) -> str | None:
    """Why the target cannot run a node that is not fused with others; None if it can, or if that depends on the nodes
    around it (`split-activations`). `known(value)` says whether a value depends on constants only."""
    limit = target.limit(LIMIT)
    cut = 0 if isinstance(node.op, Gather) else 1 if _column_axes(node) else None  # the weights that can be cut
    in_parts = bool(ways(node))
    for i, v in enumerate(node.inputs):
        computed = v is not None and v.producer is not None and not known(v)
        if v is not None and v.type.nbytes > limit and not (in_parts if computed else i == cut and known(v)):
            return too_large(v, target)
    return next((too_large(v, target) for v in node.outputs if v.type.nbytes > limit and not in_parts), None)


def _column_axes(node: Node) -> tuple[int, int] | None:
    """The axis of the weights and of the result along which a node can be cut."""
    op = node.op
    rank = node.outputs[0].type.rank if node.outputs else 0
    if isinstance(op, Gemm):
        return (0 if op.b_transpose else 1), 1
    if isinstance(op, Matmul):
        w = node.inputs[1]
        return (w.type.rank - 1, rank - 1) if w is not None else None
    if isinstance(op, Conv2d) and op.groups == 1:
        return op.filter_layout.index("o"), op.input_layout.index("c")
    return None


def _split(graph: Graph, node: Node, w: Value, axes: tuple[int, int], limit: int, ctx: Context) -> bool:
    weight_axis, result_axis = axes
    columns = w.type.shape[weight_axis]
    fitting = limit // (w.type.nbytes // columns) // ALIGNMENT * ALIGNMENT
    if not fitting:
        ctx.remark(node, f"{ALIGNMENT} columns of its weights are larger than {LIMIT}")
        return False
    count = -(-columns // fitting)
    width = -(-columns // (count * ALIGNMENT)) * ALIGNMENT
    a, _, *bias = node.inputs
    tail = _unary_tail(node)
    last = [node, *tail][-1]
    parts = []
    for start in range(0, columns, width):
        stop = min(start + width, columns)
        operands = [part_of(graph, node, w, weight_axis, start, stop)]
        operands += [_bias_part(graph, node, b, columns, start, stop) for b in bias if b is not None]
        part = graph.add(node.op, a, *operands, before=node, name=node.output.name)
        for after in tail:
            part = graph.add(after.op, part, before=last, name=after.output.name)
        parts.append(part)
    old = last.operand_values
    graph.replace(last, graph.add(Concat(result_axis), *parts, before=last))
    erase(graph, old)
    ctx.count("parts", len(parts))
    return True


def _split_table(graph: Graph, node: Node, axis: int, limit: int, ctx: Context) -> bool:
    """Looks up each index in all parts and chooses. What lies outside a part is moved to its nearest row by gather
    itself at the end, and by max(i, start) - start at the start."""
    table, indices = node.operand_values
    rows, dtype = table.type.shape[axis], indices.type.dtype
    fitting = limit // (table.type.nbytes // rows)
    if not fitting:
        ctx.remark(node, f"one row of the table is larger than {LIMIT}")
        return False

    def add(op: Op, *operands: Value) -> Value:
        return graph.add(op, *operands, before=node)

    def number(value: int) -> Value:
        return graph.constant(np.array(value, dtype.numpy), before=node)

    if dtype.is_signed:  # negative ones count from the end
        indices = add(Where(), add(Lesser(), indices, number(0)), add(Add(), indices, number(rows)), indices)
    shape = (*indices.type.shape, *(1,) * (table.type.rank - axis - 1))
    out: Value | None = None
    for start in range((rows - 1) // fitting * fitting, -1, -fitting):
        stop = min(start + fitting, rows)
        near = add(Sub(), add(Max(), indices, number(start)), number(start))
        found = add(node.op, part_of(graph, node, table, axis, start, stop), near)
        if out is None:
            out = found
        else:
            before = add(Lesser(), indices, number(stop))
            out = add(Where(), add(Reshape(shape), before) if before.type.shape != shape else before, found, out)
        ctx.count("parts")
    assert out is not None
    old = node.operand_values
    graph.replace(node, out)
    erase(graph, old)
    return True


def _unary_tail(node: Node) -> list[Node]:
    """The elementwise ops of one operand that follow, each the only user of the one before."""
    tail: list[Node] = []
    user = only_user(node.output)
    while user is not None and isinstance(user.op, Elementwise) and len(user.inputs) == 1:
        tail.append(user)
        user = only_user(user.output)
    return tail


def _bias_part(graph: Graph, node: Node, bias: Value, columns: int, start: int, stop: int) -> Value:
    """The columns start..stop of a bias, which may be broadcast along them."""
    if bias.type.rank == 0 or bias.type.shape[-1] != columns:
        return bias
    return part_of(graph, node, bias, bias.type.rank - 1, start, stop)


def part_of(graph: Graph, node: Node, v: Value, axis: int, start: int, stop: int) -> Value:
    """v[start:stop] along `axis`: a constant if v is one, else a slice."""
    if v.constant is None:
        starts = tuple(start if i == axis else 0 for i in range(v.type.rank))
        sizes = tuple(stop - start if i == axis else d for i, d in enumerate(v.type.shape))
        return graph.add(Slice(starts, sizes), v, before=node, name=v.name)
    window = (slice(None),) * axis + (slice(start, stop),)
    return graph.constant(np.ascontiguousarray(v.constant[window]), before=node, name=v.name)
