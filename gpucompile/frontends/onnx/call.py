"""What an import function works with: one ONNX node as a `Call`, and the registry that finds the function.

    @onnx_op("Flatten")
    def flatten(call: Call) -> Operand:
        ...
        return call.add(Reshape(shape), call.operand(0))

An `Operand` is a value of the graph or a numpy array: what is known at import stays an array until a node of the graph
reads it. `Call.add` computes an op on arrays at once, so shape arithmetic folds while the model is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import onnx

from gpucompile.errors import ModelError, UnsupportedError
from gpucompile.frontends.onnx.tensors import read_tensor
from gpucompile.ir.graph import Graph, Value
from gpucompile.ir.op import NIBBLES, Op
from gpucompile.ir.types import DataType, TensorType

Operand = Value | np.ndarray
Function = Callable[["Call"], Operand | tuple[Operand | None, ...]]

#: Ops on known operands are computed at import up to this many elements; larger ones are left to the passes.
FOLD_LIMIT = 1 << 20


@dataclass
class Builder:
    """The graph being made, and the arrays that already have a node in it."""

    graph: Graph
    constants: dict[int, tuple[np.ndarray, Value]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)  # of initializers

    def value(self, operand: Operand) -> Value:
        """The operand as a value; an array gets a constant node, once."""
        if isinstance(operand, Value):
            return operand
        if id(operand) not in self.constants:
            if operand.size == 0:
                raise UnsupportedError(f"a tensor of shape {list(operand.shape)}: empty tensors are not supported")
            name = self.names.get(id(operand), "")
            self.constants[id(operand)] = (operand, self.graph.constant(operand, name=name))
        return self.constants[id(operand)][1]


@dataclass
class Call:
    """One node: its inputs, its attributes, and the graph to write to."""

    builder: Builder
    node: onnx.NodeProto
    version: int  # of the opset
    inputs: list[Operand | None]
    attributes: dict[str, Any]
    wanted: tuple[bool, ...]  # which outputs anyone reads

    # reading the node ----------------------------------------------------------------------------------------------

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value: int, float, str, list of those, numpy array, or Literal of 4-bit elements."""
        return self.attributes.get(name, default)

    def has(self, index: int) -> bool:
        """Whether input `index` is present."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def operand(self, index: int) -> Operand:
        """Input `index`, which must be present."""
        operand = self.inputs[index] if index < len(self.inputs) else None
        if operand is None:
            raise ModelError(f"input {index} is missing")
        return operand

    def optional(self, index: int) -> Operand | None:
        """Input `index` or None."""
        return self.inputs[index] if index < len(self.inputs) else None

    def type(self, index: int = 0) -> TensorType:
        """The type of input `index`."""
        return type_of(self.operand(index))

    def array(self, index: int, what: str) -> np.ndarray:
        """Input `index` as an array. Raises UnsupportedError where it is known only when the model runs."""
        operand = self.operand(index)
        if isinstance(operand, Value):
            self.unsupported(f"its {what} depends on the data; it must be a constant")
        return operand

    def ints(self, index: int, what: str) -> list[int] | None:
        """An optional constant input as a list of integers."""
        return [int(v) for v in self.array(index, what).reshape(-1)] if self.has(index) else None

    def axis(self, value: int, rank: int) -> int:
        """An axis, counted from the end if negative. Raises ModelError if there is none such."""
        if not -rank <= value < rank:
            raise ModelError(f"axis {value} is not an axis of a rank {rank} tensor")
        return value % rank if rank else 0

    def unsupported(self, why: str) -> NoReturn:
        """Raise UnsupportedError; the importer adds where."""
        raise UnsupportedError(why)

    def only_first_output(self) -> None:
        """Raise UnsupportedError if anyone reads another output than the first."""
        for i, wanted in enumerate(self.wanted[1:], 1):
            if wanted:
                self.unsupported(f"its output {i} ({self.node.output[i]}) is used; only output 0 is supported")

    # writing the graph ---------------------------------------------------------------------------------------------

    def add(self, op: Op, *operands: Operand | None) -> Operand:
        """The result of an op: an array if all operands are arrays and the result is small (and not of 4 bits, which
        numpy lacks), else a value."""
        if operands and not any(isinstance(v, Value) for v in operands):
            (result,) = op.result_types(*(None if v is None else type_of(v) for v in operands))
            if result.size <= FOLD_LIMIT and result.dtype not in NIBBLES:
                with np.errstate(all="ignore"):
                    return np.asarray(op.reference(*operands))
        return self.builder.graph.add(op, *(None if v is None else self.builder.value(v) for v in operands))


def type_of(operand: Operand) -> TensorType:
    """The type of a value or an array. Raises UnsupportedError for arrays of types that gpucompile lacks."""
    if isinstance(operand, Value):
        return operand.type
    try:
        return TensorType.of(operand)
    except KeyError:
        raise UnsupportedError(f"a tensor of data type {operand.dtype}") from None


def scalar(value: float, dtype: DataType) -> np.ndarray:
    """A rank 0 array."""
    return np.array(value, dtype.numpy)


# Registry ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    since: int
    until: int | None
    function: Function


_FUNCTIONS: dict[str, list[_Entry]] = {}


def onnx_op(*names: str, since: int = 1, until: int | None = None) -> Callable[[Function], Function]:
    """Register an import function for ONNX ops, for opsets from `since` up to, but not including, `until`."""

    def register(function: Function) -> Function:
        for name in names:
            _FUNCTIONS.setdefault(name, []).append(_Entry(since, until, function))
        return function

    return register


def find_function(name: str, version: int) -> Function | None:
    """The import function of an ONNX op at an opset version; 1:1 ops come from the op classes."""
    for entry in _FUNCTIONS.get(name, ()):
        if entry.since <= version and (entry.until is None or version < entry.until):
            return entry.function
    for op in Op.registry.values():
        if op.onnx == name:
            return _one_to_one(op)
    return None


def _one_to_one(op: type[Op]) -> Function:
    def function(call: Call) -> Operand:
        return call.add(op(), *call.inputs)

    return function


# Attributes --------------------------------------------------------------------------------------------------------


def read_attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attribute values by name."""
    kinds = onnx.AttributeProto
    out: dict[str, Any] = {}
    for a in node.attribute:
        if a.type == kinds.STRING:
            out[a.name] = a.s.decode("utf-8", "replace")
        elif a.type == kinds.STRINGS:
            out[a.name] = [s.decode("utf-8", "replace") for s in a.strings]
        elif a.type == kinds.TENSOR:
            out[a.name] = read_tensor(a.t, None)
        elif a.type in (kinds.INT, kinds.FLOAT, kinds.INTS, kinds.FLOATS):
            value = onnx.helper.get_attribute_value(a)
            out[a.name] = list(value) if isinstance(value, Sequence) or hasattr(value, "extend") else value
        else:
            raise UnsupportedError(f"attribute {a.name} is a {kinds.AttributeType.Name(a.type)}")
    return out
