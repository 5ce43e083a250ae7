"""Graph -> openvino.Model, op by op through each class's `openvino` method.

    graph inputs -> Parameters, constants -> Constants, nodes -> what their class says, outputs -> Results

Parameters and Results stand in the order of the graph's inputs and outputs and carry their names, but callers should
go by order: an output that is an input shares its tensor with it. The graph is one that `rules` has nothing against.

For the CPU 64-bit integers are pairs of int32, the last axis of such tensors (`ops/words.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpucompile.backends.openvino.opset import ELEMENTS, Opset
from gpucompile.errors import VerificationError
from gpucompile.ir.graph import Constant, Graph, Node, Value
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.quantize import DequantizeLinear
from gpucompile.ops.words import WIDE
from gpucompile.runtime.openvino import words_of

if TYPE_CHECKING:
    import openvino


def lower(graph: Graph, device: str = "cpu") -> openvino.Model:
    """The model of a graph for cpu, npu. VerificationError where an op's `openvino` gives another type than `infer`."""
    from openvino import Model, PartialShape, Type, op

    ov = Opset()
    words = device == "cpu"
    known: dict[Value, Any] = {}
    parameters, results = [], []
    for v in graph.inputs:
        element, shape = _storage(v.type, words)
        parameter = op.Parameter(getattr(Type, element), PartialShape(list(shape)))
        parameter.set_friendly_name(v.name)
        parameter.output(0).set_names({v.name})
        parameters.append(parameter)
        known[v] = parameter.output(0)
    for node in graph.nodes:
        known.update(zip(node.outputs, _lower_node(ov, node, known, words), strict=True))
    for name, v in zip(graph.output_names, graph.outputs, strict=True):
        result = op.Result(known[v])
        result.set_friendly_name(f"{name}/result")
        known[v].add_names({name})
        results.append(result)
    return Model(results, parameters, graph.name)


def _storage(type: TensorType, words: bool) -> tuple[str, tuple[int, ...]]:
    """OpenVINO's element type and shape of a tensor."""
    if words and type.dtype in WIDE:
        return ELEMENTS[DataType.INT32], (*type.shape, 2)
    return ELEMENTS[type.dtype], type.shape


def _lower_node(ov: Opset, node: Node, known: dict[Value, Any], words: bool) -> tuple[Any, ...]:
    if isinstance(node.op, Constant):
        if words and node.output.type.dtype in WIDE:
            return (ov.constant(words_of(node.op.value.array)),)
        # 4-bit weights stay packed where plugins expect them
        packed = all(isinstance(user.op, DequantizeLinear) for user in node.output.users)
        return (ov.constant(node.op.value.array, node.output.type.dtype if packed else None),)
    out = node.op.openvino(ov, *(None if v is None else known[v] for v in node.inputs))
    results = out if isinstance(out, tuple) else (out,)
    for v, r in zip(node.outputs, results, strict=True):
        if (r.get_element_type().get_type_name(), tuple(r.get_shape())) != _storage(v.type, words):
            raise VerificationError(f"{node.op.name}: OpenVINO infers {ov.type(r)} for {v!r}")
        if v.name and r.get_node().get_type_name() not in ("Constant", "Parameter"):
            r.get_node().set_friendly_name(v.name)
    return results
