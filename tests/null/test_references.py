"""Each op's numpy reference, which judges the kernels, against ONNX's reference implementation or its definition.

The operands are those of `tests/generate`: all data types and options of every op.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpucompile.ir.op import Op
from tests.generate.draw import Case
from tests.generate.sources import EXCUSED, SOURCES, source_of
from tests.generate.strategies import cases, data_types
from tests.support import OPS

NAMES = [name for name in OPS if name not in EXCUSED]

#: (relative, absolute): one unit in the last place, as references round once. ONNX has attributes, and constants of ops
#: that it writes as others, in float32.
BOUNDS = {"float32": (2.0**-23, 2e-7), "float16": (2.0**-10, 2e-7)}


def test_every_op_has_a_source() -> None:
    assert [name for name in NAMES if source_of(OPS[name]) is None] == []
    assert set(EXCUSED) <= set(Op.registry)
    assert not set(EXCUSED) & set(SOURCES)


def compare(case: Case) -> None:
    source = source_of(type(case.op))
    assert source is not None
    arrays = [None if o is None else o.array for o in case.operands]
    with np.errstate(all="ignore"):
        got = case.op.reference(*arrays)
        wide = [a if a is None or a.dtype.kind != "f" else a.astype(np.float64) for a in arrays]
        want = source(case.op, *wide)
    results = got if isinstance(got, tuple) else (got,)
    expected = want if isinstance(want, tuple) else (want,)
    for g, w in zip(results, expected, strict=True):
        assert g.shape == w.shape
        if g.dtype.kind != "f":
            np.testing.assert_array_equal(g, w.astype(g.dtype))
            continue
        relative, absolute = BOUNDS[g.dtype.name]
        with np.errstate(over="ignore"):
            w = np.asarray(w, np.float64).astype(g.dtype)
        np.testing.assert_allclose(g.astype(np.float64), w.astype(np.float64), rtol=relative, atol=absolute)


@pytest.mark.parametrize("name", NAMES)
def test_reference_is_what_another_source_says(name: str) -> None:
    cls = OPS[name]

    @settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=12,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    @given(batch=st.tuples(*(cases(cls, dtype) for dtype in data_types(cls))))
    def run(batch: tuple[Case, ...]) -> None:
        for case in batch:
            compare(case)

    run()
