"""Three compiled graphs in a row, over tensors that stay on the GPU.

    frames (uint8, NHWC) -> prepare -> features -> classify -> scores

Each stage is a graph of its own, as if it came from another team or another model file: image preparation, a small
convolutional network, a classifier with a softmax. What one writes, the next reads; only the scores come back.

    ./dev run python examples/pipeline.py
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np

from gpucompile.webnn import ML, MLContext, MLGraph, MLGraphBuilder, MLOperand

CLASSES, CHANNELS = 10, 16


def prepare(context: MLContext, batch: int, side: int) -> MLGraph:
    """uint8 frames in NHWC -> float32 in NCHW between -1 and 1, at half the size."""
    builder = MLGraphBuilder(context)
    frames = builder.input("frames", "uint8", [batch, side, side, 3])
    x = builder.linear(builder.cast(frames, "float32"), alpha=2 / 255, beta=-1)
    x = builder.transpose(x, permutation=[0, 3, 1, 2])
    return builder.build({"image": builder.average_pool2d(x, window_dimensions=[2, 2], strides=[2, 2])})


def features(context: MLContext, batch: int, side: int, rng: np.random.Generator) -> MLGraph:
    """Two convolutions and a mean over the image: [batch, 3, side, side] -> [batch, CHANNELS]."""
    builder = MLGraphBuilder(context)
    x = builder.input("image", "float32", [batch, 3, side, side])
    x = conv(builder, x, rng, CHANNELS)
    x = builder.max_pool2d(x, window_dimensions=[2, 2], strides=[2, 2])
    x = conv(builder, x, rng, CHANNELS)
    return builder.build({"features": builder.reduce_mean(x, axes=[2, 3])})


def conv(builder: MLGraphBuilder, x: MLOperand, rng: np.random.Generator, channels: int) -> MLOperand:
    weights = rng.standard_normal((channels, x.shape[1], 3, 3)).astype(np.float32) / (3 * x.shape[1] ** 0.5)
    bias = builder.constant(np.zeros(channels, np.float32))
    return builder.relu(builder.conv2d(x, builder.constant(weights), bias=bias, padding=[1, 1, 1, 1]))


def classify(context: MLContext, batch: int, rng: np.random.Generator) -> MLGraph:
    """A dense layer and a softmax: [batch, CHANNELS] -> [batch, CLASSES]."""
    builder = MLGraphBuilder(context)
    x = builder.input("features", "float32", [batch, CHANNELS])
    weights = builder.constant(rng.standard_normal((CHANNELS, CLASSES)).astype(np.float32))
    return builder.build({"scores": builder.softmax(builder.gemm(x, weights), 1)})


def run(batch: int = 4, side: int = 64, repeat: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray, float]:
    """The scores of seeded frames, those of the same stages with arrays in between, and milliseconds per batch."""
    rng = np.random.default_rng(seed)
    with ML().create_context() as context:
        stages = [
            prepare(context, batch, side),
            features(context, batch, side // 2, rng),
            classify(context, batch, rng),
        ]
        data = rng.integers(0, 256, (batch, side, side, 3), np.uint8)

        # one tensor at every joint; what the first stage reads can be written, what the last one writes can be read
        frames = context.create_tensor("uint8", data.shape, writable=True)
        image = context.create_tensor(stages[0].outputs["image"])
        vector = context.create_tensor(stages[1].outputs["features"])
        scores = context.create_tensor(stages[2].outputs["scores"], readable=True)

        def once() -> np.ndarray:
            context.write_tensor(frames, data)
            context.dispatch(stages[0], {"frames": frames}, {"image": image})
            context.dispatch(stages[1], {"image": image}, {"features": vector})
            context.dispatch(stages[2], {"features": vector}, {"scores": scores})
            return np.asarray(context.read_tensor(scores))

        result = once()
        start = time.perf_counter()
        for _ in range(repeat):
            once()
        milliseconds = (time.perf_counter() - start) / max(1, repeat) * 1e3

        stepwise = {"frames": data}
        for stage in stages:
            stepwise = context.compute(stage, stepwise)
        return result, stepwise["scores"], milliseconds


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, default=64, help="height and width of the frames, a multiple of 4")
    parser.add_argument("--repeat", type=int, default=20)
    options = parser.parse_args(arguments)
    scores, stepwise, milliseconds = run(options.batch, options.side, options.repeat)
    for i, row in enumerate(scores):
        print(f"frame {i}: class {row.argmax()} with {row.max():.3f}")
    print(f"{milliseconds:.2f} ms a batch of {options.batch}; arrays in between differ by", end=" ")
    print(f"{np.abs(scores - stepwise).max():.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
