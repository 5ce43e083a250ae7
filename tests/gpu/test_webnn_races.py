"""Destroying what another thread uses: an error there, and not the end of the process, which wgpu-native would be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import sys, threading
import numpy as np
from gpucompile import GpucompileError, Device
from gpucompile.webnn import ML, MLGraphBuilder
what, destroyed, size, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
device, x = Device.open(), np.ones(size, np.float32)
for i in range(rounds):
    context = ML().create_context(gpu_device=device)
    builder = MLGraphBuilder(context)
    graph = builder.build({"y": builder.neg(builder.input("x", "float32", [size]))})
    tensor = context.create_tensor("float32", [size], readable=True, writable=True)
    started, errors = threading.Event(), []

    def work():
        try:
            while True:
                if what == "compute":
                    context.compute(graph, {"x": x})
                else:
                    context.read_tensor(tensor)
                started.set()
        except Exception as e:
            started.set()
            errors.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    {"context": context, "graph": graph, "tensor": tensor}[destroyed].destroy()
    thread.join(60)
    assert not thread.is_alive() and len(errors) == 1 and isinstance(errors[0], GpucompileError), errors
    context.destroy()
"""


@pytest.mark.parametrize(
    ("what", "destroyed"), [("compute", "context"), ("compute", "graph"), ("read", "context"), ("read", "tensor")]
)
@pytest.mark.parametrize(("size", "rounds"), [(64, 12), (2_000_000, 3)])
def test_destroying_what_another_thread_uses(adapter: Any, what: str, destroyed: str, size: int, rounds: int) -> None:
    command = [sys.executable, "-c", PROGRAM, what, destroyed, str(size), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=dict(os.environ), timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
