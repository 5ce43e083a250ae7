"""Memory over many runs of a session whose outputs stay on the GPU: disposed, and left to garbage collection.

    python -m benchmarks leaks [--runs 10000]

prints, at ten points of each loop, how many GPU buffers there are, their bytes, what the session counts of them, and
the resident memory of the process (on a software adapter the buffers are in it). Exits with 1 if anything grew in the
second half.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gpucompile import InferenceSession

#: What resident memory may vary by: allocators keep and return pages as they like.
NOISE = 8 << 20
SHAPE = (8, 256)


@dataclass(frozen=True)
class Sample:
    """What there is after some runs."""

    runs: int
    buffers: int
    buffer_bytes: int
    session_bytes: int
    resident: int


def model(rows: int, size: int) -> onnx.ModelProto:
    """y = tanh(tanh(x @ w) @ w), as large as x."""
    w = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32) / size**0.5
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Tanh", ["a"], ["b"]),
             helper.make_node("MatMul", ["b", "w"], ["c"]), helper.make_node("Tanh", ["c"], ["y"])]  # fmt: skip
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, size]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "leaks", ports[:1], ports[1:], [numpy_helper.from_array(w, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def resident_bytes() -> int:
    """The resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def disposed(session: InferenceSession, x: np.ndarray) -> None:
    """Two runs, the second on the result of the first; both results disposed."""
    (a,) = session.run(None, {"x": x})
    (b,) = session.run(None, {"x": a})
    a.dispose()
    asyncio.run(b.get_data(release=True))


def collected(session: InferenceSession, x: np.ndarray) -> None:
    """The same, with nothing disposed; the results hang in a cycle, so that only the collector finds them."""
    (a,) = session.run(None, {"x": x})
    (b,) = session.run(None, {"x": a})
    cycle: list[Any] = [a, b]
    cycle.append(cycle)


KINDS: dict[str, Callable[[InferenceSession, np.ndarray], None]] = {"disposed": disposed, "collected": collected}


def samples(kind: str, runs: int, count: int = 10, every: int = 0) -> Iterator[Sample]:
    """The memory after each of `count` parts of a loop of so many runs, in which garbage is collected after `every`
    steps; 0: when the collector comes by itself."""
    from wgpu import diagnostics

    x = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    with InferenceSession(model(*SHAPE), preferred_output_location="gpu-buffer") as session:
        for part in range(1, count + 1):
            for step in range(1, runs // count // 2 + 1):
                KINDS[kind](session, x)
                if every and step % every == 0:
                    gc.collect()
            gc.collect()
            session.device.synchronise()
            buffers = diagnostics.object_counts.get_dict()["Buffer"]
            size = session.memory()["total"] + session.context.memory()["staging"]
            yield Sample(part * runs // count, buffers["count"], buffers["resource_mem"], size, resident_bytes())


def growth(found: Sequence[Sample]) -> list[str]:
    """What grew in the second half, as text; empty if nothing did."""
    first, last = found[len(found) // 2 - 1], found[-1]
    out = []
    for name in ("buffers", "buffer_bytes", "session_bytes"):
        a, b = getattr(first, name), getattr(last, name)
        if b > a:
            out.append(f"{name} from {a:,} to {b:,}")
    if last.resident > first.resident + NOISE:
        out.append(f"resident memory from {first.resident:,} to {last.resident:,}")
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks leaks", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000, help="runs of each loop")
    options = parser.parse_args(arguments)
    leaks = False
    for kind in KINDS:
        print(f"{options.runs:,} runs, outputs {kind}")
        print(f"{'runs':>8} {'buffers':>8} {'their KB':>9} {'session KB':>11} {'RSS MB':>8}")
        found = []
        for s in samples(kind, options.runs):
            found.append(s)
            sizes = f"{s.buffer_bytes / 1024:>9,.1f} {s.session_bytes / 1024:>11,.1f} {s.resident / 2**20:>8,.1f}"
            print(f"{s.runs:>8,} {s.buffers:>8,} {sizes}", flush=True)
        grown = growth(found)
        leaks = leaks or bool(grown)
        print(f"  {'GREW: ' + '; '.join(grown) if grown else 'flat'}\n")
    return int(leaks)
