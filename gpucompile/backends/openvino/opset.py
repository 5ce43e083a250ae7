"""OpenVINO's operations as op classes call them: `ov.relu(x)`, by the names of the newest opset that has them.

Values are `openvino.Output`; every operation with one result gives one, the others a tuple. Shapes are static.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from gpucompile.ir.literals import limits
from gpucompile.ir.types import DataType, TensorType

#: The newest first. OpenVINO's packages hold what was added since and, from time to time, everything.
OPSETS = tuple(f"openvino.opset{i}" for i in range(17, 12, -1))

#: Names of the element types in OpenVINO. 4-bit values lie in bytes, as numpy has them: plugins take no others from
#: outside, nor compute with them. Constants are packed (`Opset.constant`). uint32 has its bits in int32, in which
#: plugins compute it, some with conversions that saturate; the pass legalize-openvino sees to what depends on the sign.
ELEMENTS = {d: d.short for d in DataType} | {DataType.INT4: "i8", DataType.UINT4: "u8", DataType.UINT32: "i32"}
_BY_ELEMENT = {d.short: d for d in DataType}


def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    outputs = tuple(function(*args, **kwargs).outputs())
    return outputs[0] if len(outputs) == 1 else outputs


class Opset:
    """Operations by name, and what methods of op classes need besides."""

    def __init__(self) -> None:
        self._modules = [importlib.import_module(name) for name in OPSETS]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        for module in self._modules:
            function = getattr(module, name, None)
            if function is not None:
                call = partial(_call, function)
                setattr(self, name, call)
                return call
        raise AttributeError(f"OpenVINO has no operation {name!r}")

    # constants -----------------------------------------------------------------------------------------------------

    def constant(self, array: np.ndarray | np.generic, dtype: DataType | None = None) -> Any:
        """A constant; with a 4-bit `dtype` packed, from one element a byte."""
        from openvino import Tensor, Type, op

        array = np.asarray(array)
        if array.dtype == np.uint32:
            array = array.astype(np.int32)
        if dtype is None or dtype.bits >= 8:
            return op.Constant(np.ascontiguousarray(array).reshape(array.shape)).output(0)
        nibbles = np.ascontiguousarray(array).reshape(-1).astype(np.uint8) & 15
        if nibbles.size % 2:
            nibbles = np.append(nibbles, np.uint8(0))
        tensor = Tensor(getattr(Type, dtype.short), list(array.shape))  # its memory lives as long as the constant
        tensor.data.reshape(-1)[:] = nibbles[::2] | nibbles[1::2] << 4
        return op.Constant(tensor).output(0)

    def integers(self, values: int | Sequence[int]) -> Any:
        """An int64 constant: axes, sizes and the like."""
        return self.constant(np.array(values, np.int64))

    def scalar(self, value: float, like: Any) -> Any:
        """A constant without axes of the data type of `like`; integers are rounded toward zero and kept in range."""
        dtype = self.type(like).dtype
        if not dtype.is_float:
            low, high = limits(dtype)
            value = int(min(max(value, low), high))
        with np.errstate(over="ignore"):
            return self.constant(np.array(value).astype(dtype.numpy))

    # values --------------------------------------------------------------------------------------------------------

    def type(self, value: Any) -> TensorType:
        """Data type and shape; booleans count as uint8."""
        name = value.get_element_type().get_type_name()
        return TensorType(_BY_ELEMENT.get(name, DataType.UINT8), tuple(value.get_shape()))

    def array(self, value: Any) -> np.ndarray | None:
        """The array of a constant, 4-bit ones from one element a byte, else None."""
        node = value.get_node()
        if node.get_type_name() != "Constant":
            return None
        data = np.asarray(node.data)
        kind = self.type(value)
        if kind.dtype.bits >= 8:
            return data
        pairs = data.reshape(-1).view(np.uint8)
        nibbles = np.stack((pairs & 15, pairs >> 4), -1).reshape(-1)[: kind.size].reshape(kind.shape)
        return ((nibbles ^ 8).astype(np.int8) - np.int8(8)) if kind.dtype is DataType.INT4 else nibbles

    def bounds(self, value: Any) -> tuple[float, float]:
        """The smallest and largest value of its data type."""
        dtype = self.type(value).dtype
        return (-np.inf, np.inf) if dtype.is_float else limits(dtype)

    def cast(self, value: Any, dtype: DataType) -> Any:
        """The value as another data type, itself if it has it."""
        if value.get_element_type().get_type_name() == ELEMENTS[dtype]:
            return value
        return self.convert(value, ELEMENTS[dtype])

    def truth(self, value: Any) -> Any:
        """A uint8 value as boolean: whether it is not 0."""
        return self.not_equal(value, self.scalar(0, value))

    def scale(self, value: Any, factor: float) -> Any:
        """The value times a number."""
        return value if factor == 1 else self.multiply(value, self.scalar(factor, value))

    def pad_rank(self, value: Any, rank: int) -> Any:
        """The value with axes of 1 before its own, up to `rank`."""
        shape = self.type(value).shape
        if len(shape) >= rank:
            return value
        return self.reshape(value, self.integers((*(1,) * (rank - len(shape)), *shape)), False)

    def to_layout(self, value: Any, source: str, target: str) -> Any:
        """The value with its axes, lettered as in `source`, in the order of `target`."""
        if source == target:
            return value
        return self.transpose(value, self.integers([source.index(axis) for axis in target]))
