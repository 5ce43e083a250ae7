"""Inputs given a value when a model is compiled: what they make static, and what is said about wrong ones."""

from __future__ import annotations

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
from gpucompile.ir.graph import Graph
from gpucompile.ir.interpret import interpret
from gpucompile.plan.bundle import Bundle
from gpucompile.plan.partitioned import PartitionedBundle
from gpucompile.runtime.bundle import read_bundle
from tests.null.onnx_models import model, node


def reshaping() -> onnx.ModelProto:
    """y = reshape(x, s) where m, else 0; s and m are inputs."""
    nodes = [node("Where", "m", "x", "zero", outputs=["w"]), node("Reshape", "w", "s")]
    made = model(nodes, {"x": ("n", 4)}, {"zero": np.zeros((), np.float32)})
    made.graph.input.append(helper.make_tensor_value_info("s", TensorProto.INT64, [2]))
    made.graph.input.append(helper.make_tensor_value_info("m", TensorProto.BOOL, ["n", 1]))
    return made


S, M = np.array([4, -1]), np.array([[True], [False]])


def test_they_are_compiled_in() -> None:
    """The shape is static, the size that the mask tells is bound, nothing of either is left to be given."""
    graph = import_model(reshaping(), constants={"s": S, "m": M})
    assert [str(v.type) for v in (*graph.inputs, *graph.outputs)] == ["f32[2,4]", "f32[4,2]"]
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    (y,) = interpret(graph, {"x": x}).values()
    np.testing.assert_array_equal(y, np.where(M, x, 0).reshape(4, 2))
    bundle = compile(reshaping(), constants={"s": S, "m": M.astype(np.uint8)})
    assert isinstance(bundle, Bundle)
    assert [p.name for p in bundle.plans[0].inputs] == ["x"]


def test_initializers_are_replaced() -> None:
    made = model([node("Add", "x", "b")], {"x": (2,), "b": (2,)}, {"b": np.zeros(2, np.float32)})
    for given, wanted in ({}, 1.0), ({"b": np.ones(2, np.float32)}, 2.0):
        (y,) = interpret(import_model(made, constants=given), {"x": np.ones(2, np.float32)}).values()
        np.testing.assert_array_equal(y, [wanted, wanted])


def test_with_several_sizes_and_hosts() -> None:
    bundle = compile(reshaping(), dims={"n": [2]}, constants={"s": S})
    assert isinstance(bundle, Bundle) and [b.dims for b in bundle.buckets] == [{"n": 2}]
    with pytest.raises(InputError, match="m has n=2, elsewhere it is 4"):
        compile(reshaping(), dims={"n": [2, 4]}, constants={"s": S, "m": M})
    strange = reshaping()
    strange.graph.node.append(node("NonZero", "y", outputs=["z"]))
    strange.graph.output.append(onnx.ValueInfoProto(name="z"))
    parts = compile(strange, constants={"s": S, "m": M}, fallback="allow")
    assert isinstance(parts, PartitionedBundle) and [n.op for n in parts.fallback] == ["NonZero"]


@pytest.mark.parametrize(
    ("constants", "words"),
    [
        ({"t": S}, "the model has no input 't'; it has x, s, m"),
        ({"s": [4, 2]}, "s is a list, a numpy array of int64 is wanted"),
        ({"s": S.astype(np.int32)}, "s is int32, the model says int64"),
        ({"s": np.array([4])}, r"s has the shape \[1\], the model says \[2\]"),
        ({"m": np.ones((2, 2), bool)}, r"m has the shape \[2, 2\], the model says \[n, 1\]"),
        ({"m": np.array([[2]], np.uint8)}, "m has values outside 0..1 of bool"),
        ({"x": np.ones((3, 4), np.float32), "m": M}, "m has n=2, elsewhere it is 3"),
        ("s", "must map names of inputs to arrays, not str"),
    ],
)
def test_wrong_ones(constants: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        compile(reshaping(), constants=constants)


def test_a_refusal_says_what_would_help() -> None:
    with pytest.raises(
        UnsupportedError, match=r"its shape depends on the data.*constants= and --const give 's' a value"
    ):
        compile(reshaping(), dims={"n": 2})
    with pytest.raises(InputError, match="a Graph has its own"):
        compile(Graph(), constants={"s": S})
    with pytest.raises(InputError, match="constants: m has n=2, elsewhere it is 3"):
        compile(reshaping(), dims={"n": 3}, constants={"s": S, "m": M})


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(reshaping(), tmp_path / "m.onnx")
    np.save(tmp_path / "s.npy", S)
    path, out = str(tmp_path / "m.onnx"), str(tmp_path / "m.gpub")
    given = ["--dim", "n=2", "--const", f"s={tmp_path / 's.npy'}"]
    assert main(["compile", path, "-o", out, "-q", *given]) == 0
    with read_bundle(out) as bundle:
        assert [p.name for p in bundle.manifest.inputs] == ["x", "m"]
    assert main(["opt", path, "-p", "", *given]) == 0
    assert "reshape" in capsys.readouterr().out
    assert main(["compile", path, "-o", out, "-q", "--dim", "n=2", "--const", "s=missing.npy"]) == 2
    assert "input s: cannot read missing.npy" in capsys.readouterr().err
