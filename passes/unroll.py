"""Recurrent networks, step by step.

    gru, lstm             all inputs times their weights: one gemm; then for every step of every direction
    lstm step             gates = gemm(h, R, that step's rows); cell, h = elementwise functions of the gates' slices
    gru step              the same with reset_after; without, a gemm for z and r and another one for n
    gru_cell, lstm_cell   one such step

Biases move into the product of the inputs, but for what the reset gate of a gru multiplies. An initial state that is
absent is zero, so the first step has no recurrent product. The steps of both directions alternate: they are independent
of each other. Runs first, so that all other passes see ordinary ops. Linear in steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpucompile.ir.graph import Graph, Node, Value
from gpucompile.ir.op import Op
from gpucompile.ops.activation import Relu, Sigmoid, Tanh
from gpucompile.ops.contraction import Gemm
from gpucompile.ops.elementwise import Add, Mul, Sub
from gpucompile.ops.movement import Concat, Reshape, Slice
from gpucompile.ops.recurrent import Gru, GruCell, Recurrent, Sequence
from gpucompile.passes._rewrite import erase
from gpucompile.passmanager.base import Context, Pass

ACTIVATIONS: dict[str, Op] = {"relu": Relu(), "sigmoid": Sigmoid(), "tanh": Tanh()}

State = dict[str, Value | None]  # "hidden" and, for lstm, "cell"; None is zero


@dataclass(frozen=True)
class Unroll(Pass):
    """gru, lstm and their cells -> gemm and elementwise ops for every step"""

    def run(self, graph: Graph, ctx: Context) -> bool:
        changed = False
        for node in graph.nodes:
            if isinstance(node.op, Recurrent):
                operands = node.operand_values
                results = _sequence(graph, node) if isinstance(node.op, Sequence) else _cell(graph, node)
                ctx.count(node.op.name)
                graph.replace(node, *results)
                erase(graph, operands)
                changed = True
        return changed


def _named(node: Node) -> dict[str, Value | None]:
    """The operands by name, None for the absent ones."""
    names = [name.rstrip("?") for name in node.op.operands]
    return dict(zip(names, (*node.inputs, *(None,) * (len(names) - len(node.inputs))), strict=True))


def _cell(graph: Graph, node: Node) -> list[Value]:
    named = _named(node)
    x = named["input"]
    assert x is not None
    state = {name: named[f"{name}_state"] for name in ("hidden", "cell") if f"{name}_state" in named}
    direction = _direction(graph, node, named, x)
    return [_present(v) for v in direction.step(state, 0, x.type.shape[0]).values()]


def _sequence(graph: Graph, node: Node) -> list[Value]:
    op, named = node.op, _named(node)
    assert isinstance(op, Sequence)
    x = named["input"]
    assert x is not None
    steps, batch, width = x.type.shape
    flat = graph.add(Reshape((steps * batch, width)), x, before=node)
    directions, states = [], []
    for d in range(op.directions):
        own = {name: None if v is None else _part(graph, node, v, d) for name, v in named.items() if name != "input"}
        directions.append(_direction(graph, node, own, flat))
        states.append({name: own[f"initial_{name}_state"] for name in op.states})
    hidden: dict[tuple[int, int], Value] = {}  # by step and direction
    for turn in range(steps):
        for d, direction in enumerate(directions):
            t = op.order(d)[turn]
            states[d] = direction.step(states[d], t, batch)
            hidden[t, d] = _present(states[d]["hidden"])
    results = [_stack(graph, node, [_present(s[name]) for s in states], i) for i, name in enumerate(op.states)]
    if op.return_sequence:
        results.append(_stack(graph, node, [hidden[key] for key in sorted(hidden)], len(results)))
    return results


def _part(graph: Graph, node: Node, v: Value, direction: int) -> Value:
    """The operand's part for a direction, without that axis."""
    shape = v.type.shape
    if shape[0] > 1:
        starts = (direction, *(0,) * (len(shape) - 1))
        v = graph.add(Slice(starts, (1, *shape[1:])), v, before=node, name=v.name)
    return graph.add(Reshape(shape[1:]), v, before=node, name=v.name)


def _stack(graph: Graph, node: Node, values: list[Value], index: int) -> Value:
    """States [batch, hidden], one after the other, as result `index`."""
    flat = graph.add(Concat(0), *values, before=node) if len(values) > 1 else values[0]
    return graph.add(Reshape(node.outputs[index].type.shape), flat, before=node)


def _direction(graph: Graph, node: Node, own: dict[str, Value | None], flat: Value) -> _Direction:
    if isinstance(node.op, Gru | GruCell):
        return _GruDirection(graph, node, own, flat)
    return _LstmDirection(graph, node, own, flat)


def _present(value: Value | None) -> Value:
    assert value is not None
    return value


class _Direction:
    """Writes the steps of one direction: `own` are its operands, `flat` the inputs [steps * batch, width]. Both biases
    are added to the product of the inputs, unless they are `apart`."""

    def __init__(
        self, graph: Graph, node: Node, own: dict[str, Value | None], flat: Value, apart: bool = False
    ) -> None:
        assert isinstance(node.op, Recurrent)
        self.graph, self.node, self.op = graph, node, node.op
        self.hidden = self.op.hidden_size
        self.recurrent = _present(own["recurrent_weight"])
        bias, self.recurrent_bias = own["bias"], own["recurrent_bias"]
        if self.recurrent_bias is not None and not apart:
            bias = self.recurrent_bias if bias is None else self.add(Add(), bias, self.recurrent_bias)
        self.projected = self.add(Gemm(b_transpose=True), flat, _present(own["weight"]), bias)

    def step(self, state: State, t: int, batch: int) -> State:
        """The state after step `t`."""
        raise NotImplementedError

    # what steps are made of

    def add(self, op: Op, *inputs: Value | None) -> Value:
        return self.graph.add(op, *inputs, before=self.node)

    def activate(self, index: int, x: Value) -> Value:
        return self.add(ACTIVATIONS[self.op.activations[index]], x)

    def inputs(self, t: int, batch: int, start: str, stop: str) -> Value:
        """The product of the inputs of step `t`, from gate `start` to gate `stop`."""
        return self.columns(self.projected, start, stop, t * batch, batch)

    def columns(self, v: Value, start: str, stop: str, row: int = 0, rows: int | None = None) -> Value:
        """From gate `start` to gate `stop` of a matrix whose columns are those of all gates."""
        first, last = self.op.layout.index(start), self.op.layout.index(stop) + 1
        rows = v.type.shape[0] if rows is None else rows
        window = Slice((row, first * self.hidden), (rows, (last - first) * self.hidden))
        whole = window.sizes == v.type.shape
        return v if whole else self.add(window, v)

    def product(self, h: Value | None, weight: Value, c: Value | None) -> Value | None:
        """h * weight' + c, None if both h and c are zero."""
        return c if h is None else self.add(Gemm(b_transpose=True), h, weight, c)


class _LstmDirection(_Direction):
    def __init__(self, graph: Graph, node: Node, own: dict[str, Value | None], flat: Value) -> None:
        super().__init__(graph, node, own, flat)
        self.peephole = {}
        if (weight := own["peephole_weight"]) is not None:
            for i, gate in enumerate("iof"):
                self.peephole[gate] = self.add(Slice((i * self.hidden,), (self.hidden,)), weight)

    def step(self, state: State, t: int, batch: int) -> State:
        h, cell, layout = state["hidden"], state["cell"], self.op.layout
        gates = _present(self.product(h, self.recurrent, self.inputs(t, batch, layout[0], layout[-1])))

        def gate(letter: str) -> Value:
            x = self.columns(gates, letter, letter)
            if cell is not None and letter in self.peephole:
                x = self.add(Add(), x, self.add(Mul(), cell, self.peephole[letter]))
            return self.activate(1 if letter == "g" else 0, x)

        new = self.add(Mul(), gate("i"), gate("g"))
        if cell is not None:
            new = self.add(Add(), self.add(Mul(), gate("f"), cell), new)
        return {"hidden": self.add(Mul(), gate("o"), self.activate(2, new)), "cell": new}


class _GruDirection(_Direction):
    """Both layouts have n last, so that z and r are adjacent."""

    def __init__(self, graph: Graph, node: Node, own: dict[str, Value | None], flat: Value) -> None:
        assert isinstance(node.op, Gru | GruCell)
        self.reset_after = node.op.reset_after
        super().__init__(graph, node, own, flat, apart=self.reset_after)
        size = self.hidden
        if not self.reset_after:
            self.recurrent_zr = self.add(Slice((0, 0), (2 * size, size)), self.recurrent)
            self.recurrent_n = self.add(Slice((2 * size, 0), (size, size)), self.recurrent)
        self.one = graph.constant(np.ones((), flat.type.dtype.numpy), before=node)

    def step(self, state: State, t: int, batch: int) -> State:
        h = state["hidden"]
        z, n = self.gates_after(h, t, batch) if self.reset_after else self.gates_before(h, t, batch)
        new = self.add(Mul(), n, self.add(Sub(), self.one, z))
        return {"hidden": new if h is None else self.add(Add(), self.add(Mul(), z, h), new)}

    def gates_after(self, h: Value | None, t: int, batch: int) -> tuple[Value, Value]:
        """z and n, where the reset gate multiplies the product of the hidden state."""
        u = self.product(h, self.recurrent, self.recurrent_bias)
        if u is not None and u.type.rank == 1:
            u = self.add(Reshape((1, *u.type.shape)), u)

        def both(letter: str) -> Value:
            x = self.inputs(t, batch, letter, letter)
            return self.activate(0, x if u is None else self.add(Add(), x, self.columns(u, letter, letter)))

        n = self.inputs(t, batch, "n", "n")
        if u is not None:
            n = self.add(Add(), n, self.add(Mul(), both("r"), self.columns(u, "n", "n")))
        return both("z"), self.activate(1, n)

    def gates_before(self, h: Value | None, t: int, batch: int) -> tuple[Value, Value]:
        """z and n, where the reset gate multiplies the hidden state."""
        zr = self.product(h, self.recurrent_zr, self.inputs(t, batch, self.op.layout[0], self.op.layout[1]))
        zr = self.activate(0, _present(zr))
        n: Value | None = self.inputs(t, batch, "n", "n")
        if h is not None:
            n = self.product(self.add(Mul(), self.columns(zr, "r", "r"), h), self.recurrent_n, n)
        return self.columns(zr, "z", "z"), self.activate(1, _present(n))
