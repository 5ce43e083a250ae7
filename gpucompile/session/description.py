"""What a session says of itself, by ONNX Runtime's methods."""

from __future__ import annotations

from typing import Any

from gpucompile.errors import UnsupportedError
from gpucompile.runtime.device import Device
from gpucompile.session.model import Header, ModelMetadata, NodeArg, infer_outputs
from gpucompile.session.options import SessionOptions
from gpucompile.session.providers import Provider
from gpucompile.webnn.context import MLContext

#: Methods of ONNX Runtime's InferenceSession without a meaning here -> why.
_REFUSED = {
    "run_with_ortvaluevector": "OrtValueVector is ONNX Runtime's own; use run_with_ort_values",
    "get_input_memory_infos": "OrtMemoryInfo is ONNX Runtime's own; memory() has the bytes",
    "get_output_memory_infos": "OrtMemoryInfo is ONNX Runtime's own; memory() has the bytes",
    "get_input_epdevices": "OrtEpDevice is ONNX Runtime's own; device is the session's",
    "get_provider_graph_assignment_info": "OrtEpAssignedSubgraph is ONNX Runtime's own; what cpu takes is warned of",
    "get_tuning_results": "kernels are not tuned at run time",
    "set_tuning_results": "kernels are not tuned at run time",
    "set_ep_dynamic_options": "options are fixed when the session is opened",
    "release_captured_graph": "nothing is captured, a run replays what was recorded",
}


class Description:
    """The part of `InferenceSession` that only tells."""

    _header: Header
    _options: SessionOptions
    _providers: list[Provider]
    _context: MLContext
    _programs: Any  # compiled programs with the ports of their inputs and outputs
    _free: dict[str, tuple[str, int]]
    _source: Any

    def get_inputs(self) -> list[NodeArg]:
        """Name, shape and type of every input."""
        return [self._bound(arg) for arg in self._header.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """Name, shape and type of every output."""
        if self._free and self._header.unshaped:
            self._header = infer_outputs(self._header, self._source)
        return [self._bound(arg) for arg in self._header.outputs]

    def get_modelmeta(self) -> ModelMetadata:
        """What the model file says of itself (nothing for a bundle)."""
        return self._header.metadata

    def get_overridable_initializers(self) -> list[NodeArg]:
        """The inputs that have an initializer. Its value is compiled in: a run does not take another."""
        return list(self._header.overridable)

    def get_providers(self) -> list[str]:
        """The providers, spelled as they were asked for."""
        return [p.given for p in self._providers]

    def get_provider_options(self) -> dict[str, dict[str, Any]]:
        """Their options, in snake_case."""
        return {p.given: dict(p.options) for p in self._providers}

    def disable_fallback(self) -> None:
        """Nothing to do: a run that fails raises, and is never repeated elsewhere."""

    def enable_fallback(self) -> None:
        """Refused with UnsupportedError. What may run on the CPU is decided when the session is opened."""
        raise UnsupportedError(
            "enable_fallback: a failed run raises; list cpu after the provider to have it take nodes"
        )

    def get_session_options(self) -> SessionOptions:
        """The options it was made with."""
        return self._options

    @property
    def context(self) -> MLContext:
        """The WebNN context it runs in: pass it to other sessions, create MLTensors in it."""
        return self._context

    @property
    def device(self) -> Device:
        return self._context.device

    def __repr__(self) -> str:
        return f"<InferenceSession {self._header.metadata.graph_name!r} on {self.device.name!r}>"

    def _bound(self, arg: NodeArg) -> NodeArg:
        sizes = self._options.free_dimension_overrides
        shape = [sizes.get(d or "", d) if not isinstance(d, int) else d for d in arg.shape]
        program = None if self._free else next(iter(self._programs.values()), None)
        if program is not None:
            port = program.inputs.get(arg.name) or program.outputs.get(arg.name)
            shape = [None if d == -1 else d for d in port.shape] if port is not None else shape
        return NodeArg(arg.name, shape, arg.type)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"InferenceSession has no {name!r}" + (f": {_REFUSED[name]}" if name in _REFUSED else ""))
