"""What goes wrong in a session: errors leave it usable, a lost device is one error wherever it shows, threads do not
disturb each other."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time  # noqa: F401  # for RACE
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wgpu
from onnx import helper

import gpucompile
from gpucompile import ClosedError, Device, DeviceLost, InferenceSession, InputError, Tensor
from gpucompile.webnn import ML, MLContext, MLGraphBuilder
from tests.gpu.session_models import expected, layers

ROOT = Path(__file__).resolve().parents[2]
U = wgpu.BufferUsage
X = np.random.default_rng(1).normal(size=(4, 64)).astype(np.float32)
MODEL = layers(64)


def gpu(device: Device, array: np.ndarray = X, **options: Any) -> Any:
    usage = U.STORAGE | U.COPY_SRC | U.COPY_DST
    buffer = device.handle.create_buffer(size=array.nbytes, usage=usage, **options)
    if not options:
        device.handle.queue.write_buffer(buffer, 0, array)
    return buffer


def tensor(buffer: Any, dtype: str = "float32", dims: tuple[int, ...] = (4, 64)) -> Tensor:
    return Tensor.from_gpu_buffer(buffer, dtype=dtype, dims=dims)


def destroyed(buffer: Any) -> Any:
    buffer.destroy()
    return buffer


def disposed(made: Tensor) -> Tensor:
    made.dispose()
    return made


# errors that leave the session usable ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Device]:
    with Device.open() as device:
        yield device


WRONG: dict[str, tuple[type[Exception], str, Callable[[Device, Device], Any], Callable[[Device, Device], Any]]] = {
    "shape": (InputError, "x", lambda d, e: X[:3], lambda d, e: None),
    "dtype": (InputError, "float64", lambda d, e: X.astype(np.float64), lambda d, e: None),
    "tensor's shape": (InputError, "input 'x'", lambda d, e: tensor(gpu(d), dims=(64, 4)), lambda d, e: None),
    "tensor's dtype": (InputError, "input 'x'", lambda d, e: tensor(gpu(d), "int32"), lambda d, e: None),
    "disposed": (ClosedError, "dispose", lambda d, e: disposed(tensor(gpu(d))), lambda d, e: None),
    "destroyed": (InputError, "destroyed", lambda d, e: tensor(destroyed(gpu(d))), lambda d, e: None),
    "mapped": (InputError, "mapped", lambda d, e: tensor(gpu(d, mapped_at_creation=True)), lambda d, e: None),
    "elsewhere": (InputError, "another device", lambda d, e: tensor(gpu(e)), lambda d, e: None),
    "output's shape": (InputError, "fetch 'y'", lambda d, e: X, lambda d, e: tensor(gpu(d), dims=(64, 4))),
    "output's dtype": (InputError, "fetch 'y'", lambda d, e: X, lambda d, e: X.astype(np.int32)),
    "disposed output": (ClosedError, "dispose", lambda d, e: X, lambda d, e: disposed(tensor(gpu(d)))),
    "destroyed output": (InputError, "destroyed", lambda d, e: X, lambda d, e: tensor(destroyed(gpu(d)))),
    "output elsewhere": (InputError, "another device", lambda d, e: X, lambda d, e: tensor(gpu(e))),
}


@pytest.mark.parametrize("way", ["run", "run_async", "binding"])
@pytest.mark.parametrize("location", ["cpu", "gpu-buffer"])
def test_an_error_leaves_the_session_usable(context: MLContext, elsewhere: Device, way: str, location: str) -> None:
    want = expected(MODEL, X)
    with InferenceSession(MODEL, providers=[("webnn", {"context": context})], preferred_output_location=location) as s:
        s.warm_up()
        memory = s.memory()
        for error, text, make_x, make_y in WRONG.values():
            x, y = make_x(s.device, elsewhere), make_y(s.device, elsewhere)
            with pytest.raises(error, match=text) as e:
                if way == "binding":
                    binding = s.io_binding()
                    binding.bind_ortvalue_input("x", x)
                    binding.bind_output("y", location if y is None else y)
                    s.run_with_iobinding(binding)
                elif way == "run":
                    s.run(None, {"x": x}, fetches={} if y is None else {"y": y})
                else:
                    asyncio.run(s.run_async(None, {"x": x}, fetches={} if y is None else {"y": y}))  # type: ignore
            assert "\n" not in str(e.value)
            (got,) = s.run(None, {"x": X})
            with Tensor.from_numpy(got) if location == "cpu" else got as got:
                np.testing.assert_allclose(got.numpy(), want, rtol=1e-4, atol=1e-5)
            if way != "binding":  # which is dropped with its output
                assert s.memory() == memory
                assert all(p.users == 0 for p in s._programs.values())


# a lost device --------------------------------------------------------------------------------------------------------


class Everything:
    """One of everything that uses a device."""

    def __init__(self, device: Device) -> None:
        providers = [("webgpu", {"device": device})]
        self.device, self.bundle = device, gpucompile.compile(MODEL)
        self.cpu = InferenceSession(MODEL, providers=providers)
        self.gpu = InferenceSession(MODEL, providers=providers, preferred_output_location="gpu-buffer")
        self.free = InferenceSession(layers(64, "n"), providers=providers)
        self.x, self.y = tensor(gpu(device)), tensor(gpu(device))
        (self.kept,) = self.gpu.run(None, {"x": X})
        self.binding = self.cpu.io_binding()
        self.binding.bind_cpu_input("x", X)
        self.binding.bind_output("y", "gpu")
        self.cpu.run_with_iobinding(self.binding)
        self.run = gpucompile.load(self.bundle, device)
        self.context = ML().create_context(gpu_device=device)
        builder = MLGraphBuilder(self.context)
        self.graph = builder.build({"y": builder.neg(builder.input("x", "float32", [3]))})
        self.a, self.b = (self.context.create_tensor("float32", [3], True, True) for _ in range(2))
        self.builder = MLGraphBuilder(self.context)
        self.operand = self.builder.neg(self.builder.input("x", "float32", [5]))

    def calls(self) -> dict[str, Callable[[], Any]]:
        providers = [("webgpu", {"device": self.device})]
        context, feeds = self.context, {"x": X}
        return {
            "run": lambda: self.cpu.run(None, feeds),
            "run on the GPU": lambda: self.gpu.run(None, {"x": self.x}, fetches={"y": self.y}),
            "run, output kept": lambda: self.gpu.run(None, {"x": self.kept}),
            "run, new shape": lambda: self.free.run(None, {"x": X[:3]}),
            "run_async": lambda: asyncio.run(self.cpu.run_async(None, feeds)),  # type: ignore[arg-type]
            "run_async on the GPU": lambda: asyncio.run(
                self.gpu.run_async(None, {"x": self.x}, fetches={"y": self.y})  # type: ignore[arg-type]
            ),
            "binding": lambda: self.cpu.run_with_iobinding(self.binding),
            "synchronize": self.binding.synchronize_outputs,
            "copy_outputs_to_cpu": self.binding.copy_outputs_to_cpu,
            "warm_up": self.cpu.warm_up,
            "numpy": self.kept.numpy,
            "numpy of a caller's": self.x.numpy,
            "get_data": lambda: asyncio.run(self.kept.get_data()),
            "get_data of a caller's": lambda: asyncio.run(self.x.get_data()),
            "gpu_buffer": lambda: self.kept.gpu_buffer,
            "upload": lambda: self.cpu.run(None, {"x": Tensor.from_numpy(X)}),
            "session": lambda: InferenceSession(MODEL, providers=providers),
            "session of a bundle": lambda: InferenceSession(self.bundle, providers=providers),
            "load": lambda: gpucompile.load(self.bundle, self.device),
            "load, streamed": lambda: gpucompile.load(self.bundle, self.device, stream=True).wait_ready(),
            "executable": lambda: self.run(X),
            "executable, async": lambda: asyncio.run(self.run.run_async(feeds)),
            "dispatch": lambda: self.run.dispatch({"x": self.x.gpu_buffer}, {"y": self.y.gpu_buffer}),
            "context": lambda: ML().create_context(gpu_device=self.device),
            "create_tensor": lambda: context.create_tensor("float32", [3]),
            "write_tensor": lambda: context.write_tensor(self.a, np.zeros(3, np.float32)),
            "read_tensor": lambda: context.read_tensor(self.a),
            "read_tensor_async": lambda: asyncio.run(context.read_tensor_async(self.a)),
            "import_gpu_buffer": lambda: context.import_gpu_buffer(self.x._buffer, "float32", [4, 64]),
            "graph": lambda: context.dispatch(self.graph, {"x": self.a}, {"y": self.b}),
            "compute": lambda: context.compute(self.graph, {"x": np.zeros(3, np.float32)}),
            "build": lambda: self.builder.build({"y": self.operand}),
        }

    def close(self) -> None:
        for each in (self.kept, self.x, self.y):
            each.dispose()
        self.binding.clear_binding_outputs()
        for session in (self.cpu, self.gpu, self.free):
            session.close()
        self.run.close()
        self.context.destroy()


def lose(device: Device) -> None:
    """Behind the back of wgpu-py, as a driver does it."""
    sys.modules[type(device.handle).__module__].lib.wgpuDeviceDestroy(device.handle._internal)


@pytest.mark.parametrize("how", ["destroyed", "lost"])
def test_a_lost_device_is_one_error_everywhere(adapter: Any, how: str) -> None:
    """By `destroy`, which is known at once, and otherwise."""
    with Device.open() as device:
        all = Everything(device)
        if how == "destroyed":
            device.handle.destroy()
        else:
            lose(device)
        for name, call in all.calls().items():
            with pytest.raises(DeviceLost) as e:
                call()
                pytest.fail(f"{name} did not notice")
            text = str(e.value)
            assert "\n" not in text and text.count("was lost (") == 1 and text.endswith(". Open a new one"), text
        all.close()
    with InferenceSession(MODEL) as s:
        np.testing.assert_allclose(s.run(None, {"x": X})[0], expected(MODEL, X), rtol=1e-4, atol=1e-5)


def test_the_default_device_is_replaced(adapter: Any) -> None:
    with InferenceSession(MODEL) as s:
        s.device.handle.destroy()
        with InferenceSession(MODEL) as other:
            assert other.device is not s.device
            np.testing.assert_allclose(other.run(None, {"x": X})[0], expected(MODEL, X), rtol=1e-4, atol=1e-5)
        with pytest.raises(DeviceLost):
            s.run(None, {"x": X})


def slow(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["run on the GPU", "dispatch", "graph", slow("run, output kept"), slow("binding"),
                                  slow("numpy"), slow("synchronize"), slow("load"), slow("build")])  # fmt: skip
def test_the_first_call_that_meets_a_loss(adapter: Any, name: str) -> None:
    """It may be nothing but a submission, at which wgpu-native would end the process."""
    with Device.open() as device:
        all = Everything(device)
        lose(device)
        with pytest.raises(DeviceLost, match="was lost"):
            all.calls()[name]()
        all.close()


RACE = """
from tests.gpu.test_session_errors import *
size = int(sys.argv[1])
model, x = layers(size), np.ones((4, size), np.float32)
for i in range(int(sys.argv[2])):
    device, what = Device.open(), "buffer" if i % 2 else "device"
    options = dict(providers=[("webgpu", {"device": device})])
    a = InferenceSession(model, **options)
    b = InferenceSession(model, preferred_output_location="gpu-buffer", **options)
    buffer = gpu(device, x)
    errors, started = [], threading.Barrier(4)

    def work(call):
        started.wait()
        try:
            while True:
                call()
        except Exception as e:
            errors.append(e)

    calls = [
        lambda: a.run(None, {"x": x}),
        lambda: b.run(None, {"x": tensor(buffer, dims=x.shape)})[0].dispose(),
        lambda: tensor(buffer, dims=x.shape).numpy(),
    ]
    threads = [threading.Thread(target=work, args=(call,)) for call in calls]
    for t in threads:
        t.start()
    started.wait()
    time.sleep(0.002 * i)
    if what == "device":
        device.handle.destroy()
    else:
        buffer.destroy()
        a.close()
    for t in threads:
        t.join(60)
        assert not t.is_alive(), what
    kinds = DeviceLost if what == "device" else (InputError, ClosedError)
    assert len(errors) == 3 and all(isinstance(e, kinds) for e in errors), (what, errors)
    for s in a, b:
        s.close()
    device.close()
"""


@pytest.mark.parametrize(("size", "rounds"), [(64, 4), pytest.param(1024, 40, marks=pytest.mark.slow)])
def test_destroyed_while_threads_run(adapter: Any, size: int, rounds: int) -> None:
    """A device, or a buffer that runs use: an error in every thread, and not the end of the process."""
    command = [sys.executable, "-c", RACE, str(size), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=dict(os.environ), timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


# threads --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sizes", "runs"), [((64, 96), 12), pytest.param((256, 320), 400, marks=pytest.mark.slow)])
def test_threads_of_two_sessions(context: MLContext, sizes: tuple[int, int], runs: int) -> None:
    """Four threads on both sessions, which share scratch memory; arrays, GPU tensors and state that is fed back."""
    models = [layers(size, seed=size) for size in sizes]
    providers = [("webnn", {"context": context})]
    errors: list[Exception] = []

    def work(sessions: list[tuple[InferenceSession, InferenceSession]], seed: int) -> None:
        try:
            for i in range(runs):
                which = (seed + i) % 2
                x = np.random.default_rng(seed * runs + i).normal(size=(4, sizes[which])).astype(np.float32)
                host, device = sessions[which]
                want = expected(models[which], x)
                (y,) = host.run(None, {"x": x})
                np.testing.assert_allclose(y, want, rtol=1e-3, atol=1e-4)
                (a,) = device.run(None, {"x": x})
                (b,) = device.run(None, {"x": a})
                np.testing.assert_allclose(b.numpy(), expected(models[which], want), rtol=1e-3, atol=1e-4)
                np.testing.assert_allclose(a.numpy(), want, rtol=1e-3, atol=1e-4)
                for each in (a, b):
                    each.dispose()
        except Exception as e:
            errors.append(e)

    sessions = [
        (InferenceSession(m, providers=providers),
         InferenceSession(m, providers=providers, preferred_output_location="gpu-buffer"))
        for m in models
    ]  # fmt: skip
    threads = [threading.Thread(target=work, args=(sessions, seed)) for seed in range(4)]
    for t in threads:
        t.start()
    for i in range(3):  # meanwhile scratch memory grows and shrinks
        with InferenceSession(layers(512 + 16 * i), providers=providers) as s:
            s.run(None, {"x": np.ones((4, 512 + 16 * i), np.float32)})
    for t in threads:
        t.join(300)
        assert not t.is_alive()
    assert not errors, errors[0]
    for pair in sessions:
        for s in pair:
            s.close()


def test_more_shapes_than_are_kept_in_threads(context: MLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shape that is dropped while another thread runs it stays until that run is done."""
    monkeypatch.setattr("gpucompile.session.session.KEPT_PROGRAMS", 1)
    model = layers(64, "n", 1)
    errors: list[Exception] = []
    with InferenceSession(model, providers=[("webnn", {"context": context})]) as s:

        def work(first: int) -> None:
            try:
                for i in range(6):
                    x = np.full((1 + (first + i) % 3, 64), 0.5, np.float32)
                    np.testing.assert_allclose(s.run(None, {"x": x})[0], expected(model, x), rtol=1e-4, atol=1e-5)
            except Exception as e:
                errors.append(e)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(120)
        assert not errors, errors[0]
        assert len(s._programs) == 1
    assert s.memory()["total"] == 0


def test_outputs_without_elements_are_read_from_the_gpu() -> None:
    value = helper.make_tensor_value_info
    ports = [[value(name, 1, ["n", 4])] for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", *ports)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with gpucompile.InferenceSession(model, preferred_output_location="gpu-buffer") as session:
        (y,) = session.run(None, {"x": np.empty((0, 4), np.float32)})
        assert y.location == "gpu-buffer" and y.numpy().shape == (0, 4) and y.numpy().dtype == np.float32
        assert asyncio.run(y.get_data(release=True)).shape == (0, 4)
        with pytest.raises(gpucompile.ClosedError):
            y.numpy()


@pytest.mark.parametrize("budget", ["1G", -1, True])
def test_a_memory_budget_is_a_number(budget: Any) -> None:
    with pytest.raises(gpucompile.InputError, match=r"memory_budget is .*, a number of bytes is wanted"):
        gpucompile.InferenceSession(b"", memory_budget=budget)
