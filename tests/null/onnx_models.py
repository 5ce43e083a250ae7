"""Small ONNX models for tests, and their comparison with onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from gpucompile.frontends.onnx.importer import import_model
from gpucompile.ir.graph import Graph
from gpucompile.ir.interpret import interpret

I64 = np.int64
Feeds = dict[str, np.ndarray]


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Sequence[int | str | None]],
    constants: Feeds | None = None,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A small model; the types of its outputs are inferred."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(n, dtype, shape) for n, shape in inputs.items()],
        [onnx.ValueInfoProto(name=n) for n in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    try:
        inferred = onnx.shape_inference.infer_shapes(made).graph.output
    except onnx.shape_inference.InferenceError:  # models that are meant to be wrong
        return made
    for o, i in zip(made.graph.output, inferred):
        o.CopyFrom(i if i.type.HasField("tensor_type") else helper.make_tensor_value_info(o.name, dtype, None))
    return made


def random(shapes: dict[str, Sequence[int]], seed: int = 0) -> Feeds:
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


def runtime(made: onnx.ModelProto, feeds: Feeds) -> list[np.ndarray]:
    """What onnxruntime computes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(y) for y in session.run(None, feeds)]


def compare(made: onnx.ModelProto, feeds: Feeds) -> Graph:
    """Import, interpret, compare with onnxruntime; returns the graph."""
    graph = import_model(made)
    graph.verify()
    got = interpret(graph, feeds)
    assert list(got) == [o.name for o in made.graph.output]
    for y, want in zip(got.values(), runtime(made, feeds), strict=True):
        want = want.astype(np.uint8) if want.dtype == np.bool_ else want
        assert (y.shape, y.dtype) == (want.shape, want.dtype)
        scale = float(np.abs(want[np.isfinite(want)]).max(initial=1e-3)) if want.dtype.kind == "f" else 0.0
        np.testing.assert_allclose(y, want, rtol=0, atol=2e-6 * scale)
    return graph


def node(op: str, *inputs: str, outputs: Sequence[str] = ("y",), **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), list(outputs), **{"name": f"the {op}", **attributes})


def ints(**values: Sequence[int]) -> Feeds:
    return {n: np.array(v, I64) for n, v in values.items()}
