"""Small graphs and tensors for the tests of `gpucompile.webnn`."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucompile.webnn import MLContext, MLGraph, MLGraphBuilder

F32 = np.float32


def example(context: MLContext) -> MLGraph:
    """The published example: (a + b) * (c + d) with constants a, c of 0.5 and inputs b, d."""
    builder = MLGraphBuilder(context)
    shape = [1, 2, 2, 2]
    half = np.full(shape, 0.5, F32)
    a, c = builder.constant(half), builder.constant(half.tobytes(), data_type="float32", shape=shape)
    b, d = (builder.input(name, data_type="float32", shape=shape) for name in ("b", "d"))
    return builder.build({"out": builder.mul(builder.add(a, b), builder.add(c, d))})


def increment(context: MLContext, by: float = 1.0, size: int = 3) -> MLGraph:
    """y = x + by."""
    builder = MLGraphBuilder(context)
    x = builder.input("x", "float32", [size])
    return builder.build({"y": builder.add(x, builder.constant(by, data_type="float32"))})


def tensors(context: MLContext, count: int, shape: tuple[int, ...] = (3,), dtype: str = "float32") -> list[Any]:
    """Readable and writable tensors of zeros."""
    return [context.create_tensor(dtype, shape, readable=True, writable=True) for _ in range(count)]
