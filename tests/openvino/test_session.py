"""InferenceSession on the CPU through OpenVINO."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import gpucompile
from gpucompile.errors import DeviceError, InputError, UnsupportedError
from gpucompile.runtime.openvino import list_devices
from gpucompile.webnn import ML


@pytest.fixture(scope="module")
def model() -> bytes:
    """y = x @ w, any(x > 0) row by row, with a free batch."""
    w = helper.make_tensor("w", TensorProto.FLOAT, (4, 3), np.arange(12, dtype=np.float32))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Greater", ["x", "zero"], ["positive"]),
    ]
    zero = helper.make_tensor("zero", TensorProto.FLOAT, (), [0.0])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])
    positive = helper.make_tensor_value_info("positive", TensorProto.BOOL, ["batch", 4])
    graph = helper.make_graph(nodes, "g", [x], [y, positive], [w, zero])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


PROVIDERS: list[Any] = [
    "cpu",
    "CPUExecutionProvider",
    ("OpenVINOExecutionProvider", {"device_type": "CPU"}),
    {"name": "webnn", "deviceType": "cpu", "numThreads": 1, "powerPreference": "low-power"},
]


@pytest.mark.parametrize("provider", PROVIDERS, ids=str)
def test_as_onnxruntime(model: bytes, provider: Any) -> None:
    theirs = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    with gpucompile.InferenceSession(model, providers=[provider]) as ours:
        for batch in (1, 5):
            x = np.random.default_rng(batch).standard_normal((batch, 4)).astype(np.float32)
            want, got = theirs.run(None, {"x": x}), ours.run(None, {"x": x})
            np.testing.assert_allclose(got[0], want[0], rtol=1e-5, atol=1e-5)
            assert got[1].dtype == np.bool_
            np.testing.assert_array_equal(got[1], want[1])
            (only,) = asyncio.run(ours.run_async(["y"], {"x": x}))  # type: ignore[arg-type]
            np.testing.assert_array_equal(only, got[0])
        filled = np.empty((5, 3), np.float32)
        ours.run(["y"], {"x": x}, fetches={"y": filled})
        np.testing.assert_array_equal(filled, got[0])
        assert ours.memory()["weights"] > 0


def test_a_bundle(model: bytes, tmp_path: Path) -> None:
    path = gpucompile.compile(model, dims={"batch": 2}, devices=("cpu",)).save(tmp_path / "x.gpub")
    x = np.ones((2, 4), np.float32)
    with gpucompile.InferenceSession(path, providers=["cpu"]) as session:
        assert session.run(["y"], {"x": x})[0].tolist() == [[18.0, 22.0, 26.0]] * 2


def test_refused(model: bytes) -> None:
    with pytest.raises(UnsupportedError, match="numpy arrays"):
        gpucompile.InferenceSession(model, providers=["cpu"], preferred_output_location="gpu-buffer")
    with pytest.raises(InputError, match="none of cpu, gpu, npu"):
        gpucompile.InferenceSession(model, providers=[("webnn", {"deviceType": "tpu"})])
    with pytest.raises(UnsupportedError, match="memory_budget"):
        gpucompile.InferenceSession(model, providers=["cpu"], memory_budget=1, free_dimension_overrides={"batch": 1})
    if not any(d.kind == "npu" for d in list_devices()):
        with pytest.raises(DeviceError, match="no npu device"):
            gpucompile.InferenceSession(model, providers=[{"name": "webnn", "deviceType": "npu"}])


def test_a_context_is_shared(model: bytes) -> None:
    with ML().create_context("cpu") as context:
        provider = {"name": "webnn", "deviceType": "cpu", "context": context}
        with gpucompile.InferenceSession(model, providers=[provider]) as session:
            assert session.context is context
            assert session.run(["y"], {"x": np.zeros((1, 4), np.float32)})[0].tolist() == [[0.0] * 3]
