"""How long compiling takes and how it grows: the nine networks phase by phase, then generated graphs of growing size.

    chain   every node reads the one before it
    dag     nodes read recent values, at times an old one; what nobody reads is added up at the end

Both mix Relu, Add, Mul, 1x1 Conv and Concat on small float32 tensors, seeded. Where time per node stays level from one
size to the next (column `growth`: 1.0 is linear), time is linear in the graph; so for memory. Each compile has a
process of its own, for the portable target, without tuning; reading the file counts, importing packages does not.

    python -m benchmarks.compile_time
    python -m benchmarks.compile_time --networks resnet50 --nodes ''         only resnet50
    python -m benchmarks.compile_time --networks '' --nodes 1000,4000        only generated graphs
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import networks

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("chain", "dag")
CHANNELS, SIDE = 8, 8  # every value is float32 [1, CHANNELS, SIDE, SIDE], after a Concat with twice the channels
MARK = '{"seconds":'


# ---- generated graphs --------------------------------------------------------------------------------------------


def generate(kind: str, nodes: int, seed: int = 0) -> onnx.ModelProto:
    """A seeded graph of exactly `nodes` nodes, float32 [1, 8, 8, 8] in and out; `kind` is one of KINDS."""
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(KINDS)}")
    maker = _Maker(np.random.default_rng(seed))
    loose = {"x": None}  # values nobody reads yet, in order of creation
    values = ["x"]
    while len(maker.nodes) + (len(loose) - 1) < nodes - 3:  # room for the largest step and for adding up
        first = values[-1] if kind == "chain" else maker.pick(values)
        second = first if kind == "chain" else maker.pick(values)
        result = maker.step(first, second)
        for value in maker.read:
            loose.pop(value, None)
        loose[result] = None
        values.append(result)
    ends = list(loose)
    while len(ends) > 1:
        ends.append(maker.node("Add", [ends.pop(0), ends.pop(0)]))
    while len(maker.nodes) < nodes:
        ends[0] = maker.node("Relu", [ends[0]])
    return maker.model(ends[0], f"{kind} of {nodes} nodes, seed {seed}")


class _Maker:
    """Collects nodes and weights."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.read: set[str] = set()

    def pick(self, values: list[str]) -> str:
        """One of the last 16 values, or, one time in ten, any."""
        low = 0 if self.rng.random() < 0.1 else max(0, len(values) - 16)
        return values[int(self.rng.integers(low, len(values)))]

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{op}_{output}", **attributes))
        return output

    def weight(self, *shape: int, low: float, high: float) -> str:
        name = f"w{len(self.weights)}"
        value = self.rng.uniform(low, high, shape).astype(np.float32)
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def step(self, first: str, second: str) -> str:
        """One or two nodes that make a value of CHANNELS channels from one or both of two such values; `read` is then
        the set of those it took."""
        choice = self.rng.choice(["Relu", "Add", "Mul", "Conv", "Concat"], p=[0.2, 0.3, 0.25, 0.15, 0.1])
        self.read = {first, second} if choice in ("Add", "Concat") else {first}
        if choice == "Relu":
            return self.node("Relu", [first])
        if choice == "Add":
            other = second if second != first else self.weight(1, CHANNELS, 1, 1, low=-0.5, high=0.5)
            return self.node("Add", [first, other])
        if choice == "Mul":  # below 1, as every Add of two values makes them larger
            return self.node("Mul", [first, self.weight(1, CHANNELS, 1, 1, low=0.3, high=0.7)])
        if choice == "Conv":
            return self.conv(first, CHANNELS)
        return self.conv(self.node("Concat", [first, second], axis=1), 2 * CHANNELS)

    def conv(self, value: str, channels: int) -> str:
        limit = 1 / channels
        w = self.weight(CHANNELS, channels, 1, 1, low=-limit, high=limit)
        return self.node("Conv", [value, w], kernel_shape=[1, 1])

    def model(self, output: str, name: str) -> onnx.ModelProto:
        shape = [1, CHANNELS, SIDE, SIDE]
        x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n in ("x", output))
        graph = helper.make_graph(self.nodes, name, [x], [y], self.weights)
        opset = helper.make_opsetid("", networks.OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=networks.IR_VERSION)


# ---- one compile, in a process of its own ------------------------------------------------------------------------


def compile_one(model: Path) -> dict[str, Any]:
    """Compile here and now: seconds, phases, counts, and the growth of the process's peak memory in bytes."""
    import resource
    import time

    import gpucompile

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    bundle = gpucompile.compile(model, target=gpucompile.Target.portable())
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024
    report = bundle.report
    assert report is not None  # fresh from the compiler
    return {
        "seconds": seconds,
        "phases": dict(report.phases),
        "nodes_before": report.nodes_before,
        "nodes_after": report.nodes_after,
        "kernels": report.kernels,
        "scratch_bytes": report.scratch_bytes,
        "scratch_bound_bytes": report.scratch_bound_bytes,
        "peak_bytes": peak * unit,
        "added_bytes": (peak - before) * unit,
    }


def _apart(model: Path, timeout: float) -> dict[str, Any]:
    """`compile_one` in a new process; {"problem": text} where that fails."""
    command = [sys.executable, "-m", "benchmarks.compile_time", "--one", str(model)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"problem": f"not done after {timeout:.0f} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not lines:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
        return {"problem": said[-1]}
    result: dict[str, Any] = json.loads(lines[-1])
    return result


# ---- tables ------------------------------------------------------------------------------------------------------


def networks_table(results: dict[str, dict[str, Any]]) -> Table:
    """One row per network: counts, seconds per phase, total."""
    phases = list(dict.fromkeys(p for r in results.values() for p in r.get("phases", {})))
    table = _table("network", "nodes", "after", "kernels", "scratch MB", "/ bound", *phases, "total s", "peak MB")
    for name, r in results.items():
        if "problem" in r:
            table.add_row(name, "failed", style="red")
            continue
        bound = f"{r['scratch_bytes'] / r['scratch_bound_bytes']:.3f}" if r["scratch_bound_bytes"] else ""
        counts = [
            str(r["nodes_before"]),
            str(r["nodes_after"]),
            str(r["kernels"]),
            f"{r['scratch_bytes'] / 1e6:.2f}",
            bound,
        ]
        seconds = [f"{r['phases'][p]:.3f}" if p in r["phases"] else "" for p in phases]
        table.add_row(name, *counts, *seconds, f"{r['seconds']:.3f}", f"{r['peak_bytes'] / 1e6:.0f}")
    return table


def graphs_table(results: dict[tuple[str, int], dict[str, Any]]) -> Table:
    """One row per generated graph; `growth` compares time per node with the next smaller graph of its kind."""
    table = _table("graph", "nodes", "kernels", "seconds", "us/node", "growth", "added MB", "KB/node", "slowest phase")
    previous: dict[str, float] = {}
    for (kind, nodes), r in results.items():
        if "problem" in r:
            table.add_row(kind, str(nodes), "failed", style="red")
            continue
        each = r["seconds"] / nodes
        growth = f"{each / previous[kind]:.2f}" if kind in previous else ""
        previous[kind] = each
        slowest = max(r["phases"].items(), key=lambda p: p[1], default=("", 0.0))
        added = r["added_bytes"]
        table.add_row(
            kind, str(nodes), str(r["kernels"]), f"{r['seconds']:.2f}", f"{each * 1e6:.0f}", growth,
            f"{added / 1e6:.0f}", f"{added / nodes / 1e3:.1f}", f"{slowest[0]} {slowest[1]:.2f} s",
        )  # fmt: skip
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i == 0 or name == "slowest phase" else "right")
    return table


# ---- command line ------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.compile_time",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--networks", default=",".join(networks.NAMES), metavar="A,B", help="default: all nine; '' for none")
    p.add_argument("--nodes", default="1000,4000,16000", metavar="N,M", help="sizes of generated graphs; '' for none")
    p.add_argument("--kinds", default=",".join(KINDS), metavar="A,B", help="chain,dag")
    p.add_argument("--seed", type=int, default=0, help="of the generated graphs (0)")
    p.add_argument("--timeout", type=float, default=600.0, metavar="S", help="per compile (600)")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write everything here")
    p.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = p.parse_args(arguments)
    if options.one:
        print(json.dumps(compile_one(options.one)), flush=True)
        return 0
    names = [n for n in options.networks.split(",") if n]
    kinds = [k for k in options.kinds.split(",") if k]
    for given, known in ((names, networks.NAMES), (kinds, KINDS)):
        for name in given:
            if name not in known:
                p.error(f"{name!r} is unknown; known: {', '.join(known)}")
    try:
        sizes = [int(n) for n in options.nodes.split(",") if n]
    except ValueError:
        p.error(f"--nodes: {options.nodes!r} is no list of whole numbers")

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    progress = Console(stderr=True)
    by_name: dict[str, dict[str, Any]] = {}
    by_graph: dict[tuple[str, int], dict[str, Any]] = {}
    for name in names:
        with progress.status(f"compiling {name}"):
            by_name[name] = _apart(networks.cached(name), options.timeout)
    if by_name:
        console.print(networks_table(by_name))
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds if sizes else ():
            for nodes in sizes:
                path = Path(folder) / f"{kind}-{nodes}.onnx"
                with progress.status(f"compiling a {kind} of {nodes} nodes"):
                    onnx.save(generate(kind, nodes, options.seed), path)
                    by_graph[kind, nodes] = _apart(path, options.timeout)
    if by_name and by_graph:
        console.print()
    if by_graph:
        console.print(graphs_table(by_graph))
    problems = {name: r["problem"] for name, r in by_name.items() if "problem" in r}
    problems |= {f"{kind} of {nodes}": r["problem"] for (kind, nodes), r in by_graph.items() if "problem" in r}
    for what, problem in problems.items():
        console.print(escape(f"{what}: {problem}"), style="red", soft_wrap=True)
    if options.json:
        graphs = [{"kind": k, "nodes": n, **r} for (k, n), r in by_graph.items()]
        options.json.write_text(json.dumps({"networks": by_name, "graphs": graphs}, indent=1) + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
