"""Constants of data types that graphs lack: computed at import, refused where a node would need them on the device."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

import gpucompile
from gpucompile.errors import UnsupportedError
from gpucompile.frontends.onnx.importer import import_model
from gpucompile.ir.interpret import interpret

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def model(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> agraph {text}')


FOLDS = {
    "factor": "(float[2, 3] x) => (float[2, 3] y) <double k = {0.3}> { c = Cast <to: int = 1> (k) y = Mul (x, c) }",
    "square root of a size": """(float[2, 3] x) => (float[2, 3] y) {
        s = Shape <start: int = 1> (x) d = Cast <to: int = 11> (s)
        r = Sqrt (d) f = Cast <to: int = 1> (r) y = Div (x, f) }""",
    "constant node": """(float[2, 3] x) => (float[2, 3] y) {
        k = Constant <value: tensor = double {2.5}> () h = Constant <value: tensor = double {0.25}> ()
        p = Mul (k, h) b = Greater (p, h) w = Where (b, p, k) f = Cast <to: int = 1> (w) y = Add (x, f) }""",
    "shape in 16 bits": """(float[2, 3] x) => (float[3, 2] y) <int16[2] s = {3, 2}> {
        t = Cast <to: int = 7> (s) y = Reshape (x, t) }""",
}


@pytest.mark.parametrize("text", FOLDS.values(), ids=FOLDS)
def test_it_folds_away(text: str) -> None:
    proto = model(text)
    graph = import_model(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {"x": X})
    np.testing.assert_allclose(interpret(graph, {"x": X})["y"], want, rtol=1e-6)


def test_what_needs_it_on_the_device_is_refused() -> None:
    text = """(float[2, 3] x) => (double[2, 3] y) <double k = {0.3}> { d = Cast <to: int = 11> (x) y = Mul (d, k) }"""
    with pytest.raises(UnsupportedError, match=r"Cast 'd'.*double"):
        gpucompile.compile(model(text))


def test_a_host_gets_it() -> None:
    """What was computed at import is a constant of the part that is left to the CPU."""
    text = """(float[2, 3] x) => (double[2, 3] y) <double k = {0.3}> {
        two = Constant <value: tensor = double {2.0}> () c = Mul (k, two)
        d = Cast <to: int = 11> (x) y = Mul (d, c) }"""
    bundle = gpucompile.compile(model(text), fallback="allow")
    assert [n.op for n in bundle.fallback][-1] == "Mul"
    with gpucompile.load(bundle) as run:
        np.testing.assert_allclose(run.run({"x": X})["y"], X.astype(np.float64) * 0.6, rtol=1e-12)
