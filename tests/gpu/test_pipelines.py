"""Pipelines are shared: by graphs that live at the same time, and by graphs that come soon after each other."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

import gpucompile
from gpucompile.ir.graph import Graph
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.activation import Linear
from gpucompile.runtime import device as device_module

X = np.arange(4, dtype=np.float32)


def linear(alpha: float) -> gpucompile.Bundle:
    graph = Graph("linear")
    graph.set_outputs({"y": graph.add(Linear(alpha), graph.add_input("x", TensorType(DataType.FLOAT32, (4,))))})
    return gpucompile.compile(graph)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, device: gpucompile.Device) -> list[str]:
    """Labels of the shaders compiled from here on."""
    labels: list[str] = []
    create = type(device.handle).create_shader_module

    def counting(self: Any, **options: Any) -> Any:
        labels.append(options["label"])
        return create(self, **options)

    monkeypatch.setattr(type(device.handle), "create_shader_module", counting)
    return labels


def test_the_same_shader_is_compiled_once(compiled: list[str]) -> None:
    with gpucompile.Device.open() as device:
        for alpha in (2.0, 3.0, 2.0, 3.0):
            with gpucompile.load(linear(alpha), device=device) as run:
                np.testing.assert_array_equal(run(X), X * alpha)
            gc.collect()
        assert len(compiled) == 2


def test_few_are_kept(compiled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "MAX_RECENT", 3)
    with gpucompile.Device.open() as device:
        for alpha in range(1, 9):
            gpucompile.load(linear(float(alpha)), device=device).close()
            assert len(device._recent) <= 3
        gc.collect()
        assert len(device._pipelines) == 3 and len(device._modules) <= 3
        gpucompile.load(linear(8.0), device=device).close()
        assert len(compiled) == 8
        gpucompile.load(linear(1.0), device=device).close()
        assert len(compiled) == 9
    assert not device._recent
