"""The nine networks through OpenVINO's CPU device, next to the ONNX file in OpenVINO and in onnxruntime.

    ours     gpucompile.compile(devices=("cpu",)), gpucompile.load(device="cpu")
    direct   openvino.Core().compile_model of the ONNX file, with the same properties
    onnxrt   onnxruntime's CPU provider

All three take a numpy array and give one. They run in one process and take turns in rounds, so that a busy machine
slows all of them; the figures are medians over all rounds. `ratio` is ours / direct, the median of the rounds' ratios:
our passes must not make OpenVINO slower. `error` is relative to onnxruntime's largest value.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime
import openvino

import gpucompile
from benchmarks import networks

Array = np.ndarray[Any, Any]
Run = Callable[[], Array]


PAUSE = 0.1  # seconds before each turn


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks openvino", description=__doc__.split("\n")[0])
    parser.add_argument("--networks", default=",".join(networks.NAMES), help="comma separated (default: all nine)")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="turns of each engine (15)")
    parser.add_argument("--runs", type=int, default=10, metavar="N", help="inferences a turn, at most (10)")
    parser.add_argument("--seconds", type=float, default=0.5, metavar="S", help="and at most this long (0.5)")
    parser.add_argument("--threads", type=int, help="of all engines (default: as many as each takes)")
    chosen = parser.parse_args(arguments)
    print(
        "| network | ours ms | direct ms | onnxrt ms | ratio | our compile s | error |\n|---|---|---|---|---|---|---|"
    )
    ratios, failed = [], False
    for name in chosen.networks.split(","):
        row, ratio, error = _network(name, chosen)
        failed |= error > 1e-4
        ratios.append(ratio)
        print(row, flush=True)
    print(f"\ngeometric mean of the ratios: {statistics.geometric_mean(ratios):.3f}")
    return 1 if failed else 0


def _network(name: str, chosen: argparse.Namespace) -> tuple[str, float, float]:
    path, feeds = networks.cached(name), networks.random_input(name)
    options = gpucompile.OpenvinoOptions(threads=chosen.threads)
    start = time.perf_counter()
    bundle = gpucompile.compile(path, devices=("cpu",))
    exe = gpucompile.load(bundle, device="cpu", options=options)
    seconds = time.perf_counter() - start

    compiled = openvino.Core().compile_model(str(path), "CPU", options.properties("cpu"))
    request = compiled.create_infer_request()

    def direct() -> Array:
        request.infer(feeds, share_inputs=True)
        return np.array(request.get_output_tensor(0).data)

    settings = onnxruntime.SessionOptions()
    if chosen.threads:
        settings.intra_op_num_threads = chosen.threads
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    runs: dict[str, Run] = {
        "ours": lambda: next(iter(exe.run(feeds).values())),
        "direct": direct,
        "onnxrt": lambda: session.run(None, feeds)[0],
    }
    want, got = runs["onnxrt"](), runs["ours"]()
    direct()
    error = float(np.abs(got - want).max() / np.abs(want).max())
    turns: dict[str, list[float]] = {engine: [] for engine in runs}
    for i in range(chosen.rounds):
        for engine in sorted(runs, reverse=bool(i % 2)):
            turns[engine].append(_turn(runs[engine], chosen.runs, chosen.seconds))
    ours, theirs, ort = (1e3 * statistics.median(turns[e]) for e in ("ours", "direct", "onnxrt"))
    ratio = statistics.median(a / b for a, b in zip(turns["ours"], turns["direct"], strict=True))
    exe.close()
    row = f"| {name} | {ours:.2f} | {theirs:.2f} | {ort:.2f} | {ratio:.3f} | {seconds:.2f} | {error:.1e} |"
    return row, ratio, error


def _turn(run: Run, runs: int, limit: float) -> float:
    """The median of some inferences in a row, in seconds. After a pause, as onnxruntime's threads spin for a while
    after its last one, and one inference that does not count."""
    time.sleep(PAUSE)
    run()
    times: list[float] = []
    while len(times) < runs and sum(times) < limit:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
