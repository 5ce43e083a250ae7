"""Every op with drawn shapes, options and values of every data type on OpenVINO's CPU, against its numpy reference.

`tests/generate` draws them, as for the adapter (`tests/gpu/test_generated_cases.py`). Of one batch, all ops and data
types are looked at by `-m slow`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

import gpucompile
from gpucompile.backends.openvino.rules import REFUSED
from gpucompile.errors import UnsupportedError
from gpucompile.ir.interpret import interpret
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.activation import HardSigmoid
from gpucompile.ops.elementwise import Div, Pow
from gpucompile.ops.quantize import DequantizeLinear
from tests.generate.draw import Case, Operand
from tests.generate.run import graph_of
from tests.generate.strategies import cases, data_types
from tests.gpu.test_generated_cases import FIXED, NAMES, case_of
from tests.openvino.test_ops import NOT_LOWERED
from tests.support import OPS
from tests.tolerance import check

#: Ops that OpenVINO computes with other roundings, and how far the result may be away, relative to the largest value.
ROUNDED: dict[str, tuple[float, str]] = {
    "dequantize_linear": (5e-6, "x * s - z * s in the place of (x - z) * s"),
    "hard_swish": (1e-6, "x * (x / 6 + 0.5)"),
}
#: Quick ones that meet words, signs and moves.
SAMPLES = ("mul", "where", "scatter_nd", "clamp", "word", "shift_right")
CASES_OF_A_TYPE = 4


def agree(batch: list[Case]) -> None:
    """Raise AssertionError that names the case whose result is not the reference's."""
    graph, feeds = graph_of(batch)
    want = interpret(graph, feeds)
    with gpucompile.load(gpucompile.compile(graph, devices=("cpu",)), "cpu") as executable:
        got = executable.run(feeds)
    for key, expected in want.items():
        case = batch[int(key.split("_")[0])]
        name = case.op.name
        try:
            if name in ROUNDED:
                scale = float(np.abs(expected).max(initial=1.0))
                largest = max([scale, *(float(np.abs(o.array).max(initial=0)) for o in case.operands if o is not None)])
                rounding = float(np.finfo(expected.dtype).eps) if expected.dtype == np.float16 else 0.0
                error = np.abs(got[key].astype(np.float64) - expected.astype(np.float64)).max()
                assert error <= (ROUNDED[name][0] + rounding) * largest, (error, got[key], expected)
            else:
                check(name, got[key], expected)
        except AssertionError as e:
            raise AssertionError(f"{case}\n{e}") from None


def batches(cls: type[Op]) -> st.SearchStrategy[list[Case]]:
    """One case of every data type that the device takes."""
    taken = [d for d in data_types(cls) if d not in REFUSED.get(cls, ())]
    return st.tuples(*(cases(cls, dtype) for dtype in taken)).map(list)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in SAMPLES else pytest.mark.slow) for n in NAMES if n not in NOT_LOWERED],
)
def test_generated_cases(name: str) -> None:
    seen: list[Case] = []

    def run(batch: list[Case]) -> None:
        seen.extend(batch)
        agree(batch)

    seed(0)(settings(FIXED, max_examples=CASES_OF_A_TYPE)(given(batch=batches(OPS[name]))(run)))()
    assert seen


@pytest.mark.parametrize("cls", REFUSED, ids=lambda cls: cls.name)
def test_refused(cls: type[Op]) -> None:
    """What the rules name is refused."""
    for dtype in REFUSED[cls]:
        ones = np.ones(2, dtype.numpy)
        with pytest.raises(UnsupportedError, match=f"{cls.name}: OpenVINO computes {dtype.value} in 32 bits"):
            agree([case_of(cls(), *[ones] * len(cls.operands))])


# What generated cases found ------------------------------------------------------------------------------------------

U32, I64, U64 = np.uint32, np.int64, np.uint64
FOUND = {
    "a quotient beyond int32": case_of(Div(), np.array([[4294967295, -5], [2**62 + 1, 7]], I64), np.array([[5]], I64)),
    "a 64-bit power by a constant": case_of(Pow(), np.array([3, -7, 2**40], I64), np.array(5, I64), constant=True),
    "an unsigned power of nothing": case_of(Pow(), np.array([3, 0], U64), np.array([[0]], U64), constant=True),
    "an unsigned quotient": case_of(Div(), np.array([2**32 - 1, 7], U32), np.array([2**31 + 3, 0], U32)),
    "beta of a hard sigmoid": replace(
        case_of(HardSigmoid(1.25, 0.0), np.linspace(-2, 2, 9, dtype=np.float32)), dressed=True
    ),
    "a zero point of 4 bits": case_of(
        DequantizeLinear(), np.array([-3], np.int8), np.array([1], np.float32), np.array([-6], np.int8)
    ),
}


def test_zero_points_of_4_bits() -> None:
    case = FOUND["a zero point of 4 bits"]
    x, s, z = case.operands
    assert x is not None and z is not None
    four = [replace(o, type=replace(o.type, dtype=DataType.INT4)) for o in (x, z)]
    for constant in ((False, True, True), (True, True, True), (False, False, False)):
        agree([Case(case.op, (four[0], s, four[1]), constant)])
    x = Operand(TensorType(DataType.UINT4, (4,)), np.array([7, 9, 15, 11], np.uint8))
    blocks = Operand(TensorType(DataType.UINT4, (2,)), np.array([12, 14], np.uint8))
    scales = Operand(TensorType(DataType.FLOAT32, (2,)), np.array([0.5, 2], np.float32))
    for first in (False, True):
        agree([Case(case.op, (x, scales, blocks), (first, True, True))])


@pytest.mark.parametrize("name", FOUND)
def test_what_generated_cases_found(name: str) -> None:
    """Each of these was a wrong number, or was refused once."""
    agree([FOUND[name]])
