"""A run cut into several submissions computes the same as one."""

from __future__ import annotations

import numpy as np

import gpucompile
from gpucompile.ir.graph import Graph
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.elementwise import Add
from gpucompile.ops.movement import Transpose


def test_a_run_cut_into_submissions_gives_the_same(device: gpucompile.Device) -> None:
    graph = Graph("chain")
    x = value = graph.add_input("x", TensorType(DataType.FLOAT32, (8, 8)))
    for i in range(40):
        value = graph.add(Add(), value, x) if i % 2 else graph.add(Transpose((1, 0)), value)
    graph.set_outputs({"y": value})
    bundle = gpucompile.compile(graph, pipeline="none")
    assert len(bundle.plans[0].steps) == 40
    feed = np.arange(64, dtype=np.float32).reshape(8, 8)
    results = []
    for submits in (1, 2, 4, 100):
        with gpucompile.load(bundle, device=device, submits=submits) as run:
            results.append(run(feed))
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)
