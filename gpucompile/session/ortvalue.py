"""`OrtValue`: ONNX Runtime's face of a `Tensor`. It answers by methods what a Tensor has as attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucompile.errors import InputError, UnsupportedError
from gpucompile.ir.types import DataType, TensorType
from gpucompile.runtime.device import default_device
from gpucompile.session.model import TYPE_NAMES
from gpucompile.session.tensor import CPU, GPU_BUFFER, LOCATION_ALIASES, ML_TENSOR, Tensor, context_of

if TYPE_CHECKING:
    from gpucompile.webnn.context import MLContext

#: Device names that ONNX Runtime's programs pass -> locations.
DEVICES = {"cpu": CPU, "gpu": GPU_BUFFER, "webgpu": GPU_BUFFER, "webnn": ML_TENSOR, "gpu-buffer": GPU_BUFFER}
DEVICES |= {"ml-tensor": ML_TENSOR, **LOCATION_ALIASES}


class OrtValue:
    """A tensor on the host ("cpu") or on the GPU ("webgpu"), with ONNX Runtime's methods. `tensor` is the Tensor in it,
    which says who owns the data."""

    def __init__(self, tensor: Tensor, type: str | None = None) -> None:
        """Of a Tensor; `type` is ONNX Runtime's text, where it is not the data type's (booleans, which are uint8)."""
        if not isinstance(tensor, Tensor):
            raise InputError(f"OrtValue: a Tensor is wanted, not {tensor.__class__.__name__}; see ortvalue_from_numpy")
        self.tensor = tensor
        if type is None:
            is_bool = tensor.location == CPU and tensor.data.dtype == bool
            type = f"tensor({'bool' if is_bool else TYPE_NAMES[tensor.data_type]})"
        self._type = type

    # ------------------------------------------------------------------ making

    @classmethod
    def ortvalue_from_numpy(
        cls,
        numpy_obj: np.ndarray,
        /,
        device_type: str = "cpu",
        device_id: int = 0,
        vendor_id: int = -1,
        *,
        context: MLContext | None = None,
    ) -> OrtValue:
        """The array itself on "cpu", a copy of it on "webgpu": on the device that sessions share, or in a context."""
        array = np.asarray(numpy_obj)
        host = Tensor.from_numpy(array)
        if location_of(device_type, device_id, "ortvalue_from_numpy") == CPU:
            return cls(host)
        out = cls.ortvalue_from_shape_and_type(array.shape, array.dtype, device_type, context=context)
        out.update_inplace(array)
        return out

    @classmethod
    def ortvalue_from_shape_and_type(
        cls,
        shape: Sequence[int],
        element_type: Any,
        device_type: str = "cpu",
        device_id: int = 0,
        vendor_id: int = -1,
        memory_info: Any = None,
        *,
        context: MLContext | None = None,
    ) -> OrtValue:
        """A tensor of undefined content on "cpu" or "webgpu". `element_type` is numpy's, or ONNX's number."""
        where = "ortvalue_from_shape_and_type"
        if memory_info is not None:
            raise UnsupportedError(f"{where}: memory_info describes ONNX Runtime's allocators; give device_type")
        location = location_of(device_type, device_id, where)
        dtype = numpy_type(element_type, where)
        if location == CPU:
            return cls(Tensor.from_numpy(np.empty(tuple(shape), dtype)))
        kind, dims = DataType.of(dtype), tuple(int(d) for d in shape)
        context = context or _default_context()
        tensor = context._tensor(TensorType(kind, dims), readable=True, writable=True)
        made = Tensor(kind.value, dims, location, ml_tensor=tensor, release=lambda collected: tensor.destroy())
        return cls(made, "tensor(bool)" if dtype.kind == "b" else None)

    @classmethod
    def from_dlpack(cls, data: Any, /) -> OrtValue:
        """See `Tensor.from_dlpack`."""
        return cls(Tensor.from_dlpack(data))

    # ------------------------------------------------------------------ looking

    def shape(self) -> list[int]:
        """The extents."""
        return list(self.tensor.dims)

    def data_type(self) -> str:
        """ONNX Runtime's text, such as `tensor(float)`."""
        return self._type

    def element_type(self) -> int:
        """The number of the data type in onnx.TensorProto."""
        import onnx

        return int(onnx.TensorProto.DataType.Value(self._type[len("tensor(") : -1].upper()))

    def device_name(self) -> str:
        """cpu or webgpu."""
        return "cpu" if self.tensor.location == CPU else "webgpu"

    def data_ptr(self) -> int:
        """The address of the first element; InputError on the GPU, whose buffers have none: bind the OrtValue."""
        if self.tensor.location != CPU:
            raise InputError(f"data_ptr: {self!r} is on the GPU, which has no addresses; use bind_ortvalue_input")
        return int(self.tensor.data.ctypes.data)

    def tensor_size_in_bytes(self) -> int:
        """Bytes of the elements."""
        return TensorType(DataType.parse(self.tensor.data_type), self.tensor.dims).nbytes

    def has_value(self) -> bool:
        """Whether it holds a tensor: not once that is disposed."""
        return not self.tensor.disposed

    def is_tensor(self) -> bool:
        """Always."""
        return True

    def is_sparse_tensor(self) -> bool:
        """Never."""
        return False

    def is_tensor_sequence(self) -> bool:
        """Never."""
        return False

    def __repr__(self) -> str:
        return f"<OrtValue {self._type} of {self.tensor!r}>"

    # ------------------------------------------------------------------ data

    def numpy(self) -> np.ndarray:
        """The data as an array; fetched from the GPU after everything submitted so far."""
        array = self.tensor.numpy()
        return array.view(bool) if self._type == "tensor(bool)" and array.dtype == np.uint8 else array

    def update_inplace(self, data: Any) -> None:
        """Overwrite the data with that of an array or another OrtValue of the same type and shape."""
        if isinstance(data, OrtValue):
            data = data.numpy()
        if not isinstance(data, np.ndarray):
            raise InputError(f"update_inplace: an array or an OrtValue is wanted, not {type(data).__name__}")
        want = np.dtype(bool) if self._type == "tensor(bool)" else self.tensor.dtype
        if data.dtype != want or data.shape != self.tensor.dims:
            found = f"{data.dtype}{list(data.shape)}"
            raise InputError(f"update_inplace: {found} does not fit {self!r}")
        if self.tensor.location == CPU:
            self.tensor.data[...] = data
        else:
            context, tensor = self.tensor._readable()
            with context._lock:
                context._upload(tensor, np.ascontiguousarray(data))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        return np.asarray(array, dtype) if copy is None else np.array(array, dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.tensor.__dlpack_device__()


def _default_context() -> MLContext:
    device = default_device()
    return context_of(device.handle, device)


def location_of(device_type: Any, device_id: int, where: str) -> str:
    """The location that ONNX Runtime's device names mean."""
    if not isinstance(device_type, str) or device_type.lower() not in DEVICES:
        raise InputError(f"{where}: unknown device {device_type!r}; there are {', '.join(DEVICES)}")
    if device_id not in (0, None):
        raise InputError(f"{where}: device_id is {device_id!r}; a session has one device, number 0")
    return DEVICES[device_type.lower()]


def numpy_type(element_type: Any, where: str) -> np.dtype[Any]:
    """numpy's data type of an element type: numpy's, or the number of one of onnx.TensorProto's."""
    try:
        if isinstance(element_type, int):
            import onnx

            name = onnx.TensorProto.DataType.Name(element_type).lower()
            element_type = {"float": "float32", "double": "float64"}.get(name, name)
        dtype: np.dtype[Any] = np.dtype(element_type)
        DataType.of(dtype)
    except (KeyError, TypeError, ValueError):
        known = ", ".join(d.value for d in DataType)
        raise InputError(f"{where}: {element_type!r} is no data type of a tensor; there are {known}") from None
    return dtype
