"""Gather and scatter on the adapter beyond what random operands of single ops show."""

from __future__ import annotations

import numpy as np
import pytest

import gpucompile
from gpucompile.ir.graph import Graph
from gpucompile.ir.interpret import interpret
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.elementwise import Add, Neg
from gpucompile.ops.gather import Gather, GatherElements, ScatterElements, ScatterNd
from gpucompile.ops.logical import Cast, Greater
from gpucompile.ops.scan import ArgMax, CumulativeSum

X = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
OTHER = np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32)
UPDATES = np.random.default_rng(2).standard_normal((4, 5)).astype(np.float32)


def both(device: gpucompile.Device, graph: Graph, feeds: dict[str, np.ndarray], pipeline: str = "default") -> None:
    want = interpret(graph, feeds)
    with gpucompile.load(gpucompile.compile(graph, pipeline=pipeline), device=device) as run:
        got = run.run(feeds)
    for key, expected in want.items():
        np.testing.assert_array_equal(got[key], expected)


@pytest.mark.parametrize("pipeline", ["none", "default"])
@pytest.mark.parametrize(
    ("op", "indices", "updates"),
    [
        (ScatterElements(0), np.argsort(UPDATES, 0).astype(np.int32) - 2, UPDATES),
        (ScatterNd(), np.array([[-1], [0], [3], [2]], np.int32), UPDATES),
        (ScatterNd(), np.array([[0, 1], [5, -1], [-6, 0], [99, 2]], np.int32), UPDATES[:, 0]),
    ],
)
def test_many_updates_between_other_ops(
    device: gpucompile.Device, pipeline: str, op: Op, indices: np.ndarray, updates: np.ndarray
) -> None:
    graph = Graph()
    x, r, i, u = (graph.add_input(n, TensorType.of(a)) for n, a in zip("xriu", (X, OTHER, indices, updates)))
    copied = graph.add(Neg(), r)
    y = graph.add(op, graph.add(Neg(), x), i, graph.add(Neg(), u))
    graph.set_outputs({"y": graph.add(Add(), y, copied)})
    both(device, graph, {"x": X, "r": OTHER, "i": indices, "u": updates}, pipeline)


@pytest.mark.parametrize("pipeline", ["none", "default"])
def test_constant_indices_of_64_bits(device: gpucompile.Device, pipeline: str) -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType.of(X))
    graph.set_outputs({"y": graph.add(Gather(1), x, graph.constant(np.array([4, -5, 100], np.int64)))})
    both(device, graph, {"x": X}, pipeline)


@pytest.mark.parametrize("pipeline", ["none", "default"])
def test_indices_that_do_not_fit_32_bits(device: gpucompile.Device, pipeline: str) -> None:
    graph = Graph()
    x, i = graph.add_input("x", TensorType.of(X)), graph.add_input("i", TensorType(DataType.INT64, (6,)))
    far = graph.constant(np.array([1 << 40, -(1 << 40), 2], np.int64))
    graph.set_outputs({"y": graph.add(Gather(1), x, far), "z": graph.add(Gather(0), x, i)})
    feeds = {"x": X, "i": np.array([0, -1, 1 << 32, 2 - (1 << 32), 1, (1 << 63) - 1], np.int64)}
    both(device, graph, feeds, pipeline)


@pytest.mark.parametrize("pipeline", ["none", "default"])
def test_places_of_64_bits_that_are_cast(device: gpucompile.Device, pipeline: str) -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType.of(X))
    graph.set_outputs({"y": graph.add(Cast(DataType.FLOAT32), graph.add(ArgMax(1, False, DataType.INT64), x))})
    both(device, graph, {"x": X}, pipeline)


@pytest.mark.parametrize("wider", [False, True])
def test_bytes_after_an_anchor(device: gpucompile.Device, wider: bool) -> None:
    graph = Graph()
    x, r = (graph.add_input(n, TensorType.of(a)) for n, a in zip("xr", (X, OTHER[:1])))
    y = graph.add(Greater(), graph.add(CumulativeSum(0), x), r)
    graph.set_outputs({"y": graph.add(Cast(DataType.FLOAT32), y) if wider else y})
    both(device, graph, {"x": X, "r": OTHER[:1]})


@pytest.mark.parametrize("count", [3, 4])
def test_bytes_after_a_gather(device: gpucompile.Device, count: int) -> None:
    indices = np.arange(count * 5).reshape(count, 5).astype(np.int32) % 7
    graph = Graph()
    x, i, r = (graph.add_input(n, TensorType.of(a)) for n, a in zip("xir", (X, indices, OTHER[:1])))
    graph.set_outputs({"y": graph.add(Greater(), graph.add(GatherElements(), x, i), r)})
    both(device, graph, {"x": X, "i": indices, "r": OTHER[:1]})
