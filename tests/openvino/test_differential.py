"""One graph on OpenVINO's CPU, on the adapter and in numpy: random graphs, all agree. And the nine networks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import gpucompile
from benchmarks import architectures, networks, real_models, zoo
from gpucompile.ir.graph import Graph
from gpucompile.ir.interpret import interpret
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.contraction import Matmul
from gpucompile.ops.elementwise import Add, Mul, Sub
from gpucompile.ops.movement import Reshape, Transpose
from gpucompile.ops.softmax import Softmax
from tests import onnx_backend
from tests.support import graphs

F32 = DataType.FLOAT32


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


# What OpenVINO fuses wrongly by itself -------------------------------------------------------------------------------


def compare(graph: Graph, feeds: dict[str, np.ndarray]) -> None:
    with gpucompile.load(gpucompile.compile(graph, devices=("cpu",)), "cpu") as exe:
        got = exe.run(feeds)
    for name, want in interpret(graph, feeds).items():
        np.testing.assert_allclose(got[name], want, rtol=1e-5, atol=1e-5)


def test_masks_of_attention() -> None:
    """(1 - m) * -3e38 + bias must not become m * 3e38 + (bias - 3e38)."""
    graph, rng = Graph("mask"), np.random.default_rng(0)
    x, m = graph.add_input("x", TensorType(F32, (2, 3, 8, 8))), graph.add_input("m", TensorType(F32, (2, 1, 1, 8)))
    bias = graph.constant(rng.standard_normal((3, 8, 8)).astype(np.float32))
    mask = graph.add(Mul(), graph.add(Sub(), graph.constant(np.float32(1)), m), graph.constant(np.float32(-3e38)))
    graph.set_outputs({"y": graph.add(Softmax(3), graph.add(Add(), x, graph.add(Add(), mask, bias)))})
    keep = np.ones((2, 1, 1, 8), np.float32)
    keep[..., 5:] = 0
    compare(graph, {"x": rng.standard_normal((2, 3, 8, 8)).astype(np.float32), "m": keep})


def test_as_many_heads_as_queries() -> None:
    """softmax((q + r) @ k) @ v, transposed."""
    graph, rng = Graph("attention"), np.random.default_rng(0)
    shapes = {"q": (2, 4, 4, 16), "r": (2, 4, 4, 16), "k": (2, 4, 16, 8), "v": (2, 4, 8, 16)}
    q, r, k, v = (graph.add_input(name, TensorType(F32, shape)) for name, shape in shapes.items())
    weights = graph.add(Softmax(3), graph.add(Matmul(), graph.add(Add(), q, r), k))
    graph.set_outputs({"y": graph.add(Transpose((0, 2, 1, 3)), graph.add(Matmul(), weights, v))})
    compare(graph, {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()})


def test_a_product_as_scalar() -> None:
    graph = Graph("dot")
    a, b = graph.add_input("a", TensorType(F32, (1, 3))), graph.add_input("b", TensorType(F32, (3, 1)))
    graph.set_outputs({"y": graph.add(Reshape(()), graph.add(Matmul(), a, b))})
    compare(graph, {"a": np.ones((1, 3), np.float32), "b": np.ones((3, 1), np.float32)})


# Architectures, trained models, ONNX's tests -------------------------------------------------------------------------

#: Quick ones: a mask with a bias, as many heads as queries, convolutions.
ZOO = ("t5_encoder", "llama_block", "squeezenet_1_1")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in ZOO else pytest.mark.slow) for n in zoo.NETWORKS])
def test_architectures(name: str) -> None:
    row = architectures.measure(name, "cpu", reduced=True, repeat=0)
    assert row.ok and row.error < 1e-5, row


#: Trained models that differ by more than on GPUs, how much, and why.
TOLERANCES = {"ddddocr_old_int8": (2e-2, "numbers that lie between two of 8 bits are rounded to the other one")}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:output .* has the shape")  # what some models say of themselves
@pytest.mark.parametrize("name", real_models.MODELS)
def test_trained_models(name: str) -> None:
    row = real_models.measure(name, "cpu", repeat=0)
    assert row.error <= TOLERANCES.get(name, (row.tolerance,))[0], row


#: ONNX's tests that differ on OpenVINO's CPU, and why.
ONNX_DIFFERENT = {
    "test_dynamicquantizelinear": "a number between two of 8 bits is rounded to the other one",
    "test_dynamicquantizelinear_expanded": "the same",
}


#: Refused there only: a power of 64-bit integers by a computed exponent.
ONNX_REFUSED = ("test_pow_types_int64_int64",)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shard", range(8))
def test_onnx_cases(shard: int) -> None:
    """What the importer takes gives what ONNX expects."""
    refused = {*onnx_backend.REFUSED.read_text().split(), *ONNX_REFUSED}
    for case in list(onnx_backend.cases())[shard::8]:
        outcome = onnx_backend.run(case, False, "cpu")
        want = "refused" if case.name in refused else "wrong" if case.name in ONNX_DIFFERENT else "native"
        assert outcome.kind == want, outcome
