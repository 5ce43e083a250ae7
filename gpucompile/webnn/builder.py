"""MLGraphBuilder: operands, one method for every operator, and `build`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucompile.errors import TypeInferenceError
from gpucompile.ir.graph import Constant, Graph, Literal, Value
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType, TensorType
from gpucompile.webnn.objects import MLGraph, MLOperand, MLOperandDescriptor, MLTensor
from gpucompile.webnn.operators import (
    ALIASES,
    OPERATORS,
    SEQUENCES,
    UNRESTRICTED,
    complete,
    extra_options,
    op_class,
    signature,
)
from gpucompile.webnn.validation import (
    array_of,
    attribute,
    check_size,
    data_type,
    described,
    fields_of,
    integer,
    integers,
    scalar_of,
    tensor_type,
)

if TYPE_CHECKING:
    from gpucompile.webnn.context import MLContext


class MLGraphBuilder:
    """Builds one graph for a context. Options are keyword arguments, each method also takes `label`, which messages
    name. A call that fails changes nothing.

    What the specification forbids raises TypeInferenceError (a TypeError and a ValueError)."""

    def __init__(self, context: MLContext) -> None:
        if not callable(getattr(context, "create_graph_builder", None)):
            raise TypeInferenceError(f"MLGraphBuilder: {context!r} is not an MLContext")
        context._require_open()
        self._context = context
        self._graph = Graph("webnn")
        self._built = False

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Callable[..., Any]: ...

    # ------------------------------------------------------------------ operands

    def input(self, name: str, data_type: Any = None, shape: Any = None, *, descriptor: Any = None) -> MLOperand:
        """A graph input. Its name is unique and not empty; `descriptor` may stand for data type and shape."""
        where = f"input {name!r}"
        self._require_open(where)
        if not isinstance(name, str) or not name:
            raise TypeInferenceError(f"{where}: the name must be a string and not empty")
        if any(v.name == name for v in self._graph.inputs):
            raise TypeInferenceError(f"{where}: there is already an input of this name")
        type = self._descriptor(data_type, shape, descriptor, where)
        return MLOperand(self, self._graph.add_input(name, type))

    def constant(
        self, value: Any, data_type: Any = None, shape: Any = None, *, descriptor: Any = None, label: str = ""
    ) -> MLOperand:
        """A constant: an array; bytes or an array with data type and shape; a number with a data type; or an MLTensor
        of `create_constant_tensor`. The data is copied. The specification's order (descriptor or data type first) is
        understood as well."""
        where = _where("constant", label)
        self._require_open(where)
        if isinstance(value, MLTensor):
            literal = self._from_tensor(value, where)
        else:
            if isinstance(value, (str, DataType)):  # constant(data_type, value)
                value, data_type = data_type, value
            elif isinstance(value, (Mapping, MLOperandDescriptor)):  # constant(descriptor, buffer)
                value, descriptor, data_type = data_type, value, None
            literal = self._literal(value, data_type, shape, descriptor, where)
        check_size(literal.type, self._context._max_bytes, where)
        return MLOperand(self, self._graph.constant(literal, name=label))

    def _literal(self, value: Any, dtype: Any, shape: Any, descriptor: Any, where: str) -> Literal:
        if isinstance(value, (int, float)) and shape is None and descriptor is None:
            if dtype is None:
                raise TypeInferenceError(f"{where}: a number needs a data type")
            kind = data_type(dtype, where)
            return Literal(scalar_of(value, kind), TensorType(kind, ()))
        if shape is None and descriptor is None and isinstance(value, (np.ndarray, np.generic)):
            try:
                kind = DataType.of(value.dtype) if dtype is None else data_type(dtype, where)
            except KeyError:
                raise TypeInferenceError(f"{where}: {value.dtype} is no data type of a tensor") from None
            type = TensorType(kind, tuple(value.shape))
        else:
            type = self._descriptor(dtype, shape, descriptor, where)
        return Literal(array_of(value, type, where), type)

    def _from_tensor(self, tensor: MLTensor, where: str) -> Literal:
        if tensor._context is not self._context:
            raise TypeInferenceError(f"{where}: {tensor!r} belongs to another context")
        if tensor.destroyed or not tensor.constant:
            why = "was destroyed" if tensor.destroyed else "is not constant; use create_constant_tensor"
            raise TypeInferenceError(f"{where}: {tensor!r} {why}")
        return Literal(np.asarray(tensor._constant), tensor._type)

    def _descriptor(self, dtype: Any, shape: Any, descriptor: Any, where: str) -> TensorType:
        dtype, shape = described(dtype, shape, descriptor, where)
        return tensor_type(dtype, shape, self._context._max_bytes, where)

    # ------------------------------------------------------------------ operators

    def split(
        self, input: MLOperand, splits: int | Sequence[int], *, axis: int = 0, label: str = ""
    ) -> list[MLOperand]:
        """Parts of `input` along `axis`: `splits` of the same size, or parts of these sizes."""
        where = _where("split", label)
        self._require_open(where)
        source = self._operand(input, "input", where)
        axis = integer(axis, f"{where}: axis")
        shape = source.type.shape
        if axis >= len(shape):
            raise TypeInferenceError(f"{where} {source.type}: axis {axis} is not an axis of a rank {len(shape)} tensor")
        if isinstance(splits, (int, np.integer)):
            count = integer(splits, f"{where}: splits")
            if count == 0 or shape[axis] % count:
                raise TypeInferenceError(f"{where} {source.type}: {count} does not divide the extent {shape[axis]}")
            sizes: tuple[int, ...] = (shape[axis] // count,) * count
        else:
            sizes = integers(splits, f"{where}: splits")
        if not sizes or min(sizes) < 1 or sum(sizes) != shape[axis]:
            raise TypeInferenceError(
                f"{where} {source.type}: {list(sizes)} are not positive sizes that add up to {shape[axis]}"
            )
        out, start = [], 0
        for size in sizes:
            starts = tuple(start if i == axis else 0 for i in range(len(shape)))
            extents = tuple(size if i == axis else d for i, d in enumerate(shape))
            out.append(self._add("slice", {"starts": starts, "sizes": extents}, [source], where))
            start += size
        return out

    def _call(self, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        label = options.pop("label", "")
        where = _where(name, label)
        self._require_open(where)
        cls = op_class(name)
        parameters = OPERATORS[name]
        if len(args) > len(parameters):
            raise TypeInferenceError(f"{where}: takes {', '.join(parameters)}; options are keyword arguments")
        given = dict(zip(parameters, args, strict=False))
        for key, value in options.items():
            key = ALIASES.get(name, {}).get(key, key)
            if key in given:
                raise TypeInferenceError(f"{where}: {key} is given twice")
            given[key] = value
        missing = [p for p in parameters if p not in given]
        if missing:
            raise TypeInferenceError(f"{where}: {missing[0]} is missing")

        values: list[Value | None] = []
        for operand in cls.operands:
            key = operand.rstrip("?*")
            value = given.pop(key, None)
            if operand.endswith("*"):
                if isinstance(value, MLOperand) or not isinstance(value, Sequence):
                    raise TypeInferenceError(f"{where}: {key} is a list of operands")
                values += [self._operand(v, f"{key}[{i}]", where) for i, v in enumerate(value)]
            elif value is None and operand.endswith("?"):
                values.append(None)
            else:
                values.append(self._operand(value, key, where))
        while values and values[-1] is None:
            values.pop()

        hints, extra = fields_of(cls), extra_options(name)
        attributes: dict[str, Any] = {}
        for key, value in given.items():
            if key not in hints and key not in extra:
                known = [*hints, *extra, *(o.rstrip("?") for o in cls.operands if o.endswith("?")), "label"]
                raise TypeInferenceError(f"{where}: there is no option {key}; options: {', '.join(known)}")
            if value is not None:
                finite = (name, key) not in UNRESTRICTED
                attributes[key] = attribute(hints.get(key, str), value, f"{where}: {key}", finite)
        return self._add(name, attributes, values, where, label)

    def _add(
        self, name: str, attributes: dict[str, Any], values: Sequence[Value | None], where: str, label: str = ""
    ) -> Any:
        cls = op_class(name)
        types = [None if v is None else v.type for v in values]
        try:
            op = complete(name, cls, types, attributes)
            for i, t in enumerate(op.result_types(*types)):
                check_size(t, self._context._max_bytes, f"{name}: result {i}")
        except TypeInferenceError as e:
            text = str(e) if where == name else f"{where}: {e}"
            raise TypeInferenceError(text + _names(cls, values)) from None
        node = self._graph.insert(op, tuple(values), name=label)
        out = [MLOperand(self, v) for v in node.outputs]
        return out if name in SEQUENCES else out[0]

    def _operand(self, value: object, name: str, where: str) -> Value:
        if not isinstance(value, MLOperand):
            raise TypeInferenceError(f"{where}: {name} is {value!r}, an MLOperand is wanted")
        if value._builder is not self:
            raise TypeInferenceError(f"{where}: {name} {value!r} belongs to another builder")
        return value._value

    def _require_open(self, where: str) -> None:
        if self._built:
            raise TypeInferenceError(f"{where}: the builder was used: a builder builds one graph, make a new one")
        self._context._require_open()

    # ------------------------------------------------------------------ build

    def build(self, outputs: Mapping[str, MLOperand]) -> MLGraph:
        """Compile what the outputs need, through the default pipeline. The builder is used up if this succeeds.

        Raises TypeInferenceError for outputs that are none, UnsupportedError for what the device or compiler lacks."""
        self._require_open("build")
        if not isinstance(outputs, Mapping) or not outputs:
            raise TypeInferenceError("build: a dict of at least one output is wanted")
        values = {}
        for name, operand in outputs.items():
            if not isinstance(name, str) or not name:
                raise TypeInferenceError(f"build: {name!r} is no name of an output")
            value = self._operand(operand, f"output {name!r}", "build")
            if value.producer is None or isinstance(value.op, Constant):
                kind = "an input" if value.producer is None else "a constant"
                raise TypeInferenceError(f"build: output {name!r} is {kind}; add an identity")
            values[name] = value
        self._graph.set_outputs(values)
        try:
            graph = self._graph.clone()
        finally:
            self._graph.set_outputs({})
        _keep_needed(graph)
        inputs = {v.name: MLOperandDescriptor.of(v.type) for v in graph.inputs}
        described = {name: MLOperandDescriptor.of(v.type) for name, v in values.items()}
        executable = self._context._compile(graph)
        self._built = True
        built = MLGraph(self._context, executable, inputs, described)
        self._context._keep(built)
        return built

    async def build_async(self, outputs: Mapping[str, MLOperand]) -> MLGraph:
        """`build`, awaitable."""
        return self.build(outputs)


def _keep_needed(graph: Graph) -> None:
    """Remove nodes and inputs that no output needs."""
    for node in graph.nodes_reversed:
        if not any(v.users for v in node.outputs):
            graph.remove(node)
    graph.inputs = [v for v in graph.inputs if v.users]


def _where(name: str, label: object) -> str:
    if not isinstance(label, str):
        raise TypeInferenceError(f"{name}: label is {label!r}, a string is wanted")
    return f"{name} {label!r}" if label else name


def _names(cls: type[Op], values: Sequence[Value | None]) -> str:
    """What the operands that have a name are called: the end of a message about their types."""
    op = object.__new__(cls)  # only asked how it calls its operands
    named = [f"{op.operand_name(i)} is {v.name!r}" for i, v in enumerate(values) if v is not None and v.name]
    return f" ({', '.join(named[:8])})" if named else ""


def _method(name: str) -> Callable[..., Any]:
    def method(self: MLGraphBuilder, *args: Any, **options: Any) -> Any:
        return self._call(name, args, options)

    method.__name__, method.__qualname__, method.__doc__ = name, f"MLGraphBuilder.{name}", op_class(name).__doc__
    called, kind = signature(name), Parameter.POSITIONAL_OR_KEYWORD
    label = Parameter("label", Parameter.KEYWORD_ONLY, default="")
    method.__signature__ = called.replace(  # type: ignore[attr-defined]  # what help() and editors show
        parameters=[Parameter("self", kind), *called.parameters.values(), label]
    )
    return method


for _name in OPERATORS:
    setattr(MLGraphBuilder, _name, _method(_name))
