"""Nodes that no device kernel takes: kept as ONNX nodes for a host that runs ONNX itself.

    attempt to import a node  --fails, or the device rejects what came of it-->  HostNode

A result of a host node whose type and shape are known is a graph input to whatever reads it: the import goes on.
Any other (a shape that depends on data, strings, sequences) is an `Opaque`, which only hosts can hold: nodes that read
one become host nodes themselves. Every HostNode says why it is one.

`HostModels` writes host nodes as ONNX models: what a node reads is an input of the model under the name of its value, a
constant an initializer, a sequence known at import is put together there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper

from gpucompile.errors import ConstraintError, ModelError, UnsupportedError
from gpucompile.frontends.onnx.call import Absent, Anything, Builder, Opaque, OpaqueError, empty
from gpucompile.frontends.onnx.foreign import is_foreign
from gpucompile.frontends.onnx.scope import Scope, reads, where
from gpucompile.frontends.onnx.tensors import (
    DATA_TYPES,
    Folder,
    data_type,
    element_name,
    element_type,
    loaded,
    read_tensor,
)
from gpucompile.ir.graph import Constant, Graph, Node, Value
from gpucompile.ir.op import NIBBLES
from gpucompile.ir.types import TensorType

#: An ONNX IR version that every host reads and in which initializers need not be inputs.
IR_VERSION = 10

#: What a host node reads: what the importer knows by a name, or an initializer of a type that the importer lacks.
HostOperand: TypeAlias = Anything | Opaque | TensorProto
#: Why nodes cannot be looked at that read what a node computes that nobody takes.
LOST = "which nobody can compute"
#: What crosses between segments: a tensor of the graph, or something that only hosts hold.
Thing: TypeAlias = Value | Opaque


class Backends(Protocol):
    """Who may take a node, and why not."""

    def reject(self, node: Node, known: Callable[[Value], bool]) -> str | None:
        """Why the device cannot take a node of the graph; None if it can. `known(value)` says whether a value depends
        on constants only."""

    def host(self, model: onnx.ModelProto) -> tuple[str, Sequence[onnx.TypeProto]]:
        """The host that takes a model of one node, and what it says about the types of the outputs (nothing, or one for
        each). Raises UnsupportedError saying why none does."""


@dataclass(eq=False)
class HostNode:
    """An ONNX node for a host: who takes it, why the device does not, what its names stand for. It `follows` another
    where it could not be looked at, because it reads what only that would compute."""

    proto: onnx.NodeProto
    reason: str
    operands: dict[str, HostOperand]
    backend: str = ""
    results: dict[str, Anything | Opaque] = field(default_factory=dict)
    follows: bool = False

    @property
    def title(self) -> str:
        """What people call it: its name, else those of its results."""
        return self.proto.name or ", ".join(self.proto.output)

    @property
    def kind(self) -> str:
        """Its op, with the domain where that is not ONNX's."""
        domain = self.proto.domain
        return self.proto.op_type if domain in ("", "ai.onnx") else f"{domain}.{self.proto.op_type}"


def things(operand: HostOperand | None) -> Iterator[Thing]:
    """What an operand is made of, as far as it is known only when the model runs."""
    if isinstance(operand, list):
        for element in operand:
            yield from things(element)
    elif isinstance(operand, (Value, Opaque)):
        yield operand


class HostModels:
    """Names for what crosses between segments, and ONNX models of host nodes."""

    def __init__(self, builder: Builder, versions: Mapping[str, int], folder: Folder | None) -> None:
        self.builder = builder
        self.versions = versions
        self.folder = folder
        self._names: dict[Thing, str] = {}
        self._taken: set[str] = set()

    def name(self, thing: Thing, wish: str = "") -> str:
        """The name of a value, the same whenever it is asked for; `wish` if it has none yet and that is free."""
        if thing not in self._names:
            base = name = wish or thing.name or "value"
            n = 1
            while name in self._taken:
                n += 1
                name = f"{base}.{n}"
            self._names[thing] = name
            self._taken.add(name)
        return self._names[thing]

    def model(self, nodes: Sequence[HostNode], outputs: Sequence[tuple[str, onnx.TypeProto]]) -> onnx.ModelProto:
        """An ONNX model of host nodes; its inputs are what they read from outside."""
        return _Writer(self, nodes).model(outputs)

    def type(self, thing: Thing) -> onnx.TypeProto:
        """The type of a value as ONNX writes it."""
        return thing.type if isinstance(thing, Opaque) else self.type_of(thing)

    def tensor(self, operand: Value | np.ndarray, array: np.ndarray) -> TensorProto:
        """What is known of an operand, as ONNX writes it."""
        element = self.type_of(operand).tensor_type.elem_type
        return onnx.numpy_helper.from_array(array.astype(helper.tensor_dtype_to_np_dtype(element), copy=False))

    def type_of(self, operand: Value | np.ndarray) -> onnx.TypeProto:
        """The type of an operand as ONNX writes it: bool and uint8 are both uint8 in the graph."""
        if isinstance(operand, np.ndarray) and is_foreign(operand):
            return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(operand.dtype), operand.shape)
        t = self.builder.type(operand)
        element = self.builder.element(operand) or element_type(t.dtype)
        return helper.make_tensor_type_proto(element, t.shape)


class _Writer:
    """One ONNX model in the making."""

    def __init__(self, models: HostModels, nodes: Sequence[HostNode]) -> None:
        self.models = models
        self.graph = onnx.GraphProto(name="host")
        self.known: set[str] = set()  # names defined so far
        for node in nodes:
            for name, operand in node.operands.items():
                if name not in self.known:
                    self.define(name, operand)
            copy = self.graph.node.add()
            copy.CopyFrom(node.proto)
            load_external(copy, models.folder)
            self.known.update(filter(None, node.proto.output))

    def model(self, outputs: Sequence[tuple[str, onnx.TypeProto]]) -> onnx.ModelProto:
        for name, kind in outputs:
            self.graph.output.append(onnx.ValueInfoProto(name=name, type=kind))
        opsets = [helper.make_opsetid(domain, version) for domain, version in self.models.versions.items()]
        return helper.make_model(self.graph, opset_imports=opsets, ir_version=IR_VERSION)

    def define(self, name: str, operand: HostOperand) -> None:
        """Make a name stand for what the importer knows by it."""
        if isinstance(operand, (Value, Opaque)):
            known = self.models.name(operand, name)
            if known not in self.known:
                self.graph.input.append(onnx.ValueInfoProto(name=known, type=self.models.type(operand)))
            if known != name:
                self.graph.node.append(helper.make_node("Identity", [known], [name]))
            self.known.add(known)
        elif isinstance(operand, list):
            parts = [f"{name}[{i}]" for i in range(len(operand))]
            for part, element in zip(parts, operand, strict=True):
                self.define(part, element)
            op = "SequenceConstruct" if parts else "SequenceEmpty"
            self.graph.node.append(helper.make_node(op, parts, [name]))
        elif isinstance(operand, Absent):
            raise UnsupportedError(f"{name!r} is an optional without an element")
        else:
            tensor = self.graph.initializer.add()
            tensor.CopyFrom(operand if isinstance(operand, TensorProto) else self.models.tensor(operand, operand))
            tensor.name = name
        self.known.add(name)


def load_external(node: onnx.NodeProto, folder: Folder | None) -> None:
    """Put external data of a node's attributes and bodies into it: hosts read no files."""
    for a in node.attribute:
        graphs = [g for g in (a.g, *a.graphs) if g.node or g.initializer]
        tensors = [a.t, *a.tensors, *(t for g in graphs for t in g.initializer)]
        for tensor in tensors:
            if tensor.data_location == TensorProto.EXTERNAL:
                tensor.CopyFrom(loaded(tensor, folder))
        for graph in graphs:
            for inner in graph.node:
                load_external(inner, folder)


class Keeper:
    """Keeps nodes for the host while a model is imported: `Scope.keep` of the main graph."""

    def __init__(self, backends: Backends, models: HostModels, graph: Graph) -> None:
        self.backends = backends
        self.models = models
        self.graph = graph
        self.nodes: list[HostNode] = []
        self.makers: dict[Thing, HostNode] = {}
        self.refused: list[HostNode] = []  # nodes that nobody takes
        self.inputs: list[str] = []  # why the device cannot hold inputs
        self._known: dict[Value, bool] = {}

    def __call__(self, scope: Scope, node: onnx.NodeProto, attempt: Callable[[], None]) -> None:
        """Import a node by `attempt`, or keep it for the host."""
        last = next(self.graph.nodes_reversed, None)
        try:
            attempt()
            reason = self._rejected(last)
            if reason is None:
                return
            self._keep(scope, node, reason)
        except UnsupportedError as e:
            self._keep(scope, node, _short(e, node), isinstance(e, OpaqueError))
        except ModelError as e:
            if not is_constraint(e) or not self._valid(scope, node):
                raise
            self._keep(scope, node, _short(e, node))

    def input(self, info: onnx.ValueInfoProto, why: UnsupportedError) -> Opaque:
        """An input that the device cannot hold."""
        self.inputs.append(str(why))
        text = str(why).removeprefix(f"input {info.name!r} ").removesuffix(", which is not supported")
        return self._named(Opaque(info.name, info.type, f"which {text}"))

    # why not ---------------------------------------------------------------------------------------------------------

    def _rejected(self, last: Node | None) -> str | None:
        """Why the device rejects what was added behind `last`; what depends on constants only is computed before."""
        for node in reversed(list(_behind(self.graph, last))):
            known = not isinstance(node.op, Constant) and all(self._is_known(v) for v in node.operand_values)
            if not known and not isinstance(node.op, Constant):
                reason = self.backends.reject(node, self._is_known)
                if reason is not None:
                    return reason
        return None

    def _is_known(self, value: Value) -> bool:
        if value not in self._known:
            made = value.producer
            self._known[value] = made is not None and all(self._is_known(v) for v in made.operand_values)
        return self._known[value]

    def _valid(self, scope: Scope, node: onnx.NodeProto) -> bool:
        """Whether ONNX itself finds nothing wrong with a node for these operands."""
        try:
            model = self.models.model([HostNode(node, "", self._operands(scope, node))], [])
            onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        except Exception:  # whatever it has against the node
            return False
        return True

    # keeping ---------------------------------------------------------------------------------------------------------

    def _operands(self, scope: Scope, node: onnx.NodeProto) -> dict[str, HostOperand]:
        found: dict[str, HostOperand] = {}
        for name in reads(node):
            operand = scope.env.get(name)
            if operand is None:
                tensor = scope.initializers.get(name)
                if tensor is None:
                    raise ModelError(f"{where(node)}: {name!r} is not defined anywhere")
                operand = self._initializer(tensor)
            if isinstance(operand, Value) and operand.constant is not None:
                operand = self.models.tensor(operand, operand.constant)
            found[name] = operand
        return found

    def _initializer(self, tensor: TensorProto) -> HostOperand:
        if tensor.data_type in DATA_TYPES and DATA_TYPES[tensor.data_type] not in NIBBLES:
            data = read_tensor(tensor, self.models.folder)
            assert isinstance(data, np.ndarray)  # only 4-bit elements are a Literal
            return self.models.builder.mark(data, tensor.data_type)
        return loaded(tensor, self.models.folder) if tensor.data_location == TensorProto.EXTERNAL else tensor

    def _keep(self, scope: Scope, proto: onnx.NodeProto, reason: str, follows: bool = False) -> None:
        node = HostNode(proto, reason, self._operands(scope, proto), follows=follows)
        try:
            self._take(node)
        except UnsupportedError as e:
            read = [t for operand in node.operands.values() for t in things(operand)]
            node.follows = any(isinstance(t, Opaque) and t.why == LOST for t in read)
            node.reason = f"{reason}; {e}"
            self.refused.append(node)
            node.results = {n: Opaque(n, onnx.TypeProto(), LOST) for n in proto.output if n}
        scope.env.update(node.results)

    def _take(self, node: HostNode) -> None:
        """Find the host for a node, and the types of its results."""
        names = [n for n in node.proto.output if n]
        model = self.models.model([node], [(n, onnx.TypeProto()) for n in names])
        inferred = _infer(model)
        for info in model.graph.output:
            info.type.CopyFrom(inferred.get(info.name, onnx.TypeProto()))
        node.backend, types = self.backends.host(model)
        for i, name in enumerate(names):
            kind = _merged(inferred.get(name, onnx.TypeProto()), types[i] if types else onnx.TypeProto())
            result = node.results[name] = self._result(name, kind)
            for thing in things(result):
                if self.models.name(thing, name) != name:
                    raise UnsupportedError(f"two values are called {name!r}")
                self.makers[thing] = node
        self.nodes.append(node)

    def _named(self, opaque: Opaque) -> Opaque:
        self.models.name(opaque, opaque.name)
        return opaque

    def _result(self, name: str, kind: onnx.TypeProto) -> Anything | Opaque:
        """What a result of a host node is to the importer."""
        tensor = kind.tensor_type
        if not kind.HasField("tensor_type"):
            what = (kind.WhichOneof("value") or "value of unknown type").removesuffix("_type")
            return Opaque(name, kind, f"which is a {what}")
        if tensor.elem_type not in DATA_TYPES:
            return Opaque(name, kind, f"which has the data type {element_name(tensor.elem_type)}")
        if not tensor.HasField("shape") or not all(d.HasField("dim_value") for d in tensor.shape.dim):
            return Opaque(name, kind, "whose shape depends on the data")
        shape = tuple(d.dim_value for d in tensor.shape.dim)
        t = TensorType(data_type(tensor.elem_type, name), shape)
        result = self.graph.add_input(name, t) if t.size else empty(t)
        return self.models.builder.mark(result, tensor.elem_type)


def _behind(graph: Graph, last: Node | None) -> Iterator[Node]:
    """The nodes behind one, or all."""
    for node in graph.nodes_reversed:
        if node is last:
            return
        yield node


def is_constraint(e: BaseException) -> bool:
    """Whether an error comes from a data type or rank that an op of the graph does not have."""
    cause: BaseException | None = e
    while cause is not None and not isinstance(cause, ConstraintError):
        cause = cause.__cause__
    return cause is not None


def _short(e: Exception, node: onnx.NodeProto) -> str:
    """What went wrong, without the node in front."""
    return " ".join(str(e).removeprefix(f"{where(node)}: ").split())


def _infer(model: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """What ONNX knows about the types of the outputs."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.output[:]
    # elements are followed, as those of shapes, one by one: that is nothing for large tensors
    small = all(math.prod(d.dim_value for d in i.type.tensor_type.shape.dim) <= 4096 for i in bare.graph.input)
    try:
        inferred = onnx.shape_inference.infer_shapes(bare, data_prop=small)
    except Exception:  # too large, or whatever it has against the node; the host decides
        return {}
    return {v.name: v.type for v in inferred.graph.value_info}


def _merged(a: onnx.TypeProto, b: onnx.TypeProto) -> onnx.TypeProto:
    """What both know about a type; `a` decides where they differ."""
    if not a.WhichOneof("value"):
        return b
    known = [d.HasField("dim_value") for d in a.tensor_type.shape.dim]
    if not (a.HasField("tensor_type") and b.HasField("tensor_type") and b.tensor_type.HasField("shape")):
        return a
    if a.tensor_type.HasField("shape") and len(known) != len(b.tensor_type.shape.dim):
        return a
    out = onnx.TypeProto()
    out.CopyFrom(a)
    if not a.tensor_type.HasField("shape"):
        out.tensor_type.shape.CopyFrom(b.tensor_type.shape)
    for i, dim in enumerate(b.tensor_type.shape.dim):
        if dim.HasField("dim_value") and not out.tensor_type.shape.dim[i].HasField("dim_value"):
            out.tensor_type.shape.dim[i].CopyFrom(dim)
    return out
