"""Constant data in the text form: printing it, reading it, and the side table of large constants.

    array --print_literal--> dense | splat | base64 | ref      --read_literal--> array

See `gpucompile.ir.text` for the grammar.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gpucompile.ir.graph import Graph, Literal
from gpucompile.ir.types import DataType, TensorType

DENSE_LIMIT = 16  # elements printed one by one
FORMS = ("dense", "splat", "base64", "ref")


def print_literal(literal: Literal, refs: bool = False) -> str:
    """The text of constant data."""
    array, kind = literal.array, str(literal.type)
    if array.size > 1 and _uniform(array):
        return f"splat<{kind}>({_element(array.flat[0])})"
    if array.size <= DENSE_LIMIT:
        return f"dense<{kind}>({', '.join([_element(x) for x in array.flat])})"
    if refs:
        return f'ref<{kind}>("{digest(literal)}")'
    return f'base64<{kind}>("{base64.b64encode(_data(array)).decode()}")'


def collect_literals(graph: Graph) -> dict[str, np.ndarray]:
    """sha256 -> array of the constants that `print_graph(graph, "ref")` mentions, nested graphs included."""
    out: dict[str, np.ndarray] = {}
    for literal in _literals(graph):
        if literal.array.size > DENSE_LIMIT and not _uniform(literal.array):
            out.setdefault(digest(literal), literal.array)
    return out


def digest(literal: Literal) -> str:
    """The sha256 of a literal's type and data. Remembered per array, as a graph is printed after every pass."""
    array = literal.array
    key = id(array)
    known = _DIGESTS.get(key)
    if known is not None and known[0]() is array and known[1] == literal.type:
        return known[2]
    h = hashlib.sha256(f"{literal.type}\n".encode())
    h.update(_data(array))
    sha = h.hexdigest()
    _DIGESTS[key] = (weakref.ref(array, lambda _: _DIGESTS.pop(key, None)), literal.type, sha)
    return sha


_DIGESTS: dict[int, tuple[weakref.ref[np.ndarray], TensorType, str]] = {}


def _literals(graph: Graph) -> Iterator[Literal]:
    for node in graph.nodes:
        for value in node.op.attributes().values():
            for v in value if isinstance(value, tuple) else (value,):
                if isinstance(v, Literal):
                    yield v
                elif isinstance(v, Graph):
                    yield from _literals(v)


def _data(array: np.ndarray) -> memoryview:
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8).data


def _uniform(array: np.ndarray) -> bool:
    """Whether all elements have the same bits; looks at a few before it looks at all."""
    if array.size == 0:
        return False
    for sample in (array.flat[:8], array):
        bits = np.ascontiguousarray(sample).reshape(-1).view(f"u{array.itemsize}")
        if not (bits == bits[0]).all():
            return False
    return True


def _element(x: np.generic) -> str:
    """One element, exact; floats with the fewest digits that read back."""
    if not isinstance(x, np.floating) or not np.isfinite(x):
        return str(x)
    plain = x == 0 or 1e-4 <= abs(float(x)) < 1e9
    text = (np.format_float_positional if plain else np.format_float_scientific)(x, unique=True, trim="0")
    return text if type(x)(float(text)) == x else repr(float(x))


def read_literal(form: str, kind: TensorType, values: list[Any], table: Mapping[str, np.ndarray]) -> np.ndarray:
    """The array of `form<kind>(values)`; `table` is the side table. Raises ValueError saying what is wrong."""
    if form in ("base64", "ref"):
        if len(values) != 1 or not isinstance(values[0], str):
            raise ValueError("takes one string")
        return _decode(kind, values[0]) if form == "base64" else _look_up(kind, values[0], table)
    count = 1 if form == "splat" else kind.size
    if len(values) != count:
        raise ValueError(f"takes {count} elements, {len(values)} are given")
    wanted = (int, float) if kind.dtype.is_float else (int,)
    low, high = (-float("inf"), float("inf")) if kind.dtype.is_float else limits(kind.dtype)
    for v in values:
        if not isinstance(v, wanted) or isinstance(v, bool):
            raise ValueError(f"cannot hold {v!r}")
        if v < low or v > high:
            raise ValueError(f"cannot hold {v}, its range is {low} to {high}")
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, kind.dtype.numpy)
    except OverflowError as e:
        raise ValueError(f"cannot hold such a number: {e}") from e
    return np.full(kind.shape, array[0]) if form == "splat" else array.reshape(kind.shape)


def _look_up(kind: TensorType, sha: str, table: Mapping[str, np.ndarray]) -> np.ndarray:
    if sha not in table:
        raise ValueError(f"has no data: the side table lacks {sha!r}")
    array = np.asarray(table[sha])
    if array.shape != kind.shape or array.dtype != kind.dtype.numpy:
        raise ValueError(f"is {array.dtype}{list(array.shape)} in the side table")
    return array


def _decode(kind: TensorType, text: str) -> np.ndarray:
    dtype = kind.dtype.numpy
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as e:
        raise ValueError(f"is not valid base64: {e}") from e
    if len(data) != kind.size * dtype.itemsize:
        raise ValueError(f"needs {kind.size * dtype.itemsize} bytes, {len(data)} are given")
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(kind.shape)


def limits(dtype: DataType) -> tuple[int, int]:
    """The smallest and largest value of an integer type."""
    return (-(1 << dtype.bits - 1), (1 << dtype.bits - 1) - 1) if dtype.is_signed else (0, (1 << dtype.bits) - 1)
