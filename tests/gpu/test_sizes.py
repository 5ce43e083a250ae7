"""Inputs of several sizes: plans for some of them, and plans made when they turn up."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import gpucompile
from gpucompile import BucketExecutable, ClosedError, Device, InputError, compile_dynamic
from gpucompile.plan.bundle import Bundle
from gpucompile.runtime.executable import Pad
from tests.null.onnx_models import model, node
from tests.null.test_sizes import layers

ATOL = 1e-4
WEIGHTS = 4 * (32 * 64 + 64 * 8)  # bytes; twice where kernels for few rows want them transposed


def wanted(x: np.ndarray) -> np.ndarray:
    w, v = (numpy_helper.to_array(t) for t in layers().graph.initializer)
    return np.asarray(np.maximum(x @ w, 0) @ v)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def compiled() -> Bundle:
    return gpucompile.compile(layers(), dims={"batch": [1, 3], "seq": [2, 5, 9]})


@pytest.mark.parametrize("saved", [False, True])
def test_padding_and_cutting(device: Device, compiled: Bundle, tmp_path: Path, saved: bool) -> None:
    source = compiled.save(tmp_path / "model.gpub") if saved else compiled
    with gpucompile.load(source, device, pad="zeros") as run:
        assert isinstance(run, BucketExecutable)
        for shape in [(1, 2), (1, 1), (2, 3), (3, 9), (1, 6), (2, 9), (1, 2)]:
            x = random(*shape, 32)
            np.testing.assert_allclose(run(x), wanted(x), atol=ATOL)
            np.testing.assert_allclose(asyncio.run(run.run_async({"x": x}))["y"], wanted(x), atol=ATOL)
        memory = run.memory()
        assert memory["weight"] in (WEIGHTS, 2 * WEIGHTS)
        assert memory["input"] > run.bucket(batch=3, seq=9).memory()["input"]
    assert run.closed
    with pytest.raises(ClosedError):
        run(random(1, 2, 32))


def test_the_smallest_that_fits(device: Device, compiled: Bundle) -> None:
    with gpucompile.load(compiled, device, pad=0) as run:
        assert isinstance(run, BucketExecutable)
        for shape, index in {(1, 2): 0, (2, 2): 2, (1, 3): 1, (2, 3): 4, (1, 9): 3, (3, 6): 5}.items():
            assert run._choose({"batch": shape[0], "seq": shape[1]}) == index
            dims = run.buckets[index].dims
            assert dims["batch"] >= shape[0] and dims["seq"] >= shape[1]


def test_refusals(device: Device, compiled: Bundle) -> None:
    with gpucompile.load(compiled, device) as run:
        x = random(3, 5, 32)
        np.testing.assert_allclose(run(x), wanted(x), atol=ATOL)
        with pytest.raises(InputError, match=r'no bucket for batch=2, seq=5; there are batch=1, seq=2;.*pad="zeros"'):
            run(random(2, 5, 32))
        with pytest.raises(InputError, match="no bucket has room for batch=4, seq=5"):
            run(random(4, 5, 32))
        with pytest.raises(InputError, match=r"x: float32\[batch, seq, 32\]"):
            run(random(5, 32))
        with pytest.raises(InputError, match="is missing"):
            run.run({})
        with pytest.raises(InputError, match="expected x: float32"):
            run(random(1, 2, 31))
        with pytest.raises(InputError, match="do not tell their shapes"):
            run.dispatch({}, {})
        with pytest.raises(InputError, match="there is no bucket seq=1"):
            run.bucket(seq=1)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("pad", "words"),
    [
        ("ones", "pad must be"),
        ({"z": 1}, "there is no input 'z'"),
        ({"x": "1"}, "must be a number"),
        (None, "pad must be"),
    ],
)
def test_bad_pads(device: Device, compiled: Bundle, pad: Pad, words: str) -> None:
    with pytest.raises(InputError, match=words):
        gpucompile.load(compiled, device, pad=pad)


def test_a_told_value(device: Device) -> None:
    """The sum over the padded axis shows what was put there."""
    made = model(
        [node("ReduceSum", "a", "axes", keepdims=0, outputs=["s"]), node("Mul", "s", "b")],
        {"a": (4, "n"), "b": (4,)}, {"axes": np.array([1], np.int64)},
    )  # fmt: skip
    bundle = gpucompile.compile(made, dims={"n": [8]})
    a, b = random(4, 5), random(4)
    for pad, value in (("zeros", 0.0), (2.5, 2.5), ({"a": -1}, -1.0), ({"b": 7}, 0.0)):
        with gpucompile.load(bundle, device, pad=pad) as run:  # type: ignore[arg-type]
            np.testing.assert_allclose(run(a, b), (a.sum(1) + 3 * value) * b, atol=ATOL)


def test_integers_take_integers_only(device: Device) -> None:
    made = model([node("Add", "x", "x")], {"x": ("n",)}, dtype=onnx.TensorProto.INT32)
    bundle = gpucompile.compile(made, dims={"n": [4]})
    with gpucompile.load(bundle, device, pad=-3) as run:
        np.testing.assert_array_equal(run(np.array([1, 2], np.int32)), [2, 4])
    for value in (0.5, 1 << 40, float("inf"), float("nan")):
        with gpucompile.load(bundle, device, pad=value) as run, pytest.raises(InputError, match="does not fit int32"):
            run(np.array([1, 2], np.int32))


def test_what_cannot_be_cut_is_not_padded(device: Device) -> None:
    bundle = gpucompile.compile(layers(rows=True), dims={"batch": [1, 2], "seq": [4, 8]})
    with gpucompile.load(bundle, device, pad="zeros") as run:
        x = random(2, 8, 32)
        np.testing.assert_allclose(run(x)["rows"], wanted(x).reshape(-1, 8), atol=ATOL)
        with pytest.raises(InputError, match=r"'rows' cannot be cut to it: its axis 0 depends on batch, seq"):
            run(random(2, 7, 32))


def cache() -> onnx.ModelProto:
    """A decoder's cache: what comes is appended to what was."""
    return model([node("Concat", "past", "x", axis=0)], {"past": ("past", 2), "x": (1, 2)})


def test_an_empty_past_and_a_cache_that_grows(device: Device) -> None:
    bundle = gpucompile.compile(cache(), dims={"past": [0, 4]})
    with gpucompile.load(bundle, device, pad="zeros") as run:
        for past in 0, 4:
            p, x = random(past, 2), random(1, 2)
            np.testing.assert_array_equal(run(p, x), np.concatenate([p, x]))
        with pytest.raises(InputError, match=r"axis 0 depends on past .*in the middle of a cache that is appended to"):
            run(random(3, 2), random(1, 2))
    bundle = gpucompile.compile(layers(), dims={"batch": 1, "seq": [4]})
    with gpucompile.load(bundle, device, pad="zeros") as run, pytest.raises(InputError, match="no bucket has room"):
        run(random(1, 0, 32))


def test_booleans_are_taken(device: Device) -> None:
    made = model([node("Not", "x")], {"x": ("n",)}, dtype=onnx.TensorProto.BOOL)
    x = np.array([True, False, True])
    with gpucompile.load(gpucompile.compile(made, dims={"n": [4]}), device, pad="zeros") as run:
        np.testing.assert_array_equal(run(x), [0, 1, 0])
    with gpucompile.load(gpucompile.compile(made, dims={"n": 3}), device) as run:
        np.testing.assert_array_equal(run(x), [0, 1, 0])


# ---------------------------------------------------------------------------------------------- on first use


def mixed() -> onnx.ModelProto:
    """How many elements of relu(x) are not zero, times relu(x): the count is the CPU's."""
    nodes = [
        node("Relu", "x", outputs=["r"]),
        node("NonZero", "r", outputs=["places"]),
        node("Size", "places", outputs=["n"]),
        node("Cast", "n", outputs=["f"], to=onnx.TensorProto.FLOAT),
        node("Mul", "r", "f"),
    ]
    return model(nodes, {"x": ("n",)})


def test_nodes_on_the_cpu_when_sizes_come(device: Device) -> None:
    x = np.array([-1, 2, 3], np.float32)
    with compile_dynamic(mixed(), device, fallback="allow") as run:
        np.testing.assert_array_equal(run(x), [0, 4, 6])
        np.testing.assert_array_equal(run(x[:2]), [0, 2])
        assert run.memory()["weight"] == 0
    with compile_dynamic(mixed(), device) as run, pytest.raises(gpucompile.UnsupportedError, match="NonZero"):
        run(x)


def test_sessions_with_values_compiled_in(device: Device) -> None:
    made = model([node("Reshape", "x", "s")], {"x": ("n", 4)})
    made.graph.input.append(onnx.helper.make_tensor_value_info("s", onnx.TensorProto.INT64, [2]))
    x, constants = random(2, 4), {"s": np.array([4, -1])}
    for n in {}, {"n": 2}:
        with gpucompile.InferenceSession(
            made, providers=[{"name": "webgpu", "device": device}], constants=constants, free_dimension_overrides=n
        ) as session:
            assert [i.name for i in session.get_inputs()] == ["x"]
            np.testing.assert_array_equal(session.run(None, {"x": x})[0], x.reshape(4, 2))
    with compile_dynamic(made, device, constants=constants) as run:
        np.testing.assert_array_equal(run(x), x.reshape(4, 2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_shapes": "8"}, "max_shapes must be an integer"),
        ({"device": "gpu"}, r"device must be a gpucompile\.Device"),
        ({"dims": [1]}, "dims must map names to sizes"),
        ({"dims": {"n": [1, 2]}}, "cannot have several sizes here"),
        ({"fallback": "maybe"}, "fallback is 'maybe'"),
        ({"target": "native"}, r"target must be a gpucompile\.Target"),
    ],
)
def test_bad_options(device: Device, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        compile_dynamic(mixed(), **{"device": device, **options})


def test_compiled_on_first_use(device: Device) -> None:
    with compile_dynamic(layers(), device, max_shapes=2) as run:
        assert run.inputs == {"x": ("batch", "seq", 32)}
        for shape in [(1, 4), (2, 7), (1, 4), (3, 3), (1, 4), (2, 7)]:
            x = random(*shape, 32)
            np.testing.assert_allclose(run(x), wanted(x), atol=ATOL)
            assert len(run.shapes) <= 2 and run.shapes[-1] == {"batch": shape[0], "seq": shape[1]}
            assert run.memory()["weight"] in (WEIGHTS, 2 * WEIGHTS)
        assert run.shapes == [{"batch": 1, "seq": 4}, {"batch": 2, "seq": 7}]
        run.warm_up(batch=1, seq=1)
        assert run.shapes[-1] == {"batch": 1, "seq": 1}
        with pytest.raises(InputError, match="seq is 3 here"):
            _clashing(device)
        with pytest.raises(InputError, match="sizes wanted for batch, seq"):
            run.warm_up(batch=1)
        with pytest.raises(InputError, match=r"expected x: \[batch, seq, 32\]"):
            run(random(4, 32))
    with pytest.raises(ClosedError):
        run(random(1, 4, 32))
    assert run.memory()["weight"] == 0


def _clashing(device: Device) -> None:
    made = model([node("Add", "a", "b")], {"a": ("seq",), "b": ("seq",)})
    with compile_dynamic(made, device) as run:
        run(random(2), random(3))


def test_some_dimensions_bound(device: Device, tmp_path: Path) -> None:
    onnx.save(layers(), tmp_path / "model.onnx")
    with compile_dynamic(tmp_path / "model.onnx", device, dims={"batch": 2}) as run:
        assert run.inputs == {"x": (2, "seq", 32)}
        x = random(2, 3, 32)
        np.testing.assert_allclose(asyncio.run(run.run_async({"x": x}))["y"], wanted(x), atol=ATOL)
        with pytest.raises(InputError, match=r"expected x: float32\[2, 3, 32\]"):
            run(random(1, 3, 32))


def test_many_threads(device: Device) -> None:
    """More sizes than the cache holds, so that executables go while others run."""
    failures: list[BaseException] = []
    with compile_dynamic(layers(), device, max_shapes=2) as run:

        def work(seed: int) -> None:
            try:
                for i in range(8):
                    x = random(1, 1 + (seed + i) % 4, 32)
                    np.testing.assert_allclose(run(x), wanted(x), atol=ATOL)
            except BaseException as e:
                failures.append(e)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not failures
        assert len(run.shapes) <= 2
