"""One worker per engine for `benchmarks.decode`: `python -m benchmarks.peers.decode ENGINE MODEL.onnx ...` prints one
line of JSON.

    check      a prompt, then given tokens one by one: the logits of each step are saved, to be compared
    read       a prompt, then tokens that the model chooses, each read by the host before the next step
    resident   the same, but the chosen token stays on the GPU; the host waits at the end only

The past stays on the GPU for gpucompile (a cache in place) and ort_webgpu (IO binding, outputs become inputs); ort_cpu
is there for the logits.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.worker import MARK, Array, unusable

#: A step: ids [1, S] (None: the token of the last step, on the GPU) and whether to return the token -> it, or None.
Step = Callable[["Array | None", bool], "Array | None"]


@dataclass
class Engine:
    """`begin` empties the cache. `logits` is the last position's of a step with these ids. `wait` until all is done."""

    begin: Callable[[], None]
    step: Step
    logits: Callable[[Array], Array]
    wait: Callable[[], None]
    count: Callable[[Callable[[], None]], dict[str, float]] = lambda work: {}
    resident: bool = True
    notes: dict[str, Any] = field(default_factory=dict)


def feeds_of(ids: Array, length: int) -> dict[str, Array]:
    """What the model takes besides the past."""
    end = length + ids.shape[1]
    return {
        "input_ids": ids,
        "attention_mask": np.ones((1, end), np.int64),
        "position_ids": np.arange(length, end)[None],
    }


# engines --------------------------------------------------------------------------------------------------------------


def gpucompile_engine(model: Path, capacity: int) -> Engine:
    import gpucompile

    device = gpucompile.Device.open()
    session = gpucompile.InferenceSession(
        model,
        providers=[("webgpu", {"device": device})],
        cache_capacity=capacity,
        free_dimension_overrides={"batch": 1},
    )
    cache = session.create_cache()
    tensor = session.context.create_tensor("int64", [1, 1], readable=True, writable=True)
    token = gpucompile.Tensor.from_ml_tensor(tensor)

    def step(ids: Array | None, read: bool) -> Array | None:
        feeds: dict[str, Any] = feeds_of(np.zeros((1, 1), np.int64) if ids is None else ids, cache.length)
        if ids is None:
            feeds["input_ids"] = token
        if read:
            return np.asarray(session.run(["token"], feeds, cache=cache)[0])[:, -1:]
        session.run(["token"], feeds, fetches={"token": token}, cache=cache)
        return None

    def logits(ids: Array) -> Array:
        (out,) = session.run(["logits"], feeds_of(ids, cache.length), cache=cache)
        return np.asarray(out)[0, -1]

    notes = {"device": device.name, "version": gpucompile.__version__, "cache_bytes": cache.nbytes}
    return Engine(cache.reset, step, logits, device.synchronise, lambda work: _counted(device, work), True, notes)


def _counted(device: Any, work: Callable[[], None]) -> dict[str, float]:
    """What `work` allocates and moves: buffers and bind groups made, bytes written by the host, copied on the GPU."""
    counts = dict.fromkeys(("buffers", "bind_groups", "written", "copied"), 0)
    handle, queue = device.handle, device.handle.queue
    encoder = type(handle.create_command_encoder())
    originals = handle.create_buffer, handle.create_bind_group, queue.write_buffer, encoder.copy_buffer_to_buffer

    def create_buffer(*args: Any, **options: Any) -> Any:
        counts["buffers"] += 1
        return originals[0](*args, **options)

    def create_bind_group(*args: Any, **options: Any) -> Any:
        counts["bind_groups"] += 1
        return originals[1](*args, **options)

    def write_buffer(buffer: Any, offset: int, data: Any, *args: Any) -> Any:
        counts["written"] += memoryview(data).nbytes
        return originals[2](buffer, offset, data, *args)

    def copy(self: Any, a: Any, i: int, b: Any, j: int, size: Any = None) -> Any:
        counts["copied"] += a.size - i if size is None else size
        return originals[3](self, a, i, b, j, size)

    handle.create_buffer, handle.create_bind_group = create_buffer, create_bind_group
    queue.write_buffer, encoder.copy_buffer_to_buffer = write_buffer, copy
    try:
        work()
    finally:
        del handle.create_buffer, handle.create_bind_group, queue.write_buffer
        encoder.copy_buffer_to_buffer = originals[3]
    return {**counts}


def ort_engine(model: Path, webgpu: bool) -> Engine:
    import onnxruntime

    name = "WebGpuExecutionProvider"
    providers = [name, "CPUExecutionProvider"] if webgpu else ["CPUExecutionProvider"]
    if webgpu and name not in onnxruntime.get_available_providers():
        raise SystemExit(unusable(f"onnxruntime {onnxruntime.__version__} has no {name}: give --ort-webgpu FOLDER"))
    session = onnxruntime.InferenceSession(model, providers=providers)
    if webgpu and name not in session.get_providers():
        raise SystemExit(unusable(f"{name} found no adapter"))
    pasts = {i.name: i.shape for i in session.get_inputs() if i.name.startswith("past_key_values")}
    names = {past: past.replace("past_key_values", "present") for past in pasts}
    where = "webgpu" if webgpu else "cpu"
    state: dict[str, Any] = {}

    def begin() -> None:
        empty = {p: np.zeros([1, int(shape[1]), 0, int(shape[3])], np.float32) for p, shape in pasts.items()}
        state.update(past=empty, length=0, token=None)

    def run(ids: Array | None, output: str, place: str) -> Any:
        binding = session.io_binding()
        feeds: dict[str, Any] = feeds_of(np.zeros((1, 1), np.int64) if ids is None else ids, state["length"])
        if ids is None:
            feeds["input_ids"] = state["token"]
        for port, value in {**feeds, **state["past"]}.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(port, value)
            else:
                binding.bind_ortvalue_input(port, value)
        binding.bind_output(output, place)
        for present in names.values():
            binding.bind_output(present, where)
        session.run_with_iobinding(binding)
        result, *presents = binding.get_outputs()
        state["past"] = dict(zip(names, presents, strict=True))
        state["length"] += 1 if ids is None else ids.shape[1]
        return result

    def step(ids: Array | None, read: bool) -> Array | None:
        result = run(ids, "token", "cpu" if read else where)
        state["token"] = result
        return np.asarray(result.numpy())[:, -1:] if read else None

    def wait() -> None:
        if state["token"] is not None:
            state["token"].numpy()

    begin()
    return Engine(
        begin, step, lambda ids: np.asarray(run(ids, "logits", "cpu").numpy())[0, -1], wait, resident=webgpu,
        notes={"version": onnxruntime.__version__},
    )  # fmt: skip


# measuring ------------------------------------------------------------------------------------------------------------


def check(engine: Engine, prompt: Array, tokens: Array) -> Array:
    """Logits after the prompt and after each given token."""
    engine.begin()
    return np.stack([engine.logits(prompt), *(engine.logits(t.reshape(1, 1)) for t in tokens)])


def decode(engine: Engine, prompt: Array, count: int, warm: int, read: bool) -> dict[str, Any]:
    """Seconds of a prompt and of `count` tokens after `warm` others."""
    engine.begin()
    start = time.perf_counter()
    token = engine.step(prompt, True)
    prefill = time.perf_counter() - start
    engine.step(token, False)
    for _ in range(warm):
        token = engine.step(token if read else None, read)
    engine.wait()
    start = time.perf_counter()
    for _ in range(count):
        token = engine.step(token if read else None, read)
    engine.wait()
    return {"prefill_ms": prefill * 1e3, "seconds": time.perf_counter() - start, "tokens": count}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.decode", description="Measure one engine.")
    parser.add_argument("engine", choices=("gpucompile", "ort_webgpu", "ort_cpu"))
    parser.add_argument("model", type=Path)
    parser.add_argument("--capacity", type=int, required=True)
    parser.add_argument("--prompt", type=int, required=True, help="tokens")
    parser.add_argument("--tokens", type=int, required=True, help="timed ones")
    parser.add_argument("--checked", type=int, required=True, help="steps whose logits are saved")
    parser.add_argument("--vocabulary", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True, help="where the logits go (.npy)")
    chosen = parser.parse_args(arguments)
    rng = np.random.default_rng(0)
    prompt = rng.integers(1, chosen.vocabulary, (1, chosen.prompt))
    start = time.perf_counter()
    own = chosen.engine == "gpucompile"
    make = (
        (lambda: gpucompile_engine(chosen.model, chosen.capacity))
        if own
        else (lambda: ort_engine(chosen.model, chosen.engine == "ort_webgpu"))
    )
    engine = make()
    create = time.perf_counter() - start
    np.save(chosen.output, check(engine, prompt, rng.integers(1, chosen.vocabulary, chosen.checked)))
    report: dict[str, Any] = {"engine": chosen.engine, "create_ms": create * 1e3, "notes": engine.notes}
    warm = max(2, chosen.tokens // 8)
    if chosen.engine != "ort_cpu":
        report["read"] = decode(engine, prompt, chosen.tokens, warm, True)
        report["resident"] = decode(engine, prompt, chosen.tokens, warm, False) if engine.resident else None
        engine.begin()
        token = engine.step(prompt, True)
        token = engine.step(engine.step(token, True), True)
        steps = 4

        def some() -> None:
            nonlocal token
            for _ in range(steps):
                token = engine.step(token, True)

        report["per_token"] = {name: total / steps for name, total in engine.count(some).items()}
    print(json.dumps(report), flush=True)
    return 0


assert MARK == '{"engine":'  # what the parent looks for

if __name__ == "__main__":
    sys.exit(main())
