"""A WebNN context on the device of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gpucompile.webnn import ML, MLContext


@pytest.fixture
def context(device: Any) -> Iterator[MLContext]:
    with ML().create_context(gpu_device=device) as context:
        yield context
