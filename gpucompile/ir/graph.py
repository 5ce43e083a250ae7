"""Graph, Node and Value: a static single-assignment data-flow graph with maintained uses.

Nodes stand in a doubly linked list in a valid execution order, so inserting and removing is O(1) at any place.
The graph's outputs are the operands of a `Return` node at the end: one mechanism maintains all uses.

    graph = Graph("example")
    x = graph.add_input("x", TensorType(DataType.FLOAT32, (4,)))
    y = graph.add(Relu(), x)              # appends, infers types, returns the result value
    graph.set_outputs({"y": y})
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gpucompile.errors import VerificationError
from gpucompile.ir.op import MaybeType, Op
from gpucompile.ir.types import TensorType


class Value:
    """A tensor in the graph: a graph input or a result of a node. `name` is a hint, made unique when printed."""

    __slots__ = ("_uses", "index", "name", "producer", "type")

    def __init__(self, type: TensorType, name: str = "", producer: Node | None = None, index: int = 0) -> None:
        self.type = type
        self.name = name
        self.producer = producer
        self.index = index
        self._uses: dict[Node, int] = {}

    def __repr__(self) -> str:
        return f"%{self.name or '?'}: {self.type}"

    @property
    def users(self) -> tuple[Node, ...]:
        """The nodes that read this value, each once, the `Return` node included, in order of first use."""
        return tuple(self._uses)

    @property
    def use_count(self) -> int:
        """How many operands are this value."""
        return sum(self._uses.values())

    @property
    def op(self) -> Op | None:
        """The op that produced it; None for a graph input."""
        return self.producer.op if self.producer else None

    @property
    def constant(self) -> np.ndarray | None:
        """Its array if it is a constant, else None."""
        return self.producer.op.value.array if self.producer and isinstance(self.producer.op, Constant) else None

    @property
    def is_output(self) -> bool:
        """Whether the graph returns it."""
        return any(isinstance(n.op, Return) for n in self._uses)

    def replace_by(self, other: Value) -> None:
        """Make every user of this value use `other`."""
        if other is not self:
            for node in self.users:
                node.inputs = tuple(other if v is self else v for v in node.inputs)


class Node:
    """One op applied to values. `inputs` may hold None for absent optional operands; assigning it maintains uses."""

    __slots__ = ("_inputs", "_next", "_prev", "graph", "op", "outputs")

    def __init__(self, graph: Graph, op: Op, inputs: tuple[Value | None, ...], types: tuple[TensorType, ...]) -> None:
        self.graph: Graph | None = graph
        self.op = op
        self._inputs: tuple[Value | None, ...] = ()
        self._prev: Node | None = None
        self._next: Node | None = None
        self.outputs = tuple(Value(t, "", self, i) for i, t in enumerate(types))
        self.inputs = inputs

    def __repr__(self) -> str:
        return f"{', '.join(map(repr, self.outputs))} = {self.op.name}({', '.join(map(repr, self._inputs))})"

    @property
    def inputs(self) -> tuple[Value | None, ...]:
        return self._inputs

    @inputs.setter
    def inputs(self, new: tuple[Value | None, ...]) -> None:
        for v in self._inputs:
            if v is not None:
                v._uses[self] -= 1
                if not v._uses[self]:
                    del v._uses[self]
        for v in new:
            if v is not None:
                v._uses[self] = v._uses.get(self, 0) + 1
        self._inputs = tuple(new)

    @property
    def output(self) -> Value:
        """Its only result."""
        if len(self.outputs) != 1:
            raise VerificationError(f"{self.op.name} has {len(self.outputs)} results, one was expected")
        return self.outputs[0]

    @property
    def input_types(self) -> tuple[MaybeType, ...]:
        return tuple(None if v is None else v.type for v in self._inputs)

    @property
    def operand_values(self) -> tuple[Value, ...]:
        """The operands that are present."""
        return tuple(v for v in self._inputs if v is not None)


class Literal:
    """Constant data: a read-only numpy array compared by content. int4/uint4 hold one element per byte, so they carry
    their data type in `type`."""

    __slots__ = ("_hash", "array", "type")

    def __init__(self, array: np.ndarray, type: TensorType | None = None) -> None:
        array = np.asarray(array)
        if array.dtype == np.bool_:
            array = array.astype(np.uint8)
        if array.flags.writeable:
            array = array.view()
            array.flags.writeable = False
        self.array = array
        self.type = type or TensorType.of(array)
        self._hash: int | None = None

    def __hash__(self) -> int:
        if self._hash is None:  # a sample is enough: equality compares everything
            flat = self.array.reshape(-1)
            self._hash = hash((self.type, flat[:: max(1, flat.size // 256)].tobytes()))
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Literal) or self.type != other.type or hash(self) != hash(other):
            return False
        return self.array is other.array or np.array_equal(_bits(self.array), _bits(other.array))

    def __repr__(self) -> str:
        return f"<{self.type}>"


def _bits(a: np.ndarray) -> np.ndarray:
    """A view in which NaN equals NaN and -0 differs from 0."""
    return np.ascontiguousarray(a).reshape(-1).view(np.uint8)


@dataclass(frozen=True)
class Constant(Op):
    """A tensor known at compile time."""

    operands: ClassVar[tuple[str, ...]] = ()
    value: Literal = None  # type: ignore[assignment]

    def infer(self) -> tuple[TensorType, ...]:
        return (self.value.type,)

    def reference(self) -> np.ndarray:
        return self.value.array

    @classmethod
    def cases(cls) -> Iterator[tuple[Op, tuple[MaybeType, ...]]]:
        yield cls(Literal(np.arange(6, dtype=np.float32).reshape(2, 3))), ()


@dataclass(frozen=True)
class Return(Op):
    """The end of a graph; its operands are the graph's outputs. Never executed."""

    operands: ClassVar[tuple[str, ...]] = ("values*",)

    def infer(self, *ins: MaybeType) -> tuple[TensorType, ...]:
        return ()

    @classmethod
    def cases(cls) -> Iterator[tuple[Op, tuple[MaybeType, ...]]]:
        return iter(())


class Graph:
    """Inputs, nodes in execution order, outputs. `output_names[i]` is the public name of `outputs[i]`."""

    def __init__(self, name: str = "main") -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.output_names: list[str] = []
        self._head: Node | None = None
        self._count = 0
        self._ret = Node(self, Return(), (), ())

    def __repr__(self) -> str:
        return f"<Graph {self.name}: {self._count} nodes>"

    def __len__(self) -> int:
        """Number of nodes, constants included."""
        return self._count

    # reading -------------------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> Iterator[Node]:
        """Nodes in execution order. The current node may be removed, and nodes inserted before it, while iterating."""
        node = self._head
        while node is not None and node is not self._ret:
            following = node._next
            yield node
            # a node removed meanwhile has no graph; then continue from where it stood
            node = node._next if node.graph is self else following

    @property
    def nodes_reversed(self) -> Iterator[Node]:
        """Nodes from last to first; the current node may be removed while iterating."""
        node = self._ret._prev
        while node is not None:
            before = node._prev
            yield node
            node = node._prev if node.graph is self else before

    @property
    def outputs(self) -> tuple[Value, ...]:
        return tuple(v for v in self._ret.inputs if v is not None)

    @property
    def return_node(self) -> Node:
        """The pseudo node whose operands are the outputs; nodes may be inserted before it."""
        return self._ret

    # building ------------------------------------------------------------------------------------------------------

    def add_input(self, name: str, type: TensorType) -> Value:
        """Add a graph input; `name` is its public name."""
        value = Value(type, name)
        self.inputs.append(value)
        return value

    def set_outputs(self, outputs: Mapping[str, Value]) -> None:
        """Set all outputs, public name -> value."""
        self.output_names = list(outputs)
        self._ret.inputs = tuple(outputs.values())

    def insert(self, op: Op, inputs: tuple[Value | None, ...], before: Node | None = None, name: str = "") -> Node:
        """Insert a node before `before` (default: at the end), inferring its result types.

        Raises TypeInferenceError when the operand types do not suit the op."""
        types = op.result_types(*(None if v is None else v.type for v in inputs))
        node = Node(self, op, inputs, types)
        for out in node.outputs:
            out.name = name if len(node.outputs) == 1 else f"{name}.{out.index}" if name else ""
        self._link(node, before or self._ret)
        return node

    def add(self, op: Op, *inputs: Value | None, before: Node | None = None, name: str = "") -> Value:
        """`insert` for ops with one result; returns that result."""
        return self.insert(op, inputs, before, name).output

    def constant(self, array: np.ndarray | Literal, before: Node | None = None, name: str = "") -> Value:
        """Insert a constant."""
        literal = array if isinstance(array, Literal) else Literal(array)
        return self.insert(Constant(literal), (), before, name).output

    def _link(self, node: Node, before: Node) -> None:
        node._next, node._prev = before, before._prev
        if before._prev is None:
            self._head = node
        else:
            before._prev._next = node
        before._prev = node
        self._count += 1

    def _unlink(self, node: Node) -> None:
        if node._prev is None:
            self._head = node._next
        else:
            node._prev._next = node._next
        if node._next is not None:
            node._next._prev = node._prev
        self._count -= 1

    def move(self, node: Node, before: Node) -> None:
        """Move a node to stand before another."""
        if node is not before:
            self._unlink(node)
            self._link(node, before)

    def remove(self, node: Node) -> None:
        """Remove a node whose results nobody uses."""
        for out in node.outputs:
            if out.users:
                raise VerificationError(f"cannot remove {node!r}: its result is used by {out.users[0]!r}")
        node.inputs = ()
        self._unlink(node)
        node.graph = None

    def replace(self, node: Node, *values: Value) -> None:
        """Make users of the results of `node` use `values` instead, and remove the node."""
        for old, new in zip(node.outputs, values, strict=True):
            if old.type != new.type:
                raise VerificationError(f"cannot replace {old!r} by {new!r}: types differ")
            if not new.name or (new.producer is not None and old.is_output):
                new.name = old.name or new.name
            old.replace_by(new)
        self.remove(node)

    def clone(self) -> Graph:
        """A deep copy; constant data and ops are shared, they are immutable."""
        other = Graph(self.name)
        mapping: dict[Value, Value] = {v: other.add_input(v.name, v.type) for v in self.inputs}
        for node in self.nodes:
            new = Node(
                other,
                node.op,
                tuple(None if v is None else mapping[v] for v in node.inputs),
                tuple(v.type for v in node.outputs),
            )
            other._link(new, other._ret)
            for a, b in zip(node.outputs, new.outputs, strict=True):
                b.name = a.name
                mapping[a] = b
        other.output_names = list(self.output_names)
        other._ret.inputs = tuple(mapping[v] for v in self.outputs)
        return other

    def verify(self) -> None:
        """Check every invariant; raise VerificationError naming the node.

        Operands are defined before use and belong to this graph; stored types are those the op infers; use lists
        agree with operands; public names are unique."""
        known: dict[Value, int] = {v: 0 for v in self.inputs}
        uses: dict[Value, dict[Node, int]] = {v: {} for v in self.inputs}
        for node in [*self.nodes, self._ret]:
            for v in node.operand_values:
                if v not in known:
                    raise VerificationError(f"{self.name}: {node!r} uses {v!r} before it is defined")
                uses[v][node] = uses[v].get(node, 0) + 1
            for v in node.outputs:
                known[v] = 1
                uses[v] = {}
            if node is not self._ret:
                expected = node.op.result_types(*node.input_types)
                if expected != tuple(v.type for v in node.outputs):
                    raise VerificationError(f"{self.name}: {node!r} should have type {', '.join(map(str, expected))}")
        for v, by in uses.items():
            if v._uses != by:
                raise VerificationError(f"{self.name}: the use list of {v!r} is wrong")
        for names in ([v.name for v in self.inputs], self.output_names):
            if len(set(names)) != len(names):
                raise VerificationError(f"{self.name}: duplicate input or output name among {names}")
        if len(self.output_names) != len(self._ret.inputs):
            raise VerificationError(f"{self.name}: {len(self.output_names)} names for {len(self._ret.inputs)} outputs")

    def statistics(self) -> dict[str, int]:
        """How many nodes of each op there are, constants left out, most frequent first."""
        counts: dict[str, int] = {}
        for node in self.nodes:
            if not isinstance(node.op, Constant):
                counts[node.op.name] = counts.get(node.op.name, 0) + 1
        return dict(sorted(counts.items(), key=lambda kv: (-kv[1], kv[0])))


def constant_of(value: Value | None) -> np.ndarray | None:
    """The array of a constant value; None for an absent or non-constant one."""
    return None if value is None else value.constant


__all__ = ["Constant", "Graph", "Literal", "Node", "Return", "Value", "constant_of"]
