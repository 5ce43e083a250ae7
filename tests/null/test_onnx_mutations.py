"""2,000 damaged variants of a small model: each is refused with an error of ours or computed correctly.

Never another exception, a warning, a crash, a hang or a wrong shape; see `onnx_variants`.
"""

from __future__ import annotations

import pytest

from tests.null import onnx_variants as variants
from tests.null.onnx_mutations import WHOLE


def test_the_model_itself() -> None:
    problems, counts = variants.check([WHOLE], lambda _: True)
    assert not problems and counts["right"] == 1


def test_variants() -> None:
    """Every fifth is compiled too, the others are imported and interpreted."""
    problems, counts = variants.check(range(2000), lambda seed: seed % 5 == 0)
    assert not problems
    # otherwise the damage is too heavy, or too light, to try much
    assert counts["refused"] > 1000 and counts["right"] > 100


@pytest.mark.slow
def test_more_variants_compiled() -> None:
    problems, _ = variants.check(range(2000, 12000), lambda _: True)
    assert not problems


@pytest.mark.parametrize(
    ("function", "happens"),
    [
        ("raising", "KeyError: 'x'"),
        ("crashing", "crashes"),
        ("hanging", "takes more than"),
        ("warning", "UserWarning: w"),
        ("allocating", "MemoryError"),
    ],
)
def test_what_would_be_noticed(function: str, happens: str) -> None:
    with variants.Apart(3.0) as apart:
        _, problem = apart.call(getattr(variants, function))
    assert happens in problem
