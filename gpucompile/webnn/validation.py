"""Arguments as the specification takes them: data types, shapes, buffers and option values from Python's types."""

from __future__ import annotations

import math
import operator
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any

import numpy as np

from gpucompile.errors import TypeInferenceError
from gpucompile.ir.literals import limits
from gpucompile.ir.op import MAX_RANK, NIBBLES, Op
from gpucompile.ir.types import DataType, TensorType
from gpucompile.runtime.nibbles import unpack_nibbles

#: MLOperandDataType. int4 and uint4 stood in the specification until 2026; they serve as quantized weights.
DATA_TYPES = tuple(DataType)
_NAMES = {d.value: d for d in DATA_TYPES}
_MAX_LONG = 2**32 - 1
_MAX_DIMENSION = 2**31 - 1  # "valid dimension"


def data_type(value: object, where: str) -> DataType:
    """An MLOperandDataType from its name, a DataType or a numpy dtype; `where` starts the message otherwise."""
    if isinstance(value, DataType):
        value = value.value
    if isinstance(value, (np.dtype, type)):
        value = np.dtype(value).name
    if not isinstance(value, str) or value not in _NAMES:
        raise TypeInferenceError(f"{where}: {value!r} is no data type; there are {', '.join(_NAMES)}")
    return _NAMES[value]


def described(dtype: Any, shape: Any, descriptor: Any, where: str) -> tuple[Any, Any]:
    """Data type and shape, from themselves or from an MLOperandDescriptor: an object or a dict, whose keys may be the
    specification's (`dataType`) or older ones (`dimensions`)."""
    if isinstance(dtype, Mapping) or hasattr(dtype, "data_type"):
        descriptor, dtype = dtype, None
    if descriptor is None:
        return dtype, shape
    if hasattr(descriptor, "data_type"):
        return descriptor.data_type, descriptor.shape
    if not isinstance(descriptor, Mapping):
        raise TypeInferenceError(f"{where}: {descriptor!r} is no descriptor: give an MLOperandDescriptor or a dict")
    kind = descriptor.get("data_type", descriptor.get("dataType"))
    return kind, descriptor.get("shape", descriptor.get("dimensions"))


def tensor_type(dtype: object, shape: object, limit: int, where: str) -> TensorType:
    """A valid descriptor: a known data type, at most 8 positive dimensions, at most `limit` bytes."""
    kind = data_type(dtype, where)
    if shape is None:
        raise TypeInferenceError(f"{where}: the shape is missing")
    dims = integers(shape, f"{where}: shape")
    type = TensorType(kind, dims)
    check_size(type, limit, where)
    return type


def check_size(type: TensorType, limit: int, where: str) -> None:
    """Raise TypeInferenceError for a type that no operand may have."""
    if type.rank > MAX_RANK:
        raise TypeInferenceError(f"{where}: rank {type.rank} is above {MAX_RANK}")
    for i, d in enumerate(type.shape):
        if d < 1:
            raise TypeInferenceError(f"{where}: dimension {i} is {d}; empty tensors are not allowed")
        if d > _MAX_DIMENSION:
            raise TypeInferenceError(f"{where}: dimension {i} is {d:,}, above {_MAX_DIMENSION:,}")
    if type.nbytes > limit:
        raise TypeInferenceError(f"{where}: {type} takes {type.nbytes:,} bytes, above the limit of {limit:,}")


def integer(value: object, where: str) -> int:
    """`[EnforceRange] unsigned long`."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeInferenceError(f"{where}: {value!r} is not an integer") from None
    if not 0 <= number <= _MAX_LONG:
        raise TypeInferenceError(f"{where}: {number} is outside 0 .. {_MAX_LONG}")
    return number


def integers(value: object, where: str) -> tuple[int, ...]:
    """A sequence of `[EnforceRange] unsigned long`."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeInferenceError(f"{where}: a list of integers is wanted, not {value!r}")
    return tuple(integer(v, f"{where}[{i}]") for i, v in enumerate(value))


def number(value: object, where: str) -> float:
    """A double."""
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:  # an int beyond every float
            return math.inf if int(value) > 0 else -math.inf
    raise TypeInferenceError(f"{where}: {value!r} is not a number")


def bigint_or_number(value: object, where: str) -> int | float:
    """MLNumber: integers that no double is stay integers."""
    out = number(value, where)
    if isinstance(value, (int, np.integer)) and math.isfinite(out) and int(out) != int(value):
        return int(value)
    return out


def fields_of(cls: type[Op]) -> dict[str, Any]:
    """Name and type of an op's attributes."""
    return _fields_of(cls.name)


@cache
def _fields_of(name: str) -> dict[str, Any]:
    cls = Op.registry[name]
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in fields(cls)}


def attribute(hint: Any, value: object, where: str, finite: bool = True) -> Any:
    """An option's value as a field of type `hint` wants it; infinities and NaN only where not `finite`."""
    if typing.get_args(hint) == (int, float):
        return bigint_or_number(value, where)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(a for a in typing.get_args(hint) if a is not type(None))
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        if inner[0] is int:
            values = integers(value, where)
            if inner[-1] is not Ellipsis and len(values) != len(inner):
                raise TypeInferenceError(f"{where}: {len(inner)} values are wanted, not {list(values)}")
            return values
        if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
            raise TypeInferenceError(f"{where}: a list is wanted, not {value!r}")
        return tuple(attribute(inner[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if hint is bool:
        if not isinstance(value, (bool, np.bool_)):
            raise TypeInferenceError(f"{where}: {value!r} is neither True nor False")
        return bool(value)
    if hint is int:
        if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and -(2**31) <= value < 0:
            return int(value)  # a signed `long`, such as triangular's diagonal; ops refuse what they do not take
        return integer(value, where)
    if hint is float:
        out = number(value, where)
        if finite and not math.isfinite(out):
            raise TypeInferenceError(f"{where}: {out} is not finite")
        return out
    if hint is DataType:
        return data_type(value, where)
    if hint is str:
        if not isinstance(value, str):
            raise TypeInferenceError(f"{where}: {value!r} is not a string")
        return value
    return value


def array_of(value: Any, type: TensorType, where: str) -> np.ndarray:
    """A new array of this type from an array, or from bytes in row-major order: whatever has the buffer protocol, or a
    uint8 array. 4-bit elements come two in a byte, or as an array of the tensor's shape, one in a byte."""
    dtype = type.dtype.numpy
    if type.dtype in NIBBLES:
        return _nibbles_of(value, type, where)
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 != dtype and value.nbytes == type.nbytes:
        value = value.tobytes()
    if not isinstance(value, (np.ndarray, np.generic)):
        raw = _bytes_of(value, where)
        if len(raw) != type.nbytes:
            raise TypeInferenceError(f"{where}: {len(raw)} bytes given, {type} takes {type.nbytes}")
        return np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype).reshape(type.shape)
    if value.dtype == np.bool_:
        value = value.astype(np.uint8)
    if type.dtype is DataType.FLOAT16 and value.dtype == np.uint16:
        value = np.asarray(value).view(np.float16)
    if value.dtype != dtype:
        raise TypeInferenceError(f"{where}: the array is {value.dtype}, {type.dtype.value} is wanted")
    if value.size != type.size or (value.ndim > 1 and value.shape != type.shape):
        raise TypeInferenceError(f"{where}: the array is {list(value.shape)}, {list(type.shape)} is wanted")
    return np.array(value, dtype, order="C").reshape(type.shape)


def _bytes_of(value: Any, where: str) -> bytes:
    """The bytes of an object with the buffer protocol."""
    try:
        return memoryview(value).tobytes()
    except TypeError:
        found = value.__class__.__name__
        raise TypeInferenceError(f"{where}: a numpy array or bytes are wanted, not {found}") from None


def _nibbles_of(value: Any, type: TensorType, where: str) -> np.ndarray:
    """`array_of` for 4-bit types."""
    if not isinstance(value, (np.ndarray, np.generic)):
        value = np.frombuffer(_bytes_of(value, where), np.uint8)
    if value.shape == type.shape and value.dtype == type.dtype.numpy:
        low, high = limits(type.dtype)
        if value.min() < low or value.max() > high:
            raise TypeInferenceError(f"{where}: values outside {low}..{high}, the range of {type.dtype.value}")
        return np.array(value, order="C")
    if value.dtype != np.uint8 or value.size != type.nbytes:
        raise TypeInferenceError(
            f"{where}: {value.dtype}{list(value.shape)} given; {type} takes {type.dtype.numpy}{list(type.shape)}, "
            f"or {type.nbytes} bytes of two elements"
        )
    packed = np.asarray(value, np.uint8).reshape(-1)
    return unpack_nibbles(packed, type.shape, type.dtype.is_signed)


def scalar_of(value: float, dtype: DataType) -> np.ndarray:
    """ "cast an MLNumber": floats are rounded, integers are truncated and saturate; NaN becomes 0."""
    if dtype.is_float:
        with np.errstate(over="ignore"):
            return np.array(number(value, "constant"), np.float64).astype(dtype.numpy)
    low, high = limits(dtype)
    if value != value:
        return np.array(0, dtype.numpy)
    return np.array(int(min(max(value, low), high)), dtype.numpy)
