"""Bundles with OpenVINO models: written, read, damaged; devices chosen; blobs, caches, errors, threads."""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import gpucompile
from benchmarks import networks
from gpucompile.backends.openvino.compile import with_blob
from gpucompile.backends.openvino.rules import model_rejections, rejections
from gpucompile.errors import BundleError, ClosedError, DeviceError, InputError, UnsupportedError
from gpucompile.ir.graph import Graph
from gpucompile.ir.interpret import interpret
from gpucompile.ir.text import print_graph
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.activation import Relu
from gpucompile.ops.contraction import Matmul
from gpucompile.ops.elementwise import Add, Identity, Max
from gpucompile.ops.gather import Gather
from gpucompile.ops.movement import Concat, Pad, Repeat, Reshape
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


@pytest.mark.parametrize("returns_input", [False, True])
def test_arrays_are_not_copied(monkeypatch: pytest.MonkeyPatch, returns_input: bool) -> None:
    """OpenVINO gets the memory of inputs and outputs, of 64 bits too; but for outputs not where one is an input."""
    g = Graph("g")
    x, n = g.add_input("x", TensorType(F32, (4, 8))), g.add_input("n", TensorType(DataType.INT64, (3,)))
    g.set_outputs(
        {"y": g.add(Relu(), x), "m": g.add(Add(), n, n), "z": x if returns_input else g.add(Reshape((32,)), x)}
    )
    feeds = {"x": np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32), "n": np.array([2**40, -1, 7])}
    kept = {name: array.copy() for name, array in feeds.items()}
    places: list[int] = []
    real = openvino.openvino_module().Tensor

    def tensor(array: np.ndarray, shared_memory: bool) -> object:
        out = real(array, shared_memory=shared_memory)
        assert out.data.ctypes.data == array.ctypes.data
        places.append(array.ctypes.data)
        return out

    with gpucompile.load(gpucompile.compile(g, devices=("cpu",)), "cpu") as exe:
        monkeypatch.setattr(openvino.openvino_module(), "Tensor", tensor)
        for _ in range(2):
            places.clear()
            got = exe.run(feeds)
            outputs = [] if returns_input else [array.ctypes.data for array in got.values()]
            assert places == [array.ctypes.data for array in feeds.values()] + outputs
            for name, want in interpret(g, kept).items():
                np.testing.assert_array_equal(got[name], want)
            for name, array in feeds.items():
                np.testing.assert_array_equal(array, kept[name])


def test_read_only_inputs(graph: Graph, feeds: dict[str, np.ndarray]) -> None:
    """They are copied, and the copies live as long as the run."""
    given = {name: array.copy() for name, array in feeds.items()}
    for array in given.values():
        array.flags.writeable = False
    with gpucompile.load(gpucompile.compile(graph, devices=("cpu",)), "cpu") as exe:
        for _ in range(20):
            agree(exe.run(given), graph, feeds)


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
    (seconds,) = json.loads(choose.choices_file().read_text()).values()
    assert isinstance(exe, OpenvinoExecutable) == (seconds["cpu"] < seconds["gpu"])
    slower = max(seconds, key=lambda kind: seconds[kind])
    assert NPU or exe.skipped[0].startswith("npu: no npu device")
    assert exe.skipped[-1].startswith(f"{slower}: {1e3 * seconds[slower]:.2f} ms here")
    choose.choices_file().write_text("damaged")
    with gpucompile.load(bundle, "auto") as exe:
        agree(exe.run(feeds), graph, feeds)
    assert len(calls) == 4
    text = choose.choices_file().read_text()
    for damaged in ({"cpu": 1.0}, {"cpu": 1.0, "gpu": "fast"}, "cpu", None):
        choose.choices_file().write_text(json.dumps(dict.fromkeys(json.loads(text), damaged)))
        gpucompile.load(bundle, "auto").close()
    assert len(calls) == 12


@pytest.mark.usefixtures("device")
def test_auto_passes_over_what_fails(
    graph: Graph, feeds: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def failing(*args: object, **kwargs: object) -> None:
        raise DeviceError("OpenVINO's CPU cannot compile the model: no")

    monkeypatch.setattr(choose, "OpenvinoExecutable", failing)
    bundle = gpucompile.compile(graph, devices=("gpu", "cpu"))
    with gpucompile.load(bundle, "auto") as exe:
        agree(exe.run(feeds), graph, feeds)
        assert not isinstance(exe, OpenvinoExecutable) and exe.skipped[-1].startswith("cpu: OpenVINO's CPU cannot")
    assert not choose.choices_file().exists(), "it is measured again the next time"
    with pytest.raises(DeviceError, match=r"no device here runs the bundle: .*cpu: OpenVINO's CPU cannot.*"):
        gpucompile.load(gpucompile.compile(graph, devices=("cpu",)), "auto")


@pytest.mark.usefixtures("device")
def test_first(graph: Graph, feeds: dict[str, np.ndarray]) -> None:
    """npu, gpu, cpu, and why those before were not taken."""
    for devices, taken in (
        (("npu", "gpu", "cpu"), "gpu"),
        (("cpu", "npu"), "cpu"),
        (("npu",), "cpu"),
        (("gpu",), "gpu"),
    ):
        with gpucompile.load(gpucompile.compile(graph, devices=devices), "first") as exe:
            agree(exe.run(feeds), graph, feeds, 5e-3)
            if not NPU:
                kind = exe.openvino_device.kind if isinstance(exe, OpenvinoExecutable) else "gpu"
                assert kind == taken and "npu device: OpenVINO" in exe.skipped[0]
                assert (len(exe.skipped) == 2) == (taken == "cpu"), "no shaders for the gpu either"


@pytest.mark.usefixtures("device")
def test_what_a_choice_depends_on(graph: Graph, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another bundle, driver, version of OpenVINO or option is measured anew; the same bundle in a file is not."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls: list[str] = []
    real = choose.measure
    monkeypatch.setattr(choose, "measure", lambda kind, make: calls.append(kind) or real(kind, make, seconds=0.01))

    def measured(source: gpucompile.Bundle | Path, options: OpenvinoOptions | None = None) -> bool:
        calls.clear()
        gpucompile.load(source, "auto", options=options).close()
        return bool(calls)

    bundle = gpucompile.compile(graph, devices=("gpu", "cpu"))
    path = bundle.save(tmp_path / "m.gpub")
    assert measured(bundle) and not measured(bundle) and not measured(path)
    assert measured(bundle, OpenvinoOptions(threads=1)) and not measured(bundle, OpenvinoOptions(threads=1))
    other = graph.clone()
    other.set_outputs({"y": other.add(Relu(), other.outputs[0])})
    assert measured(gpucompile.compile(other, devices=("gpu", "cpu")))
    assert measured(gpucompile.compile(graph, pipeline="no-fuse", devices=("gpu", "cpu"))), "other shaders"
    devices = list_devices()
    for field in ({"driver": "2.0"}, {"full_name": "another"}):
        monkeypatch.setattr(choose, "list_devices", lambda field=field: [replace(d, **field) for d in devices])
        assert measured(bundle) and not measured(bundle)
    monkeypatch.setattr(choose, "list_devices", lambda: devices)
    monkeypatch.setattr(choose, "version", lambda: "2031.1")
    assert measured(bundle)
    monkeypatch.setattr(choose, "version", openvino.version)
    assert not measured(bundle)


def test_wishes_reach_the_device(graph: Graph) -> None:
    """power and threads as the compiled model reports them; wishes that a device does not know are not asked for."""
    bundle = gpucompile.compile(graph, devices=("cpu",))

    def read(options: OpenvinoOptions, name: str) -> str:
        with OpenvinoExecutable(bundle, "cpu", options) as exe:
            return str(exe._compiled.get_property(name))

    assert read(OpenvinoOptions(threads=1), "INFERENCE_NUM_THREADS") == "1"
    assert read(OpenvinoOptions(), "PERFORMANCE_HINT") == "LATENCY"
    assert "float32" in read(OpenvinoOptions(), "INFERENCE_PRECISION_HINT")
    assert "bfloat16" in read(OpenvinoOptions(precision="bf16"), "INFERENCE_PRECISION_HINT")
    # a CPU with cores of one kind turns it into ANY_CORE
    core = read(OpenvinoOptions(power="low-power"), "SCHEDULING_CORE_TYPE")
    assert "ECORE_ONLY" in core or "ANY_CORE" in core
    assert OpenvinoOptions(power="low-power").properties("cpu")["SCHEDULING_CORE_TYPE"] == "ECORE_ONLY"
    for power, turbo in (("high-performance", True), ("low-power", False), ("default", None)):
        assert OpenvinoOptions(power=power).properties("npu").get("NPU_TURBO") == turbo
    # without a device its plugin knows no NPU_TURBO, as with a driver that lacks it
    npu = OpenvinoDevice("npu", "NPU", "an NPU")
    assert NPU or "NPU_TURBO" not in openvino._settings(npu, OpenvinoOptions(power="high-performance"))
    cpu = find_device("cpu")
    assert openvino._settings(cpu, OpenvinoOptions(power="low-power"))["SCHEDULING_CORE_TYPE"] == "ECORE_ONLY"


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
    with gpucompile.load(gpucompile.compile(g, devices=("cpu",)), "cpu") as exe:
        assert not list(rejections(Graph("empty"), "cpu")) and len(exe.outputs) == 2
    with pytest.raises(UnsupportedError, match=r"NPU device: .*6 axes"):
        gpucompile.compile(g, devices=("npu",))


def test_64_bits_on_the_npu() -> None:
    """Within int32, for which inputs are checked; sums that may leave it are refused."""
    g = Graph("g")
    x = g.add_input("x", TensorType(DataType.INT64, (2,)))
    table = g.constant(np.arange(10, dtype=np.float32))
    g.set_outputs({"y": g.add(Gather(), table, x), "s": g.add(Max(), x, g.constant(np.array([-5, 7])))})
    with gpucompile.load(gpucompile.compile(g, devices=("npu",)), "cpu") as exe:
        got = exe.run({"x": np.array([3, -1])})
        assert got["y"].tolist() == [3.0, 9.0] and got["s"].tolist() == [3, 7] and got["s"].dtype == np.int64
        with pytest.raises(InputError, match="beyond int32"):
            exe.run({"x": np.array([2**31, 0])})
    g.set_outputs({"y": g.add(Add(), x, x)})
    with pytest.raises(UnsupportedError, match="NPU device: add: its int64 may leave int32"):
        gpucompile.compile(g, devices=("npu",))


def test_large_constants() -> None:
    """Beyond int32: exact on the CPU."""
    g = Graph("g")
    x = g.add_input("x", TensorType(DataType.INT64, (1,)))
    u = g.add_input("u", TensorType(DataType.UINT32, (2,)))
    large = g.constant(np.array([2**31 + 5, 2**32 - 1], np.uint32))
    g.set_outputs({
        "y": g.add(Add(), x, g.constant(np.array([2**33]))),
        "c": g.add(Concat(), u, large),
        "p": g.add(Pad((1,), (1,), value=2**32 - 2), u),
        "whole": g.constant(np.array([2**40, -1])),
        "large": large,
    })  # fmt: skip
    feeds = {"x": np.array([5]), "u": np.array([1, 2**32 - 1], np.uint32)}
    with gpucompile.load(gpucompile.compile(g, devices=("cpu",)), "cpu") as exe:
        got = exe.run(feeds)
    for name, want in interpret(g, feeds).items():
        np.testing.assert_array_equal(got[name], want)
        assert got[name].dtype == want.dtype


def test_npu_rules_of_the_lowered_model() -> None:
    """Ops that lower to more axes than they have, and what no op touches."""
    g = Graph("g")
    x = g.add_input("x", TensorType(F32, (1, 2, 1, 2, 2)))
    g.set_outputs({"y": g.add(Repeat((2, 1, 1, 3, 1)), x)})
    with pytest.raises(UnsupportedError, match=r"NPU device: OpenVINO's \w+ '\w+': f32\[.*\] has 10 axes"):
        gpucompile.compile(g, devices=("npu",))
    with gpucompile.load(gpucompile.compile(g, devices=("cpu",)), "cpu") as exe:
        agree(exe.run({"x": np.ones((1, 2, 1, 2, 2), np.float32)}), g, {"x": np.ones((1, 2, 1, 2, 2), np.float32)})
    g = Graph("g")
    g.set_outputs({"y": g.add_input("n", TensorType(DataType.UINT64, (3,)))})
    with pytest.raises(UnsupportedError, match="Parameter 'n': the NPU has no u64"):
        gpucompile.compile(g, devices=("npu",))


def test_npu_models_keep_the_rules() -> None:
    """What is written for the NPU, read back by OpenVINO: static, at most 5 axes, its types, weights in float16."""
    ov = openvino.openvino_module()
    bundle = gpucompile.compile(networks.cached("squeezenet"), devices=("npu",))
    meta = bundle.openvino_model("npu")
    model = openvino._read(meta, bundle.openvino_file(meta.xml), bundle.openvino_file(meta.weights))
    assert not list(model_rejections(model, "npu"))
    elements = {}
    for op in model.get_ordered_ops():
        assert not any(out.get_partial_shape().is_dynamic for out in op.outputs())
        for out in op.outputs():
            elements.setdefault(out.get_element_type().get_type_name(), set()).add(op.get_type_name())
    assert "Convolution" in elements["f16"] and "Convolution" not in elements["f32"]
    large = [
        op
        for op in model.get_ordered_ops()
        if op.get_type_name() == "Constant" and np.prod(op.output(0).get_shape()) > 100
    ]
    assert large and all(op.output(0).get_element_type() == ov.Type.f16 for op in large)
    opset = importlib.import_module("openvino.opset13")
    dynamic = opset.parameter(ov.PartialShape([-1, 2]), ov.Type.f32)
    reasons = list(model_rejections(ov.Model([opset.relu(dynamic)], [dynamic], "dynamic"), "npu"))
    assert reasons and all("is not static" in r.reason for r in reasons)


# Without OpenVINO ----------------------------------------------------------------------------------------------------

WITHOUT = """
import contextlib, io, json, sys
sys.modules["openvino"] = None
from gpucompile.cli.main import main
results = []
for words in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):
        code = main(words)
    results.append((code, err.getvalue()))
print(json.dumps(results))
"""


def test_commands_without_openvino(graph: Graph, tmp_path: Path) -> None:
    """Each command says what to install where it needs OpenVINO, and works where it does not."""
    model, out, parts = (str(tmp_path / name) for name in ("g.gir", "cpu.gpub", "parts.gpub"))
    Path(model).write_text(print_graph(graph))
    gpucompile.compile(graph, devices=("cpu",)).save(out)
    gpucompile.compile(graph, devices=("gpu", "cpu"), partition={"relu": "cpu"}).save(parts)
    new = str(tmp_path / "new.gpub")
    commands = [
        (["compile", model, "-o", new, "--device", "cpu"], 2),
        (["compile", model, "-o", new, "--device", "npu,gpu", "--partition"], 2),
        (["run", model, "--random", "--device", "cpu"], 2),
        (["run", out, "--random"], 2),
        (["run", out, "--random", "--device", "npu"], 2),
        (["run", parts, "--random"], 2),
        (["blob", out], 2),
        (["bench", model, "--devices", "cpu", "--seconds", "0.01"], 2),
        (["compile", model, "-o", new], 0),
        (["inspect", out], 0),
        (["inspect", parts, "--explain"], 0),
    ]
    words = json.dumps([words for words, _ in commands])
    ran = subprocess.run([sys.executable, "-c", WITHOUT], input=words, capture_output=True, text=True, check=True)
    for (words, code), (got, err) in zip(commands, json.loads(ran.stdout), strict=True):
        assert got == code, (words, err)
        assert ("pip install 'gpucompile[openvino]'" in err) == (code == 2), (words, err)
        assert err.count("\n") <= 1, err
