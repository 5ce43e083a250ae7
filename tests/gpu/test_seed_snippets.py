"""The JavaScript of three documents of the web platform, line by line in Python.

    webnn     "Using the WebNN Execution Provider" of ONNX Runtime (IO binding on MLBuffers)
    webgpu    the pull request that brought WebGPU IO binding to ONNX Runtime Web
    guide     "WebNN: Neural Networks in the Browser", a tutorial with pipelines

Each test names the document and the heading that it follows. docs/sessions.md has the table of what they promise.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
import wgpu
from onnx import TensorProto, helper, numpy_helper, parser

import gpucompile as ort
from gpucompile.errors import ClosedError, GpucompileError, InputError
from gpucompile.webnn import ML, MLContext, MLGraph, MLGraphBuilder, MLOperand

U = wgpu.BufferUsage
IMAGE = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)


@pytest.fixture
def ml_context(device: ort.Device) -> Iterator[MLContext]:
    with ML().create_context(gpu_device=device) as context:  # navigator.ml.createContext
        yield context


def model(*, batch: int | str = 1) -> onnx.ModelProto:
    """input_0 [1, 3, 224, 224] -> output_0 [10, 1000], output_1 [1, 3]: the names and shapes of the webnn document."""
    weights = np.random.default_rng(1).standard_normal((3, 1000)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["input_0"], ["output_1"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["output_1", "weights"], ["logits"]),
        helper.make_node("Tile", ["logits", "times"], ["output_0"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "classifier", [value("input_0", TensorProto.FLOAT, [batch, 3, 224, 224])],
        [value("output_0", TensorProto.FLOAT, [10, 1000]), value("output_1", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.array([10, 1]), "times")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def classified(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """output_0 and output_1 by numpy."""
    means = image.mean(axis=(2, 3))
    weights = np.random.default_rng(1).standard_normal((3, 1000)).astype(np.float32)
    return np.tile(means @ weights, (10, 1)), means


# webnn: Using the WebNN Execution Provider ----------------------------------------------------------------------------


def test_webnn_how_to_use_webnn_ep(device: ort.Device) -> None:
    """webnn, "How to use WebNN EP in ONNX Runtime Web": steps 2 and 3."""
    options = {"executionProviders": ["webnn"]}
    with ort.InferenceSession(model(), options) as session:
        assert session.get_providers() == ["webnn"]
    options = {
        "executionProviders": [
            {
                "name": "webnn",
                "deviceType": "gpu",
                "powerPreference": "default",
            },
        ],
        "freeDimensionOverrides": {"batch": 1},
    }
    with ort.InferenceSession(model(batch="batch"), options) as session:
        assert session.get_inputs()[0].shape == [1, 3, 224, 224]
        (y,) = session.run(["output_1"], {"input_0": IMAGE})
        np.testing.assert_allclose(y, classified(IMAGE)[1], atol=1e-5)


def test_webnn_options_of_the_provider(ml_context: MLContext) -> None:
    """webnn, "How to use WebNN EP": deviceType, powerPreference, numThreads, context; context makes the others void."""
    given = {"name": "webnn", "context": ml_context, "deviceType": "cpu", "numThreads": 2}
    with ort.InferenceSession(model(), {"executionProviders": [given]}) as session:
        assert session.context is ml_context
    for wrong in ({"deviceType": "tpu"}, {"powerPreference": "high"}, {"context": 3}, {"numThreads": "two"}):
        with pytest.raises(InputError):
            ort.InferenceSession(model(), providers=[{"name": "webnn", **wrong}])


def test_webnn_create_input_tensor_from_a_mlbuffer(ml_context: MLContext) -> None:
    """webnn, "Create input tensor from a MLBuffer"."""
    input_ml_buffer = ml_context.create_tensor("float32", [1, 3, 224, 224], writable=True)
    ml_context.write_tensor(input_ml_buffer, IMAGE)
    input_tensor = ort.Tensor.from_ml_buffer(input_ml_buffer, dtype="float32", dims=[1, 3, 224, 224])
    assert input_tensor.location == "ml-tensor" and input_tensor.ml_tensor is input_ml_buffer
    with ort.InferenceSession(model(), providers=[{"name": "webnn", "context": ml_context}]) as session:
        y, means = session.run(None, {"input_0": input_tensor})
    np.testing.assert_allclose(y, classified(IMAGE)[0], atol=1e-5)
    np.testing.assert_allclose(means, classified(IMAGE)[1], atol=1e-5)


def test_webnn_use_pre_allocated_mlbuffer_tensors(ml_context: MLContext) -> None:
    """webnn, "Use pre-allocated MLBuffer tensors": the results are in them; a wrong shape makes run() fail."""
    my_pre_allocated_buffer = ml_context.create_tensor("float32", [10, 1000], readable=True)
    my_pre_allocated_output_tensor = ort.Tensor.from_ml_buffer(
        my_pre_allocated_buffer, dtype="float32", dims=[10, 1000]
    )
    with ort.InferenceSession(model(), providers=[{"name": "webnn", "context": ml_context}]) as my_session:
        feeds = {"input_0": IMAGE}
        fetches = {"output_0": my_pre_allocated_output_tensor}
        results = my_session.run(["output_0"], feeds, fetches=fetches)
        assert results[0] is my_pre_allocated_output_tensor
        np.testing.assert_allclose(ml_context.read_tensor(my_pre_allocated_buffer), classified(IMAGE)[0], atol=1e-5)

        wrong = ml_context.create_tensor("float32", [1000, 10], readable=True)
        with pytest.raises(InputError, match=r"fetch 'output_0' is .*\[1000, 10\].*, float32\[10, 1000\] is wanted"):
            my_session.run(None, feeds, fetches={"output_0": ort.Tensor.from_ml_buffer(wrong)})


def test_webnn_specify_the_output_data_location(ml_context: MLContext) -> None:
    """webnn, "Specify the output data location": for all, or one by one."""
    providers = [{"name": "webnn", "context": ml_context}]
    my_session_options_1 = {"executionProviders": providers, "preferredOutputLocation": "ml-buffer"}
    my_session_options_2 = {
        "executionProviders": providers,
        "preferredOutputLocation": {"output_0": "cpu", "output_1": "ml-buffer"},
    }
    with ort.InferenceSession(model(), my_session_options_1) as session:
        results = session.run(None, {"input_0": IMAGE})
        assert [r.location for r in results] == ["ml-tensor", "ml-tensor"]
        for r, expected in zip(results, classified(IMAGE), strict=True):
            with r:
                np.testing.assert_allclose(r.numpy(), expected, atol=1e-5)
    with ort.InferenceSession(model(), my_session_options_2) as session:
        y, means = session.run(None, {"input_0": IMAGE})
        assert isinstance(y, np.ndarray) and means.location == "ml-tensor"
        means.dispose()


def test_webnn_one_context_for_all_sessions(ml_context: MLContext) -> None:
    """webnn, "Keep tensor data on WebNN MLBuffer", the note: sessions that share a context share tensors."""
    provider = [{"name": "webnn", "context": ml_context}]
    following = parser.parse_model(
        '<ir_version: 9, opset_import: ["": 17]> next (float[1, 3] x) => (float[1, 3] y) { y = Neg(x) }'
    )
    first = ort.InferenceSession(model(), providers=provider, preferred_output_location="ml-tensor")
    with first, ort.InferenceSession(following, providers=provider) as second:
        (means,) = first.run(["output_1"], {"input_0": IMAGE})
        (y,) = second.run(None, {"x": means})
        np.testing.assert_allclose(y, -classified(IMAGE)[1], atol=1e-5)
        means.dispose()


def test_webnn_life_cycle_of_a_users_mlbuffer(ml_context: MLContext) -> None:
    """webnn, "MLBuffer tensor life cycle management", created by user code: the tensor does not own the MLBuffer."""
    buffer = ml_context.create_tensor("float32", [1, 3, 224, 224], readable=True, writable=True)
    tensor = ort.Tensor.from_ml_buffer(buffer)
    assert not tensor.owned
    tensor.dispose()
    assert not buffer.destroyed
    tensor = ort.Tensor.from_ml_buffer(buffer)
    asyncio.run(tensor.get_data(release=True))
    assert tensor.disposed and not buffer.destroyed
    ml_context.write_tensor(buffer, IMAGE)
    with ort.InferenceSession(model(), providers=[{"name": "webnn", "context": ml_context}]) as session:
        feeds = {"input_0": ort.Tensor.from_ml_buffer(buffer)}
        session.run(None, feeds)
        buffer.destroy()
        with pytest.raises(InputError, match="destroyed"):
            session.run(None, feeds)
        session.run(None, {"input_0": IMAGE})  # as usable as before


def test_webnn_life_cycle_of_an_outputs_mlbuffer(ml_context: MLContext) -> None:
    """webnn, "MLBuffer tensor life cycle management", created as the model's output: the tensor owns the buffer."""
    options = {"preferredOutputLocation": "ml-buffer"}
    with ort.InferenceSession(model(), options, [{"name": "webnn", "context": ml_context}]) as session:
        (y,) = session.run(["output_1"], {"input_0": IMAGE})
        assert y.owned
        session.close()
    data = asyncio.run(y.get_data())  # alive without its session
    np.testing.assert_allclose(data, classified(IMAGE)[1], atol=1e-5)
    buffer = y.ml_tensor
    y.dispose()
    assert buffer.destroyed  # nobody is left who would use it again
    with pytest.raises(ClosedError, match=r"<Tensor float32\[1, 3\] on ml-tensor, disposed>: used after dispose"):
        y.numpy()


# webgpu: IO binding of ONNX Runtime Web -------------------------------------------------------------------------------


def image_model() -> onnx.ModelProto:
    """The names and shapes of the webgpu document: an image of 224 x 224 in a frame of 512 x 512."""
    pads = numpy_helper.from_array(np.array([0, 144, 144, 0, 0, 144, 144, 0]), "pads")
    nodes = [
        helper.make_node("Relu", ["input_image:0"], ["bright"]),
        helper.make_node("Pad", ["bright", "pads"], ["output_image:0"]),
    ]
    value = helper.make_tensor_value_info
    given = value("input_image:0", TensorProto.FLOAT, [1, 224, 224, 3])
    taken = value("output_image:0", TensorProto.FLOAT, [1, 512, 512, 3])
    graph = helper.make_graph(nodes, "my_model", [given], [taken], [pads])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


MY_IMAGE_CPU_DATA = np.ascontiguousarray(IMAGE.transpose(0, 2, 3, 1))
FRAMED = np.pad(np.maximum(MY_IMAGE_CPU_DATA, 0), ((0, 0), (144, 144), (144, 144), (0, 0)))


def gpu_buffer(device: ort.Device, array: np.ndarray) -> Any:
    buffer = device.handle.create_buffer(size=array.nbytes, usage=U.STORAGE | U.COPY_SRC | U.COPY_DST)
    device.handle.queue.write_buffer(buffer, 0, array)
    return buffer


def test_webgpu_how_it_is_done_today(device: ort.Device) -> None:
    """webgpu, "Examples": steps 1 to 4 without IO binding."""
    my_session = ort.InferenceSession(image_model().SerializeToString(), {"executionProviders": ["webgpu"]})
    feeds = {"input_image:0": ort.Tensor.from_numpy(MY_IMAGE_CPU_DATA.reshape(-1).reshape(1, 224, 224, 3))}
    names = [o.name for o in my_session.get_outputs()]
    my_results = dict(zip(names, my_session.run(None, feeds), strict=True))
    my_data = my_results["output_image:0"]
    np.testing.assert_array_equal(my_data, FRAMED)
    my_session.release()


def test_webgpu_inputs_and_pre_allocated_outputs(device: ort.Device) -> None:
    """webgpu, "for inputs (GPU tensor)" and "for outputs (pre-allocated GPU tensor)": new steps 2.A, 2.B and 3."""
    my_input_gpu_buffer = gpu_buffer(device, MY_IMAGE_CPU_DATA)
    my_output_gpu_buffer = gpu_buffer(device, np.zeros_like(FRAMED))
    with ort.InferenceSession(image_model(), providers=[("webgpu", {"device": device})]) as my_session:
        feeds = {
            "input_image:0": ort.Tensor.from_gpu_buffer(my_input_gpu_buffer, data_type="float32", dims=[1, 224, 224, 3])
        }
        fetches = {
            "output_image:0": ort.Tensor.from_gpu_buffer(
                my_output_gpu_buffer, data_type="float32", dims=[1, 512, 512, 3]
            )
        }
        my_results = my_session.run(None, feeds, fetches=fetches)
        assert my_results == [fetches["output_image:0"]]
        data = device.handle.queue.read_buffer(my_output_gpu_buffer)
        np.testing.assert_array_equal(np.frombuffer(data, np.float32).reshape(FRAMED.shape), FRAMED)


@pytest.mark.parametrize("location", ["gpu-buffer", {"output_image:0": "gpu-buffer"}])
def test_webgpu_specified_location_and_reading(device: ort.Device, location: Any) -> None:
    """webgpu, "for outputs (specify location)" and "read data"."""
    options = {"executionProviders": [("webgpu", {"device": device})], "preferredOutputLocation": location}
    with ort.InferenceSession(image_model(), options) as my_session:
        (my_output_tensor,) = my_session.run(None, {"input_image:0": MY_IMAGE_CPU_DATA})
        buffer = my_output_tensor.gpu_buffer
        assert buffer.size == FRAMED.nbytes
        np.testing.assert_array_equal(asyncio.run(my_output_tensor.get_data()), FRAMED)
        np.testing.assert_array_equal(asyncio.run(my_output_tensor.get_data(True)), FRAMED)
        assert my_output_tensor.disposed
        my_output_tensor.dispose()
        for use in (lambda: my_output_tensor.gpu_buffer, lambda: asyncio.run(my_output_tensor.get_data())):
            with pytest.raises(ClosedError, match="used after dispose"):
                use()


def test_webgpu_resource_management(device: ort.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """webgpu, "resource management": external buffers are the user's; outputs need dispose() or getData(true), and
    garbage collection, which JavaScript lacks for them, frees them too, with a warning in debug mode; an output tensor
    of a wrong type is an error that one recovers from."""
    mine = gpu_buffer(device, MY_IMAGE_CPU_DATA)
    with ort.Tensor.from_gpu_buffer(mine, dtype="float32", dims=[1, 224, 224, 3]):
        pass
    assert device.handle.queue.read_buffer(mine).nbytes == MY_IMAGE_CPU_DATA.nbytes
    options = {"preferred_output_location": "gpu-buffer"}
    with ort.InferenceSession(image_model(), options, [("webgpu", {"device": device})]) as session:
        feeds = {"input_image:0": MY_IMAGE_CPU_DATA}
        for release in (lambda t: t.dispose(), lambda t: asyncio.run(t.get_data(True)), lambda t: None):
            release(session.run(None, feeds)[0])
            gc.collect()
        assert session._pool.allocations == 1  # what was released served the next run
        monkeypatch.setenv("GPUCOMPILE_DEBUG", "1")
        with pytest.warns(ResourceWarning, match="collected without dispose"):
            session.run(None, feeds)
            gc.collect()
        wrong = ort.Tensor.from_gpu_buffer(gpu_buffer(device, FRAMED), dtype="int32", dims=[1, 512, 512, 3])
        with pytest.raises(InputError, match="fetch 'output_image:0'"):
            session.run(None, feeds, fetches={"output_image:0": wrong})
        with session.run(None, feeds)[0] as y:
            np.testing.assert_array_equal(y.numpy(), FRAMED)


# guide: WebNN: Neural Networks in the Browser -------------------------------------------------------------------------


def test_guide_the_mlcontext(device: ort.Device) -> None:
    """guide, "The MLContext: Execution Environment" and "Setting Up a WebNN Pipeline"."""
    assert ort.get_available_providers()  # 'ml' in navigator
    for options in ({}, {"device_type": "gpu"}, {"power_preference": "low-power"}):
        with ML().create_context(**options) as context:
            assert "float32" in context.op_support_limits()["input"]["data_types"]


def conv_block(builder: MLGraphBuilder, x: MLOperand, channels: int, rng: np.random.Generator) -> MLOperand:
    """guide, "The Builder Pattern": addConvBlock."""
    weights = builder.constant(rng.standard_normal((channels, x.shape[1], 3, 3)).astype(np.float32) / 10)
    bias = builder.constant(rng.standard_normal((1, channels, 1, 1)).astype(np.float32))
    x = builder.conv2d(x, weights, padding=[1, 1, 1, 1], strides=[1, 1])
    x = builder.add(x, bias)
    mean, variance, scale, offset = (
        builder.constant(np.abs(rng.standard_normal(channels)).astype(np.float32) + 0.5) for _ in range(4)
    )
    x = builder.batch_normalization(x, mean, variance, scale=scale, bias=offset)
    return builder.relu(x)


def network(context: MLContext, shape: list[int], classes: int = 10) -> MLGraph:
    """guide, "Computational Graphs" and "The Builder Pattern": blocks, a residual, a classification head."""
    builder, rng = MLGraphBuilder(context), np.random.default_rng(0)
    x = builder.input("input", "float32", shape)
    x = conv_block(builder, x, 8, rng)
    x = builder.add(x, conv_block(builder, x, 8, rng))  # skip connection
    x = builder.clamp(x, min_value=0, max_value=6)  # relu6
    x = builder.average_pool2d(x)
    x = builder.reshape(x, [shape[0], 8])
    x = builder.matmul(x, builder.constant(rng.standard_normal((8, classes)).astype(np.float32)))
    return builder.build({"output": builder.softmax(x, 1)})


class PreAllocated:
    """guide, "Memory Management Patterns": class InferenceSession."""

    def __init__(self, context: MLContext, compiled_model: MLGraph) -> None:
        self.context, self.model = context, compiled_model
        self.input_tensor = context.create_tensor(compiled_model.inputs["input"], writable=True)
        self.output_tensor = context.create_tensor(compiled_model.outputs["output"], readable=True)

    def predict(self, input_data: np.ndarray) -> np.ndarray:
        self.context.write_tensor(self.input_tensor, input_data)
        self.context.dispatch(self.model, {"input": self.input_tensor}, {"output": self.output_tensor})
        return np.asarray(self.context.read_tensor(self.output_tensor))

    def destroy(self) -> None:
        self.input_tensor.destroy()
        self.output_tensor.destroy()


class StreamProcessor:
    """guide, "Double-Buffering for Real-Time Applications"."""

    def __init__(self, context: MLContext, model: MLGraph, num_buffers: int = 2) -> None:
        self.context, self.model = context, model
        self.buffers = [
            (
                context.create_tensor(model.inputs["input"], writable=True),
                context.create_tensor(model.outputs["output"], readable=True),
            )
            for _ in range(num_buffers)
        ]
        self.current_buffer = 0

    async def process_frame(self, frame_data: np.ndarray) -> Any:
        given, taken = self.buffers[self.current_buffer]
        self.current_buffer = (self.current_buffer + 1) % len(self.buffers)
        self.context.write_tensor(given, frame_data)
        self.context.dispatch(self.model, {"input": given}, {"output": taken})
        return await self.context.read_tensor_async(taken)


def frames(count: int, shape: tuple[int, ...]) -> list[np.ndarray]:
    return [np.random.default_rng(i).standard_normal(shape).astype(np.float32) for i in range(count)]


def test_guide_memory_management_and_double_buffering(ml_context: MLContext) -> None:
    """guide, "Memory Management Patterns" and "Double-Buffering": the same results as with arrays, in order."""
    graph = network(ml_context, [1, 3, 16, 16])
    expected = [ml_context.compute(graph, {"input": f})["output"] for f in frames(5, (1, 3, 16, 16))]
    assert float(np.abs(expected[0] - expected[1]).max()) > 1e-4
    predictor = PreAllocated(ml_context, graph)
    for frame, wanted in zip(frames(5, (1, 3, 16, 16)), expected, strict=True):
        np.testing.assert_array_equal(predictor.predict(frame), wanted)
    predictor.destroy()
    with pytest.raises(GpucompileError, match="destroy"):
        predictor.predict(frames(1, (1, 3, 16, 16))[0])
    stream = StreamProcessor(ml_context, graph)

    async def all_at_once() -> list[np.ndarray]:
        return [await f for f in [asyncio.ensure_future(stream.process_frame(f)) for f in frames(5, (1, 3, 16, 16))]]

    for got, wanted in zip(asyncio.run(all_at_once()), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


class DynamicModel:
    """guide, "Dynamic Shape Support": a graph for every shape, kept."""

    def __init__(self, context: MLContext) -> None:
        self.context = context
        self.compiled_cache: dict[str, MLGraph] = {}

    def infer(self, input_data: np.ndarray) -> np.ndarray:
        shape_key = "x".join(map(str, input_data.shape))
        if shape_key not in self.compiled_cache:
            self.compiled_cache[shape_key] = network(self.context, list(input_data.shape))
        graph = self.compiled_cache[shape_key]
        return np.asarray(self.context.compute(graph, {"input": input_data})["output"])


def test_guide_dynamic_shape_support(ml_context: MLContext) -> None:
    """guide, "Dynamic Shape Support": by hand, and as a session does it by itself."""
    dynamic = DynamicModel(ml_context)
    for side in (16, 12, 16):
        y = dynamic.infer(np.ones((1, 3, side, side), np.float32))
        assert y.shape == (1, 10) and float(y.sum()) == pytest.approx(1, rel=1e-5)
    assert sorted(dynamic.compiled_cache) == ["1x3x12x12", "1x3x16x16"]
    means = parser.parse_model(
        '<ir_version: 9, opset_import: ["": 18]> m (float[batch, 3, h, w] x) => (float[batch, 3] y) '
        "<int64[2] axes = {2, 3}> { y = ReduceMean<keepdims = 0>(x, axes) }"
    )
    with ort.InferenceSession(means, providers=[{"name": "webnn", "context": ml_context}]) as session:
        for shape in ((1, 3, 8, 6), (2, 3, 5, 5), (1, 3, 8, 6)):
            x = frames(1, shape)[0]
            np.testing.assert_allclose(session.run(None, {"x": x})[0], x.mean(axis=(2, 3)), atol=1e-6)
        assert len(session._programs) == 2


def test_guide_multi_model_pipeline(ml_context: MLContext) -> None:
    """guide, "Multi-Model Pipeline": detect, crop, classify; the crops of one image go to the second session."""
    detect = parser.parse_model(
        '<ir_version: 9, opset_import: ["": 18]> d (float[1, 1, 32, 32] image) => (int64[1, 4] boxes) '
        "<int64[2] flat = {1, -1}, int64[1] four = {4}> "
        "{ p = MaxPool<kernel_shape = [8, 8], strides = [8, 8]>(image)  f = Reshape(p, flat) "
        "v, boxes = TopK<axis = 1>(f, four) }"
    )
    classify = parser.parse_model(
        '<ir_version: 9, opset_import: ["": 18]> c (float[1, 1, 8, 8] crop) => (float[1, 1] bright) '
        "<int64[2] axes = {2, 3}> { bright = ReduceMean<keepdims = 0>(crop, axes) }"
    )
    image = np.zeros((1, 1, 32, 32), np.float32)
    for i, (row, column) in enumerate([(0, 8), (16, 16), (24, 0), (8, 24)]):
        image[0, 0, row : row + 8, column : column + 8] = 4 - i
    provider = [{"name": "webnn", "context": ml_context}]
    with (
        ort.InferenceSession(detect, providers=provider) as detection_model,
        ort.InferenceSession(classify, providers=provider) as classification_model,
    ):
        (detections,) = detection_model.run(None, {"image": image})
        results = []
        for box in detections[0]:
            row, column = divmod(int(box), 4)
            crop = np.ascontiguousarray(image[:, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8])
            (label,) = classification_model.run(None, {"crop": crop})
            results.append(((8 * row, 8 * column), float(label[0, 0])))
    assert results == [((0, 8), 4.0), ((16, 16), 3.0), ((24, 0), 2.0), ((8, 24), 1.0)]


def benchmark_backends(runs: int) -> dict[str, dict[str, Any]]:
    """guide, "Performance Optimization": benchmarkBackends."""
    results: dict[str, dict[str, Any]] = {}
    dummy_input = np.ones((1, 3, 16, 16), np.float32)
    for device in ("cpu", "gpu", "npu"):
        try:
            with ML().create_context(device) as context:
                graph = network(context, [1, 3, 16, 16])
                times = []
                for _ in range(runs):
                    start = time.perf_counter()
                    context.compute(graph, {"input": dummy_input})
                    times.append((time.perf_counter() - start) * 1e3)
            times.sort()
            results[device] = {"mean": sum(times) / runs, "p95": times[int(runs * 0.95)], "min": times[0]}
        except GpucompileError as e:
            results[device] = {"error": str(e)}
    return results


def test_guide_benchmark_of_backends(device: ort.Device) -> None:
    """guide, "Performance Optimization": benchmarkBackends and selectOptimalBackend."""
    benchmarks = benchmark_backends(5)
    assert set(benchmarks) == {"cpu", "gpu", "npu"} and "error" not in benchmarks["gpu"]
    for name, found in benchmarks.items():
        if "error" in found:
            assert name in found["error"] or "OpenVINO" in found["error"] or "openvino" in found["error"]
        else:
            assert 0 < found["min"] <= found["mean"] and found["min"] <= found["p95"]
    best_backend = min((b for b in benchmarks.items() if "error" not in b[1]), key=lambda b: b[1]["mean"])
    assert best_backend[0] in ("cpu", "gpu", "npu")


def test_guide_testing_strategies(ml_context: MLContext) -> None:
    """guide, "Testing Strategies" and "Running Inference": dimensions, edge cases, an image's pixels (56 x 56 of them:
    this may be a software adapter)."""
    model = PreAllocated(ml_context, network(ml_context, [1, 3, 56, 56], classes=1000))
    assert model.predict(np.full((1, 3, 56, 56), 0.5, np.float32)).shape == (1, 1000)
    assert np.isfinite(model.predict(np.zeros((1, 3, 56, 56), np.float32))).all()
    pixels = np.random.default_rng(0).integers(0, 256, (56, 56, 4), np.uint8)  # getImageData: RGBA
    tensor_data = np.ascontiguousarray(pixels[:, :, :3].transpose(2, 0, 1)[None] / np.float32(255))
    predictions = model.predict(tensor_data)
    assert float(predictions.sum()) == pytest.approx(1, rel=1e-4)
