"""Bundles with OpenVINO models: written, read, damaged; devices chosen; blobs, caches, errors, threads."""

from __future__ import annotations

import asyncio
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import gpucompile
from gpucompile.backends.openvino.compile import with_blob
from gpucompile.backends.openvino.rules import rejections
from gpucompile.errors import BundleError, ClosedError, DeviceError, InputError, UnsupportedError
from gpucompile.ir.graph import Graph
from gpucompile.ir.interpret import interpret
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.activation import Relu
from gpucompile.ops.contraction import Matmul
from gpucompile.ops.elementwise import Add, Identity
from gpucompile.ops.movement import Reshape
from gpucompile.runtime import choose, openvino
from gpucompile.runtime.bundle import read_bundle
from gpucompile.runtime.openvino import OpenvinoDevice, OpenvinoExecutable, OpenvinoOptions, find_device, list_devices

F32 = DataType.FLOAT32
NPU = any(d.kind == "npu" for d in list_devices())


@pytest.fixture
def graph() -> Graph:
    g = Graph("g")
    x = g.add_input("x", TensorType(F32, (4, 8)))
    w = g.constant(np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32))
    y = g.add(Matmul(), x, w)
    g.set_outputs({"y": g.add(Relu(), y), "same": g.add(Identity(), x)})
    return g


@pytest.fixture
def feeds() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32)}


def agree(got: dict[str, np.ndarray], graph: Graph, feeds: dict[str, np.ndarray], tolerance: float = 1e-5) -> None:
    want = interpret(graph, feeds)
    assert list(got) == list(want)
    for name, w in want.items():
        assert got[name].dtype == w.dtype
        np.testing.assert_allclose(got[name], w, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["x.gpub", "folder"])
def test_written_and_read(graph: Graph, feeds: dict[str, np.ndarray], tmp_path: Path, name: str) -> None:
    path = gpucompile.compile(graph, devices=("cpu", "npu")).save(tmp_path / name)
    with read_bundle(path) as bundle:
        assert bundle.openvino == ("cpu", "npu") and not bundle.variants
        npu, cpu = bundle.openvino_model("npu"), bundle.openvino_model("cpu")
        assert npu.weights.size < cpu.weights.size  # float16
        assert cpu.version == openvino.version()
    with gpucompile.load(path, device="cpu") as exe:
        agree(exe.run(feeds), graph, feeds)
        agree(asyncio.run(exe.run_async(feeds)), graph, feeds)
        assert exe.memory() == {"weight": cpu.weights.size} and not exe.closed
    assert exe.closed
    with pytest.raises(ClosedError):
        exe.run(feeds)


def test_the_npu_model_runs_on_the_cpu(graph: Graph, feeds: dict[str, np.ndarray]) -> None:
    with gpucompile.load(gpucompile.compile(graph, devices=("npu",)), device="cpu") as exe:
        agree(exe.run(feeds), graph, feeds, 5e-3)


def test_damaged_bundles(graph: Graph, tmp_path: Path) -> None:
    gpucompile.compile(graph, devices=("cpu",)).save(tmp_path / "b")
    folder = tmp_path / "b" / "openvino"

    def refused(match: str) -> None:
        with pytest.raises(BundleError, match=match):
            gpucompile.load(tmp_path / "b", device="cpu")

    meta = json.loads((folder / "cpu.json").read_text())
    for change, match in (
        ({"device": "npu"}, "calls itself npu"),
        ({"device": "tpu"}, "expected one of"),
        ({"inputs": []}, "inputs are not the manifest's"),
        ({"xml": {**meta["xml"], "file": "openvino/../x"}}, "unexpected file name"),
        ({"xml": {**meta["xml"], "size": 5}}, r"cpu.xml: \d+ bytes"),
        ({"xml": {**meta["xml"], "sha256": "0" * 64}}, "does not match its sha256"),
        ({"surprise": 1}, "unknown field"),
    ):
        (folder / "cpu.json").write_text(json.dumps({**meta, **change}))
        refused(match)
    (folder / "cpu.json").write_text(json.dumps(meta))
    xml = (folder / "cpu.xml").read_bytes()
    (folder / "cpu.xml").write_bytes(xml.replace(b"Relu", b"Rely"))
    refused("does not match its sha256")
    (folder / "cpu.xml").unlink()
    refused("missing from the bundle")


def test_blob(graph: Graph, feeds: dict[str, np.ndarray], tmp_path: Path) -> None:
    """What the device exports is taken where device and version are the same; else the model is compiled."""
    bundle = gpucompile.compile(graph, devices=("cpu",))
    bundle.map_openvino(with_blob)
    path = bundle.save(tmp_path / "x.gpub")
    with OpenvinoExecutable(read_bundle(path), "cpu") as exe:
        assert exe.from_blob
        agree(exe.run(feeds), graph, feeds)
    other = OpenvinoDevice("cpu", "CPU", "another CPU")
    with OpenvinoExecutable(read_bundle(path), other) as exe:
        assert not exe.from_blob
        agree(exe.run(feeds), graph, feeds)


def test_cache(graph: Graph, feeds: dict[str, np.ndarray], tmp_path: Path) -> None:
    bundle = gpucompile.compile(graph, devices=("cpu",))
    for _ in range(2):
        with gpucompile.load(bundle, "cpu", options=OpenvinoOptions(cache_dir=tmp_path / "cache")) as exe:
            agree(exe.run(feeds), graph, feeds)
    assert any((tmp_path / "cache").iterdir())


def test_many_threads(graph: Graph) -> None:
    rng = np.random.default_rng(2)
    many = [{"x": rng.standard_normal((4, 8)).astype(np.float32)} for _ in range(40)]
    with gpucompile.load(gpucompile.compile(graph, devices=("cpu",)), "cpu") as exe, ThreadPoolExecutor(4) as pool:
        for feeds, got in zip(many, pool.map(exe.run, many), strict=True):
            agree(got, graph, feeds)


def test_inputs_are_checked(graph: Graph, feeds: dict[str, np.ndarray]) -> None:
    with gpucompile.load(gpucompile.compile(graph, devices=("cpu",)), "cpu") as exe:
        for wrong, match in (
            ({}, "input 'x' is missing"),
            ({"x": feeds["x"].astype(np.float64)}, "is float64"),
            ({"x": feeds["x"][:2]}, r"\[2, 8\]"),
        ):
            with pytest.raises(InputError, match=match):
                exe.run(wrong)
        strided = np.zeros((8, 4), np.float32).T
        agree(exe.run({"x": strided}), graph, {"x": strided})
        with pytest.raises(UnsupportedError, match="GPU buffers"):
            exe.dispatch({}, {})
        assert exe.profile(feeds)


# Devices -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(NPU, reason="there is an NPU here")
def test_no_npu(graph: Graph) -> None:
    bundle = gpucompile.compile(graph, devices=("npu",))
    with pytest.raises(DeviceError, match=r"no npu device: OpenVINO .* finds CPU.*driver"):
        gpucompile.load(bundle, "npu")
    with gpucompile.load(bundle) as exe:  # the CPU takes its place
        assert isinstance(exe, OpenvinoExecutable) and exe.openvino_device.kind == "cpu"
    with pytest.raises(DeviceError, match="no npu device"):
        bundle.map_openvino(with_blob)


def test_without_openvino(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    openvino.openvino_module.cache_clear()
    openvino._core.cache_clear()
    try:
        assert list_devices() == []
        with pytest.raises(UnsupportedError, match=r"pip install 'gpucompile\[openvino\]'"):
            gpucompile.compile(graph, devices=("cpu",))
        with pytest.raises(UnsupportedError, match="pip install"):
            find_device("cpu")
    finally:
        openvino.openvino_module.cache_clear()
        openvino._core.cache_clear()


def test_wrong_words(graph: Graph) -> None:
    for devices in ((), ("tpu",), "cpu"):
        with pytest.raises(InputError, match="devices must be"):
            gpucompile.compile(graph, devices=devices)
    bundle = gpucompile.compile(graph, devices=("cpu",))
    with pytest.raises(InputError, match="unknown device 'tpu'"):
        gpucompile.load(bundle, "tpu")
    with pytest.raises(InputError, match="precision"):
        OpenvinoOptions("f64")
    with pytest.raises(InputError, match="power"):
        OpenvinoOptions(power="most")
    with pytest.raises(InputError, match="threads"):
        OpenvinoOptions(threads=0)


@pytest.mark.usefixtures("device")
def test_auto_remembers(
    graph: Graph, feeds: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bundle = gpucompile.compile(graph, devices=("gpu", "cpu"))
    with pytest.raises(BundleError, match="no OpenVINO model for npu"):
        openvino.model_for(bundle, OpenvinoDevice("npu", "NPU", "an NPU"))
    calls: list[str] = []
    real = choose.measure
    monkeypatch.setattr(choose, "measure", lambda kind, make: calls.append(kind) or real(kind, make, seconds=0.01))
    for _ in range(2):
        with gpucompile.load(bundle, "auto") as exe:
            agree(exe.run(feeds), graph, feeds)
    assert sorted(calls) == ["cpu", "gpu"], "measured once"
    (kind,) = json.loads(choose.choices_file().read_text()).values()
    assert isinstance(exe, OpenvinoExecutable) == (kind == "cpu")
    choose.choices_file().write_text("damaged")
    with gpucompile.load(bundle, "auto") as exe:
        agree(exe.run(feeds), graph, feeds)
    assert len(calls) == 4


# Rules ---------------------------------------------------------------------------------------------------------------


def test_npu_rules() -> None:
    g = Graph("g")
    x = g.add_input("x", TensorType(F32, (1, 1, 1, 2, 2, 2)))
    y = g.add(Reshape((8,)), g.add(Relu(), x))
    n = g.add_input("n", TensorType(DataType.UINT64, (3,)))
    g.set_outputs({"y": y, "m": g.add(Add(), n, n)})
    reasons = [str(r) for r in rejections(g, "npu")]
    assert [r.split(":")[0] for r in reasons] == ["relu", "reshape", "add"]
    assert "6 axes, the NPU takes at most 5" in reasons[0] and "no uint64" in reasons[2]
    assert not list(rejections(g, "cpu"))
    with pytest.raises(UnsupportedError, match=r"NPU device: .*6 axes"):
        gpucompile.compile(g, devices=("npu",))


def test_constants_beyond_int32() -> None:
    g = Graph("g")
    x = g.add_input("x", TensorType(DataType.INT64, (1,)))
    g.set_outputs({"y": g.add(Add(), x, g.constant(np.array([2**31])))})
    with pytest.raises(UnsupportedError, match="beyond int32"):
        gpucompile.compile(g, devices=("cpu",))
