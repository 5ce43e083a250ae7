"""Graph -> openvino.Model, op by op through each class's `openvino` method.

    graph inputs -> Parameters, constants -> Constants, nodes -> what their class says, outputs -> Results

Parameters and Results stand in the order of the graph's inputs and outputs and carry their names, but callers should
go by order: an output that is an input shares its tensor with it. The graph is one that `rules` has nothing against.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpucompile.backends.openvino.opset import ELEMENTS, Opset
from gpucompile.errors import VerificationError
from gpucompile.ir.graph import Constant, Graph, Node, Value
from gpucompile.ops.quantize import DequantizeLinear

if TYPE_CHECKING:
    import openvino


def lower(graph: Graph) -> openvino.Model:
    """The model of a graph; VerificationError where an op's `openvino` gives another type than its `infer`."""
    from openvino import Model, PartialShape, Type, op

    ov = Opset()
    known: dict[Value, Any] = {}
    parameters, results = [], []
    for v in graph.inputs:
        parameter = op.Parameter(getattr(Type, ELEMENTS[v.type.dtype]), PartialShape(list(v.type.shape)))
        parameter.set_friendly_name(v.name)
        parameter.output(0).set_names({v.name})
        parameters.append(parameter)
        known[v] = parameter.output(0)
    for node in graph.nodes:
        known.update(zip(node.outputs, _lower_node(ov, node, known), strict=True))
    for name, v in zip(graph.output_names, graph.outputs, strict=True):
        result = op.Result(known[v])
        result.set_friendly_name(f"{name}/result")
        known[v].add_names({name})
        results.append(result)
    return Model(results, parameters, graph.name)


def _lower_node(ov: Opset, node: Node, known: dict[Value, Any]) -> tuple[Any, ...]:
    if isinstance(node.op, Constant):
        # 4-bit weights stay packed where plugins expect them
        packed = all(isinstance(user.op, DequantizeLinear) for user in node.output.users)
        return (ov.constant(node.op.value.array, node.output.type.dtype if packed else None),)
    out = node.op.openvino(ov, *(None if v is None else known[v] for v in node.inputs))
    results = out if isinstance(out, tuple) else (out,)
    for v, r in zip(node.outputs, results, strict=True):
        if r.get_element_type().get_type_name() != ELEMENTS[v.type.dtype] or tuple(r.get_shape()) != v.type.shape:
            raise VerificationError(f"{node.op.name}: OpenVINO infers {ov.type(r)} for {v!r}")
        if v.name and r.get_node().get_type_name() not in ("Constant", "Parameter"):
            r.get_node().set_friendly_name(v.name)
    return results
