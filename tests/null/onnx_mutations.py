"""Damaged variants of a small ONNX model: bytes, weights, types, attributes, names, nodes, subgraphs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Rng = np.random.Generator
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


# the model ----------------------------------------------------------------------------------------------------------


def small_model() -> onnx.ModelProto:
    """Convolution, normalisation, pooling, shape arithmetic, control flow, a matrix product; about 3 KB."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((4, 2, 3, 3)) / 4,
        "scale": rng.uniform(0.5, 1.5, 4),
        "bias": rng.standard_normal(4),
        "mean": rng.standard_normal(4),
        "variance": rng.uniform(0.5, 1.5, 4),
        "m": rng.standard_normal((6, 5)) / 10,
        "half": np.array([0.5]),
    }
    integers = {
        "zero": np.array(0), "one": np.array(1), "minus": np.array([-1]), "four": np.array([4]), "two": np.array([2]),
        "start": np.array([0]), "end": np.array([9]), "axis": np.array([3]), "twice": np.array([1, 2]),
        "pads": np.array([0, 0, 0, 1, 0, 0, 0, 1]), "trips": np.array(2), "limit": np.array(3),
    }  # fmt: skip
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["going"]), helper.make_node("Add", ["state", "half"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, None),
        ],
    )
    branches = [
        helper.make_graph([helper.make_node(op, ["product"], [f"{op}_out"])], op, [],
                          [helper.make_tensor_value_info(f"{op}_out", FLOAT, None)])
        for op in ("Sigmoid", "Tanh")
    ]  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["conv"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 2]),
        helper.make_node("BatchNormalization", ["conv", "scale", "bias", "mean", "variance"], ["bn"], epsilon=1e-3),
        helper.make_node("Relu", ["bn"], ["relu"]),
        helper.make_node("MaxPool", ["relu"], ["pool"], kernel_shape=[2, 2], strides=[2, 1]),
        helper.make_node("Pad", ["pool", "pads", "half"], ["padded"], mode="constant"),
        helper.make_node("Slice", ["padded", "start", "end", "axis"], ["sliced"]),
        helper.make_node("Shape", ["sliced"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], axis=0),
        helper.make_node("Unsqueeze", ["batch", "start"], ["batch1"]),
        helper.make_node("Concat", ["batch1", "four", "minus"], ["target"], axis=0),
        helper.make_node("Reshape", ["sliced", "target"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["columns"], perm=[0, 2, 1]),
        helper.make_node("ReduceSum", ["columns", "one1"], ["sums"], keepdims=0),
        helper.make_node("Range", ["zero", "limit", "one"], ["counts"]),
        helper.make_node("Cast", ["counts"], ["floats"], to=FLOAT),
        helper.make_node("Expand", ["half", "two"], ["halves"]),
        helper.make_node("Tile", ["sums", "twice"], ["tiled"]),
        helper.make_node("Slice", ["tiled", "start", "two", "one1"], ["pair"]),
        helper.make_node("Mul", ["pair", "halves"], ["scaled"]),
        helper.make_node("Concat", ["scaled", "sums"], ["joined"], axis=1),
        helper.make_node("MatMul", ["joined", "m"], ["product"]),
        helper.make_node("Constant", [], ["condition"], value=yes),
        helper.make_node("If", ["condition"], ["chosen"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Loop", ["trips", "condition", "chosen"], ["looped"], body=body),
        helper.make_node("ReduceMax", ["floats"], ["top"], keepdims=1),
        helper.make_node("Add", ["looped", "top"], ["sum"]),
        helper.make_node("Softmax", ["sum"], ["y"], axis=1),
    ]
    for i, n in enumerate(nodes):
        n.name = f"n{i}"
    data = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()]
    data += [numpy_helper.from_array(a.astype(np.int64), n) for n, a in (*integers.items(), ("one1", np.array([1])))]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", FLOAT, [2, 2, 6, 8])],
        [helper.make_tensor_value_info("y", FLOAT, [2, 5])],
        data,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


# damage -------------------------------------------------------------------------------------------------------------

#: Sizes and numbers that are likely to hurt.
NUMBERS = (0, 1, -1, 2, 3, 7, -2, 100, 65537, 1 << 24, 1 << 31, (1 << 31) - 1, -(1 << 31), 1 << 40, 1 << 62, -(1 << 63))


def _number(rng: Rng) -> int:
    return NUMBERS[rng.integers(len(NUMBERS))]


class NothingLeft(Exception):
    """Earlier damage has removed what is to be damaged."""


def _pick(rng: Rng, items: Any) -> Any:
    if not len(items):
        raise NothingLeft
    return items[int(rng.integers(len(items)))]


def flip_bits(data: bytes, rng: Rng) -> bytes:
    out = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        out[rng.integers(len(out))] ^= 1 << int(rng.integers(8))
    return bytes(out)


def truncate(data: bytes, rng: Rng) -> bytes:
    return data[: rng.integers(1, len(data))]


def cut_out(data: bytes, rng: Rng) -> bytes:
    at = int(rng.integers(len(data)))
    return data[:at] + data[at + int(rng.integers(1, 40)) :]


def repeat_part(data: bytes, rng: Rng) -> bytes:
    at = int(rng.integers(len(data)))
    return data[:at] + data[at : at + int(rng.integers(1, 40))] + data[at:]


def weight_dims(g: onnx.GraphProto, rng: Rng) -> None:
    t = _pick(rng, g.initializer)
    if t.dims and rng.random() < 0.8:
        t.dims[int(rng.integers(len(t.dims)))] = _number(rng)
    else:
        t.dims.append(_number(rng))


def weight_type(g: onnx.GraphProto, rng: Rng) -> None:
    _pick(rng, g.initializer).data_type = int(rng.integers(0, 30))


def weight_size(g: onnx.GraphProto, rng: Rng) -> None:
    t = _pick(rng, g.initializer)
    t.raw_data = t.raw_data[: rng.integers(len(t.raw_data) + 1)] if rng.random() < 0.5 else t.raw_data + b"\x01" * 5


def weight_value(g: onnx.GraphProto, rng: Rng) -> None:
    t = _pick(rng, [t for t in g.initializer if t.data_type == INT64 and len(t.raw_data) >= 8])
    at = 8 * int(rng.integers(len(t.raw_data) // 8))
    t.raw_data = t.raw_data[:at] + _number(rng).to_bytes(8, "little", signed=True) + t.raw_data[at + 8 :]


def weight_outside(g: onnx.GraphProto, rng: Rng) -> None:
    t = _pick(rng, g.initializer)
    t.data_location = TensorProto.EXTERNAL
    for key, value in (("location", _pick(rng, ("missing.bin", "/etc/passwd", "../x", ""))), ("length", "99999999999")):
        t.external_data.add(key=key, value=value)


def weight_name(g: onnx.GraphProto, rng: Rng) -> None:
    _pick(rng, g.initializer).name = _pick(rng, ("", "x", "w", "conv", "\x00", "nothing"))


def input_shape(g: onnx.GraphProto, rng: Rng) -> None:
    shape = g.input[0].type.tensor_type.shape
    choice = rng.integers(4)
    if choice == 0:
        _pick(rng, shape.dim).dim_value = _number(rng)
    elif choice == 1:
        _pick(rng, shape.dim).dim_param = _pick(rng, ("batch", "", "?"))
    elif choice == 2:
        del shape.dim[-1:]
    else:
        shape.dim.add(dim_value=_number(rng))


def input_type(g: onnx.GraphProto, rng: Rng) -> None:
    value = _pick(rng, [*g.input, *g.output])
    value.type.tensor_type.elem_type = int(rng.integers(0, 30))
    if rng.random() < 0.2:
        value.ClearField("type")


def output_name(g: onnx.GraphProto, rng: Rng) -> None:
    if rng.random() < 0.3:
        g.output.add().CopyFrom(g.output[0])
    g.output[0].name = _pick(rng, ("", "nothing", "relu", "x", "w", "counts", "sums", "target"))


def attribute(g: onnx.GraphProto, rng: Rng) -> None:
    node = _pick(rng, [n for n in g.node if n.attribute])
    a = _pick(rng, node.attribute)
    choice = rng.integers(5)
    if choice == 0:
        node.attribute.remove(a)
    elif choice == 1:
        a.type = int(rng.integers(0, 15))
    elif choice == 2:
        a.name = _pick(rng, ("", "axis", "to", "pads", "nothing"))
    elif a.ints:
        if choice == 3:
            a.ints[int(rng.integers(len(a.ints)))] = _number(rng)
        else:
            del a.ints[int(rng.integers(len(a.ints))) :]
    else:
        a.i, a.f = _number(rng), float(_number(rng))


def rename_input(g: onnx.GraphProto, rng: Rng) -> None:
    node = _pick(rng, [n for n in g.node if n.input])
    names = [o for n in g.node for o in n.output] + [t.name for t in g.initializer] + ["x", "", "nothing"]
    node.input[int(rng.integers(len(node.input)))] = _pick(rng, names)


def input_count(g: onnx.GraphProto, rng: Rng) -> None:
    node = _pick(rng, [n for n in g.node if n.input])
    if rng.random() < 0.5:
        del node.input[int(rng.integers(len(node.input))) :]
    else:
        node.input.extend(["w", "x", "m"])


def rename_output(g: onnx.GraphProto, rng: Rng) -> None:
    node = _pick(rng, g.node)
    names = [o for n in g.node for o in n.output]
    if rng.random() < 0.3:
        node.output.append(_pick(rng, [*names, "more"]))
    else:
        node.output[0] = _pick(rng, [*names, "", "x", "w", "nothing"])


def remove_node(g: onnx.GraphProto, rng: Rng) -> None:
    del g.node[int(rng.integers(len(g.node)))]


def shuffle(g: onnx.GraphProto, rng: Rng) -> None:
    nodes = list(g.node)
    del g.node[:]
    g.node.extend(nodes[i] for i in rng.permutation(len(nodes)))


def other_op(g: onnx.GraphProto, rng: Rng) -> None:
    ops = sorted({n.op_type for n in g.node}) + [
        "",
        "Nothing",
        "Conv",
        "Resize",
        "LSTM",
        "Einsum",
        "TopK",
        "NonZero",
        "Split",
    ]
    _pick(rng, g.node).op_type = _pick(rng, ops)


def other_domain(g: onnx.GraphProto, rng: Rng) -> None:
    _pick(rng, g.node).domain = _pick(rng, ("ai.onnx", "com.microsoft", "example", "ai.onnx.ml"))


def subgraph(g: onnx.GraphProto, rng: Rng) -> None:
    inner = _pick(rng, [a.g for n in g.node for a in n.attribute if a.type == onnx.AttributeProto.GRAPH])
    if inner.node:
        damage = (rename_input, input_count, rename_output, remove_node, other_op)
        damage[int(rng.integers(len(damage)))](inner, rng)
    else:
        inner.output.add(name="nothing")


BYTES: tuple[Callable[[bytes, Rng], bytes], ...] = (flip_bits, flip_bits, flip_bits, truncate, cut_out, repeat_part)
GRAPHS: tuple[Callable[[onnx.GraphProto, Rng], None], ...] = (
    weight_dims, weight_type, weight_size, weight_value, weight_value, weight_outside, weight_name, input_shape,
    input_type, output_name, attribute, attribute, rename_input, rename_input, input_count, rename_output, remove_node,
    shuffle, other_op, other_domain, subgraph,
)  # fmt: skip


#: The seed of the model as it is.
WHOLE = -1


def variant(seed: int) -> tuple[str, bytes]:
    """What was done to the model, and its bytes then."""
    if seed == WHOLE:
        return "nothing", small_model().SerializeToString()
    rng = np.random.default_rng([seed, 17])
    model = small_model()
    if rng.random() < 0.3:
        kind = _pick(rng, BYTES)
        return kind.__name__, kind(model.SerializeToString(deterministic=True), rng)
    kinds = [_pick(rng, GRAPHS) for _ in range(int(rng.integers(1, 3)))]
    for kind in kinds:
        with contextlib.suppress(NothingLeft):
            kind(model.graph, rng)
    if rng.random() < 0.03:
        model.opset_import[0].version = _number(rng)
    return " and ".join(k.__name__ for k in kinds), model.SerializeToString(deterministic=True)
