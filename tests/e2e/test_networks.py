"""Nine networks from file to numbers: on the adapter against onnxruntime, and as small as they have to be.

With random weights (`benchmarks.networks`): the real test. As shipped, with constant weights: the stored outputs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gpucompile
from benchmarks import networks
from gpucompile.cli import main
from gpucompile.frontends.onnx.importer import import_model
from gpucompile.target import Target
from tests.support import TARGETS

#: Relative to the largest value.
TOLERANCE = 1e-4

#: Most kernels and most bytes of scratch, where they are fixed.
LIMITS: dict[str, tuple[int, float]] = {
    "squeezenet": (45, 4.0e6),
    "resnet50": (75, 7.3e6),
    "vgg19": (32, 40e6),
    "densenet121": (270, 7.3e6),
}

#: The others take long on a software adapter, or have weights of hundreds of megabytes.
QUICK = {"squeezenet", "shufflenet", "resnet50"}
SAMPLES = {"densenet121", "alexnet"}


def marks(name: str, quick: set[str]) -> list[pytest.MarkDecorator]:
    if name in quick:
        return []
    return [pytest.mark.slow, *([pytest.mark.sample] if name in SAMPLES else [])]


def difference(got: np.ndarray, want: np.ndarray) -> float:
    """The largest error, relative to the largest value."""
    assert got.shape == want.shape and got.dtype == want.dtype
    assert np.isfinite(got).all()
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.mark.parametrize("name", [pytest.param(n, marks=marks(n, QUICK)) for n in networks.NAMES])
def test_random_weights_against_onnxruntime(device: gpucompile.Device, name: str) -> None:
    """Compiled for this adapter; the second image shows that nothing stays from the first."""
    bundle = gpucompile.compile(networks.cached(name), Target.of(device.adapter))
    first, second = networks.random_input(name), networks.random_input(name, seed=1)
    with gpucompile.load(bundle, device=device) as run:
        (got,) = run.run(first).values()
        assert difference(got, networks.expected(name)) < TOLERANCE
        (other,) = run.run(second).values()
        assert difference(other, got) > 10 * TOLERANCE, "another image gives the same result"
        (again,) = run.run(first).values()
    np.testing.assert_array_equal(again, got)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=marks(n, {"squeezenet", "shufflenet"})) for n in networks.NAMES]
)
def test_shipped_model_against_its_stored_output(device: gpucompile.Device, name: str) -> None:
    with gpucompile.load(gpucompile.compile(networks.shipped(name)), device=device) as run:
        (got,) = run.run(networks.shipped_input(name)).values()
    assert difference(got, networks.stored_output(name)) < TOLERANCE


@pytest.mark.parametrize("name", [pytest.param(n, marks=marks(n, QUICK | {"densenet121"})) for n in LIMITS])
def test_kernels_and_scratch(name: str) -> None:
    """For every target."""
    kernels, scratch = LIMITS[name]
    graph = import_model(networks.cached(name))
    for key, target in TARGETS.items():
        report = gpucompile.compile(graph, target).report
        assert report is not None
        assert report.kernels <= kernels, key
        assert report.scratch_bytes <= scratch, key


@pytest.mark.usefixtures("adapter")
def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """compile, inspect, run on a real model and a real adapter; the numbers are onnxruntime's."""
    model, bundle = str(networks.cached("squeezenet")), str(tmp_path / "squeezenet.gpub")
    assert main.main(["compile", model, "-o", bundle]) == 0
    assert main.main(["inspect", bundle, "--kernels"]) == 0
    ((name, image),) = networks.random_input("squeezenet").items()
    np.save(tmp_path / "image.npy", image)
    argv = ["run", bundle, "--input", f"{name}={tmp_path / 'image.npy'}", "--output", str(tmp_path / "out")]
    assert main.main([*argv, "--repeat", "2"]) == 0
    (file,) = (tmp_path / "out").iterdir()
    assert difference(np.load(file), networks.expected("squeezenet")) < TOLERANCE
    assert "median" in capsys.readouterr().out
