"""gpucompile as a backend of the `onnx` package: `prepare`, `run_model`, `run_node`, `supports_device`.

    rep = gpucompile.onnx_backend.prepare(model)
    (y,) = rep.run([x])

ONNX's own backend tests run on it: `onnx.backend.test.BackendTest(gpucompile.onnx_backend.WebGPUBackend, __name__)`.

With `prepare(model, fallback="allow")` nodes that the device does not take run on the CPU; `rep.fallback` lists them.

A model is compiled for the shapes of the inputs it is run with. Where a shape, an axis or a trip count depends on the
values of an input, it is compiled for these values as well. What was compiled is kept, so that further runs of the same
kind only compute.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx.checker
from onnx.backend.base import Backend, BackendRep, namedtupledict

from gpucompile.compiler import FALLBACKS, Options, compile
from gpucompile.errors import GpucompileWarning, InputError, UnsupportedError
from gpucompile.fallback import compile_partition
from gpucompile.frontends.onnx.call import DataDependentError
from gpucompile.frontends.onnx.importer import Imported, InputSpec, import_parts
from gpucompile.frontends.onnx.partition import HostPart, Partition
from gpucompile.frontends.onnx.tensors import DATA_TYPES
from gpucompile.ir.graph import Graph
from gpucompile.ir.types import TensorType
from gpucompile.plan.backends import DeviceAndHosts
from gpucompile.runtime.device import Device, default_device
from gpucompile.runtime.format import HostNode
from gpucompile.runtime.loading import load
from gpucompile.runtime.parts import on_the_cpu
from gpucompile.target import Target

#: numpy's types for what tensors may be.
_DTYPES = {t.numpy for t in DATA_TYPES.values()}

#: A tensor, a sequence of them, or an optional without an element.
Data: TypeAlias = np.ndarray | list["Data"] | None


class GraphRunner:
    """A graph on the device, or a partition: arrays by name -> arrays by name. The programs of a `PreparedModel` are
    these."""

    def __init__(self, graph: Graph | Partition, device: Device | None) -> None:
        options = Options(Target.portable())
        bundle = compile(graph, options.target) if isinstance(graph, Graph) else compile_partition(graph, options)
        self.executable = load(bundle, device)

    def __call__(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return self.executable.run(inputs)


class PreparedModel(BackendRep):
    """A model ready to run; see `prepare`."""

    runner: type[Any] = GraphRunner

    @property
    def compiled_in(self) -> frozenset[str]:
        """The inputs whose values decide what is compiled, as far as runs have shown; others compile again."""
        return frozenset(self._constant)

    def __init__(self, model: onnx.ModelProto, device: Device | None = None, fallback: str = "error") -> None:
        if fallback not in FALLBACKS:
            raise InputError(f"fallback is {fallback!r}, it must be one of {', '.join(FALLBACKS)}")
        self.model = model
        self.device = device
        self.fallback: list[HostNode] = []  # the nodes that the program compiled last leaves to the CPU
        self._fallback = fallback
        initialized = {t.name for t in model.graph.initializer}
        self.inputs = [i for i in model.graph.input if i.name not in initialized]
        self.outputs = list(model.graph.output)
        self._constant: set[str] = set()  # inputs whose values decide what is compiled
        self._programs: dict[Any, tuple[Imported, Any]] = {}

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The model's outputs, in order, as a tuple whose elements also have their names.

        `inputs` is a list of arrays in the model's order, one array, or a dict by name. A sequence is a list of arrays,
        an optional without an element is None. Raises UnsupportedError for models that gpucompile does not compile,
        InputError for inputs that do not fit."""
        data = self._by_name(inputs)
        imported, program = self._program(data)
        tensors: dict[str, Data] = dict(data)
        tensors.update(pair for name, v in data.items() if name not in self._constant for pair in _flat(v, name))
        names = imported.partition.inputs if imported.partition else [v.name for v in imported.graph.inputs]
        computed = program({name: tensors[name] for name in names}) if program else {}
        results = []
        for output in self.outputs:
            results.append(_finish(imported.results[output.name], computed, output.type))
        named: tuple[Any, ...] = namedtupledict("Outputs", [o.name for o in self.outputs])(*results)
        return named

    def _by_name(self, inputs: Any) -> dict[str, Data]:
        if not isinstance(inputs, Mapping):
            given = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
            if len(given) > len(self.inputs):
                raise InputError(f"{len(given)} inputs given, the model takes {len(self.inputs)}")
            inputs = dict(zip((i.name for i in self.inputs), given, strict=False))
        return {name: _normal(name, value, self._fallback != "error") for name, value in inputs.items()}

    def _spec(self, name: str, value: Data, constant: bool) -> InputSpec:
        """What an input is to the importer; tensors without elements are always known."""
        if isinstance(value, list):
            return [self._spec(name, v, constant) for v in value]
        if value is None or constant or not value.size:
            return value
        t = TensorType.of(value)
        kind = next((DATA_TYPES.get(i.type.tensor_type.elem_type) for i in self.inputs if i.name == name), None)
        return t if kind is None else t.with_dtype(kind)

    def _program(self, data: dict[str, Data]) -> tuple[Imported, Any]:
        """The program for inputs like these, compiled if there is none yet."""
        while True:
            key = tuple((name, _key(v, name in self._constant)) for name, v in sorted(data.items()))
            if key in self._programs:
                return self._programs[key]
            known = {n: self._spec(n, v, n in self._constant) for n, v in data.items() if _is_known(v)}
            try:
                imported = import_parts(self.model, known)
            except DataDependentError as e:
                new = {name.split("[")[0] if name not in data else name for name in e.inputs} - self._constant
                if not new:
                    raise
                self._constant |= new
                continue
            except UnsupportedError:
                if self._fallback == "error":
                    raise
                imported = self._with_hosts(known)
            whole = imported.partition or imported.graph
            program = self.runner(whole, self.device) if whole.outputs else None
            self._programs[key] = imported, program
            return imported, program

    def _with_hosts(self, known: dict[str, InputSpec]) -> Imported:
        imported = import_parts(self.model, known, DeviceAndHosts(Target.portable()))
        parts = imported.partition.parts if imported.partition else ()
        self.fallback = [
            HostNode(n.title, n.kind, n.reason) for part in parts if isinstance(part, HostPart) for n in part.nodes
        ]
        if self._fallback == "warn" and self.fallback:
            warnings.warn(on_the_cpu(self.fallback), GpucompileWarning, stacklevel=4)
        return imported


class WebGPUBackend(Backend):
    """ONNX's backend interface on the default WebGPU device."""

    prepared: type[PreparedModel] = PreparedModel

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> PreparedModel:
        """Check a model and return it ready to `run`. It is compiled when first run, for the inputs' shapes.

        `device` is one of ONNX's device names, see `supports_device`; the keyword `gpu` chooses a `gpucompile.Device`,
        `fallback` (`error`, `warn` or `allow`) whether nodes may run on the CPU.
        Raises onnx.checker.ValidationError for invalid models, InputError for devices it does not have."""
        if not cls.supports_device(device):
            raise InputError(f"there is no device {device!r}")
        super().prepare(model, device)
        return cls.prepared(model, kwargs.get("gpu") or default_device(), kwargs.get("fallback", "error"))

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """`prepare` and `run`."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[Any, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Run one node on arrays. `outputs_info` may give the outputs' data types and shapes; the keyword
        `opset_version` chooses the opset (default: the newest)."""
        version = kwargs.pop("opset_version", onnx.defs.onnx_opset_version())
        names = [name for name in node.input if name]
        arrays = [np.asarray(a) for a in ([inputs] if isinstance(inputs, np.ndarray) else inputs)]
        element = onnx.helper.np_dtype_to_tensor_dtype
        types = [onnx.helper.make_tensor_value_info(n, element(a.dtype), a.shape) for n, a in zip(names, arrays)]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        for info, known in zip(outputs, outputs_info or ()):
            info.CopyFrom(onnx.helper.make_tensor_value_info(info.name, element(np.dtype(known[0])), known[1]))
        graph = onnx.helper.make_graph([node], "node", types, outputs)
        opsets = [onnx.helper.make_opsetid(node.domain if node.domain != "ai.onnx" else "", version)]
        opsets += [] if opsets[0].domain == "" else [onnx.helper.make_opsetid("", onnx.defs.onnx_opset_version())]
        model = onnx.helper.make_model(graph, opset_imports=opsets)
        if not outputs_info:
            inferred = {o.name: o for o in onnx.shape_inference.infer_shapes(model).graph.output}
            for info in model.graph.output:
                info.CopyFrom(inferred[info.name])
        fallback = kwargs.get("fallback", "error")
        return cls.prepared(model, kwargs.get("gpu") or default_device(), fallback).run(arrays)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """CPU, ONNX's name for "whatever is there", stands for the default WebGPU device."""
        return device.split(":")[0] == "CPU"


prepare = WebGPUBackend.prepare
run_model = WebGPUBackend.run_model
run_node = WebGPUBackend.run_node
supports_device = WebGPUBackend.supports_device


# Data ----------------------------------------------------------------------------------------------------------------


def _normal(name: str, value: Any, any_type: bool) -> Data:
    """An input with arrays that gpucompile takes, bool as uint8; or of any type."""
    if value is None or isinstance(value, list):
        return None if value is None else [_normal(name, v, any_type) for v in value]
    array = np.asarray(value)
    array = array.view(np.uint8) if array.dtype == np.bool_ else array
    if array.dtype.name in ("int4", "uint4"):
        return array.astype(array.dtype.name.replace("4", "8"))
    if array.dtype not in _DTYPES and not any_type:
        raise UnsupportedError(f"input {name!r} has the data type {array.dtype}, which is not supported")
    return array


def _is_known(value: Data) -> bool:
    """Whether the importer takes an input like this one; others are the host's."""
    if isinstance(value, list):
        return all(_is_known(v) for v in value)
    return value is None or value.dtype in _DTYPES


def _key(value: Data, constant: bool) -> Any:
    """What compiled code depends on."""
    if isinstance(value, list):
        return tuple(_key(v, constant) for v in value)
    return value if value is None else (value.dtype, value.shape, value.tobytes() if constant else None)


def _flat(value: Data, name: str) -> list[tuple[str, np.ndarray]]:
    """The tensors of an input, called as the importer calls them."""
    if isinstance(value, list):
        return [pair for i, v in enumerate(value) for pair in _flat(v, f"{name}[{i}]")]
    return [] if value is None else [(name, value)]


def _finish(result: Any, computed: Mapping[str, Any], kind: onnx.TypeProto) -> Any:
    """An output as ONNX wants it: bytes that stand for bool or 4-bit integers become these."""
    if isinstance(result, str):
        result = computed[result]
    if kind.HasField("optional_type"):
        kind = kind.optional_type.elem_type
    if isinstance(result, list):
        return [_finish(r, computed, kind.sequence_type.elem_type) for r in result]
    element = kind.tensor_type.elem_type
    if result is not None and element in (onnx.TensorProto.BOOL, onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        result = result.astype(onnx.helper.tensor_dtype_to_np_dtype(element))
    return result


__all__ = ["PreparedModel", "WebGPUBackend", "prepare", "run_model", "run_node", "supports_device"]
