"""One graph on OpenVINO's CPU, on the adapter and in numpy: random graphs, all agree. And the nine networks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import gpucompile
from benchmarks import networks
from gpucompile.ir.graph import Graph
from gpucompile.ir.interpret import interpret
from tests.support import graphs


def feeds_of(graph: Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {v.name: rng.standard_normal(v.type.shape).astype(v.type.dtype.numpy) for v in graph.inputs}


def test_random_graphs(device: gpucompile.Device) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(graph=graphs())
    def run(graph: Graph) -> None:
        feeds = feeds_of(graph)
        want = interpret(graph, feeds)
        bundle = gpucompile.compile(graph, devices=("gpu", "cpu", "npu"))
        for on in (device, "cpu"):
            with gpucompile.load(bundle, on) as exe:
                got = exe.run(feeds)
            for name, w in want.items():
                assert got[name].dtype == w.dtype and got[name].shape == w.shape
                scale = float(np.abs(w).max(initial=1.0))
                np.testing.assert_allclose(got[name], w, rtol=1e-4, atol=1e-4 * scale, err_msg=f"{on}: {name}")

    run()


QUICK = {"squeezenet", "shufflenet", "resnet50"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in networks.NAMES]
)
def test_networks(name: str) -> None:
    feeds, want = networks.random_input(name), networks.expected(name)
    bundle = gpucompile.compile(networks.cached(name), devices=("cpu", "npu"))
    with gpucompile.load(bundle, "cpu") as exe:
        (got,) = exe.run(feeds).values()
    assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()
