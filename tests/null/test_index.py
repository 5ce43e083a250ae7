"""Index arithmetic: every simplified expression has the value of the plain one, and stays in its range."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from gpucompile.ir.index import Index, delinearize, linearize

EXTENTS = {"a": 4, "b": 7, "c": 16, "d": 3}
FACTORS = st.sampled_from([2, 3, 4, 6, 8, 12, 16])


def texts(depth: int) -> st.SearchStrategy[str]:
    """Random expressions over the variables, as Python text."""
    leaf = st.sampled_from(list(EXTENTS))
    if depth == 0:
        return leaf
    inner = texts(depth - 1)
    return st.one_of(
        st.builds("({}+{})".format, inner, inner),
        st.builds("({}{}{})".format, inner, st.sampled_from(["*", "//", "%", "+"]), FACTORS),
    )


@settings(max_examples=300, deadline=None)
@given(texts(5), st.fixed_dictionaries({n: st.integers(0, e - 1) for n, e in EXTENTS.items()}))
def test_simplification_keeps_the_value(text: str, values: dict[str, int]) -> None:
    index = eval(text, {}, {n: Index.var(n, e) for n, e in EXTENTS.items()})
    python = re.sub(r"(\d)u", r"\1", index.wgsl()).replace("/", "//")
    want = eval(text, {}, values)
    assert eval(python, {}, values) == want
    low, high = index.range
    assert low <= want <= high
    constant = index.substitute({n: Index.of(v) for n, v in values.items()})
    assert constant.value == want


def test_reshape_of_a_vector_keeps_neighbours_together() -> None:
    lane, i = Index.var("lane", 4), Index.var("i", 30)
    flat = i * 4 + lane
    assert linearize(delinearize(flat, (5, 2, 12)), (5, 2, 12)) == flat
    assert flat // 4 == i and flat % 4 == lane
    assert (flat // 12).wgsl() == "(i / 3u)"
    assert flat % 12 == (i % 3) * 4 + lane


def test_negative_positions_are_ranges_below_zero() -> None:
    x = Index.var("x", 8)
    assert (x - 3).range == (-3, 4)
    assert (7 - x).wgsl() == "(7u - x)"
