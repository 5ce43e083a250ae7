"""Compiles a model, runs it on the adapter and compares it with onnxruntime's CPU provider: one row of a table.

Errors are the largest difference over the largest value of an output; integers and booleans must be equal, where one
that is not counts as an error of infinity. Latency is the median of some runs from numpy to numpy.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import gpucompile
from gpucompile.frontends.onnx.importer import import_model

Array = np.ndarray[Any, Any]

HEAD = ("model", "nodes", "kernels", "compile s", "latency ms", "error", "tolerance", "remarks")


@dataclass(frozen=True)
class Row:
    """What was measured; `problem` says why there are no figures, or that they are wrong, `note` what else to know."""

    name: str
    nodes: int
    tolerance: float
    kernels: int = 0
    compile_seconds: float = math.nan
    latency: float = math.nan
    error: float = math.nan
    problem: str = ""
    note: str = ""

    @property
    def ok(self) -> bool:
        return not self.problem

    def cells(self) -> tuple[str, ...]:
        """The texts of the row, in the order of HEAD."""
        figures = (f"{self.compile_seconds:.2f}", f"{self.latency:.1f}", f"{self.error:.0e}", f"{self.tolerance:.0e}")
        shown = ["" if f == "nan" else f for f in figures]
        return (self.name, str(self.nodes), str(self.kernels or ""), *shown, self.problem or self.note)


def expected(model: str | Path | onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """What onnxruntime's CPU provider computes on one thread, by the outputs' names."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return dict(zip((o.name for o in session.get_outputs()), session.run(None, dict(feeds)), strict=True))


def difference(got: Mapping[str, Array], want: Mapping[str, Array]) -> float:
    """The largest error over all outputs, as the module's text defines it; outputs of other shapes raise ValueError."""
    if list(got) != list(want):
        raise ValueError(f"outputs {list(got)} instead of {list(want)}")
    worst = 0.0
    for name, w in want.items():
        g, w = got[name], w.astype(np.uint8) if w.dtype == np.bool_ else w
        if g.shape != w.shape or g.dtype != w.dtype:
            raise ValueError(f"output {name} is {g.dtype}{list(g.shape)} instead of {w.dtype}{list(w.shape)}")
        if w.dtype.kind != "f":
            error = 0.0 if np.array_equal(g, w) else math.inf
        elif not w.size:
            error = 0.0
        elif not np.isfinite(g).all() or not np.isfinite(w).all():
            error = 0.0 if np.array_equal(g, w, equal_nan=True) else math.inf
        else:
            error = float(np.abs(g.astype(np.float64) - w).max()) / max(float(np.abs(w).max()), 1e-30)
        worst = max(worst, error)
    return worst


def measure(
    name: str,
    model: str | Path | onnx.ModelProto,
    feeds: Mapping[str, Array],
    dims: Mapping[str, int],
    tolerance: float,
    device: gpucompile.Device | str,
    constants: Sequence[str] = (),
    repeat: int = 3,
    target: gpucompile.Target | None = None,
    fallback: bool = False,
    want: Callable[[Mapping[str, Array]], Mapping[str, Array]] | None = None,
) -> Row:
    """Compile `model` for `device` (or "cpu", through OpenVINO; or for `target`) with `dims` bound and the inputs
    `constants` fixed to their value in `feeds`; run and compare with onnxruntime, or with what `want` makes of the
    outputs. With `fallback`, nodes may run on a host, `constants` are inputs like others, and the row's note says how
    many do. What gpucompile refuses becomes a row with the reason; any other exception passes."""
    nodes = len(
        (model if isinstance(model, onnx.ModelProto) else onnx.load(model, load_external_data=False)).graph.node
    )
    if target is None and not isinstance(device, str):
        target = gpucompile.Target.of(device.adapter)
    bundle: gpucompile.Bundle | gpucompile.PartitionedBundle
    start = time.perf_counter()
    try:
        if fallback and isinstance(device, str):
            bundle = gpucompile.compile(model, None, dims, fallback="allow", devices=(device,), partition=True)
        elif fallback:
            bundle = gpucompile.compile(model, target, dims, fallback="allow")
        else:
            graph = import_model(model, dims, {c: feeds[c] for c in constants})
            bundle = gpucompile.compile(graph, target, devices=("gpu",) if target else (str(device),))
    except gpucompile.UnsupportedError as e:
        return Row(name, nodes, tolerance, problem=f"refused: {e}")
    seconds = time.perf_counter() - start
    given = {n: x for n, x in feeds.items() if fallback or n not in constants}
    times = []
    on = None if isinstance(bundle, gpucompile.PartitionedBundle) and isinstance(device, str) else device
    with gpucompile.load(bundle, device=on) as run:
        got = run.run(given)
        kernels = run.kernels
        for _ in range(repeat):
            start = time.perf_counter()
            run.run(given)
            times.append(time.perf_counter() - start)
    error = difference(got, want(got) if want else expected(model, feeds))
    problem = "" if error <= tolerance else "WRONG"
    latency = 1e3 * statistics.median(times) if times else math.nan
    note = f"{len(bundle.fallback)} nodes on the CPU" if isinstance(bundle, gpucompile.PartitionedBundle) else ""
    return Row(name, nodes, tolerance, kernels, seconds, latency, error, problem, note)


def print_table(names: Sequence[str], row_of: Callable[[str], Row]) -> list[Row]:
    """Measure and print one after the other, as a table in Markdown; returns the rows."""
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD), flush=True)
    rows = []
    for name in names:
        rows.append(row_of(name))
        print("| " + " | ".join(c.replace("\n", " ").replace("|", "\\|") for c in rows[-1].cells()) + " |", flush=True)
    return rows


def device_argument(parser: argparse.ArgumentParser) -> None:
    """The option `--device`."""
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="the CPU is OpenVINO's (gpu)")


@contextlib.contextmanager
def chosen(device: str) -> Iterator[gpucompile.Device | str]:
    """What `measure` takes for a choice of `--device`."""
    if device == "cpu":
        yield device
    else:
        with gpucompile.Device.open() as opened:
            yield opened
