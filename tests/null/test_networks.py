"""The benchmark networks: what the wheel ships, and the same with random weights."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from benchmarks import networks

# Under two seconds each on two cores; the others write up to 575 MB.
SMALL = ("squeezenet", "shufflenet")
SAMPLED = ("inception_v2",)


def _marked(name):
    if name in SMALL:
        return name
    marks = [pytest.mark.slow, pytest.mark.sample] if name in SAMPLED else [pytest.mark.slow]
    return pytest.param(name, marks=marks)


every_network = pytest.mark.parametrize("name", [_marked(n) for n in networks.NAMES])
small_networks = pytest.mark.parametrize("name", SMALL)


def _session(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # two shipped files have an initializer that nobody uses
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@every_network
def test_shipped_model_gives_the_stored_output(name):
    (y,) = _session(networks.shipped(name)).run(None, networks.shipped_input(name))
    stored = networks.stored_output(name)
    assert y.shape == stored.shape == ((1, 1000, 1, 1) if name in ("squeezenet", "densenet121") else (1, 1000))
    np.testing.assert_allclose(y, stored, rtol=1e-5)
    assert np.ptp(stored) == 0  # which is why the random weights exist


@every_network
def test_activations_neither_die_nor_explode(name):
    figures = networks.statistics(name)
    assert figures["std min"] >= 0.05 and figures["std max"] <= 50
    assert figures["zeros max"] < 0.9
    assert 1.5 / 1000 < figures["top"] < 0.9
    assert figures["varies"] > 0.1
    assert figures["amplifies"] < 100  # or float32 rounding would come near the tolerance of 1e-4


@small_networks
def test_randomized_model_is_valid_and_free_of_old_idioms(name):
    model = networks.randomized(name)
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert [len(model.graph.input), len(model.graph.output)] == [1, 1]
    ops = {n.op_type for n in model.graph.node}
    assert not ops & {"ConstantOfShape", "Dropout", "Sum"}
    used = {i for n in model.graph.node for i in n.input}
    names = [t.name for t in model.graph.initializer]
    assert len(names) == len(set(names)) and set(names) <= used


@small_networks
def test_architecture_is_the_shipped_one(name):
    """Same ops on the same shapes in the same order, but for what the upgrade takes out."""
    old = onnx.shape_inference.infer_shapes(onnx.load(networks.shipped(name)))
    new = onnx.shape_inference.infer_shapes(networks.randomized(name))

    def layers(model):
        values = [*model.graph.value_info, *model.graph.output]
        shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
        same = {"Sum": "Add"}
        moved = ("axis", "axes")  # of Softmax and Unsqueeze
        return [
            (
                same.get(n.op_type, n.op_type),
                shapes[n.output[0]],
                sorted((a.name, helper.get_attribute_value(a)) for a in n.attribute if a.name not in moved),
            )
            for n in model.graph.node
            if n.op_type not in ("ConstantOfShape", "Dropout")
        ]

    assert layers(new) == layers(old)


@small_networks
def test_weights_depend_on_the_seed_alone(name):
    model, again = networks.randomized(name), networks.randomized(name)
    other = networks.randomized(name, seed=1)
    assert model == again
    floats = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    others = {t.name: numpy_helper.to_array(t) for t in other.graph.initializer}
    for t in floats:
        value = numpy_helper.to_array(t)
        assert np.ptp(value) > 0 and np.isfinite(value).all(), t.name
        assert not np.array_equal(value, others[t.name]), t.name


def test_batch_norm_parameters_are_realistic():
    model = networks.randomized("shufflenet")
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for n in model.graph.node:
        if n.op_type == "BatchNormalization":
            scale, bias, mean, variance = (values[i] for i in n.input[1:])
            assert (variance > 0).all() and (scale > 0.1).all(), n.name
            assert bias.std() > 0 and mean.std() > 0, n.name


def test_random_input_depends_on_the_seed():
    (x,) = networks.random_input("squeezenet").values()
    (again,) = networks.random_input("squeezenet").values()
    (other,) = networks.random_input("squeezenet", seed=1).values()
    assert (x.shape, x.dtype) == ((1, 3, 224, 224), np.float32)
    assert np.array_equal(x, again) and not np.array_equal(x, other)


def test_cache_is_filled_once_and_nothing_else_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = networks.cached("squeezenet")
    assert path.is_relative_to(tmp_path)
    stamp = path.stat().st_mtime_ns
    assert networks.cached("squeezenet") == path and path.stat().st_mtime_ns == stamp
    y = networks.expected("squeezenet")
    np.testing.assert_allclose(y, _session(path).run(None, networks.random_input("squeezenet"))[0], rtol=1e-5)
    assert np.array_equal(networks.expected("squeezenet"), y)
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".npz", ".onnx"]


def test_failed_writing_leaves_nothing(tmp_path, monkeypatch):
    def fail(name, seed=0):
        raise RuntimeError("no")

    monkeypatch.setattr(networks, "randomized", fail)
    with pytest.raises(RuntimeError):
        networks.write(tmp_path, ["squeezenet"])
    assert not list(tmp_path.iterdir())


def test_command_line_writes_files(tmp_path, capsys):
    assert networks.main([str(tmp_path / "out"), "squeezenet"]) == 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["squeezenet.onnx"]
    assert "MB" in capsys.readouterr().out
    for wrong in ([], [str(tmp_path), "lenet"]):
        with pytest.raises(SystemExit) as e:
            networks.main(wrong)
        assert e.value.code == 2
    assert "unknown network 'lenet'" in capsys.readouterr().err


def test_unknown_network_is_refused():
    with pytest.raises(ValueError, match=r"unknown network 'lenet'; known: alexnet, "):
        networks.shipped("lenet")
