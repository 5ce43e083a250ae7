"""The graph of a decoder rewritten for a cache of slots, and the proof that slots which are not filled count nowhere.

Imported for a past of C - S tokens, `present` has C slots already, so that no shape changes but the past's. From each
cache, and from masks over past and new tokens, the axis of the slots is followed through the graph:

    elementwise, transpose, reshape, expand, ...   keep it: the result is meaningless in the slots that are not filled
    matmul                                         keeps it as rows or columns (scores)
    softmax over it                                shares, 0 where nothing is: scores there become -inf before
    matmul over it, of shares and values           sums, where such slots take no part; here the axis ends

Whatever else reads along it is refused by name. Constants along it must be the same for all slots, or a causal mask,
a where key j <= query i + T and b elsewhere, in which T is now the length that is given when it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from gpucompile.cache.length import require_length_only_in_shapes
from gpucompile.cache.pairs import Dims, KeyValueCache, Layout, layout_of
from gpucompile.errors import UnsupportedError
from gpucompile.ir.graph import Constant, Graph, Node, Return, Value
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.categories import Elementwise, Reduction
from gpucompile.ops.contraction import Matmul
from gpucompile.ops.elementwise import Add, Div, Identity, Mul, Neg, Sub
from gpucompile.ops.logical import Cast, LesserOrEqual, Where
from gpucompile.ops.movement import Concat, Expand, Pad, Repeat, Reshape, Reverse, Slice, Tile, Transpose
from gpucompile.ops.softmax import Softmax
from gpucompile.ops.update import UpdateSlice
from gpucompile.passes.fold_constants import FoldConstants
from gpucompile.passmanager.base import Context
from gpucompile.runtime.format import PAST_LENGTH, Plan

if TYPE_CHECKING:
    import onnx

I32 = DataType.INT32
#: Bytes of constants that are computed before anything is looked at: what masks and positions are made of.
SMALL = 1 << 22
#: What makes finite numbers of finite ones.
_FINITE = (Cast, Identity, Neg, Add, Sub, Mul)


def import_with_cache(
    model: str | Path | bytes | onnx.ModelProto, dims: Dims, cache: KeyValueCache, context: Context
) -> Graph:
    """The graph of a decoder whose caches are updated in place; `dims` are the sizes of the free dimensions that the
    cache does not decide. Pasts have `cache.capacity` slots, and `past_length` is one more input, unless the model says
    itself where new tokens go (GroupQueryAttention).

    Raises InputError for pairs or sizes that the model does not have, UnsupportedError where it needs its past to be as
    long as it says."""
    from gpucompile.frontends.onnx import importer

    layout = layout_of(importer.interface_of(model), dims, cache)
    graph = importer.import_model(model, layout.dims)
    fold = FoldConstants(max_given=SMALL)
    fold.run(graph, context)
    slots = None if layout.shared else _Slots(graph, layout, cache.capacity)
    for tokens in layout.others():
        shorter = importer.import_model(model, layout.shorter(tokens))
        fold.run(shorter, context)
        require_length_only_in_shapes(graph, shorter, tokens, layout.pairs)
    if slots is not None:
        slots.rewrite()
    require_in_place(graph, layout.pairs)
    return graph


def require_in_place(graph: Graph, pairs: dict[str, str]) -> None:
    """Raise UnsupportedError unless each present is its past with a slice written into it."""
    inputs = {v.name: v for v in graph.inputs}
    outputs = dict(zip(graph.output_names, graph.outputs, strict=True))
    for past, present in pairs.items():
        source, node = inputs[past], outputs[present].producer
        if node is None or not isinstance(node.op, UpdateSlice) or node.operand_values[0] is not source:
            raise UnsupportedError(f"cache: {present} is not {past} with new slots written into it")
        if source.use_count > 1:
            raise UnsupportedError(f"cache: {past} is read elsewhere too, and so cannot be overwritten by {present}")


def updated_outputs(graph: Graph) -> dict[str, TensorType]:
    """The outputs that are an input with a slice written into it."""
    out = {}
    for name, v in zip(graph.output_names, graph.outputs, strict=True):
        node = v.producer
        if node is not None and isinstance(node.op, UpdateSlice) and node.operand_values[0].producer is None:
            out[name] = v.type
    return out


def require_states(plan: Plan, updated: Mapping[str, TensorType]) -> None:
    """Raise UnsupportedError where passes have made of an output that is `updated` what is not updated in place."""
    states = {s.output for s in plan.states}
    for name, type in updated.items():
        if name not in states:
            raise UnsupportedError(
                f"cache: {name} ({type}) is not updated in place by what the passes made of it; without shader-f16, "
                "tokens of float16 must be whole 32-bit words"
            )


@dataclass(frozen=True)
class _Along:
    """The axis of a value that runs over the slots; `shares` if it is 0 in those that are not filled, `finite` if it is
    finite there (a cache begins as zeros, and holds what earlier tokens left)."""

    axis: int
    shares: bool = False
    finite: bool = False


class _Slots:
    """One rewriting."""

    def __init__(self, graph: Graph, layout: Layout, capacity: int) -> None:
        self.graph, self.layout, self.capacity = graph, layout, capacity
        self.along: dict[Value, _Along] = {}
        self.inputs = {v.name: v for v in graph.inputs}
        self._allowed: dict[tuple[int, ...], Value] = {}
        self._count = layout.count
        outputs = dict(zip(graph.output_names, graph.outputs, strict=True))
        self._concats = {past: self._concat_of(past, outputs[p], p) for past, p in layout.pairs.items()}

    def rewrite(self) -> None:
        """Put update_slice in the place of the concats, then follow the slots."""
        if PAST_LENGTH in self.inputs:
            raise UnsupportedError(f"cache: the model has an input {PAST_LENGTH!r}, whose name is needed")
        self.length = self.graph.add_input(PAST_LENGTH, TensorType(I32, ()))
        for past, node in self._concats.items():
            self._update(self.inputs[past], node)
        for name, axis in self.layout.masks.items():
            if name in self.inputs:  # the graph may not need it
                self.along[self.inputs[name]] = _Along(axis, finite=not self.inputs[name].type.dtype.is_float)
        presents = set(self.layout.pairs.values())
        for node in self.graph.nodes:
            if not isinstance(node.op, (Constant, UpdateSlice)) and any(v in self.along for v in node.operand_values):
                self._follow(node)
        for name, v in zip(self.graph.output_names, self.graph.outputs, strict=True):
            if v in self.along and name not in presents:
                raise UnsupportedError(f"cache: output {name!r} has the slots as its axis {self.along[v].axis}")

    def _concat_of(self, past: str, present: Value, name: str) -> Node:
        """The concat of a past with what is new, which is all that reads it, and which is the present."""
        if past not in self.inputs:
            raise UnsupportedError(f"cache: nothing depends on input {past!r}")
        source = self.inputs[past]
        users = source.users
        node = users[0] if users else None
        if node is None or len(users) > 1 or not isinstance(node.op, Concat) or node.operand_values[0] is not source:
            reader = next((n.op.name for n in users if not isinstance(n.op, (Concat, Return))), "nothing")
            raise UnsupportedError(
                f"cache: input {past!r} is not just the beginning of one concat with what is new; {reader} reads it"
            )
        op, values = node.op, node.operand_values
        if len(values) != 2 or source.use_count > 1:
            raise UnsupportedError(f"cache: {past!r} is concatenated with {len(values) - 1} tensors, not with one")
        found = (node.output.type.shape[op.axis], values[1].type.shape[op.axis])
        if found != (self.capacity, self._count):
            raise UnsupportedError(
                f"cache: {past!r} grows to {found[0]} by {found[1]} along axis {op.axis}, not to {self.capacity} by "
                f"{self._count}"
            )
        if present is not node.output:
            raise UnsupportedError(f"cache: output {name!r} is not {past!r} with what is new behind it")
        return node

    def _update(self, source: Value, node: Node) -> None:
        """concat(past, new) -> update_slice(past, past_length, new)"""
        assert isinstance(node.op, Concat)
        op, new = node.op, node.operand_values[1]
        source.type = node.output.type
        updated = self.graph.add(UpdateSlice(op.axis), source, self.length, new, before=node)
        self.graph.replace(node, updated)
        self.along[updated] = _Along(op.axis, finite=True)

    # following the axis ---------------------------------------------------------------------------------------------

    def _follow(self, node: Node) -> None:
        """Where the slots are in the results of a node that reads some."""
        for kind, rule in RULES.items():
            if isinstance(node.op, kind):
                found = rule(self, node)
                if found is not None:
                    self.along[node.output] = found
                return
        self.refuse(node, "reads them in a way that is not known to leave out those that are not filled")

    def refuse(self, node: Node, why: str) -> NoReturn:
        types = " x ".join(str(v.type) for v in node.operand_values)
        name = node.outputs[0].name
        at = f" {name}" if name else ""
        raise UnsupportedError(f"cache: {node.op.name}{at} ({types}) computes with the slots of the cache and {why}")

    def first(self, node: Node) -> _Along:
        """Where the slots are in the only operand that has them, which is operand 0."""
        v = node.operand_values[0]
        if v not in self.along:
            self.refuse(node, "takes them as an index or a parameter")
        return self.along[v]

    def elementwise(self, node: Node) -> _Along:
        out = node.output.type
        axes = {self._axis_in(v, out.rank) for v in node.operand_values if v in self.along}
        if len(axes) > 1:
            self.refuse(node, "has them along different axes")
        (axis,) = axes
        for i, v in enumerate(node.inputs):
            at = axis - (out.rank - v.type.rank) if v is not None else -1
            if v is None or v in self.along or at < 0 or v.type.shape[at] == 1:
                continue
            if v.constant is None:
                self.refuse(node, "with other values for each of them, which are not the cache's")
            array = v.constant
            if (array != array.take([0], at)).any():
                masked = self._causal(node, v, at)
                node.inputs = tuple(masked if j == i else u for j, u in enumerate(node.inputs))
        finite = isinstance(node.op, _FINITE) and all(
            self.along[v].finite for v in node.operand_values if v in self.along
        )
        return _Along(axis, self._still_shares(node), finite)

    def _axis_in(self, v: Value, rank: int) -> int:
        return self.along[v].axis + rank - v.type.rank

    def _still_shares(self, node: Node) -> bool:
        """Whether what was 0 in slots that are not filled still is."""
        op, values = node.op, node.operand_values
        shares = [v in self.along and self.along[v].shares for v in values]
        if isinstance(op, (Cast, Identity)):
            return shares[0]
        if isinstance(op, Mul):  # 0 times an infinity or NaN is NaN
            return any(shares) and all(s or self._finite(v) for s, v in zip(shares, values, strict=True))
        if isinstance(op, Div):
            return shares[0] and values[1] not in self.along
        if isinstance(op, Where):
            zero = [v.constant is not None and not v.constant.any() for v in values]
            return any(shares[1:]) and all(s or z for s, z in zip(shares[1:], zero[1:], strict=True))
        return False

    def _finite(self, v: Value) -> bool:
        """Whether a value is finite in slots that are not filled, as far as it can be known."""
        if v in self.along:
            return self.along[v].finite
        return v.constant is None or bool(np.isfinite(v.constant).all())

    def _causal(self, node: Node, v: Value, at: int) -> Value:
        """The causal mask that a constant is, for a past whose length is known when it runs."""
        array, keys, shape = v.constant, np.arange(self.capacity), v.type.shape
        assert array is not None
        for axis, extent in enumerate(shape):
            if axis == at or extent != self._count:
                continue
            lined = np.moveaxis(array, (axis, at), (-2, -1)).reshape(-1, self._count, self.capacity)
            seen = keys <= np.arange(self._count)[:, None] + self.capacity - self._count
            inside, outside = lined[0, 0, 0], lined[0, 0, -1]
            if seen[0, -1] or (lined != np.where(seen, inside, outside)).any():
                continue
            queries = np.arange(self._count, dtype=np.int32).reshape(
                [-1 if a == axis else 1 for a in range(len(shape))]
            )
            slots = keys.astype(np.int32).reshape([-1 if a == at else 1 for a in range(len(shape))])
            last = self._add(Add(), node, self.length, self._constant(queries, node))
            allowed = self._add(LesserOrEqual(), node, self._constant(slots, node), last)
            branches = [self._constant(np.asarray(x), node) for x in (inside, outside)]
            out = self._add(Where(), node, allowed, *branches)
            return out if out.type.shape == shape else self._add(Expand(shape), node, out)
        self.refuse(
            node, f"with a constant {v.type} that tells them apart and is no causal mask (relative positions, a window)"
        )

    def _constant(self, array: np.ndarray, before: Node) -> Value:
        return self.graph.constant(array, before=before)

    def _add(self, op: Op, before: Node, *inputs: Value) -> Value:
        return self.graph.add(op, *inputs, before=before)

    def softmax(self, node: Node) -> _Along:
        """softmax(x) -> softmax(where(slot < past_length + S, x, -inf)) over the slots."""
        assert isinstance(node.op, Softmax)
        (x,), found = node.operand_values, self.first(node)
        if node.op.axis != found.axis:
            return _Along(found.axis)
        shape = (self.capacity, *(1,) * (x.type.rank - found.axis - 1))
        if shape not in self._allowed:
            slots = self._constant(np.arange(self.capacity, dtype=np.int32).reshape(shape), node)
            last = self.length
            if self._count > 1:
                last = self._add(Add(), node, last, self._constant(np.array(self._count - 1, np.int32), node))
            self._allowed[shape] = self._add(LesserOrEqual(), node, slots, last)
        nothing = self._constant(np.array(-np.inf, x.type.dtype.numpy), node)
        node.inputs = (self._add(Where(), node, self._allowed[shape], x, nothing),)
        return _Along(found.axis, shares=True)

    def matmul(self, node: Node) -> _Along | None:
        a, b = node.operand_values
        rank = node.output.type.rank
        places = [self._axis_in(v, rank) - rank if v in self.along else None for v in (a, b)]  # from the end
        if places == [-1, -2]:
            one, two = self.along[a], self.along[b]
            if not ((one.shares and two.finite) or (two.shares and one.finite)):
                self.refuse(node, "sums over them: its operands are not a softmax over them and what the cache holds")
            return None
        if places == [-2, None]:
            return _Along(rank - 2)
        if places == [None, -1]:
            return _Along(rank - 1)
        if places in ([-1, None], [None, -2]):
            self.refuse(node, "sums over them with weights that are not the cache's")
        self.refuse(node, "has them along axes that it does not combine")

    def reshape(self, node: Node) -> _Along:
        found, (x,), shape = self.first(node), node.operand_values, node.output.type.shape
        before = int(np.prod(x.type.shape[: found.axis]))
        for axis, extent in enumerate(shape):
            if extent == self.capacity and int(np.prod(shape[:axis])) == before:
                return replace(found, axis=axis)
        self.refuse(node, "merges them with other axes")

    def transpose(self, node: Node) -> _Along:
        assert isinstance(node.op, Transpose)
        found = self.first(node)
        return replace(found, axis=node.op.permutation.index(found.axis))

    def expand(self, node: Node) -> _Along:
        found, (x,) = self.first(node), node.operand_values
        return replace(found, axis=found.axis + node.output.type.rank - x.type.rank)

    def moved(self, node: Node) -> _Along:
        """Slices, pads, tiles and the like that leave the axis of the slots as it is."""
        found, op, (x,) = self.first(node), node.op, node.operand_values
        same = node.output.type.shape[found.axis] == x.type.shape[found.axis]
        if isinstance(op, Slice):
            same = same and op.starts[found.axis] == 0
        if isinstance(op, Pad):
            same = same and op.beginning[found.axis] == 0
        if isinstance(op, Reverse):
            same = op.axes is not None and found.axis not in op.axes
        if not same:
            self.refuse(node, "takes some of them, or others beside them")
        return found

    def concat(self, node: Node) -> _Along:
        assert isinstance(node.op, Concat)
        places = {self.along.get(v) for v in node.operand_values}  # None for those that have none
        (found, *others) = places
        if others or found is None or found.axis == node.op.axis:
            self.refuse(node, "puts others beside them")
        return found

    def reduction(self, node: Node) -> _Along:
        op, found, (x,) = node.op, self.first(node), node.operand_values
        assert isinstance(op, Reduction)
        axes = op.reduced_axes(x.type.rank)
        if found.axis in axes:
            self.refuse(node, "combines all of them, those that are not filled included")
        return found if op.keep_dimensions else _Along(found.axis - sum(a < found.axis for a in axes))


Rule = Callable[[_Slots, Node], "_Along | None"]
#: What each kind of op makes of the axis of the slots.
RULES: dict[type[Op], Rule] = {
    Elementwise: _Slots.elementwise,
    Softmax: _Slots.softmax,
    Matmul: _Slots.matmul,
    Reshape: _Slots.reshape,
    Transpose: _Slots.transpose,
    Expand: _Slots.expand,
    Slice: _Slots.moved,
    Pad: _Slots.moved,
    Tile: _Slots.moved,
    Repeat: _Slots.moved,
    Reverse: _Slots.moved,
    Concat: _Slots.concat,
    Reduction: _Slots.reduction,
}
