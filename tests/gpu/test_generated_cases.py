"""Every op with drawn shapes, options and values of every data type on the adapter, against its numpy reference.

The same cases in every run; other ones by `-m slow`. `tests/generate` draws them.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import gpucompile
from gpucompile.ir.op import Op
from tests.generate.draw import Case
from tests.generate.run import CONFIGS, Config, run_cases
from tests.generate.strategies import EXCUSED, cases, data_types
from tests.support import OPS

NAMES = [name for name in OPS if name not in EXCUSED]
#: Cases are shrunk one after the other, each of them a pipeline: without an end this takes minutes.
FIXED = settings(
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


def batches(cls: type[Op], repeat: int = 1) -> st.SearchStrategy[tuple[Config, list[Case]]]:
    """`repeat` cases of every data type that the op takes, and how to compile them."""
    drawn = [cases(cls, dtype) for dtype in data_types(cls)] * repeat
    return st.tuples(st.sampled_from(CONFIGS), st.tuples(*drawn).map(list))


@pytest.mark.parametrize("name", NAMES)
def test_generated_cases(device: gpucompile.Device, name: str) -> None:
    @settings(FIXED, max_examples=6)
    @given(batch=batches(OPS[name]))
    def run(batch: tuple[Config, list[Case]]) -> None:
        run_cases(batch[1], device, batch[0])

    run()
