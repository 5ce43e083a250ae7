"""The whole pipeline on random networks and on real ones: results, idempotence, time, and what is left."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from benchmarks import networks
from gpucompile.frontends.onnx.importer import import_model
from gpucompile.ir.graph import Graph, Value
from gpucompile.ir.interpret import interpret
from gpucompile.ir.op import Op
from gpucompile.ir.text import print_graph
from gpucompile.ops.activation import Relu
from gpucompile.ops.contraction import Matmul
from gpucompile.ops.conv import Conv2d
from gpucompile.ops.elementwise import Add, Exp, Identity, Mul
from gpucompile.ops.movement import Concat, Pad, Reshape, Slice, Transpose
from gpucompile.ops.normalize import LocalResponseNormalization
from gpucompile.ops.pool import AveragePool2d, MaxPool2d
from gpucompile.ops.reduction import ReduceMean, ReduceSum
from gpucompile.ops.softmax import Softmax
from gpucompile.passes.pipelines import PIPELINES
from gpucompile.passmanager.base import Context
from gpucompile.passmanager.manager import PassManager
from gpucompile.passmanager.pipeline import parse_pipeline, print_pipeline
from tests.null.graphs import Build, chain

# Everything together -------------------------------------------------------------------------------------------------


def random_network(seed: int) -> Build:
    """A DAG of small rank-4 tensors through the ops that the passes know, with outputs of several ranks."""
    b, rng = Build(), np.random.default_rng(seed)
    pool = [b.x(2, 4, 6, 6), b.x(2, 4, 6, 6, name="z")]

    def pick() -> Value:
        return pool[-1 - int(rng.integers(min(4, len(pool))))]

    def same(v: Value) -> Value:
        """Another value of this type, or a broadcast constant."""
        candidates = [w for w in pool if w.type == v.type]
        n, c, h, w = v.type.shape
        shapes = [(), (1,), (c, 1, 1), (1, c, 1, 1), (h, w), (w,), (n, 1, 1, 1), (c, h, w)]
        if rng.random() < 0.5:
            return candidates[int(rng.integers(len(candidates)))]
        return b.c(*shapes[int(rng.integers(len(shapes)))])

    def window(v: Value) -> Value:
        starts = tuple(int(rng.integers(0, max(1, d // 2))) for d in v.type.shape)
        sizes = tuple(d - s for d, s in zip(v.type.shape, starts, strict=True))
        return b(Slice(starts, sizes, (1, 1, 2, 1)), v)

    def shuffle(v: Value) -> Value:
        n, c, h, w = v.type.shape
        return (
            chain(b, v, Reshape((n, 2, c // 2, h, w)), Transpose((0, 2, 1, 3, 4)), Reshape(v.type.shape))
            if c % 2 == 0
            else v
        )

    def moved(v: Value) -> Value:
        return b(Transpose(((0, 1, 3, 2), (0, 2, 3, 1), (0, 3, 1, 2))[int(rng.integers(3))]), v)

    def joined(v: Value) -> Value:
        fitting = [w for w in pool if w.type.shape[:1] + w.type.shape[2:] == v.type.shape[:1] + v.type.shape[2:]]
        return b(Concat(1), v, fitting[int(rng.integers(len(fitting)))])

    steps: list[Callable[[Value], Value]] = [
        lambda v: b.conv(v, int(rng.integers(1, 7)), 3),
        lambda v: b.conv(v, v.type.shape[1], 1, groups=v.type.shape[1]),
        lambda v: b.bn(v, int(rng.integers(4))),
        lambda v: b(Relu(), v),
        lambda v: b(Identity(), v),
        lambda v: b(Add(), same(v), v),
        lambda v: b(Mul(), v, same(v)),
        lambda v: b(MaxPool2d((2, 1)), v) if v.type.shape[2] > 1 else v,
        lambda v: b(AveragePool2d(None), v),
        lambda v: b(Pad((0, 0, 1, 0), (0, 0, 0, 1)), v),
        lambda v: b(ReduceMean((int(rng.integers(4)),), True), v),
        lambda v: b(Softmax(int(rng.integers(4))), v),
        lambda v: b(LocalResponseNormalization(3, 0.1), v),
        window,
        shuffle,
        moved,
        joined,
    ]
    for _ in range(14):
        v = steps[int(rng.integers(len(steps)))](pick())
        if v.type.size <= 3000:
            pool.append(v)
    last = pool[-1]
    n, size = last.type.shape[0], last.type.size
    head = b(Add(), b(Matmul(), b(Reshape((n, size // n)), last), b.c(size // n, 3)), b.c(3))
    results = [last, pick(), head, b(ReduceSum((1, 3)), pick()), b(Reshape((pool[-2].type.size,)), pool[-2])]
    b.graph.set_outputs({f"y{i}": v for i, v in enumerate(results)})
    return b


@pytest.mark.parametrize("seed", range(60))
def test_random_networks_keep_their_results(seed: int) -> None:
    """Also: a pass that has run finds nothing when it runs again at once."""
    graph = random_network(seed).graph
    rng = np.random.default_rng(seed)
    inputs = {v.name: rng.standard_normal(v.type.shape).astype(np.float32) for v in graph.inputs}
    before = interpret(graph, inputs)
    for p in parse_pipeline(PIPELINES["no-fuse"]):
        PassManager([p]).run(graph)
        after = interpret(graph, inputs)
        for name, value in before.items():
            np.testing.assert_allclose(
                after[name], value, rtol=2e-4, atol=2e-5 * max(1, np.abs(value).max()), err_msg=p.name
            )
        text = print_graph(graph)
        assert not p.run(graph, Context()) and print_graph(graph) == text, f"{p.name} changes its own result"


@pytest.mark.parametrize("name", PIPELINES)
def test_named_pipelines(name: str) -> None:
    """Each parses to what prints as its text, and keeps the results; the NPU's to float16's precision."""
    relative, least = (2e-2, 1e-2) if "precision" in PIPELINES[name] else (2e-4, 2e-5)
    assert print_pipeline(parse_pipeline(PIPELINES[name])) == PIPELINES[name]
    for seed in range(5):
        graph = random_network(seed).graph
        rng = np.random.default_rng(seed)
        inputs = {v.name: rng.standard_normal(v.type.shape).astype(np.float32) for v in graph.inputs}
        before = interpret(graph, inputs)
        PassManager(name).run(graph)
        for key, value in interpret(graph, inputs).items():
            np.testing.assert_allclose(value, before[key], rtol=relative, atol=least * max(1, np.abs(value).max()))


@pytest.mark.parametrize("shape", ["chain", "layers"])
def test_linear_time(shape: str) -> None:
    """Four times the nodes take less than eight times the time, pass by pass; small times are not compared."""

    def build(n: int) -> Graph:
        b = Build()
        previous = v = b.x(1, 4, 6, 6)
        ops: list[Op] = [Relu(), Transpose((0, 1, 3, 2)), Reshape((1, 4, 6, 6)), Mul(), Exp(), Add()]
        one, weights = b.value(1.5), b.c(4, 4, 1, 1)
        for i in range(n):
            op = ops[i % len(ops)]
            if i % 50 == 0:
                op, second = Conv2d(), weights
            else:
                second = one if isinstance(op, Mul) else previous if shape == "layers" else one
            v, previous = b(op, v, *([second] if isinstance(op, Add | Mul | Conv2d) else [])), v
        b.graph.set_outputs({"y": v})
        return b.graph

    def times(n: int) -> dict[str, float]:
        graph, out = build(n), {}
        for i, p in enumerate(parse_pipeline(PIPELINES["no-fuse"])):
            start = time.process_time()
            p.run(graph, Context())
            out[f"{i} {p.name}"] = time.process_time() - start
        return out

    runs = [(times(1000), times(4000)) for _ in range(3)]
    best = {name: tuple(min(run[i][name] for run in runs) for i in (0, 1)) for name in runs[0][0]}
    assert {name: t for name, t in best.items() if t[1] > 0.1 and t[1] > 8 * t[0]} == {}


# Real networks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_real_networks(name: str) -> None:
    graph = import_model(networks.randomized(name))
    inputs = networks.random_input(name)
    before = interpret(graph, inputs)
    PassManager("no-fuse").run(graph)
    for key, value in interpret(graph, inputs).items():
        np.testing.assert_allclose(value, before[key], atol=1e-4 * np.abs(value).max())
    counts = graph.statistics()
    assert (
        counts["transpose"] == {"squeezenet": 1, "shufflenet": 17}[name]
    )  # one at the input, sixteen channel shuffles
    assert not counts.keys() & {"batch_normalization", "mul", "average_pool2d" if name == "squeezenet" else "clamp"}


@pytest.mark.slow
@pytest.mark.parametrize("name", networks.NAMES)
def test_no_layout_conversions_inside_real_networks(name: str) -> None:
    graph = import_model(networks.randomized(name))
    PassManager("no-fuse").run(graph)
    transposes = [n for n in graph.nodes if isinstance(n.op, Transpose)]
    shuffles = [n for n in transposes if n.op == Transpose((0, 1, 2, 4, 3))]
    (entry,) = [n for n in transposes if n not in shuffles]
    assert entry.operand_values[0] is graph.inputs[0] and len(shuffles) == (16 if name == "shufflenet" else 0)
    assert "batch_normalization" not in graph.statistics()
