"""The life of tensors: created, written, read into what the caller brings, destroyed. After the suite's tensor,
byob_readtensor and shared_arraybuffer_constructor tests."""

from __future__ import annotations

import array
import asyncio
import mmap
from collections.abc import Callable
from multiprocessing import shared_memory
from typing import Any

import numpy as np
import pytest

from gpucompile.errors import ClosedError, InputError, TypeInferenceError
from gpucompile.ir.op import NIBBLES
from gpucompile.webnn import ML, MLContext, MLGraphBuilder, MLOperandDescriptor, MLTensor
from gpucompile.webnn.readback import KEPT_BYTES
from gpucompile.webnn.validation import DATA_TYPES
from tests.webnn_graphs import F32, increment, tensors

SHAPES: list[tuple[int, ...]] = [(), (1,), (5,), (2, 3), (1, 2, 3, 1, 2)]


@pytest.mark.parametrize("dtype", [d for d in DATA_TYPES if d not in NIBBLES])
def test_a_new_tensor_is_zero_and_keeps_what_is_written(context: MLContext, dtype: Any) -> None:
    for shape in SHAPES:
        tensor = context.create_tensor(dtype.value, shape, readable=True, writable=True)
        assert (tensor.data_type, tensor.shape, tensor.constant) == (dtype.value, shape, False)
        zeros = context.read_tensor(tensor)
        assert (zeros.dtype, zeros.shape) == (dtype.numpy, shape) and not zeros.any()
        data = np.arange(100, 100 + tensor_size(tensor), dtype=dtype.numpy).reshape(shape)
        context.write_tensor(tensor, data)
        np.testing.assert_array_equal(context.read_tensor(tensor), data)
        tensor.destroy()


def tensor_size(tensor: MLTensor) -> int:
    return int(np.prod(tensor.shape, dtype=int))


def test_attributes(context: MLContext) -> None:
    descriptor = MLOperandDescriptor("uint32", (2, 3))
    for readable in (False, True):
        for writable in (False, True):
            tensor = context.create_tensor(descriptor, readable=readable, writable=writable)
            assert (tensor.readable, tensor.writable, tensor.destroyed) == (readable, writable, False)
    assert repr(tensor) == "<MLTensor uint32[2, 3]>"
    constant = context.create_constant_tensor("uint32", [2], np.array([1, 2], np.uint32))
    assert (constant.readable, constant.writable, constant.constant) == (False, False, True)


@pytest.mark.parametrize(
    ("dtype", "shape", "text"),
    [
        ("float33", [1], "float33"),
        ("float32", None, "shape is missing"),
        ("float32", [2, 0], "dimension 1 is 0"),
        ("float32", [-1], "outside 0"),
        ("float32", [1.5], "not an integer"),
        ("float32", "12", "a list of integers"),
        ("float32", [1] * 9, "rank 9 is above 8"),
        ("uint8", [2**31], "above 2,147,483,647"),
        ("float32", [2**16, 2**16], "above the limit"),
    ],
)
def test_descriptors_that_are_none(context: MLContext, dtype: str, shape: Any, text: str) -> None:
    with pytest.raises(TypeInferenceError, match=f"create_tensor: .*{text}"):
        context.create_tensor(dtype, shape)
    with pytest.raises(TypeInferenceError, match=f"create_constant_tensor: .*{text}"):
        context.create_constant_tensor(dtype, shape, b"")


@pytest.mark.parametrize(
    "of", [bytes, bytearray, memoryview, lambda b: array.array("f", b), lambda b: np.frombuffer(b, np.uint8)]
)
def test_what_can_be_written(context: MLContext, of: Callable[[bytes], Any]) -> None:
    (tensor,) = tensors(context, 1)
    data = np.array([1, 2, 3], F32)
    context.write_tensor(tensor, of(data.tobytes()))
    assert context.read_tensor(tensor).tolist() == [1, 2, 3]


def test_what_is_written_is_a_copy(context: MLContext) -> None:
    (tensor,) = tensors(context, 1)
    data = np.array([1, 2, 3], F32)
    context.write_tensor(tensor, data)
    constant = context.create_constant_tensor("float32", [3], data)
    data[:] = 9
    assert context.read_tensor(tensor).tolist() == [1, 2, 3]
    assert np.asarray(constant._constant).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (np.zeros(3, np.float64), "float64, float32 is wanted"),
        (np.zeros(3, np.int32), "int32, float32 is wanted"),
        (np.zeros(4, F32), r"\[4\], \[3\] is wanted"),
        (np.zeros((3, 1), F32), r"\[3, 1\]"),
        (b"", "0 bytes given"),
        (bytes(11), "11 bytes given, .* takes 12"),
        (bytes(13), "13 bytes given"),
        ([1.0, 2.0, 3.0], "not list"),
        (1.0, "not float"),
    ],
)
def test_what_cannot_be_written(context: MLContext, data: Any, text: str) -> None:
    (tensor,) = tensors(context, 1)
    context.write_tensor(tensor, np.ones(3, F32))
    with pytest.raises(TypeInferenceError, match=f"write_tensor: .*{text}"):
        context.write_tensor(tensor, data)
    with pytest.raises(TypeInferenceError, match=f"create_constant_tensor: .*{text}"):
        context.create_constant_tensor("float32", [3], data)
    assert context.read_tensor(tensor).tolist() == [1, 1, 1]


def test_read_into_what_the_caller_brings(context: MLContext) -> None:
    (tensor,) = tensors(context, 1)
    data = np.array([1, 2, 3], F32)
    context.write_tensor(tensor, data)
    matrix = np.zeros((2, 3), F32)
    memory = shared_memory.SharedMemory(create=True, size=12)
    try:
        with mmap.mmap(-1, 12) as pages:
            part, mapped = memory.buf[:12], memoryview(pages)
            for out in (
                np.zeros(3, F32),
                np.zeros(12, np.uint8),
                bytearray(12),
                array.array("f", [0] * 3),
                part,
                mapped,
            ):
                assert context.read_tensor(tensor, out) is out
                assert bytes(out) == data.tobytes()
            part.release()
            mapped.release()
    finally:
        memory.close()
        memory.unlink()
    context.read_tensor(tensor, matrix[1])
    assert matrix.tolist() == [[0, 0, 0], [1, 2, 3]]
    scalar, place = context.create_tensor("float32", [], readable=True), np.ones((), F32)
    context.read_tensor(scalar, place)
    assert place == 0
    into = np.zeros(3, F32)
    assert asyncio.run(as_task(context.read_tensor_async(tensor, into))) is into
    assert into.tolist() == [1, 2, 3]


async def as_task(coroutine: Any) -> Any:
    return await coroutine


@pytest.mark.parametrize(
    ("out", "text"),
    [
        (bytes(12), "read-only 12 bytes"),
        (bytearray(8), "not 8 bytes"),
        (bytearray(16), "not 16 bytes"),
        (np.zeros(4, F32), "not 16 bytes"),
        (np.zeros(6, F32)[::2], "strided"),
        (np.zeros(3, np.int32), "an array of int32"),
        ([0, 0, 0], "not list"),
        (7, "not int"),
    ],
)
def test_what_cannot_be_read_into(context: MLContext, out: Any, text: str) -> None:
    (tensor,) = tensors(context, 1)
    with pytest.raises(InputError, match=f"read_tensor: .*{text}"):
        context.read_tensor(tensor, out)
    with pytest.raises(InputError, match=text):
        context.read_tensor_async(tensor, out)
    assert context.read_tensor(tensor).tolist() == [0, 0, 0]


def test_what_tensors_allow(context: MLContext, device: Any) -> None:
    closed = context.create_tensor("float32", [3])
    constant = context.create_constant_tensor("float32", [3], np.zeros(3, F32))
    for tensor in (closed, constant):
        with pytest.raises(InputError, match=r"read_tensor: .* is not readable"):
            context.read_tensor(tensor)
        with pytest.raises(InputError, match=r"write_tensor: .* is not writable"):
            context.write_tensor(tensor, np.zeros(3, F32))
    with ML().create_context(gpu_device=device) as other:
        (foreign,) = tensors(other, 1)
        with pytest.raises(TypeInferenceError, match=r"read_tensor: .* another context"):
            context.read_tensor(foreign)
        with pytest.raises(TypeInferenceError, match=r"write_tensor: .* another context"):
            context.write_tensor(foreign, np.zeros(3, F32))
    for call in (lambda: context.read_tensor(np.zeros(3)), lambda: context.write_tensor("x", b"")):  # type: ignore[arg-type]
        with pytest.raises(TypeInferenceError, match="is not an MLTensor"):
            call()


def test_a_destroyed_tensor(context: MLContext) -> None:
    graph, (a, b) = increment(context), tensors(context, 2)
    context.dispatch(graph, {"x": a}, {"y": b})
    a.destroy()
    a.destroy()
    assert context.read_tensor(b).tolist() == [1, 1, 1]  # what was dispatched runs
    assert a.destroyed and "destroyed" in repr(a) and a.shape == (3,)
    for call in (
        lambda: context.read_tensor(a),
        lambda: context.write_tensor(a, np.zeros(3, F32)),
        lambda: context.dispatch(graph, {"x": a}, {"y": b}),
        lambda: context.dispatch(graph, {"x": b}, {"y": a}),
        lambda: a.gpu_buffer,
    ):
        with pytest.raises(InputError, match="destroy"):
            call()
        with pytest.raises(TypeError):  # as the specification has it
            call()


def test_reads_see_the_moment_of_their_call(context: MLContext) -> None:
    (tensor,) = tensors(context, 1)

    async def run() -> list[Any]:
        reads = []
        for i in range(4):
            context.write_tensor(tensor, np.full(3, i, F32))
            reads.append(context.read_tensor_async(tensor))
        return [r.tolist() for r in await asyncio.gather(*reversed(reads))]

    assert asyncio.run(run()) == [[3] * 3, [2] * 3, [1] * 3, [0] * 3]


def test_destroyed_while_it_is_read(device: Any) -> None:
    context = ML().create_context(gpu_device=device)
    a, b = tensors(context, 2)

    async def run() -> None:
        pending = context.read_tensor_async(a)
        a.destroy()
        with pytest.raises(InputError, match=r"destroyed. while it was read"):
            await pending
        pending = context.read_tensor_async(b)
        context.destroy()
        with pytest.raises(ClosedError, match="the context was destroyed"):
            await pending

    asyncio.run(run())


def test_reads_allocate_nothing_in_the_long_run(context: MLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    create = type(device := context.device.handle).create_buffer

    def counting(self: Any, **options: Any) -> Any:
        made.append(options["size"])
        return create(self, **options)

    small, large = tensors(context, 1)[0], context.create_tensor("uint8", [3001], readable=True)
    monkeypatch.setattr(type(device), "create_buffer", counting)
    for _ in range(1000):
        context.read_tensor(small)
        context.read_tensor(large)
    assert sorted(made) == [256, 4096]

    async def together() -> None:
        await asyncio.gather(*(context.read_tensor_async(small) for _ in range(10)))

    for _ in range(20):
        asyncio.run(together())
    assert len(made) == 2 + 9  # ten at a time


def test_few_staging_buffers_are_kept(context: MLContext) -> None:
    size = KEPT_BYTES // 2
    big = context.create_tensor("uint8", [size], readable=True)

    async def together() -> None:
        await asyncio.gather(*(context.read_tensor_async(big, np.empty(size, np.uint8)) for _ in range(4)))

    asyncio.run(together())
    assert sum(bytes * len(each) for bytes, each in context._readback._spare.items()) == KEPT_BYTES
    assert not context._readback._flying
    context.destroy()
    assert not context._readback._spare


def test_bounds_and_fills_are_exact_64_bit_integers(context: MLContext) -> None:
    """MLNumber is a bigint or a double: an integer is not rounded to a double on the way."""
    big, top = 2**53 + 1, 2**64 - 2
    for dtype, build, x, want in (
        ("int64", lambda b, v: b.clamp(v, min_value=big), [0, big + 5], [big, big + 5]),
        ("uint64", lambda b, v: b.clamp(v, max_value=top), [2**64 - 1, 7], [top, 7]),
        ("int64", lambda b, v: b.clamp(v, min_value=2**63 - 3, max_value=2**63 - 1), [0, 1], [2**63 - 3] * 2),
        ("int64", lambda b, v: b.pad(v, [1], [1], value=big), [0, 1], [big, 0, 1, big]),
        ("int64", lambda b, v: b.clamp(v, max_value=10**400), [5, -5], [5, -5]),
    ):
        builder = MLGraphBuilder(context)
        graph = builder.build({"y": build(builder, builder.input("x", dtype, [2]))})
        assert context.compute(graph, {"x": np.array(x, dtype)})["y"].tolist() == want


def test_descriptors_of_every_spelling(context: MLContext) -> None:
    for descriptor in (
        {"dataType": "float32", "shape": [1, 2]},
        {"data_type": "float32", "dimensions": [1, 2]},
        MLOperandDescriptor("float32", (1, 2)),
    ):
        assert context.create_tensor(descriptor).shape == context.create_buffer(descriptor).shape == (1, 2)
        builder = MLGraphBuilder(context)
        graph = builder.build({"y": builder.neg(builder.input("x", descriptor))})
        assert context.compute(graph, {"x": np.ones(2, np.float32)})["y"].tolist() == [[-1, -1]]  # flat, as published
    with pytest.raises(TypeInferenceError, match="no descriptor"):
        MLGraphBuilder(context).input("x", descriptor=3)
    with pytest.raises(InputError, match="dict of arrays"):
        context.compute(graph, {"x": np.ones(2, np.float32)}, ["y"])  # type: ignore[arg-type]
