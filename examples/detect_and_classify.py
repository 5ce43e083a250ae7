"""Two models in a row: one finds the brightest places of an image, the other one classifies the crop of each.

./dev run python examples/detect_and_classify.py
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from onnx import parser

import gpucompile
from gpucompile.webnn import ML

CELL = 8  # rows and columns of a crop
DETECT = """
<ir_version: 9, opset_import: ["": 18]>
detect (float[1, 1, 32, 32] image) => (float[1, 3] scores, int64[1, 3] cells)
<int64[2] flat = {1, -1}, int64[1] three = {3}>
{
    brightest = MaxPool<kernel_shape = [8, 8], strides = [8, 8]>(image)
    row = Reshape(brightest, flat)
    scores, cells = TopK<axis = 1>(row, three)
}
"""
CLASSIFY = """
<ir_version: 9, opset_import: ["": 18]>
classify (float[crops, 1, 8, 8] crop) => (float[crops, 1] filled)
<int64[2] axes = {2, 3}>
{
    filled = ReduceMean<keepdims = 0>(crop, axes)
}
"""


def run(image: np.ndarray) -> list[tuple[tuple[int, int], str]]:
    """Place and label of the three brightest cells of an image [1, 1, 32, 32]."""
    with ML().create_context() as context:
        provider = [{"name": "webnn", "context": context}]  # one context: both work on one device, in order
        with (
            gpucompile.InferenceSession(parser.parse_model(DETECT), providers=provider) as detector,
            gpucompile.InferenceSession(parser.parse_model(CLASSIFY), providers=provider) as classifier,
        ):
            (cells,) = detector.run(["cells"], {"image": image})
            places = [(CELL * row, CELL * column) for row, column in (divmod(int(c), 32 // CELL) for c in cells[0])]
            crops = np.concatenate([image[:, :, y : y + CELL, x : x + CELL] for y, x in places])
            (filled,) = classifier.run(None, {"crop": crops})
            return [(p, "area" if f > 0.5 else "spot") for p, f in zip(places, filled[:, 0], strict=True)]


def scene() -> np.ndarray:
    """Dark, with a spot, an area, and another spot, each dimmer than the one before."""
    image = np.zeros((1, 1, 32, 32), np.float32)
    image[0, 0, 3, 4] = 3
    image[0, 0, 8:16, 16:24] = 2
    image[0, 0, 30, 30] = 1
    return image


def main(arguments: Sequence[str] | None = None) -> int:
    for (y, x), label in run(scene()):
        print(f"row {y:2}, column {x:2}: {label}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
