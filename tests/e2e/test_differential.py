"""One script, with onnxruntime (on the CPU) and with gpucompile: only the name in its imports differs.

The nine networks with random weights, one of them also as the `onnx` package ships it, and the architectures of
`benchmarks.zoo` reduced. What the script saw has to be the same, numbers up to rounding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from benchmarks import networks, zoo

#: Relative to the largest value.
TOLERANCE = 1e-4

SCRIPT = '''
import threading

import numpy as np
import PACKAGE as ort
from PACKAGE.capi.onnxruntime_pybind11_state import InvalidArgument


def describe(args):
    return [(a.name, list(a.shape), a.type, str(a)) for a in args]


def attempt(expected, call):
    """Whether a program that catches this goes on."""
    try:
        call()
    except expected:
        return "caught"
    return "no error"


def main(path, feeds, dims):
    seen = {}
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    for name, size in dims.items():
        options.add_free_dimension_override_by_name(name, size)
    session = ort.InferenceSession(path, sess_options=options)

    meta = session.get_modelmeta()
    names = ("producer_name", "graph_name", "domain", "description", "graph_description", "version")
    seen["metadata"] = [getattr(meta, n) for n in names] + [dict(meta.custom_metadata_map)]
    seen["inputs"] = describe(session.get_inputs())
    seen["outputs"] = describe(session.get_outputs())
    seen["initializers"] = describe(session.get_overridable_initializers())
    outputs = [o.name for o in session.get_outputs()]

    seen["run"] = session.run(None, feeds)
    seen["some"] = session.run(outputs[::-1][:2], feeds, ort.RunOptions())

    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    for name in outputs:
        binding.bind_output(name)
    session.run_with_iobinding(binding)
    values = binding.get_outputs()
    seen["bound"] = [(v.shape(), v.data_type(), v.device_name(), v.is_tensor(), v.element_type()) for v in values]
    seen["copied"] = binding.copy_outputs_to_cpu()

    binding = session.io_binding()
    given = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
    for name, value in given.items():
        dtype = value.numpy().dtype.type
        binding.bind_input(name, value.device_name(), 0, dtype, value.shape(), value.data_ptr())
    target = ort.OrtValue.ortvalue_from_shape_and_type(values[0].shape(), values[0].numpy().dtype.type)
    binding.bind_ortvalue_output(outputs[0], target)
    session.run_with_iobinding(binding)
    seen["pre-allocated"] = [target.numpy()]
    seen["values"] = [v.numpy() for v in session.run_with_ort_values(outputs, given)]

    done = threading.Event()

    def callback(results, user_data, error):
        seen["callback"], seen["user data"], seen["error"] = results, user_data, error
        done.set()

    session.run_async(outputs, feeds, callback, "mine")
    assert done.wait(120)

    name, array = next(iter(feeds.items()))
    wrong = np.float64 if array.dtype != np.float64 else np.float32
    seen["errors"] = [
        attempt(InvalidArgument, lambda: session.run(["there is no such output"], feeds)),
        attempt(InvalidArgument, lambda: session.run(None, {**feeds, "there is no such input": array})),
        attempt(ValueError, lambda: session.run(None, {})),
        attempt(InvalidArgument, lambda: session.run(None, {**feeds, name: array.astype(wrong)})),
        attempt(InvalidArgument, lambda: session.run(None, {**feeds, name: array[None]})),
    ]
    seen["after errors"] = session.run(outputs[:1], feeds)
    return seen
'''


def run(package: str, path: Path, feeds: dict[str, np.ndarray], dims: dict[str, int]) -> dict[str, Any]:
    module: dict[str, Any] = {}
    exec(SCRIPT.replace("PACKAGE", package), module)
    result: dict[str, Any] = module["main"](str(path), feeds, dims)
    return result


def compare(path: Path, feeds: dict[str, np.ndarray], dims: dict[str, int]) -> dict[str, Any]:
    ours, theirs = (run(package, path, feeds, dims) for package in ("gpucompile", "onnxruntime"))
    assert list(ours) == list(theirs)
    # where neither the model nor ONNX's inference says an output's shape, onnxruntime's own inference may know more
    unknown = {name for name, shape, *_ in ours["outputs"] if not shape}
    for seen in (ours, theirs):
        seen["outputs"] = [(n, t) if n in unknown else (n, s, t, text) for n, s, t, text in seen["outputs"]]
    for name, expected in theirs.items():
        if not isinstance(expected, list) or not isinstance(expected[0] if expected else None, np.ndarray):
            assert ours[name] == expected, name
            continue
        for got, want in zip(ours[name], expected, strict=True):
            assert (got.shape, got.dtype) == (want.shape, want.dtype), name
            if want.dtype.kind == "f":
                assert np.isfinite(got).all() and want.any(), name
                assert float(np.abs(got - want).max()) <= TOLERANCE * float(np.abs(want).max()), name
            else:
                np.testing.assert_array_equal(got, want, name)
    assert set(theirs["errors"]) == {"caught"}
    return ours


def _sampled(names: tuple[str, ...], quick: set[str]) -> list[Any]:
    return [pytest.param(n, marks=[] if n in quick else pytest.mark.slow) for n in names]


@pytest.mark.parametrize("name", _sampled(networks.NAMES, set()))
def test_networks(adapter: Any, name: str) -> None:
    compare(networks.cached(name), networks.random_input(name), {})


@pytest.mark.slow
def test_a_network_as_shipped(adapter: Any) -> None:
    """Opset 9, whose weights are graph inputs too."""
    compare(networks.shipped("squeezenet"), networks.shipped_input("squeezenet"), {})


@pytest.mark.parametrize("name", _sampled(tuple(zoo.NETWORKS), {"bert", "gpt2", "mobilenet_v2", "squeezenet_1_1"}))
def test_architectures(adapter: Any, name: str, tmp_path: Path) -> None:
    """With their free dimensions bound by the options."""
    network = zoo.NETWORKS[name]
    model = network.build(reduced=True)
    onnx.save(model, tmp_path / "model.onnx")
    compare(tmp_path / "model.onnx", network.feeds(model, reduced=True), dict(network.dims))


@pytest.mark.parametrize("name", _sampled(tuple(n for n in zoo.NETWORKS if zoo.NETWORKS[n].dims), {"distilbert"}))
def test_free_dimensions(adapter: Any, name: str, tmp_path: Path) -> None:
    """With free dimensions that come from the inputs, and symbols in what the session says of itself."""
    network = zoo.NETWORKS[name]
    model = network.build(reduced=True)
    onnx.save(model, tmp_path / "model.onnx")
    seen = compare(tmp_path / "model.onnx", network.feeds(model, reduced=True), {})
    assert any(isinstance(d, str) for _, shape, *_ in seen["inputs"] for d in shape)
