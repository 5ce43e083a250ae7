"""Models cut between OpenVINO and wgpu: the same numbers however they are cut, edges counted, reasons told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import gpucompile
from gpucompile.cli.main import main
from gpucompile.division import Assignment
from gpucompile.errors import BundleError, DeviceError, InputError, UnsupportedError
from gpucompile.ir.graph import Graph, Node
from gpucompile.ir.interpret import interpret
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.activation import Relu, Sigmoid, Tanh
from gpucompile.ops.contraction import Matmul
from gpucompile.ops.elementwise import Abs, Add, Mul, Neg
from gpucompile.ops.logical import Cast, Greater, Where
from gpucompile.ops.movement import Concat, Reshape, Slice
from gpucompile.ops.recurrent import LstmCell
from gpucompile.ops.reduction import ReduceSum
from gpucompile.plan.partitioned import PartitionedBundle
from gpucompile.runtime import openvino
from gpucompile.runtime.device import Device
from gpucompile.runtime.openvino import list_devices
from gpucompile.runtime.partitioned import PartitionedExecutable
from gpucompile.runtime.parts import explain
from tests.support import graphs

F32, I64, U8 = DataType.FLOAT32, DataType.INT64, DataType.UINT8
NO_NPU = pytest.mark.skipif(any(d.kind == "npu" for d in list_devices()), reason="there is an NPU here")

Arrays = dict[str, np.ndarray]


def feeds_of(graph: Graph) -> Arrays:
    rng = np.random.default_rng(0)
    return {v.name: (2 * rng.standard_normal(v.type.shape)).astype(v.type.dtype.numpy) for v in graph.inputs}


def divided(graph: Graph, partition: Assignment | bool, devices: tuple[str, ...] = ("gpu", "cpu")) -> PartitionedBundle:
    bundle = gpucompile.compile(graph, devices=devices, partition=partition)
    assert isinstance(bundle, PartitionedBundle)
    return bundle


def agree(got: dict[str, Any], want: Arrays, tolerance: float = 1e-5) -> None:
    assert list(got) == list(want)
    for name, w in want.items():
        assert got[name].dtype == w.dtype and got[name].shape == w.shape
        scale = float(np.abs(w).max(initial=1.0))
        np.testing.assert_allclose(got[name], w, rtol=tolerance, atol=tolerance * scale, err_msg=name)


def opened(bundle: PartitionedBundle | Path, device: Device | str | None = None) -> PartitionedExecutable:
    exe = gpucompile.load(bundle, device)
    assert isinstance(exe, PartitionedExecutable)
    return exe


@pytest.fixture
def mixed() -> Graph:
    """Contractions between elementwise ops; a value with several readers, an output that is an input, one twice."""
    g = Graph("mixed")
    x = g.add_input("x", TensorType(F32, (4, 8)))
    w = g.constant(np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32))
    a = g.add(Matmul(), x, w)
    r = g.add(Relu(), a)
    s = g.add(Sigmoid(), r)
    t = g.add(Tanh(), s)
    y = g.add(Add(), g.add(Mul(), t, r), g.add(Neg(), a))
    for v, name in ((a, "a"), (r, "r"), (s, "s"), (t, "t")):
        v.name = name
    g.set_outputs({"y": y, "x": x, "same": y, "s": s})
    return g


def test_a_cut_gives_what_each_device_gives(mixed: Graph, device: Device, tmp_path: Path) -> None:
    feeds = feeds_of(mixed)
    want = interpret(mixed, feeds)
    whole = gpucompile.compile(mixed, devices=("gpu", "cpu"))
    for on in (device, "cpu"):
        with gpucompile.load(whole, on) as alone:
            agree(alone.run(feeds), want)
    bundle = divided(mixed, {"sigmoid": "cpu", "neg": "cpu"})
    for source in (bundle, bundle.save(tmp_path / "m.gpub"), bundle.save(tmp_path / "folder")):
        with opened(source, device) as exe:
            assert exe.backends == ("wgpu", "openvino-cpu", "wgpu")
            for _ in range(2):
                agree(exe.run(feeds), want)
            agree(asyncio.run(exe.run_async(feeds)), want)
            assert exe.kernels > 2 and exe.device_name.startswith(device.name) and not exe.skipped
            assert {label for label, _ in exe.profile(feeds)}


def test_edges(mixed: Graph, device: Device) -> None:
    """What crosses, how many bytes, and which way."""
    with opened(divided(mixed, {"sigmoid": "cpu"}), device) as exe:
        edges = {e.value: e for e in exe.edges}
        assert set(edges) == {"a", "r", "s"} or set(edges) == {"r", "s", "neg"}
        assert edges["r"].source == 0 and edges["r"].targets == (1, 2) and edges["r"].bytes == 80
        assert (edges["s"].source, edges["s"].targets, edges["s"].resident) == (1, (2,), False)
        others = [e for e in edges.values() if e.value not in ("r", "s")]
        assert all(e.resident and e.bytes == 80 for e in others), "only wgpu parts read it"


def test_ping_pong(device: Device) -> None:
    g = Graph("chain")
    v = x = g.add_input("x", TensorType(F32, (3, 5)))
    for i in range(9):
        v = g.add(Tanh() if i % 2 else Neg(), v)
    g.set_outputs({"y": g.add(Add(), v, x)})
    with opened(divided(g, {"tanh": "cpu", "neg": "gpu", "add": "cpu"}), device) as exe:
        assert exe.backends == ("wgpu", "openvino-cpu") * 5
        assert [(e.source, e.targets, e.bytes) for e in exe.edges] == [(i, (i + 1,), 60) for i in range(9)]
        agree(exe.run(feeds_of(g)), interpret(g, feeds_of(g)))


def test_scalars_integers_truths(device: Device) -> None:
    """Edges of rank 0, of int64 and of WebNN's booleans."""
    g = Graph("edges")
    x = g.add_input("x", TensorType(F32, (4, 6)))
    n = g.add_input("n", TensorType(I64, (6,)))
    first, second = g.add(Slice((0, 0), (4, 2), (1, 1)), x), g.add(Slice((0, 2), (4, 4), (1, 1)), x)
    total = g.add(ReduceSum((0, 1), False), first)
    truth = g.add(Greater(), second, total)
    twice = g.add(Add(), n, n)
    picked = g.add(Where(), truth, second, g.add(Neg(), total))
    g.set_outputs({"y": picked, "n": g.add(Mul(), twice, n), "f": g.add(Cast(F32), twice), "truth": truth})
    feeds = feeds_of(g) | {"n": np.array([-3, 3, 0, -1, 5, 7])}
    want = interpret(g, feeds)
    on = {"gpu": ("slice", "greater", "mul", "cast"), "cpu": ("reduce_sum", "neg", "where", "add")}
    moves = {op: kind for kind, ops in on.items() for op in ops}
    for assignment in (moves, {op: "cpu" if kind == "gpu" else "gpu" for op, kind in moves.items()}):
        with opened(divided(g, assignment), device) as exe:
            agree(exe.run(feeds), want)
            kinds = {(e.dtype, e.shape, e.bytes) for e in exe.edges}
            assert {("float32", (), 4), ("int64", (6,), 48), ("uint8", (4, 4), 16)} <= kinds


def test_several_results(device: Device) -> None:
    """A node whose two results both cross, in both directions."""
    rng = np.random.default_rng(0)
    g = Graph("cell")
    x, h, c = (g.add_input(n, TensorType(F32, (3, s))) for n, s in (("x", 7), ("h", 5), ("c", 5)))
    w, r = (g.constant(rng.standard_normal((20, s)).astype(np.float32)) for s in (7, 5))
    cell = g.insert(LstmCell(hidden_size=5), (x, w, r, h, c, None, None, None))
    g.set_outputs({"h": g.add(Tanh(), cell.outputs[0]), "c": g.add(Neg(), cell.outputs[1]), "raw": cell.outputs[1]})
    feeds = feeds_of(g)
    for on, other in (("cpu", "gpu"), ("gpu", "cpu")):
        with opened(divided(g, {"lstm_cell": on, "tanh": other, "neg": other}), device) as exe:
            agree(exe.run(feeds), interpret(g, feeds))
            assert [(e.source, e.targets, e.bytes) for e in exe.edges] == [(0, (1,), 60)] * 2


def test_no_elements(device: Device) -> None:
    """wgpu has no tensors without elements: what touches one goes to OpenVINO, or is refused by name."""
    g = Graph("empty")
    none, y = g.add_input("none", TensorType(F32, (0, 3))), g.add_input("y", TensorType(F32, (2, 3)))
    joined = g.add(Concat(0), g.add(Relu(), none), y)
    g.set_outputs({"o": g.add(Tanh(), joined), "z": g.add(Neg(), none)})
    bundle = divided(g, True)
    assert [p.backend for p in bundle.manifest.parts] == ["openvino-cpu", "wgpu"]
    assert all("no tensors without elements" in n.reason for n in bundle.fallback)
    feeds = feeds_of(g)
    with opened(bundle, device) as exe:
        agree(exe.run(feeds), interpret(g, feeds))
    with opened(divided(g, {"relu": "npu"}, ("npu", "cpu")), "first") as exe:
        agree(exe.run(feeds), interpret(g, feeds), 1e-3)
        assert exe.edges == () or {e.bytes for e in exe.edges} <= {0, 24}
    with pytest.raises(UnsupportedError, match=r"relu is assigned to gpu: wgpu has no tensors without elements"):
        divided(g, {"relu": "gpu"})


def test_outputs_that_nothing_computes(device: Device) -> None:
    g = Graph("constant")
    x = g.add_input("x", TensorType(F32, (2,)))
    g.set_outputs({"c": g.constant(np.arange(3, dtype=np.float32)), "y": g.add(Abs(), x)})
    for devices in (("gpu", "cpu"), ("cpu", "gpu")):
        with opened(divided(g, {"abs": devices[1]}, devices), device) as exe:
            assert len(exe.backends) == 2
            agree(exe.run(feeds_of(g)), interpret(g, feeds_of(g)))
    only = Graph("nothing")
    only.set_outputs({"y": only.add_input("x", TensorType(F32, (2,)))})
    with pytest.raises(InputError, match="nothing to cut"):
        divided(only, True)


@pytest.mark.parametrize("examples", [5, pytest.param(300, marks=pytest.mark.slow)])
def test_random_graphs_cut_at_random(device: Device, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(graph=graphs(), data=st.data())
    def run(graph: Graph, data: st.DataObject) -> None:
        feeds = feeds_of(graph)
        drawn: dict[Node, str] = {}

        def assign(node: Node) -> str | None:
            if node not in drawn:
                drawn[node] = data.draw(st.sampled_from(["gpu", "cpu"]))
            return drawn[node]

        with opened(divided(graph, assign), device) as exe:
            agree(exe.run(feeds), interpret(graph, feeds), 1e-4)

    run()


# Who takes what ------------------------------------------------------------------------------------------------------


def deep() -> Graph:
    """Six axes in its middle, which the NPU does not take; between, what it does."""
    g = Graph("deep")
    x = g.add_input("x", TensorType(F32, (2, 8)))
    r = g.add(Relu(), x)
    six = g.add(Tanh(), g.add(Reshape((2, 1, 2, 1, 2, 2)), r))
    six.name = "six"
    g.set_outputs({"y": g.add(Sigmoid(), g.add(Reshape((2, 8)), six))})
    return g


def test_the_first_that_takes_a_node() -> None:
    bundle = divided(deep(), True, ("npu", "gpu", "cpu"))
    assert [p.backend for p in bundle.manifest.parts] == ["openvino-npu", "wgpu", "openvino-npu"]
    assert [n.op for n in bundle.fallback] == ["reshape", "tanh", "reshape"]
    assert all(n.reason.startswith("npu: ") and "6 axes" in n.reason for n in bundle.fallback)
    assert any(row[2] == "tanh six" and "6 axes" in row[3] for row in explain(bundle.manifest))
    bundle = divided(deep(), True, ("npu", "cpu"))
    assert [p.backend for p in bundle.manifest.parts] == ["openvino-npu", "openvino-cpu", "openvino-npu"]
    bundle = divided(deep(), True, ("cpu", "gpu"))
    assert [p.backend for p in bundle.manifest.parts] == ["openvino-cpu"] and not bundle.fallback


def test_nobody_takes_it() -> None:
    with pytest.raises(UnsupportedError, match=r"no device takes:\n  reshape.*npu: .*6 axes") as e:
        divided(deep(), True, ("npu",))
    assert str(e.value).count("\n") == 3


def test_a_part_that_is_refused_goes_on(monkeypatch: pytest.MonkeyPatch, device: Device) -> None:
    """A device that takes every node, but not all of them together."""
    from gpucompile.backends.openvino import compile as backend

    real = backend.compile_graph

    def refusing(graph: Graph, *args: Any, **kwargs: Any) -> Any:
        if graph.statistics().get("tanh"):
            raise UnsupportedError("too much for it")
        return real(graph, *args, **kwargs)

    monkeypatch.setattr(backend, "compile_graph", refusing)
    bundle = divided(deep(), True, ("cpu", "gpu"))
    assert [p.backend for p in bundle.manifest.parts] == ["wgpu"]
    assert all("its part is refused: too much for it" in n.reason for n in bundle.fallback)
    with opened(bundle, device) as exe:
        agree(exe.run(feeds_of(deep())), interpret(deep(), feeds_of(deep())))
    with pytest.raises(UnsupportedError, match=r"a part with tanh 'six' is assigned to cpu: too much for it"):
        divided(deep(), {"tanh": "cpu"}, ("cpu", "gpu"))


def test_assignments_that_make_no_sense(mixed: Graph) -> None:
    for partition, match in (
        ({"conv2d": "cpu"}, "no op and no result of one is called 'conv2d'; there are add, matmul"),
        ({"relu": "npu"}, "'relu' is assigned to 'npu', the devices are gpu, cpu"),
        (lambda node: "tpu", "is assigned to 'tpu'"),
        ("relu", "partition must be True, a dict"),
    ):
        with pytest.raises(InputError, match=match):
            gpucompile.compile(mixed, devices=("gpu", "cpu"), partition=partition)  # type: ignore[call-overload]
    with pytest.raises(UnsupportedError, match=r"tanh 'six' is assigned to npu: .*6 axes"):
        divided(deep(), {"six": "npu"}, ("npu", "gpu"))


# Loading -------------------------------------------------------------------------------------------------------------


@NO_NPU
def test_a_device_that_is_missing(
    mixed: Graph, device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = divided(mixed, {"sigmoid": "npu"}, ("gpu", "npu"))
    path = bundle.save(tmp_path / "m.gpub")
    with pytest.raises(
        DeviceError, match=r"part 1 \(which gives 's'\) is for npu: no npu device: OpenVINO .* finds CPU"
    ):
        gpucompile.load(path, device)
    with opened(path, "first") as exe:
        assert "part 1 (which gives 's') runs on" in exe.skipped[0] and "not on an NPU" in exe.skipped[0]
        assert exe.backends == ("wgpu", "openvino-cpu", "wgpu")
        agree(exe.run(feeds_of(mixed)), interpret(mixed, feeds_of(mixed)), 1e-3)
    for on in ("cpu", "npu", "tpu"):
        with pytest.raises(InputError, match=f"runs each where it was compiled for, not all on '{on}'"):
            gpucompile.load(path, on)
    monkeypatch.setattr(openvino, "list_devices", list)
    with pytest.raises(DeviceError, match=r"part 1 .* is for cpu: no cpu device"):
        gpucompile.load(divided(mixed, {"sigmoid": "cpu"}), device)


def test_no_adapter(mixed: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpucompile.runtime import partitioned

    def none() -> Device:
        raise DeviceError("no WebGPU adapter found")

    monkeypatch.setattr(partitioned, "default_device", none)
    with pytest.raises(DeviceError, match=r"part 0 \(which gives 'a', .*\) is for gpu: no WebGPU adapter"):
        gpucompile.load(divided(mixed, {"relu": "cpu"}))
    with opened(divided(deep(), True, ("cpu", "gpu"))) as exe:  # without parts for the GPU none is needed
        agree(exe.run(feeds_of(deep())), interpret(deep(), feeds_of(deep())))


def test_damaged(mixed: Graph, device: Device, tmp_path: Path) -> None:
    folder = divided(mixed, {"sigmoid": "cpu"}).save(tmp_path / "m")
    manifest = folder / "manifest.json"
    good = json.loads(manifest.read_text())
    for at, change, match in (
        (1, {"backend": "openvino-npu"}, "promises a part for openvino-npu"),
        (1, {"backend": "wgpu"}, "promises a part for wgpu"),
        (0, {"backend": "openvino-cpu"}, "promises a part for openvino-cpu"),
        (1, {"backend": "openvino-tpu"}, "expected one of"),
        (1, {"size": 5}, "does not suit its size"),
    ):
        parts = [dict(p, **change) if i == at else p for i, p in enumerate(good["parts"])]
        manifest.write_text(json.dumps({**good, "parts": parts}))
        with pytest.raises(BundleError, match=match):
            gpucompile.load(folder, device)
    manifest.write_text(json.dumps(good))
    weights = folder / "parts" / "1" / "openvino" / "cpu.xml"
    weights.write_bytes(weights.read_bytes().replace(b"Sigmoid", b"Sigmoit"))
    with pytest.raises(BundleError, match=r"cpu.xml: content does not match"):
        gpucompile.load(folder, device)


def test_integers_beyond_32_bits_cross(device: Device) -> None:
    g = Graph("long")
    n = g.add_input("n", TensorType(I64, (2,)))
    square = g.add(Mul(), n, n)
    square.name = "square"
    g.set_outputs({"y": g.add(Neg(), square)})
    with opened(divided(g, {"neg": "cpu"}), device) as exe:
        agree(exe.run({"n": np.array([3, -4])}), {"y": np.array([-9, -16])})
        agree(exe.run({"n": np.array([2**20, 1])}), {"y": np.array([-(2**40), -1])})


# Files, command line -------------------------------------------------------------------------------------------------


def onnx_model() -> onnx.ModelProto:
    w = onnx.numpy_helper.from_array(np.random.default_rng(1).standard_normal((6, 6)).astype(np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Sigmoid", ["r"], ["s"]),
        helper.make_node("NonZero", ["r"], ["places"], "where"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])]
    outputs = [onnx.ValueInfoProto(name=n) for n in ("s", "places")]
    graph = helper.make_graph(nodes, "m", inputs, outputs, [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)


def test_devices_and_hosts(device: Device) -> None:
    """What no device takes goes on to what runs ONNX."""
    bundle = gpucompile.compile(
        onnx_model(), dims={"n": 4}, devices=("npu", "gpu", "cpu"), partition={"relu": "gpu"}, fallback="allow"
    )
    assert isinstance(bundle, PartitionedBundle)
    backends = [p.backend for p in bundle.manifest.parts]
    assert backends[:2] == ["openvino-npu", "wgpu"] and set(backends[2:]) == {"openvino-npu", "onnxruntime"}
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    with opened(bundle, "first") as exe:
        got = exe.run({"x": x})
        w = onnx.numpy_helper.to_array(onnx_model().graph.initializer[0])
        r = np.maximum(x @ w, 0)
        np.testing.assert_allclose(got["s"], 1 / (1 + np.exp(-r)), atol=5e-3)
        assert got["places"].shape[0] == 2 and got["places"].dtype == np.int64
    with pytest.raises(UnsupportedError, match="NonZero"):
        gpucompile.compile(onnx_model(), dims={"n": 4}, devices=("gpu", "cpu"), partition=True)
    with pytest.raises(InputError, match="several sizes where a model is cut"):
        gpucompile.compile(onnx_model(), dims={"n": [1, 4]}, devices=("gpu", "cpu"), partition=True)


def test_command_line(device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx_model()
    del model.graph.node[3], model.graph.output[1]
    path, out = str(tmp_path / "m.onnx"), str(tmp_path / "m.gpub")
    onnx.save(model, path)
    options = ["--device", "cpu,gpu", "--assign", "r=gpu", "--dim", "n=4"]
    assert main(["compile", path, "-o", out, *options, "--explain"]) == 0
    text = capsys.readouterr().out
    assert "openvino-cpu + wgpu + openvino-cpu" in text and "192 bytes between parts" in text
    assert "relu r  assigned by the caller" in text and "0 openvino-cpu  1 wgpu" in text
    assert main(["inspect", out]) == 0
    assert "1 wgpu          2 openvino-cpu  96     host memory" in capsys.readouterr().out
    assert main(["run", out, "--random"]) == 0
    assert main(["run", path, *options, "--random", "--target", "portable"]) == 0
    assert capsys.readouterr().out.count("float32[4, 6]") == 2
    for words, match in (
        (["--partition"], "need the devices in order of preference"),
        (["--device", "cpu", "--partition"], "need the devices in order of preference"),
        (["--device", "cpu,gpu", "--assign", "Relu=gpu"], "called 'Relu'; there are matmul, relu, sigmoid"),
    ):
        assert main(["compile", path, "-o", out, "--dim", "n=4", *words]) == 2
        assert match in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["compile", path, "-o", out, "--assign", "relu"])
    assert "expected NAME=DEVICE with one of gpu, npu, cpu" in capsys.readouterr().err
