"""A run cut into several submissions computes the same as one."""

from __future__ import annotations

import numpy as np
import pytest

import gpucompile
from gpucompile.ir.graph import Graph
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.elementwise import Add
from gpucompile.ops.movement import Transpose
from gpucompile.ops.softmax import Softmax


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


def test_bad_arguments_are_named(device: gpucompile.Device) -> None:
    graph = Graph("one")
    x = graph.add_input("x", TensorType(DataType.FLOAT32, (4,)))
    graph.set_outputs({"y": graph.add(Add(), x, x)})
    bundle = gpucompile.compile(graph)
    with pytest.raises(gpucompile.InputError, match="submits must be at least 1"):
        gpucompile.load(bundle, device=device, submits=0)
    with pytest.raises(gpucompile.InputError, match=r"gpucompile\.Device"):
        gpucompile.load(bundle, device=3)  # type: ignore[arg-type]
    with pytest.raises(gpucompile.InputError, match=r"Target\.portable"):
        gpucompile.compile(graph, target="portable")  # type: ignore[arg-type]
    with gpucompile.load(bundle, device=device) as run, pytest.raises(gpucompile.InputError, match="a dict by name"):
        run.run(np.zeros(4, np.float32))  # type: ignore[arg-type]


def test_rows_too_long_for_a_loop_are_refused() -> None:
    graph = Graph("long")
    x = graph.add_input("x", TensorType(DataType.FLOAT32, (1, 1 << 24)))
    graph.set_outputs({"y": graph.add(Softmax(1), x)})
    with pytest.raises(gpucompile.UnsupportedError, match="65,535"):
        gpucompile.compile(graph)
