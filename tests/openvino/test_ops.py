"""Every case of every op, in float32 and float16, and ops on integers of the whole range, on OpenVINO's CPU device."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pytest

import gpucompile
from gpucompile.backends.openvino.rules import REFUSED, reject
from gpucompile.errors import TypeInferenceError, UnsupportedError
from gpucompile.ir.graph import Graph
from gpucompile.ir.interpret import interpret
from gpucompile.ir.literals import limits
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType, TensorType
from tests.gpu.test_ops import random_inputs
from tests.support import OPS, graph_of, op_graphs
from tests.tolerance import check

#: Ops that do not lower, and why. Nothing else may be refused.
NOT_LOWERED = {
    "fused": "the pipelines make none",
    "round_float16": "made by emulate-f16 only, and plugins drop casts to float16 and back",
}
#: Ops that passes take apart before, and which.
TAKEN_APART = {
    "batch_normalization": "legalize-openvino",
    **dict.fromkeys(("gru", "gru_cell", "lstm", "lstm_cell"), "unroll"),
}
POSITIVE = ("log", "sqrt", "reduce_log_sum", "batch_normalization")
INTEGERS = [d for d in DataType if not d.is_float and d.bits >= 8]


def run(graph: Graph, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with gpucompile.load(gpucompile.compile(graph, devices=("cpu",)), device="cpu") as exe:
        return exe.run(feeds)


def test_every_op_lowers_or_has_a_reason() -> None:
    """By its class: an operation of the same name, a method, or a place in the lists above."""
    without = [n for n, cls in OPS.items() if cls.opset is None and cls.openvino is Op.openvino]
    assert sorted(without) == sorted([*NOT_LOWERED, *TAKEN_APART])
    for name in without:
        assert "no form in OpenVINO" in str(reject(next(op_graphs(name)).return_node.inputs[0].producer))


@pytest.mark.parametrize("name", OPS)
def test_op(name: str) -> None:
    ran = 0
    for graph in op_graphs(name, float16=True):
        if name in NOT_LOWERED:
            with pytest.raises(UnsupportedError, match=name):
                run(graph, {})
            continue
        feeds = random_inputs(graph)
        if name in POSITIVE:
            feeds = {k: np.abs(v) for k, v in feeds.items()}
        got = run(graph, feeds)
        for key, expected in interpret(graph, feeds).items():
            check(name, got[key], expected)
        ran += 1
    assert ran or name in NOT_LOWERED, f"{name} has no case"


def integer_graphs(op: type[Op], dtype: DataType) -> Iterator[Graph]:
    """The first cases of an op with `dtype` in the place of floats, where the op takes that."""
    found = 0
    for instance, types in op.cases():
        given = tuple(t.with_dtype(dtype) if t is not None and t.dtype.is_float else t for t in types)
        if given == types or found == 4:
            continue
        try:
            yield graph_of(instance, given)
        except TypeInferenceError:
            continue
        found += 1


def whole_range(rng: np.random.Generator, t: TensorType, dtype: DataType) -> np.ndarray:
    """The ends of a data type and numbers between; small ones for other types, which are indices."""
    if t.dtype is not dtype:
        return np.asarray(rng.integers(0, 3, t.shape)).astype(t.dtype.numpy)
    low, high = limits(dtype)
    pool = [low, low + 1, high, high - 1, 0, 1, 2, 5, high // 2, high // 3, low // 2, low // 3]
    return np.asarray(rng.choice(np.array(pool, dtype.numpy), t.shape))


#: Quotients of 64 bits are hundreds of operations.
SLOW = [("div", d) for d in INTEGERS if d.bits == 64]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(n, d, marks=pytest.mark.slow if (n, d) in SLOW else (), id=f"{n}-{d}")
        for n in OPS
        if n not in NOT_LOWERED
        for d in INTEGERS
    ],
)
def test_integers(name: str, dtype: DataType) -> None:
    for i, graph in enumerate(integer_graphs(OPS[name], dtype)):
        rng = np.random.default_rng(i)
        feeds = {v.name: whole_range(rng, v.type, dtype) for v in graph.inputs}
        if dtype in REFUSED.get(OPS[name], ()):
            with pytest.raises(UnsupportedError, match=f"{name}: OpenVINO computes {dtype.value} in 32 bits"):
                run(graph, feeds)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            want = interpret(graph, feeds)
        got = run(graph, feeds)
        for key, expected in want.items():
            check(name, got[key], expected)
