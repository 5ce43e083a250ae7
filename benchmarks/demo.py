"""Compiles SqueezeNet, tells what happened on the way, runs it on the GPU, checks the result and shows the latency.

The network is the one that the `onnx` wheel ships, twice: as it is, against the output stored beside it, and with
random weights (`benchmarks.networks`), against onnxruntime or, where that is not installed, our own numpy interpreter.

    ./dev demo [--network NAME] [--seconds S] [-o FILE]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if not __package__:  # started by path
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.markup import escape  # noqa: E402
from rich.table import Table  # noqa: E402

import gpucompile  # noqa: E402
from benchmarks import networks  # noqa: E402

Array = np.ndarray[Any, Any]

TOLERANCE = 1e-4  # allowed: largest difference / largest value


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    console = Console(highlight=False)
    name = options.network
    output = options.output or ROOT / "build" / f"{name}.gpub"
    try:
        with gpucompile.Device.open() as device:
            kind = "in software" if device.is_software else device.adapter.info["backend_type"]
            console.print(f"Device: [bold]{escape(device.name)}[/] ({kind})\n")
            right = _shipped(console, name, device)
            right &= _random(console, name, device, output, options.seconds)
    except gpucompile.GpucompileError as e:
        console.print(f"[red]{escape(str(e))}[/]")
        return 2
    return 0 if right else 1


def _shipped(console: Console, name: str, device: gpucompile.Device) -> bool:
    """The wheel's own file against the wheel's own output."""
    console.print(f"[bold]1. {name} as the onnx wheel ships it[/] (opset 9, constant weights)")
    with console.status("compiling and running"):
        bundle = gpucompile.compile(networks.shipped(name))
        with gpucompile.load(bundle, device=device) as run:
            y = _only(run, networks.shipped_input(name))
    return _verdict(console, y, networks.stored_output(name), "the output stored in the wheel")


def _random(console: Console, name: str, device: gpucompile.Device, output: Path, seconds: float) -> bool:
    """Random weights: the story of the compile, the bundle, the check, the latency."""
    console.print(f"\n[bold]2. {name} with random weights[/] (opset {networks.OPSET})")
    with console.status("making the weights"):
        model = networks.cached(name)
    with console.status("compiling"):
        bundle = gpucompile.compile(model)
    assert bundle.report is not None  # fresh from the compiler
    _story(console, bundle.report)

    output.parent.mkdir(parents=True, exist_ok=True)
    bundle.save(output)
    shown = output.relative_to(ROOT) if output.is_relative_to(ROOT) else output
    console.print(f"  wrote {escape(str(shown))}, {_size(_bytes_of(output))}: for Python and browsers")

    feeds = networks.random_input(name)
    start = time.perf_counter()
    with console.status("loading the bundle"):
        executable = gpucompile.load(output, device=device)
    with executable as run:
        loaded = time.perf_counter()
        y = _only(run, feeds)
        first = time.perf_counter() - loaded
        with console.status("computing the reference"):
            expected, source = _reference(name, model, feeds)
        right = _verdict(console, y, expected, source)
        with console.status("measuring"):
            times = _latency(lambda: run.run(feeds), seconds)
    median, best = _ms(statistics.median(times)), _ms(min(times))
    console.print(f"  load {_ms(loaded - start)}, first inference {_ms(first)}")
    console.print(f"  latency: median [bold]{median}[/], best {best} of {len(times)}, numpy array in, numpy array out")
    return right


def _story(console: Console, report: gpucompile.Report) -> None:
    bound = ""
    if report.scratch_bound_bytes:
        bound = f" ({report.scratch_bytes / report.scratch_bound_bytes:.3f} x the largest sum of live bytes)"
    console.print(f"  {report.nodes_before} nodes -> passes -> {report.nodes_after} nodes -> {report.kernels} kernels")
    console.print(f"  {_size(report.weight_bytes)} of weights, {_size(report.scratch_bytes)} of scratch{bound}")
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 1))
    table.add_column(width=12)
    table.add_column(justify="right", width=10)
    table.add_column()
    total = sum(report.phases.values())
    for phase, seconds in report.phases.items():
        table.add_row(f"    {phase}", _ms(seconds), "▇" * round(30 * seconds / total) if total else "")
    table.add_row("    total", f"[bold]{_ms(total)}[/]", "")
    console.print(table)


def _only(run: gpucompile.Executable, feeds: dict[str, Array]) -> Array:
    (y,) = run.run(feeds).values()
    return y


def _reference(name: str, model: Path, feeds: dict[str, Array]) -> tuple[Array, str]:
    """What the network should return, and who says so."""
    try:
        return networks.expected(name), "onnxruntime on the CPU"
    except ImportError:
        from gpucompile.frontends.onnx.importer import import_model
        from gpucompile.ir.interpret import interpret

        (y,) = interpret(import_model(model), feeds).values()
        return y, "the numpy interpreter"


def _verdict(console: Console, y: Array, expected: Array, source: str) -> bool:
    if y.shape != expected.shape:
        console.print(f"  [red]WRONG: shape {list(y.shape)}, {source} has {list(expected.shape)}[/]")
        return False
    difference = np.abs(y.astype(np.float64) - expected).max()
    error = float(difference / np.abs(expected).max()) if np.isfinite(y).all() else float("inf")
    right = error <= TOLERANCE
    verdict = "[green]matches[/]" if right else "[red]DIFFERS FROM[/]"
    console.print(f"  {verdict} {source}: error {error:.1e} of the largest value")
    return right


def _latency(run: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of single runs without a pause, at least 5; the first tenth of the time only warms up."""
    start = time.perf_counter()
    while time.perf_counter() < start + 0.1 * seconds:
        run()
    times: list[float] = []
    while len(times) < 5 or time.perf_counter() < start + seconds:
        before = time.perf_counter()
        run()
        times.append(time.perf_counter() - before)
    return times


def _ms(seconds: float) -> str:
    ms = seconds * 1e3
    return f"{ms:.0f} ms" if ms >= 100 else f"{ms:.1f} ms" if ms >= 10 else f"{ms:.2f} ms"


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB"


def _bytes_of(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./dev demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=networks.NAMES, default="squeezenet", help="default: squeezenet")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="how long the latency is measured (3)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the bundle; default: build/NETWORK.gpub")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
