"""Networks compiled with precision f16: the device agrees with the interpreter, and float32 is near."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import gpucompile
from gpucompile import Device, InputError, PrecisionWarning, Target
from gpucompile.cli.main import main
from gpucompile.frontends.onnx.importer import import_model
from gpucompile.ir.interpret import interpret
from gpucompile.precision import convert, error
from tests.null.onnx_models import ints, model, node, random


def network() -> onnx.ModelProto:
    """A convolution, attention over its rows with a mask of large numbers, a layer normalisation made of parts."""
    weights = {
        "k": 0.3 * random({"k": (16, 4, 3, 3)})["k"],
        **{n: 0.2 * random({n: (16, 16)}, seed)[n] for seed, n in enumerate(("q", "u", "v"), 1)},
        "mask": np.where(np.tri(64) > 0, 0, -1e9).astype(np.float32)[None],
        "epsilon": np.array(1e-12, np.float32),
        "two": np.array(2, np.float32),
        **ints(rows=[1, 64, 16]),
    }
    nodes = [
        node("Conv", "x", "k", outputs=["c"], pads=[1, 1, 1, 1]),
        node("Relu", "c", outputs=["r"]),
        node("Transpose", "r", outputs=["t"], perm=[0, 2, 3, 1]),
        node("Reshape", "t", "rows", outputs=["h"]),
        *(node("MatMul", "h", w, outputs=[f"h{w}"]) for w in "quv"),
        node("Transpose", "hu", outputs=["hut"], perm=[0, 2, 1]),
        node("MatMul", "hq", "hut", outputs=["s"]),
        node("Add", "s", "mask", outputs=["m"]),
        node("Softmax", "m", outputs=["p"], axis=-1),
        node("MatMul", "p", "hv", outputs=["a"]),
        node("ReduceMean", "a", outputs=["mean"], axes=[-1]),
        node("Sub", "a", "mean", outputs=["d"]),
        node("Pow", "d", "two", outputs=["d2"]),
        node("ReduceMean", "d2", outputs=["var"], axes=[-1]),
        node("Add", "var", "epsilon", outputs=["ve"]),
        node("Sqrt", "ve", outputs=["sd"]),
        node("Div", "d", "sd"),
    ]
    return model(nodes, {"x": (1, 4, 8, 8)}, weights)


@pytest.mark.parametrize("kind", ["portable", "native"])
@pytest.mark.filterwarnings("ignore::gpucompile.PrecisionWarning")
def test_the_device_agrees(device: Device, kind: str) -> None:
    target = Target.portable() if kind == "portable" else Target.of(device.adapter)
    made = network()
    bundle = gpucompile.compile(made, target, precision="f16")
    exact = gpucompile.compile(made, target)
    assert bundle.report is not None and exact.report is not None
    assert bundle.report.weight_bytes < 0.9 * exact.report.weight_bytes
    assert set(bundle.report.kept_float32) >= {
        "pow: powers leave float16's range", "add: a constant is outside float16's range",
    }  # fmt: skip
    feeds = random({"x": (1, 4, 8, 8)})
    half = import_model(made)
    convert(half, "f16", target)
    wanted, near = interpret(half, feeds)["y"], interpret(import_model(made), feeds)["y"]
    assert 0 < np.abs(wanted - near).max() < 0.03 * np.abs(near).max()
    with gpucompile.load(bundle, device) as run:
        y = run.run(feeds)["y"]
    assert y.dtype == np.float32
    assert np.abs(y - wanted).max() < 0.02 * np.abs(wanted).max()
    assert np.abs(y - near).max() < 0.03 * np.abs(near).max()


def test_targets_without_float16_are_warned_about() -> None:
    with pytest.warns(PrecisionWarning, match="portable has no shader-f16"):
        gpucompile.compile(network(), precision="f16")
    with pytest.raises(InputError, match="unknown precision 'f8'; known: f32, f16"):
        gpucompile.compile(network(), precision="f8")


def test_the_error_is_of_the_conversion() -> None:
    graph = import_model(network())
    found = error(graph, "f16")["y"]
    assert 1e-4 < found.relative < 0.03
    assert error(graph, "f32")["y"].largest == 0


def test_the_command_line_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(network(), tmp_path / "model.onnx")
    argv = ["compile", str(tmp_path / "model.onnx"), "-o", str(tmp_path / "model.gpub"), "--precision", "f16"]
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert "1  pow: powers leave float16's range" in out
    assert "of the largest magnitude, against float32" in out and "error    y: " in out
    assert err.count("gpucompile: warning: the target portable has no shader-f16") == 1
