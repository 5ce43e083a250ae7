"""Constants of data types that graphs lack: double and 16-bit integers, as exporters use them on the way to a shape or
a factor. Nodes that have all their inputs are computed with onnx's reference implementation; what is left of such types
where a node runs on the device is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from gpucompile.errors import ModelError
from gpucompile.ir.graph import Value

#: Element types that an array has at import only.
FOREIGN: dict[int, np.dtype[np.generic]] = {
    TensorProto.DOUBLE: np.dtype(np.float64),
    TensorProto.INT16: np.dtype(np.int16),
    TensorProto.UINT16: np.dtype(np.uint16),
}


def is_foreign(thing: object) -> bool:
    """Whether this is an array of such a type."""
    return isinstance(thing, np.ndarray) and thing.dtype in FOREIGN.values()


def concerns(node: onnx.NodeProto, inputs: Sequence[object], attributes: Mapping[str, Any]) -> bool:
    """Whether a node takes or makes such a type."""
    makes = node.op_type == "Cast" and attributes.get("to") in FOREIGN
    return makes or any(map(is_foreign, (*inputs, *attributes.values())))


def known(inputs: Sequence[object]) -> list[np.ndarray | None] | None:
    """The inputs of a node as arrays, or None where one is known only when the model runs."""
    out: list[np.ndarray | None] = []
    for thing in inputs:
        array = thing.constant if isinstance(thing, Value) else thing
        if isinstance(array, np.ndarray):
            out.append(array)
        elif thing is None:
            out.append(None)
        else:
            return None
    return out


def evaluate(node: onnx.NodeProto, arrays: Sequence[np.ndarray | None], versions: Mapping[str, int]) -> list[Any]:
    """The results of a node of ONNX's own domain by `onnx.reference`. Raises ModelError where it cannot."""
    from onnx.reference import ReferenceEvaluator  # takes long to import, and is seldom needed

    feeds = {name: array for name, array in zip(node.input, arrays, strict=True) if name and array is not None}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "node", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", versions.get("", 1))])
    try:
        with np.errstate(all="ignore"):
            found = dict(zip((o.name for o in outputs), ReferenceEvaluator(model).run(None, feeds), strict=True))
    except Exception as e:  # whatever the implementation of the op says
        raise ModelError(f"onnx's reference implementation fails: {e}") from e
    return [found.get(name) for name in node.output]
