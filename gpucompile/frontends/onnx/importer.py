"""ONNX models to graphs.

    read the protobuf -> check -> bind free dimensions -> order the nodes that outputs need -> a function for each node

1:1 ops come from the op classes (`Op.onnx`); the others are small functions in one file per family beside this one.
Only nodes that an output depends on are looked at. Everything that can be wrong with a file becomes a ModelError, what
is valid but not handled an UnsupportedError; both say where.
"""

from __future__ import annotations

import graphlib
import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

import gpucompile.ops  # noqa: F401  (registers the ops)
from gpucompile.errors import GpucompileError, InputError, ModelError, TypeInferenceError, UnsupportedError
from gpucompile.frontends import onnx as _family
from gpucompile.frontends.onnx.call import Builder, Call, Function, Operand, find_function, read_attributes
from gpucompile.frontends.onnx.tensors import data_type, read_tensor
from gpucompile.ir.graph import Graph, Literal, Value
from gpucompile.ir.types import TensorType

#: The oldest opset whose ops have today's meaning (broadcasting) throughout.
OLDEST_OPSET = 7

for _module in pkgutil.iter_modules(_family.__path__):
    if _module.name != "importer":
        importlib.import_module(f"{_family.__name__}.{_module.name}")


def import_model(source: str | Path | bytes | onnx.ModelProto, dims: Mapping[str, int] | None = None) -> Graph:
    """Import an ONNX model from a file, its contents, or a ModelProto.

    `dims` binds free dimensions by name, e.g. `{"batch": 1}`; a free dimension without a name is called after its
    input and axis, e.g. `x[0]`. External data must lie in the model's folder or below it.

    Raises ModelError for files that cannot be read or are inconsistent, UnsupportedError for what gpucompile lacks
    (all unknown ops at once), InputError for `dims` that the model does not have."""
    model, label = _read(source)
    folder = Path(source).parent if isinstance(source, (str, Path)) else None
    try:
        return _Import(model, folder, dict(dims or {})).run()
    except (ModelError, UnsupportedError) as e:
        raise type(e)(f"{label}: {e}") from e


def _read(source: str | Path | bytes | onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """The parsed model, and how to call it in messages."""
    if isinstance(source, onnx.ModelProto):
        model, label = source, f"model {source.graph.name!r}" if source.graph.name else "the model"
    else:
        label = "the model" if isinstance(source, bytes) else str(source)
        try:
            data = source if isinstance(source, bytes) else Path(source).read_bytes()
        except OSError as e:
            raise ModelError(f"{label}: cannot be read: {e.strerror or e}") from e
        if not data:
            raise ModelError(f"{label}: the file is empty")
        model = onnx.ModelProto()
        try:
            model.ParseFromString(data)
        except DecodeError as e:
            raise ModelError(f"{label}: not an ONNX model, or truncated or corrupt ({len(data)} bytes): {e}") from e
    if not model.HasField("graph") or not model.opset_import or not model.graph.output:
        raise ModelError(f"{label}: not an ONNX model: it has no graph, no opset or no outputs")
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    return model, label


class _Import:
    """One import: names and what they stand for."""

    def __init__(self, model: onnx.ModelProto, folder: Path | None, dims: dict[str, int]) -> None:
        self.proto = model.graph
        self.folder = folder
        self.dims = dims
        self.version = _opset(model)
        self.builder = Builder(Graph(self.proto.name or "main"))
        self.initializers = {t.name: t for t in self.proto.initializer}
        self.env: dict[str, Operand] = {}

    def run(self) -> Graph:
        graph = self.builder.graph
        if self.proto.sparse_initializer:
            raise UnsupportedError("sparse initializers")
        if len(self.initializers) != len(self.proto.initializer):
            raise ModelError("two initializers have the same name")
        self._add_inputs()
        nodes = self._needed_nodes()
        functions = self._functions(nodes)
        read = {name for node in nodes for name in node.input} | {o.name for o in self.proto.output}
        for node in nodes:
            self._import(node, functions[node.domain, node.op_type], read)
        outputs = {}
        for o in self.proto.output:
            if o.name in outputs:
                raise ModelError(f"two outputs are called {o.name!r}")
            outputs[o.name] = self.builder.value(self._operand(o.name, "the outputs"))
        graph.set_outputs(outputs)
        return graph

    # inputs --------------------------------------------------------------------------------------------------------

    def _add_inputs(self) -> None:
        """Graph inputs with their dimensions bound; an input that is also an initializer is not one."""
        unbound, known = [], set()
        for info in self.proto.input:
            if info.name in self.initializers:
                continue
            if info.name in self.env:
                raise ModelError(f"two inputs are called {info.name!r}")
            if not info.type.HasField("tensor_type"):
                raise UnsupportedError(f"input {info.name!r} is not a tensor")
            tensor = info.type.tensor_type
            dtype = data_type(tensor.elem_type, f"input {info.name!r}")
            if not tensor.HasField("shape"):
                raise UnsupportedError(f"input {info.name!r} has no shape; set one in the model")
            shape = []
            for axis, d in enumerate(tensor.shape.dim):
                name = d.dim_param or f"{info.name}[{axis}]"
                if d.HasField("dim_value") and d.dim_value > 0:
                    shape.append(d.dim_value)
                    continue
                known.add(name)
                if name not in self.dims:
                    unbound.append((info.name, axis, name))
                shape.append(self.dims.get(name, 1))
            self.env[info.name] = self.builder.graph.add_input(info.name, TensorType(dtype, tuple(shape)))
        self._check_dims(unbound, known)

    def _check_dims(self, unbound: list[tuple[str, int, str]], known: set[str]) -> None:
        for name, value in self.dims.items():
            if name not in known:
                have = f"it has {', '.join(sorted(known))}" if known else "it has none"
                raise InputError(f"dims: the model has no free dimension {name!r}; {have}")
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise InputError(f"dims: {name} is {value!r}, it must be a positive integer")
        if unbound:
            where = "; ".join(f"input {i!r} axis {a} ({n})" for i, a, n in unbound)
            names = list(dict.fromkeys(n for *_, n in unbound))
            python = ", ".join(f'"{n}": 1' for n in names)
            command = " ".join(f"--dim {n}=1" for n in names)
            raise UnsupportedError(f"free dimensions: {where}. Give each a size: dims={{{python}}} or {command}")

    # nodes ---------------------------------------------------------------------------------------------------------

    def _needed_nodes(self) -> list[onnx.NodeProto]:
        """The nodes that outputs depend on, in an order that defines before use."""
        producer: dict[str, int] = {}
        for i, node in enumerate(self.proto.node):
            for name in filter(None, node.output):
                if name in producer or name in self.env or name in self.initializers:
                    raise ModelError(f"{_where(node)}: {name!r} is defined twice")
                producer[name] = i
        needs: dict[int, list[int]] = {}
        stack = [producer[o.name] for o in self.proto.output if o.name in producer]
        while stack:
            i = stack.pop()
            if i not in needs:
                needs[i] = [producer[n] for n in self.proto.node[i].input if n in producer]
                stack.extend(needs[i])
        order = sorted(needs)
        if any(j >= i for i in order for j in needs[i]):  # not sorted, as ONNX wants it to be
            try:
                order = list(graphlib.TopologicalSorter(needs).static_order())
            except graphlib.CycleError as e:
                cycle = ", ".join(_where(self.proto.node[i]) for i in e.args[1][1:])
                raise ModelError(f"the graph has a cycle: {cycle}") from e
        return [self.proto.node[i] for i in order]

    def _functions(self, nodes: list[onnx.NodeProto]) -> dict[tuple[str, str], Function]:
        """The import function of each (domain, op type). Raises UnsupportedError listing all that have none."""
        found: dict[tuple[str, str], Function] = {}
        missing: dict[str, list[str]] = {}
        for node in nodes:
            key = (node.domain, node.op_type)
            function = found.get(key)
            if function is None and node.domain in ("", "ai.onnx"):
                function = find_function(node.op_type, self.version)
            if function is None:
                domain = node.domain or "ai.onnx"
                version = f" opset {self.version}" if domain == "ai.onnx" else ""
                kind = f"{node.op_type} ({domain}{version})"
                missing.setdefault(kind, []).append(node.name or ", ".join(node.output))
            else:
                found[key] = function
        if missing:
            lines = (
                f"{k}: {len(v)}x, {', '.join(map(repr, v[:3]))}{', ...' if len(v) > 3 else ''}"
                for k, v in missing.items()
            )
            raise UnsupportedError("ops that gpucompile does not have:\n  " + "\n  ".join(lines))
        return found

    def _operand(self, name: str, user: str) -> Operand:
        """What a name stands for; initializers are read on first use."""
        if name not in self.env:
            if name not in self.initializers:
                raise ModelError(f"{user}: {name!r} is not defined anywhere")
            data = read_tensor(self.initializers[name], self.folder)
            if isinstance(data, Literal):
                self.env[name] = self.builder.graph.constant(data, name=name)
            else:
                self.builder.names[id(data)] = name
                self.env[name] = data
        return self.env[name]

    def _import(self, node: onnx.NodeProto, function: Function, read: set[str]) -> None:
        where = _where(node)
        inputs = [self._operand(name, where) if name else None for name in node.input]
        try:
            wanted = tuple(name in read for name in node.output)
            call = Call(self.builder, node, self.version, inputs, read_attributes(node), wanted)
            out = function(call)
        except (ModelError, UnsupportedError) as e:
            raise type(e)(f"{where}: {e}") from e
        except TypeInferenceError as e:
            raise ModelError(f"{where}: {e}") from e
        except GpucompileError:
            raise
        except (ValueError, TypeError, IndexError, KeyError, ZeroDivisionError, OverflowError, AttributeError) as e:
            raise ModelError(f"{where}: inputs or attributes do not suit the op ({type(e).__name__}: {e})") from e
        results = out if isinstance(out, tuple) else (out,)
        for name, result in zip(node.output, results, strict=False):
            if not name or result is None:
                continue
            if isinstance(result, Value):
                result.name = result.name or name
            else:
                result = np.asarray(result)
                self.builder.names.setdefault(id(result), name)
            self.env[name] = result


def _opset(model: onnx.ModelProto) -> int:
    """The version of the ONNX opset the model uses."""
    newest = onnx.defs.onnx_opset_version()
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            if not OLDEST_OPSET <= entry.version <= newest:
                raise UnsupportedError(f"ONNX opset {entry.version}; supported are {OLDEST_OPSET} to {newest}")
            return int(entry.version)
    raise UnsupportedError("it imports no ONNX opset, only " + ", ".join(e.domain for e in model.opset_import))


def _where(node: onnx.NodeProto) -> str:
    """How messages call a node."""
    return f"{node.op_type} {node.name or ', '.join(node.output)!r}"
