"""A small model answers while the large one is still on its way to the GPU.

    load(small)                 ready at once
    load(large, stream=True)    returns at once; another thread uploads the weights shard by shard
    answer                      by the large model as soon as it is ready, by the small one until then

Upload and answers share one queue. The upload waits for the device after every other shard, so that few of them are on
their way at a time, and answers come in between.

    ./dev run python examples/progressive.py
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import gpucompile


@dataclass(frozen=True)
class Answer:
    """What a model said, which one, and how many seconds after the start."""

    model: str
    y: np.ndarray
    seconds: float


def network(size: int, hidden: int, layers: int) -> onnx.ModelProto:
    """A multilayer perceptron [1, size] -> [1, size] with weights as if trained."""
    rng = np.random.default_rng(layers)
    widths = [size, *[hidden] * (layers - 1), size]
    nodes, weights = [], []
    for i, shape in enumerate(itertools.pairwise(widths)):
        w = rng.standard_normal(shape, np.float32) / np.float32(shape[0] ** 0.5)
        weights.append(numpy_helper.from_array(w, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [f"h{i}" if i else "x", f"w{i}"], [f"m{i}"]))
        nodes.append(helper.make_node("Tanh", [f"m{i}"], [f"h{i + 1}" if i < layers - 1 else "y"]))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "network", ports[:1], ports[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def answers(
    small: gpucompile.Executable, large: gpucompile.Executable, questions: Iterable[np.ndarray]
) -> Iterator[Answer]:
    """An answer to each question by the best model that is ready."""
    start = time.perf_counter()
    for x in questions:
        name, model = ("large", large) if large.ready else ("small", small)
        yield Answer(name, model(x), time.perf_counter() - start)


def questions(large: gpucompile.Executable, size: int, after: int) -> Iterator[np.ndarray]:
    """Users do not stop asking: until the large model is ready, and some more."""
    rng = np.random.default_rng(1)
    while True:
        yield rng.standard_normal((1, size), np.float32)
        if large.wait_ready(0):
            after -= 1
            if after < 0:
                return


def run(size: int = 256, hidden: int = 4096, after: int = 3) -> tuple[list[Answer], list[tuple[int, int]]]:
    """All answers, and the bytes that were uploaded with their total, after every shard."""
    uploads: list[tuple[int, int]] = []

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "weights":
            uploads.append((done, total))

    with tempfile.TemporaryDirectory() as folder:
        files = {"small": Path(folder, "small.gpub"), "large": Path(folder, "large.gpub")}
        gpucompile.compile(network(size, size, 1)).save(files["small"])
        gpucompile.compile(network(size, hidden, 4)).save(files["large"])
        with (
            gpucompile.load(files["small"]) as small,
            gpucompile.load(files["large"], small.device, progress, stream=True) as large,
        ):
            return list(answers(small, large, questions(large, size, after))), uploads


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="elements of questions and answers")
    parser.add_argument("--hidden", type=int, default=4096, help="width of the large model")
    options = parser.parse_args(arguments)
    found, uploads = run(options.size, options.hidden)
    for name in ("small", "large"):
        mine = [a for a in found if a.model == name]
        span = f", {mine[0].seconds * 1e3:.0f} to {mine[-1].seconds * 1e3:.0f} ms after the start" if mine else ""
        print(f"{name}: {len(mine)} answers{span}")
    print(f"uploaded {uploads[-1][1] / 2**20:.1f} MB in {len(uploads)} shards")
    return 0


if __name__ == "__main__":
    sys.exit(main())
