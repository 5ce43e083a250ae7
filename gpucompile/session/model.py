"""What ONNX says of a model besides its graph: names and types of inputs and outputs, free dimensions, metadata."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpucompile.errors import InputError, ModelError
from gpucompile.runtime.format import Port

if TYPE_CHECKING:
    import onnx

#: ONNX Runtime's names of data types.
TYPE_NAMES = {
    "float32": "float", "float64": "double", "float16": "float16", "bfloat16": "bfloat16", "bool": "bool",
    "int8": "int8", "uint8": "uint8", "int16": "int16", "uint16": "uint16", "int32": "int32", "uint32": "uint32",
    "int64": "int64", "uint64": "uint64", "int4": "int4", "uint4": "uint4",
}  # fmt: skip


NO_VERSION = 2**63 - 1


@dataclass(frozen=True)
class NodeArg:
    """An input or output: its name, its shape (None or a name where a dimension is free), ONNX Runtime's type text."""

    name: str
    shape: tuple[int | str | None, ...] | list[int | str | None]
    type: str

    def __str__(self) -> str:
        return f"NodeArg(name={self.name!r}, type={self.type!r}, shape={list(self.shape)!r})"


@dataclass(frozen=True)
class ModelMetadata:
    """What the model file says of itself. A `version` that it lacks is 2**63 - 1, as in ONNX Runtime."""

    producer_name: str = ""
    graph_name: str = ""
    domain: str = ""
    description: str = ""
    graph_description: str = ""
    version: int = NO_VERSION
    custom_metadata_map: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Header:
    """The inputs (those without an initializer) and outputs of a model, which of them are bool, and its metadata.

    overridable  the inputs that have an initializer
    denotations  denotation, input and axis of the dimensions whose purpose the model names
    unshaped     the outputs whose shape the model does not say; see `infer_outputs`"""

    inputs: tuple[NodeArg, ...]
    outputs: tuple[NodeArg, ...]
    booleans: frozenset[str]
    metadata: ModelMetadata
    overridable: tuple[NodeArg, ...] = ()
    denotations: tuple[tuple[str, NodeArg, int], ...] = ()
    unshaped: frozenset[str] = frozenset()

    @functools.cached_property
    def input_names(self) -> frozenset[str]:
        return frozenset(a.name for a in self.inputs)

    @functools.cached_property
    def output_names(self) -> tuple[str, ...]:
        return tuple(a.name for a in self.outputs)

    def without(self, constants: Collection[str]) -> Header:
        """The header without inputs that have a value."""
        return replace(self, inputs=tuple(a for a in self.inputs if a.name not in constants))

    def denoted(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Sizes by denotation -> by name of the dimension. InputError for a denotation that no dimension has, and for a
        dimension of another size."""
        out: dict[str, int] = {}
        for denotation, size in sizes.items():
            places = [(arg, axis) for d, arg, axis in self.denotations if d == denotation]
            if not places:
                known = ", ".join(dict.fromkeys(d for d, _, _ in self.denotations)) or "no denotations"
                raise InputError(f"free_dimension_overrides_by_denotation: no {denotation!r}; the model has {known}")
            for arg, axis in places:
                extent = arg.shape[axis]
                if isinstance(extent, int) and extent != size:
                    raise InputError(
                        f"free_dimension_overrides_by_denotation: {denotation!r} is to be {size}, axis {axis} of input "
                        f"{arg.name!r} is {extent}"
                    )
                if not isinstance(extent, int):
                    out[extent or f"{arg.name}[{axis}]"] = size
        return out

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
    model = _load(source)
    graph, stored = model.graph, {t.name for t in model.graph.initializer}
    stored |= {t.values.name for t in model.graph.sparse_initializer}
    inputs = tuple(_arg(v) for v in graph.input if v.name not in stored)
    overridable = tuple(_arg(v) for v in graph.input if v.name in stored) if model.ir_version >= 4 else ()
    outputs = tuple(_arg(v) for v in graph.output)
    args = {a.name: a for a in inputs}
    denotations = tuple(
        (d.denotation, args[v.name], axis)
        for v in graph.input
        if v.name in args
        for axis, d in enumerate(v.type.tensor_type.shape.dim)
        if d.denotation
    )
    metadata = ModelMetadata(
        model.producer_name, graph.name, model.domain, model.doc_string, graph.doc_string,
        model.model_version if model.HasField("model_version") else NO_VERSION,
        {p.key: p.value for p in model.metadata_props},
    )  # fmt: skip
    unshaped = frozenset(v.name for v in graph.output if not v.type.tensor_type.HasField("shape"))
    booleans = frozenset(a.name for a in (*inputs, *outputs) if a.type == "tensor(bool)")
    return Header(inputs, outputs, booleans, metadata, overridable, denotations, unshaped)


def infer_outputs(header: Header, source: str | Path | bytes | onnx.ModelProto) -> Header:
    """The header with the shapes that ONNX infers for outputs without one; what it cannot tell stays None or empty."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(_load(source))
    for dim in (d for v in inferred.graph.output for d in v.type.tensor_type.shape.dim):
        if dim.dim_param.startswith("unk__"):  # how the inference calls what has no name
            dim.ClearField("dim_param")
    found = {v.name: _arg(v) for v in inferred.graph.output}
    outputs = tuple(found[a.name] if a.name in header.unshaped else a for a in header.outputs)
    return replace(header, outputs=outputs, unshaped=frozenset())


def _load(source: str | Path | bytes | onnx.ModelProto) -> onnx.ModelProto:
    """The model without weights in other files."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        if isinstance(source, bytes):
            return onnx.load_model_from_string(source)
        if isinstance(source, onnx.ModelProto):
            return source
        return onnx.load(str(source), load_external_data=False)
    except (OSError, DecodeError) as e:
        raise ModelError(f"{'the model' if isinstance(source, bytes) else source}: cannot be read: {e}") from e


def header_of_ports(inputs: tuple[Port, ...], outputs: tuple[Port, ...]) -> Header:
    """The header of a bundle, which knows no booleans and no metadata."""

    def arg(port: Port) -> NodeArg:
        return NodeArg(port.name, list(port.shape), f"tensor({TYPE_NAMES[port.dtype]})")

    return Header(tuple(map(arg, inputs)), tuple(map(arg, outputs)), frozenset(), ModelMetadata())


def _arg(value: Any) -> NodeArg:
    dims: list[int | str | None] = [
        d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in value.type.tensor_type.shape.dim
    ]
    return NodeArg(value.name, dims, _type_text(value.type))


def _type_text(type: Any) -> str:
    """ONNX Runtime's text of a type, such as `seq(tensor(float))`."""
    import onnx

    kind = type.WhichOneof("value")
    if kind == "sequence_type":
        return f"seq({_type_text(type.sequence_type.elem_type)})"
    if kind == "optional_type":
        return f"optional({_type_text(type.optional_type.elem_type)})"
    if kind == "map_type":
        key = onnx.TensorProto.DataType.Name(type.map_type.key_type).lower()
        return f"map({key},{_type_text(type.map_type.value_type)})"
    sparse = kind == "sparse_tensor_type"
    element = (type.sparse_tensor_type if sparse else type.tensor_type).elem_type
    name = onnx.TensorProto.DataType.Name(element).lower() if element else "undefined"
    return f"{'sparse_tensor' if sparse else 'tensor'}({name})"
