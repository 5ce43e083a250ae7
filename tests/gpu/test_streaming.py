"""`load(..., stream=True)`: weights go to the device shard by shard in another thread, while other models run."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpucompile
from gpucompile import BundleError, ClosedError, Device, UnsupportedError
from gpucompile.plan.weights import make_shards
from gpucompile.runtime.memory import Arenas, Memory
from gpucompile.runtime.player import Player
from tests.gpu.session_models import Allocations, expected, layers

X = np.random.default_rng(1).normal(size=(4, 64)).astype(np.float32)
MODEL = layers(64, count=6)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle of six shards."""
    assert make_shards.__kwdefaults__ is not None
    monkeypatch.setitem(make_shards.__kwdefaults__, "shard_bytes", 64 * 64 * 4)
    return gpucompile.compile(MODEL).save(tmp_path / "model.gpub")


class Gate:
    """Progress that waits before a shard is called done until it is let through."""

    def __init__(self, at: int) -> None:
        self.at, self.open, self.reached = at, threading.Event(), threading.Event()
        self.seen: list[tuple[str, int, int]] = []

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.seen.append((stage, done, total))
        if len(self.seen) == self.at:
            self.reached.set()
            assert self.open.wait(30)


def test_other_models_run_meanwhile_and_runs_wait(device: Device, file: Path) -> None:
    gate = Gate(2)
    want = expected(MODEL, X)
    other = layers(64, seed=3)
    small = gpucompile.load(gpucompile.compile(other), device)
    with small, gpucompile.load(file, device, gate, stream=True) as run:
        assert gate.reached.wait(30) and not run.ready and not run.wait_ready(0.01)
        np.testing.assert_allclose(small(X), expected(other, X), rtol=1e-4, atol=1e-5)
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(run(X)))
        thread.start()
        thread.join(0.05)
        assert thread.is_alive() and len(gate.seen) == 2  # the run waits, the third shard is not yet sent
        assert run.memory()["weight"] == 6 * 64 * 64 * 4
        gate.open.set()
        assert run.wait_ready(30) and run.ready
        thread.join(30)
        np.testing.assert_allclose(results[0], want, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(run(X), want, rtol=1e-4, atol=1e-5)
    weights = [(done, total) for stage, done, total in gate.seen if stage == "weights"]
    assert weights == [(i * 64 * 64 * 4, 6 * 64 * 64 * 4) for i in range(1, 7)]
    assert gate.seen[-1][0] == "pipelines" and gate.seen[-1][1] == gate.seen[-1][2]


def test_waiting_does_not_block_the_event_loop(device: Device, file: Path) -> None:
    gate = Gate(1)

    async def run() -> tuple[Any, int]:
        with gpucompile.load(file, device, gate, stream=True) as exe:
            waiting = asyncio.ensure_future(exe.run_async({"x": X}))
            beats = 0
            while not waiting.done():
                await asyncio.sleep(0.005)
                beats += 1
                if beats == 4:
                    gate.open.set()
            return (await waiting)["y"], beats

    y, beats = asyncio.run(run())
    np.testing.assert_allclose(y, expected(MODEL, X), rtol=1e-4, atol=1e-5)
    assert beats > 4


def test_few_shards_are_on_their_way(device: Device, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    synchronise = Device.synchronise
    monkeypatch.setattr(Device, "synchronise", lambda d: (events.append("wait"), synchronise(d))[1])
    bundle = gpucompile.runtime.read_bundle(file)
    shard = bundle.shard
    monkeypatch.setattr(bundle, "shard", lambda i: (events.append(f"shard {i}"), shard(i))[1])
    with bundle, gpucompile.load(bundle, device, stream=True) as run:
        run.wait_ready()
    shards = [f"shard {i}" for i in range(6)]
    assert events == [*shards[:2], "wait", *shards[2:4], "wait", *shards[4:], "wait"]


def test_closing_ends_loading(device: Device, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allocations = Allocations(device, monkeypatch)
    gate = Gate(2)
    run = gpucompile.load(file, device, gate, stream=True)
    assert gate.reached.wait(30)
    errors: list[Exception] = []

    def work() -> None:
        try:
            run(X)
        except ClosedError as e:
            errors.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    closing = threading.Thread(target=run.close)
    closing.start()
    closing.join(0.05)
    gate.open.set()
    for each in (closing, thread):
        each.join(30)
        assert not each.is_alive()
    assert len(errors) == 1 and len(gate.seen) == 2 and run.closed and not run.ready
    assert allocations.bytes == 0
    with pytest.raises(ClosedError):
        run(X)


def test_what_fails_while_loading_is_raised_by_the_run(device: Device, file: Path, tmp_path: Path) -> None:
    data = bytearray(file.read_bytes())
    with gpucompile.runtime.read_bundle(file) as bundle:
        at = data.index(bytes(bundle.shard(5)))
    data[at + 5] ^= 1
    damaged = tmp_path / "damaged.gpub"
    damaged.write_bytes(data)
    run = gpucompile.load(damaged, device, stream=True)
    for call in (run.wait_ready, lambda: run(X), lambda: asyncio.run(run.run_async({"x": X}))):
        with pytest.raises(BundleError, match="sha256"):
            call()
    assert not run.ready
    run.close()


def test_memory_is_refused_before_the_thread(device: Device, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allocations = Allocations(device, monkeypatch)
    threads = threading.active_count()
    with pytest.raises(UnsupportedError, match="memory_budget is 50,000 bytes"):
        gpucompile.load(file, device, stream=True, memory=Memory(50_000))
    assert allocations.bytes == 0 and threading.active_count() == threads


def test_where_it_is_not_possible(device: Device) -> None:
    several = gpucompile.compile(layers(64, "n"), dims={"n": [2, 4]})
    with pytest.raises(UnsupportedError, match="several sizes"):
        gpucompile.load(several, device, stream=True)
    with pytest.raises(UnsupportedError, match="for the GPU"):
        gpucompile.load(gpucompile.compile(MODEL), "auto", stream=True)


def test_the_scratch_of_a_loading_plan_may_grow(device: Device, file: Path) -> None:
    """Another plan joins the shared scratch memory between the player's buffers and its bind groups."""
    memory, gate = Memory(arenas=Arenas(device)), Gate(6)
    with gpucompile.load(file, device, gate, stream=True, memory=memory) as run:
        assert gate.reached.wait(30)
        other = gpucompile.compile(layers(256))
        plan = other.plan(other.variants[0])
        player = Player(device, plan, memory=memory)
        gate.open.set()
        np.testing.assert_allclose(run(X), expected(MODEL, X), rtol=1e-4, atol=1e-5)
        player.close()
        np.testing.assert_allclose(run(X), expected(MODEL, X), rtol=1e-4, atol=1e-5)
