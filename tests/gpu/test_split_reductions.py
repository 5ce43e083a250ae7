"""Reductions in two steps on the adapter: more elements than one workgroup may loop over, and many for few results."""

from __future__ import annotations

import numpy as np
import pytest

import gpucompile
from gpucompile.ir.graph import Graph
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops import reduction
from gpucompile.ops.categories import Reduction, tensor
from gpucompile.ops.contraction import Matmul
from gpucompile.ops.scan import CumulativeSum
from gpucompile.target import Target
from tests.support import graph_of

#: A prime number of elements, more than 60,000 iterations of 256 lanes.
MANY = 15_485_863


def run(device: gpucompile.Device, op: Reduction, x: np.ndarray) -> tuple[np.ndarray, int]:
    """The result, and the number of kernels."""
    graph = graph_of(op, (tensor(*x.shape, dtype=DataType(x.dtype.name)),))
    bundle = gpucompile.compile(graph, Target.of(device.adapter))
    with gpucompile.load(bundle, device=device) as executable:
        return executable.run({"x0": x})["y0"], len(bundle.plans[0].steps)


def test_more_elements_than_a_workgroup_may_loop_over(device: gpucompile.Device) -> None:
    x = np.random.default_rng(0).uniform(0.5, 1.5, MANY).astype(np.float32)
    x[MANY - 1] = -7.0
    for op, want in (
        (reduction.ReduceMean(), x.mean(dtype=np.float64)),
        (reduction.ReduceMin(), -7.0),
        (reduction.ReduceL2(), np.sqrt(np.square(x, dtype=np.float64).sum())),
    ):
        got, kernels = run(device, op, x)
        assert kernels == 2
        np.testing.assert_allclose(got, want, rtol=1e-6)
    x[12_345_678] = np.nan
    assert np.isnan(run(device, reduction.ReduceMax(), x)[0])


@pytest.mark.parametrize(("shape", "axes"), [((1 << 18,), (0,)), ((65_539, 4), (0,)), ((3, 100_003), (1,))])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32])
def test_many_elements_for_few_results(
    device: gpucompile.Device, shape: tuple[int, ...], axes: tuple[int, ...], dtype: type[np.generic]
) -> None:
    x = np.random.default_rng(1).integers(-3, 4, shape).astype(dtype)
    for op in (reduction.ReduceSum(axes), reduction.ReduceMax(axes, True), reduction.ReduceL1(axes)):
        got, kernels = run(device, op, x)
        assert kernels == 2
        wide = x.astype(np.float64)
        want = {
            "reduce_sum": lambda wide=wide: wide.sum(axis=axes),
            "reduce_max": lambda wide=wide: wide.max(axis=axes, keepdims=True),
            "reduce_l1": lambda wide=wide: np.abs(wide).sum(axis=axes),
        }[op.name]()
        with np.errstate(over="ignore"):  # the sum of absolute values leaves float16
            np.testing.assert_array_equal(got, want.astype(dtype))


@pytest.mark.parametrize("exclusive", [False, True])
def test_long_running_sums(device: gpucompile.Device, exclusive: bool) -> None:
    x = np.ones(2_200_003, np.int32)
    graph = Graph()
    graph.set_outputs({"y": graph.add(CumulativeSum(0, exclusive), graph.add_input("x", TensorType.of(x)))})
    with gpucompile.load(gpucompile.compile(graph), device) as run:
        np.testing.assert_array_equal(run(x), np.cumsum(x) - (x if exclusive else 0))


@pytest.mark.parametrize("columns", [1, 8])
def test_long_products(device: gpucompile.Device, columns: int) -> None:
    """More steps in k than some adapters loop: k is split, or the product refused."""
    a, b = np.ones((1, 1_060_000), np.float32), np.ones((1_060_000, columns), np.float32)
    graph = Graph()
    inputs = [graph.add_input(name, TensorType.of(v)) for name, v in (("a", a), ("b", b))]
    graph.set_outputs({"y": graph.add(Matmul(), *inputs)})
    with gpucompile.load(gpucompile.compile(graph), device) as run:
        np.testing.assert_array_equal(run(a, b), np.full((1, columns), 1_060_000.0))
