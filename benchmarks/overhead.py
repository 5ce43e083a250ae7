"""What `InferenceSession.run` costs beyond the kernels: SqueezeNet and 50 small kernels, input and output on the GPU.

    python -m benchmarks overhead --ort-webgpu FOLDER       FOLDER: pip install --target FOLDER onnxruntime-webgpu
    python -m benchmarks overhead --model small --repeat 300

For SqueezeNet with random weights (`benchmarks.networks`), in microseconds, each the median of several rounds:

    pipelined   a run when many follow one another and only the last is waited for
    waited      a run that is waited for by reading its output back, after which the next one starts
    kernels     from the begin to the end of the compute pass, by the GPU's own clock
    overhead    pipelined - kernels

and the same of onnxruntime-webgpu with IO binding, in a process of its own right after. For the 50 kernels: the
processor time of the thread that calls `run`; how much of that is gpucompile's own Python, measured with a device whose
every call does nothing; and how much it takes to record the kernels, Python and wgpu-native together.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import gpucompile
from benchmarks import networks
from benchmarks.peers import worker

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 9


def chain(kernels: int, size: int = 16) -> onnx.ModelProto:
    """As many matrix products in a row: one small kernel each."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((size, size)).astype(np.float32) / size**0.5, f"w{i}")
        for i in range(kernels)
    ]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(kernels)]
    first, last = (helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [size, size]) for i in (0, kernels))
    graph = helper.make_graph(nodes, "chain", [first], [last], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def microseconds(call: Callable[[], object], repeat: int, finish: Callable[[], object]) -> float:
    """Median over rounds of the time of a call, when `repeat` of them follow one another and the last is waited for."""
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(repeat):
            call()
        finish()
        found.append((time.perf_counter() - start) / repeat * 1e6)
    return statistics.median(found)


def thread_microseconds(call: Callable[[], object], repeat: int, finish: Callable[[], object]) -> float:
    """Processor time of this thread for a call: the least over rounds of ten."""
    found = []
    for _ in range(max(ROUNDS, repeat // 10)):
        finish()
        start = time.thread_time_ns()
        for _ in range(10):
            call()
        found.append((time.thread_time_ns() - start) / 10 * 1e-3)
    return min(found)


class _Mute:
    """A device that does nothing, and bears no marks (of being destroyed, for example)."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: object, **options: object) -> Any:
        return self


class Bound:
    """A session whose input and output stay in GPU tensors."""

    def __init__(self, model: Any, feeds: dict[str, np.ndarray]) -> None:
        self.session = gpucompile.InferenceSession(model, preferred_output_location="gpu-buffer")
        handle, usage = self.session.device.handle, self.session.device.api.BufferUsage
        self.feeds = {}
        for name, array in feeds.items():
            usages = usage.STORAGE | usage.COPY_SRC | usage.COPY_DST
            buffer = handle.create_buffer(size=array.nbytes, usage=usages)
            handle.queue.write_buffer(buffer, 0, array)
            self.feeds[name] = gpucompile.Tensor.from_gpu_buffer(buffer, dtype=array.dtype, dims=array.shape)
        names = [o.name for o in self.session.get_outputs()]
        self.fetches = dict(zip(names, self.session.run(None, self.feeds), strict=True))
        (program,) = self.session._programs.values()
        self.executable = program.executable
        self.player: Any = program.executable._player

    def run(self) -> None:
        self.session.run(None, self.feeds, fetches=self.fetches)

    def result(self) -> np.ndarray:
        return next(iter(self.fetches.values())).numpy()

    def record(self) -> float:
        """Record the kernels of a run and throw that away; microseconds of this thread for the recording alone."""
        encoder = self.session.device.handle.create_command_encoder()
        compute_pass = encoder.begin_compute_pass()
        start = time.thread_time_ns()
        for each in self.player._records:
            each(compute_pass)
        took = (time.thread_time_ns() - start) * 1e-3
        compute_pass.end()
        return took

    def mute(self) -> Any:
        """A context in which a run does everything but call wgpu."""
        stack = contextlib.ExitStack()
        stack.enter_context(mock.patch.object(self.session.device, "handle", _Mute()))
        stack.enter_context(mock.patch.object(self.player, "_dispatch", lambda encoder, records: encoder))
        return stack

    def kernels(self, repeat: int) -> float | None:
        """Median microseconds from the begin to the end of a run's compute pass on the GPU; None without timestamps."""
        device, handle = self.session.device, self.session.device.handle
        if "timestamp-query" not in device.features:
            return None
        usage = device.api.BufferUsage
        queries = handle.create_query_set(type="timestamp", count=2)
        resolved = handle.create_buffer(size=16, usage=usage.QUERY_RESOLVE | usage.COPY_SRC)
        marks = {"query_set": queries, "beginning_of_pass_write_index": 0, "end_of_pass_write_index": 1}
        found = []
        for _ in range(repeat):
            encoder = handle.create_command_encoder()
            compute_pass = encoder.begin_compute_pass(timestamp_writes=marks)
            for record in self.player._records:
                record(compute_pass)
            compute_pass.end()
            encoder.resolve_query_set(queries, 0, 2, resolved, 0)
            handle.queue.submit([encoder.finish()])
            begin, end = np.frombuffer(handle.queue.read_buffer(resolved), np.uint64)
            found.append(int(end - begin) * device.timestamp_period * 1e-3)
        return statistics.median(found)


def squeezenet(repeat: int, small: bool) -> dict[str, Any]:
    """The figures of SqueezeNet (or of the 50 kernels, where it would take too long)."""
    model = chain(50).SerializeToString() if small else networks.cached("squeezenet")
    feeds = {"x0": np.eye(16, dtype=np.float32)} if small else networks.random_input("squeezenet")
    bound = Bound(model, feeds)
    for _ in range(3):
        bound.run()
    if not small:
        expected = networks.expected("squeezenet")
        assert float(np.abs(bound.result() - expected).max() / np.abs(expected).max()) < 1e-4
    pipelined = microseconds(bound.run, repeat, bound.session.device.synchronise)
    waited = microseconds(lambda: (bound.run(), bound.result()), max(1, repeat // 10), lambda: None)
    kernels = bound.kernels(repeat)
    return {
        "adapter": bound.session.device.name,
        "kernels": bound.executable.kernels,
        "pipelined": pipelined,
        "waited": waited,
        "gpu": kernels,
        "overhead": None if kernels is None else pipelined - kernels,
    }


def host(repeat: int) -> dict[str, Any]:
    """The figures of the 50 kernels."""
    bound = Bound(chain(50).SerializeToString(), {"x0": np.eye(16, dtype=np.float32)})
    finish = bound.session.device.synchronise
    for _ in range(3):
        bound.run()
    call = thread_microseconds(bound.run, repeat, finish)
    with bound.mute():
        python = thread_microseconds(bound.run, repeat, lambda: None)
    recording = min(bound.record() for _ in range(repeat))
    return {"kernels": bound.executable.kernels, "call": call, "python": python, "recording": recording}


def peer(options: argparse.Namespace) -> dict[str, Any]:
    """onnxruntime-webgpu's figures of SqueezeNet, or {"problem": why not}."""
    environment = dict(os.environ)
    if options.ort_webgpu:
        paths = [str(Path(options.ort_webgpu).resolve()), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(p for p in paths if p)
    command = [sys.executable, "-m", "benchmarks.peers.ort_webgpu_bound", str(networks.cached("squeezenet"))]
    command += ["--repeat", str(options.repeat), "--rounds", str(ROUNDS)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    lines = [line for line in done.stdout.splitlines() if line.startswith(worker.MARK)]
    if done.returncode or not lines:
        return {"problem": ((done.stderr or done.stdout).strip() or "said nothing").splitlines()[-1]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks overhead", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=200, metavar="N", help="runs in a round (200)")
    parser.add_argument("--model", choices=("squeezenet", "small"), default="squeezenet", help="small: only 50 kernels")
    parser.add_argument("--ort-webgpu", metavar="FOLDER", help="onnxruntime-webgpu, unpacked; without it no comparison")
    parser.add_argument("--json", metavar="FILE", help="write the figures here as well")
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {"ours": squeezenet(options.repeat, options.model == "small")}
    if options.ort_webgpu and options.model == "squeezenet":
        found["onnxruntime-webgpu"] = peer(options)
    found["host"] = host(options.repeat)
    _print(options.model, found)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=2), "utf-8")
    return 1 if "problem" in found.get("onnxruntime-webgpu", {}) else 0


def _print(model: str, found: dict[str, Any]) -> None:
    ours = found["ours"]
    print(f"{ours['adapter']}: {model}, {ours['kernels']} kernels, input and output on the GPU, us a run")
    print(f"  {'':<20} {'pipelined':>10} {'waited':>10} {'kernels':>10} {'overhead':>10}")
    for name in ("ours", "onnxruntime-webgpu"):
        row = found.get(name)
        if row is not None and "problem" in row:
            print(f"  {name:<20} {row['problem']}")
        elif row is not None:
            cells = (row.get(k) for k in ("pipelined", "waited", "gpu", "overhead"))
            print(f"  {name:<20}" + "".join(f" {'' if c is None else f'{c:.0f}':>10}" for c in cells))
    h = found["host"]
    print(f"{h['kernels']} kernels: the call of run takes {h['call']:.0f} us of its thread, ", end="")
    print(f"{h['python']:.0f} us of them without wgpu, {h['recording']:.0f} us to record the kernels")


if __name__ == "__main__":
    sys.exit(main())
