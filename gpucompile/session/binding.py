"""IO binding as in ONNX Runtime's Python API: inputs and outputs bound once, run often."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucompile.errors import InputError
from gpucompile.ir.types import DataType
from gpucompile.runtime.format import Port
from gpucompile.session.ortvalue import OrtValue, location_of, numpy_type
from gpucompile.session.run import Run
from gpucompile.session.tensor import CPU, Tensor

if TYPE_CHECKING:
    from gpucompile.session.session import InferenceSession


@dataclass(frozen=True)
class _Place:
    """An output to be made at a location; data type and shape are what the caller expects, if they were given."""

    location: str
    dtype: np.dtype[Any] | None
    dims: tuple[int, ...] | None


class IOBinding:
    """What `InferenceSession.run_with_iobinding` runs on. Outputs that stay on the GPU are made at the first run and
    used again by the next ones, until another is bound, the outputs are cleared, or a free dimension changes: then they
    are disposed."""

    def __init__(self, session: InferenceSession) -> None:
        self._session = session
        self._inputs: dict[str, Any] = {}
        self._outputs: dict[str, _Place | Tensor | np.ndarray] = {}
        self._results: dict[str, Any] = {}
        self._made: dict[str, Tensor] = {}  # those of the results that were made for this binding

    # ------------------------------------------------------------------ inputs

    def bind_cpu_input(self, name: str, arr_on_cpu: Any) -> None:
        """An array that is uploaded at every run, as it is then."""
        self._inputs[self._known(name, "input")] = arr_on_cpu

    def bind_input(
        self,
        name: str,
        device_type: Any = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Any = None,
        buffer_ptr: Any = None,
    ) -> None:
        """A Tensor, array or OrtValue alone; or, with element type and shape, a `wgpu.GPUBuffer`, an array, or the
        address of memory on the CPU as `buffer_ptr`, which the caller keeps alive."""
        self._known(name, "input")
        if isinstance(device_type, (Tensor, np.ndarray, OrtValue)):
            self._inputs[name] = _tensor(device_type)
        elif buffer_ptr is None:
            raise InputError(f"bind_input {name!r}: buffer_ptr is missing, a wgpu.GPUBuffer, an array or an address")
        else:
            where = f"bind_input {name!r}"
            self._inputs[name] = _memory(where, device_type, device_id, element_type, shape, buffer_ptr)

    def bind_ortvalue_input(self, name: str, ortvalue: Any) -> None:
        """An OrtValue or Tensor (ONNX Runtime's own OrtValue is uploaded at every run)."""
        self._inputs[self._known(name, "input")] = _tensor(ortvalue)

    # ------------------------------------------------------------------ outputs

    def bind_output(
        self,
        name: str,
        device_type: Any = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Any = None,
        buffer_ptr: Any = None,
    ) -> None:
        """Where an output goes: a device ("cpu", "gpu", "webgpu", "webnn"), a Tensor, array or OrtValue, or, with
        element type and shape, a `wgpu.GPUBuffer`, an array or an address as in `bind_input`. Without `buffer_ptr`,
        element type and shape are compared with the output's."""
        self._known(name, "output")
        where = f"bind_output {name!r}"
        bound: _Place | Tensor | np.ndarray
        if isinstance(device_type, (Tensor, np.ndarray, OrtValue)):
            bound = _tensor(device_type)
        elif buffer_ptr is not None:
            bound = _memory(where, device_type, device_id, element_type, shape, buffer_ptr)
        else:
            dtype = None if element_type is None else numpy_type(element_type, where)
            dims = None if shape is None else tuple(int(d) for d in shape)
            bound = _Place(location_of(device_type, device_id, where), dtype, dims)
        self._forget(name)
        self._outputs[name] = bound

    def bind_ortvalue_output(self, name: str, ortvalue: Any) -> None:
        """A pre-allocated OrtValue or Tensor."""
        self._known(name, "output")
        if not isinstance(ortvalue, (OrtValue, Tensor)):
            raise InputError(f"bind_ortvalue_output {name!r}: an OrtValue is wanted, not {type(ortvalue).__name__}")
        self._forget(name)
        self._outputs[name] = _tensor(ortvalue)

    # ------------------------------------------------------------------ clearing, waiting

    def clear_binding_inputs(self) -> None:
        """Unbind the inputs."""
        self._inputs.clear()

    def clear_binding_outputs(self) -> None:
        """Unbind the outputs; those that were made for them are disposed."""
        for name in list(self._outputs):
            self._forget(name)
        self._outputs.clear()
        self._results.clear()

    def synchronize_inputs(self) -> None:
        """Nothing to do: the queue orders uploads before runs."""

    def synchronize_outputs(self) -> None:
        """Wait until the GPU is done."""
        self._session.device.synchronise()

    # ------------------------------------------------------------------ results

    def get_outputs(self) -> list[OrtValue]:
        """The results of the last run, in the order in which outputs were bound."""
        booleans = self._session._header.booleans
        return [
            OrtValue(r if isinstance(r, Tensor) else Tensor.from_numpy(r), "tensor(bool)" if name in booleans else None)
            for name, r in self._results.items()
        ]

    def copy_outputs_to_cpu(self) -> list[np.ndarray]:
        """The results of the last run as arrays."""
        return [value.numpy() for value in self.get_outputs()]

    def _run(self) -> None:
        if not self._outputs:
            raise InputError("run_with_iobinding: no output is bound")
        session = self._session
        with session._using(session._dims_of(self._inputs)) as program:
            ports = program.outputs
        fetches: dict[str, Any] = {}
        for name, bound in self._outputs.items():
            if isinstance(bound, _Place):
                _require(name, bound, ports[name])
                if bound.location != CPU:
                    fetches[name] = self._gpu_tensor(name, bound.location, ports[name])
            else:
                fetches[name] = bound
        with Run(session, list(self._outputs), self._inputs, fetches, dict.fromkeys(self._outputs, CPU)) as run:
            self._results = dict(zip(run.names, session._finish(run), strict=True))

    def _gpu_tensor(self, name: str, location: str, port: Port) -> Tensor:
        """What was made for this output before, if it still fits."""
        made = self._made.get(name)
        if made is None or made.disposed or made.dims != port.shape:
            self._forget(name)
            made = self._made[name] = self._session._pool.output(port, location)
        return made

    def _forget(self, name: str) -> None:
        """Dispose of what was made for an output."""
        self._results.pop(name, None)
        made = self._made.pop(name, None)
        if made is not None:
            made.dispose()

    def _known(self, name: str, kind: str) -> str:
        header = self._session._header
        names = [a.name for a in (header.inputs if kind == "input" else header.outputs)]
        if name not in names:
            raise InputError(f"there is no {kind} {name!r}; there are {', '.join(names)}")
        return name


def _require(name: str, place: _Place, port: Port) -> None:
    """Raise InputError unless the output is what the caller expects."""
    dtype = None if place.dtype is None else DataType.of(place.dtype).value
    if dtype not in (None, port.dtype) or place.dims not in (None, port.shape):
        found = f"{dtype or port.dtype}{list(port.shape if place.dims is None else place.dims)}"
        raise InputError(f"output {name!r} is bound as {found}, the output is {port.dtype}{list(port.shape)}")


def _tensor(value: Any) -> Any:
    return value.tensor if isinstance(value, OrtValue) else value


def _memory(where: str, device_type: Any, device_id: int, element_type: Any, shape: Any, pointer: Any) -> Any:
    """The Tensor or array in a caller's memory."""
    location = location_of(device_type, device_id, where)
    if element_type is None or shape is None:
        raise InputError(f"{where}: element_type and shape are needed with buffer_ptr")
    dtype, dims = numpy_type(element_type, where), tuple(int(d) for d in shape)
    if hasattr(pointer, "usage"):
        return Tensor.from_gpu_buffer(pointer, dtype=DataType.of(dtype).value, dims=dims)
    if isinstance(pointer, np.ndarray):
        if pointer.dtype != dtype or pointer.shape != dims:
            raise InputError(f"{where}: {dtype}{list(dims)} given, the array is {pointer.dtype}{list(pointer.shape)}")
        return pointer
    if isinstance(pointer, int) and location == CPU:
        size = math.prod(dims) * dtype.itemsize
        return np.frombuffer(memoryview((ctypes.c_char * size).from_address(pointer)), dtype).reshape(dims)
    raise InputError(f"{where}: buffer_ptr is a wgpu.GPUBuffer, an array, or an address on the CPU, not {pointer!r}")
