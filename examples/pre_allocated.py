"""Predictions that allocate nothing: one input tensor and one output tensor, written and read again and again.

./dev run python examples/pre_allocated.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from gpucompile.webnn import ML, MLContext, MLGraph, MLGraphBuilder


class Predictor:
    """A graph with its tensors."""

    def __init__(self, context: MLContext, graph: MLGraph) -> None:
        self.context, self.graph = context, graph
        self.input = context.create_tensor(graph.inputs["input"], writable=True)
        self.output = context.create_tensor(graph.outputs["output"], readable=True)

    def predict(self, data: np.ndarray) -> np.ndarray:
        self.context.write_tensor(self.input, data)
        self.context.dispatch(self.graph, {"input": self.input}, {"output": self.output})
        return np.asarray(self.context.read_tensor(self.output))

    def destroy(self) -> None:
        self.input.destroy()
        self.output.destroy()


def classifier(context: MLContext, features: int, classes: int) -> MLGraph:
    """A dense layer and a softmax."""
    builder, rng = MLGraphBuilder(context), np.random.default_rng(0)
    x = builder.input("input", "float32", [1, features])
    weights = rng.standard_normal((features, classes)).astype(np.float32) / features**0.5
    return builder.build({"output": builder.softmax(builder.matmul(x, builder.constant(weights)), 1)})


def run(count: int, features: int = 64, classes: int = 10) -> list[np.ndarray]:
    """The scores of seeded inputs."""
    rng = np.random.default_rng(1)
    with ML().create_context() as context:
        predictor = Predictor(context, classifier(context, features, classes))
        out = [predictor.predict(rng.standard_normal((1, features)).astype(np.float32)) for _ in range(count)]
        predictor.destroy()
        return out


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10, help="predictions")
    for i, scores in enumerate(run(parser.parse_args(arguments).count)):
        print(f"input {i}: class {scores.argmax()} with {scores.max():.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
