"""Every case of every op, in float32 and float16: compiled, run on the adapter, compared with its numpy reference."""

from __future__ import annotations

import numpy as np
import pytest

import gpucompile
from gpucompile.ir.graph import Graph
from gpucompile.ir.interpret import interpret
from tests.support import OPS, op_graphs, targets_of
from tests.tolerance import check


def random_inputs(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Positive and negative values, moderate in size, never zero."""
    rng = np.random.default_rng(seed)
    out = {}
    for v in graph.inputs:
        if v.type.dtype.is_float:
            x = rng.uniform(0.1, 2.0, v.type.shape) * rng.choice([-1.0, 1.0], v.type.shape)
        elif v.type.dtype.is_signed:
            x = rng.integers(-5, 6, v.type.shape)
        else:
            x = rng.integers(0, 2, v.type.shape)
        out[v.name] = np.asarray(x).astype(v.type.dtype.numpy)
    return out


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("pipeline", ["none", "default"])
def test_op(device: gpucompile.Device, name: str, pipeline: str) -> None:
    ran = 0
    for graph in op_graphs(name, float16=True):
        feeds = random_inputs(graph)
        if name in ("log", "sqrt", "reduce_log_sum", "batch_normalization"):
            feeds = {k: np.abs(v) for k, v in feeds.items()}
        want = interpret(graph, feeds)
        for target in targets_of(device, graph):
            with gpucompile.load(gpucompile.compile(graph, target, pipeline=pipeline), device=device) as run:
                got = run.run(feeds)
            for key, expected in want.items():
                check(name, got[key], expected)
            ran += 1
    assert ran, f"{name} has no case"
