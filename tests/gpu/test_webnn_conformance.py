"""The conformance tests of the W3C WebNN suite, compiled through the default pipeline and run on the adapter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gpucompile.webnn import ML
from tests.wpt import suite
from tests.wpt.check import check_file


@pytest.fixture(scope="module")
def context(device: Any) -> Iterator[Any]:
    with ML().create_context(gpu_device=device) as context:
        yield context


@pytest.mark.parametrize("file", suite.files("conformance"))
def test_conformance(context: Any, file: str) -> None:
    check_file("conformance", file, context, suite.run_conformance)
