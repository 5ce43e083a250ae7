"""Several sizes for free dimensions: what is compiled, what is shared, what a reader accepts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from gpucompile.cli.main import main
from gpucompile.compiler import compile
from gpucompile.errors import BundleError, InputError
from gpucompile.frontends.onnx.importer import import_model
from gpucompile.ir.graph import Graph
from gpucompile.ir.interpret import interpret
from gpucompile.ir.types import DataType
from gpucompile.plan.bundle import Bundle
from gpucompile.plan.weights import WeightStore
from gpucompile.runtime.bundle import read_bundle
from gpucompile.runtime.format import FreeAxis
from gpucompile.sizes import MAX_PLANS, Sizes
from tests.null.onnx_models import ints, model, node, random, runtime


def layers(rows: bool = False) -> onnx.ModelProto:
    """relu(x w) v of x[batch,seq,32]; with `rows` an output that merges batch and seq as well."""
    rng = np.random.default_rng(0)
    weights = {n: rng.standard_normal(s).astype(np.float32) for n, s in (("w", (32, 64)), ("v", (64, 8)))}
    nodes = [
        node("MatMul", "x", "w", outputs=["h"]),
        node("Relu", "h", outputs=["r"]),
        node("MatMul", "r", "v"),
    ]
    if rows:
        nodes.append(node("Reshape", "y", "shape", outputs=["rows"]))
        weights |= ints(shape=[-1, 8])
    return model(nodes, {"x": ("batch", "seq", 32)}, weights, outputs=("y", "rows") if rows else ("y",))


def weight_bytes(bundle: Bundle) -> int:
    return sum(len(bundle.shard(i)) for i in range(len(bundle.manifest.shards)))


def test_one_plan_for_each_combination() -> None:
    bundle = compile(layers(), dims={"batch": [1, 2], "seq": np.array([16, 4])})
    assert [b.dims for b in bundle.buckets] == [
        {"batch": 1, "seq": 4},
        {"batch": 2, "seq": 4},
        {"batch": 1, "seq": 16},
        {"batch": 2, "seq": 16},
    ]
    for b in bundle.buckets:
        (name,) = b.variants
        plan = bundle.plan(name)
        assert plan.inputs[0].shape == (b.dims["batch"], b.dims["seq"], 32)
        assert plan.outputs[0].shape == (b.dims["batch"], b.dims["seq"], 8)
    assert bundle.free_axes == (
        FreeAxis("x", 0, "batch"), FreeAxis("x", 1, "seq"), FreeAxis("y", 0, "batch"), FreeAxis("y", 1, "seq"),
    )  # fmt: skip


def test_weights_are_stored_once() -> None:
    one = weight_bytes(compile(layers(), dims={"batch": 1, "seq": 16}))
    several = weight_bytes(compile(layers(), dims={"batch": 1, "seq": [16, 32, 64, 128]}))
    assert one == several == 4 * (32 * 64 + 64 * 8)


def test_a_store_knows_what_it_has() -> None:
    rng = np.random.default_rng(0)
    a, b, c = (rng.standard_normal(1000).astype(np.float32) for _ in range(3))
    store = WeightStore()
    first = store.add([a, b])
    nearly = b.copy()
    nearly[777] += 1
    again = store.add([b.copy(), c, a, nearly])
    assert again[0] == first[1] and again[2] == first[0]
    assert [p.buffer for p in again] == [0, 1, 0, 1] and len(store.buffers) == 2
    for tensor, place in zip((a, b, b, c, a, nearly), (*first, *again), strict=True):
        buffer = store.buffers[place.buffer]
        content = b"".join(store.shards[s].bytes() for s in buffer.shards)
        assert content[place.offset : place.offset + tensor.nbytes] == tensor.tobytes()


def test_merged_axes_are_no_dimension() -> None:
    bundle = compile(layers(rows=True), dims={"batch": [1, 2], "seq": [4, 8]})
    assert FreeAxis("rows", 0, "") in bundle.free_axes
    bundle = compile(layers(rows=True), dims={"batch": 1, "seq": [4, 8]})
    assert FreeAxis("rows", 0, "seq") in bundle.free_axes


@pytest.mark.parametrize("sizes", [[8], [8, 16], [7, 8, 9]])
def test_sizes_that_only_look_like_a_dimension(sizes: list[int]) -> None:
    """8 columns are no free axis, where the dimension is 8 as well; a convolution of stride 2 halves, rounding up."""
    made = model(
        [node("Conv", "x", "w", strides=[2], pads=[1, 1]), node("MatMul", "x", "m", outputs=["z"])],
        {"x": (1, 4, "n")}, {"w": np.ones((8, 4, 3), np.float32), "m": np.ones((8, 8), np.float32)}, outputs=("y",),
    )  # fmt: skip
    del made.graph.node[1]
    bundle = compile(made, dims={"n": sizes})
    assert bundle.free_axes == (FreeAxis("x", 2, "n"), FreeAxis("y", 2, ""))


def test_a_model_that_takes_one_size_only() -> None:
    """Nothing tells a fixed 8 from the dimension."""
    made = model([node("MatMul", "x", "w")], {"x": ("n", "k")}, {"w": np.ones((8, 8), np.float32)})
    bundle = compile(made, dims={"n": 3, "k": [8]})
    assert bundle.free_axes == (FreeAxis("x", 1, "k"), FreeAxis("y", 1, ""))


@pytest.mark.parametrize("spelled", ["x[1]", "seq"])
def test_dimensions_without_a_name(spelled: str) -> None:
    made = layers()
    if spelled == "x[1]":
        made.graph.input[0].type.tensor_type.shape.dim[1].ClearField("dim_param")
    bundle = compile(made, dims={"batch": 1, spelled: [4, 8]})
    assert [b.dims for b in bundle.buckets] == [{spelled: 4}, {spelled: 8}]


@pytest.mark.parametrize(
    ("dims", "words"),
    [
        ({"batch": 1, "seq": []}, "empty list"),
        ({"batch": 1, "seq": [1, -1]}, "seq is -1, it must be an integer that is not negative"),
        ({"batch": None, "seq": 1}, "batch is None, it must be an integer that is not negative"),
        ({"batch": 1, "seq": [1, 2.5]}, "must be an integer"),
        ({"batch": 1, "seq": [True]}, "must be an integer"),
        ({"batch": 1, "seq": "64"}, "must be an integer that is not negative"),
        ({"batch": range(1, 10), "seq": range(1, 10)}, f"9 of batch x 9 of seq are 81 plans, at most {MAX_PLANS}"),
        ({"batch": 1, "time": [1, 2]}, "no free dimension 'time'"),
    ],
)
def test_bad_sizes(dims: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        compile(layers(), dims=dims)


def test_a_graph_has_no_free_dimensions() -> None:
    with pytest.raises(InputError, match="a Graph has no free dimensions, so seq"):
        compile(Graph(), dims={"seq": [1, 2]})


def test_sizes_are_sorted_and_unique() -> None:
    assert Sizes.of({"n": [4, 1, 4]}).combinations() == [{"n": 1}, {"n": 4}]
    assert Sizes.of({"n": 4}).combinations() == [{}]


# ---------------------------------------------------------------------------------------------- on disk


@pytest.fixture(scope="module")
def compiled() -> Bundle:
    return compile(layers(rows=True), dims={"batch": [1, 2], "seq": [4, 8]})


@pytest.mark.parametrize("name", ["model", "model.gpub"])
def test_round_trip(tmp_path: Path, compiled: Bundle, name: str) -> None:
    with read_bundle(compiled.save(tmp_path / name)) as back:
        assert back.manifest == compiled.manifest
        assert (back.buckets, back.free_axes) == (compiled.buckets, compiled.free_axes)
        assert [back.plan(n) for n in back.variants] == list(compiled.plans)


DAMAGE: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("every variant once", lambda m: m["buckets"].pop()),
    ("every variant once", lambda m: m["buckets"][0]["variants"].append("base-2-8")),
    ("every variant once", lambda m: m["buckets"][0].update(variants=["base"])),
    ("other dimensions", lambda m: m["buckets"][1]["dims"].update(more=1)),
    ("a dimension is negative or too large", lambda m: m["buckets"][1]["dims"].update(seq=1 << 60)),
    ("no such axis", lambda m: m["free_axes"][0].update(axis=3)),
    ("no such axis", lambda m: m["free_axes"][0].update(port="z")),
    ("a second one", lambda m: m["free_axes"].append(m["free_axes"][0])),
    ("no such dimension", lambda m: m["free_axes"][0].update(dim="time")),
    ("no such dimension", lambda m: m["free_axes"][0].update(dim="")),
    ("not every dimension", lambda m: m["free_axes"].pop(0)),
    ("there are no buckets", lambda m: m.pop("buckets")),
    ("expected a non-negative integer", lambda m: m["buckets"][0]["dims"].update(seq=-4)),
]


@pytest.mark.parametrize(("words", "change"), DAMAGE)
def test_damaged_manifests(
    tmp_path: Path, compiled: Bundle, words: str, change: Callable[[dict[str, Any]], object]
) -> None:
    path = compiled.save(tmp_path / "model")
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=words):
        read_bundle(path)


def test_plans_that_are_not_of_their_bucket(tmp_path: Path, compiled: Bundle) -> None:
    path = compiled.save(tmp_path / "model")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["buckets"][0]["dims"]["seq"] = 5
    (path / "manifest.json").write_text(json.dumps(manifest))
    with read_bundle(path) as bundle, pytest.raises(BundleError, match="inputs: differ from the manifest's"):
        bundle.plan(bundle.buckets[0].variants[0])


# ---------------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("given", "sizes"),
    [("seq=4,16", [4, 16]), ("seq=4..16", [4, 8, 16]), ("seq=3..20", [3, 6, 12, 20]), ("seq=1..2", [1, 2])],
)
def test_dim_options(tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str, sizes: list[int]) -> None:
    onnx.save(layers(), tmp_path / "model.onnx")
    out = tmp_path / "model.gpub"
    assert main(["compile", str(tmp_path / "model.onnx"), "-o", str(out), "--dim", "batch=1", "--dim", given]) == 0
    with read_bundle(out) as bundle:
        assert [b.dims["seq"] for b in bundle.buckets] == sizes
        assert bundle.manifest.dims == {"batch": 1}
    capsys.readouterr()
    assert main(["inspect", str(out)]) == 0
    assert f"buckets  seq={sizes[0]}: base-{sizes[0]}" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["seq=", "seq=4,", "seq=0..4", "seq=8..4", "seq=4..", "seq=1..2..3", "=4", "seq=a"])
def test_bad_dim_options(capsys: pytest.CaptureFixture[str], given: str) -> None:
    with pytest.raises(SystemExit):
        main(["compile", "model.onnx", "-o", "model.gpub", "--dim", given])
    assert "expected NAME=N, NAME=N,N,... or NAME=N..N" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- shape arithmetic


def attention() -> onnx.ModelProto:
    """A block as exporters write it: every size taken from a Shape, positions from a Range, the mask from positions."""
    rng = np.random.default_rng(0)
    weights = {n: 0.1 * rng.standard_normal((32, 32)).astype(np.float32) for n in "quv"}
    weights |= {"table": rng.standard_normal((16, 32)).astype(np.float32), "low": np.array(-1e4, np.float32)}
    weights |= {"zero": np.array(0, np.float32)}
    weights |= ints(i0=[0], i1=[1], i4=[4], i8=[8], i32=[32])
    weights |= {n: np.array(v, np.int64) for n, v in (("s0", 0), ("s1", 1), ("s2", 2), ("s3", 3))}
    nodes = [
        node("Shape", "x", outputs=["shape"]),
        node("Gather", "shape", "s0", outputs=["b"]),
        node("Gather", "shape", "s1", outputs=["n"]),
        node("Unsqueeze", "b", "i0", outputs=["b1"]),
        node("Unsqueeze", "n", "i0", outputs=["n1"]),
        node("Range", "s0", "n", "s1", outputs=["positions"]),
        node("Gather", "table", "positions", outputs=["embedded"]),
        node("Add", "x", "embedded", outputs=["h"]),
        node("Concat", "b1", "n1", "i4", "i8", outputs=["heads"], axis=0),
        *(node("MatMul", "h", w, outputs=[f"{w}1"]) for w in "quv"),
        *(node("Reshape", f"{w}1", "heads", outputs=[f"{w}2"]) for w in "quv"),
        node("Transpose", "q2", outputs=["q3"], perm=[0, 2, 1, 3]),
        node("Transpose", "u2", outputs=["u3"], perm=[0, 2, 3, 1]),
        node("Transpose", "v2", outputs=["v3"], perm=[0, 2, 1, 3]),
        node("MatMul", "q3", "u3", outputs=["scores"]),
        node("Unsqueeze", "positions", "i0", outputs=["row"]),
        node("Unsqueeze", "positions", "i1", outputs=["column"]),
        node("Greater", "row", "column", outputs=["later"]),
        node("Where", "later", "low", "zero", outputs=["mask"]),
        node("Add", "scores", "mask", outputs=["masked"]),
        node("Softmax", "masked", outputs=["p"], axis=-1),
        node("MatMul", "p", "v3", outputs=["a"]),
        node("Transpose", "a", outputs=["t"], perm=[0, 2, 1, 3]),
        node("Shape", "t", outputs=["ts"]),
        node("Slice", "ts", "i0", "i2", outputs=["front"]),
        node("Concat", "front", "i32", outputs=["flat"], axis=0),
        node("Reshape", "t", "flat"),
    ]
    for i, each in enumerate(nodes):
        each.name = f"node {i}"
    return model(nodes, {"x": ("batch", "seq", 32)}, weights | ints(i2=[2]))


def test_shape_arithmetic_folds() -> None:
    """Nothing of it is left in the graph, in int64 or otherwise, and the numbers are onnxruntime's."""
    for batch, seq in ((1, 5), (3, 16)):
        graph = import_model(attention(), {"batch": batch, "seq": seq})
        types = {v.type.dtype for n in graph.nodes for v in n.outputs}
        assert types == {DataType.FLOAT32}
        names = {n.op.name for n in graph.nodes}
        assert names == {"constant", "add", "matmul", "reshape", "transpose", "softmax"}
        feeds = random({"x": (batch, seq, 32)})
        np.testing.assert_allclose(interpret(graph, feeds)["y"], runtime(attention(), feeds)[0], atol=1e-5)
