"""ONNX models to graphs.

    read the protobuf -> check -> bind free dimensions -> order the nodes that outputs need -> a function for each node

1:1 ops come from the op classes (`Op.onnx`); the others are small functions in one file per family beside this one.
Only nodes that an output depends on are looked at. Everything that can be wrong with a file becomes a ModelError, what
is valid but not handled an UnsupportedError; both say where.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx.version_converter
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

import gpucompile.ops  # noqa: F401  (registers the ops)
from gpucompile.errors import GpucompileError, InputError, ModelError, UnsupportedError
from gpucompile.frontends import onnx as _family
from gpucompile.frontends.onnx.call import ABSENT, Absent, Anything, Builder, Opaque, Operand, empty, located
from gpucompile.frontends.onnx.constants import constant_inputs, size_or_name
from gpucompile.frontends.onnx.declared import check_declared
from gpucompile.frontends.onnx.embedded import parse_file
from gpucompile.frontends.onnx.fallback import Backends, HostModels, Keeper, Thing, is_constraint
from gpucompile.frontends.onnx.functions import inline_functions
from gpucompile.frontends.onnx.partition import Partition, partition
from gpucompile.frontends.onnx.refusal import Nobody, lacking, refusal
from gpucompile.frontends.onnx.scope import Scope
from gpucompile.frontends.onnx.tensors import Folder, data_type
from gpucompile.ir.graph import Graph, Value
from gpucompile.ir.types import TensorType

#: The oldest opset whose ops have today's meaning (broadcasting) throughout.
OLDEST_OPSET = 7

for _module in pkgutil.iter_modules(_family.__path__):
    if _module.name != "importer":
        importlib.import_module(f"{_family.__name__}.{_module.name}")


#: What an input is taken to be: a graph input of a type, or known data; lists of these for sequences, None for an
#: optional without an element.
InputSpec: TypeAlias = TensorType | np.ndarray | list["InputSpec"] | None
#: What an output is: the name of a graph output, or known data; lists for sequences, None for an absent optional.
Result: TypeAlias = str | np.ndarray | list["Result"] | None


@dataclass(frozen=True)
class Imported:
    """A graph that computes what depends on inputs, and what each output of the model is. Where hosts are needed,
    `partition` takes the place of the graph."""

    graph: Graph
    results: dict[str, Result]
    partition: Partition | None = None


def import_model(
    source: str | Path | bytes | onnx.ModelProto,
    dims: Mapping[str, int] | None = None,
    inputs: Mapping[str, InputSpec] | None = None,
    constants: Mapping[str, Any] | None = None,
) -> Graph:
    """Import an ONNX model from a file, its contents, or a ModelProto.

    `dims` binds free dimensions by name, e.g. `{"batch": 1}`; a free dimension without a name is called after its
    input and axis, e.g. `x[0]`. `inputs` says more about inputs, by name: an array makes one a constant, a TensorType
    gives its type, a list of these the elements of a sequence (as graph inputs, called `x[0]`, `x[1]`, ...).
    `constants` gives inputs a value, which must be what the model declares, and binds the free dimensions that it
    tells. External data must lie in the model's folder or below it; links may
    lead to where the model itself is a link to.

    Raises ModelError for files that cannot be read or are inconsistent, UnsupportedError for what gpucompile lacks
    (all unknown ops at once; its subclass DataDependentError names inputs that must be constants), InputError for
    `dims`, `inputs` and `constants` that the model does not have."""
    model, label = _read(source)
    folder = Folder.of(source)
    try:
        return _Import(model, folder, dict(dims or {}), dict(inputs or {}), None, constants).whole()
    except (ModelError, UnsupportedError) as e:
        if isinstance(e, ModelError) and not is_constraint(e):
            raise located(e, label) from e
        again = partial(_Import, model, folder, dict(dims or {}), dict(inputs or {}), Nobody(), constants)
        raise located(_survey(again, e) or e, label) from e


def input_shapes(
    source: str | Path | bytes | onnx.ModelProto, constants: Mapping[str, Any] | None = None
) -> dict[str, tuple[int | str, ...]]:
    """The shapes of a model's inputs by name: sizes, and names of free dimensions (as `dims` of `import_model` takes
    them). Inputs without a shape are left out, and those in `constants`. Raises ModelError for files that cannot be
    read."""
    model, _ = _read(source)
    initializers = {t.name for t in model.graph.initializer} | set(constants or ())
    out: dict[str, tuple[int | str, ...]] = {}
    for info in model.graph.input:
        if info.name not in initializers and info.type.tensor_type.HasField("shape"):
            dims = enumerate(info.type.tensor_type.shape.dim)
            out[info.name] = tuple(size_or_name(info.name, axis, d) for axis, d in dims)
    return out


@dataclass(frozen=True)
class Interface:
    """The inputs of a model with their shapes (as `input_shapes` gives them), its outputs, the ops it consists of."""

    inputs: dict[str, tuple[int | str, ...]]
    outputs: tuple[str, ...]
    ops: frozenset[str]


def interface_of(source: str | Path | bytes | onnx.ModelProto) -> Interface:
    """What a model takes, gives and consists of. Raises ModelError for files that cannot be read."""
    model, _ = _read(source)
    ops = frozenset(n.op_type for n in model.graph.node)
    return Interface(input_shapes(model), tuple(o.name for o in model.graph.output), ops)


def import_parts(model: onnx.ModelProto, inputs: Mapping[str, InputSpec], backends: Backends | None = None) -> Imported:
    """Like `import_model`, but outputs known at import stay out of the graph, which may lack outputs altogether, and
    may be empty tensors, sequences, or optionals. With `backends`, nodes may be left to hosts."""
    model, label = _read(model)
    try:
        return _Import(model, None, {}, dict(inputs), backends).parts()
    except (ModelError, UnsupportedError) as e:
        raise located(e, label) from e


def import_partitioned(
    source: str | Path | bytes | onnx.ModelProto,
    backends: Backends,
    dims: Mapping[str, int] | None = None,
    constants: Mapping[str, Any] | None = None,
) -> Graph | Partition:
    """Like `import_model`, but nodes that the device does not take are left to the hosts of `backends`. A Graph where
    it takes them all. Raises UnsupportedError listing the nodes that nobody takes, with reasons."""
    model, label = _read(source)
    folder = Folder.of(source)
    try:
        return _Import(model, folder, dict(dims or {}), {}, backends, constants or {}).partitioned()
    except (ModelError, UnsupportedError) as e:
        raise located(e, label) from e


def find_refusals(
    source: str | Path | bytes | onnx.ModelProto,
    backends: Backends,
    dims: Mapping[str, int] | None = None,
    constants: Mapping[str, Any] | None = None,
) -> UnsupportedError | ModelError | None:
    """The error that lists what `backends`, which take every node for a host, would not leave to the device; None if
    that is nothing."""
    model, label = _read(source)
    folder = Folder.of(source)
    found = _survey(partial(_Import, model, folder, dict(dims or {}), {}, backends, constants), None)
    return found and located(found, label)


def _survey(
    make: Callable[[], _Import], first: UnsupportedError | ModelError | None
) -> UnsupportedError | ModelError | None:
    """Import with hosts that take everything, for the list of what they were left."""
    again, end = None, None
    try:
        again = make()
        again.partitioned()
    except GpucompileError as e:
        end = e
    if again is None or again.keeper is None:
        return None
    return refusal(again.keeper, first, end, lacking(again.scope, again.keeper.nodes))


def _read(source: str | Path | bytes | onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """The parsed model, and how to call it in messages."""
    if isinstance(source, onnx.ModelProto):
        model, label = source, f"model {source.graph.name!r}" if source.graph.name else "the model"
    else:
        if not isinstance(source, (str, Path, bytes)):
            raise InputError(f"a model is a path, bytes or an onnx.ModelProto, not {type(source).__name__}")
        label = "the model" if isinstance(source, bytes) else str(source)
        try:
            size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
            if not size:
                raise ModelError(f"{label}: the file is empty")
            model = onnx.ModelProto.FromString(source) if isinstance(source, bytes) else parse_file(Path(source))
        except OSError as e:
            raise ModelError(f"{label}: cannot be read: {e.strerror or e}") from e
        except DecodeError as e:
            raise ModelError(f"{label}: not an ONNX model, or truncated or corrupt ({size} bytes): {e}") from e
    if not model.HasField("graph") or not model.opset_import or not model.graph.output:
        raise ModelError(f"{label}: not an ONNX model: it has no graph, no opset or no outputs")
    model = _modern(model, label)
    return inline_functions(model, label) if model.functions else model, label


def _modern(model: onnx.ModelProto, label: str) -> onnx.ModelProto:
    """A model of an opset before OLDEST_OPSET, converted to that by the onnx package."""
    versions = [e.version for e in model.opset_import if e.domain in ("", "ai.onnx")]
    if not versions or not 0 < versions[0] < OLDEST_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, OLDEST_OPSET)
    except Exception as e:  # whatever it says
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        newest = onnx.defs.onnx_opset_version()
        raise UnsupportedError(
            f"{label}: ONNX opset {versions[0]}; supported are {OLDEST_OPSET} to {newest}, and the onnx package cannot "
            f"convert it: {reason}"
        ) from e


class _Import:
    """One import of a model."""

    def __init__(
        self,
        model: onnx.ModelProto,
        folder: Folder | None,
        dims: dict[str, int],
        inputs: dict[str, InputSpec],
        backends: Backends | None = None,
        constants: Mapping[str, Any] | None = None,
    ) -> None:
        self.proto = model.graph
        values, self.told = constant_inputs(model.graph, constants or {}, dims)
        self.dims = self.told | dims
        self.inputs = inputs
        self.builder = Builder(Graph(self.proto.name or "main"))
        if self.proto.sparse_initializer:
            raise UnsupportedError("sparse initializers")
        outputs = [o.name for o in self.proto.output]
        if len(set(outputs)) != len(outputs):
            raise ModelError(f"two outputs are called {next(n for n in outputs if outputs.count(n) > 1)!r}")
        versions = _opsets(model, backends is not None)
        stored = [*(t for t in self.proto.initializer if t.name not in values), *values.values()]
        self.scope = Scope(self.builder, versions, self.proto.node, outputs, stored, folder)
        self.keeper: Keeper | None = None
        self.declared: list[Value] = []
        if backends is not None:
            models = HostModels(self.builder, self.scope.versions, folder)
            self.scope.keep = self.keeper = Keeper(backends, models, self.builder.graph)

    def whole(self) -> Graph:
        """Every output of the model as an output of the graph, elements of sequences as `y[0]`, `y[1]`, ..."""
        outputs: dict[str, Value] = {}
        for name, result in self._run().items():
            for tensor, path in _flat(result, name):
                if isinstance(tensor, np.ndarray) and not tensor.size:
                    outputs[path] = self.builder.graph.constant(tensor)
                else:
                    outputs[path] = self.builder.value(tensor)  # type: ignore[arg-type]  # no Opaque without hosts
        self.builder.graph.set_outputs(outputs)
        return self.builder.graph

    def parts(self) -> Imported:
        outputs: dict[str, Thing] = {}

        def take(result: Anything | Opaque, name: str) -> Result:
            if isinstance(result, (Value, Opaque)):
                outputs[name] = result
                return name
            if isinstance(result, list):
                return [take(r, f"{name}[{i}]") for i, r in enumerate(result)]
            return result if isinstance(result, np.ndarray) else None

        results = {name: take(result, name) for name, result in self._run().items()}
        if self.keeper is not None:
            found = partition(self.builder.graph, self.keeper, self._inputs(), outputs)
            return Imported(self.builder.graph, results, found if isinstance(found, Partition) else None)
        self.builder.graph.set_outputs({name: v for name, v in outputs.items() if isinstance(v, Value)})
        return Imported(self.builder.graph, results)

    def partitioned(self) -> Graph | Partition:
        """Every output as in `whole`, of a graph or of its parts."""
        assert self.keeper is not None
        found = self._run()
        outputs = {path: t for name, result in found.items() for t, path in _flat(result, name)}
        return partition(self.builder.graph, self.keeper, self._inputs(), outputs)

    def _inputs(self) -> list[Thing]:
        """The model's inputs, as far as they are not given as constants; elements of sequences one by one."""
        found: list[Thing] = []
        for info in self.proto.input:
            operand = self.scope.env.get(info.name)
            if isinstance(operand, Opaque):
                found.append(operand)
            found += (v for v in self.declared if v.name == info.name or v.name.startswith(f"{info.name}["))
        return found

    def _run(self) -> dict[str, Anything | Opaque]:
        found = self._results()
        for info in self.proto.output:
            check_declared(info, found[info.name], self.builder)
        return found

    def _results(self) -> dict[str, Anything | Opaque]:
        """What each output is."""
        self._add_inputs()
        if self.keeper is None:
            return dict(zip(self.scope.outputs, self.scope.run(), strict=True))
        self.declared = list(self.builder.graph.inputs)  # host nodes add to these
        for thing in self._inputs():
            self.keeper.models.name(thing)
        self.scope.import_nodes()
        found: dict[str, Anything | Opaque] = {}
        for name in self.scope.outputs:
            known = self.scope.env.get(name)
            found[name] = self.scope.present(name, "the outputs") if known is None else known
        return found

    # inputs --------------------------------------------------------------------------------------------------------

    def _add_inputs(self) -> None:
        """Graph inputs with their dimensions bound; an input that is also an initializer is not one."""
        unbound: list[tuple[str, int, str]] = []
        known = set(self.told)
        self.builder.inputs = frozenset(i.name for i in self.proto.input)
        names = {i.name for i in self.proto.input}
        for name in self.inputs:
            if name not in names:
                raise InputError(f"inputs: the model has no input {name!r}; it has {', '.join(sorted(names))}")
        for info in self.proto.input:
            if info.name in self.inputs:
                given = self._given(info.name, self.inputs[info.name])
                if not isinstance(given, (list, Absent)):
                    self.builder.mark(given, info.type.tensor_type.elem_type)
                self.scope.env[info.name] = given
                self.scope.initializers.pop(info.name, None)
            elif info.name not in self.scope.initializers:
                if info.name in self.scope.env:
                    raise ModelError(f"two inputs are called {info.name!r}")
                self.scope.env[info.name] = self._input(info, unbound, known)
        self._check_dims(unbound, known)

    def _given(self, name: str, spec: InputSpec) -> Anything:
        if isinstance(spec, TensorType):
            return self.builder.graph.add_input(name, spec)
        if isinstance(spec, list):
            return [self._given(f"{name}[{i}]", s) for i, s in enumerate(spec)]
        return ABSENT if spec is None else spec

    def _input(
        self, info: onnx.ValueInfoProto, unbound: list[tuple[str, int, str]], known: set[str]
    ) -> Operand | Opaque:
        """An input of the type that the model gives it; one that the device cannot hold is the host's."""
        free = len(unbound)
        try:
            return self._declared(info, unbound, known)
        except UnsupportedError as e:
            if self.keeper is None:
                raise
            del unbound[free:]  # a host takes any size
            bound = onnx.ValueInfoProto()
            bound.CopyFrom(info)
            for d in bound.type.tensor_type.shape.dim:
                if d.dim_param in self.dims:
                    d.dim_value = self.dims[d.dim_param]
            return self.keeper.input(bound, e)

    def _declared(self, info: onnx.ValueInfoProto, unbound: list[tuple[str, int, str]], known: set[str]) -> Operand:
        """An input of the type that the model gives it."""
        if not info.type.HasField("tensor_type"):
            raise UnsupportedError(f"input {info.name!r} is not a tensor")
        tensor = info.type.tensor_type
        if not tensor.HasField("shape"):
            raise UnsupportedError(f"input {info.name!r} has no shape; set one in the model")
        shape = []
        for axis, d in enumerate(tensor.shape.dim):
            size = size_or_name(info.name, axis, d)
            if isinstance(size, str):
                known.add(size)
                if size not in self.dims:
                    unbound.append((info.name, axis, size))
                given = self.dims.get(size, 1)
                if isinstance(given, bool) or not isinstance(given, (int, np.integer)) or given < 0:
                    raise InputError(f"dims: {size} is {given!r}, it must be an integer that is not negative")
                size = int(given)
            shape.append(size)
        dtype = data_type(tensor.elem_type, f"input {info.name!r}")
        value = self.builder.graph.add_input(info.name, TensorType(dtype, tuple(shape)))
        if not value.type.size:  # nothing computes with it: what it is, is known
            return empty(value.type)
        return self.builder.mark(value, tensor.elem_type)

    def _check_dims(self, unbound: list[tuple[str, int, str]], known: set[str]) -> None:
        for name in self.dims:
            if name not in known:
                have = f"it has {', '.join(sorted(known))}" if known else "it has none"
                raise InputError(f"dims: the model has no free dimension {name!r}; {have}")
        if unbound:
            where = "; ".join(f"input {i!r} axis {a} ({n})" for i, a, n in unbound)
            names = list(dict.fromkeys(n for *_, n in unbound))
            python = ", ".join(f'"{n}": 1' for n in names)
            command = " ".join(f"--dim {n}=1" for n in names)
            raise UnsupportedError(f"free dimensions: {where}. Give each a size: dims={{{python}}} or {command}")


def _flat(result: Anything | Opaque, name: str) -> Iterator[tuple[Operand | Opaque, str]]:
    """The tensors in an output, and what each is called."""
    if isinstance(result, list):
        for i, element in enumerate(result):
            yield from _flat(element, f"{name}[{i}]")
    elif isinstance(result, (Value, np.ndarray, Opaque)):
        yield result, name
    else:
        raise UnsupportedError(f"output {name!r} is an optional without an element")


def _opsets(model: onnx.ModelProto, hosts: bool) -> dict[str, int]:
    """The versions of the opsets the model uses, by domain; hosts take models that use none of ONNX's own ops."""
    newest = onnx.defs.onnx_opset_version()
    versions = {"" if e.domain == "ai.onnx" else e.domain: int(e.version) for e in model.opset_import}
    if "" not in versions:
        if hosts and all(node.domain not in ("", "ai.onnx") for node in model.graph.node):
            return versions
        raise UnsupportedError("it imports no ONNX opset, only " + ", ".join(versions))
    if not OLDEST_OPSET <= versions[""] <= newest:
        raise UnsupportedError(f"ONNX opset {versions['']}; supported are {OLDEST_OPSET} to {newest}")
    return versions
