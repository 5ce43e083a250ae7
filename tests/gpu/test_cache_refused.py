"""Models whose past is more than a key/value cache: refused when they are compiled, never silently wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import gpucompile
from benchmarks.zoo import NETWORKS, decoders
from gpucompile import KeyValueCache
from gpucompile.errors import InputError, UnsupportedError
from tests.gpu.cache_models import F32, attention, grouped, small


def test_models_whose_past_is_more_than_a_cache_are_refused() -> None:
    dims = {"batch": 1, "sequence": 1}

    def refused(model: onnx.ModelProto, text: str, cache: Any = 16, error: type[Exception] = UnsupportedError) -> None:
        with pytest.raises(error, match=text):
            gpucompile.compile(model, dims=dims, cache=cache)

    def changed(*nodes: Any, output: tuple[str, list[Any]]) -> onnx.ModelProto:
        model = small("gpt2_with_positions")
        model.graph.node.extend(nodes)
        model.graph.output.append(helper.make_tensor_value_info(output[0], F32, output[1]))
        return model

    refused(small("gpt2"), "depends on the length of the past: the model computes positions")
    total = helper.make_node("ReduceSum", ["present.0.key"], ["total"], keepdims=0)
    refused(changed(total, output=("total", [])), r"reduce_sum .*combines all of them")
    keys = helper.make_node("Mul", ["present.0.key", "present.0.key"], ["squares"])
    refused(changed(keys, output=("squares", [1, 3, "t", 16])), "output 'squares' has the slots as its axis 2")
    past = helper.make_node("ReduceMax", ["past_key_values.0.key"], ["top"], keepdims=0)
    refused(
        changed(past, output=("top", [])), "not just the beginning of one concat with what is new; reduce_max reads"
    )
    refused(small("llama"), "there is no input 'q'", KeyValueCache(16, {"q": "present.0.key"}), InputError)
    refused(small("llama"), "there is no output 'q'", KeyValueCache(16, {"past_key_values.0.key": "q"}), InputError)
    crossed = {"past_key_values.0.key": "present.0.value", "past_key_values.0.value": "present.0.key"}
    refused(
        small("llama"), "'present.0.value' is not 'past_key_values.0.key' with what is new", KeyValueCache(16, crossed)
    )
    with pytest.raises(InputError, match="dims must say how large the free dimension 'batch' is"):
        gpucompile.compile(decoders.llama_block(64, 4, 2, 96, 5e5), dims={"sequence": 1}, cache=16)
    refused(NETWORKS["bert"].build(reduced=True), "no input has the name of a past")
    refused(small("llama"), "a number of tokens, at least 4, not 2", 2, InputError)
    dims["past_sequence"] = 3
    refused(small("llama"), "'past_sequence', which the cache's capacity decides", 16, InputError)
    with pytest.raises(InputError, match="one size at a time"):
        gpucompile.compile(small("llama"), dims={"batch": 1, "sequence": [1, 2]}, cache=16)


def added(*steps: tuple[str, list[str], dict[str, Any]]) -> Callable[[list[Any]], str]:
    """Adds nodes whose results are s0, s1, ..., and names the last one."""

    def add(nodes: list[Any]) -> str:
        nodes += [helper.make_node(op, names, [f"s{i}"], **options) for i, (op, names, options) in enumerate(steps)]
        return f"s{len(steps) - 1}"

    return add


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "steps",
    [
        [("Div", ["T", "eight"], {}), ("Cast", ["s0"], {"to": F32})],
        [("Min", ["T", "axis"], {}), ("Cast", ["s0"], {"to": F32})],
        [("Greater", ["T", "eight"], {}), ("Where", ["s0", "two.f", "one.f"], {})],
        [("Greater", ["T", "zero"], {}), ("Where", ["s0", "two.f", "one.f"], {})],
    ],
    ids=["T // 8", "min(T, 1)", "T > 8", "T > 0"],
)
def test_lengths_that_matter_at_some_length_only_are_refused(steps: Any, count: int) -> None:
    """What is the same for two long pasts, and another for a short one."""
    with pytest.raises(UnsupportedError, match="depends on the length of the past"):
        gpucompile.compile(attention(scale=added(*steps)), dims={"batch": 1, "sequence": count}, cache=16)


def test_constants_that_are_the_same_for_all_slots_but_not_for_all_lengths_are_refused() -> None:
    total = [("Cast", ["total"], {"to": F32}), ("Log", ["s0"], {}), ("Unsqueeze", ["total", "zero"], {})]
    steps = [*total, ("Expand", ["s1", "s2"], {}), ("Mul", ["softmax", "s3"], {})]
    with pytest.raises(UnsupportedError, match="depends on the length of the past"):
        gpucompile.compile(attention(shares=added(*steps)), dims={"batch": 1, "sequence": 1}, cache=16)


@pytest.mark.parametrize(
    "steps",
    [
        [("Div", ["softmax", "softmax"], {})],
        [("Reciprocal", ["scores"], {}), ("Mul", ["softmax", "s0"], {})],
    ],
)
def test_shares_that_are_no_longer_0_are_refused(steps: Any) -> None:
    """0 / 0 and 0 times infinity, in slots that are not filled."""
    with pytest.raises(UnsupportedError, match="sums over them"):
        gpucompile.compile(attention(shares=added(*steps)), dims={"batch": 1, "sequence": 1}, cache=16)


@pytest.mark.parametrize("kind", ["past", "total"])
def test_group_query_attention_with_positions_by_lengths_is_refused(kind: str) -> None:
    model = grouped()
    extra = [
        helper.make_node("Shape", ["past_key_values.0.key"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "two"], ["T"]),
    ]
    by = "T" if kind == "past" else "long"
    extra += [helper.make_node("Gather", ["table", by], ["at"]), helper.make_node("Add", ["qkv", "at"], ["moved"])]
    if kind == "total":
        del extra[:2]
    model.graph.initializer.append(numpy_helper.from_array(np.array(2), "two"))
    nodes = list(model.graph.node)
    nodes[-1].input[0] = "moved"
    nodes[-1:-1] = extra
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    with pytest.raises(UnsupportedError, match="depends on the length of the past"):
        gpucompile.compile(model, dims={"batch": 1, "sequence": 1}, cache=12)
