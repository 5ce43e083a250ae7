"""Random graphs on the adapter against the numpy interpreter, unfused and by the default pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings

import gpucompile
from gpucompile.ir.graph import Graph
from gpucompile.ir.text import print_graph
from gpucompile.target import Target
from tests.support import feeds_of, graphs, interpret_with_scale

#: Relative to the largest value anywhere in the graph; the ops of the generator do not amplify errors.
TOLERANCE = 2e-5


def check(graph: Graph, device: gpucompile.Device, target: Target, pipeline: str) -> None:
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


@pytest.mark.slow
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graph=graphs(max_ops=20))
def test_new_random_graphs(device: gpucompile.Device, graph: Graph) -> None:
    """Other examples every time."""
    check(graph, device, Target.portable(), "default")
