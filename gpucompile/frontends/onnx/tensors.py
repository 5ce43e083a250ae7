"""ONNX tensors as numpy arrays, without copies where the format allows it.

External data lies in files beside the model or below; names that lead out of the model's folder are refused, links
included. bfloat16, which WebGPU lacks, becomes float32: the upper half of one, so nothing is lost.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from gpucompile.errors import ModelError, UnsupportedError
from gpucompile.ir.types import DataType

#: ONNX element type -> numpy dtype. Bool becomes uint8, as in WebNN; of 4-bit integers each has a byte.
DTYPES: dict[int, np.dtype[np.generic]] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.INT32: np.dtype(np.int32),
    TensorProto.UINT32: np.dtype(np.uint32),
    TensorProto.INT64: np.dtype(np.int64),
    TensorProto.UINT64: np.dtype(np.uint64),
    TensorProto.INT8: np.dtype(np.int8),
    TensorProto.UINT8: np.dtype(np.uint8),
    TensorProto.BOOL: np.dtype(np.uint8),
    TensorProto.INT4: np.dtype(np.int8),
    TensorProto.UINT4: np.dtype(np.uint8),
}


#: ONNX's element types of 4 bits; tensors of these are packed in the graph.
FOUR_BITS: dict[int, DataType] = {TensorProto.INT4: DataType.INT4, TensorProto.UINT4: DataType.UINT4}


def numpy_dtype(element_type: int, what: str) -> np.dtype[np.generic]:
    """The numpy dtype for an ONNX element type. Raises UnsupportedError naming `what` has it."""
    if element_type not in DTYPES:
        names = TensorProto.DataType
        name = names.Name(element_type) if element_type in names.values() else str(element_type)
        raise UnsupportedError(f"{what} has the data type {name.lower()}, which is not supported")
    return DTYPES[element_type]


def data_type(element_type: int, what: str) -> DataType:
    """The DataType for an ONNX element type. Raises UnsupportedError naming `what` has it."""
    return FOUR_BITS.get(element_type) or DataType.of(numpy_dtype(element_type, what))


def element_type(dtype: np.dtype[np.generic]) -> int:
    """The ONNX element type of a numpy dtype that DTYPES has."""
    return next(e for e, d in DTYPES.items() if d == dtype)


def to_array(tensor: onnx.TensorProto, folder: Path | None) -> np.ndarray:
    """A tensor's data. `folder` is where external data may lie; None: nowhere.

    Raises ModelError for data that does not suit the tensor's shape, UnsupportedError for its data type."""
    what = f"tensor {tensor.name!r}" if tensor.name else "a tensor"
    brief, packed = tensor.data_type == TensorProto.BFLOAT16, tensor.data_type in FOUR_BITS
    dtype = np.dtype(np.float32) if brief else numpy_dtype(tensor.data_type, what)
    shape = tuple(tensor.dims)
    if any(d < 0 for d in shape):
        raise ModelError(f"{what} has a negative dimension: {list(shape)}")
    stored = np.dtype(np.uint16) if brief else np.dtype(np.uint8) if packed else dtype
    places = ((math.prod(shape) + 1) // 2,) if packed else shape
    if tensor.data_location == TensorProto.EXTERNAL:
        data = _external(tensor, folder, stored, places, what)
    elif tensor.HasField("raw_data"):
        data = _from_bytes(tensor.raw_data, stored, places, what)
    else:
        try:
            return np.asarray(numpy_helper.to_array(tensor)).astype(dtype, copy=False)
        except Exception as e:  # whatever numpy or protobuf say about it
            raise ModelError(f"{what} of shape {list(shape)} cannot be read: {e}") from e
    if packed:
        return _unpacked(data, dtype, shape)
    return _widened(data) if brief else data


def _widened(bits: np.ndarray) -> np.ndarray:
    """bfloat16 as float32."""
    out = bits.astype("<u4")
    out <<= 16
    return out.view(np.float32)


def _unpacked(pairs: np.ndarray, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> np.ndarray:
    """4-bit integers, two a byte with the first in the low half, as one a byte."""
    out = np.empty((pairs.size, 2), dtype)
    if dtype == np.int8:
        signed = pairs.view(np.int8)
        out[:, 0], out[:, 1] = (signed << 4) >> 4, signed >> 4
    else:
        out[:, 0], out[:, 1] = pairs & 15, pairs >> 4
    return out.reshape(-1)[: math.prod(shape)].reshape(shape)


def _from_bytes(data: bytes, dtype: np.dtype[np.generic], shape: tuple[int, ...], what: str) -> np.ndarray:
    needed = math.prod(shape) * dtype.itemsize
    if len(data) != needed:
        raise ModelError(f"{what} of shape {list(shape)} needs {needed} bytes, the file has {len(data)}")
    return np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape).astype(dtype, copy=False)


def _external(
    tensor: onnx.TensorProto, folder: Path | None, dtype: np.dtype[np.generic], shape: tuple[int, ...], what: str
) -> np.ndarray:
    """Data from a file beside the model, mapped into memory."""
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        raise ModelError(f"{what} lies in the external file {location!r}: pass the model's path, not its contents")
    base = folder.resolve()
    path = (base / location).resolve()
    if not location or not path.is_relative_to(base):
        raise ModelError(f"{what} lies in {location!r}, which is outside the model's folder")
    needed = math.prod(shape) * dtype.itemsize
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", needed))
        size = path.stat().st_size
    except (OSError, ValueError) as e:
        raise ModelError(f"{what}: external data {location!r} cannot be read: {e}") from e
    if length != needed or offset < 0 or offset + needed > size:
        raise ModelError(
            f"{what} of shape {list(shape)} needs {needed} bytes at offset {offset} of {location!r}, "
            f"which has {size} bytes (the model says {length})"
        )
    if not needed:
        return np.zeros(shape, dtype)
    mapped = np.memmap(path, dtype.newbyteorder("<"), "r", offset, shape)
    return np.asarray(mapped).astype(dtype, copy=False)
