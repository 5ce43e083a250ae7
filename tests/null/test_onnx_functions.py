"""Functions of a model, which are inlined, against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from gpucompile.errors import ModelError
from gpucompile.frontends.onnx.importer import import_model
from gpucompile.ir.interpret import interpret
from tests.null.onnx_models import compare, random

CALLS = '<ir_version: 10, opset_import: ["" : 18, "f": 1]> g(float[3,4] x) => (float[3,4] y) '


@pytest.mark.parametrize(
    "text",
    [
        '{ y = f.a(x) } <domain: "f", opset_import: ["": 18]> a<alpha: float = 0.5>(x) => (y)'
        "{ y = LeakyRelu<alpha: float = @alpha>(x) }",
        '{ y = f.a<alpha = 0.25>(x) } <domain: "f", opset_import: ["": 18]> a<alpha: float = 0.5>(x) => (y)'
        "{ y = LeakyRelu<alpha: float = @alpha>(x) }",
        # handed on to another function, within a body
        "<bool c = {1}> { y = If(c)<then_branch = t() => (float[3,4] p) { p = f.a(x) },"
        "else_branch = e() => (float[3,4] q) { q = Neg(x) }> }"
        '<domain: "f", opset_import: ["": 18, "f": 1]> a<k: float = 3.0>(x) => (y) { y = f.b<k: float = @k>(x) }'
        '<domain: "f", opset_import: ["": 18]> b<k>(x) => (y)'
        "{ s = Constant<value_float: float = @k>() y = Mul(x, s) }",
    ],
)
def test_attributes_have_the_functions_defaults(text: str) -> None:
    made = onnx.parser.parse_model(CALLS + text)
    before = made.SerializeToString()
    compare(made, random({"x": (3, 4)}))
    assert made.SerializeToString() == before


def test_a_function_of_another_opset() -> None:
    """Before 13 ReduceSum had its axes as an attribute, and Softmax was over all axes from its own on. (onnxruntime
    takes the model's opset for the function's.)"""
    text = (
        '{ y = f.a(x) } <domain: "f", opset_import: ["": 11]> a(x) => (y)'
        "{ s = ReduceSum<axes = [1]>(x) t = Softmax<axis = 0>(x) y = Mul(s, t) }"
    )
    feeds = random({"x": (3, 4)})
    x = feeds["x"]
    want = x.sum(1, keepdims=True) * np.exp(x) / np.exp(x).sum()
    got = interpret(import_model(onnx.parser.parse_model(CALLS + text)), feeds)
    np.testing.assert_allclose(got["y"], want, rtol=1e-5)


def test_a_function_that_calls_itself() -> None:
    text = '{ y = f.a(x) } <domain: "f", opset_import: ["": 18, "f": 1]> a(x) => (y) { y = f.a(x) }'
    with pytest.raises(ModelError, match="functions cannot be inlined"):
        import_model(onnx.parser.parse_model(CALLS + text))
