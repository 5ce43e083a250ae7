"""onnxruntime's WebGPU provider: Dawn, natively. The package onnxruntime-webgpu takes the place of onnxruntime, so this
runs with its folder first on PYTHONPATH (`--ort-webgpu` of `benchmarks.models` does that)."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import onnxruntime

from benchmarks.peers import worker

PROVIDER = "WebGpuExecutionProvider"


def load(model: Path, chosen: argparse.Namespace) -> worker.Loaded:
    provider: dict[str, str] = dict(setting.split("=", 1) for setting in chosen.provider_option)
    providers = [(PROVIDER, provider), "CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(model, providers=providers)
    if PROVIDER not in session.get_providers():  # without an adapter it says so and goes on with the CPU
        raise SystemExit(worker.unusable(f"{PROVIDER} found no adapter"))
    return worker.Loaded(
        lambda feeds: session.run(None, feeds)[0], inspect=lambda feeds: assignment(model, providers, feeds)
    )


def assignment(model: Path, providers: list[Any], feeds: dict[str, worker.Array]) -> dict[str, Any]:
    """How many kernels of one run were the GPU's, and which ops were left to the CPU: read from the profile of a second
    session (get_provider_graph_assignment_info of 1.27 lists only some of the nodes)."""
    counts: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(model, options, providers=providers)
        session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            counts[event["args"]["provider"] == PROVIDER][event["args"]["op_name"]] += 1
    return {"gpu_nodes": counts[True].total(), "cpu_nodes": counts[False].total(), "cpu_ops": dict(counts[False])}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--provider-option", action="append", default=[], metavar="KEY=VALUE", help="for the provider")


if __name__ == "__main__":
    if PROVIDER not in onnxruntime.get_available_providers():
        sys.exit(worker.unusable(f"onnxruntime {onnxruntime.__version__} has no {PROVIDER}: give --ort-webgpu FOLDER"))
    sys.exit(worker.main("ort_webgpu", onnxruntime.__version__, load, options))
