"""Recurrent networks: GRU and LSTM, one step (`gru_cell`, `lstm_cell`) or a sequence (`gru`, `lstm`).

A gate is activation(x W' + b + h R' + c): W, R, b and c stack the gates of `layout` along one axis, ' transposes.

    gru     z, r   update and reset gate           n = f1(gate), h' = z * h + (1 - z) * n
    lstm    i, o, f, g  input, output, forget, cell gate    cell' = f * cell + i * g, h' = o * f2(cell')

No kernels of their own: the pass `unroll` writes them as matrix products and elementwise ops. The definitions are those
of the W3C WebNN specification, sections gru, gruCell, lstm, lstmCell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpucompile.ir.op import FLOATS, Constraint, MaybeType
from gpucompile.ir.types import TensorType
from gpucompile.ops.categories import Anchor, Cases, tensor
from gpucompile.ops.formula import wide

MATRIX: Constraint = (FLOATS, 2, 2)
STACK: Constraint = (FLOATS, 3, 3)
VECTOR: Constraint = (FLOATS, 1, 1)
DIRECTIONS = ("forward", "backward", "both")
MAX_DIMENSION = 2**32 - 1

#: MLRecurrentNetworkActivation.
ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
}

Arrays = dict[str, np.ndarray | None]
State = dict[str, np.ndarray]


@dataclass(frozen=True)
class Recurrent(Anchor, abstract=True):
    """What all four share: the checks, and the step in float64."""

    layouts: ClassVar[tuple[str, ...]] = ()  # of the gates
    activation_count: ClassVar[int] = 2

    hidden_size: int = 1
    layout: str = ""  # subclasses give the defaults of these two
    activations: tuple[str, ...] = ()

    @property
    def directions(self) -> int | None:
        """The extent of the first axis of weights and states; None for cells, which have no such axis."""
        return None

    def check_shapes(self, ins: tuple[MaybeType, ...]) -> None:
        """Attributes, and that operands have the input's data type and the shapes that it and `hidden_size` demand."""
        hidden = self.hidden_size
        if self.layout not in self.layouts:
            self.fail(ins, f"unknown layout {self.layout!r}, there are {', '.join(self.layouts)}")
        if len(self.activations) != self.activation_count or any(a not in ACTIVATIONS for a in self.activations):
            known = ", ".join(ACTIVATIONS)
            self.fail(ins, f"activations {list(self.activations)} are not {self.activation_count} of {known}")
        source = ins[0]
        assert source is not None
        batch, width = source.shape[-2:]
        rows = len(self.layouts[0]) * hidden
        lead = () if self.directions is None else (self.directions,)
        shapes = {
            "weight": (rows, width),
            "recurrent_weight": (rows, hidden),
            "bias": (rows,),
            "recurrent_bias": (rows,),
            "peephole_weight": (3 * hidden,),
        }
        for i, t in enumerate(ins[1:], 1):
            name = self.operand_name(i)
            shape = (*lead, *shapes.get(name, (batch, hidden)))  # the others are states
            if t is not None and (t.dtype is not source.dtype or t.shape != shape):
                self.fail(ins, f"{name} needs the input's data type and the shape {list(shape)}")
        if 2 * rows > MAX_DIMENSION:
            self.fail(ins, f"hidden_size {hidden} is too large: both biases together would exceed {MAX_DIMENSION}")

    def named(self, ins: tuple[np.ndarray | None, ...]) -> Arrays:
        """Operands by name, floats as float64, None for the absent ones."""
        names = [name.rstrip("?") for name in self.operands]
        return {name: None if i >= len(ins) or (a := ins[i]) is None else wide(a) for i, name in enumerate(names)}

    def gates(self, product: np.ndarray) -> dict[str, np.ndarray]:
        """The parts of stacked gates, by letter."""
        return dict(zip(self.layout, np.split(product, len(self.layout), axis=-1), strict=True))

    def activate(self, index: int, x: np.ndarray) -> np.ndarray:
        return ACTIVATIONS[self.activations[index]](x)

    def step(self, x: np.ndarray, state: State, parameters: Arrays) -> State:
        """The next state of one direction from input [batch, width]."""
        raise NotImplementedError(f"{type(self).__name__}.step")


def _affine(x: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None) -> np.ndarray:
    assert weight is not None
    out = x @ weight.T
    return np.asarray(out if bias is None else out + bias)


@dataclass(frozen=True)
class _Gru(Recurrent, abstract=True):
    layouts: ClassVar[tuple[str, ...]] = ("zrn", "rzn")
    reset_after: bool = True

    def step(self, x: np.ndarray, state: State, parameters: Arrays) -> State:
        h, recurrent, bias = state["hidden"], parameters["recurrent_weight"], parameters["recurrent_bias"]
        assert recurrent is not None
        a = self.gates(_affine(x, parameters["weight"], parameters["bias"]))
        u = self.gates(_affine(h, recurrent, bias))
        z, r = (self.activate(0, a[gate] + u[gate]) for gate in "zr")
        if self.reset_after:
            n = self.activate(1, a["n"] + r * u["n"])
        else:
            n = self.activate(1, a["n"] + self.gates(_affine(r * h, recurrent, bias))["n"])
        return {"hidden": z * h + (1 - z) * n}


@dataclass(frozen=True)
class _Lstm(Recurrent, abstract=True):
    layouts: ClassVar[tuple[str, ...]] = ("iofg", "ifgo")
    activation_count: ClassVar[int] = 3

    def step(self, x: np.ndarray, state: State, parameters: Arrays) -> State:
        h, cell = state["hidden"], state["cell"]
        stacked = _affine(x, parameters["weight"], parameters["bias"])
        stacked = stacked + _affine(h, parameters["recurrent_weight"], parameters["recurrent_bias"])
        gate = self.gates(stacked)
        if (peephole := parameters["peephole_weight"]) is not None:
            for letter, weight in zip("iof", np.split(peephole, 3), strict=True):
                gate[letter] = gate[letter] + cell * weight
        i, o, f = (self.activate(0, gate[letter]) for letter in "iof")
        new = f * cell + i * self.activate(1, gate["g"])
        return {"hidden": o * self.activate(2, new), "cell": new}


# One step ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GruCell(_Gru):
    """One step of a gated recurrent unit: the next hidden state [batch, hidden_size] (WebNN gruCell). The reset gate is
    applied to the product of the hidden state if `reset_after`, else to the hidden state itself."""

    operands: ClassVar[tuple[str, ...]] = (
        "input",
        "weight",
        "recurrent_weight",
        "hidden_state",
        "bias?",
        "recurrent_bias?",
    )
    constraints: ClassVar[dict[str, Constraint]] = {
        **dict.fromkeys(("input", "weight", "recurrent_weight", "hidden_state"), MATRIX),
        **dict.fromkeys(("bias", "recurrent_bias"), VECTOR),
    }
    layout: str = "zrn"
    activations: tuple[str, ...] = ("sigmoid", "tanh")

    def infer(self, *ins: MaybeType) -> tuple[TensorType, ...]:
        self.check_shapes(ins)
        source = ins[0]
        assert source is not None
        return (source.with_shape((source.shape[0], self.hidden_size)),)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        named = self.named(ins)
        state = {"hidden": _given(named["hidden_state"])}
        return self.step(_given(named["input"]), state, named)["hidden"].astype(ins[0].dtype)

    @classmethod
    def cases(cls) -> Cases:
        h, weights = 5, (tensor(15, 7), tensor(15, 5))
        yield cls(hidden_size=h), (tensor(3, 7), *weights, tensor(3, h), tensor(15), tensor(15))
        yield cls(hidden_size=h, layout="rzn"), (tensor(2, 7), *weights, tensor(2, h), None, tensor(15))
        yield cls(hidden_size=h, reset_after=False), (tensor(1, 7), *weights, tensor(1, h), tensor(15), tensor(15))
        relu = cls(hidden_size=8, reset_after=False, layout="rzn", activations=("relu", "sigmoid"))
        yield relu, (tensor(6, 3), tensor(24, 3), tensor(24, 8), tensor(6, 8))


@dataclass(frozen=True)
class LstmCell(_Lstm):
    """One step of a long short-term memory: hidden and cell state, both [batch, hidden_size] (WebNN lstmCell).

    The peephole weights of the input, output and forget gate read the cell state before the step."""

    operands: ClassVar[tuple[str, ...]] = (
        "input",
        "weight",
        "recurrent_weight",
        "hidden_state",
        "cell_state",
        "bias?",
        "recurrent_bias?",
        "peephole_weight?",
    )
    constraints: ClassVar[dict[str, Constraint]] = {
        **dict.fromkeys(("input", "weight", "recurrent_weight", "hidden_state", "cell_state"), MATRIX),
        **dict.fromkeys(("bias", "recurrent_bias", "peephole_weight"), VECTOR),
    }
    layout: str = "iofg"
    activations: tuple[str, ...] = ("sigmoid", "tanh", "tanh")

    def infer(self, *ins: MaybeType) -> tuple[TensorType, ...]:
        self.check_shapes(ins)
        source = ins[0]
        assert source is not None
        return (source.with_shape((source.shape[0], self.hidden_size)),) * 2

    def reference(self, *ins: np.ndarray) -> tuple[np.ndarray, ...]:
        named = self.named(ins)
        state = {"hidden": _given(named["hidden_state"]), "cell": _given(named["cell_state"])}
        new = self.step(_given(named["input"]), state, named)
        return tuple(new[name].astype(ins[0].dtype) for name in ("hidden", "cell"))

    @classmethod
    def cases(cls) -> Cases:
        h, weights, states = 5, (tensor(20, 7), tensor(20, 5)), (tensor(3, 5), tensor(3, 5))
        yield cls(hidden_size=h), (tensor(3, 7), *weights, *states, tensor(20), tensor(20))
        yield cls(hidden_size=h), (tensor(3, 7), *weights, *states, tensor(20), tensor(20), tensor(15))
        yield cls(hidden_size=h, layout="ifgo"), (tensor(3, 7), *weights, *states, None, tensor(20), tensor(15))
        other = cls(hidden_size=8, layout="ifgo", activations=("tanh", "relu", "sigmoid"))
        yield other, (tensor(6, 3), tensor(32, 3), tensor(32, 8), tensor(6, 8), tensor(6, 8))


# Sequences -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sequence(Recurrent, abstract=True):
    """A network over an input [steps, batch, width]. Its states come first, then, with `return_sequence`, the hidden
    states of all steps, [steps, directions, batch, hidden_size]."""

    states: ClassVar[tuple[str, ...]] = ("hidden",)
    steps: int = 1
    return_sequence: bool = False
    direction: str = "forward"

    @property
    def directions(self) -> int:
        return 2 if self.direction == "both" else 1

    def order(self, direction: int) -> range:
        """The steps in the order in which a direction takes them."""
        backward = direction == 1 or self.direction == "backward"
        return range(self.steps - 1, -1, -1) if backward else range(self.steps)

    def infer(self, *ins: MaybeType) -> tuple[TensorType, ...]:
        source = ins[0]
        assert source is not None
        if self.direction not in DIRECTIONS:
            self.fail(ins, f"unknown direction {self.direction!r}, there are {', '.join(DIRECTIONS)}")
        if self.steps < 1 or source.shape[0] != self.steps:
            self.fail(ins, f"the input has {source.shape[0]} steps, not {self.steps}")
        self.check_shapes(ins)
        state = source.with_shape((self.directions, source.shape[1], self.hidden_size))
        sequence = source.with_shape((self.steps, *state.shape))
        return (*(state for _ in self.states), *([sequence] if self.return_sequence else []))

    def reference(self, *ins: np.ndarray) -> tuple[np.ndarray, ...]:
        named, dtype = self.named(ins), ins[0].dtype
        x = _given(named["input"])
        shape = (self.directions, x.shape[1], self.hidden_size)
        states = {name: np.zeros(shape) for name in self.states}
        for name in self.states:
            if (initial := named[f"initial_{name}_state"]) is not None:
                states[name] = initial.copy()
        sequence = np.empty((self.steps, *shape))
        for d in range(self.directions):
            own = {name: None if a is None or name == "input" else a[d] for name, a in named.items()}
            for t in self.order(d):
                new = self.step(x[t], {name: a[d] for name, a in states.items()}, own)
                for name, value in new.items():
                    states[name][d] = value
                sequence[t, d] = new["hidden"]
        results = [*states.values(), *([sequence] if self.return_sequence else [])]
        return tuple(a.astype(dtype) for a in results)


@dataclass(frozen=True)
class Gru(Sequence, _Gru):
    """A gated recurrent unit over a sequence: the last hidden states [directions, batch, hidden_size] and, if asked,
    all of them (WebNN gru; `gru_cell` is one of its steps)."""

    operands: ClassVar[tuple[str, ...]] = (
        "input",
        "weight",
        "recurrent_weight",
        "bias?",
        "recurrent_bias?",
        "initial_hidden_state?",
    )
    constraints: ClassVar[dict[str, Constraint]] = {
        **dict.fromkeys(("input", "weight", "recurrent_weight", "initial_hidden_state"), STACK),
        **dict.fromkeys(("bias", "recurrent_bias"), MATRIX),
    }
    layout: str = "zrn"
    activations: tuple[str, ...] = ("sigmoid", "tanh")

    @classmethod
    def cases(cls) -> Cases:
        for options, d in _sequences():
            weights = (tensor(d, 15, 7), tensor(d, 15, 5))
            full = (tensor(3, 2, 7), *weights, tensor(d, 15), tensor(d, 15), tensor(d, 2, 5))
            yield cls(steps=3, hidden_size=5, **options), full
            yield cls(steps=3, hidden_size=5, **options, reset_after=False, layout="rzn"), full
        yield cls(steps=3, hidden_size=5), _plain(3, 15)
        yield cls(steps=3, hidden_size=5, reset_after=False, activations=("tanh", "relu")), _plain(3, 15)
        yield cls(steps=4, hidden_size=5, return_sequence=True), (*_plain(4, 15), None, tensor(1, 15))


@dataclass(frozen=True)
class Lstm(Sequence, _Lstm):
    """A long short-term memory over a sequence: the last hidden and cell states [directions, batch, hidden_size] and,
    if asked, all hidden states (WebNN lstm; `lstm_cell` is one of its steps)."""

    operands: ClassVar[tuple[str, ...]] = (
        "input",
        "weight",
        "recurrent_weight",
        "bias?",
        "recurrent_bias?",
        "peephole_weight?",
        "initial_hidden_state?",
        "initial_cell_state?",
    )
    constraints: ClassVar[dict[str, Constraint]] = {
        **dict.fromkeys(("input", "weight", "recurrent_weight"), STACK),
        **dict.fromkeys(("initial_hidden_state", "initial_cell_state"), STACK),
        **dict.fromkeys(("bias", "recurrent_bias", "peephole_weight"), MATRIX),
    }
    states: ClassVar[tuple[str, ...]] = ("hidden", "cell")
    layout: str = "iofg"
    activations: tuple[str, ...] = ("sigmoid", "tanh", "tanh")

    @classmethod
    def cases(cls) -> Cases:
        for options, d in _sequences():
            weights = (tensor(d, 20, 7), tensor(d, 20, 5), tensor(d, 20), tensor(d, 20))
            states = (tensor(d, 2, 5), tensor(d, 2, 5))
            yield cls(steps=3, hidden_size=5, **options), (tensor(3, 2, 7), *weights, tensor(d, 15), *states)
            yield cls(steps=3, hidden_size=5, **options, layout="ifgo"), (tensor(3, 2, 7), *weights, None, *states)
        yield cls(steps=3, hidden_size=5, activations=("tanh", "relu", "sigmoid")), _plain(3, 20)
        peephole = (None, tensor(1, 20), tensor(1, 15))
        yield cls(steps=4, hidden_size=5, return_sequence=True), (*_plain(4, 20), *peephole)
        only_cell = (None, None, None, None, tensor(1, 2, 5))
        yield cls(steps=2, hidden_size=5, return_sequence=True), (*_plain(2, 20), *only_cell)


def _sequences() -> Iterator[tuple[dict[str, Any], int]]:
    """Options of test cases, with the number of directions."""
    for direction in DIRECTIONS:
        yield {"direction": direction, "return_sequence": direction != "forward"}, 2 if direction == "both" else 1


def _plain(steps: int, rows: int) -> tuple[TensorType, ...]:
    """Input and weights of a test case with 7 features and a hidden size of 5."""
    return tensor(steps, 2, 7), tensor(1, rows, 7), tensor(1, rows, 5)


def _given(array: np.ndarray | None) -> np.ndarray:
    """A required operand."""
    assert array is not None
    return array
