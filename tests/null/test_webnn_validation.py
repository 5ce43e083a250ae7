"""The validation tests of the W3C WebNN suite: what builder calls refuse and what types they infer. No shader runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gpucompile.ir.op import Op
from gpucompile.webnn import ML
from gpucompile.webnn.operators import OPERATORS
from tests.wpt import gaps, suite
from tests.wpt.check import check_file


@pytest.fixture(scope="module")
def context(device: Any) -> Iterator[Any]:
    with ML().create_context(gpu_device=device) as context:
        yield context


@pytest.mark.parametrize("file", suite.files("validation"))
def test_validation(context: Any, file: str) -> None:
    check_file("validation", file, context, suite.run_validation)


def test_gaps_name_existing_files() -> None:
    for kind, reasons in gaps.GAPS.items():
        known = set(suite.files("conformance" if "openvino" in kind else kind))
        assert {f for files in reasons.values() for f in files} <= known


def test_every_operator_has_a_class() -> None:
    assert [name for name in OPERATORS if name not in Op.registry] == []
