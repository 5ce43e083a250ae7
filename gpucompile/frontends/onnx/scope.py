"""The nodes of one graph, subgraph or function body: ordered, looked up, imported one by one.

A `Scope` knows what names stand for; a subgraph's scope asks the enclosing one for what it does not know itself, a
function's does not. An op without an import function that ONNX defines as a function of other ops is imported as the
body of that function.
"""

from __future__ import annotations

import functools
import graphlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper

from gpucompile.errors import GpucompileError, ModelError, TypeInferenceError, UnsupportedError
from gpucompile.frontends.onnx.call import (
    BOOL,
    Absent,
    Anything,
    Builder,
    Call,
    Function,
    Opaque,
    OpaqueError,
    find_function,
    located,
    read_attributes,
    resolved,
    type_of,
)
from gpucompile.frontends.onnx.foreign import concerns, evaluate, is_foreign, known
from gpucompile.frontends.onnx.refused import REFUSED
from gpucompile.frontends.onnx.tensors import Folder, data_type, element_type, read_tensor
from gpucompile.ir.graph import Literal, Value

Versions = Mapping[str, int]  # of the opsets, by domain; the domain of ONNX itself is ""


#: Called instead of importing a node, with the scope, the node and a function that tries to.
Keep: TypeAlias = "Callable[[Scope, onnx.NodeProto, Callable[[], None]], None]"


class Scope:
    """Names and what they stand for, in one graph or function body. With `keep`, nodes that cannot be imported are its
    business."""

    def __init__(
        self,
        builder: Builder,
        versions: Versions,
        nodes: Sequence[onnx.NodeProto],
        outputs: Sequence[str],
        initializers: Iterable[onnx.TensorProto] = (),
        folder: Folder | None = None,
        parent: Scope | None = None,
        attributes: Mapping[str, onnx.AttributeProto] | None = None,
    ) -> None:
        self.builder = builder
        self.versions = versions
        self.nodes = nodes
        self.outputs = outputs
        self.initializers: dict[str, onnx.TensorProto] = {}
        for t in initializers:
            if t.name in self.initializers:
                raise ModelError("two initializers have the same name")
            self.initializers[t.name] = t
        self.folder = folder
        self.parent = parent
        self.attributes = attributes or {}  # of the call, in a function's body
        self.env: dict[str, Anything | Opaque | None] = {}
        self.keep: Keep | None = None
        self._needed: list[onnx.NodeProto] | None = None

    def run(self) -> list[Anything]:
        """Import the nodes that the outputs depend on; returns what the outputs are."""
        self.import_nodes()
        return [self.present(name, "the outputs") for name in self.outputs]

    def import_nodes(self) -> None:
        """Import the nodes that the outputs depend on; afterwards `env` and `initializers` know the outputs."""
        nodes = self.needed
        functions = self._functions(nodes)
        read = {name for node in nodes for name in reads(node)} | set(self.outputs)
        for node in nodes:
            attempt = partial(self._import, node, functions[node.domain, node.op_type], read)
            if self.keep is None:
                attempt()
            else:
                self.keep(self, node, attempt)

    # names ---------------------------------------------------------------------------------------------------------

    def lookup(self, name: str, user: str) -> Anything | None:
        """What a name stands for, None for an input of a function that the caller left out; initializers are read on
        first use."""
        if name not in self.env:
            if name in self.initializers:
                data = read_tensor(self.initializers[name], self.folder)
                if isinstance(data, Literal):
                    self.env[name] = self.builder.graph.constant(data, name=name)
                else:
                    self.builder.names[id(data)] = name
                    self.env[name] = self.builder.mark(data, self.initializers[name].data_type)
            elif self.parent:
                return self.parent.lookup(name, user)
            else:
                raise ModelError(f"{user}: {name!r} is not defined anywhere")
        found = self.env[name]
        if isinstance(found, Opaque):
            raise OpaqueError(f"it reads {name!r}, {found.why}")
        return found

    def present(self, name: str, user: str) -> Anything:
        found = self.lookup(name, user)
        if found is None:
            raise ModelError(f"{user}: {name!r} is an input that is absent")
        return found

    # nodes ---------------------------------------------------------------------------------------------------------

    @property
    def needed(self) -> list[onnx.NodeProto]:
        """The nodes that outputs depend on, in an order that defines before use."""
        if self._needed is None:
            self._needed = self._needed_nodes()
        return self._needed

    def _needed_nodes(self) -> list[onnx.NodeProto]:
        producer: dict[str, int] = {}
        for i, node in enumerate(self.nodes):
            for name in filter(None, node.output):
                if name in producer or name in self.env or name in self.initializers:
                    raise ModelError(f"{where(node)}: {name!r} is defined twice")
                producer[name] = i
        needs: dict[int, list[int]] = {}
        stack = [producer[name] for name in self.outputs if name in producer]
        while stack:
            i = stack.pop()
            if i not in needs:
                needs[i] = [producer[n] for n in reads(self.nodes[i]) if n in producer]
                stack.extend(needs[i])
        order = sorted(needs)
        if any(j >= i for i in order for j in needs[i]):  # not sorted, as ONNX wants it to be
            try:
                order = list(graphlib.TopologicalSorter(needs).static_order())
            except graphlib.CycleError as e:
                cycle = ", ".join(where(self.nodes[i]) for i in e.args[1][1:])
                raise ModelError(f"the graph has a cycle: {cycle}") from e
        return [self.nodes[i] for i in order]

    def _functions(self, nodes: list[onnx.NodeProto]) -> dict[tuple[str, str], Function | None]:
        """The import function of each (domain, op type), None where there is none."""
        return {key: self._function(*key) for key in dict.fromkeys((n.domain, n.op_type) for n in nodes)}

    def lacking(self, node: onnx.NodeProto) -> str:
        """Why a node has no import function; an empty text where it has one."""
        if self._function(node.domain, node.op_type) is not None:
            return ""
        if node.domain in ("", "ai.onnx"):
            return REFUSED.get(node.op_type, f"no import function (opset {self.versions.get('')})")
        return f"no import function (domain {node.domain})"

    def _function(self, domain: str, name: str) -> Function | None:
        domain = "" if domain == "ai.onnx" else domain
        version = self.versions.get(domain, 1)
        return find_function(domain, name, version) or self._body(domain, name, version)

    def _body(self, domain: str, name: str, version: int) -> Function | None:
        """An import function that imports the body by which ONNX defines an op; None if it defines it otherwise."""
        schema = schema_of(domain, name, version)
        if schema is None or not (schema.has_function or schema.has_context_dependent_function):
            return None

        def function(call: Call) -> tuple[Anything | None, ...]:
            return tuple(self._run_body(call, schema, version))

        return function

    def _run_body(self, call: Call, schema: Any, version: int) -> list[Anything | None]:
        body = onnx.FunctionProto()
        if schema.has_function:
            body.ParseFromString(
                schema.get_function_with_opset_version(_latest(schema.function_opset_versions, version))
            )
        else:
            _check(call.node, version)  # ONNX's builders of bodies crash on nodes that are wrong
            at = _latest(schema.context_dependent_function_opset_versions, version)
            types = [self._type_proto(v).SerializeToString() for v in call.inputs]
            text = schema.get_context_dependent_function_with_opset_version(at, call.node.SerializeToString(), types)
            body.ParseFromString(text)
        attributes = {n: a.default_value for n, a in schema.attributes.items() if a.default_value.name}
        attributes.update((a.name, a) for a in call.node.attribute)
        versions = dict(self.versions)
        versions.update(("" if o.domain == "ai.onnx" else o.domain, int(o.version)) for o in body.opset_import)
        wanted = [name for name, wanted in zip(body.output, call.wanted, strict=False) if wanted]
        scope = Scope(self.builder, versions, list(body.node), wanted, attributes=attributes)
        scope.env.update(dict.fromkeys(body.input) | dict(zip(body.input, call.inputs, strict=False)))
        results = dict(zip(wanted, scope.run(), strict=True))
        return [results.get(name) for name in body.output]

    def _type_proto(self, operand: Anything | None) -> onnx.TypeProto:
        """The type of an operand, as ONNX writes it."""
        if operand is None:
            return onnx.TypeProto()
        if isinstance(operand, (list, Absent)):
            raise UnsupportedError("sequences and optionals as inputs")
        t = type_of(operand)
        element = self.builder.element(operand) or element_type(t.dtype)
        return onnx.helper.make_tensor_type_proto(element, t.shape)

    def subgraph(self, graph: onnx.GraphProto, inputs: Sequence[Anything]) -> list[Anything]:
        """Import a graph attribute with these inputs; returns what its outputs are."""
        if len(graph.input) != len(inputs):
            raise ModelError(f"its body takes {len(graph.input)} inputs, not {len(inputs)}")
        scope = self.inner(graph)
        scope.env.update(zip((i.name for i in graph.input), inputs, strict=True))
        return scope.run()

    def inner(self, graph: onnx.GraphProto) -> Scope:
        """The scope of a graph attribute of one of the nodes."""
        outputs = [o.name for o in graph.output]
        return Scope(
            self.builder, self.versions, graph.node, outputs, graph.initializer, self.folder, self, self.attributes
        )

    def stored(self, name: str) -> onnx.TensorProto | None:
        """The initializer of this name, here or around."""
        found = self.initializers.get(name)
        return found if found is not None or self.parent is None else self.parent.stored(name)

    def _import(self, node: onnx.NodeProto, function: Function | None, read: set[str]) -> None:
        if function is None:
            raise UnsupportedError(f"{where(node)}: {self.lacking(node)}")
        node, place = resolved(node, self.attributes), where(node)
        inputs = [self.lookup(name, place) if name else None for name in node.input]
        try:
            wanted = tuple(name in read for name in node.output)
            version = self.versions.get("" if node.domain == "ai.onnx" else node.domain, 1)
            _check_attributes(node, version)
            attributes = read_attributes(node)
            if node.domain in ("", "ai.onnx") and concerns(node, inputs, attributes):
                arrays = known([self._as_onnx(v) for v in inputs])
                if arrays is not None:
                    self._define(node, [self._as_ours(v) for v in evaluate(node, arrays, self.versions)])
                    return
            self._require_own_types(node, inputs)
            out = function(Call(self.builder, node, version, inputs, attributes, wanted, self.subgraph))
        except (ModelError, UnsupportedError) as e:
            raise located(e, place) from e
        except TypeInferenceError as e:
            raise ModelError(f"{place}: {e}") from e
        except GpucompileError:
            raise
        except (ValueError, TypeError, IndexError, KeyError, ZeroDivisionError, OverflowError, AttributeError) as e:
            raise ModelError(f"{place}: inputs or attributes do not suit the op ({type(e).__name__}: {e})") from e
        except MemoryError as e:
            raise UnsupportedError(f"{place}: a tensor of it does not fit into memory ({e})") from e
        self._define(node, out if isinstance(out, tuple) else (out,))

    def _as_onnx(self, operand: Anything | None) -> Anything | None:
        """A bool array as such, not as the uint8 that stands for it."""
        array = operand.constant if isinstance(operand, Value) else operand
        if isinstance(operand, (Value, np.ndarray)) and self.builder.element(operand) == BOOL and array is not None:
            return np.asarray(array).astype(bool)
        return operand

    def _as_ours(self, result: Any) -> Anything | None:
        """What onnx computed; bool becomes uint8."""
        if isinstance(result, (np.ndarray, np.generic)) and result.dtype == bool:
            return self.builder.mark(np.asarray(result, np.uint8), BOOL)
        return None if result is None else np.asarray(result)

    def _require_own_types(self, node: onnx.NodeProto, inputs: Sequence[Anything | None]) -> None:
        """Raise UnsupportedError for an input of a data type that the graph lacks."""
        for name, operand in zip(node.input, inputs, strict=True):
            if isinstance(operand, np.ndarray) and is_foreign(operand):
                data_type(helper.np_dtype_to_tensor_dtype(operand.dtype), f"tensor {name!r}")

    def _define(self, node: onnx.NodeProto, results: Sequence[Anything | None]) -> None:
        """Remember what a node's outputs are."""
        for name, result in zip(node.output, results, strict=False):
            if not name or result is None:
                continue
            if isinstance(result, Value):
                result.name = result.name or name
            elif not isinstance(result, (list, Absent)):
                result = np.asarray(result)
                self.builder.names.setdefault(id(result), name)
            self.env[name] = result


def where(node: onnx.NodeProto) -> str:
    """How messages call a node."""
    return f"{node.op_type} {node.name or ', '.join(node.output)!r}"


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """The names that a node and its subgraphs read from around it."""
    yield from filter(None, node.input)
    for a in node.attribute:
        for graph in (a.g, *a.graphs):
            own = {i.name for i in graph.input} | {t.name for t in graph.initializer}
            own.update(name for inner in graph.node for name in inner.output)
            used = [o.name for o in graph.output] + [name for inner in graph.node for name in reads(inner)]
            yield from (name for name in used if name and name not in own)


def schema_of(domain: str, name: str, version: int) -> Any:
    """ONNX's definition (an OpSchema) of an op at an opset version, None if it has none."""
    try:
        return onnx.defs.get_schema(name, version, domain)
    except (onnx.defs.SchemaError, TypeError):  # TypeError: damaged names
        return None


@functools.cache
def _attribute_types(domain: str, name: str, version: int) -> dict[str, int]:
    """The types of an op's attributes, as numbers of AttributeProto.AttributeType; empty for unknown ops."""
    schema = schema_of(domain, name, version)
    return {} if schema is None else {n: int(a.type.value) for n, a in schema.attributes.items()}


def _check_attributes(node: onnx.NodeProto, version: int) -> None:
    """Raise ModelError for an attribute that has not the type it is defined with."""
    known = _attribute_types("" if node.domain == "ai.onnx" else node.domain, node.op_type, version)
    for a in node.attribute:
        if a.type != known.get(a.name, a.type):
            types = onnx.AttributeProto.AttributeType
            raise ModelError(f"attribute {a.name} is a {types.Name(a.type)} instead of a {types.Name(known[a.name])}")


def _check(node: onnx.NodeProto, version: int) -> None:
    """Raise ModelError for a node that its schema does not allow."""
    context = onnx.checker.C.CheckerContext()
    context.ir_version = onnx.IR_VERSION
    context.opset_imports = {"": onnx.defs.onnx_opset_version(), node.domain: version}
    try:
        onnx.checker.check_node(node, context)
    except onnx.checker.ValidationError as e:
        raise ModelError(str(e).splitlines()[0]) from e


def _latest(versions: Sequence[int], version: int) -> int:
    """The newest of the versions that is not above `version`; the oldest where all are."""
    return max((v for v in versions if v <= version), default=min(versions))
