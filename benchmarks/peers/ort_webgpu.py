"""onnxruntime's WebGPU provider: Dawn, natively. The package onnxruntime-webgpu takes the place of onnxruntime, so this
runs with its folder first on PYTHONPATH (`--ort-webgpu` of `benchmarks.models` does that)."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import onnxruntime

from benchmarks.peers import worker

PROVIDER = "WebGpuExecutionProvider"


def load(model: Path, chosen: argparse.Namespace) -> worker.Loaded:
    options = onnxruntime.SessionOptions()
    # Asks for the list behind get_provider_graph_assignment_info.
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    provider: dict[str, str] = dict(setting.split("=", 1) for setting in chosen.provider_option)
    session = onnxruntime.InferenceSession(model, options, providers=[(PROVIDER, provider), "CPUExecutionProvider"])
    if PROVIDER not in session.get_providers():
        raise SystemExit(worker.unusable(f"{PROVIDER} did not start; the session has {session.get_providers()}"))
    return worker.Loaded(lambda feeds: session.run(None, feeds)[0], assignment(session))


def assignment(session: Any) -> dict[str, Any]:
    """How many nodes of the optimised graph run where, and which ops were left to the CPU."""
    gpu: Counter[str] = Counter()
    cpu: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        target = gpu if part.ep_name == PROVIDER else cpu
        target.update(node.op_type for node in part.get_nodes())
    return {"gpu_nodes": sum(gpu.values()), "cpu_nodes": sum(cpu.values()), "cpu_ops": dict(cpu)}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--provider-option", action="append", default=[], metavar="KEY=VALUE", help="for the provider")


if __name__ == "__main__":
    if PROVIDER not in onnxruntime.get_available_providers():
        sys.exit(worker.unusable(f"onnxruntime {onnxruntime.__version__} has no {PROVIDER}: give --ort-webgpu FOLDER"))
    sys.exit(worker.main("ort_webgpu", onnxruntime.__version__, load, options))
