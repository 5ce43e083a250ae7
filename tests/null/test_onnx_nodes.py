"""The importer op by op: each node's result, by the oracle, is onnxruntime's or the one ONNX's own tests expect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from gpucompile.errors import ModelError, UnsupportedError
from gpucompile.frontends.onnx.importer import import_model
from gpucompile.ir.interpret import interpret
from gpucompile.runtime.nibbles import pack_nibbles
from tests.null.onnx_models import I64, Feeds, compare, ints, model, node, random

S4 = (2, 6, 11, 10)


def filters(*shape: int) -> Feeds:
    return {"w": random({"w": shape}, 1)["w"], "b": random({"b": (shape[0],)}, 2)["b"]}


PARAMETERS = {n: np.abs(a) + 0.5 for n, a in random({"s": (6,), "b": (6,), "m": (6,), "v": (6,)}, 3).items()}

STEPS = np.array([0.01, 0.02, 0.5, 0.07, 0.03, 0.004], np.float32)

#: (opset, op, attributes, shape of x, further inputs that are constants)
NODES: list[tuple[int, str, dict[str, Any], Sequence[int], Feeds]] = [
    (17, "Conv", {}, S4, filters(5, 6, 3, 3)),
    (9, "Conv", {"pads": [1, 2, 0, 1], "strides": [2, 3]}, S4, filters(5, 6, 3, 2)),
    (17, "Conv", {"group": 3, "pads": [1, 1, 1, 1]}, S4, filters(9, 2, 3, 3)),
    (17, "Conv", {"group": 6, "kernel_shape": [3, 3]}, S4, filters(12, 1, 3, 3)),
    (17, "Conv", {"dilations": [2, 3], "pads": [2, 2, 2, 2]}, S4, filters(4, 6, 3, 2)),
    (17, "Conv", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, S4, filters(4, 6, 3, 4)),
    (17, "Conv", {"auto_pad": "SAME_LOWER", "strides": [3, 2]}, S4, filters(4, 6, 4, 3)),
    (17, "Conv", {"auto_pad": "VALID"}, S4, filters(4, 6, 3, 3)),
    (17, "Conv", {"pads": [1, 0]}, (2, 6, 9), filters(4, 6, 3)),
    (17, "ConvTranspose", {"strides": [2, 2], "pads": [1, 0, 0, 1]}, S4, filters(6, 4, 3, 3) | {"b": np.ones(4, "f")}),
    (17, "ConvTranspose", {"strides": [2, 3], "output_padding": [1, 2]}, S4, {"w": filters(6, 4, 3, 3)["w"]}),
    (17, "ConvTranspose", {"group": 2, "dilations": [2, 1]}, S4, {"w": filters(6, 4, 3, 3)["w"]}),
    (17, "ConvTranspose", {"strides": [2, 2], "output_shape": [22, 20]}, S4, {"w": filters(6, 4, 3, 3)["w"]}),
    (17, "MaxPool", {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 0, 0, 1]}, S4, {}),
    (17, "MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, S4, {}),
    (17, "MaxPool", {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1, "pads": [1, 1, 1, 1]}, S4, {}),
    (17, "MaxPool", {"kernel_shape": [2, 2], "dilations": [3, 2]}, S4, {}),
    (17, "MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, S4, {}),
    (17, "MaxPool", {"kernel_shape": [3], "strides": [2]}, (2, 6, 9), {}),
    (7, "AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, S4, {}),
    (17, "AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, S4, {}),
    (19, "AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, S4, {}),
    (19, "AveragePool", {"kernel_shape": [2, 2], "dilations": [2, 3]}, S4, {}),
    (17, "AveragePool", {"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER"}, S4, {}),
    (17, "LpPool", {"kernel_shape": [2, 3], "p": 2}, S4, {}),
    (17, "GlobalAveragePool", {}, S4, {}),
    (17, "GlobalMaxPool", {}, S4, {}),
    (17, "GlobalAveragePool", {}, (2, 3, 5), {}),
    (17, "LRN", {"size": 5, "alpha": 0.3, "beta": 0.7, "bias": 1.5}, S4, {}),
    (9, "LRN", {"size": 3}, S4, {}),
    (9, "BatchNormalization", {"epsilon": 1e-3}, S4, PARAMETERS),
    (17, "BatchNormalization", {}, S4, PARAMETERS),
    (17, "InstanceNormalization", {}, S4, {"s": PARAMETERS["s"], "b": PARAMETERS["b"]}),
    (17, "InstanceNormalization", {}, (2, 6, 9), {"s": PARAMETERS["s"], "b": PARAMETERS["b"]}),
    (17, "LayerNormalization", {}, (3, 5, 6), {"s": PARAMETERS["s"], "b": PARAMETERS["b"]}),
    (17, "LayerNormalization", {"axis": 1}, (3, 5, 6), random({"s": (5, 6), "b": (5, 6)})),
    (9, "Softmax", {}, (3, 4, 5), {}),
    (9, "Softmax", {"axis": 2}, (3, 4, 5), {}),
    (9, "Softmax", {"axis": 1}, (3, 7, 1, 1), {}),
    (13, "Softmax", {}, (3, 4, 5), {}),
    (13, "Softmax", {"axis": 1}, (3, 4, 5), {}),
    (13, "LogSoftmax", {"axis": 1}, (3, 4, 5), {}),
    (9, "LogSoftmax", {"axis": 1}, (3, 4, 5), {}),
    (17, "Gemm", {"alpha": 0.5, "beta": 2.0, "transB": 1}, (3, 7), random({"w": (5, 7), "b": (5,)})),
    (17, "Gemm", {"transA": 1}, (7, 3), random({"w": (7, 5)})),
    (17, "MatMul", {}, (2, 3, 4, 7), random({"w": (3, 7, 5)})),
    (17, "MatMul", {}, (7,), random({"w": (3, 7, 5)})),
    (17, "MatMul", {}, (3, 4, 7), random({"w": (7,)})),
    (17, "MatMul", {}, (7,), random({"w": (7,)})),
    (9, "Sum", {}, (3, 4), random({"a": (4,), "b": (3, 1)})),
    (17, "Mean", {}, (3, 4), random({"a": (4,), "b": (3, 1)})),
    (17, "Max", {}, (3, 4), random({"a": (4,)})),
    (17, "Min", {}, (3, 4), random({"a": (4,), "b": (3, 1)})),
    (17, "Pow", {}, (3, 4), ints(p=[2])),
    (9, "Clip", {"min": -0.5}, (3, 4), {}),
    (9, "Clip", {"min": -0.5, "max": 0.5}, (3, 4), {}),
    (17, "Clip", {}, (3, 4), {"lo": np.float32(-0.5), "hi": np.float32(0.25)}),
    (17, "LeakyRelu", {"alpha": 0.2}, (3, 4), {}),
    (17, "PRelu", {}, (2, 6, 5), random({"s": (6, 1)})),
    (17, "Elu", {"alpha": 0.7}, (3, 4), {}),
    (17, "Selu", {}, (3, 4), {}),
    (17, "HardSigmoid", {"alpha": 0.3}, (3, 4), {}),
    (17, "HardSwish", {}, (3, 4), {}),
    (17, "ThresholdedRelu", {"alpha": 0.4}, (3, 4), {}),
    (18, "Mish", {}, (3, 4), {}),
    (20, "Gelu", {}, (3, 4), {}),
    (20, "Gelu", {"approximate": "tanh"}, (3, 4), {}),
    *((17, op, {}, (3, 4, 5), {}) for op in ("Relu", "Sigmoid", "Tanh", "Erf", "Softplus", "Softsign", "Sign", "Neg")),
    *(
        (17, op, {}, (3, 4, 5), {})
        for op in ("Abs", "Ceil", "Cos", "Exp", "Floor", "Reciprocal", "Round", "Sin", "Tan")
    ),
    *((17, op, {}, (3, 4), random({"b": (4,)})) for op in ("Add", "Sub", "Mul", "Div", "Equal", "Less", "Greater")),
    *((17, op, {}, (3, 4), random({"b": (4,)})) for op in ("LessOrEqual", "GreaterOrEqual")),
    (17, "IsNaN", {}, (3, 4), {}),
    (17, "IsInf", {"detect_negative": 0}, (3, 4), {}),
    (17, "Cast", {"to": TensorProto.INT32}, (3, 4), {}),
    (17, "Cast", {"to": TensorProto.BOOL}, (3, 4), {}),
    (17, "Cast", {"to": TensorProto.FLOAT16}, (3, 4), {}),
    (17, "Reshape", {}, (3, 4, 5), ints(s=[0, -1])),
    (17, "Flatten", {}, (3, 4, 5), {}),
    (17, "Flatten", {"axis": 0}, (3, 4, 5), {}),
    (17, "Flatten", {"axis": -1}, (3, 4, 5), {}),
    (9, "Squeeze", {"axes": [1]}, (3, 1, 5, 1), {}),
    (17, "Squeeze", {}, (3, 1, 5, 1), {}),
    (17, "Squeeze", {}, (3, 1, 5, 1), ints(a=[-1])),
    (9, "Unsqueeze", {"axes": [0, 2]}, (3, 5), {}),
    (17, "Unsqueeze", {}, (3, 5), ints(a=[-1, 0])),
    (17, "Transpose", {}, (3, 4, 5), {}),
    (17, "Transpose", {"perm": [1, 0, 2]}, (3, 4, 5), {}),
    (17, "Concat", {"axis": -1}, (3, 4), random({"b": (3, 5)})),
    (9, "Slice", {"starts": [1, -3], "ends": [100, -1], "axes": [0, 2]}, (3, 4, 5), {}),
    (17, "Slice", {}, (3, 9), ints(s=[1], e=[8], a=[1], t=[3])),
    (9, "Pad", {"pads": [0, 1, 2, 0], "value": 1.5}, (3, 4), {}),
    (17, "Pad", {"mode": "reflect"}, (3, 4), ints(p=[1, 2, 0, 3])),
    (18, "Pad", {"mode": "edge"}, (3, 4), ints(p=[2, 1])),
    (17, "Pad", {}, (3, 4), ints(p=[-1, 1, 0, -1])),
    (17, "Expand", {}, (3, 1), ints(s=[2, 1, 4])),
    (17, "Tile", {}, (3, 2), ints(r=[2, 3])),
    (17, "Gather", {"axis": 1}, (3, 5), {"i": np.array(2, I64)}),
    (17, "Gather", {}, (3, 5), ints(i=[1, 2])),
    (17, "Tile", {}, (3, 2, 5), ints(r=[1, 4, 2])),
    (17, "Trilu", {}, (2, 3, 5), {}),
    (17, "Trilu", {"upper": 0}, (4, 5), {"k": np.array(-1, I64)}),
    (17, "Gather", {"axis": -1}, (3, 5), ints(i=[4, -5, 1, 1])),
    (17, "Gather", {}, (3, 5), {"i": np.array([[2, 0], [0, -1]], I64)}),
    (17, "GatherElements", {"axis": 1}, (3, 5), {"i": np.array([[4, -5], [1, 1]], I64)}),
    (17, "GatherND", {}, (3, 5, 2), {"i": np.array([[2, 0], [0, -1], [1, 1]], I64)}),
    (17, "ScatterElements", {"axis": 1}, (2, 5), {"i": np.array([[4, 0], [1, -1]], I64), **random({"u": (2, 2)})}),
    (17, "ScatterND", {}, (3, 5), {"i": np.array([[2], [0]], I64), **random({"u": (2, 5)})}),
    *((17, f"Arg{k}", {"axis": -1}, (3, 4, 5), {}) for k in ("Max", "Min")),
    (17, "ArgMax", {"keepdims": 0, "axis": 1}, (3, 4, 5), {}),
    (17, "CumSum", {}, (3, 4, 5), {"a": np.array(1, I64)}),
    (17, "CumSum", {"exclusive": 1, "reverse": 1}, (3, 4, 5), {"a": np.array(-1, I64)}),
    (9, "Upsample", {}, (1, 2, 3, 5), {"s": np.array([1, 1, 2, 3], np.float32)}),
    (7, "Upsample", {"scales": [1.0, 1.0, 2.0, 2.0]}, (1, 2, 3, 5), {}),
    (10, "Resize", {}, (1, 2, 3, 5), {"s": np.array([1, 1, 2, 3], np.float32)}),
    (17, "Resize", {}, (1, 2, 3, 5), {"": np.zeros(0), "s": np.array([1, 1, 2, 3], np.float32)}),
    (17, "Resize", {"mode": "linear"}, (1, 2, 4, 6), {"": np.zeros(0), "s": np.array([1, 1, 2, 0.5], np.float32)}),
    (17, "Resize", {"mode": "linear"}, (1, 2, 4, 5), {"": np.zeros(0), " ": np.zeros(0), **ints(s=[1, 2, 7, 3])}),
    (17, "Resize", {"mode": "linear"}, (4, 5), {"": np.zeros(0), "s": np.array([2, 1], np.float32)}),
    (
        17,
        "Resize",
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        (1, 2, 3, 5),
        {"": np.zeros(0), "s": np.array([1, 1, 2, 2], np.float32)},
    ),
    (17, "DepthToSpace", {"blocksize": 2}, (2, 8, 3, 5), {}),
    (17, "DepthToSpace", {"blocksize": 2, "mode": "CRD"}, (2, 8, 3, 5), {}),
    (17, "SpaceToDepth", {"blocksize": 2}, (2, 3, 4, 6), {}),
    (17, "Dropout", {}, (3, 4), {}),
    (17, "Identity", {}, (3, 4), {}),
    *((17, f"Reduce{k}", {"axes": [1, -1]}, (3, 4, 5), {}) for k in ("L1", "L2", "LogSumExp", "Max", "Mean", "Min")),
    *((17, f"Reduce{k}", {"keepdims": 0}, (3, 4, 5), {}) for k in ("Prod", "SumSquare", "Mean")),
    (11, "ReduceSum", {"axes": [1]}, (3, 4, 5), {}),
    (13, "ReduceSum", {"keepdims": 0}, (3, 4, 5), ints(a=[0, 2])),
    (18, "ReduceMax", {}, (3, 4, 5), ints(a=[-2])),
    (18, "ReduceMean", {"noop_with_empty_axes": 1}, (3, 4, 5), {}),
    (10, "QuantizeLinear", {}, (3, 4), {"s": np.float32(0.02)}),
    (13, "QuantizeLinear", {}, (3, 4), {"s": np.float32(0.01), "z": np.int8(3)}),
    (13, "QuantizeLinear", {"axis": -1}, (2, 3, 4), {"s": STEPS[:4], "z": np.array([0, 9, 128, 255], np.uint8)}),
    (19, "QuantizeLinear", {}, (2, 3, 4), {"s": STEPS[:3]}),
    (21, "QuantizeLinear", {"axis": 1, "block_size": 2}, (2, 6), {"s": STEPS.reshape(2, 3)}),
    (21, "QuantizeLinear", {"output_dtype": TensorProto.INT8}, (2, 6), {"s": np.float32(0.01)}),
    (
        21,
        "QuantizeLinear",
        {"axis": 0, "block_size": 3},
        (5, 3),
        {"s": STEPS.reshape(2, 3), "z": np.array([[1, 2, 3], [-4, 5, -6]], np.int8)},
    ),
]


@pytest.mark.parametrize(("opset", "op", "attributes", "shape", "constants"), NODES)
def test_node_matches_onnxruntime(
    opset: int, op: str, attributes: dict[str, Any], shape: Sequence[int], constants: Feeds
) -> None:
    inputs = list(constants)
    if op == "Pad" and opset == 18:  # axes are the fourth input
        constants, inputs = constants | ints(axes=[1]), [*inputs, "", "axes"]
    inputs = [name.strip() for name in inputs]  # blank ones are absent
    constants = {name: a for name, a in constants.items() if name.strip()}
    made = model([node(op, "x", *inputs, **attributes)], {"x": shape}, constants, opset=opset)
    compare(made, random({"x": shape}))


@pytest.mark.parametrize(
    ("op", "attributes", "constants", "text"),
    [
        ("Resize", {"mode": "cubic"}, {"": np.zeros(0), "s": np.array([1, 1, 2, 2], np.float32)}, "cubic"),
        ("Resize", {"nearest_mode": "ceil"}, {"": np.zeros(0), "s": np.array([1, 1, 2, 2], np.float32)}, "ceil"),
        ("Resize", {"mode": "linear"}, {"": np.zeros(0), "s": np.array([1, 1, 1.5, 1], np.float32)}, "parts"),
        ("GatherND", {"batch_dims": 1}, {"i": np.zeros((1, 1), I64)}, "batch_dims"),
        (
            "ScatterElements",
            {"reduction": "add"},
            {"i": np.zeros((1, 2, 3, 5), I64), "u": np.zeros((1, 2, 3, 5), "f")},
            "add",
        ),
        ("ArgMax", {"select_last_index": 1}, {}, "select_last_index"),
    ],
)
def test_what_does_not_map_exactly_is_refused(op: str, attributes: dict[str, Any], constants: Feeds, text: str) -> None:
    made = model(
        [node(op, "x", *constants, **attributes)], {"x": (1, 2, 3, 5)}, {n: a for n, a in constants.items() if n}
    )
    with pytest.raises(UnsupportedError, match=text):
        import_model(made)


@pytest.mark.parametrize("opset", [10, 13, 19, 21])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_dequantize_after_quantize(opset: int, dtype: type[np.integer[Any]]) -> None:
    nodes = [node("QuantizeLinear", "x", "s", "z", outputs=["q"]), node("DequantizeLinear", "q", "s", "z")]
    compare(model(nodes, {"x": (3, 4)}, {"s": np.float32(0.01), "z": dtype(7)}, opset=opset), random({"x": (3, 4)}))


def test_dequantize_weights_of_int32_and_of_blocks() -> None:
    w = np.array([[1, -2, 3], [400000, 5, -6]], np.int32)
    made = model(
        [node("DequantizeLinear", "w", "s", outputs=["d"], axis=0), node("Add", "x", "d")],
        {"x": (2, 3)},
        {"w": w, "s": STEPS[:2]},
    )
    compare(made, random({"x": (2, 3)}))
    bytes_ = np.arange(-10, 10, dtype=np.int8).reshape(4, 5)
    constants = {"w": bytes_, "s": STEPS[:4].reshape(2, 2), "z": np.array([[1, -2], [3, 100]], np.int8)}
    blocked = node("DequantizeLinear", "w", "s", "z", outputs=["d"], axis=1, block_size=3)
    with pytest.raises(ModelError, match=r"the shape \[2, 2\], blocks of 3 need \[4, 2\]"):
        import_model(model([blocked, node("Add", "x", "d")], {"x": (4, 5)}, constants, opset=21))
    constants |= {"s": np.abs(random({"s": (4, 2)})["s"]), "z": np.arange(8, dtype=np.int8).reshape(4, 2)}
    compare(model([blocked, node("Add", "x", "d")], {"x": (4, 5)}, constants, opset=21), random({"x": (4, 5)}))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("raw", [True, False])
def test_weights_of_4_bits(signed: bool, raw: bool) -> None:
    """An odd number of them, as an initializer and in a Constant node; and activations that become such."""
    kind = TensorProto.INT4 if signed else TensorProto.UINT4
    values = np.arange(15).reshape(3, 5) - (8 if signed else 0)
    w = helper.make_tensor("w", kind, (3, 5), values.reshape(-1).tolist())
    z = helper.make_tensor("z", kind, (3,), [1, 2, 3])
    if raw:
        packed = pack_nibbles(values.astype(np.int8)).tobytes()
        w = helper.make_tensor("w", kind, (3, 5), packed, raw=True)
    nodes = [
        node("Constant", outputs=["z"], value=z),
        node("DequantizeLinear", "w", "s", "z", outputs=["d"], axis=0),
        node("QuantizeLinear", "x", "one", outputs=["q"], output_dtype=kind),
        node("DequantizeLinear", "q", "one", outputs=["r"], name="activations"),
        node("Add", "r", "d"),
    ]
    made = model(nodes, {"x": (3, 5)}, {"s": STEPS[:3], "one": np.float32(0.25)}, opset=21)
    made.graph.initializer.append(w)
    made.ir_version = 10
    compare(made, {"x": random({"x": (3, 5)})["x"] * 3})


@pytest.mark.parametrize(
    ("op", "attributes", "constants", "text"),
    [
        ("QuantizeLinear", {}, {"s": STEPS[:2]}, r"the shape \[2\], axis 1 3 elements"),
        ("QuantizeLinear", {"output_dtype": TensorProto.INT8}, {"s": STEPS[:1], "z": np.zeros(1, np.uint8)}, "int8"),
        ("QuantizeLinear", {"output_dtype": TensorProto.INT16}, {"s": STEPS[:1]}, "int16"),
        ("QuantizeLinear", {"axis": 5}, {"s": STEPS[:3]}, "axis 5"),
    ],
)
def test_quantisation_that_is_wrong_or_not_supported(
    op: str, attributes: dict[str, Any], constants: Feeds, text: str
) -> None:
    with pytest.raises((ModelError, UnsupportedError), match=text):
        import_model(model([node(op, "x", *constants, **attributes)], {"x": (2, 3)}, constants, opset=21))


def test_split_in_its_three_forms() -> None:
    outputs = ["p", "q"]
    feeds = random({"x": (3, 7)})
    old = node("Split", "x", outputs=outputs, axis=1, split=[3, 4])
    compare(model([old], {"x": (3, 7)}, outputs=outputs, opset=11), feeds)
    new = node("Split", "x", "s", outputs=outputs, axis=-1)
    compare(model([new], {"x": (3, 7)}, ints(s=[5, 2]), outputs), feeds)
    even = node("Split", "x", outputs=outputs, axis=1, num_outputs=2)
    compare(model([even], {"x": (3, 7)}, outputs=outputs, opset=18), feeds)


def test_where_and_logic() -> None:
    nodes = [
        node("Greater", "x", "z", outputs=["a"]),
        node("Less", "x", "one", outputs=["b"]),
        node("And", "a", "b", outputs=["c"]),
        node("Not", "c", outputs=["d"]),
        node("Xor", "d", "a", outputs=["e"]),
        node("Or", "e", "c", outputs=["f"]),
        node("Where", "f", "x", "z", outputs=["y"]),
    ]
    constants = {"z": np.float32(0), "one": np.ones(4, np.float32)}
    compare(model(nodes, {"x": (3, 4)}, constants, outputs=("y", "f")), random({"x": (3, 4)}))


# the backend tests of ONNX -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.sample
@pytest.mark.filterwarnings("ignore")
def test_onnx_backend_node_tests() -> None:
    """ONNX's own tests of single ops (with their expected results): each imports and agrees, or is refused.

    Operands other than the first that choose shapes and axes are made constants, as they are in real models."""
    from onnx.backend.test.case.node import collect_testcases

    agreed, wrong = 0, []
    for case in collect_testcases(None):
        inputs, wanted = case.data_sets[0]
        if any(getattr(a, "dtype", None) is None for a in (*inputs, *wanted)):
            continue  # sequences and optionals
        made = case.model
        names = [i.name for i in made.graph.input]
        if made.graph.node[0].op_type not in ("And", "Or", "Xor", "Where"):
            chosen = [(n, a) for n, a in list(zip(names, inputs))[1:] if a.dtype in (np.int64, np.bool_)]
            made.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in chosen)
        try:
            graph = import_model(made)
        except UnsupportedError:
            continue
        feeds = {n: a.astype(np.uint8) if a.dtype == np.bool_ else np.asarray(a) for n, a in zip(names, inputs)}
        got = interpret(graph, {v.name: feeds[v.name] for v in graph.inputs})
        for y, want in zip(got.values(), wanted, strict=True):
            if y.shape != want.shape or not np.allclose(y, want, rtol=1e-3, atol=1e-5, equal_nan=True):
                wrong.append(case.name)
        agreed += 1
    assert not wrong
    assert agreed >= 745
