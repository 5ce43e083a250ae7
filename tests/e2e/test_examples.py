"""The programs in examples/ at small sizes, and as their docstrings call them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

import gpucompile

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES[0].parent / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_pipeline(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, stepwise, milliseconds = load("pipeline", monkeypatch).run(batch=2, side=16, repeat=2)
    assert scores.shape == (2, 10) and milliseconds > 0
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(scores, stepwise)
    assert np.ptp(scores) > 1e-3


def test_stream(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, slow, fast = load("stream", monkeypatch).run(size=32, count=7)
    assert first == second and len(set(first)) == 7
    assert slow > 0 and fast > 0


def test_results_of_a_stream_are_right(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = load("stream", monkeypatch)
    first, *_ = stream.run(size=32, count=3)
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((32, 32)).astype(np.float32) / 32**0.5 for _ in range(4)]
    for got, x in zip(first, stream.inputs(32, 3), strict=True):
        for w in weights:
            x = np.maximum(x @ w, 0)
        assert got == pytest.approx(stream.digest(x), rel=1e-4)


def test_io_binding(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    once, twice, means = load("io_binding", monkeypatch).run(image)
    np.testing.assert_allclose(means, image.mean(axis=(2, 3)), atol=1e-6)
    for x, y in ((image, once), (once, twice)):
        blurred = sum(x[:, :, i : 62 + i, j : 62 + j] for i in range(3) for j in range(3)) / 9
        np.testing.assert_allclose(y[:, :, 1:-1, 1:-1], x[:, :, 1:-1, 1:-1] - blurred, atol=1e-5)


def test_pre_allocated(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = load("pre_allocated", monkeypatch).run(count=4)
    assert len({s.tobytes() for s in scores}) == 4
    np.testing.assert_allclose(np.concatenate(scores).sum(axis=1), 1, rtol=1e-5)


def test_dynamic_shapes(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(1, 16), (2, 5), (1, 16)]
    found = load("dynamic_shapes", monkeypatch).run(shapes, warm=shapes[:1])
    for (batch, _), (y, milliseconds) in zip(shapes, found, strict=True):
        np.testing.assert_allclose(y, np.ones((batch, 8)), rtol=1e-6)
        assert milliseconds > 0


def test_detect_and_classify(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    example = load("detect_and_classify", monkeypatch)
    assert example.run(example.scene()) == [((0, 0), "spot"), ((8, 16), "area"), ((24, 24), "spot")]


def test_choose_backend(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    example = load("choose_backend", monkeypatch)
    results = example.benchmark(size=16, runs=3)
    assert set(results) == {"cpu", "gpu", "npu"} and 0 < results["gpu"]["min"] <= results["gpu"]["mean"]
    for device, found in results.items():
        assert "error" not in found or device in found["error"] or "OpenVINO" in found["error"]
    assert example.best({"cpu": {"mean": 2}, "gpu": {"mean": 1}, "npu": {"error": "none"}}) == "gpu"


def test_progressive(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small model answers until the large one is ready, then the large one does."""
    example = load("progressive", monkeypatch)
    models = {"small": example.network(16, 16, 1), "large": example.network(16, 64, 4)}
    answered = threading.Semaphore(0)

    def slowly(stage: str, done: int, total: int) -> None:  # an upload that takes until two questions are answered
        if stage == "weights":
            assert all(answered.acquire(timeout=30) for _ in range(2))

    asked, found = [], []
    small = gpucompile.load(gpucompile.compile(models["small"]))
    bundle = gpucompile.compile(models["large"])
    with small, gpucompile.load(bundle, small.device, slowly, stream=True) as large:
        questions = (asked.append(x) or x for x in example.questions(large, 16, 2))
        for answer in example.answers(small, large, questions):
            found.append(answer)
            answered.release()
    names = [a.model for a in found]
    assert names[:2] == ["small", "small"] and names[-2:] == ["large", "large"] and names == sorted(names, reverse=True)
    for answer, x in zip(found, asked, strict=True):
        for w in models[answer.model].graph.initializer:
            x = np.tanh(x @ onnx.numpy_helper.to_array(w))
        np.testing.assert_allclose(answer.y, x, rtol=1e-4, atol=1e-5)


#: Arguments that make a program quick, and what it prints.
PROGRAMS = {
    "choose_backend": (["--size", "16", "--runs", "2"], "fastest: "),
    "detect_and_classify": ([], "column 16: area"),
    "dynamic_shapes": ([], "batch 2, length 16"),
    "io_binding": ([], "edges of edges"),
    "pipeline": (["--side", "16", "--repeat", "1"], "ms a batch"),
    "pre_allocated": (["--count", "2"], "input 1: class"),
    "progressive": (["--size", "16", "--hidden", "64"], "large: "),
    "stream": (["--size", "16", "--count", "3"], "the same results"),
}


@pytest.mark.parametrize(
    "path", [pytest.param(p, marks=[] if p.stem == "pipeline" else pytest.mark.slow, id=p.stem) for p in EXAMPLES]
)
def test_as_a_program(adapter: Any, path: Path, tmp_path: Path) -> None:
    arguments, text = PROGRAMS[path.stem]
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path), *arguments],
        capture_output=True,
        text=True,
        cwd=path.parents[1],
        env={**os.environ, "XDG_RUNTIME_DIR": os.environ.get("XDG_RUNTIME_DIR") or str(tmp_path)},  # Mesa asks for it
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert text in done.stdout
    assert f"./dev run python examples/{path.name}" in path.read_text("utf-8")
