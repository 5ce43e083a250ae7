"""A stream of inputs with two sets of tensors: while the GPU works on one, the next input is written into the other.

    naive    write, dispatch, read, and only then the next
    double   write and dispatch the next before the results of the one before are read

`dispatch` and `read_tensor_async` do not wait, so the GPU has work while the host produces and consumes data. How much
that gains depends on how long the host takes for an input next to the GPU; on a software adapter both are the same CPU.

    ./dev run python examples/stream.py
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucompile.webnn import ML, MLContext, MLGraph, MLGraphBuilder, MLTensor


@dataclass
class Slot:
    """One set of tensors."""

    x: MLTensor
    y: MLTensor


def network(context: MLContext, size: int, layers: int = 4) -> MLGraph:
    """Dense layers on [size, size]."""
    builder, rng = MLGraphBuilder(context), np.random.default_rng(0)
    y = builder.input("x", "float32", [size, size])
    for _ in range(layers):
        weights = rng.standard_normal((size, size)).astype(np.float32) / size**0.5
        y = builder.relu(builder.matmul(y, builder.constant(weights)))
    return builder.build({"y": y})


def inputs(size: int, count: int) -> Iterator[np.ndarray]:
    """What a camera or a decoder would deliver: takes the host a while."""
    rng = np.random.default_rng(1)
    for _ in range(count):
        yield rng.standard_normal((size, size), np.float32)


def digest(y: np.ndarray) -> float:
    """What the application does with a result."""
    return float(np.sqrt(np.square(y).mean()))


def naive(context: MLContext, graph: MLGraph, slot: Slot, data: Iterator[np.ndarray]) -> list[float]:
    out = []
    for x in data:
        context.write_tensor(slot.x, x)
        context.dispatch(graph, {"x": slot.x}, {"y": slot.y})
        out.append(digest(context.read_tensor(slot.y)))
    return out


async def double(context: MLContext, graph: MLGraph, slots: Sequence[Slot], data: Iterator[np.ndarray]) -> list[float]:
    out: list[float] = []
    pending: Any = None
    for i, x in enumerate(data):
        slot = slots[i % len(slots)]
        context.write_tensor(slot.x, x)
        context.dispatch(graph, {"x": slot.x}, {"y": slot.y})
        following = context.read_tensor_async(slot.y)  # of this moment; awaited one round later
        if pending is not None:
            out.append(digest(await pending))
        pending = following
    if pending is not None:
        out.append(digest(await pending))
    return out


def run(size: int = 256, count: int = 40) -> tuple[list[float], list[float], float, float]:
    """The results of both loops (they are the same), and the inputs per second of each."""
    with ML().create_context() as context:
        graph = network(context, size)
        slots = [
            Slot(
                context.create_tensor("float32", [size, size], writable=True),
                context.create_tensor("float32", [size, size], readable=True),
            )
            for _ in range(2)
        ]
        naive(context, graph, slots[0], inputs(size, 2))  # warm
        start = time.perf_counter()
        first = naive(context, graph, slots[0], inputs(size, count))
        middle = time.perf_counter()
        second = asyncio.run(double(context, graph, slots, inputs(size, count)))
        end = time.perf_counter()
        return first, second, count / (middle - start), count / (end - middle)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="rows and columns of the inputs")
    parser.add_argument("--count", type=int, default=40, help="inputs")
    options = parser.parse_args(arguments)
    first, second, slow, fast = run(options.size, options.count)
    same = "the same" if first == second else "DIFFERENT"
    print(f"{options.count} inputs of [{options.size}, {options.size}], {same} results")
    print(f"  naive   {slow:8.1f} inputs/s")
    print(f"  double  {fast:8.1f} inputs/s ({fast / slow:.2f} x)")
    return 0 if first == second else 1


if __name__ == "__main__":
    sys.exit(main())
