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


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_as_a_program(adapter: Any, path: Path, tmp_path: Path) -> None:
    small = {
        "pipeline": ["--side", "16", "--repeat", "1"],
        "stream": ["--size", "16", "--count", "3"],
        "progressive": ["--size", "16", "--hidden", "64"],
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path), *small[path.stem]],
        capture_output=True,
        text=True,
        cwd=path.parents[1],
        env={**os.environ, "XDG_RUNTIME_DIR": os.environ.get("XDG_RUNTIME_DIR") or str(tmp_path)},  # Mesa asks for it
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    told = {"pipeline": "ms a batch", "stream": "the same results", "progressive": "large: "}
    assert told[path.stem] in done.stdout
    assert f"./dev run python examples/{path.name}" in path.read_text("utf-8")
