"""Inputs of any size: a session compiles for a size when it first comes, `warm_up` does that before the loop starts.

./dev run python examples/dynamic_shapes.py
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import numpy as np
from onnx import parser

import gpucompile

MODEL = """
<ir_version: 9, opset_import: ["": 18]>
pooled (float[batch, 8, length] x) => (float[batch, 8] y)
<int64[1] axes = {2}>
{
    r = Relu(x)
    y = ReduceMean<keepdims = 0>(r, axes)
}
"""


def run(shapes: Sequence[tuple[int, int]], warm: Sequence[tuple[int, int]] = ()) -> list[tuple[np.ndarray, float]]:
    """Result and milliseconds for an input of ones of every (batch, length)."""
    with gpucompile.InferenceSession(parser.parse_model(MODEL)) as session:
        for batch, length in warm:
            session.warm_up({"batch": batch, "length": length})
        out = []
        for batch, length in shapes:
            start = time.perf_counter()
            (y,) = session.run(None, {"x": np.ones((batch, 8, length), np.float32)})
            out.append((y, (time.perf_counter() - start) * 1e3))
        return out


def main(arguments: Sequence[str] | None = None) -> int:
    shapes = [(1, 16), (1, 40), (2, 16), (1, 16), (1, 40)]
    for (batch, length), (y, milliseconds) in zip(shapes, run(shapes, warm=shapes[:1]), strict=True):
        print(f"batch {batch}, length {length}: {list(y.shape)} in {milliseconds:.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
