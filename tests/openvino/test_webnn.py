"""WebNN contexts on OpenVINO's CPU: the W3C conformance suite, tensors, dispatch, limits, errors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import gpucompile
from gpucompile.backends.openvino.rules import REFUSED
from gpucompile.errors import ClosedError, DeviceError, InputError, TypeInferenceError, UnsupportedError
from gpucompile.runtime.openvino import OpenvinoExecutable, list_devices
from gpucompile.webnn import ML, MLGraphBuilder
from gpucompile.webnn.limits import results, variants
from gpucompile.webnn.operators import OPERATORS, op_class
from tests.support import graph_of
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
    """Exact, through the views in which OpenVINO has them."""
    builder = MLGraphBuilder(context)
    x = builder.input("x", "int64", [2])
    graph = builder.build({"y": builder.neg(x), "same": builder.identity(x)})
    given, y, same = (context.create_tensor("int64", [2], readable=True, writable=True) for _ in range(3))
    for numbers in ([2**31 - 1, -(2**31) + 1], [2**62 + 5, -1], [-(2**63), 0]):
        context.write_tensor(given, np.array(numbers))
        context.dispatch(graph, {"x": given}, {"y": y, "same": same})
        assert context.read_tensor(y).tolist() == [n if n == -(2**63) else -n for n in numbers]
        assert context.read_tensor(same).tolist() == numbers


def test_limits(context: Any) -> None:
    limits = context.op_support_limits()
    assert limits["pow"]["a"]["data_types"] == ["float32", "float16", "int32", "uint32", "int8", "uint8"]
    assert "uint64" in limits["div"]["a"]["data_types"]
    builder = MLGraphBuilder(context)
    x = builder.input("x", "int64", [2])
    with pytest.raises(UnsupportedError, match="pow: OpenVINO computes int64 in 32 bits"):
        builder.build({"y": builder.pow(x, x)})


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in ("cast", "pow", "gather", "linear") else pytest.mark.slow)
        for n in sorted(OPERATORS)
    ],
)
def test_limits_are_true(context: Any, name: str) -> None:
    """Of every operand every data type that is claimed is in a graph that the device compiles; what is not claimed
    is refused."""
    claimed = {key: set(v["data_types"]) for key, v in context.op_support_limits()[name].items()}
    cls, seen = op_class(name), dict[str, set[str]]()
    for op, types in cls.cases():
        for variant, changed in variants(op, types):
            keys = [o.rstrip("?*") for o in cls.operands]
            keys += keys[-1:] * (len(changed) - len(keys))
            given = [(k, t.dtype.value) for k, t in zip(keys, changed, strict=False) if t is not None]
            if results(variant, changed) is None or all(d in seen.get(k, ()) for k, d in given):
                continue
            graph = graph_of(variant, changed)
            if all(d in claimed[k] for k, d in given):
                OpenvinoExecutable(gpucompile.compile(graph, devices=("cpu",)), "cpu").close()
                for k, d in given:
                    seen.setdefault(k, set()).add(d)
            elif cls in REFUSED:
                with pytest.raises(UnsupportedError):
                    gpucompile.compile(graph, devices=("cpu",))
    assert {k: claimed[k] - seen.get(k, set()) for k in claimed if not k.startswith("output")} == {
        k: set() for k in claimed if not k.startswith("output")
    }


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
