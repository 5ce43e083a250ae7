"""The ONNX importer on whole models: folding, names, free dimensions, external data, errors, real networks."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import networks
from gpucompile.errors import GpucompileWarning, InputError, ModelError, UnsupportedError
from gpucompile.frontends.onnx.call import DataDependentError, find_function
from gpucompile.frontends.onnx.importer import import_model
from gpucompile.frontends.onnx.scope import schema_of
from gpucompile.ir.interpret import interpret
from gpucompile.ir.types import DataType, TensorType
from tests import onnx_operators
from tests.null.onnx_models import I64, compare, ints, model, node, random, runtime


def test_shape_arithmetic_folds() -> None:
    """x.view(x.size(0), -1) as PyTorch writes it leaves one reshape and no constant."""
    nodes = [
        node("Shape", "x", outputs=["s"]),
        node("Gather", "s", "zero", outputs=["n"], axis=0),
        node("Constant", outputs=["k"], value=numpy_helper.from_array(np.array([-1], I64))),
        node("Unsqueeze", "n", "zero1", outputs=["n1"]),
        node("Cast", "n1", outputs=["n2"], to=TensorProto.INT32),
        node("Cast", "n2", outputs=["n3"], name="back", to=TensorProto.INT64),
        node("Concat", "n3", "k", outputs=["t"], axis=0),
        node("Reshape", "x", "t"),
    ]
    constants = {"zero": np.array(0, I64), **ints(zero1=[0])}
    graph = compare(model(nodes, {"x": (3, 4, 5)}, constants), random({"x": (3, 4, 5)}))
    assert [n.op.name for n in graph.nodes] == ["reshape"]


def test_constants_known_at_import_may_be_outputs() -> None:
    nodes = [
        node("Shape", "x", outputs=["y"], start=1),
        node("Range", "zero", "ten", "three", outputs=["r"]),
        node("ConstantOfShape", "y", outputs=["c"], value=numpy_helper.from_array(np.array([7], np.float32))),
        node("Size", "x", outputs=["n"]),
        node("Identity", "x", outputs=["i"]),
    ]
    constants = {n: np.array(v, I64) for n, v in (("zero", 0), ("ten", 10), ("three", 3))}
    made = model(nodes, {"x": (3, 4, 5)}, constants, outputs=("y", "r", "c", "n", "i"))
    compare(made, random({"x": (3, 4, 5)}))


def test_names_and_inputs() -> None:
    made = model(
        [node("Add", "x", "w", outputs=["sum"]), node("Relu", "sum")], {"x": (4,), "w": (4,)}, random({"w": (4,)})
    )
    graph = import_model(made.SerializeToString())
    assert [v.name for v in graph.inputs] == ["x"]  # w has an initializer: it is no input
    assert [v.name for n in graph.nodes for v in n.outputs] == ["w", "sum", "y"]
    assert graph.output_names == ["y"]


def test_unneeded_and_unsorted_nodes() -> None:
    nodes = [
        node("Relu", "t"),
        node("StringSplit", "x", outputs=["unused"]),  # unsupported, but nobody needs it
        node("Neg", "x", outputs=["t"]),
    ]
    graph = import_model(model(nodes[::2], {"x": (4,)}))
    assert [n.op.name for n in graph.nodes] == ["neg", "relu"]
    assert len(import_model(model([nodes[2], nodes[1], nodes[0]], {"x": (4,)}))) == 2


def test_weights_are_not_copied() -> None:
    w = np.arange(12, dtype=np.float32)
    graph = import_model(model([node("Add", "x", "w")], {"x": (12,)}, {"w": w}))
    (array,) = (n.op.value.array for n in graph.nodes if n.op.name == "constant")
    assert isinstance(array.base, (bytes, np.ndarray)) and not array.flags.owndata
    zeros = ints(s=[1024, 1024, 1024])
    graph = import_model(
        model([node("ConstantOfShape", "s", outputs=["c"]), node("Add", "x", "c")], {"x": (1,)}, zeros)
    )
    (array,) = (n.op.value.array for n in graph.nodes if n.op.name == "constant")
    assert array.nbytes == 4  # four gigabytes that a kernel's loads make of four bytes
    assert [n.op.name for n in graph.nodes] == ["constant", "expand", "add"]


# free dimensions ---------------------------------------------------------------------------------------------------


def test_free_dimensions_are_bound_by_name() -> None:
    made = model([node("Add", "x", "z")], {"x": ("batch", 3, None), "z": ("batch", 3, 4)})
    graph = import_model(made, {"batch": 2, "x[2]": 4})
    assert [v.type.shape for v in graph.inputs] == [(2, 3, 4), (2, 3, 4)]
    with pytest.raises(UnsupportedError) as error:
        import_model(made)
    for part in ("input 'x' axis 0 (batch)", "(x[2])", 'dims={"batch": 1, "x[2]": 1}', "--dim batch=1 --dim x[2]=1"):
        assert part in str(error.value)
    with pytest.raises(InputError, match=r"no free dimension 'bach'; it has batch, x\[2\]"):
        import_model(made, {"bach": 2})
    with pytest.raises(InputError, match="batch is -1, it must be an integer that is not negative"):
        import_model(made, {"batch": -1})


def test_a_dimension_called_by_a_question_mark_has_no_name() -> None:
    made = model([node("Relu", "x")], {"x": ("?", 3, "?")})
    graph = import_model(made, {"x[0]": 2, "x[2]": 4})
    assert [v.type.shape for v in graph.inputs] == [(2, 3, 4)]
    with pytest.raises(InputError, match=r"no free dimension '\?'; it has x\[0\], x\[2\]"):
        import_model(made, {"?": 2})


# attributes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "kind"), [(1, "INT"), ([1.0], "FLOATS"), ("1", "STRING")])
def test_an_attribute_of_another_type_is_an_error(value: object, kind: str) -> None:
    made = model([node("LeakyRelu", "x", alpha=value)], {"x": (4,)})
    with pytest.raises(ModelError, match=rf"the LeakyRelu.*attribute alpha is a {kind} instead of a FLOAT"):
        import_model(made)


# external data -----------------------------------------------------------------------------------------------------


def external(folder: Path, location: str = "w.bin", **entries: int) -> Path:
    """A model whose weight lies in another file."""
    made = model([node("Add", "x", "w")], {"x": (4,)}, {"w": np.zeros(4, np.float32)})
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    path = folder / "m.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def test_external_data(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    np.arange(10, dtype=np.float32).tofile(folder / "w.bin")
    graph = import_model(external(folder, offset=8, length=16))
    y = interpret(graph, {"x": np.zeros(4, np.float32)})["y"]
    np.testing.assert_array_equal(y, [2, 3, 4, 5])
    with pytest.raises(ModelError, match=r"needs 16 bytes at offset 32 of 'w.bin', which has 40"):
        import_model(external(folder, offset=32))
    with pytest.raises(ModelError, match="outside the model's folder"):
        import_model(external(folder, "../secret.bin"))
    with pytest.raises(ModelError, match="outside the model's folder"):
        import_model(external(folder, os.fspath(tmp_path / "secret.bin")))
    (tmp_path / "secret.bin").write_bytes(b"0" * 64)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelError, match="outside the model's folder"):
        import_model(external(folder, "link.bin"))
    with pytest.raises(ModelError, match=r"external data 'gone.bin' cannot be read"):
        import_model(external(folder, "gone.bin"))
    with pytest.raises(ModelError, match="pass the model's path"):
        import_model(external(folder).read_bytes())


def test_external_data_of_a_cache_of_links(tmp_path: Path) -> None:
    """Files of all models in `blobs`, links with their names in `snapshots`."""
    for name in ("blobs", "snapshots/x", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    external(tmp_path / "blobs", "model.onnx_data").rename(tmp_path / "blobs/A")
    for name in ("blobs/B", "elsewhere/secret"):
        np.arange(4, dtype=np.float32).tofile(tmp_path / name)
    path = tmp_path / "snapshots/x/model.onnx"
    path.symlink_to("../../blobs/A")
    data = path.with_name("model.onnx_data")
    data.symlink_to("../../blobs/B")
    np.testing.assert_array_equal(interpret(import_model(path), {"x": np.zeros(4, np.float32)})["y"], np.arange(4))
    data.unlink()
    data.symlink_to(tmp_path / "elsewhere/secret")
    with pytest.raises(ModelError, match="outside the model's folder"):
        import_model(path)
    for location in ("../../blobs/B", os.fspath(tmp_path / "blobs/B")):
        path.unlink()
        external(tmp_path / "blobs", location).rename(tmp_path / "blobs/A")
        path.symlink_to("../../blobs/A")
        with pytest.raises(ModelError, match="outside the model's folder"):
            import_model(path)


def test_large_weights_in_a_linked_file(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    w = np.arange(10_000, dtype=np.float32)
    made = model([node("Add", "x", "w")], {"x": (10_000,)}, {"w": w})
    (tmp_path / "blobs/A").write_bytes(made.SerializeToString())
    (tmp_path / "model.onnx").symlink_to("blobs/A")
    graph = import_model(tmp_path / "model.onnx")
    np.testing.assert_array_equal(interpret(graph, {"x": np.zeros(10_000, np.float32)})["y"], w)


# errors ------------------------------------------------------------------------------------------------------------


def test_files_that_are_no_models(tmp_path: Path) -> None:
    good = model([node("Add", "x", "w")], {"x": (64,)}, random({"w": (64,)})).SerializeToString()
    path = tmp_path / "m.onnx"
    with pytest.raises(ModelError, match=r"m\.onnx: cannot be read: No such file"):
        import_model(path)
    with pytest.raises(ModelError, match="cannot be read: Is a directory"):
        import_model(tmp_path)
    for content in (b"", b"not a model", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(64), b"{}"):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"m\.onnx: .*(not an ONNX model|empty)"):
            import_model(path)
    for length in range(1, len(good)):  # truncated anywhere
        with pytest.raises((ModelError, UnsupportedError)):
            import_model(good[:length])


@pytest.mark.filterwarnings("ignore:output .* has the shape")
def test_corrupt_models_raise_nothing_else() -> None:
    """Flipped bytes: a clear error, or a model that happens to be valid."""
    nodes = [node("Conv", "x", "w", outputs=["c"], pads=[1, 1, 1, 1]), node("Reshape", "c", "s")]
    constants = {"w": random({"w": (2, 3, 3, 3)})["w"], **ints(s=[2, -1])}
    good = model(nodes, {"x": (1, 3, 4, 4)}, constants).SerializeToString()
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(600):
        data = bytearray(good)
        data[rng.integers(len(data))] = rng.integers(256)
        try:
            import_model(bytes(data))
            outcomes.add("valid")
        except (ModelError, UnsupportedError) as e:
            outcomes.add(type(e).__name__)
    assert outcomes == {"valid", "ModelError", "UnsupportedError"}


def test_all_unsupported_ops_are_listed() -> None:
    nodes = [
        node("NonMaxSuppression", "x", "x", outputs=["a"]),
        node("Relu", "x", outputs=["b"]),
        node("RandomNormalLike", "b", outputs=["c"]),
        helper.make_node("Magic", ["c"], ["d"], domain="com.example"),
    ]
    with pytest.raises(UnsupportedError) as error:
        import_model(model(nodes, {"x": (3, 4)}, outputs=("a", "d")))
    lines = str(error.value).splitlines()[1:]
    assert [line.strip() for line in lines] == [
        "1x NonMaxSuppression 'the NonMaxSuppression': the result's size depends on the data",
        "1x RandomNormalLike 'the RandomNormalLike': random numbers: results would not be reproducible",
        "1x com.example.Magic 'd': no import function (domain com.example)",
    ]


def test_old_opsets_are_converted() -> None:
    """Opset 6 broadcasts by attributes."""
    old = model([node("Add", "x", "w", axis=1, broadcast=1)], {"x": (2, 3, 4), "w": (3, 4)}, opset=6)
    feeds = random({"x": (2, 3, 4), "w": (3, 4)})
    (y,) = interpret(import_model(old), feeds).values()
    np.testing.assert_array_equal(y, feeds["x"] + feeds["w"])


def test_inputs_may_be_constants_types_or_sequences() -> None:
    made = model([node("Reshape", "x", "s")], {"x": ("n", 4)}, opset=17)
    made.graph.input.append(helper.make_tensor_value_info("s", TensorProto.INT64, [2]))
    with pytest.raises(DataDependentError, match="the Reshape': its shape depends on the data") as error:
        import_model(made, {"n": 2})
    assert error.value.inputs == {"s"}
    graph = import_model(made, inputs={"x": TensorType(DataType.FLOAT32, (2, 4)), "s": np.array([4, -1])})
    assert [str(v.type) for v in (*graph.inputs, *graph.outputs)] == ["f32[2,4]", "f32[4,2]"]
    with pytest.raises(InputError, match="no input 'z'; it has s, x"):
        import_model(made, inputs={"z": np.zeros(1)})
    joined = model([node("ConcatFromSequence", "q", axis=0)], {})
    joined.graph.input.append(helper.make_tensor_sequence_value_info("q", TensorProto.FLOAT, [2]))
    two = TensorType(DataType.FLOAT32, (2,))
    graph = import_model(joined, inputs={"q": [two, two]})
    assert [v.name for v in graph.inputs] == ["q[0]", "q[1]"]
    assert [str(v.type) for v in graph.outputs] == ["f32[4]"]


def test_control_flow_is_gone_after_the_import() -> None:
    """A loop with a constant trip count and a branch chosen by it; the condition of `pick` depends on the data."""
    i, c, a = (
        helper.make_tensor_value_info(n, t, ())
        for n, t in (("i", 7), ("c", TensorProto.BOOL), ("a", TensorProto.FLOAT))
    )
    double = helper.make_graph([node("Add", "a", "a", outputs=["b"])], "double", [], [_float("b")])
    keep = helper.make_graph([node("Neg", "a", outputs=["b2"])], "keep", [], [_float("b2")])
    body = helper.make_graph(
        [
            node("Less", "i", "two", outputs=["early"]),
            node("If", "early", outputs=["next"], then_branch=double, else_branch=keep),
            node("Identity", "c", outputs=["again"], name="go on"),
            node("Identity", "next", outputs=["seen"], name="collect"),
        ],
        "body",
        [i, c, a],
        [helper.make_tensor_value_info("again", TensorProto.BOOL, ()), _float("next"), _float("seen")],
    )
    nodes = [
        node("Loop", "four", "", "x", outputs=["last", "all"], body=body),
        node("Greater", "last", "zero", outputs=["pick"]),
        node("If", "pick", outputs=["y"], name="the last", then_branch=_branch("Exp"), else_branch=_branch("Neg")),
    ]
    constants = {"four": np.array(4, I64), "two": np.array(2, I64), "zero": np.array(0, np.float32)}
    made = model(nodes, {"x": ()}, constants, ("y", "all"))
    for x in (1.5, -1.5):
        graph = compare(made, {"x": np.array(x, np.float32)})
    assert graph.statistics()["add"] == 2 and graph.statistics()["where"] == 1


@pytest.mark.parametrize("declared", [True, False])
def test_loops_without_iterations(declared: bool) -> None:
    """What they collect is empty, of the type that the body would give it."""

    def infos(**types: tuple[int, Sequence[int]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(n, t, s) for n, (t, s) in types.items()]

    state = infos(i=(7, []), c=(9, []), a=(1, [2]))
    collected = infos(e=(1, [4]), f=(9, [2])) if declared else [onnx.ValueInfoProto(name=n) for n in "ef"]
    inner = [node("Concat", "a", "a", outputs=["e"], axis=0), node("Greater", "a", "w", outputs=["f"])]
    nodes = [node("Identity", "c", outputs=["d"]), node("Relu", "a", outputs=["b"]), *inner]
    body = helper.make_graph(nodes, "body", state, [*infos(d=(9, []), b=(1, [2])), *collected])
    loop = node("Loop", "n", "", "x", outputs=["last", "all", "more"], body=body)
    constants = {"n": np.array(0), "w": np.ones(2, np.float32)}
    made = model([loop], {"x": (2,)}, constants, ("last", "all", "more"))
    graph = compare(made, random({"x": (2,)}))
    assert not {"concat", "greater", "relu"} & set(graph.statistics())
    body = helper.make_graph(inner, "body", infos(a=(1, [2])), collected)
    scan = node("Scan", "x", outputs=["e", "f"], body=body, num_scan_inputs=1, scan_output_axes=[1, 0])
    graph = import_model(model([scan], {"x": (0, 2)}, {"w": constants["w"]}, ("e", "f")))
    assert [str(v.type) for v in graph.outputs] == ["f32[4,0]", "u8[0,2]"]


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrences_without_steps(op: str, gates: int, layout: int) -> None:
    """The last state is the initial one. Not so in onnxruntime, which leaves memory as it finds it."""
    state = (1, 2, 3) if layout else (2, 1, 3)
    weights = random({"w": (2, gates * 3, 2), "r": (2, gates * 3, 3), "i": state})
    x = {"x": (1, 0, 2) if layout else (0, 1, 2)}
    options = {"hidden_size": 3, "direction": "bidirectional", "layout": layout}
    for names in (["w", "r"], ["w", "r", "", "", "i"]):
        recurrence = node(op, "x", *names, outputs=["y", "h"], **options)
        made = model([recurrence], x, {n: weights[n] for n in names if n}, ("y", "h"))
        found = interpret(import_model(made), random(x))
        assert found["y"].shape == ((1, 0, 2, 3) if layout else (0, 2, 1, 3))
        np.testing.assert_array_equal(found["h"], weights["i"] if "i" in names else np.zeros(state, np.float32))


def test_loops_without_iterations_may_carry_sequences() -> None:
    body = helper.make_graph(
        [
            node("Identity", "c", outputs=["d"]),
            node("SequenceInsert", "s", "x", outputs=["t"]),
            node("Neg", "x", outputs=["e"]),
        ],
        "body",
        [onnx.ValueInfoProto(name=n) for n in "ics"],
        [onnx.ValueInfoProto(name=n) for n in "dte"],
    )
    loop = node("Loop", "n", "", "first", outputs=["last", "y"], body=body)
    made = model([node("SequenceConstruct", "x", outputs=["first"]), loop], {"x": (2,)}, {"n": np.array(0)})
    assert [str(v.type) for v in import_model(made).outputs] == ["f32[0,2]"]


def test_what_loops_without_iterations_collect_must_be_known() -> None:
    body = helper.make_graph(
        [node("Identity", "c", outputs=["d"]), node("NonZero", "a", outputs=["e"])],
        "body",
        [onnx.ValueInfoProto(name=n) for n in "ica"],
        [onnx.ValueInfoProto(name=n) for n in "dae"],
    )
    loop = node("Loop", "n", "", "x", outputs=["last", "all"], body=body)
    with pytest.raises(UnsupportedError, match="without iterations whose results are collected, of a type that cannot"):
        import_model(model([loop], {"x": (2,)}, {"n": np.array(0)}, ("last", "all")))


def _float(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ())


def _branch(op: str) -> onnx.GraphProto:
    return helper.make_graph([node(op, "last", outputs=[f"the {op}"])], op, [], [_float(f"the {op}")])


def test_functions_of_onnx_are_imported_by_their_bodies() -> None:
    """Ops without an import function; attributes of the call reach the body, defaults too."""
    for attributes in ({}, {"periodic": 0}):
        made = model(
            [node("HannWindow", "n", outputs=["w"], **attributes), node("Mul", "x", "w")],
            {"x": (8,)},
            {"n": np.array(8, I64)},
        )
        graph = compare(made, random({"x": (8,)}))
        assert graph.statistics() == {"mul": 1}  # the window is a constant


X = {"x": (1, 3, 4, 4)}
BAD: list[tuple[onnx.ModelProto, type[Exception], str]] = [
    (model([node("Magic", "x")], X, opset=6), UnsupportedError, "ONNX opset 6; supported are 7 to"),
    (model([node("Relu", "x")], X, opset=99), UnsupportedError, "ONNX opset 99"),
    (model([node("Relu", "x")], X, dtype=TensorProto.STRING), UnsupportedError, "input 'x' has the data type string"),
    (model([node("Relu", "x")], X, dtype=TensorProto.BFLOAT16), UnsupportedError, "has the data type bfloat16"),
    (model([node("Relu", "gone")], X), ModelError, "Relu 'the Relu': 'gone' is not defined anywhere"),
    (model([node("Relu", "x")], X, outputs=("nope",)), ModelError, "the outputs: 'nope' is not defined"),
    (model([node("Relu", "x"), node("Neg", "x")], X), ModelError, "Neg 'the Neg': 'y' is defined twice"),
    (model([node("Relu", "x", outputs=["x"])], X, outputs=("x",)), ModelError, "'x' is defined twice"),
    (
        model([node("Add", "x", "b", outputs=["a"]), node("Neg", "a", outputs=["b"]), node("Relu", "b")], X),
        ModelError,
        "the graph has a cycle: ",
    ),
    (model([node("Conv", "x", "w")], X, random({"w": (2, 4, 3, 3)})), ModelError, "the filter takes 4 input channels"),
    (model([node("Conv", "x")], X), ModelError, "Conv 'the Conv': input 1 is missing"),
    (model([node("Reshape", "x", "s")], X, ints(s=[5, -1])), ModelError, "f32[1,3,4,4] cannot become [5, -1]"),
    (model([node("Reshape", "x", "s")], X, ints(s=[-1, -1])), ModelError, "has more than one -1"),
    (model([node("Softmax", "x", axis=7)], X), ModelError, "axis 7 is not an axis of a rank 4 tensor"),
    (model([node("MaxPool", "x")], X), ModelError, "the attribute kernel_shape is missing"),
    (model([node("MatMul", "x", "w")], X, random({"w": (5, 2)})), ModelError, "inner dimensions 4 and 5 differ"),
    (
        model([node("NonZero", "x", outputs=["t"]), node("Neg", "t")], X),
        UnsupportedError,
        "NonZero 'the NonZero': its result's size depends on the data",
    ),
    (
        model([node("Conv", "x", "w")], {"x": (1, 2, 3, 4, 5, 6)}, random({"w": (1, 2, 1, 1, 1, 1)})),
        UnsupportedError,
        "4 spatial axes; 1, 2 and 3 are supported",
    ),
    (
        model([node("Cast", "x", to=TensorProto.INT64, outputs=["s"]), node("Reshape", "x", "s")], {"x": (2,)}),
        UnsupportedError,
        "Reshape 'the Reshape': its shape depends on the data",
    ),
    (
        model([node("BatchNormalization", *"xxxxx", outputs=["y", "i"])], X, outputs=("y", "i")),
        UnsupportedError,
        "its output 1 (i) is used",
    ),
]


@pytest.mark.parametrize(("made", "kind", "text"), BAD, ids=[b[2][:30] for b in BAD])
def test_bad_models(made: onnx.ModelProto, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=re.escape(text)) as error:
        import_model(made)
    assert str(error.value).startswith("model 'test': ")


def test_tensor_data_must_suit_its_shape() -> None:
    made = model([node("Add", "x", "w")], {"x": (4,)}, random({"w": (4,)}))
    made.graph.initializer[0].raw_data = bytes(12)
    with pytest.raises(ModelError, match=r"tensor 'w' of shape \[4\] needs 16 bytes, the file has 12"):
        import_model(made)
    made.graph.initializer[0].dims[0] = -4
    with pytest.raises(ModelError, match=r"tensor 'w' has a negative dimension: \[-4\]"):
        import_model(made)


def test_the_documentation_is_current() -> None:
    """`python -m tests.onnx_operators --write` updates it. An op that is neither lowered nor excused fails here too."""
    assert onnx_operators.PATH.read_text() == onnx_operators.document()


def test_figures_in_other_documents() -> None:
    """README and the changelog count as docs/onnx.md does."""
    text = onnx_operators.document()
    found = re.search(r"## ai.onnx: (\d+) of (\d+)", text), re.search(r"## com.microsoft: (\d+)", text)
    assert found[0] and found[1]
    (done, known), own = found[0].groups(), found[1].group(1)
    totals = re.search(r"([\d]+) cases: (\d+) native \((\d+) of them", text)
    assert totals
    readme = " ".join((onnx_operators.PATH.parents[1] / "README.md").read_text().replace(",", "").split())
    assert f"{done} of {known} ops and {own} of ONNX Runtime's own" in readme
    for figure in (
        f"Of the {totals[1]} backend tests",
        f"{totals[2]} run on the device",
        f"({totals[3]} of these with",
    ):
        assert figure in readme
    changes = " ".join((onnx_operators.PATH.parents[1] / "CHANGELOG.md").read_text().split())
    assert f"{done} of the {known} ops of ONNX's own domain and of {own} of ONNX Runtime's" in changes


#: What the tables of ONNX Runtime's WebNN and WebGPU providers have (js/web/docs), its own domain apart.
ONNX_RUNTIME = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Clip Concat Conv
    ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand Flatten
    Floor
    GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual
    HardSigmoid HardSwish Identity If InstanceNormalization LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log
    LpPool MatMul Max MaxPool MemcpyFromHost MemcpyToHost Min Mul Neg Not Or PRelu Pad Pow QuantizeLinear Range
    Reciprocal
    ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
    Relu Reshape Resize ScatterElements ScatterND Shape Sigmoid Sign SimplifiedLayerNormalization Sin Sinh Slice Softmax
    Softplus Softsign Split Sqrt Squeeze Sub Tan Tanh ThresholdedRelu Tile Transpose Trilu Unsqueeze Where Xor
"""
ONNX_RUNTIME_OWN = """
    Attention BiasAdd BiasSplitGelu FastGelu FusedConv GatherBlockQuantized Gelu GroupQueryAttention MatMulNBits
    MultiHeadAttention QuickGelu RotaryEmbedding SkipLayerNormalization SkipSimplifiedLayerNormalization
"""


def test_the_tables_of_onnx_runtime() -> None:
    """Every op in them has an import function or a function body, from opset 7 on where it exists."""
    missing = []
    for domain, names in (("", ONNX_RUNTIME), ("com.microsoft", ONNX_RUNTIME_OWN)):
        for name in names.split():
            for version in range(7, onnx.defs.onnx_opset_version() + 1) if not domain else [1]:
                schema = schema_of(domain, name, version)
                body = schema is not None and (schema.has_function or schema.has_context_dependent_function)
                new = not domain and schema is None and any(s.name == name for s in onnx.defs.get_all_schemas())
                if not new and not body and find_function(domain, name, version) is None:
                    missing.append((domain, name, version))
    assert missing == []


def test_outputs_are_what_the_model_says() -> None:
    """As in ONNX Runtime: another data type is an error, another shape a warning."""
    made = model([node("Relu", "x")], {"x": (2, 3)})
    kind = made.graph.output[0].type.tensor_type
    kind.shape.dim[1].dim_value = 4
    with pytest.warns(GpucompileWarning, match=r"output 'y' has the shape \[2, 3\], the model says \[2, 4\]"):
        import_model(made)
    kind.shape.dim[1].dim_value = -1  # any, as some exporters write it
    import_model(made)
    kind.shape.dim[1].dim_param = "n"
    import_model(made)
    kind.elem_type = TensorProto.INT64
    with pytest.raises(ModelError, match="output 'y' is float, the model says int64"):
        import_model(made)


# networks ----------------------------------------------------------------------------------------------------------

#: Nodes by op that stay of each shipped network; the weights' ConstantOfShape, Dropout and Shape fold away.
STRUCTURE = {
    "alexnet": {"conv2d": 5, "gemm": 3, "lrn": 2, "max_pool2d": 3},
    "densenet121": {"conv2d": 121, "batch_normalization": 121, "concat": 58, "average_pool2d": 4},
    "inception_v1": {"conv2d": 57, "max_pool2d": 13, "concat": 9, "lrn": 2},
    "inception_v2": {"conv2d": 69, "batch_normalization": 69, "concat": 10},
    "resnet50": {"conv2d": 53, "batch_normalization": 53, "relu": 49, "add": 16, "max_pool2d": 1},
    "shufflenet": {"conv2d": 49, "transpose": 16, "concat": 3, "average_pool2d": 4},
    "squeezenet": {"conv2d": 26, "relu": 26, "concat": 8, "max_pool2d": 3, "softmax": 1},
    "vgg19": {"conv2d": 16, "gemm": 3, "max_pool2d": 5},
    "zfnet512": {"conv2d": 5, "gemm": 3, "lrn": 2},
}


@pytest.mark.parametrize("name", networks.NAMES)
def test_shipped_network(name: str) -> None:
    graph = import_model(networks.shipped(name))
    graph.verify()
    assert STRUCTURE[name].items() <= graph.statistics().items()
    assert [v.type.shape for v in graph.inputs] == [(1, 3, 224, 224)]
    assert [v.type.size for v in graph.outputs] == [1000]


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_randomized_network_matches_onnxruntime(name: str) -> None:
    made = networks.randomized(name)
    feeds = networks.random_input(name)
    (got,) = interpret(import_model(made), feeds).values()
    (want,) = runtime(made, feeds)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * float(np.abs(want).max()))


@pytest.mark.parametrize("bounds", [(-8105990287197768637, -3135485610092386247), (2**53 + 1, 2**63 - 1)])
def test_bounds_and_fills_of_64_bits_stay_whole(bounds: tuple[int, int]) -> None:
    low, high = (np.array(b, I64) for b in bounds)
    x = np.array([low - 1, low, low + 1, 0, 2**53, 2**53 + 2, high], I64)
    made = model(
        [node("Clip", "x", "low", "high")], {"x": x.shape}, {"low": low, "high": high}, dtype=TensorProto.INT64
    )
    compare(made, {"x": x})
    made = model(
        [node("Pad", "x", "p", "high")], {"x": x.shape}, {"high": high, **ints(p=[1, 2])}, dtype=TensorProto.INT64
    )
    compare(made, {"x": x})


@pytest.mark.parametrize("a, b", [((0, 4), (0, 4)), ((0, 3, 4), (0, 3, 2)), ((2, 0), (2, 3)), ((2, 0), (2, 0))])
def test_concat_of_empty_parts(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    compare(model([node("Concat", "a", "b", axis=-1)], {"a": a, "b": b}), random({"a": a, "b": b}))
