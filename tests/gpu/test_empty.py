"""Tensors without elements: inputs, what is computed from them, and outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import gpucompile
from gpucompile import Device, InputError
from gpucompile.ir.text import parse_graph
from tests.null.onnx_models import ints, model, node, random, runtime


def cache() -> onnx.ModelProto:
    """A key cache that may be empty: its past, what is new, both."""
    return model(
        [node("Concat", "past", "new", outputs=["all"], axis=1), node("Relu", "all", outputs=["y"]),
         node("ReduceSum", "past", "axes", outputs=["sum"], keepdims=0), node("Identity", "past", outputs=["same"])],
        {"past": (2, "n", 3), "new": (2, 1, 3)}, ints(axes=[1]), outputs=("y", "sum", "same"),
    )  # fmt: skip


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("n", [0, 2])
def test_a_dimension_may_be_zero(device: Device, tmp_path: Path, n: int, saved: bool) -> None:
    bundle = gpucompile.compile(cache(), dims={"n": n})
    assert parse_graph(bundle.gir()).inputs[0].type.shape == (2, n, 3)
    source = bundle.save(tmp_path / "model.gpub") if saved else bundle
    feeds = random({"past": (2, n, 3), "new": (2, 1, 3)})
    with gpucompile.load(source, device) as run:
        found = run.run(feeds)
        with pytest.raises(InputError, match="is missing"):
            run.run({"new": feeds["new"]})
        with pytest.raises(InputError, match="expected"):
            run.run(feeds | {"past": np.zeros((2, n + 1, 3), np.float32)})
    for y, want in zip(found.values(), runtime(cache(), feeds), strict=True):
        np.testing.assert_allclose(y, want, atol=1e-6, strict=True)
    assert not n or found["same"].size


def test_only_empty_outputs(device: Device) -> None:
    made = model([node("Slice", "x", "starts", "ends")], {"x": (4, 5)}, ints(starts=[3], ends=[3]))
    with gpucompile.load(gpucompile.compile(made), device) as run:
        y = run(np.ones((4, 5), np.float32))
    assert (y.shape, y.dtype) == ((0, 5), np.float32)


@pytest.mark.parametrize("value", [-1, 1.5, True, "2"])
def test_dimensions_are_integers(value: object) -> None:
    with pytest.raises(InputError, match="must be an integer that is not negative"):
        gpucompile.compile(cache(), dims={"n": value})  # type: ignore[dict-item]


def test_an_explicit_zero_is_zero(device: Device) -> None:
    """A declared size of 0 is no free dimension."""
    made = cache()
    made.graph.input[0].CopyFrom(helper.make_tensor_value_info("past", onnx.TensorProto.FLOAT, (2, 0, 3)))
    bundle = gpucompile.compile(made)
    with gpucompile.load(bundle, device) as run:
        assert run.run(random({"past": (2, 0, 3), "new": (2, 1, 3)}))["y"].shape == (2, 1, 3)
