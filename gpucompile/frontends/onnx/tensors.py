"""ONNX tensors as numpy arrays, without copies where the format allows it.

External data lies in files beside the model. Names that lead out of the model's folder are refused; a link may lead to
where the model itself does, as in caches that keep the files of all models in one folder and link to them.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from gpucompile.errors import ModelError, UnsupportedError
from gpucompile.frontends.onnx.foreign import FOREIGN
from gpucompile.ir.graph import Literal
from gpucompile.ir.op import NIBBLES
from gpucompile.ir.types import DataType, TensorType

#: ONNX element type -> data type. Bool becomes uint8, as in WebNN. Tensors of bfloat16, which WebGPU lacks, become
#: float32 as well: it is the upper half of one, so nothing is lost.
DATA_TYPES: dict[int, DataType] = {
    TensorProto.FLOAT: DataType.FLOAT32,
    TensorProto.FLOAT16: DataType.FLOAT16,
    TensorProto.INT32: DataType.INT32,
    TensorProto.UINT32: DataType.UINT32,
    TensorProto.INT64: DataType.INT64,
    TensorProto.UINT64: DataType.UINT64,
    TensorProto.INT8: DataType.INT8,
    TensorProto.UINT8: DataType.UINT8,
    TensorProto.BOOL: DataType.UINT8,
    TensorProto.INT4: DataType.INT4,
    TensorProto.UINT4: DataType.UINT4,
}


@dataclass(frozen=True)
class Folder:
    """Where external data may lie: the folder that a model's path names, and the one that its file is really in."""

    named: Path
    real: Path

    @staticmethod
    def of(source: object) -> Folder | None:
        """The folder of a model's path; None for a model that is none."""
        if not isinstance(source, (str, Path)):
            return None
        named = Path(source).parent.resolve()
        try:
            return Folder(named, Path(source).resolve().parent)
        except (OSError, RuntimeError):  # a link to itself
            return Folder(named, named)

    def file(self, location: str, what: str) -> Path:
        """The file of this name. Raises ModelError where the name or a link in it leads elsewhere."""
        named = self.named / location
        try:
            real = named.resolve()
        except (OSError, RuntimeError, ValueError) as e:  # a NUL in the name, a link to itself
            raise ModelError(f"{what}: external data {location!r} cannot be read: {e}") from e
        inside = Path(os.path.normpath(named)).is_relative_to(self.named)
        if not location or not inside or not (real.is_relative_to(self.named) or real.is_relative_to(self.real)):
            raise ModelError(f"{what} lies in {location!r}, which is outside the model's folder")
        return real


def element_type(dtype: DataType) -> int:
    """The ONNX element type of a data type; uint8's for bool as well."""
    return next(e for e, d in DATA_TYPES.items() if d is dtype)


def data_type(element_type: int, what: str) -> DataType:
    """The data type for an ONNX element type. Raises UnsupportedError naming `what` has it."""
    if element_type not in DATA_TYPES:
        raise UnsupportedError(f"{what} has the data type {element_name(element_type)}, which is not supported")
    return DATA_TYPES[element_type]


def element_name(element_type: int) -> str:
    """ONNX's name of an element type in lower case, its number where there is none."""
    names = TensorProto.DataType
    return str(names.Name(element_type)).lower() if element_type in names.values() else str(element_type)


def read_tensor(tensor: onnx.TensorProto, folder: Folder | None) -> np.ndarray | Literal:
    """A tensor's data; a Literal where an array does not tell the type, as numpy has no 4-bit elements. Double and
    16-bit integers (see `foreign`) stay as they are. `folder` is where external data may lie; None: nowhere.

    Raises ModelError for data that does not suit the tensor's shape, UnsupportedError for its data type."""
    what = f"tensor {tensor.name!r}" if tensor.name else "a tensor"
    brief = tensor.data_type == TensorProto.BFLOAT16
    other = FOREIGN.get(tensor.data_type)
    kind = DataType.FLOAT32 if brief or other is not None else data_type(tensor.data_type, what)
    shape = tuple(tensor.dims)
    if any(d < 0 for d in shape):
        raise ModelError(f"{what} has a negative dimension: {list(shape)}")
    stored = tensor.data_location == TensorProto.EXTERNAL or tensor.HasField("raw_data")
    if brief and stored:
        return _widened(_read(tensor, folder, np.dtype(np.uint16), shape, what))
    if other is not None:
        return _read(tensor, folder, other, shape, what)
    if kind not in NIBBLES:
        return _read(tensor, folder, kind.numpy, shape, what)
    if stored:
        packed = _read(tensor, folder, np.dtype(np.uint8), ((math.prod(shape) + 1) // 2,), what)
        tensor = TensorProto(data_type=tensor.data_type, dims=shape, raw_data=packed.tobytes())
    return Literal(_typed(tensor, kind.numpy, what), TensorType(kind, shape))


def _widened(bits: np.ndarray) -> np.ndarray:
    """bfloat16 as float32."""
    out = bits.astype("<u4")
    out <<= 16
    return out.view(np.float32)


def _read(
    tensor: onnx.TensorProto, folder: Folder | None, dtype: np.dtype[np.generic], shape: tuple[int, ...], what: str
) -> np.ndarray:
    """The data as an array of this type."""
    if tensor.data_location == TensorProto.EXTERNAL:
        return _external(tensor, folder, dtype, shape, what)
    if tensor.HasField("raw_data"):
        return _from_bytes(tensor.raw_data, dtype, shape, what)
    return _typed(tensor, dtype, what)


def _typed(tensor: onnx.TensorProto, dtype: np.dtype[np.generic], what: str) -> np.ndarray:
    """Data from the fields of its type."""
    try:
        return np.asarray(numpy_helper.to_array(tensor)).astype(dtype, copy=False)
    except Exception as e:  # whatever numpy or protobuf say about it
        raise ModelError(f"{what} of shape {list(tensor.dims)} cannot be read: {e}") from e


def _from_bytes(data: bytes, dtype: np.dtype[np.generic], shape: tuple[int, ...], what: str) -> np.ndarray:
    needed = math.prod(shape) * dtype.itemsize
    if len(data) != needed:
        raise ModelError(f"{what} of shape {list(shape)} needs {needed} bytes, the file has {len(data)}")
    return np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape).astype(dtype, copy=False)


def loaded(tensor: onnx.TensorProto, folder: Folder | None) -> onnx.TensorProto:
    """A tensor with its external data in it, of any data type. Raises ModelError where they cannot be read."""
    what = f"tensor {tensor.name!r}" if tensor.name else "a tensor"
    path, location, offset, length = _place(tensor, folder, what)
    size = path.stat().st_size
    length = size - offset if length is None else length
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelError(f"{what}: {length} bytes at offset {offset} of {location!r}, which has {size} bytes")
    with path.open("rb") as file:
        file.seek(offset)
        return onnx.TensorProto(
            name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=file.read(length)
        )


def _place(tensor: onnx.TensorProto, folder: Folder | None, what: str) -> tuple[Path, str, int, int | None]:
    """The file that external data lie in, what the model calls it, their offset and, where the model says it, their
    length."""
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise ModelError(f"{what} lies in the external file {location!r}: pass the model's path, not its contents")
    path = folder.file(location, what)
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries["length"]) if "length" in entries else None
        path.stat()
        if not path.is_file():
            raise ValueError("it is not a file")
    except (OSError, ValueError) as e:
        raise ModelError(f"{what}: external data {location!r} cannot be read: {e}") from e
    return path, location, offset, length


def _external(
    tensor: onnx.TensorProto, folder: Folder | None, dtype: np.dtype[np.generic], shape: tuple[int, ...], what: str
) -> np.ndarray:
    """Data from a file beside the model, mapped into memory."""
    path, location, offset, length = _place(tensor, folder, what)
    needed, size = math.prod(shape) * dtype.itemsize, path.stat().st_size
    length = needed if length is None else length
    if length != needed or offset < 0 or offset + needed > size:
        raise ModelError(
            f"{what} of shape {list(shape)} needs {needed} bytes at offset {offset} of {location!r}, "
            f"which has {size} bytes (the model says {length})"
        )
    if not needed:
        return np.zeros(shape, dtype)
    mapped = np.memmap(path, dtype.newbyteorder("<"), "r", offset, shape)
    return np.asarray(mapped).astype(dtype, copy=False)
