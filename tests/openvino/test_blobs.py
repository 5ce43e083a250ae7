"""Compiled models in bundles: made with the bundle or put into it later, taken or passed over, damaged."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import gpucompile
from gpucompile.backends.openvino import compile as backend
from gpucompile.backends.openvino.blobs import add_blobs
from gpucompile.cli.main import main
from gpucompile.errors import BundleError, DeviceError
from gpucompile.ir.graph import Graph
from gpucompile.ir.interpret import interpret
from gpucompile.ir.text import print_graph
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.activation import Relu, Tanh
from gpucompile.ops.contraction import Matmul
from gpucompile.runtime import openvino
from gpucompile.runtime.bundle import read_bundle
from gpucompile.runtime.openvino import OpenvinoExecutable, OpenvinoOptions, list_devices
from gpucompile.runtime.parts import open_bundle

NO_NPU = pytest.mark.skipif(any(d.kind == "npu" for d in list_devices()), reason="there is an NPU here")
X = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)


@pytest.fixture
def graph() -> Graph:
    g = Graph("g")
    x = g.add_input("x", TensorType(DataType.FLOAT32, (4, 8)))
    w = g.constant(np.random.default_rng(1).standard_normal((8, 5)).astype(np.float32))
    g.set_outputs({"y": g.add(Tanh(), g.add(Relu(), g.add(Matmul(), x, w)))})
    return g


def agree(exe: gpucompile.Executable, graph: Graph) -> None:
    np.testing.assert_allclose(exe.run({"x": X})["y"], interpret(graph, {"x": X})["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["m.gpub", "folder"])
def test_put_into_a_bundle_later(graph: Graph, tmp_path: Path, name: str) -> None:
    path = gpucompile.compile(graph, devices=("gpu", "cpu")).save(tmp_path / name)
    with read_bundle(path) as before:
        manifest, gir = before.manifest, before.gir()
    (blob,) = add_blobs(path).values()
    assert (blob.device, blob.version) == (list_devices()[-1].full_name, openvino.version())
    with read_bundle(path) as after:
        assert after.manifest == manifest and after.gir() == gir and after.plan("base").steps
        assert after.openvino_model("cpu").blobs == (blob,)
    with gpucompile.load(path, "cpu") as exe:
        assert isinstance(exe, OpenvinoExecutable) and exe.from_blob
        agree(exe, graph)
    add_blobs(path)  # once more replaces it
    with read_bundle(path) as again:
        assert len(again.openvino_model("cpu").blobs) == 1


def test_another_device_driver_or_version(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob is taken on the very device, driver and version it was made with; else the model is compiled."""
    path = gpucompile.compile(graph, devices=("cpu",)).save(tmp_path / "m.gpub")
    add_blobs(path)
    here = list_devices()[-1]
    for device in (here, replace(here, full_name="another CPU"), replace(here, driver="1.2.3")):
        with OpenvinoExecutable(read_bundle(path), device) as exe:
            assert exe.from_blob == (device == here)
            agree(exe, graph)
    monkeypatch.setattr(openvino, "version", lambda: "2031.1.0")
    with OpenvinoExecutable(read_bundle(path), here) as exe:
        assert not exe.from_blob
        agree(exe, graph)


def test_in_parts(graph: Graph, device: gpucompile.Device, tmp_path: Path) -> None:
    path = gpucompile.compile(graph, devices=("gpu", "cpu"), partition={"relu": "cpu"}).save(tmp_path / "m.gpub")
    assert list(add_blobs(path, tmp_path / "other.gpub")) == ["parts/1/openvino/cpu.blob"]
    for source, blobs in ((path, 0), (tmp_path / "other.gpub", 1)):
        with open_bundle(source) as bundle:
            assert not isinstance(bundle, gpucompile.runtime.bundle.BundleData)
            assert len(bundle.device_part(1).openvino_model("cpu").blobs) == blobs
        with gpucompile.load(source, device) as exe:
            agree(exe, graph)


@NO_NPU
def test_refused(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npu = gpucompile.compile(graph, devices=("npu",)).save(tmp_path / "npu.gpub")
    before = npu.read_bytes()
    for kinds, error, match in (
        ((), DeviceError, "no npu device: OpenVINO"),
        (("npu",), DeviceError, "no npu device: OpenVINO"),
        (("cpu",), BundleError, "no OpenVINO model for cpu in it"),
    ):
        with pytest.raises(error, match=match):
            add_blobs(npu, kinds=kinds)
    both = gpucompile.compile(graph, devices=("npu", "cpu")).save(tmp_path / "both.gpub")
    assert list(add_blobs(both)) == ["openvino/cpu.blob"], "the default is what is here"
    with pytest.raises(BundleError, match="no OpenVINO model for npu or cpu"):
        add_blobs(gpucompile.compile(graph).save(tmp_path / "gpu.gpub"))

    def cannot(*args: object) -> bytes:
        raise DeviceError("OpenVINO's CPU cannot export a model")

    monkeypatch.setattr(backend, "export", cannot)
    with pytest.raises(DeviceError, match="cannot export"):
        add_blobs(both)
    assert npu.read_bytes() == before


def rewrite(folder: Path, kind: str, data: bytes) -> None:
    """Other content for a file of a bundle, with the right hash."""
    (folder / f"cpu.{kind}").write_bytes(data)
    meta = json.loads((folder / "cpu.json").read_text())
    shard = {"xml": meta["xml"], "bin": meta["weights"], "blob": meta["blobs"][0]["data"]}[kind]
    shard.update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    (folder / "cpu.json").write_text(json.dumps(meta))


def test_damaged(graph: Graph, tmp_path: Path) -> None:
    path = gpucompile.compile(graph, devices=("cpu",)).save(tmp_path / "b")
    add_blobs(path)
    folder = path / "openvino"
    good = {kind: (folder / f"cpu.{kind}").read_bytes() for kind in ("xml", "bin", "blob", "json")}

    def refused(match: str) -> None:
        with pytest.raises(BundleError, match=match):
            gpucompile.load(path, "cpu")
        for kind, data in good.items():
            (folder / f"cpu.{kind}").write_bytes(data)

    for kind in ("xml", "bin", "blob"):
        flipped = bytearray(good[kind])
        flipped[len(flipped) // 2] ^= 1
        (folder / f"cpu.{kind}").write_bytes(flipped)
        refused(rf"openvino/cpu.{kind}: content does not match its sha256")
        (folder / f"cpu.{kind}").write_bytes(good[kind][:-1])
        refused(rf"openvino/cpu.{kind}: \d+ bytes, openvino/cpu.json says \d+")
        (folder / f"cpu.{kind}").unlink()
        refused(rf"openvino/cpu.{kind}: missing from the bundle")
    # damaged before it was hashed, or made to look right
    rewrite(folder, "blob", good["blob"][:100])
    refused("openvino/cpu.blob: OpenVINO cannot import it: .")
    rewrite(folder, "blob", b"no blob")
    refused("openvino/cpu.blob: OpenVINO cannot import it: .")
    gpucompile.compile(graph, devices=("cpu",)).save(path)
    good.clear()
    meta = json.loads((folder / "cpu.json").read_text()) | {"blobs": [{"data": {}}]}
    plain = {kind: (folder / f"cpu.{kind}").read_bytes() for kind in ("xml", "bin", "json")}
    for kind, data in (("xml", b"<net"), ("xml", plain["xml"].replace(b"MatMul", b"MotMul")), ("bin", b"")):
        (folder / "cpu.json").write_text(json.dumps(meta))
        rewrite(folder, kind, data)
        changed = json.loads((folder / "cpu.json").read_text())
        changed.pop("blobs")
        (folder / "cpu.json").write_text(json.dumps(changed))
        refused(r"openvino/cpu.xml: OpenVINO \S+ cannot read it: .")
        for name, content in plain.items():
            (folder / f"cpu.{name}").write_bytes(content)


def test_options_hold_for_blobs(graph: Graph, tmp_path: Path) -> None:
    path = gpucompile.compile(graph, devices=("cpu",)).save(tmp_path / "m.gpub")
    for _ in range(2):
        with gpucompile.load(path, "cpu", options=OpenvinoOptions(threads=1, precision="f16")) as exe:
            assert isinstance(exe, OpenvinoExecutable)
            assert exe._compiled.get_property("INFERENCE_NUM_THREADS") == 1
            assert str(exe._compiled.get_property("INFERENCE_PRECISION_HINT")) == "<Type: 'float16'>"
        add_blobs(path)
    assert exe.from_blob


def test_command_line(graph: Graph, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "g.gir").write_text(print_graph(graph))
    out = str(tmp_path / "m.gpub")
    assert main(["compile", str(tmp_path / "g.gir"), "-o", out, "--device", "gpu,cpu", "--blob"]) == 0
    assert "compiled for" in capsys.readouterr().out
    assert (
        main(["compile", str(tmp_path / "g.gir"), "-o", out, "--device", "gpu,cpu", "--assign", "relu=cpu", "--blob"])
        == 0
    )
    with open_bundle(out) as bundle:
        assert not isinstance(bundle, gpucompile.runtime.bundle.BundleData)
        assert bundle.device_part(1).openvino_model("cpu").blobs
    assert main(["blob", out, "-o", str(tmp_path / "n.gpub")]) == 0
    assert "added    parts/1/openvino/cpu.blob" in capsys.readouterr().out
    for words, match in (
        (["blob", out, "--device", "gpu"], "must be npu, cpu, or both"),
        (["blob", str(tmp_path / "none.gpub")], "none.gpub"),
        (["compile", str(tmp_path / "g.gir"), "-o", out, "--blob"], "--blob is for OpenVINO's devices"),
    ):
        assert main(words) == 2
        assert match in capsys.readouterr().err
