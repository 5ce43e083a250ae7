"""The programs in examples/ at small sizes, and as their docstrings call them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

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


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_as_a_program(adapter: Any, path: Path, tmp_path: Path) -> None:
    small = {"pipeline": ["--side", "16", "--repeat", "1"], "stream": ["--size", "16", "--count", "3"]}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path), *small[path.stem]],
        capture_output=True,
        text=True,
        cwd=path.parents[1],
        env={**os.environ, "XDG_RUNTIME_DIR": os.environ.get("XDG_RUNTIME_DIR") or str(tmp_path)},  # Mesa asks for it
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert {"pipeline": "ms a batch", "stream": "the same results"}[path.stem] in done.stdout
    assert f"./dev run python examples/{path.name}" in path.read_text("utf-8")
