"""Contexts: how they are made, what they offer, how they end; tensors in GPU buffers of other code. After the suite's
mlcontext, destroyed-context and idlharness tests."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import threading
import time
import weakref
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpucompile import webnn
from gpucompile.errors import (
    ClosedError,
    DeviceError,
    DeviceLost,
    InputError,
    PassError,
    TypeInferenceError,
)
from gpucompile.runtime.adapters import list_adapters
from gpucompile.runtime.device import Device
from gpucompile.target import Target
from gpucompile.webnn import ML, MLContext, MLGraphBuilder
from tests.webnn_graphs import F32, example, increment, tensors

ONES = np.ones((1, 2, 2, 2), F32)

#: The interfaces of the specification and what they hold, in snake_case. `split` and the operators are in OPERATORS.
INTERFACES = {
    "ML": {"create_context"},
    "MLContext": {
        *("dispatch", "create_tensor", "create_constant_tensor", "read_tensor", "write_tensor", "op_support_limits"),
        *("destroy", "accelerated", "lost"),
    },
    "MLGraph": {"destroy"},
    "MLOperand": {"data_type", "shape"},
    "MLTensor": {"data_type", "shape", "readable", "writable", "constant", "destroy"},
    "MLGraphBuilder": {"input", "constant", "build", "split", *webnn.operators.OPERATORS},
    "MLOperandDescriptor": {"data_type", "shape"},
}


@pytest.mark.parametrize("name", INTERFACES)
def test_interfaces_are_whole_and_documented(context: MLContext, name: str) -> None:
    cls = getattr(webnn, name)
    builder = MLGraphBuilder(context)
    operand = builder.input("x", "float32", [1])
    instance = {
        "ML": ML(),
        "MLContext": context,
        "MLGraph": builder.build({"y": builder.relu(operand)}),
        "MLOperand": operand,
        "MLTensor": tensors(context, 1)[0],
        "MLGraphBuilder": builder,
        "MLOperandDescriptor": webnn.MLOperandDescriptor("float32", (1,)),
    }[name]
    assert inspect.getdoc(cls)
    for member in INTERFACES[name]:
        assert hasattr(instance, member), member
        if callable(getattr(cls, member, None)):
            assert inspect.getdoc(getattr(cls, member)), member
    for member in ("data_type", "shape", "constant", "accelerated"):
        if member in INTERFACES[name] and name != "MLGraphBuilder":
            with pytest.raises(AttributeError):
                setattr(instance, member, None)


def test_every_class_is_public() -> None:
    assert set(INTERFACES) == {"MLContext", *webnn.__all__}


# How they are made ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"power_preference": "high-performance"},
        {"power_preference": "low-power"},
        {"accelerated": False},
        {"target": Target.portable()},
        {"pipeline": "no-fuse"},
        {"pipeline": "fold-constants,dce,legalize"},
        {"target": Target.portable(), "pipeline": "none"},
    ],
)
def test_options(adapter: Any, options: dict[str, Any]) -> None:
    if options.get("accelerated") is False and not has_software():
        return  # the next test says what happens then
    with ML().create_context(**options) as context:
        assert context.accelerated != context.device.is_software
        assert context.compute(example(context), {"b": ONES, "d": ONES})["out"].tolist() == (ONES * 2.25).tolist()
    context = asyncio.run(ML().create_context_async("gpu", **options))
    context.destroy()


def has_software() -> bool:
    return any(i.usable and i.type == "CPU" for i in list_adapters())


def test_no_acceleration_is_a_software_adapter(adapter: Any) -> None:
    if not has_software():
        with pytest.raises(DeviceError, match="software"):
            ML().create_context(accelerated=False)
        return
    with ML().create_context(accelerated=False) as context:
        assert not context.accelerated and context.device.is_software


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"device_type": "tpu"}, TypeInferenceError, "'tpu' is none of gpu, cpu, npu"),
        ({"device_type": "npu"}, InputError, "gpu_device and target are for the GPU, not for npu"),
        ({"power_preference": "max"}, TypeInferenceError, "'max'"),
        ({"target": "portable"}, InputError, "must be a gpucompile.Target"),
        ({"target": replace(Target.portable(), features=("magic",))}, InputError, "lacks .*feature magic"),
        (
            {"target": Target(limits=Target.portable().limits | {"max-buffer-size": 1 << 60})},
            InputError,
            "max-buffer-size 1,152,921,504,606,846,976 .it has",
        ),
        ({"pipeline": "fuze"}, PassError, "did you mean fuse"),
    ],
)
def test_options_that_are_none(device: Any, options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ML().create_context(**{"gpu_device": device} | options)


def test_a_device_of_the_caller(device: Any) -> None:
    for given in (device, device.handle):
        with ML().create_context(given) as first, ML().create_context(gpu_device=given) as second:
            assert first.device.handle is second.device.handle is device.handle
            assert first.compute(increment(first), {"x": np.zeros(3, F32)})["y"].tolist() == [1, 1, 1]
        assert not device.closed
    with pytest.raises(TypeInferenceError, match="is no GPUDevice"):
        ML().create_context(7)


def test_masked_features_show_in_the_limits(device: Any) -> None:
    whole = Target.of(SimpleNamespace(features=device.features, limits=device.limits, info=device.adapter.info))
    small = replace(whole, limits=whole.limits | {"max-storage-buffer-binding-size": 1 << 20})
    with ML().create_context(gpu_device=device, target=small) as context:
        assert context.op_support_limits()["max_tensor_byte_length"] == 1 << 20
        with pytest.raises(TypeInferenceError, match="above the limit"):
            context.create_tensor("uint8", [(1 << 20) + 1])


# How they end --------------------------------------------------------------------------------------------------------


def test_destroyed(device: Any) -> None:
    context, other = (ML().create_context(gpu_device=device) for _ in range(2))
    graph, (a, b) = increment(context), tensors(context, 2)
    builder = MLGraphBuilder(context)
    x = builder.input("x", "float32", [3])
    y = builder.relu(x)
    assert not context.lost.done()
    context.dispatch(graph, {"x": a}, {"y": b})
    context.destroy()
    context.destroy()
    assert context.lost.result(0) == "destroyed"
    assert a.destroyed and b.destroyed and graph.destroyed and "destroyed" in repr(context)
    for call in (
        lambda: context.create_tensor("float32", [1]),
        lambda: context.create_constant_tensor("float32", [1], bytes(4)),
        lambda: context.write_tensor(a, bytes(12)),
        lambda: context.read_tensor(b),
        lambda: context.dispatch(graph, {"x": a}, {"y": b}),
        lambda: context.compute(graph, {"x": np.zeros(3, F32)}),
        lambda: MLGraphBuilder(context),
        lambda: builder.input("z", "float32", [1]),
        lambda: builder.relu(x),
        lambda: builder.build({"y": y}),
    ):
        with pytest.raises(ClosedError, match="the context was destroyed"):
            call()
    graph, (a, b) = increment(other), tensors(other, 2)  # another one on the same device goes on
    other.dispatch(graph, {"x": a}, {"y": b})
    assert other.read_tensor(b).tolist() == [1, 1, 1]
    other.destroy()


def test_lost_can_be_awaited(device: Any) -> None:
    async def run() -> str:
        context = ML().create_context(gpu_device=device)
        asyncio.get_running_loop().call_later(0.01, context.destroy)
        return await asyncio.wait_for(asyncio.wrap_future(context.lost), 10)

    assert asyncio.run(run()) == "destroyed"


@pytest.mark.parametrize("call", ["create", "write", "read", "dispatch", "build"])
def test_a_lost_device_is_noticed_by_any_call(adapter: Any, call: str) -> None:
    with Device.open() as device:
        context, other = (ML().create_context(gpu_device=device) for _ in range(2))
        graph, (a, b) = increment(context), tensors(context, 2)
        device.handle.destroy()
        calls = {
            "create": lambda: context.create_tensor("float32", [3]),
            "write": lambda: context.write_tensor(a, bytes(12)),
            "read": lambda: context.read_tensor(a),
            "dispatch": lambda: context.dispatch(graph, {"x": a}, {"y": b}),
            "build": lambda: increment(context, 2),
        }
        with pytest.raises(DeviceLost, match="lost"):
            calls[call]()
        for each in (context, other):
            assert "lost" in each.lost.result(10)  # a thread that saw wgpu's log may be just about to say it
        for each in (a, graph):
            assert each.destroyed
        with pytest.raises(DeviceLost, match="Open a new one"):
            calls[call]()
        context.destroy()
        assert "lost" in context.lost.result(10)  # the first reason stays
        with pytest.raises(DeviceLost):
            ML().create_context(gpu_device=device).create_tensor("float32", [1])


def test_a_loss_found_under_locks(adapter: Any) -> None:
    """One thread finds it in a run and holds that graph's lock; another one dispatches that graph and waits for it."""
    with Device.open() as device:
        context = ML().create_context(gpu_device=device)
        graph = increment(context)
        executable = graph._executable
        assert executable is not None
        both = threading.Barrier(2)

        def runs() -> None:
            with executable._lock:
                both.wait()
                time.sleep(0.05)
                device.translate(RuntimeError("Parent device is lost"), "running the plan")

        def dispatches() -> None:
            with context._lock:
                both.wait()
                with executable._lock:
                    pass

        threads = [threading.Thread(target=each, daemon=True) for each in (runs, dispatches)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(20)
            assert not each.is_alive()
        assert graph.destroyed and "lost" in context.lost.result(10)


def test_a_loss_that_wgpu_logs_is_noticed_at_once(device: Any) -> None:
    """wgpu-py reports a loss that no call caused in its log only, and does not say of which device."""
    healthy = ML().create_context(gpu_device=device)
    with Device.open() as broken:
        context = ML().create_context(gpu_device=broken)
        broken.handle.destroy()
        time.sleep(0.05)
        assert not context.lost.done()
        logging.getLogger(broken.implementation).error("The WGPU device was lost (unknown):\nfor a test")
        assert "lost" in context.lost.result(10)
    assert increment(healthy) and not healthy.lost.done()
    healthy.destroy()


def test_contexts_are_not_kept_alive(device: Any) -> None:
    context = ML().create_context(gpu_device=device)
    context.compute(increment(context), {"x": np.zeros(3, F32)})
    gone = weakref.ref(context)
    del context
    gc.collect()
    assert gone() is None


# Buffers of other code -----------------------------------------------------------------------------------------------

DOUBLE = """
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(4) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < arrayLength(&y)) { y[id.x] = 2 * x[id.x]; }
}
"""


def double(device: Any, x: Any, y: Any) -> None:
    """A compute pass of the application's own: y = 2 * x."""
    gpu = device.handle
    pipeline = gpu.create_compute_pipeline(
        layout="auto", compute={"module": gpu.create_shader_module(code=DOUBLE), "entry_point": "main"}
    )
    entries = [{"binding": i, "resource": {"buffer": b, "offset": 0, "size": b.size}} for i, b in enumerate((x, y))]
    encoder = gpu.create_command_encoder()
    run = encoder.begin_compute_pass()
    run.set_pipeline(pipeline)
    run.set_bind_group(0, gpu.create_bind_group(layout=pipeline.get_bind_group_layout(0), entries=entries))
    run.dispatch_workgroups(1)
    run.end()
    gpu.queue.submit([encoder.finish()])


def buffer_of(device: Any, size: int = 12, without: str = "") -> Any:
    u = device.api.BufferUsage
    usage = u.STORAGE | u.COPY_SRC | u.COPY_DST
    return device.handle.create_buffer(size=size, usage=usage & ~getattr(u, without, 0))


def test_graphs_and_passes_share_buffers(context: MLContext, device: Any) -> None:
    """own pass -> imported buffer -> graph -> exported buffer -> own pass, with no copy through the host."""
    graph, (source, middle) = increment(context), tensors(context, 2)
    raw = buffer_of(device)
    imported = context.import_gpu_buffer(raw, "float32", [3])
    last = context.import_gpu_buffer(buffer_of(device, 16), "float32", [3], readable=True)
    assert imported.gpu_buffer is raw and not (imported.readable or imported.writable)
    context.write_tensor(source, np.array([1, 2, 3], F32))
    double(device, source.gpu_buffer, raw)
    context.dispatch(graph, {"x": imported}, {"y": middle})
    double(device, middle.gpu_buffer, last.gpu_buffer)
    assert context.read_tensor(last).tolist() == [6, 10, 14]
    context.dispatch(graph, {"x": middle}, {"y": imported})  # into the imported one
    assert np.frombuffer(device.handle.queue.read_buffer(raw), F32).tolist() == [4, 6, 8]


def test_imported_buffers_stay_their_owners(device: Any) -> None:
    raw = buffer_of(device)
    context = ML().create_context(gpu_device=device)
    tensor = context.import_gpu_buffer(raw, "float32", [3], readable=True, writable=True)
    context.write_tensor(tensor, np.array([1, 2, 3], F32))
    tensor.destroy()
    with pytest.raises(InputError, match="destroy"):
        context.read_tensor(tensor)
    again = context.import_gpu_buffer(raw, "float32", [1, 3], readable=True)
    assert context.read_tensor(again).tolist() == [[1, 2, 3]]
    context.destroy()
    assert np.frombuffer(device.handle.queue.read_buffer(raw), F32).tolist() == [1, 2, 3]
    raw.destroy()


def test_two_tensors_of_one_buffer_are_one(context: MLContext, device: Any) -> None:
    raw = buffer_of(device)
    x, y = (context.import_gpu_buffer(raw, "float32", [3]) for _ in range(2))
    with pytest.raises(TypeInferenceError, match="as well"):
        context.dispatch(increment(context), {"x": x}, {"y": y})


def test_buffers_that_cannot_be_imported(context: MLContext, device: Any) -> None:
    for buffer, text in (
        (buffer_of(device, 8), "needs 12 bytes, there are 8"),
        (buffer_of(device, without="COPY_SRC"), "lacks the usage COPY_SRC"),
        (buffer_of(device, without="COPY_DST"), "lacks the usage COPY_DST"),
        (bytearray(12), "is not a GPUBuffer"),
    ):
        with pytest.raises(TypeInferenceError, match=f"import_gpu_buffer: .*{text}"):
            context.import_gpu_buffer(buffer, "float32", [3])
    with Device.open() as other, pytest.raises(InputError, match=r"import_gpu_buffer: .* another device"):
        context.import_gpu_buffer(buffer_of(other), "float32", [3])


def test_imported_buffers_that_their_owner_destroys(context: MLContext, device: Any) -> None:
    """wgpu-native ends the process when such a buffer is submitted."""
    graph, (other,) = increment(context), tensors(context, 1)
    raw = buffer_of(device)
    tensor = context.import_gpu_buffer(raw, "float32", [3], readable=True, writable=True)
    assert context.read_tensor(tensor).tolist() == [0, 0, 0]
    raw.destroy()
    for call in (
        lambda: context.read_tensor(tensor),
        lambda: context.write_tensor(tensor, bytes(12)),
        lambda: context.dispatch(graph, {"x": tensor}, {"y": other}),
        lambda: context.dispatch(graph, {"x": other}, {"y": tensor}),
        lambda: context.import_gpu_buffer(raw, "float32", [3]),
    ):
        with pytest.raises(InputError, match="destroy"):
            call()
    assert context.read_tensor(other).tolist() == [0, 0, 0]
