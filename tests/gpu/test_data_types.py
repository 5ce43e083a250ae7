"""Data types that devices lack: 64-bit integers as pairs of words, float16 in float32, 4 and 8 bits in words."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

import gpucompile
from gpucompile.ir.graph import Graph, Value
from gpucompile.ir.interpret import interpret
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops import elementwise as e
from gpucompile.ops import logical, reduction
from gpucompile.ops.activation import Clamp, Relu, Sigmoid
from gpucompile.ops.categories import Elementwise
from gpucompile.ops.contraction import Matmul
from gpucompile.ops.gather import Gather, ScatterElements
from gpucompile.ops.logical import Cast, Where
from gpucompile.ops.movement import Concat, Reshape, Slice, Transpose
from gpucompile.ops.pool import MaxPool2d
from gpucompile.ops.scan import ArgMax, ArgMin, CumulativeSum
from gpucompile.ops.softmax import Softmax
from gpucompile.target import Target
from tests.tolerance import check

Arrays = dict[str, np.ndarray]
WIDE = (np.int64, np.uint64)
EDGES = [0, 1, 2, 3, 7, 10, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**33 - 5, 2**48 + 3]
EDGES += [2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 2**32, 0x123456789ABCDEF0]


def masked(device: gpucompile.Device) -> Target:
    """What the device offers, without float16."""

    class Adapter:
        features, limits, info = device.features, device.limits, device.adapter.info

    return Target.of(Adapter).without("shader-f16")


def run(
    device: gpucompile.Device,
    build: Callable[..., Value | tuple[Value, ...]],
    *arrays: np.ndarray,
    pipeline: str = "default",
    target: Target | None = None,
) -> tuple[Arrays, Arrays]:
    """The results of a graph on the adapter, and those of its reference."""
    graph = Graph()
    inputs = [graph.add_input(f"x{i}", TensorType.of(a)) for i, a in enumerate(arrays)]
    out = build(graph, *inputs)
    graph.set_outputs({f"y{i}": v for i, v in enumerate(out if isinstance(out, tuple) else (out,))})
    feeds = {f"x{i}": a for i, a in enumerate(arrays)}
    want = interpret(graph, feeds)
    with gpucompile.load(gpucompile.compile(graph, target, pipeline=pipeline), device=device) as executable:
        return executable.run(feeds), want


def pairs(dtype: type[np.generic]) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of numbers at which 64-bit arithmetic may go wrong, and random ones."""
    rng = np.random.default_rng(7)
    some = np.array(EDGES, np.uint64)
    a, b = np.array(list(itertools.product(some, some)), np.uint64).T
    random = rng.integers(0, 2**64, (2, 501), np.uint64, endpoint=False) >> rng.integers(0, 63, (2, 501)).astype(
        np.uint64
    )
    return np.concatenate([a, random[0]]).view(dtype), np.concatenate([b, random[1]]).view(dtype)


BINARY = [e.Add(), e.Sub(), e.Mul(), e.Div(), e.Max(), e.Min(), e.Pow(), logical.Equal(), logical.NotEqual()]
BINARY += [logical.Greater(), logical.GreaterOrEqual(), logical.Lesser(), logical.LesserOrEqual()]


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("op", BINARY, ids=lambda op: op.name)
def test_arithmetic_of_64_bits(device: gpucompile.Device, op: Op, dtype: type[np.generic]) -> None:
    a, b = pairs(dtype)
    with np.errstate(all="ignore"):
        got, want = run(device, lambda g, x, y: g.add(op, x, y), a, b)
    np.testing.assert_array_equal(got["y0"], want["y0"])


UNARY: list[Op] = [e.Abs(), e.Neg(), e.Sign(), e.Identity(), Relu(), Clamp(-5, 2**40), Clamp(1.0)]


@pytest.mark.parametrize("op", UNARY, ids=lambda op: op.name)
def test_functions_of_64_bits(device: gpucompile.Device, op: Op) -> None:
    a, _ = pairs(np.int64)
    with np.errstate(all="ignore"):
        got, want = run(device, lambda g, x: g.add(op, x), a)
    np.testing.assert_array_equal(got["y0"], want["y0"])


@pytest.mark.parametrize("dtype", WIDE)
def test_casts_of_64_bits(device: gpucompile.Device, dtype: type[np.generic]) -> None:
    a, _ = pairs(dtype)
    a = np.concatenate([a, (np.arange(200, dtype=np.uint64) + 2**24 - 100).view(dtype)])
    a = np.concatenate([a, (np.arange(4000, dtype=np.uint64) * 2**30 + 2**56).view(dtype)])  # ties of the rounding
    to = [DataType.of(t) for t in (np.float32, np.int32, np.uint32, np.int8, np.uint8, np.int64, np.uint64)]
    got, want = run(device, lambda g, x: tuple(g.add(Cast(t), x) for t in to), a)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])
    rng = np.random.default_rng(3)
    small: list[np.ndarray] = [rng.integers(-128, 128, 301).astype(t) for t in (np.int32, np.uint32, np.int8, np.uint8)]
    for x in small:
        got, want = run(device, lambda g, x: g.add(Cast(DataType.of(dtype)), x), x)
        np.testing.assert_array_equal(got["y0"], want["y0"])


@pytest.mark.parametrize("dtype", WIDE)
def test_floats_become_64_bits(device: gpucompile.Device, dtype: type[np.generic]) -> None:
    values = [0.0, -0.0, 0.5, -0.99, 1.5, 2**24 + 2, 2.0**31, 2.0**32, 2.0**40 + 2**20, 2.0**62, 2.0**63, 2.0**64, 1e30]
    f = np.array([*values, *(-v for v in values), np.inf, -np.inf, np.nan], np.float32)
    f = np.concatenate([f, np.float32(2) ** np.linspace(-3, 65, 600, dtype=np.float32)])
    got, _ = run(device, lambda g, x: g.add(Cast(DataType.of(dtype)), x), f)
    info = np.iinfo(dtype)
    want = [0 if v != v else info.max if v >= info.max else info.min if v <= info.min else int(v) for v in f.tolist()]
    assert got["y0"].tolist() == want


@pytest.mark.parametrize("dtype", WIDE)
def test_other_kernels_of_64_bits(device: gpucompile.Device, dtype: type[np.generic]) -> None:
    rng = np.random.default_rng(5)
    x = rng.integers(0, 2**64, (6, 37), np.uint64, endpoint=False).view(dtype)
    ops: list[Op] = [
        reduction.ReduceSum((1,)),
        reduction.ReduceMax((0,)),
        reduction.ReduceMin(),
        CumulativeSum(1, True),
    ]
    ops += [reduction.ReduceProduct((1,), True), reduction.ReduceL1((1,)), reduction.ReduceSumSquare((0,))]
    ops += [ArgMax(1), ArgMin(0, True, DataType.INT64), Transpose((1, 0)), Slice((1, 2), (4, 30)), Reshape((37, 6))]
    with np.errstate(all="ignore"):
        got, want = run(device, lambda g, v: tuple(g.add(op, v) for op in ops), x)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=ops[int(name[1:])].name)


def test_64_bit_values_fuse_with_others(device: gpucompile.Device) -> None:
    """Narrow and wide values in one kernel: chains of casts, a comparison to bytes, epilogues of other kernels."""
    rng = np.random.default_rng(6)
    x = rng.integers(-9, 9, (5, 12)).astype(np.float32)
    i = rng.integers(-5, 5, (7,)).astype(np.int64)

    def chain(g: Graph, x: Value, i: Value) -> tuple[Value, ...]:
        wide = g.add(e.Mul(), g.add(Cast(DataType.INT64), x), g.constant(np.asarray(3_000_000_000, np.int64)))
        small = g.add(logical.Greater(), wide, g.constant(np.asarray(-3_000_000_000, np.int64)))
        back = g.add(Cast(DataType.FLOAT32), g.add(e.Add(), wide, wide))
        total = g.add(Cast(DataType.INT64), g.add(reduction.ReduceSum((0,)), x))
        product = g.add(Cast(DataType.INT64), g.add(Matmul(), x, g.add(Transpose((1, 0)), x)))
        picked = g.add(Cast(DataType.FLOAT32), g.add(Gather(0), wide, i))
        both = g.add(Concat(0), wide, g.add(e.Neg(), wide))
        chosen = g.add(Where(), small, wide, g.add(e.Neg(), wide))
        updates = g.add(Slice((0, 0), (1, 12)), wide)
        at = g.add(Cast(DataType.INT64), g.add(Slice((0, 0), (1, 12)), g.add(Clamp(0.0, 4.0), x)))
        return small, back, total, product, picked, both, chosen, g.add(ScatterElements(0), wide, at, updates)

    for pipeline in ("default", "none"):
        got, want = run(device, chain, x, i, pipeline=pipeline)
        for name in want:
            np.testing.assert_array_equal(got[name], want[name], err_msg=f"{pipeline} {name}")


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_8_bit_arithmetic_wraps_inside_a_kernel(device: gpucompile.Device, dtype: type[np.generic]) -> None:
    a, b = np.array(list(itertools.product(range(0, 256, 5), range(0, 256, 7))), np.uint8).T.copy().view(dtype)

    def chain(g: Graph, a: Value, b: Value) -> tuple[Value, ...]:
        out = []
        for op in (e.Add(), e.Sub(), e.Mul(), e.Div(), e.Pow()):
            z = g.add(op, a, b)
            out.append(g.add(logical.Greater(), z, a))
            out.append(g.add(e.Div(), z, g.constant(np.asarray(3, dtype))))
        return tuple(out)

    with np.errstate(all="ignore"):
        got, want = run(device, chain, a, b)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_reductions_and_pooling_of_bytes(device: gpucompile.Device, dtype: type[np.generic]) -> None:
    x = np.random.default_rng(1).integers(0, 256, (1, 3, 7, 9)).astype(np.uint8).view(dtype)
    ops = [reduction.ReduceMax((1,)), reduction.ReduceMin(), MaxPool2d((3, 2), (1, 1, 0, 0), (2, 1))]
    got, want = run(device, lambda g, v: tuple(g.add(op, v) for op in ops), x)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])


@pytest.mark.parametrize("size", [1, 7, 8, 33])
def test_4_bit_elements(device: gpucompile.Device, size: int) -> None:
    rng = np.random.default_rng(2)
    x = rng.uniform(-20, 20, size).astype(np.float32)
    graph = Graph()
    f = graph.add_input("f", TensorType.of(x))
    constant = graph.add(Cast(DataType.FLOAT32), _nibbles(graph, np.arange(size, dtype=np.int8) % 16 - 8))
    outs = {"i": graph.add(Cast(DataType.INT4), f), "u": graph.add(Cast(DataType.UINT4), f), "c": constant}
    for name, kind in (("i", DataType.INT4), ("u", DataType.UINT4)):
        source = graph.add_input(f"in_{name}", TensorType(kind, (size,)))
        outs[f"f{name}"] = graph.add(e.Add(), graph.add(Cast(DataType.FLOAT32), source), f)
    graph.set_outputs(outs)
    feeds = {"f": x, "in_i": np.arange(size).astype(np.int8) % 16 - 8, "in_u": np.arange(size).astype(np.uint8) % 16}
    want = interpret(graph, feeds)
    for pipeline in ("default", "none"):
        with gpucompile.load(gpucompile.compile(graph, pipeline=pipeline), device=device) as executable:
            got = executable.run(feeds)
        for name in want:
            np.testing.assert_array_equal(got[name], want[name], err_msg=name)


def _nibbles(graph: Graph, values: np.ndarray) -> Value:
    from gpucompile.ir.graph import Literal

    return graph.constant(Literal(values, TensorType(DataType.INT4, values.shape)))


# float16 without shader-f16 ------------------------------------------------------------------------------------------


def test_every_float16_number_survives(device: gpucompile.Device) -> None:
    h = np.arange(65536, dtype=np.uint16).view(np.float16)
    got, _ = run(
        device, lambda g, x: (g.add(Cast(DataType.FLOAT32), x), g.add(e.Identity(), x)), h, target=masked(device)
    )
    np.testing.assert_array_equal(got["y0"], h.astype(np.float32))
    nan = np.isnan(h)
    np.testing.assert_array_equal(got["y1"].view(np.uint16)[~nan], h.view(np.uint16)[~nan])
    assert np.isnan(got["y1"][nan]).all()


def test_float32_is_rounded_to_float16(device: gpucompile.Device) -> None:
    h = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middle = (h[1:] + h[:-1]) / 2  # ties
    f = np.concatenate([middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(1e9))])
    f = np.concatenate([f, -f, np.array([65519.996, 65520, 1e9, -1e30, np.inf, 1e-8, 3e-8, -2.98e-8], np.float32)])
    with np.errstate(over="ignore"):
        want = f.astype(np.float16)
    got, _ = run(device, lambda g, x: g.add(Cast(DataType.FLOAT16), x), f, target=masked(device))
    np.testing.assert_array_equal(got["y0"].view(np.uint16), want.view(np.uint16))


@pytest.mark.parametrize("size", [(3, 5), (4, 8)])
def test_float16_arithmetic_is_exact(device: gpucompile.Device, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    a, b = (rng.normal(0, 30, size).astype(np.float16) for _ in range(2))
    ops: list[Elementwise] = [e.Add(), e.Sub(), e.Mul(), e.Div(), e.Max(), e.Min()]

    def chain(g: Graph, a: Value, b: Value) -> tuple[Value, ...]:
        return (
            *(g.add(e.Mul(), g.add(op, a, b), b) for op in ops),
            g.add(Transpose((1, 0)), a),
            g.add(Concat(1), a, b),
        )

    got, want = run(device, chain, a, b, target=masked(device))
    for name in want:
        np.testing.assert_array_equal(got[name].view(np.uint16), want[name].view(np.uint16), err_msg=name)


def test_float16_network_without_shader_f16(device: gpucompile.Device) -> None:
    rng = np.random.default_rng(4)
    a = rng.normal(0, 1, (3, 5, 40)).astype(np.float16)
    weight = rng.normal(0, 0.2, (40, 24)).astype(np.float16)

    def net(g: Graph, a: Value) -> Value:
        return g.add(Softmax(2), g.add(Sigmoid(), g.add(Matmul(), a, g.constant(weight))))

    for pipeline in ("default", "none"):
        got, want = run(device, net, a, target=masked(device), pipeline=pipeline)
        check("softmax", got["y0"], want["y0"])
