"""4-bit elements: one in a byte for numpy (int8 or uint8), two in a byte on the device, the first in the lower half."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def pack_nibbles(array: Array) -> npt.NDArray[np.uint8]:
    """Elements in row-major order as bytes of two; of an odd number of them the last half byte is 0."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8) & 15
    even = np.concatenate((flat, np.zeros(flat.size % 2, np.uint8)))
    return np.asarray(even[0::2] | even[1::2] << 4, np.uint8)


def unpack_nibbles(packed: npt.NDArray[np.uint8], shape: tuple[int, ...], signed: bool) -> Array:
    """The inverse: an array of `shape`, int8 if `signed`, else uint8."""
    count = int(np.prod(shape, dtype=np.int64))
    flat = np.stack((packed & 15, packed >> 4), axis=1).reshape(-1)[:count].reshape(shape)
    return ((flat ^ 8).astype(np.int8) - np.int8(8)) if signed else flat.copy()
