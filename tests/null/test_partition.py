"""Cutting: segments are convex, in order and few; what an imported model's parts compute is what the whole computes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import gpucompile
from gpucompile.errors import FallbackError, ModelError, UnsupportedError
from gpucompile.frontends.onnx.importer import import_model, import_partitioned, import_parts
from gpucompile.frontends.onnx.partition import DevicePart, HostPart, Partition
from gpucompile.ir.graph import Graph, Node, Value
from gpucompile.ir.interpret import interpret
from gpucompile.ir.partition import cut
from gpucompile.ir.types import DataType, TensorType
from gpucompile.plan.backends import DeviceAndHosts
from gpucompile.plan.partitioned import PartitionedBundle
from gpucompile.runtime.host import HOSTS, ONNXRUNTIME, REFERENCE, open_host
from gpucompile.target import Target

FLOAT, INT64, BOOL, STRING, DOUBLE = (getattr(TensorProto, n) for n in ("FLOAT", "INT64", "BOOL", "STRING", "DOUBLE"))
HERE = DeviceAndHosts(Target.portable())


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The host that takes what the device does not: each in turn."""
    if request.param == REFERENCE:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    return str(request.param)


# The algorithm -------------------------------------------------------------------------------------------------------


@st.composite
def dags(draw: st.DrawFn) -> tuple[list[tuple[int, ...]], list[str]]:
    """For each node those before it that it needs, and who takes it."""
    count = draw(st.integers(0, 14))
    names = draw(st.sampled_from(["ab", "ab", "abc"]))
    needs = [tuple(draw(st.sets(st.integers(0, i - 1), max_size=3))) if i else () for i in range(count)]
    return needs, [draw(st.sampled_from(names)) for _ in range(count)]


@settings(max_examples=300, deadline=None)
@given(dags())
def test_segments_are_convex_in_order_and_few(dag: tuple[list[tuple[int, ...]], list[str]]) -> None:
    needs, takers = dag
    segments = cut(range(len(needs)), needs.__getitem__, takers.__getitem__)
    assert sorted(n for s in segments for n in s.nodes) == list(range(len(needs)))
    place = {n: i for i, s in enumerate(segments) for n in s.nodes}
    for n, before in enumerate(needs):
        assert takers[n] == segments[place[n]].backend
        assert all(place[m] <= place[n] for m in before)  # this makes them convex: nothing returns to a segment
    for s in segments:
        assert list(s.nodes) == sorted(s.nodes)
    for one, two in pairwise(segments):
        assert one.backend != two.backend
    if len(set(takers)) == 2:
        assert len(segments) == fewest(needs, takers)


def fewest(needs: Sequence[tuple[int, ...]], takers: Sequence[str]) -> int:
    """The best that two backends in turn can do: for each start the longest chain of changes."""
    best = []
    for start in set(takers):
        level = []
        for before, taker in zip(needs, takers, strict=True):
            at = max((level[m] for m in before), default=0)
            level.append(at + ((at % 2 == 0) != (taker == start)))
        used = max(level) + 1
        best.append(used)
    return min(best)


def test_the_first_backend_is_preferred_among_equals() -> None:
    for first in "ab":
        assert cut([0, 1], lambda n: (), "ab".__getitem__, first)[0].backend == first


def test_nothing_to_cut() -> None:
    assert cut([], lambda n: (), lambda n: "a") == []


# Models --------------------------------------------------------------------------------------------------------------


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[int, Sequence[Any]]],
    outputs: Sequence[str],
    constants: dict[str, np.ndarray] | None = None,
    domains: Sequence[str] = (),
    opset: int = 17,
) -> onnx.ModelProto:
    weights = [onnx.numpy_helper.from_array(a, n) for n, a in (constants or {}).items()]
    ins = [helper.make_tensor_value_info(n, *t) for n, t in inputs.items()]
    outs = [onnx.ValueInfoProto(name=n) for n in outputs]
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    graph = helper.make_graph(nodes, "m", ins, outs, weights)
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


class Rejecting(DeviceAndHosts):
    """A device that takes no op of the names given."""

    def __init__(self, *ops: str) -> None:
        super().__init__(Target.portable())
        object.__setattr__(self, "ops", ops)

    def reject(self, node: Node, known: Callable[[Value], bool]) -> str | None:
        return f"no {node.op.name} today" if node.op.name in self.ops else super().reject(node, known)  # type: ignore[attr-defined]


def run(found: Graph | Partition, inputs: dict[str, Any]) -> dict[str, Any]:
    """What the parts compute, on numpy and the hosts."""
    if isinstance(found, Graph):
        return interpret(found, inputs)
    known = dict(inputs)
    for part in found.parts:
        if isinstance(part, DevicePart):
            part.graph.verify()
            known |= interpret(part.graph, known)
        else:
            known |= open_host(part.model.SerializeToString()).run(known)
    return {name: known[value] for name, value in found.outputs.items()}


def parts(m: onnx.ModelProto, backends: DeviceAndHosts = HERE) -> Partition:
    found = import_partitioned(m, backends)
    assert isinstance(found, Partition)
    return found


def reasons(found: Partition) -> dict[str, str]:
    return {n.title: n.reason for p in found.parts if isinstance(p, HostPart) for n in p.nodes}


UNARY = {"Relu": "relu", "Abs": "abs", "Neg": "neg", "Sigmoid": "sigmoid"}
BINARY = {"Add": "add", "Mul": "mul", "Max": "max"}


@st.composite
def networks(draw: st.DrawFn) -> tuple[onnx.ModelProto, list[str]]:
    """A random network of one shape, and the ops that its device takes to be beyond it."""
    names, nodes = ["x", "w"], []
    for i in range(draw(st.integers(1, 12))):
        op = draw(st.sampled_from([*UNARY, *BINARY, "Split"]))
        arguments = [draw(st.sampled_from(names)) for _ in range(2 if op in BINARY else 1)]
        if op == "Split":  # two results, which are joined again the other way round
            nodes.append(helper.make_node("Split", arguments, [f"l{i}", f"r{i}"], axis=0))
            nodes.append(helper.make_node("Concat", [f"r{i}", f"l{i}"], [f"v{i}"], axis=0))
        else:
            nodes.append(helper.make_node(op, arguments, [f"v{i}"]))
        names.append(f"v{i}")
    outputs = draw(st.lists(st.sampled_from(names[2:]), min_size=1, max_size=3, unique=True))
    weights = {"w": np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)}
    rejected = draw(st.sets(st.sampled_from([*UNARY.values(), *BINARY.values(), "concat", "slice"])))
    return model(nodes, {"x": (FLOAT, [4, 2])}, outputs, weights), sorted(rejected)


@settings(max_examples=120, deadline=None)
@given(networks())
def test_parts_compute_what_the_whole_computes(network: tuple[onnx.ModelProto, list[str]]) -> None:
    m, rejected = network
    found = import_partitioned(m, Rejecting(*rejected))
    x = np.random.default_rng(0).standard_normal((4, 2)).astype(np.float32)
    wanted = ReferenceEvaluator(m).run(None, {"x": x})
    for name, want, got in zip((o.name for o in m.graph.output), wanted, run(found, {"x": x}).values(), strict=True):
        np.testing.assert_allclose(got, want, 1e-6, 1e-6, err_msg=name)
    device = [p.graph for p in (found.parts if isinstance(found, Partition) else ()) if isinstance(p, DevicePart)]
    for graph in [found] if isinstance(found, Graph) else device:
        assert not set(rejected) & set(graph.statistics())
    if isinstance(found, Partition):
        assert all(r.startswith("no ") and r.endswith(" today") for r in reasons(found).values())


def test_no_host_where_the_device_takes_all() -> None:
    m = model([helper.make_node("Relu", ["x"], ["y"])], {"x": (FLOAT, [2])}, ["y"])
    found = import_partitioned(m, HERE)
    assert isinstance(found, Graph)
    assert found.statistics() == import_model(m).statistics() == {"relu": 1}
    assert [v.name for v in found.inputs] == ["x"]


def test_shape_that_depends_on_data_and_what_follows(host: str) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("NonZero", ["r"], ["places"], "where"),
        helper.make_node("Transpose", ["places"], ["rows"], "turn"),
        helper.make_node("Cast", ["rows"], ["floats"], "cast", to=FLOAT),
        helper.make_node("ReduceSum", ["floats"], ["total"], "sum", keepdims=0),
        helper.make_node("Mul", ["total", "r"], ["y"], "scale"),
    ]
    m = model(nodes, {"x": (FLOAT, [2, 3])}, ["y", "rows"])
    found = parts(m)
    assert [p.backend if isinstance(p, HostPart) else "device" for p in found.parts] == ["device", host, "device"]
    why = reasons(found)
    assert set(why) == {"where", "turn", "cast", "sum"}
    assert "depends on the data" in why["where"]
    assert why["turn"] == "it reads 'places', whose shape depends on the data"
    assert why["sum"] == "it reads 'floats', whose shape depends on the data"
    assert found.kinds["rows"].shape == (-1, 2)
    x = np.array([[-1, 2, 0], [3, 0, 5]], np.float32)
    got = run(found, {"x": x})
    for name, want in zip(("y", "rows"), ReferenceEvaluator(m).run(None, {"x": x}), strict=True):
        np.testing.assert_array_equal(got[name], want)


def test_strings(host: str) -> None:
    nodes = [
        helper.make_node("Equal", ["s", "word"], ["same"], "compare"),
        helper.make_node("Cast", ["same"], ["f"], "cast", to=FLOAT),
        helper.make_node("Mul", ["f", "x"], ["y"], "mul"),
    ]
    m = model(nodes, {"s": (STRING, [3]), "x": (FLOAT, [3])}, ["y"], {"word": np.array(["b"], object)}, opset=19)
    found = parts(m)
    assert reasons(found) == {"compare": "it reads 's', which has the data type string"}
    assert found.kinds["s"].dtype == "string"
    got = run(found, {"s": np.array(["a", "b", "b"], object), "x": np.array([1, 2, 3], np.float32)})
    np.testing.assert_array_equal(got["y"], np.array([0, 2, 3], np.float32))


def test_bool_crosses_as_bytes_both_ways(host: str) -> None:
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["g"]),
        helper.make_node("Not", ["g"], ["n"]),
        helper.make_node("Where", ["n", "x", "zero"], ["y"]),
    ]
    m = model(nodes, {"x": (FLOAT, [3])}, ["y", "n"], {"zero": np.zeros(1, np.float32)})
    found = parts(m, Rejecting("logical_not"))
    assert list(reasons(found).values()) == ["no logical_not today"]
    got = run(found, {"x": np.array([-1, 0, 2], np.float32)})
    np.testing.assert_array_equal(got["y"], np.array([-1, 0, 0], np.float32))
    assert got["n"].dtype == np.uint8
    assert found.kinds["n"].dtype == "uint8"


def test_initializers_that_the_importer_lacks(host: str) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["d"], to=DOUBLE), helper.make_node("Add", ["d", "w"], ["s"], "add")]
    nodes += [helper.make_node("Cast", ["s"], ["y"], "back", to=FLOAT)]
    m = model(nodes, {"x": (FLOAT, [2])}, ["y", "s"], {"w": np.array([0.5, 2.0])})
    found = parts(m)
    assert "double" in reasons(found)["add"]
    assert found.kinds["s"].dtype == "float64"
    got = run(found, {"x": np.ones(2, np.float32)})
    np.testing.assert_array_equal(got["s"], np.array([1.5, 3.0]))
    assert got["s"].dtype == np.float64
    assert got["y"].dtype == np.float32


def test_external_initializers(host: str, tmp_path: Path) -> None:
    nodes = [helper.make_node("Cast", ["x"], ["d"], to=DOUBLE), helper.make_node("Add", ["d", "w"], ["s"], "add")]
    m = model(nodes, {"x": (FLOAT, [2])}, ["s"], {"w": np.array([0.5, 2.0])})
    onnx.save(m, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    found = import_partitioned(tmp_path / "m.onnx", HERE)
    np.testing.assert_array_equal(run(found, {"x": np.ones(2, np.float32)})["s"], np.array([1.5, 3.0]))


def test_branches_read_names_around_them(host: str) -> None:
    branches = {}
    for name, op in (("then_branch", "Add"), ("else_branch", "NonZero")):
        inside = helper.make_node(op, ["r", "r"] if op == "Add" else ["r"], [f"{name}_y"])
        branches[name] = helper.make_graph([inside], name, [], [onnx.ValueInfoProto(name=f"{name}_y")])
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], "choose", **branches),
    ]
    m = model(nodes, {"x": (FLOAT, [3])}, ["y"], {"zero": np.zeros((), np.float32)}, opset=17)
    for name, kind in (("then_branch", FLOAT), ("else_branch", INT64)):
        branch = next(a.g for a in m.graph.node[3].attribute if a.name == name)
        branch.output[0].CopyFrom(helper.make_tensor_value_info(f"{name}_y", kind, None))
    if host == ONNXRUNTIME:
        with pytest.raises((UnsupportedError, ModelError)):  # it wants both branches to be of one type
            import_partitioned(m, OnlyOnnxRuntime(Target.portable()))
    found = parts(m)
    assert set(reasons(found)) == {"choose"}
    x = np.array([-1, 2, 3], np.float32)
    np.testing.assert_array_equal(run(found, {"x": x})["y"], [0, 4, 6])
    np.testing.assert_array_equal(run(found, {"x": -abs(x)})["y"], np.zeros((1, 0)))


class OnlyOnnxRuntime(DeviceAndHosts):
    def host(self, m: onnx.ModelProto) -> tuple[str, Sequence[onnx.TypeProto]]:
        return open_host(m.SerializeToString(), ONNXRUNTIME).backend, []


def test_sequences_of_values_and_names_for_one_value(host: str) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Identity", ["r"], ["alias"]),
        helper.make_node("SequenceConstruct", ["alias", "w"], ["both"]),
        helper.make_node("SequenceLength", ["both"], ["n"]),
        helper.make_node("SequenceAt", ["both", "i"], ["y"], "pick"),
    ]
    m = model(nodes, {"x": (FLOAT, [2]), "i": (INT64, [])}, ["y", "n", "r"], {"w": np.full(2, 9, np.float32)})
    found = parts(m)
    assert set(reasons(found)) == {"pick"}
    for i, want in ((0, [0, 3]), (1, [9, 9])):
        got = run(found, {"x": np.array([-1, 3], np.float32), "i": np.array(i, np.int64)})
        np.testing.assert_array_equal(got["y"], want)
        np.testing.assert_array_equal(got["r"], [0, 3])
        assert got["n"] == 2


def test_tensors_without_elements_as_inputs_and_outputs(host: str) -> None:
    nodes = [helper.make_node("NonZero", ["x"], ["y"], "where"), helper.make_node("Slice", ["x", "a", "a"], ["none"])]
    nodes += [helper.make_node("Concat", ["e", "x"], ["joined"], axis=0), helper.make_node("Abs", ["e"], ["same"])]
    outputs = ["y", "none", "joined", "same"]
    m = model(nodes, {"x": (FLOAT, [2]), "e": (FLOAT, [0])}, outputs, {"a": np.zeros(1, np.int64)})
    found = import_parts(m, {"x": TensorType(DataType.FLOAT32, (2,)), "e": np.zeros(0, np.float32)}, HERE)
    assert found.partition is not None
    assert reasons(found.partition).keys() == {"where"}
    assert isinstance(found.results["none"], np.ndarray) and found.results["none"].shape == (0,)
    got = run(found.partition, {"x": np.array([0, 2], np.float32)})
    np.testing.assert_array_equal(got["y"], [[1]])
    np.testing.assert_array_equal(got["joined"], [0, 2])
    nodes = [helper.make_node("NonZero", ["x"], ["y"]), helper.make_node("Slice", ["x", "a", "a"], ["none"])]
    m = model(nodes, {"x": (FLOAT, [2])}, ["y", "none"], {"a": np.zeros(1, np.int64)})
    assert run(parts(m), {"x": np.ones(2, np.float32)})["none"].shape == (0,)


def test_device_limits() -> None:
    """What no binding holds is read on the CPU; weights of a matmul and tables of a gather are cut, and stay."""
    table = np.zeros((1 << 20, 40), np.float32)
    nodes = [
        helper.make_node("GatherElements", ["table", "i"], ["elements"], "look up"),
        helper.make_node("ReduceMax", ["i"], ["largest"], keepdims=0),
        helper.make_node("Gather", ["table", "largest"], ["row"]),
        helper.make_node("Add", ["elements", "row"], ["rows"]),
        helper.make_node("Transpose", ["table"], ["turned"]),
        helper.make_node("MatMul", ["rows", "turned"], ["all"]),
        helper.make_node("ReduceSum", ["all"], ["y"], keepdims=0),
    ]
    m = model(nodes, {"i": (INT64, [1, 40])}, ["y"], {"table": table})
    why = reasons(parts(m))
    assert set(why) == {"look up"}
    assert re.search(r"has 167772160 bytes, the target portable binds 134217728 at most", why["look up"])


def test_what_has_no_kernel_is_found_by_trying(host: str) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("Softmax", ["r"], ["s"], "long lines", axis=1),
        helper.make_node("Neg", ["s"], ["y"], "neg"),
    ]
    m = model(nodes, {"x": (FLOAT, [1, 6_000_000])}, ["y"])
    with pytest.raises(UnsupportedError, match="one invocation would loop"):
        gpucompile.compile(m)
    bundle = gpucompile.compile(m, fallback="allow")
    assert isinstance(bundle, PartitionedBundle)
    assert [p.backend for p in bundle.manifest.parts] == ["wgpu", host, "wgpu"]
    assert [n.name for n in bundle.fallback] == ["long lines"]
    assert "softmax s: one invocation would loop" in bundle.fallback[0].reason


def test_nodes_that_nobody_takes_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        helper.make_node("Strange", ["x"], ["a"], "first", domain="my.own"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("NonZero", ["x"], ["c"]),
        helper.make_node("Stranger", ["c"], ["d"], "second", domain="my.own"),
    ]
    m = model(nodes, {"x": (FLOAT, [2])}, ["b", "d"], domains=["my.own"])
    with pytest.raises(UnsupportedError) as e:
        import_partitioned(m, HERE)
    text = str(e.value)
    assert "neither the device nor a host takes" in text
    for name in ("my.own.Strange 'first': no import function", "my.own.Stranger 'second': no import function"):
        assert name in text
    assert ONNXRUNTIME in text
    assert REFERENCE in text
    with pytest.raises(UnsupportedError, match=r"NonZero|Strange"):
        import_model(m)


def test_data_types_that_an_op_lacks(host: str) -> None:
    nodes = [helper.make_node("MatMul", ["x", "x"], ["p"], "product"), helper.make_node("Neg", ["p"], ["y"])]
    m = model(nodes, {"x": (TensorProto.INT32, [2, 2])}, ["y"])
    found = parts(m)
    assert reasons(found) == {"product": "matmul i32[2,2] x i32[2,2]: a is int32, allowed: float16, float32"}
    x = np.array([[1, 2], [3, 4]], np.int32)
    np.testing.assert_array_equal(run(found, {"x": x})["y"], -(x @ x))
    with pytest.raises(ModelError, match="allowed"):
        import_model(m)


def test_wrong_models_stay_wrong() -> None:
    m = model([helper.make_node("Reshape", ["x", "s"], ["y"])], {"x": (FLOAT, [2])}, ["y"], {"s": np.array([3])})
    with pytest.raises(ModelError, match="Reshape"):
        import_partitioned(m, HERE)


# Hosts ---------------------------------------------------------------------------------------------------------------


def test_the_best_host_that_is_installed(host: str) -> None:
    m = model([helper.make_node("Relu", ["x"], ["y"])], {"x": (FLOAT, [2])}, ["y"])
    m = onnx.shape_inference.infer_shapes(m)
    opened = open_host(m.SerializeToString())
    assert opened.backend == host
    np.testing.assert_array_equal(opened.run({"x": np.array([-1, 1], np.float32)})["y"], [0, 1])
    with pytest.raises(FallbackError, match=host):
        opened.run({"x": np.array(["a"], object)})


def test_hosts_read_no_files_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_bytes(np.ones(2, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    m = model([helper.make_node("Add", ["x", "w"], ["y"])], {"x": (FLOAT, [2])}, ["y"], {"w": np.ones(2, np.float32)})
    onnx.external_data_helper.set_external_data(m.graph.initializer[0], "secret")
    m.graph.initializer[0].ClearField("raw_data")
    with pytest.raises(UnsupportedError, match="'w' lies in another file"):
        open_host(m.SerializeToString())


def test_external_data_in_bodies(tmp_path: Path, host: str) -> None:
    """Of a loop whose trip count depends on the data."""
    weights = np.array([1, 2], np.float32)
    weights.tofile(tmp_path / "w.bin")
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Add", ["a", "w"], ["b"])],
        "body",
        [onnx.helper.make_tensor_value_info(n, t, s) for n, t, s in (("i", 7, []), ("c", 9, []), ("a", 1, [2]))],
        [onnx.helper.make_tensor_value_info(n, t, s) for n, t, s in (("d", 9, []), ("b", 1, [2]))],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    onnx.external_data_helper.set_external_data(body.initializer[0], "w.bin")
    body.initializer[0].ClearField("raw_data")
    loop = helper.make_node("Loop", ["n", "yes", "x"], ["y"], body=body)
    m = model([loop], {"x": (FLOAT, [2]), "n": (TensorProto.INT64, [])}, ["y"], {"yes": np.array(True)})
    path = tmp_path / "m.onnx"
    path.write_bytes(m.SerializeToString())
    found = import_partitioned(path, HERE)
    assert isinstance(found, Partition)
    y = run(found, {"x": np.zeros(2, np.float32), "n": np.array(3)})["y"]
    np.testing.assert_array_equal(y, weights * 3)
    with pytest.raises(ModelError, match="pass the model's path"):
        import_partitioned(m, HERE)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ModelError, match=r"external data 'w.bin' cannot be read"):
        import_partitioned(path, HERE)


def test_no_host_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime", "onnx.reference"):
        monkeypatch.setitem(sys.modules, name, None)
    m = model([helper.make_node("NonZero", ["x"], ["y"])], {"x": (FLOAT, [2])}, ["y"])
    with pytest.raises(UnsupportedError, match="onnxruntime: not installed"):
        import_partitioned(m, HERE)
