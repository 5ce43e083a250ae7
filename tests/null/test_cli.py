"""The command line, without a device: parsing, discovery, `opt`, `compile`, `inspect`, errors; `run` on a fake one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpucompile.cli import _common, main
from gpucompile.errors import DeviceError, GpucompileError
from gpucompile.ir.graph import Graph
from gpucompile.ir.text import parse_graph, read_gir, write_gir
from gpucompile.ops.contraction import Matmul
from gpucompile.passmanager import Context, Pass, all_passes
from gpucompile.runtime import adapters as adapters_module
from gpucompile.runtime import device as device_module
from gpucompile.runtime import loading as loading_module
from gpucompile.runtime import openvino as openvino_module
from gpucompile.runtime import partitioned  # noqa: F401  (subclasses Executable before a test puts a fake there)
from gpucompile.runtime.adapters import AdapterInfo
from gpucompile.runtime.openvino import OpenvinoDevice

TEXT = """graph @m(%x: f32[4,4]) {
  %w = constant {value = splat<f32[4,4]>(0.5)}
  %t = transpose(%w) {permutation = [1, 0]}
  %a = matmul(%x, %t)
  %b = matmul(%x, %w)
  return y: %a, z: %b
}
"""


@pytest.fixture
def gir(tmp_path: Path) -> str:
    (tmp_path / "a.gir").write_text(TEXT)
    return str(tmp_path / "a.gir")


@pytest.fixture
def bundle(gir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    path = str(tmp_path / "a.gpub")
    assert main.main(["compile", gir, "-o", path, "-p", "dce", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    return path


@pytest.fixture
def crash() -> Iterator[None]:
    @dataclass(frozen=True)
    class CrashForTest(Pass):
        """op -> crash"""

        def run(self, graph: Graph, ctx: Context) -> bool:
            ctx.remark(None, "it crashes")
            raise KeyError("lost\nand found")

    yield
    del Pass.registry[CrashForTest.name]


def error_of(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line on stderr of a command that fails; nothing on stdout."""
    assert main.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gpucompile: error: ") and err.count("\n") == 1
    return err


# Frame ---------------------------------------------------------------------------------------------------------------


def test_commands_are_found() -> None:
    found = main.commands()
    assert {"compile", "devices", "inspect", "opt", "run"} <= set(found)
    for name, module in found.items():
        assert module.HELP and module.__doc__, name


def test_every_help_reads(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in [["--help"], *([name, "--help"] for name in main.commands())]:
        with pytest.raises(SystemExit) as e:
            main.main(argv)
        assert e.value.code == 0
        out = capsys.readouterr().out
        assert out.startswith("usage: gpucompile")
        assert max(map(len, out.splitlines())) <= 120


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main.main(["--version"])
    assert capsys.readouterr().out.startswith("gpucompile ")


@pytest.mark.parametrize(
    "argv", [[], ["frobnicate"], ["run"], ["compile", "a.onnx"], ["compile", "a.onnx", "-o", "b", "--dim", "n"],
             ["run", "a", "--repeat", "0"], ["run", "a", "--input", "x"]]
)  # fmt: skip
def test_wrong_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        main.main(argv)
    assert e.value.code == 2
    assert "usage: gpucompile" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (GpucompileError("a\n  b"), 2, "gpucompile: error: a b\n"),
        (FileNotFoundError(2, "No such file", "f.npy"), 2, "gpucompile: error: f.npy: No such file\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_exit_codes(
    raised: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: object) -> int:
        raise raised

    monkeypatch.setattr(main.commands()["devices"], "run", fail)
    assert main.main(["devices"]) == code
    assert capsys.readouterr().err == message


def test_a_closed_pipe_is_quiet(gir: str) -> None:
    program = [sys.executable, "-m", "gpucompile.cli.main", "opt", gir, "-p", ""]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141
    process.stderr.close()


def test_dims() -> None:
    assert _common._dim("a=b=4") == ("a=b", 4)
    sizes = {0: "0 bytes", 999: "999 bytes", 1000: "1.00 kB", 49.36e6: "49.4 MB", 999.9e3: "1000 kB", 2e12: "2000 GB"}
    assert {n: _common.size(n) for n in sizes} == sizes


# opt -----------------------------------------------------------------------------------------------------------------


def test_opt_prints_gir_on_stdout_and_the_rest_on_stderr(
    gir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = [
        "--time",
        "--statistics",
        "--why-not",
        "--print-after-change",
        "--check-each",
        "--dump",
        str(tmp_path / "d"),
    ]
    assert main.main(["opt", gir, "-p", "fold-constants,cse,dce", *watch]) == 0
    out, err = capsys.readouterr()
    assert [n.op.name for n in parse_graph(out).nodes] == ["constant", "matmul"]
    assert "// after cse" in err and "fold-constants: 4 -> 4 nodes" in err and "total" in err
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == ["00-input.gir", "01-fold-constants.gir", "02-cse.gir"]


def test_opt_stops_and_writes(gir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "b.gir"
    assert main.main(["opt", gir, "-p", "fold-constants,cse", "--stop-after", "1", "-o", str(output)]) == 0
    assert capsys.readouterr().out == ""
    assert len(read_gir(output)) == 4
    assert main.main(["opt", str(output), "-p", "cse"]) == 0
    assert len(parse_graph(capsys.readouterr().out)) == 2


def test_opt_prints_large_constants_by_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = parse_graph("graph @g(%x: f32[1,5]) { return %x }")
    weights = graph.constant(np.arange(20, dtype=np.float32).reshape(5, 4))
    graph.set_outputs({"y": graph.add(Matmul(), graph.inputs[0], weights)})
    write_gir(tmp_path / "g.gir", graph)
    assert main.main(["opt", str(tmp_path / "g.gir"), "-p", ""]) == 0
    assert 'ref<f32[5,4]>("' in capsys.readouterr().out
    assert main.main(["opt", str(tmp_path / "g.gir"), "-p", "", "--weights", "inline"]) == 0
    assert 'base64<f32[5,4]>("' in capsys.readouterr().out
    assert main.main(["compile", str(tmp_path / "g.gir"), "-p", "dce", "-o", str(tmp_path / "g.gpub"), "-q"]) == 0
    assert "add --random-weights" in error_of(capsys, "opt", str(tmp_path / "g.gpub"), "-p", "dce")
    assert main.main(["opt", str(tmp_path / "g.gpub"), "-p", "dce", "--random-weights"]) == 0
    assert 'ref<f32[5,4]>("' in capsys.readouterr().out


@pytest.mark.usefixtures("crash")
def test_opt_replays_what_failed(gir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["opt", gir, "-p", "fold-constants,crash-for-test,dce", "--reproducer-dir", str(tmp_path / "r")]
    message = error_of(capsys, *argv)
    (path,) = (tmp_path / "r").iterdir()
    assert (
        f"pass crash-for-test failed: KeyError: 'lost\\nand found'; replay it with: gpucompile opt --replay {path}"
        in message
    )
    assert "KeyError" in error_of(capsys, "opt", "--replay", str(path), "--reproducer-dir", str(tmp_path / "r2"))
    assert main.main(["opt", "--replay", str(path), "-p", "cse"]) == 0  # another pipeline on the same graph
    assert len(parse_graph(capsys.readouterr().out)) == 2
    assert main.main([*argv, "--why-not", "--time"]) == 2  # what was watched is shown all the same
    assert "crash-for-test: it crashes\nfold-constants " in capsys.readouterr().err


def test_opt_lists_passes_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["opt", "--list"]) == 0
    out = capsys.readouterr().out
    assert "max_bytes=1048576 (int)" in out
    for name in all_passes():
        assert f"\n  {name} " in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["A.gir"], "no pipeline given"),
        ([], "no MODEL given"),
        (["A.gir", "-p", "dse"], "pipeline:1:1: unknown pass 'dse'; did you mean dce?"),
        (["none.gir", "-p", "dce"], "none.gir: no such file"),
        ([".", "-p", "dce"], ".: is a directory"),
        (["bad.gir", "-p", "dce"], "bad.gir:2:3: expected "),
        (["--replay", "A.gir"], "is no reproducer"),
    ],
)
def test_opt_errors(
    argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("A.gir").write_text(TEXT)
    Path("bad.gir").write_text("graph @g() {\n  ??? }")
    assert message in error_of(capsys, "opt", *argv)


# compile and inspect -------------------------------------------------------------------------------------------------


def test_compile_tells_its_story(gir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["compile", gir, "-o", str(tmp_path / "x.gpub"), "-p", "dce", "--plan", "memory"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == ["nodes", "kernels", "memory", "time", "wrote"]
    assert "target portable" in out


def test_compile_leaves_nothing_half_written(gir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error_of(capsys, "compile", gir, "-o", str(tmp_path / "x.gpub"), "-p", "nonsense")
    error_of(capsys, "compile", gir, "-o", str(tmp_path / "no" / "such" / "x.gpub"), "-p", "dce")
    assert "none.onnx: no such file" in error_of(capsys, "compile", "none.onnx", "-o", str(tmp_path / "x.gpub"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.gir"]


def test_inspect(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["inspect", bundle, "--kernels"]) == 0
    out = capsys.readouterr().out
    for part in ("format 1", "inputs   x: float32[4, 4]", "outputs  y: float32[4, 4]", "\n         z: float32[4, 4]",
                 "variant base", "nothing beyond WebGPU's default limits", "workgroup"):  # fmt: skip
        assert part in out
    assert main.main(["inspect", bundle, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["manifest"]["inputs"][0]["name"] == "x" and data["variants"][0]["name"] == "base"
    assert main.main(["inspect", bundle, "--shader", "0"]) == 0
    assert "@compute" in capsys.readouterr().out
    assert main.main(["inspect", bundle, "--graph"]) == 0
    assert parse_graph(capsys.readouterr().out).output_names == ["y", "z"]
    assert "has no shader 99; it has" in error_of(capsys, "inspect", bundle, "--shader", "99")
    assert "no variant 'f16'; there are base" in error_of(capsys, "inspect", bundle, "--variant", "f16")


def test_inspect_damaged(bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(bundle).write_bytes(Path(bundle).read_bytes()[:200])
    assert bundle in error_of(capsys, "inspect", bundle)


# devices and run, on fake devices ------------------------------------------------------------------------------------


def adapter(name: str, usable: bool) -> AdapterInfo:
    limits = {"max-storage-buffer-binding-size": 128 << 20}
    return AdapterInfo("wgpu", name, "Vulkan" if usable else "OpenGL", "CPU", "1.0", ("shader-f16",), limits, usable)


def test_devices(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = [adapter("fast", True), adapter("slow", False)]
    monkeypatch.setattr(adapters_module, "list_adapters", lambda implementation: found)
    monkeypatch.setattr(openvino_module, "list_devices", lambda: [])
    assert main.main(["devices", "--limits"]) == 0
    out = capsys.readouterr().out
    assert "*  fast" in out and "   slow" in out and "never chosen" in out and "features  shader-f16" in out
    assert main.main(["devices", "--json"]) == 0
    assert [a["name"] for a in json.loads(capsys.readouterr().out)] == ["fast", "slow"]
    monkeypatch.setattr(adapters_module, "list_adapters", lambda implementation: [])
    assert "no WebGPU adapter found" in error_of(capsys, "devices")
    monkeypatch.setattr(openvino_module, "list_devices", lambda: [OpenvinoDevice("npu", "NPU", "fast NPU")])
    assert main.main(["devices"]) == 0
    assert "NPU  fast NPU" in capsys.readouterr().out


class FakeDevice:
    """Opens for every name but `none`; doubles its input."""

    name, backend, adapter = "fake", "Null", None

    @staticmethod
    def open(prefer: str | None = None) -> FakeDevice:
        if prefer == "none":
            raise DeviceError("no adapter matching 'none'")
        return FakeDevice()

    def __enter__(self) -> FakeDevice:
        return self

    def __exit__(self, *args: object) -> None: ...


class FakeExecutable:
    def __init__(self, bundle: Any, device: FakeDevice, progress: object, submits: int, **more: object) -> None:
        self.plan = bundle.plan("base")
        self.kernels = len(self.plan.steps)
        self.inputs = self.plan.inputs
        self.fed: list[np.ndarray] = []

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.fed.append(feeds["x"])
        return {"y/1": feeds["x"] * 2, "y.1": np.zeros((0,), np.int32), "y_1": np.array(3.0, np.float32)}

    def __enter__(self) -> FakeExecutable:
        return self

    def __exit__(self, *args: object) -> None: ...


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "Device", FakeDevice)
    monkeypatch.setattr(loading_module, "Executable", FakeExecutable)


@pytest.mark.usefixtures("fake")
def test_run(bundle: str, gir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "x.npy"
    np.save(data, np.full((4, 4), 1.5, np.float32))
    argv = ["run", bundle, "--input", f"x={data}", "--repeat", "3", "--output", str(tmp_path / "out")]
    assert main.main(argv) == 0
    out = capsys.readouterr().out
    assert "device   fake (Null)" in out and "compile" not in out
    assert "y/1     float32[4, 4]  3 3 3 3 ...   3    3    3" in out
    assert "median" in out and "(2 runs)" in out
    files = {p.name: np.load(p) for p in (tmp_path / "out").iterdir()}
    assert set(files) == {"y_1.npy", "y.1.npy", "y_1_1.npy"}
    np.testing.assert_array_equal(files["y_1.npy"], np.full((4, 4), 3, np.float32))

    assert main.main(["run", gir, "-p", "dce", "--random", "--target", "portable"]) == 0
    first = capsys.readouterr().out
    assert "compile  " in first and "one run" in first
    assert main.main(["run", gir, "-p", "dce", "--random", "--target", "portable"]) == 0
    table = [line for line in first.splitlines() if line.startswith("y/1")]
    assert table[0] in capsys.readouterr().out  # seeded


@pytest.mark.usefixtures("fake")
def test_run_errors(bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["run", bundle]) == 2
    assert "no data for input 'x', float32[4, 4]: give --input x=FILE.npy, or --random" in capsys.readouterr().err
    assert "no adapter matching" in error_of(capsys, "run", bundle, "--device", "none")
    assert "cannot read" in error_of(capsys, "run", bundle, "--input", "x=none.npy")
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    assert "is an archive of arrays" in error_of(capsys, "run", bundle, "--input", f"x={tmp_path / 'x.npz'}")
    assert "none.onnx: no such file" in error_of(capsys, "run", "none.onnx")
    assert "none.gpub" in error_of(capsys, "run", "none.gpub")


def test_progress_bars_only_where_a_person_watches(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with _common.progress_bar() as progress:
        assert progress is None
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True, write=lambda s: None, flush=lambda: None))
    with _common.progress_bar() as progress:
        assert progress is not None
        progress("weights", 1, 2)
        progress("weights", 2, 2)
    with _common.progress_bar(quiet=True) as progress:
        assert progress is None


def test_opt_draws_the_graph(gir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import networkx

    assert main.main(["opt", gir, "-p", "", "--graphml", str(tmp_path / "g.graphml")]) == 0
    drawing = networkx.read_graphml(tmp_path / "g.graphml")
    labels = [d["label"] for _, d in drawing.nodes(data=True)]
    assert len(labels) >= 2 and drawing.number_of_edges() >= 1 and networkx.is_directed_acyclic_graph(drawing)


def test_unknown_kinds_of_devices(gir: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "b.gpub")
    assert "'foo' is none of gpu, npu, cpu" in error_of(capsys, "compile", gir, "-o", out, "--device", "gpu,foo")
    assert "--device foo: gpu, npu, cpu" in error_of(capsys, "compile", gir, "-o", out, "--device", "foo")
    assert not Path(out).exists()
