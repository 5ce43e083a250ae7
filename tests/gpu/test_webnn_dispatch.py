"""Graphs built and dispatched: order, several at a time, nothing modified that must not be. After the suite's
parallel-dispatch, parallel-compile, inputs-are-not-modified, constant-reshape-optimization and graph tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from gpucompile.errors import InputError, TypeInferenceError
from gpucompile.webnn import ML, MLContext, MLGraphBuilder, MLOperand
from tests.webnn_graphs import F32, increment, tensors

X = np.array([-1, 0, 2], F32)


# Several at a time ---------------------------------------------------------------------------------------------------


def test_dispatches_of_one_graph_at_a_time(context: MLContext) -> None:
    """All are submitted before the first is read."""
    graph = increment(context, 10)
    pairs = [tensors(context, 2) for _ in range(8)]
    for i, (x, y) in enumerate(pairs):
        context.write_tensor(x, X + i)
        context.dispatch(graph, {"x": x}, {"y": y})
    graph.destroy()

    async def read() -> list[Any]:
        return await asyncio.gather(*(context.read_tensor_async(y) for _, y in reversed(pairs)))

    for i, y in enumerate(reversed(asyncio.run(read()))):
        np.testing.assert_array_equal(y, X + i + 10)


def test_one_tensor_for_many_dispatches(context: MLContext) -> None:
    """Writes, dispatches and reads of the same tensors happen in the order of their calls."""
    graph, (x, y) = increment(context), tensors(context, 2)

    async def run() -> list[Any]:
        reads = []
        for i in range(6):
            context.write_tensor(x, X + i)
            context.dispatch(graph, {"x": x}, {"y": y})
            reads.append(context.read_tensor_async(y))
        return await asyncio.gather(*reads)

    for i, got in enumerate(asyncio.run(run())):
        np.testing.assert_array_equal(got, X + i + 1)


def test_a_chain_of_graphs(context: MLContext) -> None:
    graphs, chain = [increment(context, 10.0**i) for i in range(4)], tensors(context, 5)
    for graph, x, y in zip(graphs, chain, chain[1:], strict=False):
        context.dispatch(graph, {"x": x}, {"y": y})
    assert [context.read_tensor(t)[0] for t in chain] == [0, 1, 11, 111, 1111]


def test_threads(context: MLContext) -> None:
    graph, errors = increment(context), []

    def work(seed: int) -> None:
        x, y = tensors(context, 2)
        for i in range(25):
            context.write_tensor(x, X * seed + i)
            context.dispatch(graph, {"x": x}, {"y": y})
            if (context.read_tensor(y) != X * seed + i + 1).any():
                errors.append((seed, i))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not errors


def test_graphs_built_at_a_time(context: MLContext) -> None:
    with ThreadPoolExecutor(4) as pool:
        graphs = list(pool.map(lambda i: increment(context, float(i)), range(8)))

    async def more() -> list[Any]:
        builders = [MLGraphBuilder(context) for _ in range(4)]
        return await asyncio.gather(
            *(
                b.build_async({"y": b.linear(b.input("x", "float32", [3]), beta=8.0 + i)})
                for i, b in enumerate(builders)
            )
        )

    graphs += asyncio.run(more())
    for i, graph in enumerate(graphs):
        np.testing.assert_array_equal(context.compute(graph, {"x": X})["y"], X + i)


def test_compute_at_a_time(context: MLContext) -> None:
    graph = increment(context)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda i: context.compute(graph, {"x": X + i})["y"], range(12)))
    for i, got in enumerate(results):
        np.testing.assert_array_equal(got, X + i + 1)


# What must not change ------------------------------------------------------------------------------------------------

IN_PLACE: dict[str, Callable[[Any, MLOperand], MLOperand]] = {
    "relu": lambda b, x: b.relu(x),
    "abs": lambda b, x: b.abs(x),
    "identity": lambda b, x: b.identity(x),
    "reshape": lambda b, x: b.reshape(x, [4, 6]),
    "transpose": lambda b, x: b.transpose(x),
    "softmax": lambda b, x: b.softmax(x, 1),
    "residual": lambda b, x: b.add(b.relu(x), x),
    "reduce": lambda b, x: b.sub(x, b.reduce_max(x, keep_dimensions=True)),
    "scatter": lambda b, x: b.scatter_elements(
        x, b.constant(np.zeros((1, 4), np.int32)), b.constant(np.ones((1, 4), F32)), axis=0
    ),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_inputs_are_not_modified(context: MLContext, name: str) -> None:
    builder = MLGraphBuilder(context)
    x = builder.input("x", "float32", [6, 4])
    y = IN_PLACE[name](builder, x)
    graph = builder.build({"y": y})
    source, target = tensors(context, 1, (6, 4))[0], tensors(context, 1, y.shape)[0]
    data = np.linspace(-2, 3, 24, dtype=F32).reshape(6, 4)
    context.write_tensor(source, data)
    context.dispatch(graph, {"x": source}, {"y": target})
    first = context.read_tensor(target)
    np.testing.assert_array_equal(context.read_tensor(source), data)
    context.dispatch(graph, {"x": source}, {"y": target})
    np.testing.assert_array_equal(context.read_tensor(target), first)  # nor are constants
    array = data.copy()
    np.testing.assert_array_equal(context.compute(graph, {"x": array})["y"], first)
    np.testing.assert_array_equal(array, data)


def test_constants_belong_to_the_graph(context: MLContext) -> None:
    data = np.array([1, 2, 3], F32)
    weight = context.create_constant_tensor("float32", [3], data)
    builder = MLGraphBuilder(context)
    x = builder.input("x", "float32", [3])
    y = builder.add(builder.mul(x, builder.constant(data)), builder.constant(weight))
    data[:] = 0
    graph = builder.build({"y": y})
    weight.destroy()
    assert context.compute(graph, {"x": np.ones(3, F32)})["y"].tolist() == [2, 4, 6]


def test_reshaped_constants(context: MLContext) -> None:
    """A constant may be reshaped, several times and in a chain, and still be used as it is."""
    data = np.arange(12, dtype=F32)
    builder = MLGraphBuilder(context)
    flat = builder.constant(data)
    matrix = builder.reshape(builder.reshape(flat, [2, 6]), [4, 3])
    x = builder.input("x", "float32", [2, 4])
    image = builder.input("image", "float32", [1, 3, 2, 2])
    kernel = builder.reshape(flat, [1, 3, 2, 2])
    graph = builder.build(
        {
            "product": builder.matmul(x, matrix),
            "sum": builder.add(flat, builder.reshape(builder.reduce_sum(x), [1])),
            "conv": builder.conv2d(image, kernel),
            "alone": builder.identity(builder.reshape(flat, [6, 2])),
        }
    )
    a, b = np.arange(8, dtype=F32).reshape(2, 4), np.arange(12, dtype=F32).reshape(1, 3, 2, 2)
    got = context.compute(graph, {"x": a, "image": b})
    np.testing.assert_array_equal(got["product"], a @ data.reshape(4, 3))
    np.testing.assert_array_equal(got["sum"], data + 28)
    np.testing.assert_array_equal(got["conv"].reshape(-1), [(data**2).sum()])
    np.testing.assert_array_equal(got["alone"], data.reshape(6, 2))


# Builders ------------------------------------------------------------------------------------------------------------


def test_a_builder_builds_once(context: MLContext) -> None:
    builder = MLGraphBuilder(context)
    x = builder.input("x", "float32", [3])
    y = builder.neg(x)
    graph = builder.build({"y": y})
    calls: list[Callable[[], Any]] = [
        lambda: builder.build({"y": y}),
        lambda: asyncio.run(builder.build_async({"y": y})),
        lambda: builder.input("z", "float32", [3]),
        lambda: builder.constant(1, "float32"),
        lambda: builder.split(x, 3),
        *(lambda op=op: getattr(builder, op)(x) for op in ("relu", "neg", "transpose")),
    ]
    for call in calls:
        with pytest.raises(TypeInferenceError, match="make a new one"):
            call()
    assert context.compute(graph, {"x": X})["y"].tolist() == [1, 0, -2]


def test_a_failed_build_leaves_the_builder(context: MLContext) -> None:
    builder, other = MLGraphBuilder(context), MLGraphBuilder(context)
    x = builder.input("x", "float32", [3])
    y = builder.neg(x)
    foreign = other.relu(other.input("x", "float32", [3]))
    wrong: list[tuple[Any, str]] = [
        ({}, "at least one output"),
        (None, "a dict"),
        ([y], "a dict"),
        ({"": y}, "no name"),
        ({"y": x}, "'y' is an input"),
        ({"y": builder.constant(X)}, "'y' is a constant"),
        ({"y": y, "z": foreign}, "'z' .* another builder"),
        ({"y": X}, "an MLOperand is wanted"),
    ]
    for outputs, text in wrong:
        with pytest.raises(TypeInferenceError, match=f"build: .*{text}"):
            builder.build(outputs)
    graph = builder.build({"y": builder.add(y, y)})
    assert context.compute(graph, {"x": X})["y"].tolist() == [2, 0, -4]


def test_two_builders(context: MLContext) -> None:
    """Graphs of two builders know nothing of each other's names."""
    graphs = [increment(context, float(i)) for i in (1, 2)]
    assert [context.compute(g, {"x": X})["y"][0] for g in graphs] == [0, 1]


def test_graphs_take_what_their_outputs_need(context: MLContext) -> None:
    builder = MLGraphBuilder(context)
    x, _, z = (builder.input(name, "float32", [3]) for name in ("x", "unused", "z"))
    builder.add(z, z)
    graph = builder.build({"y": builder.relu(x), "again": builder.relu(x)})
    assert (list(graph.inputs), list(graph.outputs)) == (["x"], ["y", "again"])
    alone = MLGraphBuilder(context)
    graph = alone.build({"y": alone.neg(alone.constant(X))})
    (y,) = tensors(context, 1)
    context.dispatch(graph, {}, {"y": y})
    assert context.read_tensor(y).tolist() == [1, 0, -2]


# What dispatch refuses -----------------------------------------------------------------------------------------------


def test_a_refused_dispatch_changes_nothing(context: MLContext, device: Any) -> None:
    builder = MLGraphBuilder(context)
    p, q = (builder.input(name, "float32", [3]) for name in "pq")
    graph = builder.build({"s": builder.add(p, q), "d": builder.sub(p, q)})
    a, b, s, d, spare = tensors(context, 5)
    whole = tensors(context, 1, dtype="int32")[0]
    long = tensors(context, 1, (4,))[0]
    constant = context.create_constant_tensor("float32", [3], X)
    gone = tensors(context, 1)[0]
    gone.destroy()
    other = ML().create_context(gpu_device=device)
    foreign, theirs = tensors(other, 1)[0], increment(other)
    ins, outs = {"p": a, "q": b}, {"s": s, "d": d}
    wrong: list[tuple[Any, Any, str]] = [
        ({"p": a}, outs, "input 'q' is missing"),
        (ins, {"s": s}, "output 'd' is missing"),
        (ins | {"r": spare}, outs, "no input 'r'; there are p, q"),
        (ins, outs | {"r": spare}, "no output 'r'; there are s, d"),
        ({"p": a, "Q": b}, outs, "no input 'Q'"),
        (ins | {"q": a}, outs, "input 'q': .* is input 'p' as well"),
        (ins, {"s": s, "d": s}, "output 'd': .* is output 's' as well"),
        (ins, {"s": a, "d": d}, "output 's': .* is input 'p' as well"),
        (ins | {"q": whole}, outs, r"input 'q': .*int32\[3\]> given, float32\[3\] wanted"),
        (ins | {"q": long}, outs, r"input 'q': .*\[4\]> given"),
        (ins, {"s": s, "d": long}, "output 'd': .* given"),
        (ins | {"q": constant}, outs, "input 'q': .* is constant"),
        (ins | {"q": gone}, outs, "input 'q': .* after destroy"),
        (ins | {"q": foreign}, outs, "input 'q': .* another context"),
        (ins | {"q": X}, outs, "input 'q': .* is not an MLTensor"),
        ([a, b], outs, "inputs .* by name"),
        (ins, None, "outputs .* by name"),
    ]
    for inputs, outputs, text in wrong:
        with pytest.raises((TypeInferenceError, InputError), match=f"dispatch: .*{text}"):
            context.dispatch(graph, inputs, outputs)
    for each in (theirs, "graph", None):
        with pytest.raises(TypeInferenceError, match="no graph of this context"):
            context.dispatch(each, ins, outs)  # type: ignore[arg-type]
    assert not context.read_tensor(s).any() and not context.read_tensor(d).any()
    context.write_tensor(a, X)
    context.dispatch(graph, ins, outs)
    np.testing.assert_array_equal(context.read_tensor(d), X)
    graph.destroy()
    graph.destroy()
    assert graph.destroyed
    with pytest.raises(InputError, match="after destroy"):
        context.dispatch(graph, ins, outs)


def test_a_graph_destroyed_while_it_runs(context: MLContext) -> None:
    size = 1 << 16
    graph, (x, y) = increment(context, 1.0, size), tensors(context, 2, (size,))
    context.dispatch(graph, {"x": x}, {"y": y})
    graph.destroy()
    x.destroy()
    assert (context.read_tensor(y) == 1).all()


def test_destroyed_by_another_thread(context: MLContext) -> None:
    """A dispatch either runs or says that a tensor was destroyed; wgpu-native would end the process."""
    graph, done = increment(context), threading.Event()
    pairs = [tensors(context, 2) for _ in range(200)]

    def destroy() -> None:
        for x, y in pairs:
            x.destroy()
            y.destroy()
        done.set()

    thread = threading.Thread(target=destroy)
    outcomes = {"ran": 0, "refused": 0}
    thread.start()
    for x, y in pairs:
        try:
            context.dispatch(graph, {"x": x}, {"y": y})
            assert (context.read_tensor(y) == 1).all()
            outcomes["ran"] += 1
        except InputError:
            outcomes["refused"] += 1
    thread.join()
    assert done.is_set() and sum(outcomes.values()) == len(pairs)


def test_compute_refuses(context: MLContext) -> None:
    graph = increment(context)
    for inputs, text in (({}, "missing"), ({"x": X, "z": X}, "'z'"), ({"x": X.astype(int)}, "int64")):
        with pytest.raises(InputError, match=text):
            context.compute(graph, inputs)
    out = np.zeros(3, F32)
    assert context.compute(graph, {"x": X}, {"y": out})["y"] is out
    assert out.tolist() == [0, 1, 3]
    for outputs in ({"z": out}, {"y": np.zeros(4, F32)}, {"y": np.zeros(3, int)}):
        with pytest.raises(InputError, match="does not fit"):
            context.compute(graph, {"x": X}, outputs)
