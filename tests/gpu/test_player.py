"""The player on a real (or software) adapter, with a plan written by hand:

a, b -> %2 = a + b  (arena, bytes 0)     step 0
        %3 = %2 + b (arena, bytes 256)   step 1
        %4 = %3 + w (in place of %3)     step 2
        y  = %4 + %2, z = the same in float16 words or not at all
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from gpucompile.errors import BundleError, ClosedError, DeviceError, InputError
from gpucompile.plan.bundle import Bundle
from gpucompile.plan.verify import verify
from gpucompile.plan.weights import make_shards
from gpucompile.runtime.adapters import list_adapters
from gpucompile.runtime.device import Device
from gpucompile.runtime.executable import Executable
from gpucompile.runtime.format import Binding, Buffer, Plan, Port, Region, Requires, Step
from gpucompile.runtime.loading import load

N = 60  # elements; 240 bytes

ADD = """
@group(0) @binding(0) var<storage, {0}> a: array<f32>;
@group(0) @binding(1) var<storage, {1}> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> c: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {{
    if (id.x < 60u) {{ c[id.x] = a[id.x] + b[id.x]; }}
}}
"""
ADD_IN_PLACE = """
@group(0) @binding(0) var<storage, read_write> c: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
    if (id.x < 60u) { c[id.x] = c[id.x] + b[id.x]; }
}
"""


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def region(buffer: int, value: int, offset: int = 0) -> Region:
    return Region(buffer, value, offset, 4 * N)


def bundle(requires: Requires | None = None, shape: tuple[int, ...] = (N,)) -> Bundle:
    """The graph above; weights are 0, 1, 2, ..."""
    texts = [ADD.format("read", "read"), ADD.format("read_write", "read"), ADD_IN_PLACE,
             ADD.format("read_write", "read_write")]  # fmt: skip
    weights = make_shards([np.arange(N, dtype=np.float32)], shard_bytes=128)
    buffers = (
        Buffer("input", 4 * N, "a"),
        Buffer("input", 4 * N, "b"),
        weights.buffers[0],
        Buffer("scratch", 512),
        Buffer("output", 4 * N, "y"),
    )
    a, b, w, y = (Binding(i, 0, 4 * N, "read") for i in (0, 1, 2, 4))
    low, high = (Binding(3, o, 4 * N, "read_write") for o in (0, 256))
    y = dataclasses.replace(y, access="read_write")
    steps = (
        Step(0, (1, 1, 1), (a, b, low), "add", (region(0, 0), region(1, 1)), (region(3, 2),)),
        Step(1, (1, 1, 1), (low, b, high), "add arena", (region(3, 2), region(1, 1)), (region(3, 3, 256),)),
        Step(2, (1, 1, 1), (high, w), "add in place", (region(3, 3, 256), region(2, 9)), (region(3, 4, 256),)),
        Step(3, (1, 1, 1), (low, high, y), "sum", (region(3, 2), region(3, 4, 256)), (region(4, 5),)),
    )
    plan = Plan(
        "base",
        requires or Requires(),
        tuple(map(sha, texts)),
        buffers,
        steps,
        (Port("a", "float32", shape, 0), Port("b", "float32", shape, 1)),
        (Port("y", "float32", shape, 4),),
    )
    verify(plan)
    return Bundle([plan], {sha(t): t for t in texts}, weights.shards, gir="graph {}")


def expected(a: Any, b: Any) -> Any:
    return 2 * a + 3 * b + np.arange(N, dtype=np.float32).reshape(np.shape(a))


def inputs(seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return tuple(rng.integers(-100, 100, (2, N)).astype(np.float32))


def copies(dtype: str, shape: tuple[int, ...], words: int) -> Bundle:
    """y = x bit by bit, `words` 32-bit words."""
    text = f"""
    @group(0) @binding(0) var<storage, read> x: array<u32>;
    @group(0) @binding(1) var<storage, read_write> y: array<u32>;
    @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {{
        if (id.x < {words}u) {{ y[id.x] = x[id.x]; }}
    }}
    """
    size = 4 * words
    step = Step(0, (1, 1, 1), (Binding(0, 0, size, "read"), Binding(1, 0, size, "read_write")))
    buffers = (Buffer("input", size), Buffer("output", size))
    ports = (Port("x", dtype, shape, 0),), (Port("y", dtype, shape, 1),)
    return Bundle([Plan("base", Requires(), (sha(text),), buffers, (step,), *ports)], {sha(text): text})


@pytest.fixture
def exe(device: Device) -> Any:
    with Executable(bundle(), device) as executable:
        yield executable


def test_by_position_by_name_and_by_dict(exe: Executable) -> None:
    a, b = inputs()
    np.testing.assert_array_equal(exe(a, b), expected(a, b))
    np.testing.assert_array_equal(exe(b=b, a=a), expected(a, b))
    np.testing.assert_array_equal(exe(a, b=b), expected(a, b))
    result = exe.run({"a": a, "b": b})
    assert list(result) == ["y"]
    np.testing.assert_array_equal(result["y"], expected(a, b))
    assert result["y"].dtype == np.float32
    assert result["y"].flags.writeable and result["y"].flags.owndata


def test_runs_are_independent(exe: Executable) -> None:
    kept = [(exe(*inputs(i)), expected(*inputs(i))) for i in range(20)]
    for got, want in kept:
        np.testing.assert_array_equal(got, want)


def test_non_contiguous_input(exe: Executable) -> None:
    a, b = inputs()
    wide = np.repeat(a, 2)
    np.testing.assert_array_equal(exe(wide[::2], b), expected(a, b))


def test_from_disk_directory_and_zip(device: Device, tmp_path: Any) -> None:
    a, b = inputs()
    seen: list[tuple[str, int, int]] = []

    def note(*state: Any) -> None:
        seen.append(state)

    for name in ("model.gpub", "model"):
        path = bundle().save(tmp_path / name, progress=note)
        assert seen[-1][1] == seen[-1][2]
        seen.clear()
        with load(path, device, progress=note) as run:
            np.testing.assert_array_equal(run(a, b), expected(a, b))
        assert ("weights", 240, 240) in seen and ("pipelines", 4, 4) in seen


def test_a_device_of_its_own() -> None:
    a, b = inputs()
    with load(bundle()) as run, load(bundle()) as other:
        assert run.device is other.device
        np.testing.assert_array_equal(run(a, b), expected(a, b))


def test_wrapped_device(device: Device) -> None:
    a, b = inputs()
    with Executable(bundle(), Device.wrap(device.handle)) as run:
        np.testing.assert_array_equal(run(a, b), expected(a, b))


def test_ports_and_memory(exe: Executable) -> None:
    assert [p.name for p in exe.inputs] == ["a", "b"]
    assert exe.outputs[0].shape == (N,)
    assert exe.memory() == {"input": 480, "output": 240, "weight": 240, "scratch": 512, "staging": 240}


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((1,) * 3, {}, "3 inputs given; expected a: float32"),
        ((), {}, "input 'a' is missing"),
        ((np.zeros(N, np.float32),), {"a": 1}, "by position and by name"),
        ((), {"x": 1}, "there is no input 'x'"),
        ((np.zeros(N), np.zeros(N)), {}, r"input 'a' is float64\[60\]; expected a: float32\[60\]"),
        ((np.zeros((1, N), np.float32),) * 2, {}, r"input 'a' is float32\[1, 60\]"),
        ((np.zeros(N, ">f4"),) * 2, {}, "input 'a' is >f4"),
        (([0.0] * N,) * 2, {}, "a numpy array is wanted, not list"),
        ((1.0, 2.0), {}, "a numpy array is wanted, not float"),
    ],
)
def test_wrong_inputs(exe: Executable, args: Sequence[Any], kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        exe(*args, **kwargs)
    a, b = inputs()
    np.testing.assert_array_equal(exe(a, b), expected(a, b))


def test_closed(device: Device) -> None:
    run = Executable(bundle(), device)
    run.close()
    run.close()
    assert run.closed
    for use in (lambda: run(*inputs()), run.memory, lambda: run.profile(dict(zip("ab", inputs(), strict=True)))):
        with pytest.raises(ClosedError, match="the executable is closed"):
            use()


def test_closed_device() -> None:
    device = Device.open()
    run = Executable(bundle(), device)
    device.close()
    with pytest.raises(ClosedError, match="the device is closed"):
        run(*inputs())
    with pytest.raises(ClosedError, match="the device is closed"):
        Executable(bundle(), device)


def test_lost_device() -> None:
    from gpucompile.errors import DeviceLost

    device = Device.open()
    run = Executable(bundle(), device)
    device.handle.destroy()
    for _ in range(2):
        with pytest.raises(DeviceLost, match="lost"):
            run(*inputs())
    assert device.closed
    run.close()
    device.close()


def test_threads(exe: Executable) -> None:
    errors: list[Any] = []

    def work(seed: int) -> None:
        try:
            for i in range(20):
                np.testing.assert_array_equal(exe(*inputs(seed + i)), expected(*inputs(seed + i)))
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(100 * i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors


def test_async(exe: Executable) -> None:
    async def main() -> list[Any]:
        feeds = [dict(zip("ab", inputs(i), strict=True)) for i in range(8)]
        return list(await asyncio.gather(*(exe.run_async(f) for f in feeds)))

    for i, result in enumerate(asyncio.run(main())):
        np.testing.assert_array_equal(result["y"], expected(*inputs(i)))


def test_staging_buffers_are_reused(exe: Executable) -> None:
    for i in range(5):
        exe(*inputs(i))
    assert exe._player is not None
    assert len(exe._player._spare) == 1 and not exe._player._flying


@pytest.mark.parametrize(
    ("dtype", "shape", "words"),
    [
        ("float16", (3,), 2), ("int8", (5,), 2), ("uint8", (2, 3), 2), ("int64", (3,), 6), ("uint64", (), 2),
        ("int32", (), 1), ("uint32", (7,), 7), ("int4", (5,), 1), ("uint4", (3, 3), 2), ("float32", (0, 3), 1),
    ],
)  # fmt: skip
def test_data_types(device: Device, dtype: str, shape: tuple[int, ...], words: int) -> None:
    rng = np.random.default_rng(1)
    if dtype.startswith("float"):
        x = rng.standard_normal(shape).astype(dtype)
    else:
        bits = int(dtype.lstrip("uint"))
        signed = not dtype.startswith("u")
        host = {"int4": "int8", "uint4": "uint8"}.get(dtype, dtype)
        low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)
        x = rng.integers(low, high - 1, shape, host, endpoint=True)
    with Executable(copies(dtype, shape, words), device) as run:
        y = run(np.asarray(x))
    assert isinstance(y, np.ndarray) and y.dtype == x.dtype and y.shape == shape
    np.testing.assert_array_equal(y, x)


def test_python_numbers_for_scalars(device: Device) -> None:
    with Executable(copies("float32", (), 1), device) as run:
        assert run(2.5) == 2.5
    with Executable(copies("int8", (), 1), device) as run:
        assert run(-3) == -3
        with pytest.raises(InputError, match="1000 does not fit int8"):
            run(1000)
        with pytest.raises(InputError, match=r"2\.5 does not fit int8"):
            run(2.5)


def test_values_outside_4_bits(device: Device) -> None:
    with (
        Executable(copies("int4", (2,), 1), device) as run,
        pytest.raises(InputError, match=r"outside -8\.\.7 of int4"),
    ):
        run(np.array([0, 8], np.int8))


def test_profile(exe: Executable) -> None:
    if "timestamp-query" not in exe.device.features:
        with pytest.raises(DeviceError, match="no timestamp-query"):
            exe.profile(dict(zip("ab", inputs(), strict=True)))
        return
    times = exe.profile(dict(zip("ab", inputs(), strict=True)), repeat=3)
    assert [label for label, _ in times] == ["add", "add arena", "add in place", "sum"]
    assert all(0 <= s < 1 for _, s in times)
    assert any(s > 0 for _, s in times)
    np.testing.assert_array_equal(exe(*inputs()), expected(*inputs()))


def test_variants_best_first(device: Device) -> None:
    base = bundle()
    best = dataclasses.replace(base.plans[0], name="best", requires=Requires(("no-such-feature",), {}))
    two = Bundle([best, *base.plans], base.shaders, [base.shard(i) for i in range(2)])
    with Executable(two, device) as run:
        assert run.plan.name == "base"
    with pytest.raises(BundleError, match="variant best needs feature no-such-feature"):
        Executable(Bundle([best], base.shaders, [base.shard(i) for i in range(2)]), device)
    much = bundle(Requires((), {"max-compute-workgroup-storage-size": 1 << 40}))
    with pytest.raises(BundleError, match="max-compute-workgroup-storage-size of 1099511627776"):
        Executable(much, device)


def test_a_bad_shader_is_an_error(device: Device) -> None:
    text = "@compute @workgroup_size(1) fn main() { let x = ; }"
    plan = Plan("base", Requires(), (sha(text),), (), (Step(0, (1, 1, 1), (), "broken"),), (), ())
    with pytest.raises(DeviceError, match="compiling shader broken: rejected by the device"):
        Executable(Bundle([plan], {sha(text): text}), device)


def test_a_binding_the_shader_does_not_declare_so_is_an_error(device: Device) -> None:
    text = ADD.format("read", "read_write")  # the plan says read for both
    good = bundle().plans[0]
    plan = dataclasses.replace(good, shaders=(sha(text), *good.shaders[1:]))
    texts = {s: t for s, t in bundle().shaders.items() if s in plan.shaders} | {sha(text): text}
    with pytest.raises(DeviceError, match="creating the pipeline of shader add"):
        Executable(Bundle([plan], texts, [bundle().shard(i) for i in range(2)]), device)


def test_the_device_stays_usable_after_errors(device: Device, exe: Executable) -> None:
    usage = device.api.BufferUsage
    with pytest.raises(DeviceError, match="trying: rejected by the device"), device.guard("trying"):
        device.handle.create_buffer(size=1 << 60, usage=usage.STORAGE)
    np.testing.assert_array_equal(exe(*inputs()), expected(*inputs()))
    device.synchronise()


def test_public_and_direct_recording_agree(exe: Executable) -> None:
    from gpucompile.runtime import recording as module

    assert exe._player is not None
    want = exe(*inputs())
    exe._player._records = [module.public_recorder(exe._player.steps)]
    np.testing.assert_array_equal(exe(*inputs()), want)


def test_adapters() -> None:
    found = list_adapters()
    assert found[0].usable
    assert all(a.backend != "OpenGL" for a in found if a.usable)
    with pytest.raises(DeviceError, match="no adapter matching 'no such thing'"):
        Device.open(prefer="no such thing")
    with pytest.raises(DeviceError, match="implementation 'no_such_module' cannot be imported"):
        Device.open(implementation="no_such_module")
    with Device.open(prefer="software" if found[0].type == "CPU" else "hardware") as device:
        assert device.backend in ("Vulkan", "Metal", "D3D12")
        assert {"max-buffer-size", "max-storage-buffers-per-shader-stage"} <= set(device.limits)


def test_on_dawn_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dawn's Null backend: Chrome's validator and shader compiler accept the same plan; its numbers mean nothing."""
    monkeypatch.setenv("WGPU_BACKEND_TYPE", "Null")
    with Device.open(implementation="wgpudawn") as device, Executable(bundle(), device) as run:
        assert device.backend == "Null" and not device.is_naga
        assert device.prelude(["shader-f16", "subgroups"]) == "enable f16;\nenable subgroups;\n"
        a, b = inputs()
        assert run(a, b).shape == (N,)
        assert asyncio.run(run.run_async({"a": a, "b": b}))["y"].shape == (N,)
        device.synchronise()
        text = "@compute @workgroup_size(1) fn main() { let x = ; }"
        with pytest.raises(DeviceError, match="rejected by the device"):
            device.shader(text)
        assert run(a, b).shape == (N,)


def test_dawn_rejects_what_a_browser_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan whose arena is bound read and read_write in one step passes no check, not even the device's."""
    monkeypatch.setenv("WGPU_BACKEND_TYPE", "Null")
    with Device.open(implementation="wgpudawn") as device:
        good = bundle()
        run = Executable(good, device)
        assert run._player is not None
        plan = good.plans[0]
        step = dataclasses.replace(plan.steps[3], bindings=(plan.steps[3].bindings[2],) * 3)
        run._player.plan = dataclasses.replace(plan, steps=(*plan.steps[:3], step))
        access = tuple(b.access for b in step.bindings)
        text = ADD.format("read_write", "read_write")
        pipelines = {(s.shader, tuple(b.access for b in s.bindings)): device.pipeline(
            plan.shaders[s.shader], good.shader(plan.shaders[s.shader]), tuple(b.access for b in s.bindings)
        ) for s in plan.steps} | {(3, access): device.pipeline(sha(text), text, access)}  # fmt: skip
        run._player.steps = run._player._create_groups(pipelines)
        run._player._records = [device.recorder(run._player.steps)]
        with pytest.raises(DeviceError, match="rejected by the device"):
            run(*inputs())
