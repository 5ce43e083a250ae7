"""Every op with drawn shapes, options and values of every data type on the adapter, against its numpy reference.

`tests/generate` draws them. The same cases in every run, of which the test says if they left out a data type or an
option; other cases by `-m slow`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import gpucompile
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.activation import Clamp
from gpucompile.ops.elementwise import Identity
from gpucompile.ops.logical import Where
from gpucompile.ops.movement import Concat, Pad
from gpucompile.ops.pool import MaxPool2d
from gpucompile.ops.recurrent import Recurrent
from gpucompile.ops.reduction import ReduceL1
from tests.generate.coverage import left_out
from tests.generate.draw import Case, Operand
from tests.generate.run import CONFIGS, Config, run_cases
from tests.generate.strategies import EXCUSED, cases, data_types, strategy_of
from tests.support import OPS

Batch = tuple[Config, list[Case]]
NAMES = [name for name in OPS if name not in EXCUSED]
#: Whose new cases CI looks at: an index map, an anchor, all pairs of data types.
SAMPLES = ("pad", "conv2d", "cast")
#: Batches are large and shrink one pipeline at a time. No data base: what failed once is in FOUND.
FIXED = settings(
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)


def batches(cls: type[Op], most: int) -> st.SearchStrategy[Batch]:
    """How to compile, and `most` cases or one of every data type that the op takes: each compiled op is a pipeline,
    but one device runs them all at once."""
    dtypes = data_types(cls)
    drawn = [cases(cls, dtype) for dtype in dtypes * max(1, most // len(dtypes))]
    return st.tuples(st.sampled_from(CONFIGS), st.tuples(*drawn).map(list))


def cost_of(cls: type[Op]) -> int:
    """How many cases of an op are worth their time in one batch: those of recurrent networks are dozens of kernels,
    those of plain functions differ in nothing but the shape."""
    plain = not dataclasses.fields(cls) and len(cls.operands) < 3
    return 2 if plain or issubclass(cls, Recurrent) else 8


def test_every_op_has_a_strategy() -> None:
    assert [name for name in NAMES if strategy_of(OPS[name]) is None] == []
    assert set(EXCUSED) <= set(Op.registry)


@pytest.mark.parametrize("name", NAMES)
def test_generated_cases(device: gpucompile.Device, name: str) -> None:
    """Some rounds until no data type and no option is left out; nearly always one."""
    cls = OPS[name]
    seen: list[Case] = []

    def run(batch: Batch) -> None:
        seen.extend(batch[1])
        run_cases(batch[1], device, batch[0])

    for i in range(6):
        seed(i)(settings(FIXED, max_examples=5)(given(batch=batches(cls, cost_of(cls)))(run)))()
        if not left_out(cls, seen):
            break
    assert left_out(cls, seen) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.sample] if n in SAMPLES else []) for n in NAMES])
def test_new_generated_cases(device: gpucompile.Device, name: str) -> None:
    """Other cases in every run."""

    @settings(FIXED, max_examples=50)
    @given(batch=batches(OPS[name], 8))
    def run(batch: Batch) -> None:
        run_cases(batch[1], device, batch[0])

    run()


# What generated cases found ----------------------------------------------------------------------------------------


def case_of(op: Op, *arrays: np.ndarray, dtype: DataType | None = None, constant: bool = False) -> Case:
    """Operands of the arrays' data types, or of `dtype`; all but the first are constants, if asked."""
    operands = tuple(Operand(TensorType(dtype or DataType.of(a.dtype), a.shape), a) for a in arrays)
    return Case(op, operands, tuple(constant and i > 0 for i in range(len(arrays))))


def four_bits(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.int8).reshape(shape) % 16 - 8


def large(*shape: int, dtype: type[np.generic] = np.int64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**64, shape, np.uint64).view(dtype)


U32, U64 = np.uint32, np.uint64
FOUND = {
    "max pooling of 64 bits": case_of(MaxPool2d((2, 2)), large(1, 3, 4, 5)),
    "max pooling of 64 bits, channels last": case_of(MaxPool2d((2, 1), (1, 0, 0, 0), layout="nhwc"), large(1, 3, 4, 8)),
    "max pooling of unsigned 64 bits": case_of(MaxPool2d((3, 2)), large(1, 3, 4, 5, dtype=U64)),
    "L1 norm of single unsigned elements": case_of(ReduceL1(()), large(5, dtype=U64).astype(U32)),
    "clamp of unsigned numbers at zero": case_of(Clamp(0.0), large(5, dtype=U64)),
    "4-bit input that is an output": case_of(Identity(), four_bits(3, 5), dtype=DataType.INT4),
    "padding of a scalar": case_of(Pad(), np.array(3.5, np.float32)),
    "more bytes side by side than bindings": case_of(Concat(1), *np.ones((17, 2, 3), np.int8) * four_bits(17, 1, 1)),
}


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.pipeline + " with features" * c.features)
def test_what_generated_cases_found(device: gpucompile.Device, name: str, config: Config) -> None:
    """Each of these was a wrong number, or was refused once."""
    run_cases([FOUND[name]], device, config)


def test_broadcast_constants_of_4_bits(device: gpucompile.Device) -> None:
    condition = np.array([[1, 0, 2]], np.uint8)
    operands = [Operand(TensorType(DataType.UINT8, (1, 3)), condition)]
    operands += [Operand(TensorType(DataType.INT4, (1, 1)), np.full((1, 1), v, np.int8)) for v in (-3, 7)]
    run_cases([Case(Where(), tuple(operands), (False, True, True))], device, CONFIGS[0])
