"""ONNX's own backend tests on the device, and the interface that runs them.

Every case that `onnx_refused.txt` does not list must give the results ONNX expects; every one that it lists must still
be refused with a reason. `python -m tests.onnx_backend` counts, and explains refusals.
"""

from __future__ import annotations

import unittest
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.backend.test.runner import Runner

from gpucompile import onnx_backend
from gpucompile.errors import InputError, UnsupportedError
from tests.null.onnx_models import model, node
from tests.onnx_backend import REFUSED, Interpreter, cases, run

SHARDS = 8


def refused() -> set[str]:
    return set(REFUSED.read_text().split())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shard", range(SHARDS))
def test_cases_run_natively(shard: int, device: Any) -> None:
    skipped = refused()
    chosen = [c for c in list(cases())[shard::SHARDS] if c.name not in skipped]
    assert len(chosen) > 180
    outcomes = [run(case, False, device) for case in chosen]
    assert [(o.name, o.kind, o.why) for o in outcomes if o.kind != "native"] == []


@pytest.mark.filterwarnings("ignore")
def test_listed_cases_are_refused_with_a_reason() -> None:
    """A case that works by now must leave the list: `python -m tests.onnx_backend --update`."""
    listed = refused()
    found = [case for case in cases() if case.name in listed]
    assert len(found) == len(listed)  # no name that does not exist
    for case in found:
        outcome = run(case, True)
        assert outcome.kind == "refused" and outcome.why, outcome


@pytest.mark.filterwarnings("ignore")
def test_the_runner_of_the_onnx_package(device: Any) -> None:
    """As its documentation has it, with the interpreter and with the device."""
    for backend in (Interpreter, onnx_backend.WebGPUBackend):
        tests = Runner(backend, __name__)
        tests.include(r"^test_(relu|softmax_axis_1|maxpool_2d_same_upper|reshape_negative_dim|and2d)_cpu$")
        result = unittest.TestResult()
        tests.test_suite.run(result)
        assert (len(result.errors), len(result.failures)) == (0, 0), result.errors + result.failures
        assert result.testsRun - len(result.skipped) == 5


def test_run_node_and_run_model(device: Any) -> None:
    x = np.array([[1, -2], [-3, 4]], np.float32)
    (y,) = onnx_backend.run_node(helper.make_node("Relu", ["x"], ["y"]), [x], gpu=device)
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    (y,) = onnx_backend.run_node(
        helper.make_node("Greater", ["x", "z"], ["y"]), [x, np.zeros(1, "f")], opset_version=13
    )
    assert y.dtype == np.bool_ and (y == (x > 0)).all()
    reduce = helper.make_node("ReduceSum", ["x"], ["y"], axes=[1], keepdims=0)
    outputs = onnx_backend.run_node(reduce, x, opset_version=11, outputs_info=[(np.float32, (2,))])
    np.testing.assert_array_equal(outputs[0], x.sum(1))
    made = model([node("Add", "x", "x")], {"x": ("n", 2)})
    results: Any = onnx_backend.run_model(made, {"x": x}, gpu=device)
    np.testing.assert_array_equal(results.y, x + x)
    np.testing.assert_array_equal(results[0], x + x)


def test_a_prepared_model_adapts_to_its_inputs(device: Any) -> None:
    """Other shapes, and other values where a shape depends on them, compile again; equal ones do not."""
    made = model([node("Reshape", "x", "s")], {"x": ("n", 4)})
    made.graph.input.append(helper.make_tensor_value_info("s", TensorProto.INT64, [2]))
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ("a", "b")))
    rep = onnx_backend.prepare(made, gpu=device)
    for rows, shape, programs in ((2, (4, 2), 1), (2, (8, 1), 2), (3, (6, -1), 3), (2, (4, 2), 3)):
        x = np.arange(4 * rows, dtype=np.float32).reshape(rows, 4)
        (y,) = rep.run([x, np.array(shape)])
        np.testing.assert_array_equal(y, x.reshape(shape))
        assert len(rep._programs) == programs


def test_errors(device: Any) -> None:
    assert onnx_backend.supports_device("CPU") and not onnx_backend.supports_device("CUDA:1")
    made = model([node("Relu", "x")], {"x": (2,)})
    with pytest.raises(InputError, match="no device 'TPU'"):
        onnx_backend.prepare(made, "TPU")
    with pytest.raises(InputError, match="2 inputs given, the model takes 1"):
        onnx_backend.run_model(made, [np.zeros(2, "f")] * 2, gpu=device)
    with pytest.raises(UnsupportedError, match="input 'x' has the data type float64"):
        onnx_backend.run_model(made, [np.zeros(2)], gpu=device)
    made.graph.node[0].op_type = "NoSuchOp"
    with pytest.raises(onnx.checker.ValidationError):
        onnx_backend.prepare(made)
