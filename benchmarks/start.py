"""How long a new process takes to a first result of `gpucompile.webnn`, phase by phase.

Every run is a process of its own: import, context, graph of the published example (two adds and a mul on [1, 2, 2, 2]),
compile, dispatch, read. Python's own start (some 20 ms) is not in it; the first run after an installation also writes
bytecode, so the table shows the median. `cpu` is the process's time on all cores, which other processes disturb less.

    python -m benchmarks start
    python -m benchmarks start --runs 1 --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

CHILD = """
import json, time
start = last = time.perf_counter()
seconds = {}
def lap(phase):
    global last
    now = time.perf_counter()
    seconds[phase], last = now - last, now
import numpy as np
import gpucompile.webnn as webnn
lap("import")
context = webnn.ML().create_context()
lap("context")
builder = webnn.MLGraphBuilder(context)
shape, half = [1, 2, 2, 2], np.full([1, 2, 2, 2], 0.5, np.float32)
b, d = (builder.input(name, "float32", shape) for name in "bd")
total = builder.mul(builder.add(builder.constant(half), b), builder.add(builder.constant(half), d))
graph = builder.build({"out": total})
lap("build")
tensors = {n: context.create_tensor("float32", shape, readable=True, writable=True) for n in ("b", "d", "out")}
for name in "bd":
    context.write_tensor(tensors[name], 2 * half)
context.dispatch(graph, {n: tensors[n] for n in "bd"}, {"out": tensors["out"]})
result = context.read_tensor(tensors["out"])
lap("result")
assert (result == 2.25).all(), result
seconds["total"] = time.perf_counter() - start
seconds["cpu"] = time.process_time()
print(json.dumps({"adapter": context.device.name, "seconds": seconds}))
"""


def measure(runs: int) -> dict[str, object]:
    """Adapter, and the median of the seconds of each phase over new processes."""
    found = []
    for _ in range(runs):
        done = subprocess.run([sys.executable, "-c", CHILD], check=True, capture_output=True, text=True, cwd=ROOT)
        found.append(json.loads(done.stdout))
    phases = found[0]["seconds"]
    median = {phase: statistics.median(each["seconds"][phase] for each in found) for phase in phases}
    return {"adapter": found[0]["adapter"], "seconds": median}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks start", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="processes (default 5)")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    options = parser.parse_args(arguments)
    found = measure(max(1, options.runs))
    if options.json:
        print(json.dumps(found))
        return 0
    print(f"{found['adapter']}, median of {options.runs} processes")
    seconds = found["seconds"]
    assert isinstance(seconds, dict)
    for phase, value in seconds.items():
        print(f"  {phase:<8} {value * 1e3:7.0f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
