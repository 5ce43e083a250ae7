"""What sessions have on the device: counted, limited, shared, and there before the first run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gpucompile import InferenceSession, Tensor, UnsupportedError
from gpucompile.webnn import ML, MLContext
from tests.gpu.session_models import Allocations, expected, layers

X = np.random.default_rng(1).normal(size=(4, 64)).astype(np.float32)
GPU = "gpu-buffer"


@pytest.fixture
def allocations(device: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Allocations]:
    yield Allocations(device, monkeypatch)


def session(context: MLContext, model: Any, location: str | None = None, **options: Any) -> InferenceSession:
    providers = [("webnn", {"context": context})]
    return InferenceSession(model, providers=providers, preferred_output_location=location, **options)


def test_memory_is_what_was_created(context: MLContext, allocations: Allocations) -> None:
    model = layers(64)
    with session(context, model) as s:
        memory = s.memory()
        assert min(memory[k] for k in ("weights", "scratch", "inputs", "outputs", "staging")) > 0
        assert memory["weights"] >= 3 * 64 * 64 * 4 and memory["staging"] == allocations.bytes_of("staging")
        assert memory["scratch"] == allocations.bytes_of("shared scratch") == context.memory()["scratch"]
        assert memory["total"] == memory["peak"] == allocations.bytes == allocations.most
        s.run(None, {"x": X})
        assert s.memory() == memory and memory["total"] == allocations.bytes
    assert allocations.bytes == 0 == sum(s.memory()[k] for k in memory if k != "peak")
    with session(context, model, GPU) as s:
        a, b = (s.run(None, {"x": X})[0] for _ in range(2))
        assert s.memory()["tensors"] == a.gpu_buffer.size + b.gpu_buffer.size == 2 * X.nbytes
        assert s.memory()["total"] == allocations.bytes
        np.testing.assert_allclose(a.numpy(), expected(model, X), rtol=1e-4, atol=1e-5)
        assert s.memory()["total"] + context.memory()["staging"] == allocations.bytes
        a.dispose()
        assert s.memory()["total"] + context.memory()["staging"] == allocations.bytes  # it waits to be used again
        peak = s.memory()["peak"]
    assert peak == s.memory()["peak"] and s.memory()["tensors"] == X.nbytes
    b.dispose()
    assert s.memory()["total"] == 0 and allocations.bytes == context.memory()["staging"]


def test_runs_that_overlap_have_a_staging_buffer_each(context: MLContext, allocations: Allocations) -> None:
    async def both() -> list[Any]:
        return await asyncio.gather(*(s.run_async(None, {"x": X}) for _ in range(3)))  # type: ignore[arg-type]

    with session(context, layers(64)) as s:
        one = s.memory()["staging"]
        asyncio.run(both())
        assert s.memory()["staging"] == allocations.bytes_of("staging") > one
        assert s.memory()["total"] == allocations.bytes
        need = s.memory()["total"] - s.memory()["staging"] + one
    with session(context, layers(64), memory_budget=need) as s:
        with pytest.raises(UnsupportedError, match=rf"memory_budget is {need:,} bytes, a staging buffer needs"):
            asyncio.run(both())
        s.run(None, {"x": X})
        assert allocations.bytes == s.memory()["total"] == need


def test_a_budget_is_refused_before_anything_is_made(context: MLContext, allocations: Allocations) -> None:
    model = layers(64)
    with session(context, model) as s:
        need = s.memory()
    allocations.forget()
    numbers = ", ".join(f"{k} {need[k]:,}" for k in ("weights", "scratch", "inputs", "outputs", "staging"))
    text = f"memory_budget is {need['total'] - 1:,} bytes, the model needs {need['total']:,} ({numbers})"
    with pytest.raises(UnsupportedError) as e:
        session(context, model, memory_budget=need["total"] - 1)
    assert str(e.value) == text
    assert not allocations.made and allocations.bytes == 0
    with session(context, model, memory_budget=need["total"]) as s:
        s.run(None, {"x": X})
        assert allocations.most == need["total"]


def test_a_budget_holds_for_outputs_and_shapes(context: MLContext, allocations: Allocations) -> None:
    model = layers(64, "n")
    with session(context, layers(64), GPU) as s:
        one = s.memory()["total"]
    allocations.forget()
    with session(context, model, GPU, memory_budget=one + X.nbytes) as s:
        (y,) = s.run(None, {"x": X})
        with pytest.raises(UnsupportedError, match=r"an output f32\[4,64\] needs 1,024 \(tensors 1,024\), and"):
            s.run(None, {"x": X})
        y.dispose()
        for rows in (3, 4, 2, 4):  # other shapes make room, and so do tensors that nobody holds
            with s.run(None, {"x": X[:rows]})[0] as y:
                np.testing.assert_allclose(y.numpy(), expected(model, X[:rows]), rtol=1e-4, atol=1e-5)
            assert allocations.bytes - context.memory()["staging"] == s.memory()["total"] <= one + X.nbytes
        assert allocations.most - context.memory()["staging"] <= one + X.nbytes == s.memory()["peak"]


def test_sessions_of_a_context_share_scratch(context: MLContext, allocations: Allocations) -> None:
    models = [layers(64, seed=1), layers(128, seed=2), layers(64, 2, seed=3)]
    xs = [
        np.random.default_rng(i).normal(size=s).astype(np.float32) for i, s in enumerate([(4, 64), (4, 128), (2, 64)])
    ]
    needs = []
    for model in models:
        with session(context, model) as s:
            needs.append(s.memory()["scratch"])
    assert len(set(needs)) == 3
    wants = [expected(m, x) for m, x in zip(models, xs, strict=True)]
    sessions = []
    for i, model in enumerate(models):
        sessions.append(session(context, model, GPU if i else None))
        assert allocations.bytes_of("shared scratch") == context.memory()["scratch"] == max(needs[: i + 1])
        kept = []
        for s, x in zip(sessions, xs, strict=False):  # outputs are not in what is shared
            kept += s.run(None, {"x": x})
        for y, want in zip(kept, wants, strict=False):
            np.testing.assert_allclose(y.numpy() if isinstance(y, Tensor) else y, want, rtol=1e-4, atol=1e-5)
    assert [s.memory()["scratch"] for s in sessions] == needs
    sessions[1].close()  # the neediest
    assert allocations.bytes_of("shared scratch") == context.memory()["scratch"] == needs[0]
    for i in (0, 2):
        (y,) = sessions[i].run(None, {"x": xs[i]})
        np.testing.assert_allclose(y.numpy() if i else y, wants[i], rtol=1e-4, atol=1e-5)
        sessions[i].close()
    assert context.memory()["scratch"] == allocations.bytes_of("shared scratch") == 0


def test_scratch_grows_between_submit_and_read(context: MLContext) -> None:
    small, large = layers(64, seed=1), layers(256, seed=2)
    x = np.ones((4, 256), np.float32)
    with session(context, small, GPU) as a:
        (y,) = a.run(None, {"x": X})
        with session(context, large) as b:  # replaces what the first run may still use
            np.testing.assert_allclose(b.run(None, {"x": x})[0], expected(large, x), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(y.numpy(), expected(small, X), rtol=1e-4, atol=1e-5)
            (z,) = a.run(None, {"x": X})
        np.testing.assert_array_equal(z.numpy(), y.numpy())
        y.dispose()
        z.dispose()


def test_other_contexts_have_scratch_of_their_own(device: Any) -> None:
    one, other = (ML().create_context(gpu_device=device) for _ in range(2))
    with one, other, session(one, layers(64)):
        assert one.memory()["scratch"] > 0 == other.memory()["scratch"]


@pytest.mark.parametrize("location", [None, GPU])
def test_after_a_warm_up_nothing_is_made(context: MLContext, allocations: Allocations, location: str | None) -> None:
    size = 72 if location is None else 76  # of its own, so that its pipelines are new
    model = layers(size, "n", seed=5)
    x = np.ones((3, size), np.float32)
    with session(context, model, location) as s:
        s.warm_up({"n": 3})
        assert allocations.made["create_compute_pipeline"] > 0
        allocations.forget()
        (y,) = s.run(None, {"x": x})
        assert not allocations.made
        with Tensor.from_numpy(y) if location is None else y as y:
            np.testing.assert_allclose(y.numpy(), expected(model, x), rtol=1e-4, atol=1e-5)


def test_a_loop_on_the_gpu_makes_nothing_and_reads_once(
    context: MLContext, allocations: Allocations, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = layers(64, seed=7)
    with session(context, model, GPU) as s:
        (state,) = s.run(None, {"x": X})
        maps: list[int] = []
        map_read = type(s.device).map_read
        monkeypatch.setattr(type(s.device), "map_read", lambda *a: (maps.append(1), map_read(*a))[1])
        submits: list[int] = []
        queue = type(s.device.handle.queue)
        submit = queue.submit
        monkeypatch.setattr(queue, "submit", lambda q, c: (submits.append(len(c)), submit(q, c))[1])
        want = expected(model, X)
        for i in range(1000):
            with state:
                (state,) = s.run(None, {"x": state})
            if i == 1:
                allocations.forget()
            want = expected(model, want) if i < 20 else want
            if i == 19:
                np.testing.assert_allclose(state.numpy(), want, rtol=1e-3, atol=1e-4)
                allocations.forget()
                maps.clear()
        assert not allocations.made and not maps and submits == [1] * 1001  # one of them the read
        state.numpy()
        assert len(maps) == 1
        state.dispose()


# a device of the caller's ---------------------------------------------------------------------------------------------

SCALE = """
@group(0) @binding(0) var<storage, read_write> b: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) i: vec3u) { b[i.x] = b[i.x] * 2.0 + 1.0; }
"""


def test_work_of_the_callers_before_and_after(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that the caller made, with WebGPU's default limits: a kernel of the caller's writes the input, the
    session runs, another kernel works on its output. One queue orders all that; nobody waits."""
    import wgpu

    handle = adapter.request_device_sync()
    module = handle.create_shader_module(code=SCALE)
    pipeline = handle.create_compute_pipeline(layout="auto", compute={"module": module, "entry_point": "main"})

    def scale(buffer: Any) -> None:
        entries = [{"binding": 0, "resource": {"buffer": buffer, "offset": 0, "size": X.nbytes}}]
        group = handle.create_bind_group(layout=pipeline.get_bind_group_layout(0), entries=entries)
        encoder = handle.create_command_encoder()
        work = encoder.begin_compute_pass()
        work.set_pipeline(pipeline)
        work.set_bind_group(0, group)
        work.dispatch_workgroups(X.size // 64)
        work.end()
        handle.queue.submit([encoder.finish()])

    model = layers(64, seed=9)
    u = wgpu.BufferUsage
    x, y = (
        handle.create_buffer(size=X.nbytes, usage=u.STORAGE | u.COPY_SRC | u.COPY_DST, label=label) for label in "xy"
    )
    with InferenceSession(model, providers=[("webgpu", {"device": handle})]) as s:
        assert s.device.handle is handle
        feeds, fetches = (
            {n: Tensor.from_gpu_buffer(b, dtype="float32", dims=X.shape)} for n, b in (("x", x), ("y", y))
        )
        s.warm_up()
        maps: list[str] = []
        map_async = type(x).map_async
        monkeypatch.setattr(type(x), "map_async", lambda b, *a: (maps.append(b.label), map_async(b, *a))[1])
        for i in range(3):
            handle.queue.write_buffer(x, 0, X + np.float32(i))
            scale(x)
            (result,) = s.run(None, feeds, fetches=fetches)
            scale(y)
            assert result is fetches["y"] and not maps
            want = expected(model, (X + np.float32(i)) * 2 + 1) * 2 + 1
            np.testing.assert_allclose(result.numpy(), want, rtol=1e-4, atol=1e-4)
            assert maps == ["read"]
            maps.clear()
    handle.queue.write_buffer(x, 0, X)  # the device and the buffers are still the caller's
    assert bytes(handle.queue.read_buffer(x)) == X.tobytes()
