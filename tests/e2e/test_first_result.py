"""From a new process to a first result."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run(*args: str) -> str:
    return subprocess.run([sys.executable, *args], check=True, capture_output=True, text=True, cwd=ROOT).stdout


def test_a_context_and_a_first_result_come_quickly(adapter: Any) -> None:
    """0.55 s on a core of 2020. Its time on the CPU counts, and the best of three, because other processes run beside;
    without `lean_types` and with the importer it is 1.2 s and more."""
    runs = [json.loads(run("-m", "benchmarks", "start", "--json", "--runs", "1"))["seconds"] for _ in range(3)]
    assert min(each["cpu"] for each in runs) < 1.5, runs


def test_the_api_needs_no_importer() -> None:
    modules = run("-c", "import sys, gpucompile.webnn; print(*sys.modules)").split()
    assert "gpucompile.webnn.builder" in modules
    assert not {"onnx", "wgpu", "networkx", "rich"} & set(modules)


def test_the_gpu_librarys_types_are_parsed_leanly(adapter: Any) -> None:
    """Fails when another wgpu or cffi makes `lean_types` do nothing."""
    loaded = run(
        "-c",
        "import sys; from gpucompile import Device; Device.open().close();"
        "print(sys.modules['wgpu.backends.wgpu_native._ffi'].ffi._parser._parse.__name__)",
    )
    assert loaded.strip() == "lean"
