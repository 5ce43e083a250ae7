"""This project: compile, load and run in one process. `create` holds the whole compile."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import gpucompile
from benchmarks.peers import worker


def load(model: Path, chosen: argparse.Namespace) -> worker.Loaded:
    start = time.perf_counter()
    device = gpucompile.Device.open()
    target = gpucompile.Target.of(device.adapter) if chosen.target == "native" else gpucompile.Target.portable()
    opened = time.perf_counter()
    bundle = gpucompile.compile(model, target=target)
    compiled = time.perf_counter()
    executable = gpucompile.load(bundle, device=device)
    loaded = time.perf_counter()
    report = bundle.report
    assert report is not None  # fresh from the compiler
    notes = {
        "device": device.name,
        "target": chosen.target,
        "kernels": report.kernels,
        "scratch_bytes": report.scratch_bytes,
        "device_ms": (opened - start) * 1e3,
        "compile_ms": (compiled - opened) * 1e3,
        "load_ms": (loaded - compiled) * 1e3,
    }

    return worker.Loaded(lambda feeds: next(iter(executable.run(feeds).values())), notes)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target", choices=("native", "portable"), default="native", help="the adapter's own limits, or all"
    )


if __name__ == "__main__":
    sys.exit(worker.main("gpucompile", gpucompile.__version__, load, options))
