"""Who takes which node, and why not: the device first, then the hosts that run ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]
from onnx import TensorProto

from gpucompile.errors import UnsupportedError
from gpucompile.frontends.onnx.refusal import NOBODY
from gpucompile.ir.graph import Node, Value
from gpucompile.ir.partition import extract
from gpucompile.passes import split_large
from gpucompile.passmanager.base import Context
from gpucompile.passmanager.manager import PassManager
from gpucompile.plan.planner import make_plan
from gpucompile.runtime.host import open_host
from gpucompile.target import Target

#: onnxruntime's names for element types.
_ELEMENTS = {
    "float": TensorProto.FLOAT,
    "double": TensorProto.DOUBLE,
    "string": TensorProto.STRING,
    "bool": TensorProto.BOOL,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    **{f"{u}int{bits}": getattr(TensorProto, f"{u}INT{bits}".upper()) for u in ("", "u") for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True)
class DeviceAndHosts:
    """A WebGPU target, and the hosts that are installed here."""

    target: Target

    def reject(self, node: Node, known: Callable[[Value], bool]) -> str | None:
        """Why the device cannot take a node: a tensor larger than it binds."""
        return split_large.reject(node, self.target, known)

    def host(self, model: onnx.ModelProto) -> tuple[str, Sequence[onnx.TypeProto]]:
        """The first host that takes a model, and the types of the outputs as far as it knows them."""
        host = open_host(serialized(model))
        return host.backend, [_type(kind, shape) for _, kind, shape in host.outputs]


@dataclass(frozen=True)
class EachTried(DeviceAndHosts):
    """The same, with every node compiled by itself to see whether the device takes it: slow, for models of which
    something has no kernel."""

    pipeline: str = "default"

    def reject(self, node: Node, known: Callable[[Value], bool]) -> str | None:
        reason = super().reject(node, known)
        folded = any(known(v) and v.constant is None for v in node.operand_values)
        return reason if reason is not None or folded else self._tried(node)

    def _tried(self, node: Node) -> str | None:
        names: dict[Value, str] = {}
        graph = extract("trial", [node], node.outputs, lambda v: names.setdefault(v, f"v{len(names)}"))
        try:
            PassManager(self.pipeline).run(graph, Context(self.target))
            make_plan(graph, self.target)
        except UnsupportedError as e:
            return str(e).splitlines()[0]
        return None


@dataclass(frozen=True)
class Listed(DeviceAndHosts):
    """Hosts that take whatever the device rejects, to list it."""

    def host(self, model: onnx.ModelProto) -> tuple[str, Sequence[onnx.TypeProto]]:
        """The host that takes a model, nobody where there is none."""
        try:
            return super().host(model)
        except UnsupportedError:
            return NOBODY, ()


@dataclass(frozen=True)
class EachListed(EachTried, Listed):
    """The same, with every node compiled by itself."""


def serialized(model: onnx.ModelProto) -> bytes:
    """A model as an ONNX file. Raises UnsupportedError where its constants do not fit into one."""
    try:
        data: bytes = model.SerializeToString()
        return data
    except (ValueError, EncodeError) as e:
        raise UnsupportedError(f"its constants do not fit into an ONNX file: {e}") from e


def _type(kind: str, shape: list[int | str | None]) -> onnx.TypeProto:
    """`tensor(float)` and a shape as ONNX writes them; nothing for other kinds. onnxruntime gives no axes both for a
    scalar and for an unknown rank: it counts as unknown."""
    element = _ELEMENTS.get(kind.removeprefix("tensor(").removesuffix(")"))
    if element is None or not kind.startswith("tensor("):
        return onnx.TypeProto()
    return onnx.helper.make_tensor_type_proto(element, shape or None)
