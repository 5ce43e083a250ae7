"""onnxruntime's WebGPU provider with IO binding: input and output stay on the GPU. A worker of `benchmarks.overhead`.

pipelined   runs follow one another, the last one is waited for by copying its output to the CPU
waited      every run is
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

import numpy as np
import onnxruntime
from onnx import helper

from benchmarks import networks
from benchmarks.peers import worker
from benchmarks.peers.ort_webgpu import PROVIDER

DEVICE = "webgpu"


def on_device(array: np.ndarray) -> tuple[Any, Any]:
    """An OrtValue on the GPU with this content, and the session that it belongs to. Version 1.27 has no allocator for
    it in Python; so it is the output of a small model."""
    value = helper.make_tensor_value_info
    type = helper.np_dtype_to_tensor_dtype(array.dtype)
    zero = helper.make_tensor("zero", type, [], [0])
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "zero"], ["y"])], "copy",
        [value("x", type, array.shape)], [value("y", type, array.shape)], [zero],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[PROVIDER])
    binding = session.io_binding()
    binding.bind_cpu_input("x", array)
    binding.bind_output("y", DEVICE)
    session.run_with_iobinding(binding)
    return binding.get_outputs()[0], (session, binding)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.ort_webgpu_bound")
    parser.add_argument("model")
    parser.add_argument("--repeat", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args(arguments)
    if PROVIDER not in onnxruntime.get_available_providers():
        return worker.unusable(f"onnxruntime {onnxruntime.__version__} has no {PROVIDER}: give --ort-webgpu FOLDER")
    session = onnxruntime.InferenceSession(chosen.model, providers=[PROVIDER, "CPUExecutionProvider"])
    if PROVIDER not in session.get_providers():  # without an adapter it says so and goes on with the CPU
        return worker.unusable(f"{PROVIDER} found no adapter")
    binding = session.io_binding()
    held = {name: on_device(array) for name, array in networks.random_input("squeezenet").items()}
    for name, (value, _) in held.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_output(session.get_outputs()[0].name, DEVICE)
    session.run_with_iobinding(binding)
    (output,) = binding.get_outputs()
    if output.device_name() == "cpu" or any(v.device_name() == "cpu" for v, _ in held.values()):
        return worker.unusable("input or output is on the CPU")
    binding.bind_ortvalue_output(session.get_outputs()[0].name, output)

    def finish() -> np.ndarray:
        binding.synchronize_outputs()
        return np.asarray(binding.copy_outputs_to_cpu()[0])

    def measure(repeat: int, each: bool) -> float:
        found = []
        for _ in range(chosen.rounds):
            start = time.perf_counter()
            for _ in range(repeat):
                session.run_with_iobinding(binding)
                if each:
                    finish()
            finish()
            found.append((time.perf_counter() - start) / repeat * 1e6)
        return statistics.median(found)

    measure(3, True)
    expected = networks.expected("squeezenet")
    error = float(np.abs(finish() - expected).max() / np.abs(expected).max())
    if error > 1e-4:
        return worker.unusable(f"the output is wrong by {error:.1e} of the largest value")
    report = {
        "engine": "ort_webgpu_bound",
        "version": onnxruntime.__version__,
        "pipelined": measure(chosen.repeat, False),
        "waited": measure(max(1, chosen.repeat // 10), True),
    }
    print(json.dumps(report), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
