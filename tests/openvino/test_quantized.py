"""Quantised networks keep their 8-bit execution on OpenVINO's CPU: the device's own graph says so."""

from __future__ import annotations

import numpy as np
import pytest

import gpucompile
from gpucompile.ir.graph import Graph, Value
from gpucompile.ir.interpret import interpret
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.activation import Relu
from gpucompile.ops.contraction import Matmul
from gpucompile.ops.conv import Conv2d
from gpucompile.ops.quantize import DequantizeLinear, QuantizeLinear
from gpucompile.runtime.openvino import OpenvinoExecutable

F32 = DataType.FLOAT32
RNG = np.random.default_rng(0)


def through_8_bits(graph: Graph, x: Value, scale: float, dtype: type[np.generic], zero: int) -> Value:
    """quantize_linear, dequantize_linear."""
    ones = (1,) * x.type.rank
    s = graph.constant(np.full(ones, scale, np.float32))
    z = graph.constant(np.full(ones, zero, dtype))
    return graph.add(DequantizeLinear(), graph.add(QuantizeLinear(), x, s, z), s, z)


def weight(graph: Graph, shape: tuple[int, ...], axis: int) -> Value:
    """int8 weights with a scale each channel."""
    scales = tuple(d if i == axis else 1 for i, d in enumerate(shape))
    w = graph.constant(RNG.integers(-127, 128, shape).astype(np.int8))
    s = graph.constant(RNG.uniform(0.001, 0.01, scales).astype(np.float32))
    return graph.add(DequantizeLinear(), w, s, graph.constant(np.zeros(scales, np.int8)))


def convolutions() -> Graph:
    graph = Graph("convolutions")
    x = graph.add_input("x", TensorType(F32, (1, 16, 12, 12)))
    for _ in range(2):
        x = through_8_bits(graph, x, 0.02, np.uint8, 128)
        x = graph.add(Conv2d((1, 1, 1, 1)), x, weight(graph, (16, 16, 3, 3), 0))
        x = graph.add(Relu(), x)
    graph.set_outputs({"y": x})
    return graph


def products() -> Graph:
    graph = Graph("products")
    x = graph.add_input("x", TensorType(F32, (1, 64, 64)))
    for _ in range(2):
        x = through_8_bits(graph, x, 0.02, np.uint8, 128)
        x = graph.add(Matmul(), x, weight(graph, (64, 64), 1))
        x = graph.add(Relu(), x)
    graph.set_outputs({"y": x})
    return graph


@pytest.mark.parametrize(("graph", "kind"), [(convolutions(), "Convolution"), (products(), "FullyConnected")])
def test_execution_in_8_bits(graph: Graph, kind: str) -> None:
    feeds = {"x": RNG.standard_normal(graph.inputs[0].type.shape).astype(np.float32)}
    with gpucompile.load(gpucompile.compile(graph, devices=("cpu",)), device="cpu") as exe:
        assert isinstance(exe, OpenvinoExecutable)
        found = [dtype for layer, _, dtype in exe.precisions() if layer == kind]
        assert len(found) == 2 and set(found) <= {"u8", "i8"}, exe.precisions()
        got = exe.run(feeds)["y"]
    want = interpret(graph, feeds)["y"]
    # a quantum of the second layer's input, where rounding falls on the other side, is 0.02 of a term
    assert np.abs(got - want).max() < 0.02 * np.abs(want).max()
