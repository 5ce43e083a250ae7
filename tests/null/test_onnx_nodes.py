"""The importer op by op: each node's result, by the oracle, is onnxruntime's or the one ONNX's own tests expect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from gpucompile.errors import ModelError, UnsupportedError
from gpucompile.frontends.onnx.importer import import_model
from gpucompile.runtime.nibbles import pack_nibbles
from tests.null.onnx_models import I64, Feeds, compare, ints, model, node, random

S4 = (2, 6, 11, 10)


def filters(*shape: int) -> Feeds:
    return {"w": random({"w": shape}, 1)["w"], "b": random({"b": (shape[0],)}, 2)["b"]}


PARAMETERS = {n: np.abs(a) + 0.5 for n, a in random({"s": (6,), "b": (6,), "m": (6,), "v": (6,)}, 3).items()}

SCALES = np.array([1, 1, 2, 2], np.float32)
E = np.zeros(0, np.float32)  # an absent operand
U = np.ones((1, 2, 3, 5), np.float32)
NONE = np.zeros((1, 2, 3, 5), I64)


def resize(scales: Sequence[float] = (), sizes: Sequence[int] = ()) -> Feeds:
    """The operands of Resize after the first."""
    given = {"s": np.array(scales, np.float32)} if scales else {" ": E, "t": np.array(sizes, I64)}
    return {"": E, **given}


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
    *(
        (19, "Resize", {"mode": mode, "coordinate_transformation_mode": where, **more}, (1, 2, 4, 5), sizes)
        for mode, more in (("nearest", {}), ("linear", {}), ("cubic", {}), ("cubic", {"exclude_outside": 1}))
        for where in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
        for sizes in (resize(sizes=(1, 2, 7, 3)), resize((1, 1, 2.3, 0.6)))
        # ONNX's definition and onnxruntime differ where both meet: which size is it, the whole one or scale * extent?
        if where != "align_corners" or " " in sizes
    ),
    *((19, "Resize", {"nearest_mode": m}, (1, 2, 4, 5), resize((1, 1, 0.7, 2.5))) for m in ("floor", "ceil")),
    (18, "Resize", {"mode": "linear", "antialias": 1}, (1, 2, 8, 9), resize(sizes=(1, 2, 3, 4))),
    (17, "Conv", {"pads": [1, 0, 2, 0, 1, 1]}, (2, 4, 5, 6, 7), filters(3, 4, 2, 3, 3)),
    (17, "Conv", {"strides": [2, 1, 2], "dilations": [2, 1, 1], "group": 2}, (1, 4, 7, 6, 5), filters(6, 2, 2, 3, 2)),
    (17, "ConvTranspose", {"pads": [1, 0, 1, 0, 1, 1]}, (1, 4, 3, 4, 5), {"w": filters(4, 3, 3, 2, 3)["w"]}),
    (
        17,
        "ConvTranspose",
        {"strides": [2, 3, 1], "output_padding": [1, 2, 0], "group": 2, "dilations": [2, 1, 1]},
        (2, 4, 3, 4, 5),
        {"w": filters(4, 3, 2, 3, 2)["w"]},
    ),
    *(
        (
            19,
            f"{kind}Pool",
            {"kernel_shape": [2, 3, 2], "pads": [1, 0, 1, 0, 1, 0], "strides": [2, 1, 2]},
            (1, 3, 5, 6, 7),
            {},
        )
        for kind in ("Max", "Average")
    ),
    (19, "AveragePool", {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [2, 2], "ceil_mode": 1}, S4, {}),
    (19, "AveragePool", {"kernel_shape": [2, 2, 2], "pads": [1] * 6, "count_include_pad": 1}, (1, 2, 4, 5, 6), {}),
    (18, "LpPool", {"kernel_shape": [2, 3], "p": 3, "pads": [1, 0, 0, 1]}, S4, {}),
    (17, "GlobalLpPool", {"p": 3}, S4, {}),
    *((17, op, {}, (3, 4), {}) for op in ("Sinh", "Cosh", "Asinh", "Atan")),
    (17, "Shrink", {"bias": 0.2, "lambd": 0.7}, (3, 4), {}),
    (17, "Celu", {"alpha": 0.6}, (3, 4), {}),
    (17, "Hardmax", {"axis": 1}, (3, 4, 5), {}),
    (11, "Hardmax", {"axis": 1}, (3, 4, 5), {}),
    (17, "Mod", {"fmod": 1}, (3, 4), {"b": np.array([0.3, -0.7, 1.1, 2.0], np.float32)}),
    (17, "Slice", {}, (3, 9), ints(s=[-1], e=[-100], a=[1], t=[-2])),
    (17, "Slice", {}, (3, 9), ints(s=[7, 0], e=[1, 2], a=[1, 0], t=[-3, 1])),
    (19, "Pad", {"mode": "wrap"}, (3, 4), ints(p=[1, 2, 0, 3])),
    (17, "Einsum", {"equation": "ij,jk->ik"}, (3, 4), random({"b": (4, 5)})),
    (17, "Einsum", {"equation": "bij, bjk -> bik"}, (2, 3, 4), random({"b": (2, 4, 5)})),
    (17, "Einsum", {"equation": "...ij,...j"}, (2, 3, 4), random({"b": (2, 4)})),
    (17, "Einsum", {"equation": "ii->i"}, (4, 4), {}),
    (17, "Einsum", {"equation": "ijk->j"}, (2, 3, 4), {}),
    (17, "Einsum", {"equation": "bhqd,bhkd->bhqk"}, (2, 3, 4, 5), random({"b": (2, 3, 6, 5)})),
    (17, "GatherND", {"batch_dims": 1}, (3, 5, 2), {"i": np.array([[2], [0], [-1]], I64)}),
    *(
        (
            18,
            "ScatterElements",
            {"axis": 1, "reduction": r},
            (2, 5),
            {"i": np.array([[4, 0, 4], [1, -1, 1]], I64), **random({"u": (2, 3)})},
        )
        for r in ("add", "mul", "max", "min")
    ),
    (
        18,
        "ScatterElements",
        {"axis": 1, "reduction": "add"},
        (3, 5),
        {"i": np.array([[4, 0]], I64), **random({"u": (1, 2)})},
    ),
    (17, "ScatterElements", {"axis": 0}, (4, 5), {"i": np.array([[3, 0]], I64), **random({"u": (1, 2)})}),
    *(
        (18, "ScatterND", {"reduction": r}, (3, 5), {"i": np.array([[2], [0], [2]], I64), **random({"u": (3, 5)})})
        for r in ("add", "mul", "max", "min")
    ),
    (17, "ArgMax", {"select_last_index": 1, "axis": 1}, (3, 4, 5), {}),
    (17, "Compress", {"axis": 1}, (3, 4), {"c": np.array([1, 0, 1], np.bool_)}),
    (17, "LpNormalization", {"axis": 1, "p": 1}, (3, 4), {}),
    (17, "MeanVarianceNormalization", {}, S4, {}),
    (21, "GroupNormalization", {"num_groups": 3}, S4, {"s": PARAMETERS["s"], "b": PARAMETERS["b"]}),
    *(
        (
            16,
            "GridSample",
            {"mode": m, "padding_mode": p, "align_corners": a},
            (2, 3, 4, 5),
            {"g": 1.3 * random({"g": (2, 3, 6, 2)})["g"]},
        )
        for m in ("bilinear", "nearest", "bicubic")
        for p in ("zeros", "border", "reflection")
        for a in (0, 1)
    ),
    (20, "DFT", {}, (2, 7, 1), {}),
    (20, "DFT", {"onesided": 1}, (2, 8, 1), {}),
    (20, "DFT", {"inverse": 1}, (2, 7, 2), {}),
    (17, "STFT", {}, (2, 20, 1), {"s": np.array(3, I64), "w": np.hanning(8).astype(np.float32)}),
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
@pytest.mark.filterwarnings("ignore:output .* has the shape")  # onnx infers some wrong
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
    ("op", "attributes", "constants", "kind", "text"),
    [
        ("Resize", {"mode": "magic"}, {"": E, "s": SCALES}, ModelError, "unknown mode 'magic'"),
        ("Resize", {}, {"": E, "s": SCALES[:2]}, ModelError, "do not suit 4 axes"),
        ("GatherND", {"batch_dims": 1}, {"i": np.zeros((2, 1), I64)}, ModelError, "1 batch dimensions do not suit f32"),
        ("Gather", {"axis": 1}, ints(i=[0, 2]), ModelError, "indices leave the extents [2]"),
        ("ScatterElements", {"reduction": "sub"}, {"i": NONE, "u": U}, ModelError, "unknown reduction 'sub'"),
        ("TopK", {}, ints(k=[6]), ModelError, "k is 6, axis 3 of f32[1,2,3,5] has 5 elements"),
        ("Unsqueeze", {}, ints(a=[1, 1]), ModelError, "axes [1, 1] are not distinct"),
        ("LpNormalization", {"p": 3}, {}, ModelError, "p is 3, it must be 1 or 2"),
        ("Split", {"axis": 3}, ints(s=[2, 2]), ModelError, "cannot split axis 3 of f32[1,2,3,5] into [2, 2]"),
        ("Einsum", {"equation": "abcd->q"}, {}, ModelError, "equation"),
        ("GridSample", {}, {"g": np.zeros((1, 2, 2, 3), "f")}, ModelError, "a grid f32[1,2,2,3] does not suit"),
        ("Det", {}, {}, ModelError, "f32[1,2,3,5] is no square matrix"),
        ("Conv", {"auto_pad": "MAGIC"}, {"w": np.ones((1, 2, 1, 1), "f")}, ModelError, "unknown auto_pad 'MAGIC'"),
        ("GroupNormalization", {"num_groups": 4}, {"s": np.ones(2, "f"), "b": U[0, :, 0, 0]}, ModelError, "4 groups"),
    ],
)
def test_malformed_nodes(
    op: str, attributes: dict[str, Any], constants: Feeds, kind: type[Exception], text: str
) -> None:
    made = model(
        [node(op, "x", *constants, **attributes)],
        {"x": (1, 2, 3, 5)},
        {n: a for n, a in constants.items() if n},
        opset=20,
    )
    with pytest.raises(kind) as error:
        import_model(made)
    assert f"{op} 'the {op}': " in str(error.value) and text in str(error.value)


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


@pytest.mark.parametrize("largest", [0, 1])
def test_top_k_with_ties_and_infinities(largest: int) -> None:
    x = np.array([[3, 1, 3, -np.inf, np.inf, 1, 0], [0, 0, 0, -1, -np.inf, -np.inf, 2]], np.float32)
    for k in (1, 3, 7):
        made = model(
            [node("TopK", "x", "k", outputs=["v", "i"], largest=largest)], {"x": (2, 7)}, ints(k=[k]), ("v", "i")
        )
        compare(made, {"x": x})


@pytest.mark.parametrize(
    "attributes", [{}, {"ceil_mode": 1, "strides": [2, 2]}, {"pads": [1, 0, 1, 1]}, {"dilations": [2, 1]}]
)
def test_max_pool_with_indices(attributes: dict[str, Any]) -> None:
    outputs = ["y", "i"]
    made = model([node("MaxPool", "x", outputs=outputs, kernel_shape=[2, 3], **attributes)], {"x": S4}, outputs=outputs)
    compare(made, random({"x": S4}))


@pytest.mark.parametrize("k", [9, 300, 5000])
def test_integer_products_are_exact(k: int) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, s, np.uint8) for s in ((3, k), (k, 4)))
    a[0], b[:, 0] = 255, 255
    constants = {"b": b, "p": np.array(0, np.uint8), "q": np.array(3, np.uint8)}
    made = model([node("MatMulInteger", "x", "b", "p", "q")], {"x": (3, k)}, constants, dtype=TensorProto.UINT8)
    compare(made, {"x": a})


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("op", "attributes", "more"),
    [
        ("RNN", {}, ()),
        ("RNN", {"activations": ["LeakyRelu"], "activation_alpha": [0.2]}, ("lengths", "h")),
        ("GRU", {}, ("lengths", "h")),
        ("GRU", {"linear_before_reset": 1, "clip": 0.5}, ("", "h")),
        ("LSTM", {}, ()),
        ("LSTM", {"clip": 0.4}, ("lengths", "h", "c", "p")),
        ("LSTM", {"input_forget": 1}, ("", "h", "c")),
    ],
)
def test_recurrent_ops(op: str, attributes: dict[str, Any], more: tuple[str, ...], direction: str) -> None:
    d, gates = 2 if direction == "bidirectional" else 1, {"RNN": 1, "GRU": 3, "LSTM": 4}[op]
    if "activations" in attributes:
        attributes = {name: value * d for name, value in attributes.items()}
    shapes = {"w": (d, gates * 4, 3), "r": (d, gates * 4, 4), "b": (d, gates * 8)}
    states = {"h": (d, 2, 4), "c": (d, 2, 4), "p": (d, 12)}
    constants = random({**shapes, **{n: s for n, s in states.items() if n in more}})
    if "lengths" in more:
        constants["lengths"] = np.array([5, 3], np.int32)
    outputs = ["y", "last", "cell"][: 3 if op == "LSTM" else 2]
    made = node(op, "x", "w", "r", "b", *more, outputs=outputs, hidden_size=4, direction=direction, **attributes)
    compare(model([made], {"x": (5, 2, 3)}, constants, outputs), random({"x": (5, 2, 3)}))


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


def test_integers_to_the_power_of_floats() -> None:
    """Whole exponents are exact; what others would give is not an integer."""
    graph = helper.make_graph(
        [node("Pow", "x", "p")],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.INT32, (3,))],
        [helper.make_tensor_value_info("y", TensorProto.INT32, (3,))],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made.graph.initializer.append(numpy_helper.from_array(np.array([2, 3, 0], np.float32), "p"))
    compare(made, {"x": np.array([5001, -7, 9], np.int32)})
    made.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([0.5, 1, 2], np.float32), "p"))
    with pytest.raises(UnsupportedError, match="power of a fraction"):
        import_model(made)
    del made.graph.initializer[:]
    made.graph.input.append(helper.make_tensor_value_info("p", TensorProto.FLOAT, (3,)))
    with pytest.raises(UnsupportedError, match="'p' a value"):
        import_model(made)
