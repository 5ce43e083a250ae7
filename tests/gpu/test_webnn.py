"""`gpucompile.webnn` as a program uses it: the published example, tensors, dispatch order, errors of state."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from gpucompile.errors import ClosedError, GpucompileError, InputError, TypeInferenceError
from gpucompile.webnn import ML, MLContext, MLGraphBuilder
from tests.webnn_graphs import F32, example, increment, tensors


def test_the_published_example(context: MLContext) -> None:
    graph = example(context)
    b, d, out = tensors(context, 3, (1, 2, 2, 2))
    ones = np.ones((1, 2, 2, 2), F32)
    context.write_tensor(b, ones)
    context.write_tensor(d, ones.tobytes())
    context.dispatch(graph, {"b": b, "d": d}, {"out": out})
    assert (context.read_tensor(out) == 2.25).all()
    assert (context.read_tensor(b) == 1).all()  # inputs are not modified
    assert (context.compute(graph, {"b": ones, "d": ones})["out"] == 2.25).all()
    assert (asyncio.run(context.read_tensor_async(out)) == 2.25).all()


def test_dispatches_are_ordered(context: MLContext) -> None:
    graph = increment(context)
    a, b = tensors(context, 2)
    for _ in range(10):
        context.dispatch(graph, {"x": a}, {"y": b})
        context.dispatch(graph, {"x": b}, {"y": a})
    assert context.read_tensor(a).tolist() == [20.0] * 3
    context.write_tensor(a, np.array([5, 6, 7], F32))  # after what was dispatched, before what follows
    context.dispatch(graph, {"x": a}, {"y": b})
    assert context.read_tensor(b).tolist() == [6.0, 7.0, 8.0]


def test_graphs_share_tensors(context: MLContext) -> None:
    one, ten = increment(context), increment(context, 10)
    a, b, c = tensors(context, 3)
    context.dispatch(one, {"x": a}, {"y": b})
    context.dispatch(ten, {"x": b}, {"y": c})
    one.destroy()
    assert context.read_tensor(c).tolist() == [11.0] * 3
    with pytest.raises(InputError, match="after destroy"):
        context.dispatch(one, {"x": a}, {"y": b})


def test_tensor_life(context: MLContext) -> None:
    tensor = context.create_tensor("uint8", [5], readable=True, writable=True)
    assert context.read_tensor(tensor).tolist() == [0] * 5
    data = np.arange(5, dtype=np.uint8)
    context.write_tensor(tensor, data)
    into = np.empty(5, np.uint8)
    assert context.read_tensor(tensor, into) is into
    assert into.tolist() == data.tolist()
    raw = bytearray(5)
    context.read_tensor(tensor, raw)
    assert bytes(raw) == data.tobytes()
    with pytest.raises(InputError):
        context.read_tensor(tensor, np.empty(4, np.uint8))
    with pytest.raises(TypeInferenceError):
        context.write_tensor(tensor, data.astype(np.int32))
    with pytest.raises(TypeInferenceError):
        context.write_tensor(tensor, bytes(6))
    tensor.destroy()
    tensor.destroy()
    with pytest.raises(InputError, match="destroy"):
        context.read_tensor(tensor)
    closed = context.create_tensor("float32", [2])
    for call in (lambda: context.read_tensor(closed), lambda: context.write_tensor(closed, np.zeros(2, F32))):
        with pytest.raises(InputError, match=r"not (read|writ)able"):
            call()


def test_constant_tensors(context: MLContext) -> None:
    data = np.array([1, 2, 3], F32)
    weight = context.create_constant_tensor("float32", [3], data)
    builder = MLGraphBuilder(context)
    x = builder.input("x", "float32", [3])
    graph = builder.build({"y": builder.mul(x, builder.constant(weight))})
    assert context.compute(graph, {"x": data})["y"].tolist() == [1, 4, 9]
    with pytest.raises(TypeInferenceError, match="constant"):
        MLGraphBuilder(context).constant(tensors(context, 1)[0])


def test_tensors_of_4_bits(context: MLContext) -> None:
    """Two elements in a byte where bytes are passed, one in a byte where arrays of the tensor's shape are."""
    tensor = context.create_tensor("int4", [5], readable=True, writable=True)
    context.write_tensor(tensor, np.array([1, -2, 7, -8, 3], np.int8))
    packed = context.read_tensor(tensor)
    assert packed.dtype == np.uint8 and packed.tolist() == [0xE1, 0x87, 0x03]
    for same in (packed, packed.tobytes()):
        context.write_tensor(tensor, same)
        assert context.read_tensor(tensor).tolist() == packed.tolist()
    with pytest.raises(TypeInferenceError, match=r"values outside -8\.\.7, the range of int4"):
        context.write_tensor(tensor, np.array([1, 2, 3, 4, 8], np.int8))
    with pytest.raises(TypeInferenceError, match=r"or 3 bytes of two elements"):
        context.write_tensor(tensor, bytes(4))


def test_weights_of_4_bits(context: MLContext) -> None:
    """Constants of int4, from bytes, from an array and from a constant tensor, dequantised in blocks of two."""
    values = np.array([[1, -2, 7, -8]], np.int8)
    want = (values.astype(F32) - [[1, 1, -1, -1]]) * [[0.5, 0.5, 2, 2]]
    for source in (values, bytes([0xE1, 0x87]), context.create_constant_tensor("int4", [1, 4], values)):
        builder = MLGraphBuilder(context)
        given = {} if not isinstance(source, (np.ndarray, bytes)) else {"data_type": "int4", "shape": [1, 4]}
        weights = builder.constant(source, **given)
        assert (weights.data_type, weights.shape) == ("int4", (1, 4))
        scale = builder.constant(np.array([[0.5, 2]], F32))
        zero_point = builder.constant(np.array([[1, -1]], np.int8), "int4", [1, 2])
        x = builder.input("x", "float32", [1, 4])
        graph = builder.build({"y": builder.add(x, builder.dequantize_linear(weights, scale, zero_point))})
        np.testing.assert_array_equal(context.compute(graph, {"x": np.zeros((1, 4), F32)})["y"], want)


def test_quantize_linear_takes_its_type_from_the_zero_point(context: MLContext) -> None:
    builder = MLGraphBuilder(context)
    x = builder.input("x", "float32", [3])
    scale = builder.constant(np.array([0.5], F32))
    for dtype in ("int8", "uint8", "int4", "uint4"):
        zero_point = builder.constant(np.array([1], dtype.replace("4", "8")), dtype, [1])
        assert builder.quantize_linear(x, scale, zero_point).data_type == dtype


def test_recurrent_operators_return_lists(context: MLContext) -> None:
    builder = MLGraphBuilder(context)
    x, w, r = (builder.input(n, "float32", s) for n, s in (("x", [2, 1, 3]), ("w", [1, 6, 3]), ("r", [1, 6, 2])))
    assert [y.shape for y in builder.gru(x, w, r, 2, 2)] == [(1, 1, 2)]
    assert [y.shape for y in builder.gru(x, w, r, 2, 2, return_sequence=True)] == [(1, 1, 2), (2, 1, 1, 2)]
    with pytest.raises(TypeInferenceError, match="the input has 2 steps, not 3"):
        builder.gru(x, w, r, 3, 2)


def test_dispatch_checks(context: MLContext, device: Any) -> None:
    graph = increment(context)
    a, b = tensors(context, 2)
    with ML().create_context(gpu_device=device) as other:
        foreign = tensors(other, 1)[0]
        wrong: list[tuple[dict[str, Any], dict[str, Any], str]] = [
            ({}, {"y": b}, "input 'x' is missing"),
            ({"x": a}, {}, "output 'y' is missing"),
            ({"x": a, "z": a}, {"y": b}, "no input 'z'"),
            ({"x": a}, {"y": a}, "as well"),
            ({"x": foreign}, {"y": b}, "another context"),
            ({"x": tensors(context, 1, (4,))[0]}, {"y": b}, "wanted"),
        ]
        for inputs, outputs, text in wrong:
            with pytest.raises(TypeInferenceError, match=text):
                context.dispatch(graph, inputs, outputs)
    context.dispatch(graph, {"x": a}, {"y": b})
    assert context.read_tensor(b).tolist() == [1.0] * 3


def test_builder_errors(context: MLContext) -> None:
    builder, other = MLGraphBuilder(context), MLGraphBuilder(context)
    x = builder.input("x", "float32", [2, 3])
    y = builder.relu(x)
    unused = builder.input("unused", "float32", [9])
    assert unused.shape == (9,)
    for call, text in (
        (lambda: builder.input("x", "float32", [1]), "already"),
        (lambda: builder.input("", "float32", [1]), "empty"),
        (lambda: builder.input("z", "float33", [1]), "float33"),
        (lambda: builder.input("z", "float32", [0]), "dimension 0"),
        (lambda: builder.input("z", "float32", [1] * 9), "rank 9"),
        (lambda: builder.matmul(x, x, label="mine"), "matmul 'mine'.*inner dimensions 3 and 2"),
        (lambda: builder.relu(other.input("x", "float32", [1])), "another builder"),
        (lambda: builder.relu(np.zeros(3)), "MLOperand is wanted"),
        (lambda: builder.relu(x, alpha=1), "no option alpha"),
        (lambda: builder.elu(x, alpha=float("nan")), "finite"),
        (lambda: builder.build({}), "at least one"),
        (lambda: builder.build({"": y}), "no name"),
        (lambda: builder.build({"x": x}), "is an input"),
        (lambda: builder.build({"y": y, "z": 3}), "output 'z'"),
    ):
        with pytest.raises(TypeInferenceError, match=text):
            call()
    graph = builder.build({"y": y, "again": y})  # the failures changed nothing
    assert list(graph.inputs) == ["x"]
    result = context.compute(graph, {"x": np.full((2, 3), -1, F32)})
    assert (result["y"] == 0).all() and (result["again"] == 0).all()
    for call in (lambda: builder.relu(x), lambda: builder.build({"y": y})):
        with pytest.raises(TypeInferenceError, match="make a new one"):
            call()


def test_limits(context: MLContext) -> None:
    limits = context.op_support_limits()
    assert limits["matmul"]["a"]["rank_range"] == {"min": 2, "max": 8}
    assert "float32" in limits["gemm"]["c"]["data_types"]
    assert limits["logical_not"]["a"]["data_types"] == ["uint8"]
    assert limits["max_tensor_byte_length"] >= 128 << 20


def test_destroyed_context(device: Any) -> None:
    context = ML().create_context(gpu_device=device)
    graph, (a, b) = increment(context), tensors(context, 2)
    assert not context.lost.done()
    context.destroy()
    context.destroy()
    assert context.lost.result(0) == "destroyed"
    assert a.destroyed and graph.destroyed
    for call in (
        lambda: context.create_tensor("float32", [1]),
        lambda: context.dispatch(graph, {"x": a}, {"y": b}),
        lambda: MLGraphBuilder(context),
    ):
        with pytest.raises(ClosedError):
            call()
    assert issubclass(ClosedError, GpucompileError)


def test_older_spelling(context: MLContext) -> None:
    builder = context.create_graph_builder()
    graph = builder.build({"y": builder.neg(builder.input("x", "float32", [2]))})
    x, y = context.create_buffer("float32", [2]), context.create_buffer("float32", [2])
    context.write_buffer(x, np.array([1, -2], F32))
    context.dispatch(graph, {"x": x}, {"y": y})
    assert context.read_buffer(y).tolist() == [-1, 2]
