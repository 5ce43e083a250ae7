"""What a model is refused for: everything at once, grouped, before memory is taken; tables of models nobody runs."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from gpucompile.cli.main import main
from gpucompile.compiler import compile
from gpucompile.errors import InputError, UnsupportedError
from gpucompile.frontends.onnx.importer import import_model
from gpucompile.runtime.format import HostNode
from gpucompile.runtime.parts import on_the_cpu
from tests.null.onnx_models import ints, model, node

HUGE = 1 << 40


def several() -> onnx.ModelProto:
    """Two ops that are unknown, one that needs a constant, one of options that are refused, two behind them."""
    nodes = [
        node("NonZero", "x", outputs=["a"]),
        helper.make_node("Magic", ["x"], ["b"], "first", domain="com.example"),
        helper.make_node("Magic", ["x"], ["c"], "second", domain="com.example"),
        node("Relu", "x", outputs=["d"]),
        node("RoiAlign", "x", "regions", "batch", outputs=["e"], mode="max"),
        node("Cast", "a", outputs=["f"], to=TensorProto.FLOAT),
        node("Neg", "b", outputs=["g"]),
    ]
    made = model(nodes, {"x": (1, 1, 4, 4), "regions": (1, 4)}, ints(batch=[0]), outputs=("c", "d", "e", "f", "g"))
    made.opset_import.append(helper.make_opsetid("com.example", 1))
    return made


def test_everything_is_listed() -> None:
    with pytest.raises(UnsupportedError) as e:
        import_model(several())
    first, *lines = str(e.value).splitlines()
    assert first == "model 'test': not supported:"
    assert [line.strip() for line in lines] == [
        "1x NonZero 'the NonZero': its result's size depends on the data; it must be a constant "
        "(constants= and --const give 'x' a value)",
        "2x com.example.Magic 'first', 'second': no import function (domain com.example)",
        "1x RoiAlign 'the RoiAlign': mode max, the largest of weighted elements",
        "2 nodes behind these could not be looked at",
    ]


def test_a_single_reason_stays_a_sentence() -> None:
    nodes = [node("NonZero", "x", outputs=["a"]), node("Neg", "a")]
    with pytest.raises(UnsupportedError) as e:
        import_model(model(nodes, {"x": (4,)}, dtype=TensorProto.INT64))
    assert "\n" not in str(e.value) and str(e.value).startswith("model 'test': NonZero 'the NonZero': its ")
    assert str(e.value).endswith("; 1 node behind it could not be looked at")


def test_inputs_are_listed_too() -> None:
    made = model([node("Relu", "x", outputs=["a"]), node("NonZero", "z", outputs=["b"])], {"x": (2,), "z": (2,)})
    made.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    del made.graph.output[:]
    made.graph.output.extend(onnx.ValueInfoProto(name=n) for n in "ab")
    with pytest.raises(UnsupportedError) as e:
        import_model(made)
    text = str(e.value)
    assert "input 'x' has the data type double" in text and "1x NonZero" in text and "1 node behind" in text


def with_bodies() -> onnx.ModelProto:
    """A loop whose body has three ops that are unknown, one of them in a branch, and an initializer of strings."""

    def magic(i: int) -> onnx.NodeProto:
        return helper.make_node("Magic", ["a"], [f"m{i}"], f"magic {i}", domain="com.example")

    none = onnx.ValueInfoProto
    branch = helper.make_graph([magic(2)], "branch", [], [none(name="m2")])
    other = helper.make_graph([helper.make_node("Neg", ["a"], ["n"])], "branch", [], [none(name="n")])
    choice = helper.make_node("If", ["c"], ["b"], "choice", then_branch=branch, else_branch=other)
    nodes = [node("Identity", "c", outputs=["d"]), magic(0), magic(1), choice, magic(3)]  # the last is not needed
    nodes.append(helper.make_node("Sum", ["m0", "m1", "b"], ["e"]))
    body = helper.make_graph(nodes, "body", [none(name=n) for n in "ica"], [none(name=n) for n in "de"])
    words = onnx.helper.make_tensor("words", TensorProto.STRING, [1], [b"a"])
    made = model([helper.make_node("Loop", ["n", "", "x"], ["y"], "loop", body=body)], {"x": ("size",)}, ints(n=[2]))
    made.graph.node.append(helper.make_node("Equal", ["words", "words"], ["same"], "compare"))
    made.graph.node.append(helper.make_node("Cast", ["x"], ["narrow"], "narrow", to=TensorProto.FLOAT8E5M2))
    made.graph.output.extend(none(name=n) for n in ("same", "narrow"))
    made.graph.initializer.append(words)
    made.opset_import.append(helper.make_opsetid("com.example", 1))
    return made


def test_free_dimensions_hide_nothing_that_does_not_depend_on_them() -> None:
    with pytest.raises(UnsupportedError) as e:
        import_model(with_bodies())
    _, first, *lines = str(e.value).splitlines()
    assert first.strip().startswith("free dimensions: input 'x' axis 0 (size). Give")
    why = "no import function (domain com.example)"
    assert [line.strip() for line in lines] == [
        f"2x com.example.Magic 'magic 0', 'magic 1': {why} (in the body of Loop 'loop')",
        f"1x com.example.Magic 'magic 2': {why} (in the then_branch of If 'choice')",
        "1x Equal 'compare': tensor 'words' has the data type string, which is not supported",
        "1x Cast 'narrow': the result has the data type float8e5m2, which is not supported",
    ]


def test_bodies_of_what_is_refused_are_listed() -> None:
    with pytest.raises(UnsupportedError) as e:
        import_model(with_bodies(), {"size": 2})
    why = "no import function (domain com.example)"
    assert [line.strip() for line in str(e.value).splitlines()[1:]] == [
        f"1x Loop 'loop': Magic 'magic 0': {why}",
        "1x Equal 'compare': tensor 'words' has the data type string, which is not supported",
        "1x Cast 'narrow': the result has the data type float8e5m2, which is not supported",
        f"1x com.example.Magic 'magic 1': {why} (in the body of Loop 'loop')",
        f"1x com.example.Magic 'magic 2': {why} (in the then_branch of If 'choice')",
    ]


def test_branches_that_are_not_taken_are_not_listed() -> None:
    branches = [
        helper.make_graph([helper.make_node(op, ["x"], [n], domain=where)], "b", [], [onnx.ValueInfoProto(name=n)])
        for op, n, where in (("Neg", "p", ""), ("Magic", "q", "com.example"))
    ]
    choice = helper.make_node("If", ["yes"], ["a"], then_branch=branches[0], else_branch=branches[1])
    nodes = [choice, node("NonZero", "a", outputs=["y"])]
    with pytest.raises(UnsupportedError, match="NonZero") as e:
        import_model(model(nodes, {"x": (2,)}, {"yes": np.array(True)}, dtype=TensorProto.FLOAT))
    assert "Magic" not in str(e.value)


def test_what_has_no_kernel_is_named_by_its_node() -> None:
    nodes = [
        helper.make_node("Expand", ["x", "s"], ["a"], "too large"),
        helper.make_node("Expand", ["x", "t"], ["b"], "as well"),
    ]
    made = model(nodes, {"x": (1,)}, ints(s=[1 << 30], t=[1 << 31]), outputs=("a", "b"))
    with pytest.raises(UnsupportedError) as e:
        compile(made)
    text = str(e.value)
    assert "Expand 'too large'" in text and "Expand 'as well'" in text and "4294967296 bytes" in text


def test_the_table_of_a_model_that_nobody_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(several(), path)
    for fallback in "error", "allow":
        assert main(["compile", str(path), "-o", str(tmp_path / "m.gpub"), "--explain", "--fallback", fallback]) == 2
        out, err = capsys.readouterr()
        rows = [line.split() for line in out.splitlines()]
        assert rows[0][:2] == ["part", "backend"]
        assert any(row[1:4] == ["nobody", "com.example.Magic", "first"] for row in rows)
        assert any(row[1] == "wgpu" and row[-3:-2] == ["relu"] and "1 relu" in " ".join(row) for row in rows)
        assert err.startswith("gpucompile: error: ") and "com.example.Magic 'first'" in err
        assert "\n  1x " in err or "\n  2x " in err
    assert not (tmp_path / "m.gpub").exists()


# Sizes ---------------------------------------------------------------------------------------------------------------


def scalars(**values: int) -> dict[str, np.ndarray]:
    return {n: np.array(v, np.int64) for n, v in values.items()}


ABSURD: list[tuple[str, Sequence[onnx.NodeProto], dict[str, Any], dict[str, np.ndarray]]] = [
    ("OneHot", [node("OneHot", "i", "d", "v")], {}, scalars(d=HUGE) | ints(i=[1]) | {"v": np.zeros(2, "f")}),
    ("EyeLike", [node("EyeLike", "x")], {"x": (1 << 20, 1 << 20)}, {}),
    ("DFT", [node("DFT", "x", "n")], {"x": (1, 4, 1)}, scalars(n=HUGE)),
    (
        "MelWeightMatrix",
        [node("MelWeightMatrix", *"abcde")],
        {},
        scalars(a=1 << 30, b=1 << 30, c=8000) | {"d": np.zeros((), "f"), "e": np.array(4000, "f")},
    ),
    ("Range", [node("Range", *"abc")], {}, scalars(a=0, b=HUGE, c=1)),
    ("STFT", [node("STFT", "x", "s", "w")], {"x": (1, 1 << 30, 1)}, scalars(s=1) | {"w": np.ones(16, "f")}),
    ("Pad", [node("Pad", "x", "p", mode="reflect")], {"x": (3,)}, ints(p=[0, HUGE])),
    (
        "Resize",
        [node("Resize", "x", "", "", "s", mode="linear", coordinate_transformation_mode="align_corners")],
        {"x": (1, 1, 4, 4)},
        ints(s=[1, 1, HUGE, 4]),
    ),
    ("HammingWindow", [node("HammingWindow", "n")], {}, scalars(n=HUGE)),
    (
        "SplitToSequence",
        [node("SplitToSequence", "x", "n", outputs=["q"]), node("SequenceAt", "q", "z")],
        {"x": (1 << 30,)},
        scalars(n=1, z=0),
    ),
]


@pytest.mark.parametrize(("name", "nodes", "inputs", "constants"), ABSURD, ids=[a[0] for a in ABSURD])
def test_absurd_sizes_take_no_memory(
    name: str, nodes: Sequence[onnx.NodeProto], inputs: dict[str, Any], constants: dict[str, np.ndarray]
) -> None:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [onnx.ValueInfoProto(name="y")],
        [onnx.numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    tracemalloc.start()
    try:
        with pytest.raises(UnsupportedError, match=name):
            import_model(made)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("op", ["Expand", "ConstantOfShape", "Tile"])
def test_absurd_constants_are_left_to_the_device(op: str) -> None:
    nodes = [node(op, *(["s"] if op == "ConstantOfShape" else ["k", "s"]), outputs=["c"]), node("Add", "x", "c")]
    made = model(nodes, {"x": (1,)}, ints(s=[1 << 36]) | {"k": np.ones(3 if op == "Tile" else 1, np.float32)})
    with pytest.raises(UnsupportedError, match="binds 134217728 at most"):
        compile(made)


# Options and counts --------------------------------------------------------------------------------------------------


def test_a_dimension_of_0_is_not_free() -> None:
    made = model([node("Concat", "x", "z", axis=0)], {"x": (0, 3), "z": ("n", 3)})
    graph = import_model(made, {"n": 2})
    assert graph.outputs[0].type.shape == (2, 3)
    with pytest.raises(InputError, match=r"no free dimension 'x\[0\]'; it has n"):
        import_model(made, {"n": 2, "x[0]": 1})


@pytest.mark.parametrize("source", [5, None, ["m.onnx"], object()])
def test_sources_that_are_none(source: Any) -> None:
    with pytest.raises(InputError, match=r"a model is a path, bytes or an onnx\.ModelProto, not"):
        compile(source)


@pytest.mark.parametrize("dims", [{"n": None}, {"n": 1.0}, {"n": True}, {"n": -1}, {"n": "4"}])
def test_dims_that_are_no_sizes(dims: Any) -> None:
    made = model([node("Relu", "x")], {"x": ("n",)})
    for call in compile, import_model:
        with pytest.raises(InputError, match=r"dims: n is .*, it must be an integer that is not negative"):
            call(made, dims=dims)  # type: ignore[operator]


def test_warnings_name_ten_nodes_at_most() -> None:
    nodes = [HostNode(f"n{i}", "NonZero", "why") for i in range(12)]
    assert on_the_cpu(nodes[:1]) == "1 node runs on the CPU: NonZero 'n0': why"
    text = on_the_cpu(nodes)
    assert text.startswith("12 nodes run on the CPU: ") and text.count("NonZero") == 10
    assert text.endswith("and 2 more (--explain and .fallback list them all)")
