"""NaN, infinities and zeros through every op: where numpy's result is NaN, infinite or a zero, the device's must be.

Elementwise ops get every combination of the numbers in the pool. Others get their test cases' shapes, with a few
special elements among ordinary ones, many, and (so that results other than NaN are seen) without NaN. Denormals take no
part: WGSL lets a device replace them by zero, so what lies below the smallest normal number counts as zero here.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

import gpucompile
from gpucompile.ir.graph import Graph
from gpucompile.ir.interpret import interpret
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.activation import Relu
from gpucompile.ops.categories import Elementwise, Movement
from gpucompile.ops.elementwise import Mul
from gpucompile.ops.movement import Pad
from tests.support import OPS, graph_of, targets_of, with_float16
from tests.tolerance import near

FLOATS = (DataType.FLOAT32, DataType.FLOAT16)

#: Ops from which the largest and the smallest normal number are kept away, and why.
NO_EXTREMES = {
    "reduce_product": "whether a product over- or underflows on the way depends on the order",
    "cumulative_sum": "whether a sum overflows on the way depends on the order",
    "reduce_sum": "whether a sum overflows on the way depends on the order",
    "reduce_mean": "whether a sum overflows on the way depends on the order",
    "reduce_log_sum": "whether a sum overflows on the way depends on the order",
    "reduce_l1": "the sum overflows in float32, and not in numpy's float64",
    "reduce_l2": "squares overflow in float32, and not in numpy's float64",
    "reduce_sum_square": "the sum overflows in float32, and not in numpy's float64",
    "average_pool2d": "whether a sum overflows on the way depends on the order",
    "l2_pool2d": "squares overflow in float32, and not in numpy's float64",
    "lrn": "squares overflow in float32, and not in numpy's float64",
    "batch_normalization": "products overflow in float32, and not in numpy's float64",
    "instance_normalization": "squares overflow in float32, and not in numpy's float64",
    "layer_normalization": "squares overflow in float32, and not in numpy's float64",
    "matmul": "whether a sum overflows on the way depends on the order",
    "gemm": "whether a sum overflows on the way depends on the order",
    "fused": "a matrix product is among its cases",
    "resample2d": "the difference of large numbers has large rounding errors",
    "cos": "no device reduces such arguments exactly",
    "sin": "no device reduces such arguments exactly",
    "tan": "no device reduces such arguments exactly",
    **dict.fromkeys(
        ("gru", "gru_cell", "lstm", "lstm_cell"), "products and sums overflow in float32, and not in numpy's float64"
    ),
    "conv2d": "whether a sum overflows on the way depends on the order",
    "conv_transpose2d": "whether a sum overflows on the way depends on the order",
}

#: Elementwise ops and movements whose zeros may have either sign, and why.
ANY_ZERO = {
    "clamp": "WGSL lets a device take either of -0 and 0 as the smaller one",
    "linear": "compilers drop the addition of a constant 0, which would make 0 of -0",
    "max": "numpy takes the first of -0 and 0, WGSL lets a device take either",
    "relu": "numpy takes either of -0 and 0, depending on the data type",
    "min": "numpy takes the first of -0 and 0, WGSL lets a device take either",
}

#: Ops that get a few special elements only, and why.
FEW = {"reduce_product": "whether a product over- or underflows on the way depends on the order"}

#: Ops of which special values stand in the first operand only, and why.
FIRST_ONLY = {
    "conv_transpose2d": "kernels multiply weights by the zeros between and around the input: 0 * inf is NaN",
    **dict.fromkeys(
        ("gru", "gru_cell", "lstm", "lstm_cell"),
        "a gate that is nearly closed is 0 in float32, and times an infinite state NaN; no product is made of absent "
        "states, whose zeros times an infinite weight would be NaN",
    ),
}

#: Ops that only get float32, and why.
NO_HALVES = dict.fromkeys(
    ("gru", "gru_cell", "lstm", "lstm_cell"), "gates are rounded before the activation: a sum of 200 by 0.06"
)


def pool(dtype: DataType, extremes: bool) -> np.ndarray:
    """The numbers to try."""
    limits = np.finfo(dtype.numpy)
    ordinary = [1.0, 2.0, 3.0, 0.5, 0.3, 2.5, 100.0]
    values = [0.0, np.inf, *ordinary, *((float(limits.smallest_normal), float(limits.max)) if extremes else ())]
    return np.array([*values, *(-v for v in values), np.nan], dtype.numpy)


def elementwise_feeds(op: Op, types: tuple[TensorType, ...]) -> Iterator[dict[str, np.ndarray]]:
    """All combinations, as vectors (their number is made a multiple of four, and odd)."""
    extremes = op.name not in NO_EXTREMES
    choices = [pool(t.dtype, extremes) if t.dtype.is_float else np.array([0, 1, 3, 2], t.dtype.numpy) for t in types]
    columns = np.array(list(itertools.product(*(range(len(c)) for c in choices)))).T
    for count in (-(-columns.shape[1] // 4) * 4, columns.shape[1] // 2 * 2 + 1):
        at = np.arange(count) % columns.shape[1]
        yield {f"x{i}": c[column[at]] for i, (c, column) in enumerate(zip(choices, columns, strict=True))}


def other_feeds(name: str, types: tuple[TensorType | None, ...]) -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    shares = ((0.05, True), (0.05, False), (0.5, False), (1.0, True))
    for share, nan in shares[:2] if name in FEW else shares:
        feeds = {}
        for i, t in enumerate(types):
            if t is None:
                continue
            if t.dtype.is_float:
                numbers = pool(t.dtype, name not in NO_EXTREMES)
                numbers = numbers if nan else numbers[~np.isnan(numbers)]
                ordinary = rng.uniform(0.1, 2.0, t.shape) * rng.choice([-1.0, 1.0], t.shape)
                special = rng.random(t.shape) < (0 if i and name in FIRST_ONLY else share)
                x = np.where(special, rng.choice(numbers, t.shape), ordinary)
            else:
                x = rng.integers(0, 2, t.shape)
            feeds[f"x{i}"] = np.asarray(x).astype(t.dtype.numpy)
        yield feeds


def problems(name: str, got: np.ndarray, want: np.ndarray, signs: bool) -> np.ndarray:
    """Where they differ in more than rounding."""
    if name == "quantize_linear":  # WGSL's division may be a little off, and so take the other side of a tie
        return np.asarray(abs(got.astype(np.int64) - want.astype(np.int64)) > 1)
    if want.dtype.kind != "f":
        return got != want
    tiny = float(np.finfo(want.dtype).smallest_normal)
    special = ~np.isfinite(want)
    with np.errstate(all="ignore"):
        bad = np.where(special, ~((got == want) | (np.isnan(got) & np.isnan(want))), ~near(name, got, want, tiny))
    if signs:
        bad |= (want == 0) & (got == 0) & (np.signbit(want) != np.signbit(got))
    return np.asarray(bad)


def runs(name: str) -> Iterator[tuple[Graph, list[dict[str, np.ndarray]]]]:
    """Graphs with operands, in float32 and float16."""
    seen = set()
    for op, types in OPS[name].cases():
        if not any(t is not None and t.dtype.is_float for t in types):
            continue
        if not isinstance(op, Elementwise):
            for variant in [types] if name in NO_HALVES else with_float16(op, types):
                yield graph_of(op, variant), list(other_feeds(name, variant))
            continue
        for variant in with_float16(op, types):
            present = tuple(t for t in variant if t is not None)
            key = (op, tuple(t.dtype for t in present))
            if key in seen:
                continue
            seen.add(key)
            for feeds in elementwise_feeds(op, present):
                shaped = tuple(replace(t, shape=feeds["x0"].shape) for t in present)
                yield graph_of(op, shaped), [feeds]


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("pipeline", ["none", "default"])
def test_special_values(device: gpucompile.Device, name: str, pipeline: str) -> None:
    found = []
    signs = issubclass(OPS[name], (Elementwise, Movement)) and name not in ANY_ZERO
    for graph, feeds in runs(name):
        for target in targets_of(device, graph):
            bundle = gpucompile.compile(graph, target, pipeline=pipeline)
            with gpucompile.load(bundle, device=device) as run:
                for operands in feeds:
                    for key, want in interpret(graph, operands).items():
                        got = run.run(operands)[key]
                        bad = problems(name, got, want, signs)
                        if bad.any():
                            found.append(describe(graph, operands, got, want, bad))
    assert not found, "\n".join(found)


def describe(graph: Graph, operands: dict[str, np.ndarray], got: np.ndarray, want: np.ndarray, bad: np.ndarray) -> str:
    """What is wrong, for a person to read."""
    node = graph.outputs[0].producer
    assert node is not None
    places = [tuple(map(int, at)) for at in np.argwhere(bad)]
    shown = [f"{node!r}: {bad.sum()} of {bad.size} differ"]
    for at in places[:12]:
        given = [str(x[at]) for x in operands.values()] if isinstance(node.op, Elementwise) else ""
        shown.append(f"    at {at}: {given} -> {got[at]}, want {want[at]}")
    return "\n".join(shown)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, -0.0, 1e30])
def test_constants(device: gpucompile.Device, dtype: DataType, value: float) -> None:
    """Scalar constants and fill values in fused kernels."""
    with np.errstate(over="ignore"):
        constant = np.asarray(value, dtype.numpy)
    graph = Graph()
    x = graph.add_input("x", TensorType(dtype, (3, 8)))
    padded = graph.add(Pad((1, 0), (0, 4), "constant", value), graph.add(Relu(), x))
    graph.set_outputs({"y": graph.add(Mul(), padded, graph.constant(constant)), "z": padded})
    feeds = {"x": np.linspace(-1, 1, 24).reshape(3, 8).astype(dtype.numpy)}
    for target in targets_of(device, graph):
        with gpucompile.load(gpucompile.compile(graph, target), device=device) as run:
            got = run.run(feeds)
        for name, want in interpret(graph, feeds).items():
            signs = name == "z"  # compilers make x * 0 a 0, whatever the signs
            assert not problems("mul", got[name], want, signs).any(), (name, got[name], want)
