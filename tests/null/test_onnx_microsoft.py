"""ONNX Runtime's own ops: where its CPU build has them, its results are the oracle, else a formula in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from gpucompile.errors import ModelError, UnsupportedError
from gpucompile.frontends.onnx.call import DataDependentError
from gpucompile.frontends.onnx.importer import import_model
from gpucompile.ir.interpret import interpret
from tests.null.onnx_models import Feeds

RNG = np.random.default_rng(0)


def f(*shape: int, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    return RNG.uniform(low, high, shape).astype(np.float32)


def model(
    op: str, inputs: list[np.ndarray | None], constants: tuple[int, ...] = (), outputs: int = 1, **attributes: Any
) -> tuple[onnx.ModelProto, Feeds]:
    """One node on these inputs, None for an absent one; those at `constants` are initializers."""
    names = [f"x{i}" if a is not None else "" for i, a in enumerate(inputs)]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, results, name=f"the {op}", domain="com.microsoft", **attributes)
    element = helper.np_dtype_to_tensor_dtype
    feeds = {n: a for i, (n, a) in enumerate(zip(names, inputs)) if a is not None and i not in constants}
    graph = helper.make_graph(
        [node],
        "test",
        [helper.make_tensor_value_info(n, element(a.dtype), a.shape) for n, a in feeds.items()],
        [onnx.ValueInfoProto(name=n) for n in results],
        [numpy_helper.from_array(inputs[i], names[i]) for i in constants],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9), feeds


def runtime(made: onnx.ModelProto, feeds: Feeds) -> list[np.ndarray]:
    made = onnx.ModelProto.FromString(made.SerializeToString())
    for o in made.graph.output:  # ONNX Runtime infers the types
        o.CopyFrom(onnx.ValueInfoProto(name=o.name))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(y) for y in session.run(None, feeds)]


def compare(made: onnx.ModelProto, feeds: Feeds, tolerance: float = 2e-6) -> None:
    graph = import_model(made)
    graph.verify()
    for y, want in zip(interpret(graph, feeds).values(), runtime(made, feeds), strict=True):
        assert (y.shape, y.dtype) == (want.shape, want.dtype)
        np.testing.assert_allclose(y, want, rtol=0, atol=tolerance * max(1e-3, float(np.abs(want).max())))


X, W3 = f(2, 5, 12), f(12, 36)
MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
HEADS = {"num_heads": 3}
CACHE = [f(2, 3, 4, 4), f(2, 3, 4, 4)]

SIMPLE: list[tuple[str, list[np.ndarray | None], int, dict[str, Any]]] = [
    ("Gelu", [f(3, 7)], 1, {}),
    ("BiasGelu", [f(3, 7), f(7)], 1, {}),
    ("FastGelu", [f(3, 7)], 1, {}),
    ("FastGelu", [f(3, 7), f(7)], 1, {}),
    ("QuickGelu", [f(3, 7)], 1, {"alpha": 1.5}),
    ("FusedConv", [f(1, 4, 6, 7), f(5, 4, 3, 3), f(5)], 1, {"activation": "Relu", "pads": [1, 1, 1, 1]}),
    ("FusedConv", [f(1, 4, 6, 7), f(5, 4, 3, 3), None, f(1, 5, 4, 5)], 1, {"activation": "Relu"}),
    ("FusedConv", [f(1, 4, 6, 7), f(5, 4, 3, 3)], 1, {"activation": "LeakyRelu", "activation_params": [0.2]}),
    (
        "FusedConv",
        [f(1, 4, 6, 7), f(5, 4, 3, 3)],
        1,
        {"activation": "Clip", "activation_params": [-5.0, 5.0]},
    ),
    ("FusedGemm", [f(3, 4), f(5, 4), f(5)], 1, {"transB": 1, "activation": "Relu"}),
    ("FusedMatMul", [f(2, 3, 4), f(2, 5, 4)], 1, {"transB": 1, "alpha": 0.5}),
    ("FusedMatMul", [f(3, 2, 4), f(2, 4, 5)], 1, {"transBatchA": 1}),
    ("SkipLayerNormalization", [X, f(2, 5, 12), f(12), f(12), f(12)], 1, {}),
    ("SkipLayerNormalization", [X, f(2, 5, 12), f(12)], 1, {"epsilon": 1e-3}),
    ("SkipSimplifiedLayerNormalization", [X, f(2, 5, 12), f(12), f(12)], 1, {}),
    ("Attention", [X, W3, f(36)], 1, HEADS),
    ("Attention", [X, W3, f(36)], 1, {**HEADS, "unidirectional": 1}),
    ("Attention", [X, W3, f(36), MASK], 1, HEADS),
    ("Attention", [X, W3, f(36), np.array([3, 5], np.int32)], 1, HEADS),
    ("Attention", [X, W3, f(36), None, f(2, 2, 3, 4, 4)], 2, {**HEADS, "unidirectional": 1}),
    ("Attention", [X, f(12, 30), f(30)], 1, {**HEADS, "qkv_hidden_sizes": [12, 12, 6]}),
    ("MultiHeadAttention", [X, f(2, 7, 12), f(2, 7, 12)], 1, HEADS),
    ("MultiHeadAttention", [X, f(2, 7, 12), f(2, 7, 15), f(39)], 1, HEADS),
    ("MultiHeadAttention", [X, X, X, None, MASK], 1, HEADS),
    ("MultiHeadAttention", [X, X, X, None, None, f(2, 3, 5, 5)], 1, {**HEADS, "scale": 0.3}),
    ("MultiHeadAttention", [X, X, X, None, None, None, *CACHE], 3, HEADS),
    ("MultiHeadAttention", [X, X, X], 1, {**HEADS, "unidirectional": 1}),
    ("MultiHeadAttention", [X, f(2, 3, 7, 4), f(2, 3, 7, 4)], 1, HEADS),
    (
        "MatMulNBits",
        [f(3, 40), RNG.integers(0, 256, (6, 3, 8), np.uint8), f(18)],
        1,
        {"K": 40, "N": 6, "block_size": 16},
    ),
    (
        "MatMulNBits",
        [f(3, 40), RNG.integers(0, 256, (6, 3, 8), np.uint8), f(18), RNG.integers(0, 256, (12,), np.uint8)],
        1,
        {"K": 40, "N": 6, "block_size": 16, "bits": 4},
    ),
]


@pytest.mark.parametrize(("op", "inputs", "outputs", "attributes"), SIMPLE)
def test_op_matches_onnxruntime(
    op: str, inputs: list[np.ndarray | None], outputs: int, attributes: dict[str, Any]
) -> None:
    constants = (1, 2, 3)[: len(inputs) - 1] if op == "MatMulNBits" else ()
    compare(*model(op, inputs, constants, outputs, **attributes))


def test_skip_layer_normalization_returns_the_sum() -> None:
    x, skip, gamma, bias = f(2, 3, 8), f(2, 3, 8), f(8), f(8)
    made, feeds = model("SkipLayerNormalization", [x, skip, gamma, None, bias], outputs=1)
    made.graph.node[0].output.extend(["", "", "sum"])
    made.graph.output.add(name="sum")
    compare(made, feeds)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("form", ["flat", "heads", "offset", "partial"])
def test_rotary_embedding(form: str, interleaved: int) -> None:
    pairs = 2 if form == "partial" else 4
    x = f(2, 3, 6, 8) if form == "heads" else f(2, 6, 24)
    angles = RNG.uniform(0, 6, (20, pairs))
    tables = [np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)]
    positions = np.array([3]) if form == "offset" else RNG.integers(0, 20, (2, 6))
    attributes: dict[str, Any] = {"interleaved": interleaved}
    if form == "partial":
        attributes |= {"num_heads": 3, "rotary_embedding_dim": 4}
    compare(*model("RotaryEmbedding", [x, positions.astype(np.int64), *tables], **attributes))


def grouped(steps: int, past: int, space: int, **attributes: Any) -> tuple[onnx.ModelProto, Feeds]:
    """GroupQueryAttention with 4 query heads, 2 key heads of 16 channels each; `space` entries in the cache."""
    total = past + steps
    angles = RNG.uniform(0, 6, (32, 8))
    inputs: list[np.ndarray | None] = [
        f(2, steps, 64),
        f(2, steps, 32),
        f(2, steps, 32),
        f(2, 2, space, 16) if space else None,
        f(2, 2, space, 16) if space else None,
        np.full(2, total - 1, np.int32),
        np.array(total, np.int32),
        np.cos(angles).astype(np.float32),
        np.sin(angles).astype(np.float32),
    ]
    return model("GroupQueryAttention", inputs, (6,), 3, num_heads=4, kv_num_heads=2, **attributes)


@pytest.mark.parametrize(
    ("steps", "past", "space"), [(5, 0, 0), (1, 6, 6), (1, 6, 10)], ids=["prompt", "growing", "static"]
)
@pytest.mark.parametrize(
    "attributes",
    [{}, {"do_rotary": 1}, {"do_rotary": 1, "rotary_interleaved": 1}, {"local_window_size": 3}, {"softcap": 2.0}],
    ids=["plain", "rotary", "interleaved", "window", "softcap"],
)
def test_group_query_attention(steps: int, past: int, space: int, attributes: dict[str, Any]) -> None:
    made, feeds = grouped(steps, past, space, **attributes)
    if space <= past:
        compare(made, feeds)
        return
    # ONNX Runtime's cache must be as long as what is in it; only that part of a longer one may count
    got = interpret(import_model(made), feeds)
    short = {n: a[:, :, :past] if n in ("x3", "x4") else a for n, a in feeds.items()}
    trimmed = onnx.ModelProto.FromString(made.SerializeToString())
    for i in trimmed.graph.input:
        if i.name in ("x3", "x4"):
            i.type.tensor_type.shape.dim[2].dim_value = past
    want = runtime(trimmed, short)
    for name, y, w in zip(got, got.values(), want):
        part = y if name == "y0" else y[:, :, : past + steps]
        np.testing.assert_allclose(part, w, rtol=0, atol=2e-6 * float(np.abs(w).max()))


def test_bias_split_gelu_bias_add_and_group_norm() -> None:
    """Ops without a CPU version in ONNX Runtime."""
    x, bias = f(2, 3, 8), f(8)
    made, feeds = model("BiasSplitGelu", [x, bias])
    h = (x + bias).astype(np.float64)
    from math import erf, sqrt

    gelu = np.vectorize(lambda v: 0.5 * v * (1 + erf(v / sqrt(2))))
    np.testing.assert_allclose(interpret(import_model(made), feeds)["y0"], h[..., :4] * gelu(h[..., 4:]), atol=1e-6)
    made, feeds = model("BiasAdd", [x, bias, x])
    np.testing.assert_allclose(interpret(import_model(made), feeds)["y0"], 2 * x + bias, atol=1e-6)
    image, gamma, beta = f(2, 3, 4, 6), f(6), f(6)
    made, feeds = model("GroupNorm", [image, gamma, beta], groups=3, activation=1, epsilon=1e-3)
    g = image.astype(np.float64).reshape(2, 12, 3, 2)
    normal = (g - g.mean((1, 3), keepdims=True)) / np.sqrt(g.var((1, 3), keepdims=True) + 1e-3)
    y = normal.reshape(image.shape) * gamma + beta
    np.testing.assert_allclose(interpret(import_model(made), feeds)["y0"], y / (1 + np.exp(-y)), atol=1e-5)


@pytest.mark.parametrize(("shape", "inner"), [((1, 1, 4, 5), 1), ((2, 1, 1, 5), 0)])
def test_bias_softmax(shape: tuple[int, ...], inner: int) -> None:
    x, bias = f(2, 3, 4, 5), f(*shape)
    made, feeds = model("BiasSoftmax", [x, bias], axis=3, is_inner_broadcast=inner)
    e = np.exp((x + bias).astype(np.float64))
    np.testing.assert_allclose(interpret(import_model(made), feeds)["y0"], e / e.sum(3, keepdims=True), rtol=1e-5)


def test_gather_block_quantized() -> None:
    table = RNG.integers(0, 256, (6, 16), np.uint8)  # 32 numbers of 4 bits a row
    scales, indices = f(6, 2), np.array([[4, 0], [5, 2]], np.int64)
    made, feeds = model("GatherBlockQuantized", [table, indices, scales], (0, 2), block_size=16, bits=4)
    numbers = np.stack([table & 15, table >> 4], -1).reshape(6, 32).astype(np.float64) - 8
    want = (numbers * np.repeat(scales, 16, 1))[indices]
    np.testing.assert_allclose(interpret(import_model(made), feeds)["y0"], want, rtol=1e-6)


def test_packed_weights_stay_packed() -> None:
    made, _ = model(
        "MatMulNBits", [f(3, 32), RNG.integers(0, 256, (6, 2, 8), np.uint8), f(12)], (1, 2), K=32, N=6, block_size=16
    )
    constants = {str(n.output.type) for n in import_model(made).nodes if n.op.name == "constant"}
    assert "u4[6,32]" in constants


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "kind", "text"),
    [
        ("MultiHeadAttention", [X], {"num_heads": 3}, ModelError, "the MultiHeadAttention': key is missing"),
        ("MultiHeadAttention", [X, X, X], {"num_heads": 5}, ModelError, "5 heads do not divide 12 channels"),
        ("Attention", [X, W3, f(36)], {**HEADS, "do_rotary": 1}, UnsupportedError, "do_rotary"),
        ("FusedConv", [f(1, 4, 6, 7), f(5, 4, 3, 3)], {"activation": "Magic"}, UnsupportedError, "activation 'Magic'"),
        ("GroupNorm", [f(1, 4, 4, 6), f(6), f(6)], {"groups": 4}, ModelError, "4 groups do not divide 6 channels"),
        ("MatMulNBits", [f(3, 32), np.zeros((6, 2, 8), np.uint8), f(12)], {"K": 32}, ModelError, "K, N and block_size"),
        (
            "MatMulNBits",
            [f(3, 32), np.zeros((6, 2, 8), np.uint8), f(12)],
            {"K": 32, "N": 6, "block_size": 16},
            DataDependentError,
            "weights depends on the data",
        ),
        ("NoSuchOp", [X], {}, UnsupportedError, "no import function (domain com.microsoft)"),
    ],
)
def test_errors(op: str, inputs: list[Any], attributes: dict[str, Any], kind: type[Exception], text: str) -> None:
    made, _ = model(op, inputs, **attributes)
    with pytest.raises(kind) as error:
        import_model(made)
    assert text in str(error.value)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("each", [False, True])
def test_dynamic_quantize_lstm(direction: str, each: bool) -> None:
    """`each`: a scale for every column of the weights (equal zero points are all that the oracle takes then). A number
    that lies between two 8-bit ones may be rounded the other way here, hence the tolerance; without any rounding the
    error is larger."""
    steps, batch, size, hidden = 4, 1, 3, 5
    count = 2 if direction == "bidirectional" else 1
    parts = (count, 4 * hidden) if each else (count,)
    weights = [RNG.integers(0, 256, (count, n, 4 * hidden)).astype(np.uint8) for n in (size, hidden)]
    scales = [f(*parts, low=0.004, high=0.008) for _ in range(2)]
    zeros = [np.full(parts, n, np.uint8) for n in (120, 131)]
    state = [f(count, batch, hidden), f(count, batch, hidden)]
    inputs: list[np.ndarray | None] = [f(steps, batch, size), *weights, f(count, 8 * hidden), None, *state, None]
    inputs += [scales[0], zeros[0], scales[1], zeros[1]]
    constants = (1, 2, 8, 9, 10, 11)
    made, feeds = model("DynamicQuantizeLSTM", inputs, constants, 3, hidden_size=hidden, direction=direction)
    compare(made, feeds, tolerance=1e-3)
