"""Inputs of a model that are given a value when it is compiled: they become initializers.

Shapes, axes and trip counts that hang on such an input are static then. The value must be what the model says the input
is; sizes of free dimensions that it tells are bound by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gpucompile.errors import InputError

#: What numpy has in place of the types of ONNX that it lacks; the values must be theirs.
_STAND_INS: dict[int, type[np.generic]] = {
    TensorProto.BOOL: np.uint8,
    TensorProto.INT4: np.int8,
    TensorProto.UINT4: np.uint8,
}
_RANGES: dict[int, tuple[int, int]] = {TensorProto.BOOL: (0, 1), TensorProto.INT4: (-8, 7), TensorProto.UINT4: (0, 15)}


def constant_inputs(
    graph: onnx.GraphProto, constants: Mapping[str, Any], dims: Mapping[str, int]
) -> tuple[dict[str, TensorProto], dict[str, int]]:
    """The values as initializers by name, and the sizes of the free dimensions that they tell.

    Raises InputError for a name that no input has, and for a value of another data type or shape than its input."""
    infos = {i.name: i for i in graph.input}
    tensors: dict[str, TensorProto] = {}
    sizes: dict[str, int] = {}
    for name, value in constants.items():
        if name not in infos:
            have = f"it has {', '.join(infos)}" if infos else "it has none"
            raise InputError(f"constants: the model has no input {name!r}; {have}")
        if not infos[name].type.HasField("tensor_type"):
            raise InputError(f"constants: input {name!r} is no tensor, only tensors can be given a value")
        array = _typed(name, value, infos[name].type.tensor_type.elem_type)
        for size, n in _free(name, array.shape, infos[name].type.tensor_type).items():
            known = sizes.setdefault(size, int(dims.get(size, n)))
            if known != n:
                raise InputError(f"constants: {name} has {size}={n}, elsewhere it is {known}")
        tensors[name] = numpy_helper.from_array(array, name)
    return tensors, sizes


def _typed(name: str, value: Any, element: int) -> np.ndarray:
    """A value as an array of the element type that the model wants."""
    if element not in TensorProto.DataType.values() or element == TensorProto.UNDEFINED:
        raise InputError(f"constants: input {name!r} has no data type in the model")
    wanted = helper.tensor_dtype_to_np_dtype(element)
    if not isinstance(value, (np.ndarray, np.generic)):
        kind = type(value).__name__
        raise InputError(f"constants: {name} is a {kind}, a numpy array of {wanted} is wanted")
    array = np.asarray(value)
    if array.dtype == wanted or (element == TensorProto.STRING and array.dtype.kind in "OUST"):
        return array.astype(object) if element == TensorProto.STRING else array
    if array.dtype != _STAND_INS.get(element):
        raise InputError(f"constants: {name} is {array.dtype}, the model says {wanted}")
    low, high = _RANGES[element]
    if array.size and not (low <= array.min() and array.max() <= high):
        raise InputError(f"constants: {name} has values outside {low}..{high} of {wanted}")
    return array.astype(wanted)


def _free(name: str, shape: tuple[int, ...], kind: onnx.TypeProto.Tensor) -> dict[str, int]:
    """The sizes that a shape gives to the free dimensions of an input."""
    if not kind.HasField("shape"):
        return {}
    sizes: dict[str, int] = {}
    wanted = [size_or_name(name, axis, d) for axis, d in enumerate(kind.shape.dim)]
    fits = len(wanted) == len(shape) and all(
        sizes.setdefault(w, n) == n if isinstance(w, str) else w == n for w, n in zip(wanted, shape, strict=True)
    )
    if not fits:
        text = ", ".join(map(str, wanted))
        raise InputError(f"constants: {name} has the shape {list(shape)}, the model says [{text}]")
    return sizes


def size_or_name(name: str, axis: int, dim: onnx.TensorShapeProto.Dimension) -> int | str:
    """The size of an axis of an input, or the name of the free dimension it is. Exporters write a negative
    size where they know none."""
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return int(dim.dim_value)
    named = dim.dim_param not in ("", "?")  # some exporters call all that they do not know "?"
    return str(dim.dim_param) if named else f"{name}[{axis}]"
