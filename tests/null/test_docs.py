"""Generated documentation is what the generator writes now."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

from docs import generate
from gpucompile import RunOptions, SessionOptions
from gpucompile.webnn.builder import MLGraphBuilder
from gpucompile.webnn.operators import OPERATORS


def test_operators_are_up_to_date() -> None:
    found, wanted = generate.FILE.read_text("utf-8").splitlines(), generate.document().splitlines()
    changed = [line for line in wanted if line not in found] + [f"no more: {x}" for x in found if x not in wanted]
    assert found == wanted, "\n".join(["docs/operators.md is stale; run: python -m docs.generate", *changed[:20]])


def test_every_operator_is_in_it() -> None:
    text = generate.FILE.read_text("utf-8")
    assert [n for n in OPERATORS if f"`{n}`" not in text] == []


def test_staleness_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "FILE", tmp_path / "operators.md")
    monkeypatch.setattr(generate, "document", lambda: "new")
    assert generate.main(["--check"]) == 1 and "stale" in capsys.readouterr().out
    assert generate.main([]) == 0 and generate.FILE.read_text() == "new"
    assert generate.main(["--check"]) == 0 and "up to date" in capsys.readouterr().out


def test_builder_methods_have_signatures() -> None:
    """What help() and editors show: parameters, then options with their defaults."""
    text = str(inspect.signature(MLGraphBuilder.conv2d))
    assert text.startswith("(self, input, filter, *, bias=None, padding=(0, 0, 0, 0)") and text.endswith("label='')")
    assert "data_type" in inspect.signature(MLGraphBuilder.cast).parameters


def test_sessions_names_every_option_and_tests_that_exist() -> None:
    root = Path(__file__).resolve().parents[2]
    text = (root / "docs" / "sessions.md").read_text("utf-8")
    options = [f.name for f in dataclasses.fields(SessionOptions)]
    assert [
        n for n in [*options, *(n for n in RunOptions.__slots__ if not n.startswith("_"))] if f"`{n}`" not in text
    ] == []
    snippets = (root / "tests" / "gpu" / "test_seed_snippets.py").read_text("utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))
    assert named == set(re.findall(r"^def (test_\w+)\(", snippets, re.MULTILINE))
    for file in re.findall(r"`((?:tests|examples)/[\w/]+\.py)`", text):
        assert (root / file).is_file(), file
