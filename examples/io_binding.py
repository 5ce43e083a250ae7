"""Tensors of an InferenceSession that stay on the GPU: a GPU buffer in, a pre-allocated one out, outputs kept there.

./dev run python examples/io_binding.py
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import numpy as np
import wgpu
from onnx import parser

import gpucompile

MODEL = """
<ir_version: 9, opset_import: ["": 18]>
sharpen (float[1, 3, 64, 64] image) => (float[1, 3, 64, 64] edges, float[1, 3] means)
<int64[2] axes = {2, 3}>
{
    blurred = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(image)
    edges = Sub(image, blurred)
    means = ReduceMean<keepdims = 0>(image, axes)
}
"""


def run(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The edges, the edges of the edges, and the means of an image."""
    options = {"preferredOutputLocation": {"edges": "gpu-buffer", "means": "cpu"}}
    with gpucompile.InferenceSession(parser.parse_model(MODEL), options, providers=["webgpu"]) as session:
        # an input in a buffer of one's own: the session works on it, and never frees it
        usage = wgpu.BufferUsage.STORAGE | wgpu.BufferUsage.COPY_SRC | wgpu.BufferUsage.COPY_DST
        buffer = session.device.handle.create_buffer(size=image.nbytes, usage=usage)
        session.device.handle.queue.write_buffer(buffer, 0, image)
        tensor = gpucompile.Tensor.from_gpu_buffer(buffer, dtype="float32", dims=image.shape)

        # an output that the session makes: it owns a buffer until it is disposed
        edges, means = session.run(None, {"image": tensor})

        # which is the next run's input, with a pre-allocated output: nothing is copied, nothing is waited for
        session.run(["edges"], {"image": edges}, fetches={"edges": tensor})
        twice = tensor.numpy()
        once = asyncio.run(edges.get_data(release=True))
        buffer.destroy()
        return once, twice, means


def main(arguments: Sequence[str] | None = None) -> int:
    image = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    once, twice, means = run(image)
    print(f"means {means.round(3).tolist()}; edges {once.std():.3f}, edges of edges {twice.std():.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
