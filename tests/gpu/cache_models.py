"""Decoders for the tests of key/value caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.zoo import NETWORKS

F32, F16, I64, I32 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.INT32


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 model in float16, its inputs and outputs included."""
    out = onnx.ModelProto.FromString(model.SerializeToString())

    def narrowed(t: onnx.TensorProto) -> None:
        if t.data_type == F32:
            array = np.clip(numpy_helper.to_array(t), -65504, 65504).astype(np.float16)
            t.CopyFrom(numpy_helper.from_array(array, t.name))

    for tensor in out.graph.initializer:
        narrowed(tensor)
    for value in (*out.graph.input, *out.graph.output):
        if value.type.tensor_type.elem_type == F32:
            value.type.tensor_type.elem_type = F16
    for node in out.graph.node:
        for a in node.attribute:
            if a.name == "value":
                narrowed(a.t)
            elif node.op_type == "Cast" and a.i == F32:
                a.i = F16
    return out


def small(name: str) -> onnx.ModelProto:
    return NETWORKS[name].build(reduced=True)


def grouped(heads: int = 4, groups: int = 2, head: int = 16) -> onnx.ModelProto:
    """GroupQueryAttention as exporters for text generation write it, the lengths summed from the mask."""
    value, rng = helper.make_tensor_value_info, np.random.default_rng(4)
    tables = [f(np.outer(np.arange(64), np.ones(head // 2) / 9)).astype(np.float32) for f in (np.cos, np.sin)]
    width, constants = (heads + 2 * groups) * head, {"one": np.array(1), "axis": np.array([1])}
    constants |= {"table": rng.normal(size=(50, width)).astype(np.float32), "cosine": tables[0], "sine": tables[1]}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["qkv"]),
        helper.make_node("ReduceSum", ["attention_mask", "axis"], ["sums"], keepdims=0),
        helper.make_node("Sub", ["sums", "one"], ["last"]),
        helper.make_node("Cast", ["last"], ["seqlens"], to=I32),
        helper.make_node("Shape", ["attention_mask"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["long"]),
        helper.make_node("Cast", ["long"], ["total"], to=I32),
        helper.make_node(
            "GroupQueryAttention",
            ["qkv", "", "", "past_key_values.0.key", "past_key_values.0.value", "seqlens", "total", "cosine", "sine"],
            ["logits", "present.0.key", "present.0.value"], domain="com.microsoft", num_heads=heads,
            kv_num_heads=groups, do_rotary=1,
        ),
    ]  # fmt: skip
    inputs = [value("input_ids", I64, ["batch", "sequence"]), value("attention_mask", I64, ["batch", "total_sequence"])]
    caches = {f"{e}.0.{k}": [1, groups, n, head] for e, n in (("past_key_values", "past_sequence"), ("present", "all"))
              for k in ("key", "value")}  # fmt: skip
    ports = [value(n, F32, s) for n, s in caches.items()]
    outputs = [value("logits", F32, ["batch", "sequence", heads * head]), *ports[2:]]
    stored = [numpy_helper.from_array(a, n) for n, a in constants.items()]
    graph = helper.make_graph(nodes, "grouped", [*inputs, *ports[:2]], outputs, stored)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def attention(
    scale: Callable[[list[Any]], str] | None = None, shares: Callable[[list[Any]], str] | None = None
) -> onnx.ModelProto:
    """One head over [batch, tokens, 8]. `scale` adds nodes that say what the query is multiplied with, in which "T" is
    the length of the past, "total" that of past and new tokens; `shares` nodes that make of "softmax" what is summed
    with."""
    value, rng, width = helper.make_tensor_value_info, np.random.default_rng(5), ["batch", "sequence", 8]
    node = helper.make_node
    stored = {f"w{i}": rng.normal(size=(8, 8)).astype(np.float32) / 2 for i in range(3)}
    stored |= {"axis": np.array(1), "last": np.array([1]), "zero": np.array(0), "eight": np.array(8)}
    stored |= {"one.f": np.array(1, np.float32), "two.f": np.array(2, np.float32)}
    nodes = [
        node("Shape", ["past_0"], ["shape.past"]), node("Gather", ["shape.past", "axis"], ["T"]),
        node("Shape", ["x"], ["shape.x"]), node("Gather", ["shape.x", "axis"], ["S"]),
        node("Add", ["T", "S"], ["total"]),
        *(node("MatMul", ["x", f"w{i}"], [name]) for i, name in enumerate(("query", "key", "value"))),
    ]  # fmt: skip
    query = scale(nodes) if scale else "one.f"
    nodes += [
        node("Mul", ["query", query], ["scaled"]), node("Concat", ["past_0", "key"], ["present_0"], axis=1),
        node("Concat", ["past_1", "value"], ["present_1"], axis=1),
        node("Transpose", ["present_0"], ["keys"], perm=[0, 2, 1]), node("MatMul", ["scaled", "keys"], ["scores"]),
        node("Softmax", ["scores"], ["softmax"], axis=-1),
    ]  # fmt: skip
    taken = shares(nodes) if shares else "softmax"
    nodes.append(node("MatMul", [taken, "present_1"], ["y"]))
    ports = [value(f"{e}_{i}", F32, ["batch", e, 8]) for e in ("past", "present") for i in (0, 1)]
    graph = helper.make_graph(
        nodes, "attention", [value("x", F32, width), *ports[:2]], [value("y", F32, width), *ports[2:]],
        [numpy_helper.from_array(a, n) for n, a in stored.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
