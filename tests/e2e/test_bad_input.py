"""Bad input, through the command line: exit code 2, one line that says what is wrong and where, nothing half-written.

What the importer and the bundle reader say about each kind of damage is tested with them; here it is that the error
comes through the whole program, that it never is a traceback, and that nothing is left on disk.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks import networks
from gpucompile.cli import main


def model(
    op: str = "Relu",
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
    shape: tuple[int | str, ...] = (2, 3),
    domain: str = "",
) -> onnx.ModelProto:
    """y = op(x)"""
    x, y = (helper.make_tensor_value_info(n, dtype, shape) for n in "xy")
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], domain=domain)], "test", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.fixture
def bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail; its message. Nothing may appear in the folder."""

    def run(*argv: str) -> str:
        before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
        assert main.main(argv) == 2
        _, err = capsys.readouterr()
        assert err.startswith("gpucompile: error: ") and err.count("\n") == 1, err
        assert "Traceback" not in err and len(err) < 2000
        assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before, "files were written or changed"
        return err

    return run


# Models --------------------------------------------------------------------------------------------------------------


def _truncated() -> bytes:
    return networks.shipped("squeezenet").read_bytes()[:4000]


def _corrupt() -> bytes:
    data = bytearray(networks.shipped("squeezenet").read_bytes())
    data[100:3000] = bytes(reversed(data[100:3000]))
    return bytes(data)


MODELS: dict[str, tuple[Callable[[], bytes], tuple[str, ...]]] = {
    "empty": (lambda: b"", ("m.onnx", "empty")),
    "truncated": (_truncated, ("m.onnx",)),
    "corrupt": (_corrupt, ("m.onnx",)),
    "a picture": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(200), ("m.onnx", "not an ONNX model")),
    "text": (lambda: b"import torch\n" * 40, ("m.onnx", "not an ONNX model")),
    "unknown op": (
        lambda: model("NonMaxSuppression").SerializeToString(),
        ("NonMaxSuppression", "size depends on the data"),
    ),
    "unknown domain": (lambda: model("Magic", domain="com.example").SerializeToString(), ("Magic", "com.example")),
    "old opset": (lambda: model("Magic", opset=3).SerializeToString(), ("opset 3", "supported")),
    "future opset": (lambda: model(opset=999).SerializeToString(), ("opset 999", "supported")),
    "strings": (lambda: model("Identity", dtype=TensorProto.STRING).SerializeToString(), ("'x'", "string")),
    "complex": (lambda: model("Identity", dtype=TensorProto.COMPLEX64).SerializeToString(), ("'x'", "complex64")),
    "free dimension": (lambda: model(shape=("batch", 3)).SerializeToString(), ("batch", "x")),
}


@pytest.mark.parametrize("command", ["compile", "run", "opt"])
@pytest.mark.parametrize("kind", MODELS)
def test_models(bad: Callable[..., str], tmp_path: Path, kind: str, command: str) -> None:
    content, parts = MODELS[kind]
    path = tmp_path / "m.onnx"
    path.write_bytes(content())
    rest = {"compile": ["-o", str(tmp_path / "m.gpub")], "run": ["--random"], "opt": ["-p", "default"]}[command]
    message = bad(command, str(path), *rest)
    for part in parts:
        assert part in message


def test_dimensions(bad: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model(shape=("batch", 3)).SerializeToString())
    output = ["-o", str(tmp_path / "m.gpub")]
    assert "--dim batch=1" in bad("compile", str(path), *output)
    assert "no free dimension 'height'; it has batch" in bad(
        "compile", str(path), *output, "--dim", "batch=2", "--dim", "height=3"
    )
    assert main.main(["compile", str(path), *output, "--dim", "batch=2"]) == 0


def test_output_paths(bad: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model().SerializeToString())
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letter.txt").write_text("precious")
    (tmp_path / "dir.gpub").mkdir()
    for output in ("folder", "dir.gpub", "m.onnx/x.gpub", "none/x.gpub"):
        bad("compile", str(path), "-o", str(tmp_path / output))


# Inputs --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A bundle in a directory: y = conv(x), with weights."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 2, 4, 4))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 3, 2, 2))
    w = onnx.numpy_helper.from_array(np.arange(54, dtype=np.float32).reshape(3, 2, 3, 3), "w")
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "test", [x], [y], [w])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, str(tmp_path / "m.onnx"))
    path = tmp_path / "bundle"
    assert main.main(["compile", str(tmp_path / "m.onnx"), "-o", str(path), "-q"]) == 0
    capsys.readouterr()
    return path


@pytest.mark.usefixtures("adapter")
@pytest.mark.parametrize(
    ("array", "parts"),
    [
        (np.zeros((1, 2, 4, 5), np.float32), ("'x'", "float32[1, 2, 4, 5]", "float32[1, 2, 4, 4]")),
        (np.zeros((2, 4, 4), np.float32), ("'x'", "float32[2, 4, 4]")),
        (np.zeros((1, 2, 4, 4), np.float64), ("'x'", "float64")),
        (np.array(["a"] * 32).reshape(1, 2, 4, 4), ("'x'",)),
    ],
    ids=["shape", "rank", "dtype", "strings"],
)
def test_wrong_inputs(
    bad: Callable[..., str], bundle: Path, tmp_path: Path, array: np.ndarray, parts: tuple[str, ...]
) -> None:
    np.save(tmp_path / "x.npy", array)
    message = bad("run", str(bundle), "--input", f"x={tmp_path / 'x.npy'}", "--output", str(tmp_path / "out"))
    for part in parts:
        assert part in message


@pytest.mark.usefixtures("adapter")
def test_missing_and_unknown_inputs(bad: Callable[..., str], bundle: Path, tmp_path: Path) -> None:
    assert "no data for input 'x'" in bad("run", str(bundle))
    np.save(tmp_path / "x.npy", np.zeros((1, 2, 4, 4), np.float32))
    given = f"={tmp_path / 'x.npy'}"
    assert "'z'" in bad("run", str(bundle), "--input", "x" + given, "--input", "z" + given)
    (tmp_path / "garbage.npy").write_bytes(b"\x93NUMPY garbage")
    assert "garbage.npy" in bad("run", str(bundle), "--input", f"x={tmp_path / 'garbage.npy'}")


# Bundles -------------------------------------------------------------------------------------------------------------

Edit = Callable[[Any], object]


def _edit(path: Path, change: Edit) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


DAMAGE: dict[str, tuple[str, Edit | None, tuple[str, ...]]] = {
    "version": ("manifest.json", lambda m: m.update(version=99), ("version", "99")),
    "weight hash": ("weights/0.bin", None, ("weights/0.bin", "sha256")),
    "shard size": ("manifest.json", lambda m: m["shards"][0].update(size=8), ("weights/0.bin",)),
    "binding offset": (
        "variants/base.json",
        lambda p: p["steps"][0]["bindings"][0].update(offset=1 << 20),
        ("steps[0]", "bindings[0]"),
    ),
    "missing feature": (
        "variants/base.json",
        lambda p: p["requires"].update(features=["time-travel"]),
        ("base", "time-travel"),
    ),
    "limit": (
        "variants/base.json",
        lambda p: p["requires"].update(limits={"max-buffer-size": 1 << 52}),
        ("base", "max-buffer-size"),
    ),
    "no json": ("variants/base.json", None, ("variants/base.json",)),
}


@pytest.mark.usefixtures("adapter")
@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_bundles(bad: Callable[..., str], bundle: Path, kind: str) -> None:
    file, change, parts = DAMAGE[kind]
    if kind == "no json":
        (bundle / file).write_text("{")
    elif change is None:
        _flip(bundle / file)
    else:
        _edit(bundle / file, change)
    message = bad("run", str(bundle), "--random")
    for part in parts:
        assert part in message


@pytest.mark.usefixtures("adapter")
def test_a_flipped_shader(bad: Callable[..., str], bundle: Path) -> None:
    (shader, *_) = sorted((bundle / "shaders").iterdir())
    _flip(shader)
    assert shader.name in bad("run", str(bundle), "--random")


# No adapter ----------------------------------------------------------------------------------------------------------


def _without_vulkan(*argv: str) -> subprocess.CompletedProcess[str]:
    hidden = {"VK_DRIVER_FILES": os.devnull + "/none.json", "VK_ICD_FILENAMES": os.devnull + "/none.json"}
    env = {k: v for k, v in os.environ.items() if k != "WGPU_BACKEND_TYPE"} | hidden
    command = [sys.executable, "-W", "error", "-m", "gpucompile.cli.main", *argv]
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=120)


def test_no_adapter(bundle: Path, tmp_path: Path) -> None:
    """OpenGL, where there is one, is not taken instead. What needs no device works."""
    for argv in (
        ["run", str(bundle), "--random"],
        ["compile", str(tmp_path / "m.onnx"), "--target", "native", "-o", "x"],
    ):
        done = _without_vulkan(*argv)
        lines = [line for line in done.stderr.splitlines() if line.startswith("gpucompile: ")]
        assert done.returncode == 2, done.stderr
        assert len(lines) == 1 and "no usable adapter" in lines[0] and "mesa-vulkan-drivers" in lines[0]
        assert "Traceback" not in done.stderr and done.stdout == ""
    done = _without_vulkan("compile", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "other.gpub"), "-q")
    assert done.returncode == 0, done.stderr
