"""WebNN contexts on OpenVINO's CPU: the W3C conformance suite, tensors, dispatch, limits, errors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gpucompile.errors import ClosedError, DeviceError, InputError, TypeInferenceError, UnsupportedError
from gpucompile.runtime.openvino import list_devices
from gpucompile.webnn import ML, MLGraphBuilder
from tests.wpt import suite
from tests.wpt.check import check_file


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    with ML().create_context("cpu") as context:
        yield context


@pytest.mark.parametrize("file", suite.files("conformance"))
def test_conformance(context: Any, file: str) -> None:
    check_file("conformance", file, context, suite.run_conformance, "openvino-cpu")


def test_dispatch(context: Any) -> None:
    builder = MLGraphBuilder(context)
    a = builder.input("a", "float32", [2, 2])
    graph = builder.build({"c": builder.relu(builder.linear(a, beta=-1.0))})
    x = context.create_tensor("float32", [2, 2], writable=True, readable=True)
    y = context.create_tensor("float32", [2, 2], readable=True)
    data = np.array([[0, 1], [2, 3]], np.float32)
    context.write_tensor(x, data)
    context.dispatch(graph, {"a": x}, {"c": y})
    np.testing.assert_array_equal(context.read_tensor(y), [[0, 0], [1, 2]])
    np.testing.assert_array_equal(context.read_tensor(x), data)
    out = np.empty((2, 2), np.float32)
    assert context.read_tensor(y, out) is out
    np.testing.assert_array_equal(out, [[0, 0], [1, 2]])
    assert asyncio.run(context.read_tensor_async(y)).tolist() == [[0, 0], [1, 2]]
    with pytest.raises(TypeInferenceError, match="as well"):
        context.dispatch(graph, {"a": x}, {"c": x})
    with pytest.raises(InputError, match="no GPU buffer"):
        _ = x.gpu_buffer
    x.destroy()
    with pytest.raises(InputError, match="after destroy"):
        context.write_tensor(x, data)
    graph.destroy()
    with pytest.raises(InputError, match="after destroy"):
        context.dispatch(graph, {"a": y}, {"c": y})


def test_64_bits(context: Any) -> None:
    builder = MLGraphBuilder(context)
    graph = builder.build({"y": builder.neg(builder.input("x", "int64", [2]))})
    x, y = (context.create_tensor("int64", [2], readable=True, writable=True) for _ in "xy")
    context.write_tensor(x, np.array([2**31 - 1, -(2**31) + 1]))
    context.dispatch(graph, {"x": x}, {"y": y})
    assert context.read_tensor(y).tolist() == [-(2**31) + 1, 2**31 - 1]
    context.write_tensor(x, np.array([2**31, 0]))
    with pytest.raises(InputError, match="beyond int32"):
        context.dispatch(graph, {"x": x}, {"y": y})


def test_limits(context: Any) -> None:
    limits = context.op_support_limits()
    assert limits["pow"]["a"]["data_types"] == ["float32", "float16"]
    assert "uint32" not in limits["div"]["a"]["data_types"] and "int32" in limits["div"]["a"]["data_types"]
    builder = MLGraphBuilder(context)
    x = builder.input("x", "int32", [2])
    with pytest.raises(UnsupportedError, match="pow: OpenVINO computes it in float32"):
        builder.build({"y": builder.pow(x, x)})


def test_options() -> None:
    with ML().create_context("cpu", num_threads=1, power_preference="high-performance") as context:
        assert not context.accelerated and context.device.kind == "cpu"
    with pytest.raises(ClosedError):
        context.create_tensor("float32", [1])
    assert context.lost.result(0) == "destroyed"
    with pytest.raises(InputError, match="for the GPU"):
        ML().create_context("cpu", gpu_device=object())


@pytest.mark.skipif(any(d.kind == "npu" for d in list_devices()), reason="there is an NPU here")
def test_no_npu() -> None:
    with pytest.raises(DeviceError, match=r"no npu device: OpenVINO .* finds CPU"):
        ML().create_context("npu")
