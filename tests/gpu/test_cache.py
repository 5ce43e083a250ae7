"""Key/value caches updated in place: decode loops against onnxruntime's with a growing past, and what is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import gpucompile
from benchmarks.zoo import NETWORKS, decoders
from gpucompile import InferenceSession, KeyValueCache, Tensor
from gpucompile.errors import ClosedError, InputError, UnsupportedError
from tests.gpu.session_models import Allocations

Feeds = dict[str, np.ndarray]
F32, F16, I64, I32 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.INT32
CAPACITY = 24


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


class Loop:
    """onnxruntime with a past that grows."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        self.names = [o.name for o in self.session.get_outputs()]
        self.past: Feeds = {}
        for i in self.session.get_inputs():
            if "past" in i.name:
                shape = [d if isinstance(d, int) else {"batch": 1}.get(d, 0) for d in i.shape]
                self.past[i.name] = np.zeros(shape, np.float16 if "16" in i.type else np.float32)
        self.length = 0

    def run(self, feeds: Feeds) -> Feeds:
        out = dict(zip(self.names, self.session.run(None, {**feeds, **self.past})))
        self.past = {name: out[name.replace("past_key_values", "present")] for name in self.past}
        self.length += feeds["input_ids"].shape[1]
        return out


def feeds_of(ids: np.ndarray, length: int) -> Feeds:
    """What a step with `length` earlier tokens takes, besides the past."""
    count = ids.shape[1]
    return {
        "input_ids": ids,
        "position_ids": np.arange(length, length + count)[None],
        "attention_mask": np.ones((1, length + count), np.int64),
    }


@pytest.fixture
def opened(device: Any) -> Iterator[Callable[..., InferenceSession]]:
    sessions = []

    def open_session(model: Any, **options: Any) -> InferenceSession:
        sessions.append(InferenceSession(model, providers=[("webgpu", {"device": device})], **options))
        return sessions[-1]

    yield open_session
    for session in sessions:
        session.close()


# decoding ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("halves", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["f32", "f16"])
@pytest.mark.parametrize("name", ["gpt2_with_positions", "llama"])
def test_a_decode_loop_equals_onnxruntimes(
    opened: Any, device: Any, name: str, halves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt, twelve tokens, a second prompt behind them, all in one cache; nothing is allocated after two steps."""
    model = half(small(name)) if halves else small(name)
    session, loop = opened(model, cache_capacity=CAPACITY), Loop(model)
    allocations = Allocations(device, monkeypatch)
    tolerance = 2e-2 if halves else 1e-5
    with session.create_cache() as cache:
        assert cache.capacity == CAPACITY and cache.length == 0
        ids = np.random.default_rng(0).integers(1, 200, (1, 5))
        for step in range(14):
            allocations.forget()
            (logits,) = session.run(["logits"], feeds_of(ids, cache.length), cache=cache)
            want = loop.run(feeds_of(ids, loop.length))
            assert step < 2 or step == 13 or not allocations.made
            assert cache.length == loop.length
            np.testing.assert_allclose(logits, want["logits"], atol=tolerance * np.abs(want["logits"]).max())
            np.testing.assert_allclose(cache.numpy("present.1.key"), want["present.1.key"], atol=5 * tolerance)
            ids = want["logits"][:, -1:].argmax(-1) if step != 12 else ids.repeat(5, 1)
        assert session.memory()["states"] == cache.nbytes


def test_a_cache_of_float16(opened: Any, device: Any) -> None:
    """Tokens share words of 32 bits with their neighbours, also where shaders have no float16."""
    model = half(decoders.llama(1, 16, 2, 1, 16, 200, 5e5))
    loop, ids = Loop(model), np.array([[3]])
    bundle = gpucompile.compile(model, dims={"batch": 1, "sequence": 1}, cache=6)
    assert not bundle.plans[0].requires.features
    session = opened(bundle)
    with session.create_cache() as cache:
        for _ in range(4):
            want = loop.run(feeds_of(ids, loop.length))
            (logits,) = session.run(["logits"], feeds_of(ids, cache.length), cache=cache)
            np.testing.assert_allclose(logits, want["logits"], atol=2e-2)
            ids = want["logits"].argmax(-1)
    with pytest.raises(UnsupportedError, match=r"not updated in place .* tokens of float16 must be whole 32-bit words"):
        model = half(decoders.llama(1, 6, 1, 1, 16, 200, 5e5))
        gpucompile.compile(model, dims={"batch": 1, "sequence": 1}, cache=6)


def test_precision_f16_leaves_the_cache_its_type(device: Any) -> None:
    """Weights and activations in float16, the cache in place and as float32 as its inputs say."""
    model, target = small("llama"), gpucompile.Target.of(device.adapter)
    bundle = gpucompile.compile(model, target, {"batch": 1, "sequence": 1}, precision="f16", cache=CAPACITY)
    assert len(bundle.plans[0].states) == 4
    loop, ids = Loop(model), np.array([[3]])
    with InferenceSession(bundle, providers=[("webgpu", {"device": device})]) as session:
        cache = session.create_cache()
        for _ in range(3):
            want = loop.run(feeds_of(ids, loop.length))["logits"]
            (logits,) = session.run(["logits"], feeds_of(ids, cache.length), cache=cache)
            np.testing.assert_allclose(logits, want, atol=2e-2 * np.abs(want).max())
            ids = want.argmax(-1)


def test_two_conversations(opened: Any) -> None:
    model = small("llama")
    session, loops = opened(model, cache_capacity=CAPACITY), [Loop(model), Loop(model)]
    caches = [session.create_cache(), session.create_cache()]
    rng = np.random.default_rng(1)
    for step in range(6):
        for cache, loop in zip(caches, loops):
            ids = rng.integers(1, 200, (1, 1 if step else 5))
            (logits,) = session.run(["logits"], feeds_of(ids, cache.length), cache=cache)
            np.testing.assert_allclose(logits, loop.run(feeds_of(ids, loop.length))["logits"], atol=1e-4)
    first = caches[0].numpy("past_key_values.0.value")
    caches[0].reset(3)  # the first three stay
    assert caches[0].length == 3 and np.array_equal(caches[0].numpy("past_key_values.0.value"), first[:, :, :3])
    ids = np.array([[7]])
    (again,) = session.run(["logits"], feeds_of(ids, 3), cache=caches[0])
    caches[0].reset(3)
    (same,) = asyncio.run(session.run_async(["logits"], feeds_of(ids, 3), cache=caches[0]))
    np.testing.assert_array_equal(same, again)
    caches[0].dispose()
    assert caches[0].disposed and not caches[1].disposed
    with pytest.raises(ClosedError, match="disposed"):
        session.run(["logits"], feeds_of(ids, 4), cache=caches[0])


def test_masks_hide_tokens(opened: Any) -> None:
    """A prompt padded on the left, in a mask as long as the tokens so far and in one over all slots."""
    model = small("gpt2_with_positions")
    session, loop, cache = opened(model, cache_capacity=CAPACITY), Loop(model), None
    cache = session.create_cache()
    ids, hidden = np.random.default_rng(2).integers(1, 200, (1, 5)), np.array([[0, 0, 1, 1, 1]])
    for step in range(3):
        feeds = feeds_of(ids, loop.length)
        feeds["attention_mask"] = np.concatenate((hidden, np.ones((1, step), np.int64)), 1)
        want = loop.run(feeds)["logits"]
        if step == 2:
            feeds["attention_mask"] = np.pad(feeds["attention_mask"], [(0, 0), (0, CAPACITY - cache.length - 1)])
        (logits,) = session.run(["logits"], feeds, cache=cache)
        np.testing.assert_allclose(logits[:, -1], want[:, -1], atol=1e-4)
        ids = want[:, -1:].argmax(-1)


def test_the_loop_stays_on_the_gpu(opened: Any) -> None:
    """The next token by ArgMax in the model, fed back as a tensor; and past and present bound as one tensor."""
    model = small("gpt2_with_positions")
    model.graph.node.append(helper.make_node("ArgMax", ["logits"], ["token"], axis=-1, keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("token", I64, ["batch", "sequence"]))
    loop = Loop(model)
    session = opened(model, cache_capacity=CAPACITY, preferred_output_location={"token": "gpu-buffer"})
    cache = session.create_cache()
    token: Any = np.array([[11]])
    binding = session.io_binding()
    other = session.create_cache()
    for name in session._cached.pairs:
        binding.bind_ortvalue_input(name, other.tensor(name))
        binding.bind_ortvalue_output(name.replace("past_key_values", "present"), other.tensor(name))
    binding.bind_output("logits")
    want = np.array([[11]])
    for step in range(6):
        feeds = {**feeds_of(np.array([[0]]), step), "input_ids": token}
        for name, value in {**feeds, "past_length": np.array(step, np.int32)}.items():
            if name == "attention_mask":
                value = np.ones((1, CAPACITY), np.int64)
            binding.bind_ortvalue_input(name, value)
        session.run_with_iobinding(binding)
        (token,) = session.run(["token"], feeds, cache=cache)
        reference = loop.run(feeds_of(want, step))
        want = reference["token"]
        np.testing.assert_allclose(binding.copy_outputs_to_cpu()[-1], reference["logits"], atol=1e-4)
    assert isinstance(token, Tensor)
    np.testing.assert_array_equal(token.numpy(), want)
    np.testing.assert_array_equal(other.tensor("present.1.key").numpy(), cache.tensor("present.1.key").numpy())


def test_caches_that_models_write_themselves(opened: Any) -> None:
    """TensorScatter, and one tensor as its input and output."""
    shapes = {"past": [2, 3, 8, 4], "update": [2, 3, 2, 4]}
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("TensorScatter", ["past", "update", "at"], ["present"], axis=2, mode="circular")], "scatter",
        [*(value(n, F32, s) for n, s in shapes.items()), value("at", I64, [2])], [value("present", F32, [2, 3, 8, 4])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=10)
    session = opened(model)
    rng = np.random.default_rng(3)
    past = rng.normal(size=shapes["past"]).astype(np.float32)
    feeds = {"update": rng.normal(size=shapes["update"]).astype(np.float32), "at": np.array([3, 7])}
    (want,) = ReferenceEvaluator(model).run(None, {**feeds, "past": past})
    np.testing.assert_array_equal(session.run(None, {**feeds, "past": past})[0], want)
    cache = session.create_cache()
    session.run(None, feeds, cache=cache)
    session.run(None, feeds, cache=cache)
    assert cache.length == 4 and cache.capacity == 8
    tensor = cache.tensor("past")
    (once,) = ReferenceEvaluator(model).run(None, {**feeds, "past": np.zeros_like(past)})
    np.testing.assert_array_equal(tensor.numpy(), once)
    moved = {**feeds, "at": np.array([0, 5])}
    session.run(None, {**moved, "past": tensor}, fetches={"present": tensor})  # in place
    (twice,) = ReferenceEvaluator(model).run(None, {**moved, "past": once})
    np.testing.assert_array_equal(tensor.numpy(), twice)
    (thrice,) = session.run(None, {**feeds, "at": np.array([5, 1]), "past": tensor})  # elsewhere: the input stays
    np.testing.assert_array_equal(tensor.numpy(), twice)
    assert not np.array_equal(thrice, twice)


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


def test_group_query_attention(opened: Any) -> None:
    model = grouped()
    session, loop = opened(model, cache_capacity=12, free_dimension_overrides={"batch": 1}), Loop(model)
    cache = session.create_cache()
    ids = np.array([[3, 14, 15, 9]])
    for _ in range(6):
        feeds = feeds_of(ids, loop.length)
        del feeds["position_ids"]
        want = loop.run(feeds)
        (logits,) = session.run(["logits"], feeds, cache=cache)
        np.testing.assert_allclose(logits, want["logits"], atol=1e-5)
        np.testing.assert_allclose(cache.numpy("present.0.key"), want["present.0.key"], atol=1e-5)
        ids = want["logits"][:, -1:].argmax(-1) % 50
    assert cache.length == 9


# errors --------------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_an_error_before_anything_runs(opened: Any) -> None:
    model = small("llama")
    session = opened(model, cache_capacity=CAPACITY)
    cache = session.create_cache()
    for step in range(CAPACITY):
        session.run(["logits"], feeds_of(np.array([[5]]), step), cache=cache)
    before = cache.numpy("present.0.key")
    one = feeds_of(np.array([[5]]), CAPACITY)
    with pytest.raises(InputError, match=r"has 24 of 24 tokens, 1 more do not fit"):
        session.run(["logits"], one, cache=cache)
    with pytest.raises(InputError, match=r"23 new tokens at once do not fit, a capacity of 24 takes 22"):
        session.run(["logits"], feeds_of(np.ones((1, 23), np.int64), 0), cache=cache)
    np.testing.assert_array_equal(cache.numpy("present.0.key"), before)
    cache.reset()
    with pytest.raises(InputError, match="'past_length' is given, which the cache has"):
        session.run(["logits"], {**one, "past_length": np.array(0, np.int32)}, cache=cache)
    with pytest.raises(InputError, match=r"attention_mask.* is int64\[1, 5\]"):
        session.run(["logits"], {**one, "attention_mask": np.ones((1, 5), np.int64)}, cache=cache)
    assert cache.length == 0
    other = opened(small("gpt2_with_positions"), cache_capacity=CAPACITY)
    with pytest.raises(InputError, match=r"past_key_values\.0\.key' is .* float32\[1, 3, 24, 16\] is wanted"):
        other.run(["logits"], feeds_of(np.array([[5]]), 0), cache=cache)
    with pytest.raises(InputError, match="is missing"):
        session.run(["logits"], feeds_of(np.array([[5]]), 0))  # neither a cache nor pasts
    with pytest.raises(InputError, match="no free dimension of the past"):
        session.create_cache(rows=3)
    with pytest.raises(InputError, match="5 of them cannot be kept"):
        cache.reset(5)
    with pytest.raises(InputError, match=r"past_key_values\.0\.key.* is wanted"):
        two = {name: x.repeat(2, 0) for name, x in feeds_of(np.array([[5]]), 0).items()}
        session.run(["logits"], two, cache=cache)


def test_arrays_in_arrays_out(device: Any) -> None:
    """A bundle without a session: the cache is an input and an output like any other."""
    model = small("llama")
    target = gpucompile.Target.of(device.adapter)
    bundle = gpucompile.compile(model, target, {"batch": 1, "sequence": 5}, cache=KeyValueCache(CAPACITY))
    assert len(bundle.plans[0].states) == 4 and bundle.plans[0].states[0].count == 5
    loop = Loop(model)
    with gpucompile.load(bundle, device=device) as run:
        past = {p.name: np.zeros(p.shape, np.float32) for p in run.inputs if p.name.startswith("past_key")}
        for length in (0, 5, 10):
            feeds = feeds_of(np.arange(length, length + 5)[None], length)
            want = loop.run(feeds)
            mask = np.pad(feeds["attention_mask"], [(0, 0), (0, CAPACITY - 5 - length)])
            kept = {n: a.copy() for n, a in past.items()}
            more = {"attention_mask": mask, "past_length": np.array(length, np.int32)}
            got = run.run({**feeds, **past, **more})
            np.testing.assert_allclose(got["logits"], want["logits"], atol=1e-4)
            assert all(np.array_equal(past[n], a) for n, a in kept.items())
            past = {n: got[n.replace("past_key_values", "present")] for n in past}
        for length in (-1, CAPACITY - 4, 2**31 - 1):
            with pytest.raises(InputError, match=rf"'past_length' is {length}; there is room .* 0 to {CAPACITY - 5} "):
                run.run({**feeds, **past, **more, "past_length": np.array(length, np.int32)})


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


@pytest.mark.parametrize("keep", [0, 2])
def test_a_reset_forgets_what_was_not_finite(opened: Any, keep: int) -> None:
    """A NaN in a slot that is not filled would come out of every sum over the slots."""
    session = opened(attention(), cache_capacity=16)
    cache, other = session.create_cache(batch=2), session.create_cache(batch=2)
    x = np.random.default_rng(6).normal(size=(2, 5, 8)).astype(np.float32)
    for each, first in ((cache, np.where(np.arange(5)[:, None] < 3, x, np.nan)), (other, x)):
        session.run(["y"], {"x": first.astype(np.float32)}, cache=each)
        each.reset(keep)
    found, want = (session.run(["y"], {"x": x[:, :1]}, cache=each)[0] for each in (cache, other))
    assert np.isfinite(want).all()
    np.testing.assert_array_equal(found, want)


def test_what_a_cache_is_not_asked_for(opened: Any) -> None:
    session = opened(attention(), cache_capacity=16)
    cache, x = session.create_cache(), np.ones((1, 3, 8), np.float32)
    session.run(["y"], {"x": x}, cache=cache)
    with pytest.raises(InputError, match=r"reset: a number of tokens to keep is wanted, not 1\.5"):
        cache.reset(1.5)
    with pytest.raises(InputError, match="batch is -1, a size is wanted"):
        session.create_cache(batch=-1)
    with pytest.raises(InputError, match="fetch 'present_0' is given, which the cache has"):
        session.run(["y"], {"x": x}, cache=cache, fetches={"present_0": np.zeros((1, 16, 8), np.float32)})
    assert cache.length == 3
    session.run(["y"], {"x": x}, cache=cache)
