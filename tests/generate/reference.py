"""Which other source computes an op: a registry, and what the sources are made of.

`SOURCES` maps op names to functions of the op and its operands (floats as float64, absent ones None). Ops that are one
ONNX op without attributes (`Op.onnx`) need no entry. Where onnx.reference is not what the ONNX or WebNN specification
says, the entry avoids it and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from gpucompile.ir.op import Op

Array = np.ndarray
Source = Callable[..., Array]
SOURCES: dict[str, Source] = {}

#: Ops whose reference has no other source, and why.
EXCUSED = {
    "return": "the end of a graph",
    "constant": "data",
    "fused": "interprets its body, whose ops have sources",
}


def source(*names: str) -> Callable[[Source], Source]:
    """Registers the source of these ops."""

    def register(function: Source) -> Source:
        SOURCES.update(dict.fromkeys(names, function))
        return function

    return register


def source_of(cls: type[Op]) -> Source | None:
    """The function that computes the op another way."""
    if cls.name in SOURCES:
        return SOURCES[cls.name]
    name = cls.onnx
    return None if name is None else lambda op, *ins: evaluate(name, *ins)


def evaluate(op_type: str, *arrays: Array | Sequence[int] | None, opset: int = 22, **attributes: Any) -> Array:
    """One ONNX op on arrays (sequences are int64), by onnx.reference, which computes in the arrays' types."""
    ins = [None if a is None else a if isinstance(a, np.ndarray) else np.array(a, np.int64) for a in arrays]
    names = ["" if a is None else f"x{i}" for i, a in enumerate(ins)]
    node = helper.make_node(op_type, names, ["y"], **attributes)
    value = [helper.make_tensor_value_info(n, onnx.TensorProto.UNDEFINED, None) for n in (*names, "y") if n]
    graph = helper.make_graph([node], "one", value[:-1], value[-1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    (y,) = ReferenceEvaluator(model).run(None, {n: a for n, a in zip(names, ins) if a is not None})
    return np.asarray(y)


def each(function: Callable[..., Any], *arrays: Array) -> Array:
    """A function of Python numbers for every element; an array of objects."""
    return np.asarray(np.frompyfunc(function, len(arrays), 1)(*(a.astype(object) for a in arrays)), object)


def wrapped(values: Array, dtype: np.dtype[Any]) -> Array:
    """Python integers modulo 2^bits."""
    low, high = (int(v) for v in (np.iinfo(dtype).min, np.iinfo(dtype).max))
    return np.asarray(each(lambda v: (int(v) - low) % (high - low + 1) + low, values).astype(dtype))
