"""Random graphs on the adapter against the numpy interpreter, unfused and by the default pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, currently_in_test_context, given, note, settings

import gpucompile
from gpucompile.ir.graph import Graph, Value
from gpucompile.ir.text import print_graph
from gpucompile.ops.activation import Relu
from gpucompile.ops.elementwise import Add
from gpucompile.ops.movement import Concat, Pad, Reshape
from gpucompile.ops.reduction import ReduceMean
from gpucompile.ops.softmax import Softmax
from gpucompile.target import Target
from tests.null.graphs import Build
from tests.support import feeds_of, graphs, interpret_with_scale

#: Relative to the largest value anywhere in the graph; the ops of the generator do not amplify errors.
TOLERANCE = 2e-5


def check(graph: Graph, device: gpucompile.Device, target: Target, pipeline: str) -> None:
    if currently_in_test_context():
        note(print_graph(graph))
    feeds = feeds_of(graph)
    want, scale = interpret_with_scale(graph, feeds)
    with gpucompile.load(gpucompile.compile(graph, target, pipeline=pipeline), device=device) as run:
        got = run.run(feeds)
        again = run.run(feeds)
    assert list(got) == list(want)
    for key, expected in want.items():
        assert got[key].dtype == expected.dtype and got[key].shape == expected.shape
        np.testing.assert_allclose(got[key], expected, rtol=0, atol=TOLERANCE * scale, err_msg=key)
        np.testing.assert_array_equal(again[key], got[key], err_msg=f"{key}: a second run gives something else")


#: The same examples in every run: a red build must not turn green by itself. The slow test looks for new ones.
FIXED = settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.mark.parametrize("pipeline", ["none", "default"])
@pytest.mark.parametrize("kind", ["portable", "native"])
def test_random_graphs(device: gpucompile.Device, adapter: Any, kind: str, pipeline: str) -> None:
    target = Target.portable() if kind == "portable" else Target.of(adapter)

    @FIXED
    @given(graph=graphs())
    def run(graph: Graph) -> None:
        check(graph, device, target, pipeline)

    run()


def reflection_over_reshape(b: Build) -> Value:
    """Index arithmetic with a falling coordinate under a remainder: it must not wrap around."""
    x = b(Reshape((2, 72)), b(Relu(), b(Reshape((1, 144)), b.x(1, 4, 6, 6))))
    return b(Pad((0, 0), (1, 1), "reflection"), x)


def edge_padding_of_one_vector(b: Build) -> Value:
    """Lanes with constant coordinates: pieces of the index map that hold nowhere must not be written at all."""
    return b(Pad((0, 1, 1), (0, 0, 0), "edge"), b(Relu(), b.x(2, 6, 3)))


def one_channel(b: Build) -> Value:
    """A vector of which one lane is real, and a residual operand."""
    x = b(Relu(), b.x(1, 1, 6, 6))
    return b(Add(), b(Relu(), b.conv(b(Relu(), b.conv(x, 1)), 1)), x)


def concat_of_one_value(b: Build) -> Value:
    """The second part is copied from the first, inside one binding."""
    x = b(Relu(), b.x(3, 8))
    return b(Concat(1), x, x, b(Softmax(0), x))


def concat_in_concat(b: Build) -> Value:
    """Parts that would be stripes of stripes."""
    x = b(Relu(), b.x(1, 4, 6, 6))
    inner = b(Concat(3), b(Softmax(1), x), b(Softmax(2), x))
    return b(Concat(2), inner, b(Softmax(1), inner))


def scalar_reshaped(b: Build) -> Value:
    """A reduction to a scalar, reshaped, before an addition."""
    return b(Add(), b(Reshape((1,)), b(ReduceMean(None), b.x(3, 5))), b.c(1))


@pytest.mark.parametrize("pipeline", ["none", "default"])
@pytest.mark.parametrize(
    "make",
    [
        reflection_over_reshape,
        edge_padding_of_one_vector,
        one_channel,
        concat_of_one_value,
        concat_in_concat,
        scalar_reshaped,
    ],
)
def test_what_random_graphs_found(device: gpucompile.Device, make: Callable[[Build], Value], pipeline: str) -> None:
    """Each of these was a wrong number or a crash once."""
    b = Build()
    b.graph.set_outputs({"y": make(b)})
    check(b.graph, device, Target.portable(), pipeline)


@pytest.mark.slow
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graph=graphs(max_ops=20))
def test_new_random_graphs(device: gpucompile.Device, graph: Graph) -> None:
    """Other examples every time."""
    check(graph, device, Target.portable(), "default")
