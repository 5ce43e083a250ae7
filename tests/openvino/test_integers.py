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
from gpucompile.ops.movement import Expand, Transpose

BINARY: tuple[Op, ...] = (Add(), Sub(), Mul(), Max(), Min(), BitwiseAnd(), BitwiseOr(), BitwiseXor())
UNARY: tuple[Op, ...] = (Clamp(-1000.0, 3e8), Clamp(3, 100), Transpose((1, 0)))
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
