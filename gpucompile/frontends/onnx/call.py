"""What an import function works with: one ONNX node as a `Call`, and the registry that finds the function.

    @onnx_op("Flatten")
    def flatten(call: Call) -> Operand:
        ...
        return call.add(Reshape(shape), call.operand(0))

An `Operand` is a value of the graph or a numpy array: what is known at import stays an array until a node of the graph
reads it. `Call.add` computes an op on arrays at once, so shape arithmetic folds while the model is read. A tensor
without elements is always an array. A sequence is a list of operands, an optional is its element or ABSENT: neither
outlives the import.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import numpy as np
import onnx

from gpucompile.errors import ModelError, UnsupportedError
from gpucompile.frontends.onnx.tensors import DATA_TYPES, read_tensor
from gpucompile.ir.graph import Graph, Literal, Value
from gpucompile.ir.op import NIBBLES, Op
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.logical import Cast, Comparison, Predicate, Where

BOOL = int(onnx.TensorProto.BOOL)


class Absent:
    """An optional without an element; ABSENT is the only one."""


ABSENT = Absent()


@dataclass(eq=False)
class Opaque:
    """What no graph holds, only a host that runs ONNX nodes: data of another type, or of a shape that depends on data.
    `why` continues a sentence that names it."""

    name: str
    type: onnx.TypeProto
    why: str


Operand = Value | np.ndarray
#: Whatever a name can stand for.
Anything: TypeAlias = Operand | list["Anything"] | Absent
Function = Callable[["Call"], Anything | tuple[Anything | None, ...]]
Subgraph = Callable[[onnx.GraphProto, Sequence[Anything]], list[Anything]]

#: Ops on known operands are computed at import up to this many elements; larger ones are left to the passes.
FOLD_LIMIT = 1 << 20
#: The most elements that arrays made at import may have together for one node: 1 GB of float64.
IMPORT_LIMIT = 1 << 27


class DataDependentError(UnsupportedError):
    """Something must be known when the model is compiled, but depends on graph inputs. `inputs` names them: with values
    for these (`import_model(..., inputs={name: array})`) the model may compile."""

    def __init__(self, message: str, inputs: frozenset[str] = frozenset()) -> None:
        super().__init__(message)
        self.inputs = inputs


class OpaqueError(UnsupportedError):
    """A node reads what no graph holds."""


def located(e: UnsupportedError | ModelError, where: str) -> UnsupportedError | ModelError:
    """The error with a place in front of its message."""
    return rephrased(e, f"{where}: {e}")


def rephrased(e: UnsupportedError | ModelError, message: str) -> UnsupportedError | ModelError:
    """An error of the same kind with another message."""
    return DataDependentError(message, e.inputs) if isinstance(e, DataDependentError) else type(e)(message)


@dataclass
class Builder:
    """The graph being made, and the arrays that already have a node in it."""

    graph: Graph
    constants: dict[int, tuple[np.ndarray, Value]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)  # of initializers
    marks: dict[int, tuple[Operand, int]] = field(default_factory=dict)  # ONNX element types of operands, by id
    inputs: frozenset[str] = frozenset()  # of the model: what may be given a value when it is compiled

    def mark(self, operand: Operand, element_type: int) -> Operand:
        """Remember an operand's ONNX element type where its own data type does not tell: bool is uint8 here, and arrays
        of 4-bit integers have a byte for each. ONNX's functions treat masks of bool and of uint8 differently."""
        if element_type == BOOL or DATA_TYPES.get(element_type) in NIBBLES:
            self.marks[id(operand)] = operand, element_type
        return operand

    def element(self, operand: Operand) -> int:
        """The element type an operand was marked with, else 0."""
        return self.marks[id(operand)][1] if id(operand) in self.marks else 0

    def type(self, operand: Operand) -> TensorType:
        """The type of an operand, that of arrays of 4-bit integers as they are marked."""
        marked = DATA_TYPES.get(self.element(operand))
        return type_of(operand).with_dtype(marked) if marked else type_of(operand)

    def value(self, operand: Operand) -> Value:
        """The operand as a value; an array gets a constant node, once."""
        if isinstance(operand, Value):
            return operand
        if id(operand) not in self.constants:
            if operand.size == 0:
                raise UnsupportedError(f"a tensor of shape {list(operand.shape)}: empty tensors are not supported")
            name = self.names.get(id(operand), "")
            literal = Literal(operand, self.type(operand))
            self.constants[id(operand)] = (operand, self.graph.constant(literal, name=name))
        return self.constants[id(operand)][1]


@dataclass
class Call:
    """One node: its inputs, its attributes, and the graph to write to."""

    builder: Builder
    node: onnx.NodeProto
    version: int  # of the opset
    inputs: list[Anything | None]
    attributes: dict[str, Any]
    wanted: tuple[bool, ...]  # which outputs anyone reads
    subgraph: Subgraph  # the results of a graph attribute for its inputs

    # reading the node ----------------------------------------------------------------------------------------------

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value: int, float, str, list of those, numpy array, or Literal of 4-bit elements."""
        return self.attributes.get(name, default)

    def has(self, index: int) -> bool:
        """Whether input `index` is present."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def operand(self, index: int) -> Operand:
        """Input `index`, a tensor that must be present."""
        operand = self.optional(index)
        if operand is None:
            raise ModelError(f"input {index} is missing")
        return operand

    def present(self, index: int) -> Anything:
        """Input `index`, of any kind, which must be present."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if found is None:
            raise ModelError(f"input {index} is missing")
        return found

    def optional(self, index: int) -> Operand | None:
        """Input `index`, a tensor, or None."""
        operand = self.inputs[index] if index < len(self.inputs) else None
        if isinstance(operand, (list, Absent)):
            raise ModelError(f"input {index} is a {'sequence' if isinstance(operand, list) else 'missing optional'}")
        return operand

    def sequence(self, index: int) -> list[Anything]:
        """Input `index`, which must be a sequence."""
        operand = self.inputs[index] if index < len(self.inputs) else None
        if not isinstance(operand, list):
            raise ModelError(f"input {index} is no sequence")
        return operand

    def operands(self) -> list[Operand]:
        """All inputs, tensors that must be present."""
        return [self.operand(i) for i in range(len(self.inputs))]

    def type(self, index: int = 0) -> TensorType:
        """The type of input `index`."""
        return self.builder.type(self.operand(index))

    def array(self, index: int, what: str) -> np.ndarray:
        """Input `index` as an array. Raises DataDependentError where it is known only when the model runs."""
        return self.known(self.operand(index), what)

    def known(self, operand: Operand, what: str) -> np.ndarray:
        """The operand as an array. Raises DataDependentError where it is known only when the model runs."""
        if isinstance(operand, Value):
            if operand.constant is not None:
                return operand.constant
            names = frozenset(graph_inputs(operand))
            given = ", ".join(map(repr, sorted(names & self.builder.inputs)))
            how = f" (constants= and --const give {given} a value)" if given else ""
            raise DataDependentError(f"its {what} depends on the data; it must be a constant{how}", names)
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

    def limit(self, *extents: int, arrays: int = 1) -> None:
        """Raise UnsupportedError where `arrays` arrays of this shape are too large to be made at import; called before
        they are."""
        count = math.prod(max(0, d) for d in extents) * arrays
        if count > IMPORT_LIMIT:
            self.unsupported(f"{count:,} elements would be computed at import, at most {IMPORT_LIMIT:,} are")

    def only_first_output(self) -> None:
        """Raise UnsupportedError if anyone reads another output than the first."""
        for i, wanted in enumerate(self.wanted[1:], 1):
            if wanted:
                self.unsupported(f"its output {i} ({self.node.output[i]}) is used; only output 0 is supported")

    # writing the graph ---------------------------------------------------------------------------------------------

    def add(self, op: Op, *operands: Operand | None) -> Operand:
        """The result of an op: an array if all operands are arrays and the result is small (and not of 4 bits, which
        numpy lacks), else a value."""
        out = self._add(op, operands)
        if type_of(out).dtype is DataType.UINT8 and not isinstance(op, Cast):
            data = [v for v in operands[isinstance(op, Where) :] if v is not None]
            if isinstance(op, (Comparison, Predicate)) or self.builder.element(data[0]) == BOOL:
                self.builder.mark(out, BOOL)
        return out

    def _add(self, op: Op, operands: Sequence[Operand | None]) -> Operand:
        known = bool(operands) and not any(isinstance(v, Value) for v in operands)
        if known or any(isinstance(v, np.ndarray) and not v.size for v in operands):
            (result,) = op.result_types(*(None if v is None else self.builder.type(v) for v in operands))
            if not result.size:
                return empty(result)
            if known and result.size <= FOLD_LIMIT and result.dtype not in NIBBLES:
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


def empty(t: TensorType) -> np.ndarray:
    """The array of a type without elements. Raises UnsupportedError where its other extents are too much for numpy."""
    try:
        return np.zeros(t.shape, t.dtype.numpy)
    except ValueError as e:
        raise UnsupportedError(f"a tensor of shape {list(t.shape)} ({e})") from e


def graph_inputs(value: Value) -> Iterator[str]:
    """The names of the graph inputs that a value is computed from."""
    seen, stack = {value}, [value]
    while stack:
        v = stack.pop()
        if v.producer is None:
            yield v.name
        else:
            new = [u for u in v.producer.operand_values if u not in seen]
            seen.update(new)
            stack.extend(new)


def scalar(value: float, dtype: DataType) -> np.ndarray:
    """A rank 0 array."""
    return np.array(value, dtype.numpy)


# Registry ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """An import function and the opsets it is for."""

    since: int
    until: int | None
    function: Function


_FUNCTIONS: dict[tuple[str, str], list[Entry]] = {}

#: The domain of ONNX Runtime's own ops.
MICROSOFT = "com.microsoft"


def onnx_op(*names: str, domain: str = "", since: int = 1, until: int | None = None) -> Callable[[Function], Function]:
    """Register an import function for ONNX ops, for opsets from `since` up to, but not including, `until`."""

    def register(function: Function) -> Function:
        for name in names:
            _FUNCTIONS.setdefault((domain, name), []).append(Entry(since, until, function))
        return function

    return register


def entries() -> dict[tuple[str, str], list[Entry]]:
    """All import functions, by domain and op."""
    return _FUNCTIONS


def find_function(domain: str, name: str, version: int) -> Function | None:
    """The import function of an op at an opset version of its domain; 1:1 ops come from the op classes."""
    for entry in _FUNCTIONS.get((domain, name), ()):
        if entry.since <= version and (entry.until is None or version < entry.until):
            return entry.function
    if domain == "":
        for op in Op.registry.values():
            if op.onnx == name:
                return _one_to_one(op)
    return None


def _one_to_one(op: type[Op]) -> Function:
    def function(call: Call) -> Operand:
        return call.add(op(), *(call.optional(i) for i in range(len(call.inputs))))

    return function


# Attributes --------------------------------------------------------------------------------------------------------


def resolved(node: onnx.NodeProto, outer: Mapping[str, onnx.AttributeProto]) -> onnx.NodeProto:
    """A node of a function's body with the attributes that refer to those of the call, `outer`, in place."""
    if not any(a.ref_attr_name for a in node.attribute):
        return node
    out = onnx.NodeProto()
    out.CopyFrom(node)
    del out.attribute[:]
    for a in node.attribute:
        found = outer.get(a.ref_attr_name) if a.ref_attr_name else a
        if found is not None:
            out.attribute.add().CopyFrom(found)
            out.attribute[-1].name = a.name
    return out


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
        elif a.type in (kinds.INT, kinds.FLOAT, kinds.INTS, kinds.FLOATS, kinds.GRAPH, kinds.TYPE_PROTO):
            value = onnx.helper.get_attribute_value(a)
            out[a.name] = list(value) if isinstance(value, Sequence) or hasattr(value, "extend") else value
        else:
            raise UnsupportedError(f"attribute {a.name} is a {kinds.AttributeType.Name(a.type)}")
    return out
