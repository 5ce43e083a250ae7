"""`InferenceSession` as programs written for ONNX Runtime use it: results, where outputs go, ownership, errors."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import wgpu
from onnx import TensorProto, helper

import gpucompile
from gpucompile import InferenceSession, SessionOptions, Tensor
from gpucompile.errors import ClosedError, InputError, ModelError
from gpucompile.webnn import ML, MLContext

U = wgpu.BufferUsage
X = np.arange(8, dtype=np.float32).reshape(2, 4)


def model(rows: int | str = "n") -> onnx.ModelProto:
    """y = relu(x + w), positive = y > 2 (bool), total = the sum of y"""
    nodes = [
        helper.make_node("Add", ["x", "w"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
        helper.make_node("Greater", ["y", "two"], ["positive"]),
        helper.make_node("ReduceSum", ["y"], ["total"], keepdims=0),
    ]
    weights = [
        helper.make_tensor("w", TensorProto.FLOAT, [4], [1.0, -2.0, 3.0, -4.0]),
        helper.make_tensor("two", TensorProto.FLOAT, [], [2.0]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "example", [value("x", TensorProto.FLOAT, [rows, 4])],
        [value("y", TensorProto.FLOAT, [rows, 4]), value("positive", TensorProto.BOOL, [rows, 4]),
         value("total", TensorProto.FLOAT, [])], weights,
    )  # fmt: skip
    out = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, producer_name="test")
    out.metadata_props.add(key="key", value="text")
    return out


@pytest.fixture
def context(device: Any) -> Iterator[MLContext]:
    with ML().create_context(gpu_device=device) as context:
        yield context


@pytest.fixture
def session(context: MLContext) -> Iterator[InferenceSession]:
    with InferenceSession(model().SerializeToString(), providers=[("webnn", {"context": context})]) as session:
        yield session


def gpu(session: InferenceSession, array: np.ndarray) -> Any:
    handle = session.device.handle
    buffer = handle.create_buffer(size=array.nbytes, usage=U.STORAGE | U.COPY_SRC | U.COPY_DST)
    handle.queue.write_buffer(buffer, 0, array)
    return buffer


def want(x: np.ndarray = X) -> list[np.ndarray]:
    return list(onnxruntime.InferenceSession(model().SerializeToString()).run(None, {"x": x}))


# as ONNX Runtime -----------------------------------------------------------------------------------------------------


def test_the_same_script_with_both(device: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model(), path)

    def script(ort: Any, **more: Any) -> list[Any]:
        options = ort.SessionOptions()
        options.add_free_dimension_override_by_name("n", 2)
        session = ort.InferenceSession(str(path), options, **more)
        meta = session.get_modelmeta()
        out: list[Any] = [[(i.name, list(i.shape), i.type) for i in session.get_inputs()]]
        out += [[(o.name, list(o.shape), o.type) for o in session.get_outputs()]]
        out += [meta.producer_name, meta.graph_name, meta.custom_metadata_map]
        out += session.run(None, {"x": X})
        out += session.run(["total", "y"], {"x": X})
        binding = session.io_binding()
        binding.bind_cpu_input("x", X)
        binding.bind_output("y")
        session.run_with_iobinding(binding)
        out += binding.copy_outputs_to_cpu()
        done, results = threading.Event(), []
        session.run_async(["y"], {"x": X}, lambda r, data, error: (results.extend([r[0], data, error]), done.set()), 7)
        assert done.wait(30)
        return out + results

    ours = script(gpucompile, providers=[("webgpu", {"device": device})])
    theirs = script(onnxruntime, providers=["CPUExecutionProvider"])
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        if isinstance(b, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b)
        else:
            assert a == b


def test_free_dimensions_come_from_the_inputs(session: InferenceSession) -> None:
    for rows in (2, 5, 2, 3):
        x = np.linspace(-3, 9, rows * 4, dtype=np.float32).reshape(rows, 4)
        for got, expected in zip(session.run(None, {"x": x}), want(x)):
            np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert len(session._programs) == 3
    for n in range(1, 12):
        session.run(["total"], {"x": np.ones((n, 4), np.float32)})
    assert len(session._programs) == 8
    with pytest.raises(InputError, match="input 'x' is missing"):
        session.run(None, {})
    assert session.get_inputs()[0].shape == ["n", 4]


def test_sources(device: Any, tmp_path: Path) -> None:
    bundle = gpucompile.compile(model(), dims={"n": 2})
    file = bundle.save(tmp_path / "model.gpub")
    for source in (model(2), model(2).SerializeToString(), bundle, file, str(bundle.save(tmp_path / "folder"))):
        with InferenceSession(source, providers=[{"name": "webgpu", "device": device}]) as session:
            np.testing.assert_allclose(session.run(["y"], {"x": X})[0], want()[0])
            session.warm_up()
    with pytest.raises(ModelError):
        InferenceSession(tmp_path / "none.onnx")
    with pytest.raises(ModelError):
        InferenceSession(b"\xff" * 99)


def test_options(device: Any) -> None:
    ort = onnxruntime.SessionOptions()
    ort.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert SessionOptions.of(ort, {}).pipeline == "none"
    assert SessionOptions.of({"graphOptimizationLevel": "basic"}, {}).pipeline == "no-fuse"
    assert SessionOptions.of(None, {"freeDimensionOverrides": {"n": 3}}).free_dimension_overrides == {"n": 3}
    with InferenceSession(model(2), sess_options=ort, providers=["WebGpuExecutionProvider"]) as session:
        assert session.get_providers() == ["WebGpuExecutionProvider"]
    for options, text in (
        ({"providers": ["cuda"]}, "unknown provider 'cuda'"),
        ({"providers": "webgpu"}, "providers is a list"),
        ({"providers": [("webnn", {"devicetype": "gpu"})]}, "no option 'devicetype'"),
        ({"providers": [{"name": "webnn", "deviceType": "tpu"}]}, "none of cpu, gpu, npu"),
        ({"preferred_output_location": "moon"}, "none of cpu, gpu-buffer"),
        ({"preferred_output_location": {"z": "cpu"}}, "no output 'z'"),
        ({"graph_optimization_level": None, "speed": 3}, "no option 'speed'"),
        ({"free_dimension_overrides": {"m": 3}}, "m"),
    ):
        with pytest.raises(InputError, match=text):
            InferenceSession(model(2), **options)


def test_wrong_inputs(session: InferenceSession) -> None:
    good = {"x": X}
    for feed, names, fetches, text in (
        ({"x": X.astype(np.float64)}, None, {}, "float64"),
        ({"x": X[0]}, None, {}, "rank 1|x"),
        ({"x": X, "z": X}, None, {}, "no input 'z'"),
        (good, ["q"], {}, "no output 'q'"),
        (good, None, {"q": X}, "no output 'q'"),
        (good, None, {"y": X[:1].copy()}, "fetch 'y' is float32"),
        (good, None, {"y": X.astype(np.int32)}, "fetch 'y' is int32"),
        (good, None, {"y": "text"}, "a Tensor or an array"),
        (good, None, {"y": Tensor.from_gpu_buffer(gpu(session, X), dtype="float32", dims=[8])}, "fetch 'y'"),
        ({"x": Tensor.from_gpu_buffer(gpu(session, X), dtype="int32", dims=[2, 4])}, None, {}, "input 'x'"),
    ):
        with pytest.raises(InputError, match=text):
            session.run(names, feed, fetches=fetches)
    np.testing.assert_allclose(session.run(["y"], good)[0], want()[0])  # the session is as usable as before


# tensors and where they live ------------------------------------------------------------------------------------------


def test_inputs_and_outputs_on_the_gpu(session: InferenceSession) -> None:
    """The snippets of the WebGPU IO binding document."""
    buffer, out = gpu(session, X), gpu(session, np.zeros_like(X))
    feeds = {"x": Tensor.from_gpu_buffer(buffer, dtype="float32", dims=[2, 4])}
    fetches = {"y": Tensor.from_gpu_buffer(out, dtype="float32", dims=[2, 4])}
    results = session.run(["y", "positive"], feeds, fetches=fetches)
    assert results[0] is fetches["y"] and results[0].gpu_buffer is out and results[0].location == "gpu-buffer"
    np.testing.assert_allclose(results[0].numpy(), want()[0])
    np.testing.assert_array_equal(results[1], want()[1])
    results[0].dispose()
    with pytest.raises(ClosedError, match="dispose"):
        results[0].numpy()
    assert session.device.handle.queue.read_buffer(out).nbytes == 32  # the caller's buffer is alive


@pytest.mark.parametrize("location", ["gpu-buffer", "ml-tensor", "ml-buffer", {"y": "gpu-buffer"}])
def test_outputs_stay_where_they_are_wanted(context: MLContext, location: Any) -> None:
    options = {"preferredOutputLocation": location, "freeDimensionOverrides": {"n": 2}}
    with InferenceSession(model(), options, [{"name": "webnn", "context": context}]) as session:
        y, total = session.run(["y", "total"], {"x": X})
        assert isinstance(y, Tensor) and y.owned and y.dtype == np.float32 and y.shape == (2, 4)
        assert isinstance(total, Tensor) == (not isinstance(location, dict))
        np.testing.assert_allclose(asyncio.run(y.get_data()), want()[0])
        again = session.run(["y"], {"x": y})[0]  # fed back
        np.testing.assert_allclose(asyncio.run(again.get_data(release=True)), want(want()[0])[0])
        assert again.disposed
        if y.location == "ml-tensor":
            assert y.ml_tensor.shape == (2, 4)
        y.dispose()
        y.dispose()
        for use in (lambda: y.gpu_buffer, lambda: session.run(None, {"x": y}), lambda: y.data):
            with pytest.raises(ClosedError):
                use()


def test_ml_tensors(context: MLContext, session: InferenceSession) -> None:
    """The snippets of the WebNN IO binding document."""
    source = context.create_tensor("float32", [2, 4], writable=True)
    target = context.create_tensor("float32", [2, 4], readable=True)
    context.write_tensor(source, X)
    feeds = {"x": Tensor.from_ml_tensor(source, dtype="float32", dims=[2, 4])}
    results = session.run(["y"], feeds, fetches={"y": Tensor.from_ml_buffer(target)})
    np.testing.assert_allclose(context.read_tensor(target), want()[0])
    np.testing.assert_allclose(results[0].numpy(), want()[0])
    source.destroy()
    with pytest.raises(InputError, match="destroyed"):
        session.run(["y"], feeds)
    with pytest.raises(InputError, match="given, the tensor is"):
        Tensor.from_ml_tensor(target, dims=[8])


def test_tensors_on_the_host(session: InferenceSession) -> None:
    tensor = Tensor.from_numpy(X)
    assert tensor.location == "cpu" and tensor.data is X and not tensor.owned
    np.testing.assert_array_equal(np.from_dlpack(tensor), X)
    np.testing.assert_array_equal(Tensor.from_dlpack(X).numpy(), X)
    np.testing.assert_array_equal(np.asarray(tensor), X)
    out = np.empty_like(X)
    (y,) = session.run(["y"], {"x": tensor}, fetches={"y": out})
    assert y is out
    np.testing.assert_allclose(out, want()[0])
    (y,) = session.run(["y"], {"x": onnxruntime.OrtValue.ortvalue_from_numpy(X)})
    np.testing.assert_allclose(y, want()[0])
    with pytest.raises(InputError, match="not on the GPU"):
        _ = tensor.gpu_buffer
    with tensor:
        pass
    with pytest.raises(ClosedError):
        tensor.numpy()
    for make, text in (
        (lambda: Tensor.from_gpu_buffer(X, dtype="float32", dims=[2]), "wgpu.GPUBuffer is wanted"),
        (lambda: Tensor.from_gpu_buffer(gpu(session, X), dtype="float32", dims=[3, 4]), "needs 48 bytes"),
        (lambda: Tensor.from_gpu_buffer(gpu(session, X), dtype="float33", dims=[3, 4]), "no data type"),
        (lambda: Tensor.from_gpu_buffer(gpu(session, X), dtype="float32"), "dtype and dims"),
        (lambda: Tensor.from_numpy(np.array(["a"])), "no data type"),
    ):
        with pytest.raises(InputError, match=text):
            make()


def test_a_destroyed_buffer_fails_the_run(session: InferenceSession) -> None:
    buffer = gpu(session, X)
    feeds = {"x": Tensor.from_gpu_buffer(buffer, dtype="float32", dims=[2, 4])}
    session.run(["y"], feeds)
    buffer.destroy()
    with pytest.raises(InputError, match="destroyed"):
        session.run(["y"], feeds)
    np.testing.assert_allclose(session.run(["y"], {"x": X})[0], want()[0])


def test_shared_buffers(session: InferenceSession) -> None:
    buffer = gpu(session, X)
    tensor = Tensor.from_gpu_buffer(buffer, dtype="float32", dims=[2, 4])
    with pytest.raises(InputError, match="share a buffer"):
        session.run(["y"], {"x": tensor}, fetches={"y": tensor})


# state ---------------------------------------------------------------------------------------------------------------


def test_collected_tensors_give_their_memory_back(context: MLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    with InferenceSession(
        model(2), providers=[("webnn", {"context": context})], preferred_output_location="gpu-buffer"
    ) as s:
        for _ in range(300):
            s.run(["y"], {"x": X})
            gc.collect(0)
        gc.collect()
        assert s._pool.allocations < 20
        monkeypatch.setenv("GPUCOMPILE_DEBUG", "1")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            s.run(["y"], {"x": X})[0].dispose()
            gc.collect()
            assert not [w for w in caught if "dispose" in str(w.message)]
            s.run(["y"], {"x": X})
            gc.collect()
        assert any(issubclass(w.category, ResourceWarning) and "dispose" in str(w.message) for w in caught)


def test_iobinding_keeps_outputs(session: InferenceSession) -> None:
    binding = session.io_binding()
    binding.bind_cpu_input("x", X)
    binding.bind_output("y", "gpu")
    binding.bind_output("total", "cpu")
    for _ in range(5):
        session.run_with_iobinding(binding)
    y, total = (v.tensor for v in binding.get_outputs())
    assert y.location == "gpu-buffer" and session._pool.allocations == 1
    np.testing.assert_allclose(binding.copy_outputs_to_cpu()[0], want()[0])
    np.testing.assert_allclose(total.numpy(), want()[2], rtol=1e-6)
    binding.synchronize_outputs()
    binding.bind_input("x", "gpu", 0, np.float32, [2, 4], gpu(session, X + 1))
    session.run_with_iobinding(binding)
    np.testing.assert_allclose(binding.copy_outputs_to_cpu()[0], want(X + 1)[0])
    binding.clear_binding_outputs()
    assert y.disposed
    with pytest.raises(InputError, match="no input 'q'"):
        binding.bind_cpu_input("q", X)


# memory, threads, life ------------------------------------------------------------------------------------------------


def test_profiling(device: Any, tmp_path: Path) -> None:
    options = {"enable_profiling": True, "profile_file_prefix": str(tmp_path / "trace")}
    with InferenceSession(model(2), options, [("webgpu", {"device": device})]) as session:
        session.run(None, {"x": X})
        events = json.loads(Path(session.end_profiling()).read_text())
        assert events and events[0]["name"] == "run" and events[0]["dur"] > 0
    with InferenceSession(model(2)) as session, pytest.raises(InputError, match="enable_profiling"):
        session.end_profiling()


def test_closed_sessions(session: InferenceSession) -> None:
    options = {"preferred_output_location": "gpu-buffer"}
    with InferenceSession(model(2), options, [("webnn", {"context": session.context})]) as other:
        (y,) = other.run(["y"], {"x": X})
    np.testing.assert_allclose(y.numpy(), want()[0])  # outputs outlive the session
    y.dispose()
    with pytest.raises(ClosedError):
        other.run(None, {"x": X})
    np.testing.assert_allclose(session.run(["y"], {"x": X})[0], want()[0])
