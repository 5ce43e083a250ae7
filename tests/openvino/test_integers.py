"""Chains of integer ops over the whole range on OpenVINO's CPU, which computes some of what it fuses in float32."""

from __future__ import annotations

import numpy as np
import pytest

import gpucompile
from gpucompile.ir.graph import Graph, Value
from gpucompile.ir.interpret import interpret
from gpucompile.ir.literals import limits
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops import reduction
from gpucompile.ops.activation import Clamp, Relu
from gpucompile.ops.bitwise import BitwiseAnd, BitwiseOr, BitwiseXor, ShiftLeft, ShiftRight
from gpucompile.ops.elementwise import Abs, Add, Max, Min, Mul, Neg, Sign, Sub
from gpucompile.ops.logical import (
    Cast,
    Equal,
    Greater,
    GreaterOrEqual,
    Lesser,
    LesserOrEqual,
    NotEqual,
    Where,
)
from gpucompile.ops.movement import Expand, Pad, Transpose

BINARY: tuple[Op, ...] = (Add(), Sub(), Mul(), Max(), Min(), BitwiseAnd(), BitwiseOr(), BitwiseXor())
UNARY: tuple[Op, ...] = (Clamp(-1000.0, 3e8), Clamp(3, 100), Clamp(2**24 + 1, 2**31 - 2), Transpose((1, 0)))
SIGNED: tuple[Op, ...] = (Abs(), Neg(), Sign(), Relu())
COMPARE: tuple[Op, ...] = (Equal(), NotEqual(), Greater(), GreaterOrEqual(), Lesser(), LesserOrEqual())
REDUCE = (reduction.ReduceMax, reduction.ReduceMin, reduction.ReduceSum)  # sums of 32 bits and more
SHAPE = (3, 3)


def chain(seed: int, dtype: DataType, length: int) -> tuple[Graph, dict[str, np.ndarray]]:
    """Each op reads the result of the one before, and an earlier one or a constant; results and the last condition
    are outputs."""
    rng, graph = np.random.default_rng([seed, dtype.bits, dtype.is_signed]), Graph("chain")
    low, high = limits(dtype)
    some = {low, low + 1, high, high - 1, 0, 1, 2, 5, 31, 33, high // 2, high // 3, low // 3, 2**24 + 1, 3 * 2**24 + 57}
    pool = np.array(sorted(v for v in some if low <= v <= high), dtype.numpy)
    values = [graph.add_input(f"x{i}", TensorType(dtype, SHAPE)) for i in range(3)]
    feeds = {v.name: rng.choice(pool, SHAPE) for v in values}
    condition = graph.add(Greater(), values[0], values[1])

    def other() -> Value:
        if rng.random() < 0.2:
            return graph.constant(rng.choice(pool, ()))
        return values[rng.integers(len(values))]

    def pick(ops: tuple[Op, ...]) -> Op:
        return ops[rng.integers(len(ops))]

    for _ in range(length):
        x, kind = values[-1], rng.integers(8)
        if kind < 3:
            x = graph.add(pick(BINARY), *((x, other()) if rng.random() < 0.5 else (other(), x)))
        elif kind == 3:
            x = graph.add(pick(UNARY + (SIGNED if dtype.is_signed else ())), x)
        elif kind == 4:
            condition = graph.add(pick(COMPARE), x, other())
            x = graph.add(Where(), condition, x, other())
        elif kind == 5:
            x = graph.add(Add(), x, graph.add(Cast(dtype), condition))
        elif kind == 6:
            x = graph.add(pick((ShiftLeft(), ShiftRight())), x, other())
        else:
            x = graph.add(Expand(SHAPE), graph.add(REDUCE[rng.integers(3 if dtype.bits > 8 else 2)]((1,), True), x))
        values.append(x if x.type.shape == SHAPE else graph.add(Expand(SHAPE), x))
    graph.set_outputs({"y": values[-1], "condition": condition})
    return graph, feeds


def agree(seed: int, dtype: DataType, length: int) -> None:
    graph, feeds = chain(seed, dtype, length)
    with np.errstate(all="ignore"):
        want = interpret(graph, feeds)
    with gpucompile.load(gpucompile.compile(graph, devices=("cpu",)), "cpu") as exe:
        got = exe.run(feeds)
    for name, expected in want.items():
        np.testing.assert_array_equal(got[name], expected, err_msg=f"{dtype.value}, seed {seed}: {name}")


INTEGERS = [d for d in DataType if not d.is_float and d.bits >= 8]


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_chains(dtype: DataType) -> None:
    for seed in range(2):
        agree(seed, dtype, 5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_many_chains(dtype: DataType) -> None:
    for seed in range(60):
        agree(seed, dtype, 4 + seed % 6)


BOUNDS = (-1233074348, -4), (-(2**24) - 1, -5), (-1233074348, -(2**29) - 5), (3, 2**24 + 1), (2**24 + 1, 2**31 - 2)


@pytest.mark.parametrize("low, high", BOUNDS)
def test_pairs_of_bounds(low: int, high: int) -> None:
    """OpenVINO makes a clamp in float32 of a maximum and a minimum with constants: exact although either is large."""
    x = np.array([819924833, -1436307496, 2**24 + 1, -(2**24) - 1, -394237822, 0, 2**31 - 1, -(2**31)], np.int32)
    graph = Graph("bounds")
    v = graph.add_input("x", TensorType(DataType.INT32, x.shape))
    a, b = (graph.constant(np.array(n, np.int32)) for n in (low, high))
    clamp = graph.add(Clamp(low, high), v)
    first, second = graph.add(Min(), graph.add(Max(), v, a), b), graph.add(Max(), a, graph.add(Min(), v, b))
    graph.set_outputs({"clamp": clamp, "first": first, "second": second})
    with gpucompile.load(gpucompile.compile(graph, devices=("cpu",)), "cpu") as exe:
        for name, y in exe.run({"x": x}).items():
            np.testing.assert_array_equal(y, np.clip(x, low, high), err_msg=name)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_padding_with_large_numbers(dtype: DataType) -> None:
    low, high = limits(dtype)
    fills = [v for v in (low, low + 1, 1, 2**24 + 1, 1234567891, high - 1, high) if v <= high]
    x, graph = np.array([[low, high, 0], [1, high // 3, 5]], dtype.numpy), Graph("pad")
    v = graph.add_input("x", TensorType(dtype, x.shape))
    graph.set_outputs({f"y{i}": graph.add(Pad((1, 0), (0, 2), value=fill), v) for i, fill in enumerate(fills)})
    with gpucompile.load(gpucompile.compile(graph, devices=("cpu",)), "cpu") as exe:
        for fill, y in zip(fills, exe.run({"x": x}).values(), strict=True):
            np.testing.assert_array_equal(y, np.pad(x, ((1, 0), (0, 2)), constant_values=fill), err_msg=str(fill))
