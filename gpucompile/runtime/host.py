"""Hosts: what runs ONNX models on the CPU. onnxruntime where it is installed, else onnx's own ReferenceEvaluator.

Neither is needed to play a bundle without host parts, so both are imported only when a host model is opened. Outside,
as everywhere in gpucompile, bool is uint8 and a 4-bit integer has a byte of its own.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from gpucompile.errors import FallbackError, UnsupportedError

#: The hosts, best first.
ONNXRUNTIME, REFERENCE = "onnxruntime", "onnx-reference"
HOSTS = (ONNXRUNTIME, REFERENCE)

#: Data types that stand for others outside.
_OUTSIDE = {"bool": np.uint8, "uint4": np.uint8, "int4": np.int8}


class HostModel(Protocol):
    """An ONNX model on a host. `outputs` has name, type such as `tensor(float)`, and shape (None, or a name, for what
    depends on data) of every output where the host knows them."""

    backend: str
    outputs: list[tuple[str, str, list[int | str | None]]]

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Arrays (for sequences: lists of them) by input name -> by output name. Raises FallbackError."""


def open_host(data: bytes, wanted: str = "") -> HostModel:
    """An ONNX model ready to run on the best host that is installed and takes it, or on host `wanted` only.

    Raises UnsupportedError with each host's reason if none does, or if data of the model lie in other files."""
    model = _read(data)
    reasons = []
    for name in [wanted] if wanted else HOSTS:
        try:
            return _OnnxRuntime(model, data) if name == ONNXRUNTIME else _Reference(model)
        except ImportError as e:
            reasons.append(f"{name}: not installed ({e})")
        except Exception as e:  # whatever the host has against the model
            reasons.append(f"{name}: {_line(e)}")
    raise UnsupportedError("; ".join(reasons))


class _OnnxRuntime:
    backend = ONNXRUNTIME

    def __init__(self, model: Any, data: bytes) -> None:
        runtime = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # errors come as exceptions
        self._session = runtime.InferenceSession(
            data,
            options,
            providers=["CPUExecutionProvider"],
            enable_fallback=0,  # which prints and tries again
        )
        for place in (*self._session.get_inputs(), *self._session.get_outputs()):
            if any(kind in place.type for kind in ("bfloat16", "float8", "float4", "int4", "int2", "complex")):
                raise UnsupportedError(f"{place.name!r} is a {place.type}, which its Python interface does not have")
        self._feeds = _feeds_of(model)
        self.outputs = [(o.name, o.type, list(o.shape)) for o in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        names = [name for name, *_ in self.outputs]
        try:
            results = self._session.run(names, self._feeds(inputs))
        except Exception as e:  # onnxruntime has a class of its own for each of its status codes
            raise FallbackError(f"{self.backend}: {_line(e)}") from e
        return {name: _from_host(value) for name, value in zip(names, results, strict=True)}


class _Reference:
    backend = REFERENCE

    def __init__(self, model: Any) -> None:
        self._evaluator = importlib.import_module("onnx.reference").ReferenceEvaluator(model)
        self._feeds = _feeds_of(model)
        self.outputs: list[tuple[str, str, list[int | str | None]]] = []
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        try:
            with self._lock, np.errstate(all="ignore"):
                results = self._evaluator.run(None, self._feeds(inputs))
        except Exception as e:  # whatever one of its ops says
            raise FallbackError(f"{self.backend}: {_line(e)}") from e
        return {name: _from_host(value) for name, value in zip(self._evaluator.output_names, results, strict=True)}


def _read(data: bytes) -> Any:
    """The model, which is not trusted to name files of this machine."""
    try:
        model = importlib.import_module("onnx").load_from_string(data)
    except ImportError as e:
        raise UnsupportedError(f"host parts need onnx, which is not installed ({e})") from e
    except Exception as e:  # the decoder's
        raise UnsupportedError(f"not an ONNX model: {_line(e)}") from e
    messages = [model]
    while messages:
        message = messages.pop()
        if message.DESCRIPTOR.name == "TensorProto" and (message.external_data or message.data_location):
            raise UnsupportedError(f"tensor {message.name!r} lies in another file")
        for field, value in message.ListFields():
            if field.message_type is not None:
                messages.extend([value] if hasattr(value, "ListFields") else value)
    return model


def _feeds_of(model: Any) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """A function that picks a model's inputs and gives them the types that ONNX wants."""
    helper = importlib.import_module("onnx.helper")
    types = {}
    for info in model.graph.input:
        kind = _element(info.type)
        dtype = helper.tensor_dtype_to_np_dtype(kind) if kind else None
        types[info.name] = dtype if dtype is not None and dtype.name in _OUTSIDE else None
    return lambda inputs: {name: _to_host(inputs[name], dtype) for name, dtype in types.items()}


def _element(kind: Any) -> int:
    """The element type of a tensor, or of the tensors in a sequence or an optional."""
    while (what := kind.WhichOneof("value")) in ("sequence_type", "optional_type"):
        kind = getattr(kind, what).elem_type
    return int(kind.tensor_type.elem_type) if what == "tensor_type" else 0


def _to_host(value: Any, dtype: Any) -> Any:
    if dtype is None or value is None:
        return value
    return [_to_host(v, dtype) for v in value] if isinstance(value, list) else np.asarray(value).astype(dtype)


def _from_host(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_from_host(v) for v in value]
    if value is None:
        return None
    array = np.asarray(value)
    outside = _OUTSIDE.get(array.dtype.name)
    return array if outside is None else array.astype(outside)


def _line(e: Exception) -> str:
    """The kind and the first line of an error."""
    text = str(e).strip()
    return f"{type(e).__name__}: {text.splitlines()[0][:300]}" if text else type(e).__name__
