"""The conformance tests of the W3C WebNN suite, compiled and run on the adapter.

default   as an application gets it: the default pipeline, all that the device has
no-fuse   one kernel an operator
portable  code that relies on WebGPU's default limits only
masked    code that relies on no optional feature: float16 without shader-f16, no subgroups

All files run in the default mode, and each in one of the others; the rest is slow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from gpucompile.target import DEFAULT_LIMITS, Target
from gpucompile.webnn import ML
from tests.wpt import suite
from tests.wpt.check import check_file

MODES = ("default", "no-fuse", "portable", "masked")


def options(mode: str, device: Any) -> dict[str, Any]:
    """What `create_context` is given in a mode."""
    whole = Target.of(SimpleNamespace(features=device.features, limits=device.limits, info=device.adapter.info))
    return {
        "default": {},
        "no-fuse": {"pipeline": "no-fuse"},
        "portable": {"target": replace(whole, limits=dict(DEFAULT_LIMITS))},
        "masked": {"target": whole.without(*whole.features)},
    }[mode]


@pytest.fixture(scope="module")
def context(request: pytest.FixtureRequest, device: Any) -> Iterator[Any]:
    with ML().create_context(gpu_device=device, **options(request.param, device)) as context:
        yield context


def runs() -> Iterator[Any]:
    for mode in MODES:
        for i, file in enumerate(suite.files("conformance")):
            often = mode in ("default", MODES[1 + i % (len(MODES) - 1)])
            yield pytest.param(mode, file, marks=() if often else (pytest.mark.slow, pytest.mark.sample))


@pytest.mark.parametrize(("context", "file"), list(runs()), indirect=["context"])
def test_conformance(context: Any, file: str) -> None:
    check_file("conformance", file, context, suite.run_conformance)
