"""RNN, GRU and LSTM, unrolled: the inputs of all steps in one matrix product, then a product with the state for each.

A direction's weights hold its gates one after the other. A batch entry that is over (sequence_lens) keeps its state and
yields zeros. After no steps the last state is the initial one (onnxruntime leaves memory as it finds it).

The IR's ops lstm and gru, which are WebNN's, do not serve here: they lack RNN, sequence_lens, clip, input_forget, six
of the activations and rounding to 8 bits, and their output gate's peephole reads the cell before the step, where ONNX's
reads the one after it. Steps have to be written for all these, and one way for every node is less than two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpucompile.errors import ModelError
from gpucompile.frontends.onnx.call import MICROSOFT, Call, Operand, onnx_op, scalar, type_of
from gpucompile.frontends.onnx.movement import sliced, unsqueezed
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType
from gpucompile.ops.activation import (
    Clamp,
    Elu,
    HardSigmoid,
    LeakyRelu,
    Linear,
    Relu,
    Sigmoid,
    Softplus,
    Softsign,
    Tanh,
)
from gpucompile.ops.contraction import Matmul
from gpucompile.ops.elementwise import Add, Div, Max, Min, Mul, Neg, RoundEven, Sub
from gpucompile.ops.logical import Cast, Equal, Lesser, Where
from gpucompile.ops.movement import Concat, Reshape, Transpose
from gpucompile.ops.reduction import ReduceMax, ReduceMin

#: What happens to an operand before it is multiplied with weights.
Rounding = Callable[[Operand], Operand]
#: The longest sequence that is unrolled.
STEPS_LIMIT = 4096

#: Activations by their names in lower case: how many parameters they take from the lists, their defaults, the op.
_ACTIVATIONS: dict[str, tuple[tuple[float, ...], Callable[..., Op]]] = {
    "relu": ((), Relu),
    "tanh": ((), Tanh),
    "sigmoid": ((), Sigmoid),
    "softsign": ((), Softsign),
    "softplus": ((), Softplus),
    "elu": ((1.0,), Elu),
    "leakyrelu": ((0.01,), LeakyRelu),
    "affine": ((1.0, 0.0), Linear),
    "hardsigmoid": ((0.2, 0.5), HardSigmoid),
}

_DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


@dataclass
class Cell:
    """One direction: its activations, its weights [hidden, gates * hidden], and what its formulas need."""

    call: Call
    hidden: int
    functions: list[Op]
    weights: Operand
    bias: Operand | None  # of the state's product, [gates * hidden]
    peepholes: Operand | None  # [3 * hidden]
    rounded: Rounding  # of what is multiplied with weights

    def gate(self, x: Operand, i: int) -> Operand:
        """Part `i` of the last axis."""
        t = type_of(x)
        return sliced(self.call, x, [slice(None)] * (t.rank - 1) + [slice(i * self.hidden, (i + 1) * self.hidden)])

    def act(self, i: int, x: Operand) -> Operand:
        """Activation `i` of x, which is clipped first if the node says so."""
        clip = self.call.attr("clip", 0.0)
        return self.call.add(self.functions[i], self.call.add(Clamp(-clip, clip), x) if clip else x)

    def add(self, *terms: Operand | None) -> Operand:
        total: Operand | None = None
        for term in terms:
            if term is not None:
                total = term if total is None else self.call.add(Add(), total, term)
        if total is None:
            raise ModelError("nothing to add")
        return total

    def mul(self, a: Operand, b: Operand) -> Operand:
        return self.call.add(Mul(), a, b)

    def product(self, h: Operand) -> Operand:
        return self.add(self.call.add(Matmul(), self.rounded(h), self.weights), self.bias)


def _rnn(cell: Cell, x: Operand, state: list[Operand]) -> list[Operand]:
    return [cell.act(0, cell.add(x, cell.product(state[0])))]


def _gru(cell: Cell, x: Operand, state: list[Operand]) -> list[Operand]:
    """Gates z (update), r (reset) and h (hidden)."""
    h = state[0]
    own = cell.product(h)
    z, r = (cell.act(0, cell.add(cell.gate(x, i), cell.gate(own, i))) for i in (0, 1))
    if cell.call.attr("linear_before_reset", 0):
        inner = cell.mul(r, cell.gate(own, 2))
    else:
        part = cell.call.add(Matmul(), cell.rounded(cell.mul(r, h)), cell.gate(cell.weights, 2))
        inner = cell.add(part, None if cell.bias is None else cell.gate(cell.bias, 2))
    new = cell.act(1, cell.add(cell.gate(x, 2), inner))
    keep = cell.call.add(Linear(-1.0, 1.0), z)
    return [cell.add(cell.mul(keep, new), cell.mul(z, h))]


def _lstm(cell: Cell, x: Operand, state: list[Operand]) -> list[Operand]:
    """Gates i (input), o (output), f (forget) and c (cell); peepholes look at the cell for i, o and f."""
    h, c = state
    total = cell.add(x, cell.product(h))

    def peep(index: int, value: Operand) -> Operand | None:
        return None if cell.peepholes is None else cell.mul(cell.gate(cell.peepholes, index), value)

    i = cell.act(0, cell.add(cell.gate(total, 0), peep(0, c)))
    if cell.call.attr("input_forget", 0):
        f = cell.call.add(Linear(-1.0, 1.0), i)
    else:
        f = cell.act(0, cell.add(cell.gate(total, 2), peep(2, c)))
    new = cell.add(cell.mul(f, c), cell.mul(i, cell.act(1, cell.gate(total, 3))))
    o = cell.act(0, cell.add(cell.gate(total, 1), peep(1, new)))
    return [cell.mul(o, cell.call.add(cell.functions[2], new)), new]


_STEP: dict[str, Callable[[Cell, Operand, list[Operand]], list[Operand]]] = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}


@onnx_op("RNN", "GRU", "LSTM")
def recurrent(call: Call) -> tuple[Operand, ...]:
    return _directions(call, call.node.op_type, lambda x: x)


@onnx_op("DynamicQuantizeLSTM", domain=MICROSOFT)
def dynamic_quantize_lstm(call: Call) -> tuple[Operand, ...]:
    """An LSTM with 8-bit weights [directions, size, 4 * hidden], whose scales and zero points are inputs 8 to 11. The
    inputs of all steps, and the state of each, are rounded to 8 bits as by DynamicQuantizeLinear."""
    inputs = list(call.inputs[:8])
    for i, scale in ((1, 8), (2, 10)):
        count = call.type(i).shape[0]
        w, step, origin = (call.add(Cast(DataType.FLOAT32), call.operand(k)) for k in (i, scale, scale + 1))
        # one for a direction, or one for each of its columns
        step, origin = (call.add(Reshape((count, 1, type_of(p).size // count)), p) for p in (step, origin))
        whole = call.add(Mul(), call.add(Sub(), w, origin), step)
        inputs[i] = call.add(Transpose((0, 2, 1)), whole)
    return _directions(replace(call, inputs=inputs), "LSTM", lambda x: _in_8_bits(call, x))


def _in_8_bits(call: Call, x: Operand) -> Operand:
    """x rounded to 256 equal steps from its smallest element, or 0, to its largest, or 0."""
    zero, t = scalar(0, DataType.FLOAT32), type_of(x)
    axes = tuple(range(t.rank))
    low = call.add(Min(), call.add(ReduceMin(axes, False), x), zero)
    high = call.add(Max(), call.add(ReduceMax(axes, False), x), zero)
    step = call.add(Linear(1 / 255), call.add(Sub(), high, low))
    step = call.add(Where(), call.add(Equal(), step, zero), scalar(1, DataType.FLOAT32), step)
    bytes_ = Clamp(0.0, 255.0)
    origin = call.add(bytes_, call.add(RoundEven(), call.add(Neg(), call.add(Div(), low, step))))
    whole = call.add(bytes_, call.add(Add(), call.add(RoundEven(), call.add(Div(), x, step)), origin))
    return call.add(Mul(), call.add(Sub(), whole, origin), step)


def _directions(call: Call, kind: str, rounded: Rounding) -> tuple[Operand, ...]:
    """All steps of one or both directions. With layout 1 the batch is the first axis everywhere."""
    batch_first = bool(call.attr("layout", 0))
    x = call.operand(0)
    x = call.add(Transpose((1, 0, 2)), x) if batch_first else x
    steps, batch, _ = type_of(x).shape
    if steps > STEPS_LIMIT:
        call.unsupported(f"{steps} steps; up to {STEPS_LIMIT} are supported")
    direction = call.attr("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        raise ModelError(f"unknown direction {direction!r}")
    count = 2 if direction == "bidirectional" else 1
    gates, hidden = _GATES[kind], call.type(2).shape[2]
    if call.type(1).shape[:2] != (count, gates * hidden) or call.attr("hidden_size", hidden) != hidden:
        raise ModelError(f"weights {call.type(1)} and {call.type(2)} do not suit direction {direction}")
    functions = _functions(call, kind, count)
    results = []
    for d in range(count):
        state = [_initial(call, i, d, batch, hidden, batch_first) for i in ((5, 6) if kind == "LSTM" else (5,))]
        backward = direction == "reverse" or d == 1
        own = functions[d * len(_DEFAULTS[kind]) : (d + 1) * len(_DEFAULTS[kind])]
        results.append(_run(call, kind, rounded(x), d, own, state, backward, gates, hidden, rounded))
    y = _together(call, [unsqueezed(call, r[0], 1) for r in results], 1)
    y = call.add(Transpose((2, 0, 1, 3)), y) if batch_first else y
    last = [_together(call, [unsqueezed(call, r[1][i], 0) for r in results], 0) for i in range(len(results[0][1]))]
    return y, *(call.add(Transpose((1, 0, 2)), s) if batch_first else s for s in last)


def _run(
    call: Call,
    kind: str,
    x: Operand,
    direction: int,
    functions: list[Op],
    state: list[Operand],
    backward: bool,
    gates: int,
    hidden: int,
    rounded: Rounding,
) -> tuple[Operand, list[Operand]]:
    """The results [steps, batch, hidden] of one direction, and its last state."""
    steps, batch, size = type_of(x).shape
    if not steps:
        return np.zeros((0, batch, hidden), call.type().dtype.numpy), state
    width = gates * hidden
    w = call.add(Transpose((1, 0)), _of(call, call.operand(1), direction))
    r = call.add(Transpose((1, 0)), _of(call, call.operand(2), direction))
    bias = _of(call, call.operand(3), direction) if call.has(3) else None
    halves = [None if bias is None else sliced(call, bias, [slice(i * width, (i + 1) * width)]) for i in (0, 1)]
    peepholes = _of(call, call.operand(7), direction) if kind == "LSTM" and call.has(7) else None
    cell = Cell(call, hidden, functions, r, halves[1], peepholes, rounded)
    inputs = cell.add(call.add(Matmul(), call.add(Reshape((steps * batch, size)), x), w), halves[0])
    inputs = call.add(Reshape((steps, batch, width)), inputs)
    outputs: list[Operand] = []
    for t in range(steps)[::-1] if backward else range(steps):
        now = call.add(Reshape((batch, width)), sliced(call, inputs, [slice(t, t + 1), slice(None), slice(None)]))
        new = _STEP[kind](cell, now, state)
        out = new[0]
        if call.has(4):
            lengths = call.add(Reshape((batch, 1)), call.operand(4))
            active = call.add(Lesser(), scalar(t, type_of(lengths).dtype), lengths)
            new = [call.add(Where(), active, a, b) for a, b in zip(new, state, strict=True)]
            out = call.add(Where(), active, out, scalar(0, type_of(out).dtype))
        state = new
        outputs.append(unsqueezed(call, out, 0))
    return _together(call, outputs[::-1] if backward else outputs, 0), state


def _of(call: Call, x: Operand, direction: int) -> Operand:
    """The part of a parameter for one direction."""
    shape = type_of(x).shape
    part = sliced(call, x, [slice(direction, direction + 1)] + [slice(None)] * (len(shape) - 1))
    return call.add(Reshape(shape[1:]), part)


def _initial(call: Call, index: int, direction: int, batch: int, hidden: int, batch_first: bool) -> Operand:
    if not call.has(index):
        return np.zeros((batch, hidden), call.type().dtype.numpy)
    state = call.operand(index)
    return _of(call, call.add(Transpose((1, 0, 2)), state) if batch_first else state, direction)


def _together(call: Call, parts: list[Operand], axis: int) -> Operand:
    return call.add(Concat(axis), *parts) if len(parts) > 1 else parts[0]


def _functions(call: Call, kind: str, count: int) -> list[Op]:
    """The activations of all directions; parameters go to those that take them, in order."""
    names = call.attr("activations") or _DEFAULTS[kind] * count
    if len(names) != len(_DEFAULTS[kind]) * count:
        raise ModelError(f"{len(names)} activations for {count} directions")
    given = [iter(call.attr(f"activation_{which}") or []) for which in ("alpha", "beta")]
    made: list[Op] = []
    for name in names:
        if name.lower() not in _ACTIVATIONS:
            call.unsupported(f"activation {name!r}")
        defaults, op = _ACTIVATIONS[name.lower()]
        values: list[Any] = [next(source, default) for source, default in zip(given, defaults, strict=False)]
        made.append(op(*values))
    return made
