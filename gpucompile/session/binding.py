"""IO binding as in ONNX Runtime's Python API: inputs and outputs bound once, run often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpucompile.errors import InputError
from gpucompile.session.tensor import CPU, GPU_BUFFER, LOCATION_ALIASES, ML_TENSOR, Tensor

if TYPE_CHECKING:
    from gpucompile.session.session import InferenceSession

#: Device names that ONNX Runtime's programs pass -> locations.
_DEVICES = {"cpu": CPU, "gpu": GPU_BUFFER, "webgpu": GPU_BUFFER, "webnn": ML_TENSOR, "gpu-buffer": GPU_BUFFER}
_DEVICES |= {"ml-tensor": ML_TENSOR, **LOCATION_ALIASES}


class IOBinding:
    """What `InferenceSession.run_with_iobinding` runs on. Outputs that stay on the GPU are made at the first run and
    used again by the next ones, until another is bound."""

    def __init__(self, session: InferenceSession) -> None:
        self._session = session
        self._inputs: dict[str, Any] = {}
        self._outputs: dict[str, str | Tensor | np.ndarray] = {}
        self._results: dict[str, Any] = {}

    def bind_cpu_input(self, name: str, array: Any) -> None:
        """An array that is uploaded at every run."""
        self._inputs[self._known(name, "input")] = array

    def bind_input(
        self,
        name: str,
        device_type: Any = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Any = None,
        buffer_ptr: Any = None,
    ) -> None:
        """A Tensor, or a GPU buffer (`buffer_ptr`) with data type and shape."""
        self._known(name, "input")
        if isinstance(device_type, (Tensor, np.ndarray)):
            self._inputs[name] = device_type
        elif hasattr(buffer_ptr, "usage"):
            self._inputs[name] = Tensor.from_gpu_buffer(buffer_ptr, dtype=element_type, dims=shape)
        elif isinstance(buffer_ptr, np.ndarray):
            self._inputs[name] = buffer_ptr
        else:
            raise InputError(f"bind_input {name!r}: buffer_ptr is a wgpu.GPUBuffer or an array, not {buffer_ptr!r}")

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        """A Tensor (or ONNX Runtime's OrtValue, which is uploaded at every run)."""
        self._inputs[self._known(name, "input")] = value

    def bind_output(
        self,
        name: str,
        device_type: Any = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Any = None,
        buffer_ptr: Any = None,
    ) -> None:
        """Where an output goes: a device ("cpu", "gpu", ...), a Tensor, or a GPU buffer with data type and shape."""
        self._known(name, "output")
        if isinstance(device_type, (Tensor, np.ndarray)):
            self._outputs[name] = device_type
        elif buffer_ptr is not None:
            self._outputs[name] = Tensor.from_gpu_buffer(buffer_ptr, dtype=element_type, dims=shape)
        elif device_type in _DEVICES:
            self._outputs[name] = _DEVICES[device_type]
        else:
            raise InputError(f"bind_output {name!r}: unknown device {device_type!r}; there are {', '.join(_DEVICES)}")

    def bind_ortvalue_output(self, name: str, value: Tensor) -> None:
        """A pre-allocated Tensor."""
        self._outputs[self._known(name, "output")] = value

    def clear_binding_inputs(self) -> None:
        self._inputs.clear()

    def clear_binding_outputs(self) -> None:
        """Unbind the outputs; those that were made for them are disposed."""
        for name, result in self._results.items():
            if isinstance(result, Tensor) and isinstance(self._outputs.get(name), str):
                result.dispose()
        self._outputs.clear()
        self._results.clear()

    def synchronize_inputs(self) -> None:
        """Nothing to do: the queue orders uploads before runs."""

    def synchronize_outputs(self) -> None:
        """Wait until the GPU is done."""
        self._session.device.synchronise()

    def get_outputs(self) -> list[Tensor]:
        """The results of the last run, in the order in which outputs were bound."""
        return [r if isinstance(r, Tensor) else Tensor.from_numpy(r) for r in self._results.values()]

    def copy_outputs_to_cpu(self) -> list[np.ndarray]:
        """The results of the last run as arrays."""
        return [r.numpy() if isinstance(r, Tensor) else r for r in self._results.values()]

    def _run(self) -> None:
        names = list(self._outputs)
        fetches: dict[str, Any] = {}
        for name, where in self._outputs.items():
            if not isinstance(where, str):
                fetches[name] = where
            elif where != CPU:
                held = self._results.get(name)
                fetches[name] = held if isinstance(held, Tensor) else self._make(name, where)
        results = self._session.run(names, self._inputs, fetches=fetches)
        self._results = dict(zip(names, results, strict=True))

    def _make(self, name: str, location: str) -> Tensor:
        session = self._session
        with session._using(session._dims_of(self._inputs)) as program:
            return session._pool.output(program.outputs[name], location)

    def _known(self, name: str, kind: str) -> str:
        header = self._session._header
        names = [a.name for a in (header.inputs if kind == "input" else header.outputs)]
        if name not in names:
            raise InputError(f"there is no {kind} {name!r}; there are {', '.join(names)}")
        return name
