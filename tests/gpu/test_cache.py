"""Key/value caches updated in place: decode loops against onnxruntime's growing past, and calls that do not fit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import gpucompile
from benchmarks.zoo import decoders
from gpucompile import InferenceSession, KeyValueCache, Tensor
from gpucompile.errors import ClosedError, InputError, UnsupportedError
from tests.gpu.cache_models import F32, I64, attention, grouped, half, small
from tests.gpu.session_models import Allocations

Feeds = dict[str, np.ndarray]
CAPACITY = 24


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
