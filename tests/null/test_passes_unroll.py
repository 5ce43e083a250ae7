"""unroll: what recurrent networks become, how much of it, and how it fuses."""

from __future__ import annotations

import numpy as np
import pytest

from gpucompile.compiler import compile
from gpucompile.ir.graph import Graph, Value
from gpucompile.ir.op import Op
from gpucompile.ops.recurrent import Gru, Lstm
from gpucompile.passmanager.manager import PassManager
from tests.null.graphs import Build, check

LSTM = {"gemm": 1, "slice": 4, "sigmoid": 3, "tanh": 2, "mul": 3, "add": 1}  # of every step but the first


def network(b: Build, op: Op, gates: int, steps: int, hidden: int = 4, directions: int = 1) -> tuple[Value, ...]:
    """Over inputs [steps, 2, 3], with constant weights and both biases."""
    x, rows = b.x(steps, 2, 3), gates * hidden
    shapes = ((rows, 3), (rows, hidden), (rows,), (rows,))
    weights = [b.value(b.rng.uniform(-0.5, 0.5, (directions, *s))) for s in shapes]
    return b.graph.insert(op, (x, *weights)).outputs


def test_all_inputs_are_one_product() -> None:
    b = Build()
    graph = check(
        b, "unroll,fold-constants,canonicalize,cse,dce", STEPS_3, *network(b, Lstm(steps=3, hidden_size=4), 4, 3)
    )
    products = [node for node in graph.nodes if node.op.name == "gemm"]
    assert [node.output.type.shape for node in products] == [(6, 16), (2, 16), (2, 16)]
    assert all(len(node.operand_values) == 3 for node in products), "biases and projections are the products' c"


#: The product of all inputs, two whole steps, the first one without states, and two results.
STEPS_3 = {name: 2 * count for name, count in LSTM.items()}
STEPS_3 |= {"gemm": 1 + 2, "slice": 2 * 4 + 3 + 3, "sigmoid": 6 + 2, "tanh": 4 + 2, "mul": 6 + 2, "reshape": 3}


@pytest.mark.parametrize(("op", "gates", "kernels"), [(Lstm, 4, 3), (Gru, 3, 2)])
def test_kernels_of_a_step(op: type[Lstm | Gru], gates: int, kernels: int) -> None:
    """A product, and one for each state. All steps share their shaders: offsets of rows are in the bindings."""
    plans = []
    for steps in (6, 11):
        b = Build()
        outputs = network(b, op(steps=steps, hidden_size=32, return_sequence=True), gates, steps, 32)
        b.graph.set_outputs({f"y{i}": v for i, v in enumerate(outputs)})
        plans.append(compile(b.graph).plans[0])
    assert len(plans[1].steps) - len(plans[0].steps) == 5 * kernels
    assert len(plans[1].shaders) == len(plans[0].shaders) < 10


def test_both_directions_alternate() -> None:
    """They are independent of each other, so neither waits for the other."""
    b = Build()
    (y,) = network(b, Gru(steps=3, hidden_size=4, direction="both"), 3, 3, directions=2)
    b.graph.set_outputs({"y": y})
    PassManager("unroll,dce").run(b.graph)
    weights = [n.inputs[1] for n in b.graph.nodes if n.op.name == "gemm" and n.output.type.shape[0] == 2]
    assert len(weights) == 4 and weights[0] is weights[2] and weights[1] is weights[3] and weights[0] is not weights[1]


def nodes_after(steps: int) -> int:
    b = Build()
    outputs = network(b, Lstm(steps=steps, hidden_size=4, return_sequence=True), 4, steps)
    b.graph.set_outputs({f"y{i}": v for i, v in enumerate(outputs)})
    PassManager("default").run(b.graph)
    return sum(n for name, n in Graph.statistics(b.graph).items() if name != "constant")


def test_graphs_grow_linearly_with_steps() -> None:
    assert nodes_after(40) - nodes_after(20) == nodes_after(60) - nodes_after(40)


def test_absent_states_are_zero() -> None:
    """The first step has no product with the hidden state; its result is that of an explicit zero."""
    b = Build()
    outputs = network(b, Gru(steps=1, hidden_size=4), 3, 1)
    graph = check(b, "unroll,fold-constants,canonicalize,cse,dce", FIRST_STEP, *outputs)
    assert np.prod([len(graph.inputs)]) == 1


FIRST_STEP = {"gemm": 1, "slice": 3, "add": 3, "sigmoid": 2, "mul": 2, "tanh": 1, "sub": 1, "reshape": 2}
