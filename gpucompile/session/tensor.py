"""`Tensor`: data on the host, in a caller's GPU buffer, or in a buffer of the session that computed it."""

from __future__ import annotations

import os
import sys
import warnings
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from gpucompile.errors import ClosedError, InputError
from gpucompile.ir.types import DataType
from gpucompile.runtime.buffers import is_destroyed
from gpucompile.runtime.checks import port_bytes
from gpucompile.runtime.device import Device
from gpucompile.runtime.executable import NUMPY_DTYPES
from gpucompile.runtime.format import Port
from gpucompile.webnn.context import MLContext
from gpucompile.webnn.objects import MLTensor

CPU, GPU_BUFFER, ML_TENSOR = "cpu", "gpu-buffer", "ml-tensor"

#: ONNX Runtime's spelling of what it calls ML tensors by now.
LOCATION_ALIASES = {"ml-buffer": ML_TENSOR}


class Tensor:
    """A tensor of a session: its inputs and outputs.

    location   where the data is: "cpu", "gpu-buffer" or "ml-tensor"
    data_type  WebNN's name, such as "float32"
    dims       the shape

    A tensor made from a caller's buffer or MLTensor never owns it: disposing it leaves the buffer alone. An output that
    a session keeps on the GPU owns its buffer until `dispose()`, `get_data(release=True)` or garbage collection (which
    warns with Python's `-X dev` or GPUCOMPILE_DEBUG=1). Any use after that is a ClosedError.
    """

    def __init__(
        self,
        data_type: str,
        dims: tuple[int, ...],
        location: str,
        array: np.ndarray | None = None,
        buffer: Any = None,
        ml_tensor: MLTensor | None = None,
        release: Callable[[bool], None] | None = None,
    ) -> None:
        """Use the `from_...` functions."""
        self.data_type = data_type
        self.dims = dims
        self.location = location
        self._array, self._buffer, self._ml_tensor = array, buffer, ml_tensor
        self._disposed = False
        self._finalizer = None if release is None else weakref.finalize(self, _collected, release, repr(self))
        if self._finalizer is not None:
            self._finalizer.atexit = False
        self._release = release

    # ------------------------------------------------------------------ making

    @staticmethod
    def from_numpy(array: np.ndarray) -> Tensor:
        """A tensor on the host; the array is used as it is, not copied."""
        try:
            kind = DataType.of(np.asarray(array).dtype)
        except (KeyError, TypeError):
            raise InputError(f"Tensor.from_numpy: {np.asarray(array).dtype} is no data type of a tensor") from None
        array = np.asarray(array)
        return Tensor(kind.value, array.shape, CPU, array=array)

    @staticmethod
    def from_gpu_buffer(
        buffer: Any, *, dtype: Any = None, dims: Sequence[int] | None = None, data_type: Any = None
    ) -> Tensor:
        """The tensor in a caller's `wgpu.GPUBuffer`, row-major from its first byte. The caller keeps owning the buffer
        and has to keep it alive while the tensor is used."""
        where = "Tensor.from_gpu_buffer"
        if not hasattr(buffer, "usage") or not hasattr(buffer, "size"):
            raise InputError(f"{where}: a wgpu.GPUBuffer is wanted, not {type(buffer).__name__}")
        kind, shape = _described(dtype if dtype is not None else data_type, dims, where)
        need = port_bytes(Port("", kind, shape, 0))
        if buffer.size < need:
            raise InputError(f"{where}: {kind}{list(shape)} needs {need:,} bytes, the buffer has {buffer.size:,}")
        return Tensor(kind, shape, GPU_BUFFER, buffer=buffer)

    @staticmethod
    def from_ml_tensor(tensor: MLTensor, *, dtype: Any = None, dims: Sequence[int] | None = None) -> Tensor:
        """The tensor in a WebNN MLTensor, which its maker keeps owning. `dtype` and `dims` must be its own."""
        if not isinstance(tensor, MLTensor):
            raise InputError(f"Tensor.from_ml_tensor: an MLTensor is wanted, not {type(tensor).__name__}")
        if dtype is not None or dims is not None:
            given = _described(dtype or tensor.data_type, dims if dims is not None else tensor.shape, "Tensor")
            if given != (tensor.data_type, tensor.shape):
                raise InputError(f"Tensor.from_ml_tensor: {given[0]}{list(given[1])} given, the tensor is {tensor!r}")
        return Tensor(tensor.data_type, tensor.shape, ML_TENSOR, ml_tensor=tensor)

    from_ml_buffer = from_ml_tensor

    @staticmethod
    def from_dlpack(array: Any) -> Tensor:
        """A tensor on the host that shares the memory of an object with `__dlpack__` (numpy, torch on the CPU, ...)."""
        try:
            return Tensor.from_numpy(np.from_dlpack(array))
        except (TypeError, AttributeError, BufferError, RuntimeError) as e:
            raise InputError(f"Tensor.from_dlpack: {type(array).__name__}: {e}") from e

    # ------------------------------------------------------------------ looking

    @property
    def shape(self) -> tuple[int, ...]:
        """`dims`."""
        return self.dims

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy data type of `numpy()`."""
        return DataType.parse(self.data_type).numpy

    @property
    def owned(self) -> bool:
        """Whether disposing it frees GPU memory."""
        return self._release is not None

    @property
    def disposed(self) -> bool:
        return self._disposed

    @property
    def data(self) -> np.ndarray:
        """The array of a tensor on the host; InputError for others, whose data `get_data` or `numpy` fetch."""
        self._require_open()
        if self._array is None:
            raise InputError(f"{self!r} is not on the CPU: use numpy() or await get_data()")
        return self._array

    @property
    def gpu_buffer(self) -> Any:
        """The `wgpu.GPUBuffer` that holds it; InputError for a tensor on the host."""
        self._require_open()
        if self._ml_tensor is not None:
            return self._ml_tensor.gpu_buffer
        if self._buffer is None:
            raise InputError(f"{self!r} is not on the GPU")
        return self._buffer

    @property
    def ml_tensor(self) -> MLTensor:
        """The MLTensor that holds it; InputError for a tensor that lives elsewhere."""
        self._require_open()
        if self._ml_tensor is None:
            raise InputError(f"{self!r} is in no MLTensor")
        return self._ml_tensor

    def __repr__(self) -> str:
        state = ", disposed" if getattr(self, "_disposed", False) else ""
        return f"<Tensor {self.data_type}{list(self.dims)} on {self.location}{state}>"

    # ------------------------------------------------------------------ data

    def numpy(self) -> np.ndarray:
        """The data as an array. From the GPU it is fetched, after everything submitted so far."""
        if self._array is not None:
            return self.data
        if 0 in self.dims:
            return self._empty()
        context, tensor = self._readable()
        return np.asarray(context.read_tensor(tensor))

    async def get_data(self, release: bool = False) -> np.ndarray:
        """`numpy()` without blocking the event loop; with `release` the tensor is disposed when the data is there."""
        if self._array is not None:
            array = self.data
        elif 0 in self.dims:
            array = self._empty()
        else:
            context, tensor = self._readable()
            array = np.asarray(await context.read_tensor_async(tensor))
        if release:
            self.dispose()
        return array

    def _empty(self) -> np.ndarray:
        """The data where there are no elements, and so nothing to fetch."""
        self._require_open()
        return np.empty(self.dims, NUMPY_DTYPES[self.data_type])

    def _readable(self) -> tuple[MLContext, MLTensor]:
        self._require_open()
        if self._ml_tensor is not None:
            return self._ml_tensor._context, self._ml_tensor
        if is_destroyed(self._buffer):
            raise InputError(f"{self!r}: its GPU buffer was destroyed")
        context = context_of(self._buffer._device)
        return context, context.import_gpu_buffer(self._buffer, self.data_type, self.dims, readable=True)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is None:
            return np.asarray(self.numpy(), dtype)
        if copy is False and self._array is None:
            raise ValueError(f"{self!r}: its data cannot be had without a copy")
        return np.array(self.numpy(), dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.data.__dlpack_device__()

    # ------------------------------------------------------------------ life

    def dispose(self) -> None:
        """Let go of the data: an owned buffer is given back, a caller's is left alone. Disposing twice is fine."""
        if self._disposed:
            return
        self._disposed = True
        release, self._release = self._release, None
        if self._finalizer is not None:
            self._finalizer.detach()
        self._array = self._buffer = self._ml_tensor = None
        if release is not None:
            release(False)

    def __enter__(self) -> Tensor:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.dispose()

    def _require_open(self) -> None:
        if self._disposed:
            raise ClosedError(f"{self!r}: used after dispose()")


def _collected(release: Callable[[bool], None], what: str) -> None:
    release(True)
    if sys.flags.dev_mode or os.environ.get("GPUCOMPILE_DEBUG"):
        warnings.warn(f"{what} was collected without dispose()", ResourceWarning, stacklevel=2)


def _described(dtype: Any, dims: Any, where: str) -> tuple[str, tuple[int, ...]]:
    """A data type's name and a shape."""
    if dtype is None or dims is None:
        raise InputError(f"{where}: dtype and dims are needed")
    try:
        kind = DataType.parse(dtype) if isinstance(dtype, str) and dtype != "bool" else DataType.of(dtype)
    except (KeyError, TypeError):
        raise InputError(
            f"{where}: {dtype!r} is no data type; there are {', '.join(d.value for d in DataType)}"
        ) from None
    try:
        shape = tuple(int(d) for d in dims)
    except (TypeError, ValueError):
        raise InputError(f"{where}: dims are {dims!r}, a list of integers is wanted") from None
    if any(d < 0 for d in shape):
        raise InputError(f"{where}: dims {list(shape)} has a negative extent")
    return kind.value, shape


_CONTEXT = "_gpucompile_context"


def context_of(handle: Any, device: Device | None = None) -> MLContext:
    """The context on a `wgpu.GPUDevice`, the same one until it is closed; `device` is used for a new one. Raises
    DeviceLost."""
    context: MLContext | None = getattr(handle, _CONTEXT, None)
    if context is None or context.closed:
        context = MLContext(Device.wrap(handle) if device is None else device)
        setattr(handle, _CONTEXT, context)  # kept by the device, so that both are garbage together
    context._require_open()
    return context
