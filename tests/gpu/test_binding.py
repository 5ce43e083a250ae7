"""Runs on callers' GPU buffers: used as they are where shaders can, copied where not, arrays and buffers mixed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import wgpu

import gpucompile
from gpucompile.ir.graph import Graph
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.elementwise import Add, Mul
from gpucompile.runtime import binding

U = wgpu.BufferUsage
ALL = U.STORAGE | U.COPY_SRC | U.COPY_DST


def executable(device: gpucompile.Device, size: int) -> gpucompile.Executable:
    """sum = a + b, product = sum * b"""
    graph = Graph()
    a, b = (graph.add_input(n, TensorType(DataType.FLOAT32, (size,))) for n in "ab")
    total = graph.add(Add(), a, b)
    graph.set_outputs({"sum": total, "product": graph.add(Mul(), total, b)})
    return gpucompile.load(gpucompile.compile(graph), device)


@pytest.fixture
def run(device: gpucompile.Device) -> Iterator[gpucompile.Executable]:
    with executable(device, 8) as run:
        yield run


def buffer(device: gpucompile.Device, data: np.ndarray, usage: int = ALL, extra: int = 0) -> Any:
    out = device.handle.create_buffer(size=data.nbytes + extra, usage=usage)
    device.handle.queue.write_buffer(out, 0, data)
    return out


def read(device: gpucompile.Device, source: Any, size: int) -> np.ndarray:
    return np.frombuffer(device.handle.queue.read_buffer(source, size=size * 4), np.float32)


A = np.arange(8, dtype=np.float32)
B = A + 2


def test_shaders_work_on_the_callers_buffers(device: gpucompile.Device, run: gpucompile.Executable) -> None:
    inputs = {"a": buffer(device, A), "b": buffer(device, B)}
    outputs = {name: buffer(device, np.zeros(8, np.float32)) for name in ("sum", "product")}
    assert run.copied_bytes(inputs, outputs) == 0
    run.dispatch(inputs, outputs)
    np.testing.assert_array_equal(read(device, outputs["sum"], 8), A + B)
    np.testing.assert_array_equal(read(device, outputs["product"], 8), (A + B) * B)
    np.testing.assert_array_equal(read(device, inputs["a"], 8), A)


@pytest.mark.parametrize("size", [1, 3, 5, 8])
def test_buffers_that_cannot_be_bound_are_copied(device: gpucompile.Device, size: int) -> None:
    a, b = A[:size].copy(), B[:size].copy()
    with executable(device, size) as run:
        for usage in (ALL, U.COPY_SRC | U.COPY_DST):
            inputs = {"a": buffer(device, a, usage), "b": buffer(device, b, usage)}
            outputs = {name: buffer(device, np.zeros(size, np.float32), usage) for name in ("sum", "product")}
            fits = usage == ALL and size % 4 == 0
            assert run.copied_bytes(inputs, outputs) == (0 if fits else 4 * 4 * size)
            run.dispatch(inputs, outputs)
            np.testing.assert_array_equal(read(device, outputs["product"], size), (a + b) * b)


def test_arrays_and_buffers_mixed(device: gpucompile.Device, run: gpucompile.Executable) -> None:
    product = buffer(device, np.zeros(8, np.float32), extra=64)
    for _ in range(3):
        result = run.run_bound({"a": buffer(device, A), "b": B}, {"product": product})
        assert list(result) == ["sum"]
        np.testing.assert_array_equal(result["sum"], A + B)
        np.testing.assert_array_equal(read(device, product, 8), (A + B) * B)
    result = asyncio.run(run.run_bound_async({"a": A, "b": buffer(device, B)}, {}))
    np.testing.assert_array_equal(result["product"], (A + B) * B)
    assert run.run_bound({"a": A, "b": A}, {"product": product, "sum": buffer(device, A)}) == {}
    np.testing.assert_array_equal(run.run({"a": A, "b": B})["sum"], A + B)  # its own buffers are untouched


def test_results_fed_back_need_no_new_bind_groups(device: gpucompile.Device, run: gpucompile.Executable) -> None:
    state = [buffer(device, A), buffer(device, A)]
    one, spare = buffer(device, np.ones(8, np.float32)), buffer(device, A)
    made: list[int] = []
    player = run._player
    assert player is not None
    group = player.bindings._group
    player.bindings._group = lambda i, buffers: (made.append(i), group(i, buffers))[1]  # type: ignore[assignment]
    for i in range(50):
        run.dispatch({"a": state[i % 2], "b": one}, {"sum": state[1 - i % 2], "product": spare})
    np.testing.assert_array_equal(read(device, state[0], 8), A + 50)
    assert len(made) == 2 * len(run.plan.steps)


def test_few_combinations_are_kept(device: gpucompile.Device, run: gpucompile.Executable) -> None:
    out = {name: buffer(device, A) for name in ("sum", "product")}
    for _ in range(binding.KEPT + 9):
        run.dispatch({"a": buffer(device, A), "b": buffer(device, B)}, out)
    assert run._player is not None and len(run._player.bindings._ready) == binding.KEPT


def test_a_destroyed_buffer_is_an_error(device: gpucompile.Device, run: gpucompile.Executable) -> None:
    inputs = {"a": buffer(device, A), "b": buffer(device, B)}
    outputs = {name: buffer(device, A) for name in ("sum", "product")}
    run.dispatch(inputs, outputs)
    inputs["a"].destroy()
    with pytest.raises(gpucompile.InputError, match=r"input 'a': the GPU buffer .* was destroyed"):
        run.dispatch(inputs, outputs)
    mapped = device.handle.create_buffer(size=32, usage=U.COPY_DST | U.MAP_READ)
    mapped.map_sync("READ")
    with pytest.raises(gpucompile.InputError, match=r"output 'sum': .* is mapped"):
        run.dispatch({**inputs, "a": inputs["b"]}, {**outputs, "sum": mapped})
    with gpucompile.Device.open(device.adapter) as other:
        foreign = buffer(other, A, U.COPY_SRC | U.COPY_DST)
        with pytest.raises(gpucompile.InputError, match="another device"):
            run.dispatch({**inputs, "a": foreign}, outputs)
    np.testing.assert_array_equal(run.run({"a": A, "b": B})["sum"], A + B)
