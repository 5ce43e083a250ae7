"""What all workers share: the command line, the order of measurements, the line of JSON.

    create   model file -> something that runs, weights on the device, pipelines made: all that precedes the first run
    first    the first inference
    warm     runs without a pause for some seconds, so that clocks and caches have settled
    times    single inferences, again without a pause

Each inference goes from a numpy array to a numpy array. Imports of packages come before all of it and are not counted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: The line of JSON starts with this; whatever else libraries print is ignored.
MARK = '{"engine":'


@dataclass
class Loaded:
    """A model ready to run.

    run       arrays by input name -> the first output
    notes     whatever else the report should say
    excluded  seconds of the loading that do not count
    inspect   called after all measurements; adds to the notes what costs time to find out
    """

    run: Callable[[dict[str, Array]], Array]
    notes: dict[str, Any] = field(default_factory=dict)
    excluded: float = 0.0
    inspect: Callable[[dict[str, Array]], dict[str, Any]] = lambda feeds: {}


def main(
    engine: str,
    version: str,
    load: Callable[[Path, argparse.Namespace], Loaded],
    options: Callable[[argparse.ArgumentParser], object] | None = None,
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse the command line, measure, print. `load` is timed as a whole; `options` may add an engine's own options."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.peers.{engine}", description=f"Measure {engine}.")
    parser.add_argument("model", type=Path, help="an ONNX file")
    parser.add_argument("input", type=Path, help="an .npz file with one array per input")
    parser.add_argument("--repeat", type=int, default=100, metavar="N", help="timed inferences (100)")
    parser.add_argument("--warm", type=float, default=0.5, metavar="S", help="seconds of runs before they start (0.5)")
    parser.add_argument(
        "--seconds", type=float, default=20.0, metavar="S", help="stop them after this (20), but not below 3"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the output of the last run here (.npy)")
    if options:
        options(parser)
    chosen = parser.parse_args(arguments)
    with np.load(chosen.input) as file:
        feeds = {key: file[key] for key in file.files}

    start = time.perf_counter()
    loaded = load(chosen.model, chosen)
    create = time.perf_counter() - start - loaded.excluded
    first, y = _timed(loaded.run, feeds)

    until = time.perf_counter() + chosen.warm
    warm_runs = 0
    while time.perf_counter() < until:
        loaded.run(feeds)
        warm_runs += 1

    times: list[float] = []
    began = time.time()
    until = time.perf_counter() + chosen.seconds
    while len(times) < chosen.repeat and (len(times) < 3 or time.perf_counter() < until):
        seconds, y = _timed(loaded.run, feeds)
        times.append(seconds)
    ended = time.time()

    if chosen.output:
        np.save(chosen.output, y)
    report = {
        "engine": engine,
        "version": version,
        "create": create * 1e3,
        "first": first * 1e3,
        "times": [t * 1e3 for t in times],
        "warm_runs": warm_runs,
        "timed": [began, ended],
        "output": str(chosen.output) if chosen.output else None,
        "notes": loaded.notes | loaded.inspect(feeds),
    }
    print(json.dumps(report), flush=True)
    return 0


def _timed(run: Callable[[dict[str, Array]], Array], feeds: dict[str, Array]) -> tuple[float, Array]:
    start = time.perf_counter()
    y = run(feeds)
    return time.perf_counter() - start, y


def unusable(message: str) -> int:
    """Say why the engine cannot run here; exit code 3 tells the parent that it is no crash."""
    print(message, file=sys.stderr)
    return 3
