"""MLContext on OpenVINO's devices: tensors are numpy arrays, which the device reads in place.

`dispatch` runs at once and returns when the graph is done, so everything is in order.
"""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import Future
from typing import Any

import numpy as np

from gpucompile.backends.openvino.rules import NPU_RANK, NPU_TYPES, REFUSED
from gpucompile.compiler import compile
from gpucompile.errors import InputError, UnsupportedError
from gpucompile.ir.graph import Graph
from gpucompile.ir.op import MAX_RANK, NIBBLES
from gpucompile.ir.types import TensorType
from gpucompile.runtime.nibbles import pack_nibbles
from gpucompile.runtime.openvino import OpenvinoDevice, OpenvinoExecutable, OpenvinoOptions
from gpucompile.webnn import limits
from gpucompile.webnn.context import MLContext
from gpucompile.webnn.objects import MLGraph, MLTensor
from gpucompile.webnn.readback import bytes_of
from gpucompile.webnn.validation import DATA_TYPES

#: What a tensor may have at most. OpenVINO sets no limit; indices are 32 bits wide.
MAX_BYTES = 2**31 - 4


class HostBuffer:
    """The memory of a tensor."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def destroy(self) -> None:
        """Nothing: the tensor forgets it, and Python frees it."""


class OpenvinoContext(MLContext):
    """A context on the CPU or NPU. `device` is a `gpucompile.OpenvinoDevice`; there are no GPU buffers."""

    def __init__(self, device: OpenvinoDevice, options: OpenvinoOptions, pipeline: str = "default") -> None:
        self._openvino = device
        self._options = options
        self._pipeline = pipeline
        self._max_bytes = MAX_BYTES
        self._alive: weakref.WeakSet[MLTensor | MLGraph] = weakref.WeakSet()
        self._arenas = None
        self._destroyed = False
        self._lock = threading.RLock()
        self.lost: Future[str] = Future()

    @property
    def accelerated(self) -> bool:
        return not self._openvino.is_software

    @property
    def device(self) -> Any:
        """The OpenvinoDevice underneath."""
        return self._openvino

    def __repr__(self) -> str:
        return f"<MLContext on {self._openvino.full_name!r}{' destroyed' if self._destroyed else ''}>"

    @property
    def closed(self) -> bool:
        """Whether `destroy` was called."""
        return self._destroyed

    def memory(self) -> dict[str, int]:
        """Bytes of tensors, in the host's memory."""
        tensors = [t for t in list(self._alive) if isinstance(t, MLTensor) and not t.destroyed]
        return {"tensors": sum(t._buffer.array.nbytes for t in tensors)}

    def _close_device(self) -> None:
        pass

    def _require_device(self) -> None:
        pass

    # ------------------------------------------------------------------ tensors

    def import_gpu_buffer(
        self, buffer: Any, data_type: Any, shape: Any = None, readable: bool = False, writable: bool = False
    ) -> MLTensor:
        """Not possible here: raises UnsupportedError."""
        raise UnsupportedError(f"import_gpu_buffer: {self!r} has no GPU buffers")

    def _tensor(self, type: TensorType, **options: Any) -> MLTensor:
        tensor = MLTensor(self, type, HostBuffer(np.zeros(type.shape, type.dtype.numpy)), **options)
        self._keep(tensor)
        return tensor

    def _upload(self, tensor: MLTensor, array: np.ndarray) -> None:
        np.copyto(tensor._buffer.array, array.reshape(tensor.shape))

    def _read(self, tensor: MLTensor, out: Any) -> HostRead:
        array = tensor._buffer.array
        target = None if out is None else bytes_of(out, tensor)
        if tensor._type.dtype in NIBBLES:
            array = pack_nibbles(array)
        if target is None:
            return HostRead(array.copy())
        target[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return HostRead(out)

    # ------------------------------------------------------------------ running

    def _compile(self, graph: Graph) -> OpenvinoExecutable:
        kind = self._openvino.kind
        bundle = compile(graph, pipeline=self._pipeline, devices=(kind,))
        return OpenvinoExecutable(bundle, self._openvino, self._options)

    def _run(self, executable: Any, inputs: dict[str, HostBuffer], outputs: dict[str, HostBuffer]) -> None:
        if not isinstance(executable, OpenvinoExecutable):
            raise InputError(f"dispatch: {executable!r} is none of this context")
        given = [inputs[p.name].array for p in executable.inputs]
        executable.infer(given, [outputs[p.name].array for p in executable.outputs])

    # ------------------------------------------------------------------ limits

    def op_support_limits(self) -> dict[str, Any]:
        """As on the GPU, less what the device does not take. 64-bit integers are computed in 32 bits; inputs beyond are
        refused by `dispatch`."""
        npu = self._openvino.kind == "npu"
        supported = frozenset(DATA_TYPES) & NPU_TYPES if npu else frozenset(DATA_TYPES)
        return limits.op_support_limits(supported, self._max_bytes, NPU_RANK if npu else MAX_RANK, REFUSED)


class HostRead:
    """What was read: there already."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def wait(self) -> Any:
        """The result."""
        return self._result

    async def wait_async(self) -> Any:
        """The result."""
        return self._result
