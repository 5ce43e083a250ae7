"""Storage assignment: which tensors share bytes, before anything has an address.

In: a fused graph. Out: a `View` for every value. In four steps:

1. outputs: a result of the model lies in its own buffer; one that is an input with a slice written into it, and that
   nothing else reads, in the input's: a state.
2. backwards: the operands of a concat are placed inside its result (written side by side, never copied); the operand of
   a reshape is placed where the reshape's result must lie.
3. forwards: remaining reshapes and slices become views of their operand.
4. in place: a result that is computed element by element may overwrite an operand that nobody reads afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gpucompile.ir.graph import Constant, Graph, Node, Return, Value
from gpucompile.ir.index import Index, strides_of
from gpucompile.kernels.schedules import find_anchor
from gpucompile.kernels.view import Storage, View, storage_bytes
from gpucompile.ops.categories import Elementwise
from gpucompile.ops.fused import Fused
from gpucompile.ops.movement import Concat, Reshape, Slice
from gpucompile.ops.update import UpdateSlice
from gpucompile.runtime.nibbles import pack_nibbles


@dataclass
class Assignment:
    """Where every value lies, and which nodes need no kernel: `copies` maps a concat to the operands still to copy."""

    views: dict[Value, View] = field(default_factory=dict)
    aliases: set[Node] = field(default_factory=set)
    copies: dict[Node, list[int]] = field(default_factory=dict)


def assign(graph: Graph, in_place: bool = True) -> Assignment:
    """Assign storages. Every graph output must be the result of a node that is not a constant, each another one
    (`materialize_outputs` of the planner sees to that)."""
    out = Assignment()
    views = out.views
    for v in graph.inputs:
        views[v] = View.whole(Storage("input", storage_bytes(v.type), v.name), v.type)
    for name, v in zip(graph.output_names, graph.outputs, strict=True):
        source = updated_operand(v.producer)
        if source is not None and source.producer is None and source.use_count == 1:
            views[source] = views[v] = View.whole(Storage("state", storage_bytes(v.type), name), v.type)
        else:
            views[v] = View.whole(Storage("output", storage_bytes(v.type), name), v.type)
    for node in graph.nodes:
        if isinstance(node.op, Constant):
            v = node.output
            array = node.op.value.array
            array = pack_nibbles(array) if v.type.dtype.bits == 4 else array
            views[v] = View.whole(Storage("weight", storage_bytes(v.type), v.name, array=array), v.type)
    for node in graph.nodes_reversed:
        _place_operands(node, views)
    for node in graph.nodes:
        if not isinstance(node.op, Constant):
            _finish(node, out)
    if in_place:
        _share_in_place(graph, out)
    return out


def _placeable(value: Value, views: dict[Value, View]) -> bool:
    """Whether a value may be put where its reader wants it: computed by a node, and not placed already."""
    return value.producer is not None and not isinstance(value.producer.op, Constant) and value not in views


def _place_operands(node: Node, views: dict[Value, View]) -> None:
    if isinstance(node.op, Concat):
        out = views.setdefault(node.output, _fresh(node.output))
        if written_in_parts(node, out):
            for v, view in zip(node.operand_values, parts_of(node, out), strict=True):
                regular = view.runs() is not None and _parts_are_regular(v, view)
                if regular and _placeable(v, views) and not _follows_view(v):
                    views[v] = view
    elif isinstance(node.op, Reshape) and node.output in views:
        out = views[node.output]
        (v,) = node.operand_values
        if out.contiguous and _placeable(v, views) and not _follows_view(v):
            views[v] = View(out.storage, v.type, out.offset, strides_of(v.type.shape))


def parts_of(node: Node, at: View) -> list[View]:
    """Where the operands of a concat lie in its result."""
    assert isinstance(node.op, Concat)
    axis, start, parts = node.op.axis, 0, []
    for v in node.operand_values:
        parts.append(View(at.storage, v.type, at.offset + start * at.strides[axis], at.strides))
        start += v.type.shape[axis]
    return parts


def written_in_parts(node: Node, at: View) -> bool:
    """Whether the operands of a concat may be written into its result one by one. Narrow elements share 32-bit words
    with their neighbours: 8-bit ones are written four at a time, 16-bit ones need parts of whole words."""
    bits = node.output.type.dtype.bits
    return bits >= 32 or (bits == 16 and all(part.whole_words for part in parts_of(node, at)))


def _parts_are_regular(value: Value, view: View) -> bool:
    """Whether the operands of a concat whose result lies at `view` can be written there one by one."""
    node = value.producer
    if node is None or not isinstance(node.op, Concat):
        return True
    return all(View(view.storage, v.type, view.offset, view.strides).runs() is not None for v in node.operand_values)


def _follows_view(value: Value) -> bool:
    """Whether a value will itself be a view of its operand (a slice), so that it has no place of its own."""
    return value.producer is not None and isinstance(value.producer.op, Slice)


def _fresh(value: Value) -> View:
    return View.whole(Storage("scratch", storage_bytes(value.type), value.name), value.type)


def _finish(node: Node, out: Assignment) -> None:
    """Give the results of a node a view, if they have none yet, and note whether a kernel is needed."""
    views = out.views
    if isinstance(node.op, Concat):
        at = views[node.output]
        missing = [
            i
            for i, (v, part) in enumerate(zip(node.operand_values, parts_of(node, at), strict=True))
            if views[v].storage is not part.storage or views[v].offset != part.offset
        ]
        out.copies[node] = missing
        if not missing:
            out.aliases.add(node)
    elif isinstance(node.op, (Reshape, Slice)):
        (v,) = node.operand_values
        alias = _alias(node.op, v, node.output, views[v])
        placed = views.get(node.output)
        if placed is None and alias is not None:
            views[node.output] = alias
            out.aliases.add(node)
        elif placed is not None and alias is not None and alias.same_place(placed):
            out.aliases.add(node)
    for v in node.outputs:
        views.setdefault(v, _fresh(v))


def _alias(op: Reshape | Slice, source: Value, result: Value, view: View) -> View | None:
    """The result as a view of the operand's storage, if it is regular and keeps vectors together."""
    if isinstance(op, Reshape) and view.contiguous:
        return View(view.storage, result.type, view.offset, strides_of(result.type.shape))
    coords = tuple(Index.var(f"c{i}", d) for i, d in enumerate(result.type.shape))
    (piece,) = op.pieces([source.type], result.type, coords)
    position = view.position(piece.coords)
    coefficients = position.coefficients()
    if coefficients is None:
        return None
    strides = tuple(coefficients.get(f"c{i}", 0) for i in range(len(coords)))
    alias = View(view.storage, result.type, position.const, strides)
    return alias if alias.whole_words and min(position.range) >= 0 else None


# in place ----------------------------------------------------------------------------------------------------------


def _share_in_place(graph: Graph, out: Assignment) -> None:
    order = {node: i for i, node in enumerate(graph.nodes)}
    end = len(order)
    last: dict[Storage, int] = {}
    writers: dict[Storage, int] = {}
    for v, view in out.views.items():
        uses = [end if isinstance(n.op, Return) else order[n] for n in v.users]
        last[view.storage] = max([last.get(view.storage, 0), *uses])
        if v.producer is not None and v.producer not in out.aliases:
            writers[view.storage] = writers.get(view.storage, 0) + 1
    merged: dict[Storage, Storage] = {}

    def current(view: View) -> View:
        storage = view.storage
        while storage in merged:
            storage = merged[storage]
        return view if storage is view.storage else replace(view, storage=storage)

    for node in graph.nodes:
        if isinstance(node.op, Constant) or node in out.aliases or len(node.outputs) != 1:
            continue
        result = current(out.views[node.output])
        if result.storage.kind != "scratch" or writers.get(result.storage) != 1 or result.storage in merged:
            continue
        for v in in_place_operands(node):
            view = current(out.views[v])
            others = [current(out.views[w]).storage for w in node.operand_values if w is not v]
            if (
                view.storage.kind == "scratch"
                and view.storage is not result.storage
                and last[view.storage] == order[node]
                and view.storage not in others
                and view.contiguous
                and view.offset == 0
                and view.storage.nbytes == result.storage.nbytes
                and result.contiguous
            ):
                merged[result.storage] = view.storage
                last[view.storage] = max(last[view.storage], last[result.storage])
                writers[view.storage] = 1
                break
    for v, view in out.views.items():
        out.views[v] = current(view)


def update_of(node: Node | None) -> Node | None:
    """The update_slice that a node is, or that a fused node ends with."""
    if node is not None and isinstance(node.op, Fused):
        anchor = find_anchor(node.op.body)
        node = anchor if anchor is not None and node.op.body.outputs == anchor.outputs else None
    return node if node is not None and isinstance(node.op, UpdateSlice) else None


def updated_operand(node: Node | None) -> Value | None:
    """The operand whose elements a node leaves where they are but for a slice: nothing is copied if the result takes
    its place."""
    update = update_of(node)
    if node is None or update is None:
        return None
    value = update.operand_values[0]
    if update is node:
        return value
    assert isinstance(node.op, Fused)
    fits = value.producer is None and value.use_count == 1
    return node.operand_values[node.op.body.inputs.index(value)] if fits else None


def in_place_operands(node: Node) -> Sequence[Value]:
    """The operands that are read only at the element being written, so that the result may take their place."""
    updated = updated_operand(node)
    if updated is not None:
        return [updated] if updated.constant is None else []
    if isinstance(node.op, Elementwise):
        return [v for v in node.operand_values if v.type == node.output.type and v.constant is None]
    if not isinstance(node.op, Fused):
        return []
    body = node.op.body
    anchor = find_anchor(body)
    (result,) = body.outputs
    direct: set[Value] = set()
    stack, seen = [result], {result}
    nodes: set[Node] = set()
    while stack:
        value = stack.pop()
        producer = value.producer
        if producer is None:
            direct.add(value)
        elif producer is not anchor and isinstance(producer.op, Elementwise):
            nodes.add(producer)
            for v in producer.operand_values:
                if v.type.shape == result.type.shape and v not in seen:
                    seen.add(v)
                    stack.append(v)
    return [
        v
        for v, inner in zip(node.operand_values, body.inputs, strict=True)
        if inner in direct and v.type.dtype == node.output.type.dtype and all(n in nodes for n in inner.users)
    ]
