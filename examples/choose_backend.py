"""Which of CPU, GPU and NPU runs a graph fastest: all are tried, those that are not here say why.

./dev run python examples/choose_backend.py
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

import gpucompile
from gpucompile.webnn import ML, MLContext, MLGraph, MLGraphBuilder


def dense(context: MLContext, size: int) -> MLGraph:
    """Three dense layers on [size, size]."""
    builder, rng = MLGraphBuilder(context), np.random.default_rng(0)
    y = builder.input("input", "float32", [size, size])
    for _ in range(3):
        weights = rng.standard_normal((size, size)).astype(np.float32) / size**0.5
        y = builder.relu(builder.matmul(y, builder.constant(weights)))
    return builder.build({"output": y})


def benchmark(size: int, runs: int) -> dict[str, dict[str, Any]]:
    """Mean, 95th percentile and minimum in milliseconds by device, or the error."""
    results: dict[str, dict[str, Any]] = {}
    x = np.ones((size, size), np.float32)
    for device in ("cpu", "gpu", "npu"):
        try:
            with ML().create_context(device) as context:
                graph = dense(context, size)
                context.compute(graph, {"input": x})  # warm
                times = []
                for _ in range(runs):
                    start = time.perf_counter()
                    context.compute(graph, {"input": x})
                    times.append((time.perf_counter() - start) * 1e3)
        except gpucompile.GpucompileError as e:
            results[device] = {"error": str(e)}
        else:
            p95 = sorted(times)[max(0, round(0.95 * runs) - 1)]
            results[device] = {"mean": statistics.fmean(times), "p95": p95, "min": min(times)}
    return results


def best(results: dict[str, dict[str, Any]]) -> str:
    """The device with the lowest mean."""
    return min((d for d, r in results.items() if "error" not in r), key=lambda d: results[d]["mean"])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--runs", type=int, default=50)
    options = parser.parse_args(arguments)
    results = benchmark(options.size, options.runs)
    for device, r in results.items():
        text = r.get("error") or f"mean {r['mean']:.2f} ms, p95 {r['p95']:.2f} ms, min {r['min']:.2f} ms"
        print(f"{device}: {text}")
    print(f"fastest: {best(results)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
