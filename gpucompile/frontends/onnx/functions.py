"""Functions of a model (not of ONNX): calls of them become their nodes, by the onnx package's inliner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx
import onnx.inliner

from gpucompile.errors import ModelError

_Id = tuple[str, str, str]


def inline_functions(model: onnx.ModelProto, label: str) -> onnx.ModelProto:
    """The model without functions. Those of another opset than the model's are converted to that.

    Raises ModelError where the inliner does: for functions that call themselves, or cannot be converted."""
    defaults = {(f.domain, f.name, f.overload): f.attribute_proto for f in model.functions}
    if any(defaults.values()):
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        model = copied
        for nodes in (model.graph.node, *(f.node for f in model.functions)):
            _spell_out(nodes, defaults)
    versions = _versions(model.opset_import)
    convert = any(versions.get(d, v) != v for f in model.functions for d, v in _versions(f.opset_import).items())
    try:
        return onnx.inliner.inline_local_functions(model, convert)
    except Exception as e:  # whatever it says
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise ModelError(f"{label}: the model's functions cannot be inlined: {reason}") from e


def _spell_out(nodes: Iterable[onnx.NodeProto], defaults: Mapping[_Id, Iterable[onnx.AttributeProto]]) -> None:
    """Gives calls the attributes that they leave to the function, whose defaults the inliner does not know."""
    for node in nodes:
        given = {a.name for a in node.attribute}
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                _spell_out(graph.node, defaults)
        left = defaults.get((node.domain, node.op_type, node.overload), ())
        node.attribute.extend(a for a in left if a.name not in given)


def _versions(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    return {"" if e.domain == "ai.onnx" else e.domain: e.version for e in imports}
