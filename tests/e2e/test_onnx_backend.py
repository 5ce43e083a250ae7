"""ONNX's own backend tests on the device, and the interface that runs them.

Every case that `onnx_refused.txt` does not list must give the results ONNX expects; every one that it lists must still
be refused with a reason. `python -m tests.onnx_backend` counts, and explains refusals.
"""

from __future__ import annotations

import sys
import unittest
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.backend.test.runner import Runner

from gpucompile import onnx_backend
from gpucompile.errors import GpucompileWarning, InputError, UnsupportedError
from gpucompile.runtime.host import HOSTS, REFERENCE
from tests.null.onnx_models import model, node
from tests.onnx_backend import REFUSED, Interpreter, cases, main, run

SHARDS = 8
DEVICE_TOO = {"test_strnorm_model_nostopwords_nochangecase", "test_cast_FLOAT_to_DOUBLE", "test_compress_bfloat16"}


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
@pytest.mark.parametrize("host", HOSTS)
def test_listed_cases_run_with_nodes_on_the_cpu(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the two that no host has either (`native`: the results have no elements); excuses are in a short list."""
    if host == REFERENCE:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    listed = refused()
    outcomes = {c.name: run(c, True, fallback=True) for c in cases() if c.name in listed}
    excused = {name for name, o in outcomes.items() if o.kind == "excused"}
    assert len(excused) <= 20, excused
    others = {name: o for name, o in outcomes.items() if o.kind not in ("native", "fallback", "excused")}
    assert others.keys() == {"test_gradient_of_add", "test_gradient_of_add_and_mul"}, others
    assert all("neither the device nor a host takes" in o.why for o in others.values())


@pytest.mark.filterwarnings("ignore")
def test_fallback_on_the_device(device: Any) -> None:
    """Some cases of each kind, and the interface."""
    found = [c for c in cases() if c.name in refused() and c.name in DEVICE_TOO]
    outcomes = [run(c, False, device, fallback=True) for c in found]
    assert [o.kind for o in outcomes] == ["fallback"] * len(DEVICE_TOO), outcomes
    made = model([node("Cast", "x", outputs=["d"], to=TensorProto.DOUBLE), node("Exp", "d")], {"x": (2,)})
    x = np.ones(2, np.float32)
    with pytest.raises(UnsupportedError, match="double"):
        onnx_backend.run_model(made, [x], gpu=device)
    rep = onnx_backend.prepare(made, gpu=device, fallback="warn")
    with pytest.warns(GpucompileWarning, match="2 nodes run on the CPU: Cast"):
        (y,) = rep.run([x])
    np.testing.assert_allclose(y, np.exp(np.ones(2)), 1e-14)
    assert [n.op for n in rep.fallback] == ["Cast", "Exp"]
    with pytest.raises(InputError, match="fallback is 'maybe'"):
        onnx_backend.prepare(made, gpu=device, fallback="maybe")


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


def test_patterns_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["-k", "["])
    assert "argument -k: '[' is not a regular expression: unterminated character set" in capsys.readouterr().err
