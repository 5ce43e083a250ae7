"""gpucompile as a backend of the `onnx` package: `prepare`, `run_model`, `run_node`, `supports_device`.

    rep = gpucompile.onnx_backend.prepare(model)
    (y,) = rep.run([x])

ONNX's own backend tests run on it: `onnx.backend.test.BackendTest(gpucompile.onnx_backend.WebGPUBackend, __name__)`.

A model is compiled for the shapes of the inputs it is run with. Where a shape, an axis or a trip count depends on the
values of an input, it is compiled for these values as well. What was compiled is kept, so that further runs of the same
kind only compute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx.checker
from onnx.backend.base import Backend, BackendRep, namedtupledict

from gpucompile.compiler import compile
from gpucompile.errors import InputError, UnsupportedError
from gpucompile.frontends.onnx.call import DataDependentError
from gpucompile.frontends.onnx.importer import Imported, InputSpec, Result, import_parts
from gpucompile.frontends.onnx.tensors import DATA_TYPES
from gpucompile.ir.graph import Graph
from gpucompile.ir.types import TensorType
from gpucompile.runtime.device import Device, default_device
from gpucompile.runtime.executable import load

#: numpy's types for what tensors may be.
_DTYPES = {t.numpy for t in DATA_TYPES.values()}

#: A tensor, a sequence of them, or an optional without an element.
Data: TypeAlias = np.ndarray | list["Data"] | None


class GraphRunner:
    """A graph on the device: arrays by name -> arrays by name. The programs of a `PreparedModel` are these."""

    def __init__(self, graph: Graph, device: Device | None) -> None:
        self.executable = load(compile(graph), device)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        return self.executable.run(inputs)


class PreparedModel(BackendRep):
    """A model ready to run; see `prepare`."""

    runner: type[Any] = GraphRunner

    def __init__(self, model: onnx.ModelProto, device: Device | None = None) -> None:
        self.model = model
        self.device = device
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
        tensors = {path: t for name, v in data.items() if name not in self._constant for path, t in _flat(v, name)}
        graph_inputs = {v.name: tensors[v.name] for v in imported.graph.inputs}
        computed = program(graph_inputs) if program else {}
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
        return {name: _normal(name, value) for name, value in inputs.items()}

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
            try:
                imported = import_parts(self.model, {n: self._spec(n, v, n in self._constant) for n, v in data.items()})
            except DataDependentError as e:
                new = {name.split("[")[0] if name not in data else name for name in e.inputs} - self._constant
                if not new:
                    raise
                self._constant |= new
                continue
            program = self.runner(imported.graph, self.device) if imported.graph.outputs else None
            self._programs[key] = imported, program
            return imported, program


class WebGPUBackend(Backend):
    """ONNX's backend interface on the default WebGPU device."""

    prepared: type[PreparedModel] = PreparedModel

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> PreparedModel:
        """Check a model and return it ready to `run`. It is compiled when first run, for the inputs' shapes.

        `device` is one of ONNX's device names, see `supports_device`; the keyword `gpu` chooses a `gpucompile.Device`.
        Raises onnx.checker.ValidationError for invalid models, InputError for devices it does not have."""
        if not cls.supports_device(device):
            raise InputError(f"there is no device {device!r}")
        super().prepare(model, device)
        return cls.prepared(model, kwargs.get("gpu") or default_device())

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
        return cls.prepared(model, kwargs.get("gpu") or default_device()).run(arrays)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """CPU, ONNX's name for "whatever is there", stands for the default WebGPU device."""
        return device.split(":")[0] == "CPU"


prepare = WebGPUBackend.prepare
run_model = WebGPUBackend.run_model
run_node = WebGPUBackend.run_node
supports_device = WebGPUBackend.supports_device


# Data ----------------------------------------------------------------------------------------------------------------


def _normal(name: str, value: Any) -> Data:
    """An input with arrays that gpucompile takes: bool as uint8."""
    if value is None or isinstance(value, list):
        return None if value is None else [_normal(name, v) for v in value]
    array = np.asarray(value)
    array = array.view(np.uint8) if array.dtype == np.bool_ else array
    if array.dtype.name in ("int4", "uint4"):
        return array.astype(array.dtype.name.replace("4", "8"))
    if array.dtype not in _DTYPES:
        raise UnsupportedError(f"input {name!r} has the data type {array.dtype}, which is not supported")
    return array


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


def _finish(result: Result, computed: Mapping[str, np.ndarray], kind: onnx.TypeProto) -> Any:
    """An output as ONNX wants it: bytes that stand for bool or 4-bit integers become these."""
    if isinstance(result, list):
        return [_finish(r, computed, kind.sequence_type.elem_type) for r in result]
    if kind.HasField("optional_type"):
        kind = kind.optional_type.elem_type
    array = computed[result] if isinstance(result, str) else result
    element = kind.tensor_type.elem_type
    if array is not None and element in (onnx.TensorProto.BOOL, onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
        array = array.astype(onnx.helper.tensor_dtype_to_np_dtype(element))
    return array


__all__ = ["PreparedModel", "WebGPUBackend", "prepare", "run_model", "run_node", "supports_device"]
