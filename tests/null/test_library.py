"""The library of WGSL helper functions: kernels are given what they call, and nothing else."""

from __future__ import annotations

import re

import numpy as np
import pytest

import gpucompile
from gpucompile.ir.graph import Graph
from gpucompile.ir.types import DataType, TensorType
from gpucompile.kernels import library
from gpucompile.kernels.function import float_literal
from gpucompile.kernels.library import called
from gpucompile.kernels.templates import render
from gpucompile.ops.activation import Relu
from gpucompile.ops.elementwise import Add
from gpucompile.ops.movement import Pad
from tests.support import TARGETS, graph_of


def test_every_function_of_the_file_is_found() -> None:
    names = re.findall(r"^(?:fn|alias) (\w+)", render("_library"), re.MULTILINE)
    assert len(names) == len(set(names)) >= 2
    assert set(names) == library.functions().keys()
    for name, text in library.functions().items():
        if not text.startswith(f"alias {name} = "):
            assert text.startswith(f"fn {name}(") and text.endswith("\n}") and text.count("\nfn ") == 0


def test_what_is_called_comes_once_and_with_what_it_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"a": "fn a() {\n}", "b": "fn b() { a(); }", "c": "fn c() { b(); a(); }", "d": "fn d() {\n}"}
    monkeypatch.setattr(library, "functions", lambda: texts)
    assert called("x = c() + c ();") == [texts["a"], texts["b"], texts["c"]]
    assert called("x = b();") == [texts["a"], texts["b"]]
    assert called("d + a + ab() + a_()") == []  # no calls of d, a


def test_a_kernel_gets_what_it_calls() -> None:
    x = (TensorType(DataType.FLOAT32, (3, 4)),)

    def shader(value: float) -> str:
        (text,) = gpucompile.compile(graph_of(Pad((1, 0), (0, 0), "constant", value), x)).shaders.values()
        return text

    assert shader(float("inf")).count("fn infinity(") == 1
    assert shader(float("-inf")).count("fn infinity(") == 1
    assert shader(float("nan")).count("fn nan(") == 1
    assert "fn infinity" not in shader(1.0) and "fn nan" not in shader(1.0)


@pytest.mark.parametrize("dtype", [DataType.FLOAT32, DataType.FLOAT16])
def test_a_constant_that_is_not_finite(dtype: DataType) -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(dtype, (5,)))
    y = graph.add(Add(), graph.add(Relu(), x), graph.constant(np.asarray(np.inf, dtype.numpy)))
    graph.set_outputs({"y": y})
    (text,) = gpucompile.compile(graph, TARGETS["native"]).shaders.values()
    assert text.count("fn infinity(") == 1 and text.count("infinity()") == 2


def test_literals_are_rounded_to_the_type() -> None:
    assert float_literal(1e6) == "1000000.0"
    assert float_literal(1e39) == "infinity()"
