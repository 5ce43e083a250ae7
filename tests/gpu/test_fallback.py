"""Models in parts on an adapter: compiled, saved, loaded, run; the same numbers wherever the parts run."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import gpucompile
from gpucompile.cli import main
from gpucompile.errors import BundleError, ClosedError, FallbackError, GpucompileWarning, InputError, UnsupportedError
from gpucompile.plan.bundle import Bundle
from gpucompile.plan.partitioned import HostModel, PartitionedBundle
from gpucompile.runtime.device import Device
from gpucompile.runtime.executable import Executable
from gpucompile.runtime.format import Slot
from gpucompile.runtime.host import HOSTS, REFERENCE
from gpucompile.runtime.partitioned import PartitionedExecutable
from gpucompile.runtime.parts import explain, open_bundle, resident

X = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == REFERENCE:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    return str(request.param)


def model() -> onnx.ModelProto:
    """device (matmul, relu) -> host (where it is not zero, how often) -> device, which also reads relu's result; one
    result depends on data, and a string goes around the device."""
    w = onnx.numpy_helper.from_array(np.random.default_rng(1).standard_normal((6, 6)).astype(np.float32), "w")
    word = onnx.numpy_helper.from_array(np.array(["good"], object), "word")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Abs", ["a"], ["kept"]),
        helper.make_node("NonZero", ["r"], ["places"], "where"),
        helper.make_node("Cast", ["places"], ["f"], "cast", to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f"], ["mean"], "mean", keepdims=0),
        helper.make_node("Mul", ["kept", "mean"], ["scaled"]),
        helper.make_node("Greater", ["scaled", "r"], ["y"]),
        helper.make_node("Equal", ["label", "word"], ["same"], "compare"),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6]),
        helper.make_tensor_value_info("label", TensorProto.STRING, ["m"]),
    ]
    outputs = [onnx.ValueInfoProto(name=n) for n in ("y", "places", "same", "scaled")]
    graph = helper.make_graph(nodes, "mixed", inputs, outputs, [w, word])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)


FEEDS = {"x": X, "label": np.array(["bad", "good"], object)}


def compiled() -> PartitionedBundle:
    bundle = gpucompile.compile(model(), dims={"n": 4}, fallback="allow")
    assert isinstance(bundle, PartitionedBundle)
    return bundle


def check(results: dict[str, Any]) -> None:
    wanted = ReferenceEvaluator(model()).run(None, FEEDS)
    for (name, got), want in zip(results.items(), wanted, strict=True):
        np.testing.assert_allclose(got, want, 1e-5, 1e-5, err_msg=name)
    assert results["y"].dtype == results["same"].dtype == np.uint8
    assert results["places"].dtype == np.int64


def test_run(device: Device, host: str, tmp_path: Path) -> None:
    bundle = compiled()
    assert {p.backend for p in bundle.manifest.parts} == {"wgpu", host}
    for source in (bundle, bundle.save(tmp_path / "m.gpub"), bundle.save(tmp_path / "folder")):
        with gpucompile.load(source, device) as exe:
            assert isinstance(exe, PartitionedExecutable)
            assert set(exe.backends) == {"wgpu", host}
            for _ in range(2):
                check(exe.run(FEEDS))
            check(exe(X, label=FEEDS["label"]))
            check(asyncio.run(exe.run_async(FEEDS)))
            assert [n.name for n in exe.fallback] == [n.name for n in bundle.fallback]
            assert {n.name for n in exe.fallback} == {"where", "cast", "mean", "compare"}
            assert exe.kernels > 0


def test_ports(device: Device) -> None:
    with gpucompile.load(compiled(), device) as exe:
        assert [(p.name, p.dtype, p.shape) for p in exe.inputs] == [
            ("x", "float32", (4, 6)),
            ("label", "string", (-1,)),
        ]
        assert [(p.name, p.dtype, p.shape) for p in exe.outputs] == [
            ("y", "uint8", (4, 6)),
            ("places", "int64", (2, -1)),
            ("same", "uint8", (-1,)),
            ("scaled", "float32", (4, 6)),
        ]
        for feeds, message in (
            ({**FEEDS, "x": X.astype(np.float64)}, r"input 'x' is float64\[4, 6\]"),
            ({**FEEDS, "label": np.ones(2)}, "input 'label' is float64"),
            ({**FEEDS, "label": "good"}, "input 'label' is str"),
            ({"x": X}, "input 'label' is missing"),
            ({**FEEDS, "z": X}, "no input 'z'"),
        ):
            with pytest.raises(InputError, match=message):
                exe.run(feeds)


def test_what_only_device_parts_read_stays_there(device: Device) -> None:
    bundle = compiled()
    staying = resident(bundle.manifest)
    assert staying == {"kept"}
    rows = explain(bundle.manifest)
    assert rows[0][0:2] == ("0", "wgpu")
    assert [r for r in rows if "96 stay on the device" in r[5]]
    with PartitionedExecutable(bundle, device) as exe:
        assert exe.memory()["between parts"] == 0
        exe.run(FEEDS)
        exe.run(FEEDS)
        assert exe.memory()["between parts"] == 96  # one set, used again


def test_threads(device: Device) -> None:
    with gpucompile.load(compiled(), device) as exe:
        wanted = {i: exe.run({**FEEDS, "x": X * i})["scaled"] for i in range(4)}
        got: dict[int, Any] = {}

        def work(i: int) -> None:
            got[i] = [exe.run({**FEEDS, "x": X * i})["scaled"] for _ in range(5)]

        threads = [threading.Thread(target=work, args=(i,)) for i in wanted]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for i, want in wanted.items():
            for result in got[i]:
                np.testing.assert_array_equal(result, want)


def test_profile_and_close(device: Device) -> None:
    exe = gpucompile.load(compiled(), device)
    labels = [label for label, _ in exe.profile(FEEDS)] if "timestamp-query" in device.features else []
    assert not labels or any(label.startswith("part ") and " on " in label for label in labels)
    for call in (exe.dispatch, exe.run_bound, exe.copied_bytes):
        with pytest.raises(UnsupportedError, match="a model in parts does not run on GPU buffers"):
            call({}, {"y": object()})
    assert exe.run_bound(FEEDS, {}, {"scaled"}).keys() == {"scaled"}
    exe.close()
    exe.close()
    assert exe.closed
    with pytest.raises(ClosedError):
        exe.run(FEEDS)


def test_three_policies(device: Device) -> None:
    with pytest.raises(UnsupportedError, match="label"):
        gpucompile.compile(model(), dims={"n": 4})
    with pytest.warns(GpucompileWarning, match=r"4 nodes run on the CPU: .*NonZero 'where': .*depends on the data"):
        gpucompile.compile(model(), dims={"n": 4, "m": 2}, fallback="warn")
    with pytest.raises(InputError, match="fallback is 'sometimes'"):
        gpucompile.compile(model(), fallback="sometimes")
    plain = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "plain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 6])],
        [onnx.ValueInfoProto(name="y")],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bundle = gpucompile.compile(helper.make_model(plain, ir_version=10), fallback="warn")
    assert isinstance(bundle, Bundle)
    with gpucompile.load(bundle, device) as exe:
        assert exe.fallback == ()
        assert type(exe) is Executable


def shapes() -> onnx.ModelProto:
    """One node for the CPU, and a free dimension."""
    graph = helper.make_graph(
        [helper.make_node("NonZero", ["x"], ["y"], "where")],
        "shapes",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [1, None])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_one_warning_for_all_shapes(device: Device) -> None:
    source = shapes().SerializeToString()
    dynamic = gpucompile.compile_dynamic(source, fallback="warn", device=device)
    session = gpucompile.InferenceSession(source, providers=[("webgpu", {"device": device}), "cpu"])
    for run in (dynamic.run, lambda feeds: session.run(None, feeds)):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            for n in (1, 2, 3):
                run({"x": np.ones(n, np.float32)})
        assert [str(w.message).split(":")[0] for w in seen] == ["1 node runs on the CPU"]


def test_lists_of_sizes_have_no_fallback() -> None:
    with pytest.raises(UnsupportedError, match="\nThe fallback leaves nodes to the CPU for one size at a time, n has"):
        gpucompile.compile(shapes(), dims={"n": [1, 2]}, fallback="warn")


def test_a_host_that_breaks_its_promise(device: Device) -> None:
    bundle = compiled()
    at, part = next((i, p) for i, p in enumerate(bundle.parts) if isinstance(p, HostModel) and "mean" in p.outputs)
    m = onnx.load_from_string(part.data)
    for node in m.graph.node:
        for a in node.attribute:
            if a.name == "keepdims":
                a.i = 1
    m.graph.output.remove(next(o for o in m.graph.output if o.name == "mean"))
    m.graph.output.append(onnx.ValueInfoProto(name="mean", type=onnx.TypeProto()))
    m.graph.output[-1].type.tensor_type.elem_type = TensorProto.FLOAT
    changed = dataclasses.replace(part, data=m.SerializeToString())
    slots, m2 = {s.name: s for s in bundle.manifest.values}, bundle.manifest
    other = PartitionedBundle(
        [changed if i == at else p for i, p in enumerate(bundle.parts)],
        m2.inputs,
        dict(zip((s.name for s in m2.outputs), m2.results, strict=True)),
        list(slots.values()),
    )
    with (
        gpucompile.load(other, device) as exe,
        pytest.raises(FallbackError, match=r"'mean' is float32\[1, 1\], float32\[\]"),
    ):
        exe.run(FEEDS)


# Bundles -------------------------------------------------------------------------------------------------------------


def edit(folder: Path, change: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def read_all(folder: Path, device: Device) -> None:
    gpucompile.load(folder, device).close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["parts"].reverse(), "which nothing before it gives"),
        (lambda m: m.update(parts=[]), "at least one"),
        (lambda m: m["parts"][0]["outputs"].append("x"), "which it must not"),
        (lambda m: m["parts"][0].update(backend="cuda"), "expected one of wgpu"),
        (lambda m: m["parts"][0].update(sha256="a" * 64, size=3), "does not suit"),
        (lambda m: m["parts"][1].update(sha256=""), "does not suit"),
        (lambda m: m["parts"][1].update(sha256="0" * 64), "does not match its sha256"),
        (lambda m: m["parts"][1].update(size=1), "the manifest says 1"),
        (lambda m: m["results"].pop(), "differ in number"),
        (lambda m: m["results"].__setitem__(0, "nobody"), "nothing gives 'nobody'"),
        (lambda m: m["values"].append(dict(m["values"][0])), "two values are called"),
        (lambda m: m["values"][0].update(shape=[7]), "differ from the whole's"),
        (lambda m: m["values"][0].update(shape=[-2]), "non-negative"),
        (lambda m: m["values"][0].update(ranked=1), "expected true or false"),
    ],
)
def test_damaged_manifests(device: Device, tmp_path: Path, change: Any, message: str) -> None:
    folder = compiled().save(tmp_path / "b")
    assert open_bundle(folder).manifest.parts[1].nodes
    edit(folder, change)
    with pytest.raises(BundleError, match=message):
        read_all(folder, device)


def test_damaged_parts(device: Device, tmp_path: Path) -> None:
    folder = compiled().save(tmp_path / "b")
    host = next(folder.glob("parts/*/model.onnx"))
    data = host.read_bytes()
    host.write_bytes(data[:-1])
    with pytest.raises(BundleError, match=r"model\.onnx: .* bytes, the manifest says"):
        read_all(folder, device)
    host.unlink()
    with pytest.raises(BundleError, match=r"model\.onnx: missing"):
        read_all(folder, device)
    host.write_bytes(data)
    (folder / "parts/0/manifest.json").unlink()
    with pytest.raises(BundleError, match=r"manifest\.json: missing"):
        read_all(folder, device)


def test_a_host_op_that_no_host_here_has(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 8])
    node = helper.make_node("MurmurHash3", ["i"], ["h"], "hash", domain="com.microsoft")
    cast = helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT32)
    graph = helper.make_graph([cast, node], "g", [x], [helper.make_tensor_value_info("h", TensorProto.UINT32, None)])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    bundle = gpucompile.compile(helper.make_model(graph, opset_imports=opsets, ir_version=10), fallback="allow")
    with gpucompile.load(bundle, device) as exe:
        assert exe.run({"x": np.ones((1, 2, 8), np.float32)})["h"].dtype == np.uint32
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BundleError, match=r"com\.microsoft\.MurmurHash3.*compiled for onnxruntime.*not installed"):
        gpucompile.load(bundle, device)


def test_a_defect_is_found_when_the_bundle_is_made() -> None:
    with pytest.raises(BundleError, match="nothing before it gives"):
        PartitionedBundle(
            [HostModel("onnxruntime", b"", ("x",), ("y",), ())], [], {"y": "y"}, [Slot("y", "float32", ())]
        )


# Command line --------------------------------------------------------------------------------------------------------


def test_command_line(device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = str(tmp_path / "m.onnx"), str(tmp_path / "m.gpub")
    onnx.save(model(), path)
    np.save(tmp_path / "label.npy", np.array(["bad", "good"]))
    label = f"label={tmp_path / 'label.npy'}"
    assert main.main(["compile", path, "-o", out, "--dim", "n=4", "--explain"]) == 2
    text, err = capsys.readouterr()
    assert "it reads 'places', whose shape depends on the data" in text
    assert "label" in err
    assert not Path(out).exists()
    assert main.main(["compile", path, "-o", out, "--dim", "n=4", "--fallback", "warn", "--explain"]) == 0
    text, err = capsys.readouterr()
    assert "warning: 4 nodes run on the CPU" in err
    assert "4 nodes on the CPU" in text
    assert text.splitlines()[5].split() == ["part", "backend", "node", "reason", "bytes", "in", "bytes", "out"]
    for options in ([], ["--explain"], ["--kernels"], ["--json"], ["--graph"]):
        assert main.main(["inspect", out, *options]) == 0
        text, _ = capsys.readouterr()
        assert {"--json": '"backend"', "--graph": "graph @mixed.0"}.get(
            options[0] if options else "", "NonZero where"
        ) in text
    assert main.main(["run", out, "--random", "--input", label, "--output", str(tmp_path / "r"), "--explain"]) == 0
    text, _ = capsys.readouterr()
    assert "4 nodes on the CPU" in text
    assert np.load(tmp_path / "r/same.npy").tolist() == [0, 1]
    assert main.main(["run", path, "--dim", "n=4", "--random", "--input", label, "--fallback", "allow"]) == 0
    assert "4 nodes on the CPU" in capsys.readouterr().out
    assert main.main(["run", out, "--random"]) == 2
    assert "no random data for input 'label', string[-1]" in capsys.readouterr().err


def test_results_whose_rank_the_host_does_not_know(device: Device, host: str) -> None:
    """onnxruntime gives them no axes, as it does for scalars."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["s"], keepdims=0),
        helper.make_node("Neg", ["s"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, [2, 3]), value("axes", TensorProto.INT64, [1])],
        [value("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    with gpucompile.load(gpucompile.compile(model, fallback="allow"), device) as run:
        for axis in (0, 1):
            got = run.run({"x": x, "axes": np.array([axis], np.int64)})["y"]
            np.testing.assert_allclose(got, -x.sum(axis))


@pytest.mark.parametrize("name", ["FLOAT8E5M2", "FLOAT8E4M3FN", "FLOAT4E2M1"])
def test_types_that_only_hosts_have(device: Device, name: str) -> None:
    """Inputs and outputs of 8 bits and fewer, as numpy knows them from ml_dtypes."""
    element = getattr(onnx.TensorProto, name)
    nodes = [
        onnx.helper.make_node("Cast", ["x"], ["f"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Mul", ["f", "f"], ["m"]),
        onnx.helper.make_node("Cast", ["m"], ["y"], to=element),
    ]
    ports = [onnx.helper.make_tensor_value_info(n, element, [4]) for n in ("x", "y")]
    graph = onnx.helper.make_graph(nodes, "low", ports[:1], ports[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=11)
    x = np.array([0.5, 1.0, -2.0, 0.0], np.float32).astype(onnx.helper.tensor_dtype_to_np_dtype(element))
    with gpucompile.load(gpucompile.compile(model, fallback="allow"), device) as run:
        y = run.run({"x": x})["y"]
    assert y.dtype == x.dtype and y.astype(np.float32).tolist() == [
        0.25 if name != "FLOAT4E2M1" else 0.0,
        1.0,
        4.0,
        0.0,
    ]
