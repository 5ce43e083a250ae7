"""What ONNX says of a model besides its graph: names and types of inputs and outputs, free dimensions, metadata."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpucompile.errors import ModelError
from gpucompile.runtime.format import Port

if TYPE_CHECKING:
    import onnx

#: ONNX Runtime's names of data types.
TYPE_NAMES = {
    "float32": "float", "float64": "double", "float16": "float16", "bfloat16": "bfloat16", "bool": "bool",
    "int8": "int8", "uint8": "uint8", "int16": "int16", "uint16": "uint16", "int32": "int32", "uint32": "uint32",
    "int64": "int64", "uint64": "uint64", "int4": "int4", "uint4": "uint4",
}  # fmt: skip


@dataclass(frozen=True)
class NodeArg:
    """An input or output: its name, its shape (None or a name where a dimension is free), ONNX Runtime's type text."""

    name: str
    shape: tuple[int | str | None, ...] | list[int | str | None]
    type: str


@dataclass(frozen=True)
class ModelMetadata:
    """What the model file says of itself."""

    producer_name: str = ""
    graph_name: str = ""
    domain: str = ""
    description: str = ""
    graph_description: str = ""
    version: int = 0
    custom_metadata_map: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Header:
    """The inputs (those without an initializer) and outputs of a model, which of them are bool, and its metadata."""

    inputs: tuple[NodeArg, ...]
    outputs: tuple[NodeArg, ...]
    booleans: frozenset[str]
    metadata: ModelMetadata

    def without(self, constants: Collection[str]) -> Header:
        """The header without inputs that have a value."""
        return replace(self, inputs=tuple(a for a in self.inputs if a.name not in constants))

    def free_dimensions(self, given: Mapping[str, int]) -> dict[str, tuple[str, int]]:
        """Free dimensions that `given` does not bind -> an input and axis that have it."""
        out: dict[str, tuple[str, int]] = {}
        for arg in self.inputs:
            for axis, d in enumerate(arg.shape):
                if not isinstance(d, int):
                    name = d or f"{arg.name}[{axis}]"
                    if name not in given:
                        out.setdefault(name, (arg.name, axis))
        return out


def read_header(source: str | Path | bytes | onnx.ModelProto) -> Header:
    """The header of an ONNX model. Raises ModelError if it cannot be read."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        if isinstance(source, bytes):
            model = onnx.load_model_from_string(source)
        elif isinstance(source, onnx.ModelProto):
            model = source
        else:
            model = onnx.load(str(source), load_external_data=False)
    except (OSError, DecodeError) as e:
        raise ModelError(f"{'the model' if isinstance(source, bytes) else source}: cannot be read: {e}") from e
    graph, stored = model.graph, {t.name for t in model.graph.initializer}
    inputs = tuple(_arg(v) for v in graph.input if v.name not in stored)
    outputs = tuple(_arg(v) for v in graph.output)
    metadata = ModelMetadata(
        model.producer_name, graph.name, model.domain, model.doc_string, graph.doc_string, model.model_version,
        {p.key: p.value for p in model.metadata_props},
    )  # fmt: skip
    return Header(inputs, outputs, frozenset(a.name for a in (*inputs, *outputs) if a.type == "tensor(bool)"), metadata)


def header_of_ports(inputs: tuple[Port, ...], outputs: tuple[Port, ...]) -> Header:
    """The header of a bundle, which knows no booleans and no metadata."""

    def arg(port: Port) -> NodeArg:
        return NodeArg(port.name, list(port.shape), f"tensor({TYPE_NAMES.get(port.dtype, port.dtype)})")

    return Header(tuple(map(arg, inputs)), tuple(map(arg, outputs)), frozenset(), ModelMetadata())


def _arg(value: Any) -> NodeArg:
    import onnx

    tensor = value.type.tensor_type
    name = onnx.TensorProto.DataType.Name(tensor.elem_type).lower() if tensor.elem_type else "undefined"
    dims: list[int | str | None] = [
        d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else (d.dim_param.strip("?") or None)
        for d in tensor.shape.dim
    ]
    return NodeArg(value.name, dims, f"tensor({name})")
