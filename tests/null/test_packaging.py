"""What is packaged: pyproject.toml lists the folders on disk; a wheel holds every file once and works alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: folder of the checkout -> where it is in the wheel
FOLDERS = {"gpucompile": "gpucompile", "passes": "gpucompile/passes", "shaders": "gpucompile/shaders"}
LINKS = {"gpucompile/passes": "../passes", "gpucompile/shaders": "../shaders"}

#: Run by the fresh environment's Python: compiles, saves, loads and runs y = relu(x + 1) with what the wheel brought.
TINY_MODEL = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("error")
import gpucompile, gpucompile.passes, gpucompile.shaders
for module in (gpucompile, gpucompile.passes, gpucompile.shaders):
    assert Path(module.__file__).is_relative_to(sys.prefix), module.__file__

import numpy as np, onnx
from onnx import TensorProto, helper
info = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 5])
nodes = [helper.make_node("Add", ["x", "one"], ["t"]), helper.make_node("Relu", ["t"], ["y"])]
one = helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])
graph = helper.make_graph(nodes, "tiny", [info("x")], [info("y")], [one])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.save(model, "tiny.onnx")

gpucompile.compile("tiny.onnx").save("tiny.gpub")
x = np.linspace(-3, 3, 15, dtype=np.float32).reshape(3, 5)
y = gpucompile.load("tiny.gpub")(x)
y = y["y"] if isinstance(y, dict) else y
np.testing.assert_array_equal(np.asarray(y), np.maximum(x + 1, 0))
print("ran", gpucompile.__version__)
"""


def run(*command: object, cwd: Path) -> str:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command} failed with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def files(folder: Path) -> list[str]:
    """All files of a folder of the checkout, without bytecode, and without following links."""
    return sorted(
        Path(where, name).relative_to(folder).as_posix()
        for where, _, names in os.walk(folder)
        for name in names
        if not name.endswith(".pyc") and not Path(where, name).is_symlink()
    )


def build_wheel(to: Path, *, links: bool) -> Path:
    """Builds from a copy, because setuptools leaves a build folder in the tree and reuses what lies in it.

    `links=False`: the copy is as Git leaves it where it cannot make links (Windows), small text files in their place.
    """
    tree = to / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    if not links:
        for link, target in LINKS.items():
            (tree / link).unlink()
            (tree / link).write_text(target)
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "-w",
        to,
        tree,
        cwd=to,
    )
    (wheel,) = to.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"), links=True)


def test_package_list_is_what_is_on_disk() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    on_disk = {
        ".".join([*inside.split("/"), *Path(file).parent.parts])
        for folder, inside in FOLDERS.items()
        for file in files(ROOT / folder)
        if Path(file).name == "__init__.py"
    }
    assert Counter(config["packages"]) == Counter(on_disk)
    assert config["package-dir"] == {inside.replace("/", "."): folder for folder, inside in FOLDERS.items()}


def test_every_module_is_in_a_package() -> None:
    """A folder with code but no __init__.py would be left out of the wheel without a word."""
    for folder in FOLDERS:
        for file in files(ROOT / folder):
            if file.endswith(".py"):
                assert (ROOT / folder / file).parent.joinpath("__init__.py").exists(), f"{folder}/{file}"


def test_links_point_to_the_folders() -> None:
    if sys.platform == "win32":
        pytest.skip("Git makes no links here by default")
    assert {link: os.readlink(ROOT / link) for link in LINKS} == LINKS


@pytest.mark.xdist_group("packaging")
def test_wheel_holds_every_file_once(wheel: Path) -> None:
    wanted = {f"{inside}/{file}" for folder, inside in FOLDERS.items() for file in files(ROOT / folder)}
    assert any(name.endswith(".wgsl.j2") for name in wanted) and "gpucompile/py.typed" in wanted
    held = Counter(name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name)
    assert held == Counter(wanted)


@pytest.mark.xdist_group("packaging")
def test_wheel_is_the_same_without_links(wheel: Path, tmp_path: Path) -> None:
    names = [sorted(zipfile.ZipFile(w).namelist()) for w in (wheel, build_wheel(tmp_path, links=False))]
    assert names[0] == names[1]


@pytest.mark.xdist_group("packaging")
def test_wheel_runs_a_model(wheel: Path, tmp_path: Path, adapter: Any) -> None:
    """In an environment of its own.

    Dependencies come from this one by a .pth line, which runs no .pth file of this one, so that an editable install of
    gpucompile here stays out of sight.
    """
    venv.create(tmp_path / "env", with_pip=False, symlinks=os.name != "nt")
    bin_folder = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    python = bin_folder / "python"
    run(
        sys.executable, "-m", "pip", "-q", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path
    )
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    here = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (site / "dependencies.pth").write_text("\n".join(here) + "\n")

    assert run(python, "-I", "-c", TINY_MODEL, cwd=tmp_path).startswith("ran ")
    assert "compile" in run(bin_folder / "gpucompile", "--help", cwd=tmp_path)
