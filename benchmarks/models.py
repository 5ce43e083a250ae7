"""Nine networks, several engines, one table: create, first, average, median and best inference in milliseconds.

The figures are those of the published WebNN benchmark, with numpy arrays as input and output for every engine. The
models have random weights (`benchmarks.networks`), so that no engine can fold them away. For each network and engine a
process of its own (`benchmarks.peers`) warms up, measures and saves its output; this one compares the output with
onnxruntime's CPU provider and marks the row WRONG where the largest difference exceeds 1e-4 of the largest value. A
crash costs one row. Where there is nvidia-smi, the SM clock during the timed runs is read beside them.

    python -m benchmarks.models --ort-webgpu FOLDER       FOLDER: pip install --target FOLDER onnxruntime-webgpu
    python -m benchmarks.models --networks squeezenet,resnet50 --peers ort_cpu --markdown
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import networks
from benchmarks.peers import worker

ROOT = Path(__file__).resolve().parent.parent
OURS = "gpucompile"
PEERS = ("ort_webgpu", "ort_cpu", "ncnn")
TOLERANCE = 1e-4  # largest difference / largest value


@dataclass
class Row:
    """One engine on one network; times in milliseconds. `problem` is empty unless there is no figure or a wrong one."""

    network: str
    engine: str
    version: str = ""
    create: float = math.nan
    first: float = math.nan
    average: float = math.nan
    median: float = math.nan
    best: float = math.nan
    runs: int = 0
    mhz: float | None = None
    error: float | None = None
    problem: str = ""
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.problem


# ---- one row -----------------------------------------------------------------------------------------------------


def measure(network: str, engine: str, options: argparse.Namespace, folder: Path) -> Row:
    """Run the worker of `engine` on `network` and check what it returned."""
    row = Row(network, engine)
    feeds, output = folder / f"{network}.npz", folder / f"{network}-{engine}.npy"
    if not feeds.exists():
        np.savez(feeds, **networks.random_input(network))  # type: ignore[arg-type]
    command = [sys.executable, "-m", f"benchmarks.peers.{engine}", str(networks.cached(network)), str(feeds)]
    command += ["--output", str(output)]
    for name in ("repeat", "warm", "seconds"):
        command += [f"--{name}", str(getattr(options, name))]
    if engine == OURS:
        command += ["--target", options.target]

    with _clock() as clock:
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=_environment(engine, options),
                capture_output=True,
                text=True,
                timeout=options.timeout,
            )
        except subprocess.TimeoutExpired:
            row.problem = f"no result after {options.timeout:.0f} s"
            return row
    lines = [line for line in done.stdout.splitlines() if line.startswith(worker.MARK)]
    if done.returncode or not lines:
        row.problem = _reason(done)
        return row

    report = json.loads(lines[-1])
    times = report["times"]
    row.version, row.create, row.first, row.notes = (report[key] for key in ("version", "create", "first", "notes"))
    row.average, row.median, row.best, row.runs = (
        statistics.fmean(times),
        statistics.median(times),
        min(times),
        len(times),
    )
    row.mhz = clock(*report["timed"])
    row.error, row.problem = _compare(network, output)
    return row


def _environment(engine: str, options: argparse.Namespace) -> dict[str, str]:
    environment = dict(os.environ)
    folder = {"ort_webgpu": options.ort_webgpu, "ncnn": options.ncnn}.get(engine)
    if folder:
        paths = [str(Path(folder).resolve()), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(p for p in paths if p)
    return environment


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of what a failed worker said."""
    said = (done.stderr.strip() or done.stdout.strip() or "said nothing").splitlines()[-1].strip()
    if done.returncode < 0:
        return f"died of signal {-done.returncode}: {said}"
    return said if done.returncode else f"printed no result: {said}"


def _compare(network: str, output: Path) -> tuple[float | None, str]:
    """(largest difference / largest value, what is wrong with it)."""
    try:
        expected = networks.expected(network)
    except ImportError:
        return None, ""  # no onnxruntime here: the table shows no error
    y = np.load(output)
    if y.size != expected.size:
        return math.inf, f"WRONG: shape {list(y.shape)} instead of {list(expected.shape)}"
    difference = np.abs(y.reshape(-1).astype(np.float64) - expected.reshape(-1))
    error = float(difference.max() / np.abs(expected).max()) if np.isfinite(y).all() else math.inf
    return error, "" if error <= TOLERANCE else "WRONG"


@contextmanager
def _clock() -> Iterator[Any]:
    """Reads the SM clock of the first NVIDIA GPU beside the block; yields `median_mhz(from, to)` (None without one)."""
    program = shutil.which("nvidia-smi")
    if not program:
        yield lambda start, end: None
        return
    query = [program, "--query-gpu=clocks.sm", "--format=csv,noheader,nounits", "--id=0", "--loop-ms=100"]
    process = subprocess.Popen(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    samples: list[tuple[float, float]] = []

    def read() -> None:
        assert process.stdout
        for line in process.stdout:
            if line.strip().isdigit():
                samples.append((time.time(), float(line)))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()

    def median_mhz(start: float, end: float) -> float | None:
        inside = [mhz for when, mhz in samples if start - 0.1 <= when <= end + 0.1]
        return statistics.median(inside) if inside else None

    try:
        yield median_mhz
    finally:
        process.terminate()
        process.wait()
        reader.join(timeout=1)


# ---- the table ---------------------------------------------------------------------------------------------------

HEAD = ("network", "engine", "create", "first", "average", "median", "best", "runs", "MHz", "error", "remarks")


def cells(row: Row) -> tuple[str, ...]:
    """The texts of one row, in the order of HEAD."""
    times = ["" if math.isnan(t) else f"{t:.{0 if t >= 100 else 2}f}" for t in _times(row)]
    error = "" if row.error is None else f"{row.error:.0e}"
    mhz = "" if row.mhz is None else f"{row.mhz:.0f}"
    return (row.network, row.engine, *times, str(row.runs or ""), mhz, error, _remarks(row))


def _times(row: Row) -> tuple[float, ...]:
    return row.create, row.first, row.average, row.median, row.best


def _remarks(row: Row) -> str:
    parts = [row.problem] if row.problem else []
    if "cpu_nodes" in row.notes:
        ops = ", ".join(f"{op} {count}" for op, count in row.notes["cpu_ops"].items())
        left = f", {row.notes['cpu_nodes']} on the CPU: {ops}" if ops else ""
        parts.append(f"{row.notes['gpu_nodes']} nodes on the GPU{left}")
    if "kernels" in row.notes:
        parts.append(f"{row.notes['kernels']} kernels")
    return "; ".join(parts)


def speedups(rows: Sequence[Row], peer: str, right: bool = True) -> dict[str, float]:
    """Network -> median of `peer` / median of gpucompile, where both have a right result; with `right=False`, where the
    peer's result is wrong."""
    ours = {r.network: r.median for r in rows if r.engine == OURS and r.ok}
    theirs = {r.network: r.median for r in rows if r.engine == peer and r.ok == right and not math.isnan(r.median)}
    return {n: theirs[n] / m for n, m in ours.items() if n in theirs}


def summary(rows: Sequence[Row], engines: Sequence[str]) -> list[str]:
    """Speed-ups over each peer and their geometric mean, one line per peer. Wrong results of a peer are left out of the
    mean and named."""
    lines = []
    count = len({r.network for r in rows})
    for peer in engines:
        ratios, wrong = speedups(rows, peer), speedups(rows, peer, right=False)
        if peer == OURS or not ratios:
            continue
        mean = math.exp(statistics.fmean(math.log(r) for r in ratios.values()))
        line = f"{OURS} against {peer}, medians: {mean:.2f} x geometric mean over {len(ratios)} of {count} networks"
        line += f" ({_ratios(ratios)})"
        if wrong:
            line += f"; not in the mean, as its result is wrong: {_ratios(wrong)}"
        lines.append(line)
    return lines


def _ratios(ratios: dict[str, float]) -> str:
    return ", ".join(f"{network} {ratio:.2f}" for network, ratio in ratios.items())


def _print_table(console: Console, rows: Sequence[Row]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in HEAD:
        table.add_column(
            name, justify="left" if name in ("network", "engine", "remarks") else "right", no_wrap=name != "remarks"
        )
    for i, row in enumerate(rows):
        last = i + 1 == len(rows) or rows[i + 1].network != row.network
        table.add_row(*map(escape, cells(row)), style="" if row.ok else "red", end_section=last)
    console.print(table)


def _print_markdown(rows: Sequence[Row]) -> None:
    print("| " + " | ".join(HEAD) + " |")
    print("|" + "---|" * len(HEAD))
    for row in rows:
        print("| " + " | ".join(c.replace("|", "\\|") for c in cells(row)) + " |")


# ---- command line ------------------------------------------------------------------------------------------------


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.models", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ",".join(networks.NAMES)
    p.add_argument("--networks", default=names, metavar="A,B", help="default: all nine")
    p.add_argument(
        "--peers", metavar="A,B", help=f"of {','.join(PEERS)}; default: ort_cpu, and ort_webgpu with its folder"
    )
    p.add_argument("--ort-webgpu", metavar="FOLDER", help="where the package onnxruntime-webgpu is installed")
    p.add_argument(
        "--ncnn", metavar="FOLDER", help="where ncnn and pnnx are installed, unless Python finds them anyway"
    )
    p.add_argument("--target", choices=("native", "portable"), default="native", help="what gpucompile compiles for")
    p.add_argument("--repeat", type=int, default=100, metavar="N", help="timed inferences per row (100)")
    p.add_argument("--warm", type=float, default=0.5, metavar="S", help="seconds of inferences before them (0.5)")
    p.add_argument("--seconds", type=float, default=20.0, metavar="S", help="time limit of a row's timed part (20)")
    p.add_argument("--timeout", type=float, default=600.0, metavar="S", help="time limit of a row (600)")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write everything here")
    p.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    options = p.parse_args(arguments)
    options.networks = [n for n in options.networks.split(",") if n]
    default = ["ort_webgpu", "ort_cpu"] if options.ort_webgpu else ["ort_cpu"]
    options.peers = default if options.peers is None else [e for e in options.peers.split(",") if e]
    for given, known in ((options.networks, networks.NAMES), (options.peers, PEERS)):
        for name in given:
            if name not in known:
                p.error(f"{name!r} is unknown; known: {', '.join(known)}")
    if options.warm < 0.3:
        p.error("--warm: below 0.3 s the clocks of an idle card are measured, not the kernels")
    if options.repeat < 1:
        p.error("--repeat: at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    progress = Console(stderr=True, highlight=False)
    engines = [OURS, *options.peers]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for network in options.networks:
            networks.cached(network)
            for engine in engines:
                with progress.status(f"{network} on {engine} ({len(rows) + 1}/{len(options.networks) * len(engines)})"):
                    rows.append(measure(network, engine, options, Path(folder)))
                if not sys.stdout.isatty():
                    row = rows[-1]
                    progress.print(
                        escape(f"{network} {engine}: {row.problem or f'median {row.median:.3f} ms'}"), soft_wrap=True
                    )

    devices = sorted({f"{r.engine}: {r.notes['device']}" for r in rows if r.notes.get("device")})
    versions = sorted({f"{r.engine} {r.version}" for r in rows if r.version})
    about = {
        "command": "python -m benchmarks.models " + " ".join(sys.argv[1:] if arguments is None else arguments),
        "when": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "machine": f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} CPUs",
        "devices": devices,
        "versions": versions,
    }
    lines = [f"{key}: {', '.join(value) if isinstance(value, list) else value}" for key, value in about.items()]
    lines.append("milliseconds; error: largest difference from onnxruntime's CPU provider / largest value")
    if options.markdown:
        _print_markdown(rows)
        print("\n" + "\n".join(f"- {line}" for line in [*summary(rows, engines), *lines]))
    else:
        _print_table(console, rows)
        for line in ["", *summary(rows, engines), *lines]:
            console.print(escape(line), soft_wrap=True)
    if options.json:
        speed = {peer: speedups(rows, peer) for peer in options.peers}
        data = {**about, "rows": [_plain(asdict(r)) for r in rows], "speedups": speed}
        options.json.write_text(json.dumps(data, indent=1) + "\n")
    return 0 if all(r.ok for r in rows if r.engine == OURS) else 1


def _plain(value: Any) -> Any:
    """JSON knows no NaN or infinity: None."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
