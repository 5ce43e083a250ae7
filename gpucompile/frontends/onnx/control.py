"""Control flow, sequences and optionals: all of it is gone after the import.

A branch is chosen by a constant condition; with one known only when the model runs, both branches are computed and one
selected. Loops and scans are unrolled. Sequences are lists of operands, an optional is its element or ABSENT.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import onnx

from gpucompile.errors import ModelError, UnsupportedError
from gpucompile.frontends.onnx.call import ABSENT, Absent, Anything, Call, Operand, empty, onnx_op, type_of
from gpucompile.frontends.onnx.movement import sliced, unsqueezed
from gpucompile.frontends.onnx.tensors import DATA_TYPES
from gpucompile.ir.types import TensorType
from gpucompile.ops.logical import Where
from gpucompile.ops.movement import Concat, Reshape, Reverse

#: The longest loop that is unrolled.
UNROLL_LIMIT = 4096


# Control flow --------------------------------------------------------------------------------------------------------


@onnx_op("If")
def if_(call: Call) -> tuple[Anything, ...]:
    condition = call.operand(0)
    if isinstance(condition, np.ndarray):
        return tuple(call.subgraph(_body(call, "then_branch" if condition.any() else "else_branch"), ()))
    yes, no = (call.subgraph(_body(call, name), ()) for name in ("then_branch", "else_branch"))
    condition = call.add(Reshape(()), condition)
    results = []
    for a, b in zip(yes, no, strict=True):
        if isinstance(a, (list, Absent)) or isinstance(b, (list, Absent)) or type_of(a) != type_of(b):
            call.known(condition, "condition chooses between results of different types, but it")
        else:
            results.append(call.add(Where(), condition, a, b))
    return tuple(results)


@onnx_op("Loop")
def loop(call: Call) -> tuple[Anything, ...]:
    body = _body(call, "body")
    limit = call.array(0, "trip count").reshape(-1) if call.has(0) else None
    trips = UNROLL_LIMIT + 1 if limit is None else int(limit[0])
    condition: Anything = call.operand(1) if call.has(1) else np.array(1, np.uint8)
    carried = [call.present(i) for i in range(2, len(call.inputs))]
    scanned: list[list[Operand]] = [[] for _ in range(len(body.output) - 1 - len(carried))]
    for i in range(trips):
        if not call.known(_tensor(condition), "number of iterations").any():
            break
        if i == UNROLL_LIMIT:
            call.unsupported(f"more than {UNROLL_LIMIT} iterations")
        condition, *rest = call.subgraph(body, [np.array(i, np.int64), condition, *carried])
        carried = rest[: len(carried)]
        for results, value in zip(scanned, rest[len(carried) :], strict=True):
            results.append(_tensor(value))
    if scanned and not scanned[0]:
        return (*carried, *_nothing(call, body, [np.array(0, np.int64), condition, *carried], [0] * len(scanned)))
    return (*carried, *(_stacked(call, results, 0) for results in scanned))


@onnx_op("Scan")
def scan(call: Call) -> tuple[Anything, ...]:
    body = _body(call, "body")
    count = call.attr("num_scan_inputs")
    if call.version < 9:
        return _batched_scan(call, body, count)
    states, inputs = call.operands()[:-count], call.operands()[-count:]
    axes = call.attr("scan_input_axes", [0] * count)
    backward = call.attr("scan_input_directions", [0] * count)
    outputs = len(body.output) - len(states)
    return _scan(
        call,
        body,
        states,
        [(x, call.axis(a, type_of(x).rank), bool(b)) for x, a, b in zip(inputs, axes, backward, strict=True)],
        call.attr("scan_output_axes", [0] * outputs),
        [bool(b) for b in call.attr("scan_output_directions", [0] * outputs)],
    )


def _batched_scan(call: Call, body: onnx.GraphProto, count: int) -> tuple[Anything, ...]:
    """Before opset 9: a first axis for the batch, and optional lengths."""
    if call.has(0):
        call.unsupported("sequence_lens")
    operands = [call.operand(i) for i in range(1, len(call.inputs))]
    batch = type_of(operands[0]).shape[0]
    backward = call.attr("directions", [0] * count)
    parts = []
    for i in range(batch):
        mine = [_picked(call, x, 0, i) for x in operands]
        inputs = [(x, 0, bool(b)) for x, b in zip(mine[-count:], backward, strict=True)]
        outputs = len(body.output) - len(mine) + count
        parts.append(_scan(call, body, mine[:-count], inputs, [0] * outputs, [False] * outputs))
    return tuple(_stacked(call, [_tensor(p[i]) for p in parts], 0) for i in range(len(body.output)))


def _scan(
    call: Call,
    body: onnx.GraphProto,
    states: Sequence[Anything],
    inputs: Sequence[tuple[Operand, int, bool]],
    axes: Sequence[int],
    backward: Sequence[bool],
) -> tuple[Anything, ...]:
    lengths = {type_of(x).shape[axis] for x, axis, _ in inputs}
    if len(lengths) != 1:
        raise ModelError(f"scan inputs of different lengths {sorted(lengths)}")
    (length,) = lengths
    if length > UNROLL_LIMIT:
        call.unsupported(f"more than {UNROLL_LIMIT} iterations")
    results: list[list[Operand]] = [[] for _ in axes]
    for i in range(length):
        parts = [_picked(call, x, axis, length - 1 - i if back else i) for x, axis, back in inputs]
        out = call.subgraph(body, [*states, *parts])
        states = out[: len(states)]
        for result, value in zip(results, out[len(states) :], strict=True):
            result.append(_tensor(value))
    if axes and not length:
        rest = [type_of(x).shape[:a] + type_of(x).shape[a + 1 :] for x, a, _ in inputs]
        parts = [np.zeros(shape, type_of(x).dtype.numpy) for shape, (x, *_) in zip(rest, inputs, strict=True)]
        return (*states, *_nothing(call, body, [*states, *parts], axes))
    stacked = []
    for result, axis, back in zip(results, axes, backward, strict=True):
        at = call.axis(axis, type_of(result[0]).rank + 1)
        stacked.append(_stacked(call, result[::-1] if back else result, at))
    return (*states, *stacked)


def _nothing(
    call: Call, body: onnx.GraphProto, inputs: Sequence[Anything], axes: Sequence[int]
) -> Iterator[np.ndarray]:
    """What is collected along these axes where the body never runs. Its last outputs have the types that it declares,
    else those that come of importing it for `inputs`, after which it is removed again."""
    infos = body.output[len(body.output) - len(axes) :]
    types = [_declared(info) for info in infos]
    if None in types:
        types = _found(call, body, inputs, len(axes))
    for found, axis in zip(types, axes, strict=True):
        assert found is not None
        t, element = found
        at = call.axis(axis, t.rank + 1)
        out = empty(TensorType(t.dtype, (*t.shape[:at], 0, *t.shape[at:])))
        call.builder.mark(out, element)
        yield out


def _declared(info: onnx.ValueInfoProto) -> tuple[TensorType, int] | None:
    """The type of a value, and its ONNX element type; None where the model does not say all of it."""
    tensor = info.type.tensor_type
    if not tensor.HasField("shape") or tensor.elem_type not in DATA_TYPES:
        return None
    if any(not d.HasField("dim_value") or d.dim_value < 0 for d in tensor.shape.dim):
        return None
    return TensorType(DATA_TYPES[tensor.elem_type], tuple(d.dim_value for d in tensor.shape.dim)), tensor.elem_type


def _found(
    call: Call, body: onnx.GraphProto, inputs: Sequence[Anything], count: int
) -> list[tuple[TensorType, int] | None]:
    """The types of the last `count` results of a body, by importing it."""
    graph = call.builder.graph
    last = next(graph.nodes_reversed, None)
    try:
        results = [_tensor(r) for r in call.subgraph(body, inputs)[-count:]]
    except (ModelError, UnsupportedError) as e:
        call.unsupported(f"a loop without iterations whose results are collected, of a type that cannot be found: {e}")
    for node in list(itertools.takewhile(lambda n: n is not last, graph.nodes_reversed)):
        if node.outputs[0].constant is None:  # which may have been an initializer's first use
            graph.remove(node)
    return [(call.builder.type(r), call.builder.element(r)) for r in results]


def _body(call: Call, name: str) -> onnx.GraphProto:
    body = call.attr(name)
    if not isinstance(body, onnx.GraphProto):
        raise ModelError(f"the attribute {name} is missing")
    return body


def _tensor(value: Anything) -> Operand:
    if isinstance(value, (list, Absent)):
        raise ModelError("a result is a sequence or an optional where a tensor is wanted")
    return value


def _picked(call: Call, x: Operand, axis: int, index: int) -> Operand:
    """Element `index` along an axis, which vanishes."""
    shape = type_of(x).shape
    windows = [slice(None)] * len(shape)
    windows[axis] = slice(index, index + 1)
    return call.add(Reshape((*shape[:axis], *shape[axis + 1 :])), sliced(call, x, windows))


def _stacked(call: Call, parts: Sequence[Operand], axis: int) -> Operand:
    """Parts of one type along a new axis."""
    if not parts:
        call.unsupported("a loop without iterations whose results are collected")
    return _joined(call, [unsqueezed(call, p, axis) for p in parts], axis)


def _joined(call: Call, parts: Sequence[Operand], axis: int) -> Operand:
    full = [p for p in parts if type_of(p).size] or list(parts[:1])
    return call.add(Concat(axis), *full) if len(full) > 1 else full[0]


# Sequences -----------------------------------------------------------------------------------------------------------


def _position(call: Call, index: int, length: int) -> int:
    """A constant position in a sequence, from the end if negative."""
    at = int(call.array(index, "position").reshape(-1)[0])
    if not -length <= at < length:
        raise ModelError(f"position {at} in a sequence of {length}")
    return at % length


@onnx_op("SequenceEmpty")
def sequence_empty(call: Call) -> Anything:
    return []


@onnx_op("SequenceConstruct")
def sequence_construct(call: Call) -> Anything:
    return list(call.operands())


@onnx_op("SequenceLength")
def sequence_length(call: Call) -> Anything:
    return np.array(len(call.sequence(0)), np.int64)


@onnx_op("SequenceAt")
def sequence_at(call: Call) -> Anything:
    sequence = call.sequence(0)
    return sequence[_position(call, 1, len(sequence))]


@onnx_op("SequenceErase")
def sequence_erase(call: Call) -> Anything:
    sequence = list(call.sequence(0))
    del sequence[_position(call, 1, len(sequence)) if call.has(1) else -1]
    return sequence


@onnx_op("SequenceInsert")
def sequence_insert(call: Call) -> Anything:
    """The position may be one past the end, which is where it goes by default."""
    sequence = list(call.sequence(0))
    at = _position(call, 2, len(sequence) + 1) if call.has(2) else len(sequence)
    if call.has(2) and int(call.array(2, "position").reshape(-1)[0]) < 0:
        at -= 1  # counted from the old end
    sequence.insert(at, call.operand(1))
    return sequence


@onnx_op("SplitToSequence")
def split_to_sequence(call: Call) -> Anything:
    t = call.type()
    axis = call.axis(call.attr("axis", 0), t.rank)
    extent = t.shape[axis]
    single = not call.has(1)
    given = np.array(1) if single else call.array(1, "split")
    size = extent if given.ndim else int(given)
    if size < 1 and extent:
        raise ModelError(f"pieces of {size} of axis {axis} of {t}")
    count = given.size if given.ndim else -(-extent // size) if extent else 0
    if count > UNROLL_LIMIT:
        call.unsupported(f"a sequence of {count:,} tensors; up to {UNROLL_LIMIT:,} are supported")
    sizes = [int(s) for s in given] if given.ndim else [min(size, extent - i * size) for i in range(count)]
    if sum(sizes) != extent:
        raise ModelError(f"cannot split axis {axis} of {t} into {sizes}")
    parts: list[Anything] = []
    start = 0
    for n in sizes:
        windows = [slice(None)] * t.rank
        windows[axis] = slice(start, start + n)
        part = sliced(call, call.operand(0), windows)
        if single and not call.attr("keepdims", 1):
            part = call.add(Reshape((*t.shape[:axis], *t.shape[axis + 1 :])), part)
        parts.append(part)
        start += n
    return parts


@onnx_op("ConcatFromSequence")
def concat_from_sequence(call: Call) -> Anything:
    parts = [_tensor(v) for v in call.sequence(0)]
    if not parts:
        raise ModelError("the sequence is empty")
    rank = type_of(parts[0]).rank
    if call.attr("new_axis", 0):
        return _stacked(call, parts, call.axis(call.attr("axis"), rank + 1))
    return _joined(call, parts, call.axis(call.attr("axis"), rank))


@onnx_op("SequenceMap")
def sequence_map(call: Call) -> tuple[Anything, ...]:
    """The body for every element of the first sequence, and of others of its length; tensors are the same for all."""
    body = _body(call, "body")
    first = call.sequence(0)
    columns = [
        v if isinstance(v, list) else [v] * len(first) for v in (call.present(i) for i in range(len(call.inputs)))
    ]
    if any(len(c) != len(first) for c in columns):
        raise ModelError("sequences of different lengths")
    rows = [call.subgraph(body, row) for row in zip(*columns, strict=True)]
    return tuple([row[i] for row in rows] for i in range(len(body.output)))


@onnx_op("ReverseSequence")
def reverse_sequence(call: Call) -> Operand:
    """Each batch entry's first `sequence_lens` elements backwards; the lengths must be constant."""
    t = call.type()
    time, batch = call.axis(call.attr("time_axis", 0), t.rank), call.axis(call.attr("batch_axis", 1), t.rank)
    lengths = call.ints(1, "lengths") or []
    if len(lengths) != t.shape[batch] or {time, batch} != {0, 1}:
        raise ModelError(f"{len(lengths)} lengths, time axis {time} and batch axis {batch} do not suit {t}")
    parts = []
    for i, length in enumerate(lengths):
        windows = [slice(None)] * t.rank
        windows[batch] = slice(i, i + 1)
        head, tail = list(windows), list(windows)
        head[time], tail[time] = slice(0, length), slice(length, None)
        pieces = [sliced(call, call.operand(0), w) for w in (head, tail)]
        parts.append(_joined(call, [call.add(Reverse((time,)), pieces[0]), pieces[1]], time))
    return _joined(call, parts, batch)


# Optionals -----------------------------------------------------------------------------------------------------------


@onnx_op("Optional")
def optional(call: Call) -> Anything:
    return call.present(0) if call.inputs else ABSENT


@onnx_op("OptionalHasElement")
def optional_has_element(call: Call) -> Anything:
    there = call.has(0) and not isinstance(call.inputs[0], Absent)
    return np.array(there, np.uint8)


@onnx_op("OptionalGetElement")
def optional_get_element(call: Call) -> Anything:
    value = call.present(0)
    if isinstance(value, Absent):
        raise ModelError("the optional has no element")
    return value
