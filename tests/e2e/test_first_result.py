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
    """0.5 s on a free core of 2020; the best of three, and room for slow machines, because of other processes."""
    times = [
        json.loads(run("-m", "benchmarks", "start", "--json", "--runs", "1"))["seconds"]["total"] for _ in range(3)
    ]
    assert min(times) < 1.5, times


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
