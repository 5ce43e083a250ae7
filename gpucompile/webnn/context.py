"""ML and MLContext: tensors on the GPU, and graphs that run on them in the order of the queue."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from concurrent.futures import Future
from types import SimpleNamespace, TracebackType
from typing import Any

import numpy as np

from gpucompile.errors import ClosedError, InputError, TypeInferenceError, UnsupportedError
from gpucompile.ir.op import MAX_RANK, Op
from gpucompile.ir.types import DataType, TensorType
from gpucompile.runtime.device import Device, default_device
from gpucompile.target import Target
from gpucompile.webnn.builder import MLGraphBuilder
from gpucompile.webnn.objects import MLGraph, MLOperandDescriptor, MLTensor
from gpucompile.webnn.operators import OPERATORS, op_class
from gpucompile.webnn.validation import DATA_TYPES, array_of, tensor_type


class ML:
    """The entry point (`navigator.ml`)."""

    def create_context(
        self,
        device_type: str = "gpu",
        *,
        power_preference: str = "default",
        accelerated: bool = True,
        gpu_device: Any = None,
    ) -> MLContext:
        """A context on a GPU (or a software one).

        gpu_device  a `wgpu.GPUDevice` or `gpucompile.Device` to use; it stays its caller's

        Raises UnsupportedError for `cpu` and `npu`, DeviceError if there is no usable adapter."""
        if device_type not in ("gpu", "cpu", "npu"):
            raise TypeInferenceError(f"create_context: device_type {device_type!r} is none of gpu, cpu, npu")
        if power_preference not in ("default", "high-performance", "low-power"):
            raise TypeInferenceError(f"create_context: unknown power_preference {power_preference!r}")
        if device_type != "gpu":
            raise UnsupportedError(
                f"create_context: device_type {device_type!r} needs OpenVINO, which is not there yet"
            )
        if isinstance(gpu_device, Device):
            return MLContext(gpu_device)
        if gpu_device is not None:
            return MLContext(Device.wrap(gpu_device))
        if power_preference == "default":
            return MLContext(default_device())
        return MLContext(Device.open(power_preference=power_preference), owned=True)

    async def create_context_async(self, *args: Any, **options: Any) -> MLContext:
        """`create_context`, awaitable."""
        return self.create_context(*args, **options)


class MLContext:
    """Where tensors live and graphs run. Made by `ML.create_context`.

    lost         a future that gets the reason when the context is destroyed or its device lost
    accelerated  whether hardware does the work
    """

    def __init__(self, device: Device, owned: bool = False) -> None:
        self._device = device
        self._owned = owned
        self._target = Target.of(
            SimpleNamespace(features=device.features, limits=device.limits, info=device.adapter.info)
        )
        self._max_bytes = min(self._target.limit(f"max-{n}-size") for n in ("storage-buffer-binding", "buffer"))
        self._max_bytes &= -4
        self._alive: weakref.WeakSet[MLTensor | MLGraph] = weakref.WeakSet()
        self._destroyed = False
        self.lost: Future[str] = Future()

    @property
    def accelerated(self) -> bool:
        return not self._device.is_software

    @property
    def device(self) -> Device:
        """The device underneath."""
        return self._device

    def __repr__(self) -> str:
        return f"<MLContext on {self._device.name!r}{' destroyed' if self._destroyed else ''}>"

    # ------------------------------------------------------------------ life

    def destroy(self) -> None:
        """Free its tensors and graphs; using it again is a ClosedError."""
        if self._destroyed:
            return
        self._destroyed = True
        for each in list(self._alive):
            each.destroy()
        if self._owned:
            self._device.close()
        if not self.lost.done():
            self.lost.set_result("destroyed")

    def __enter__(self) -> MLContext:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.destroy()

    def _require_open(self) -> None:
        if self._destroyed:
            raise ClosedError("the context was destroyed")
        try:
            self._device.require_open()
        except Exception as e:
            if not self.lost.done():
                self.lost.set_result(str(e))
            raise

    def _keep(self, each: MLTensor | MLGraph) -> None:
        self._alive.add(each)

    # ------------------------------------------------------------------ tensors

    def create_tensor(
        self, data_type: Any, shape: Any = None, readable: bool = False, writable: bool = False
    ) -> MLTensor:
        """A tensor of zeros. `data_type` may be an MLOperandDescriptor, which then gives the shape as well."""
        type = self._type(data_type, shape, "create_tensor")
        return self._tensor(type, readable=bool(readable), writable=bool(writable))

    def create_constant_tensor(self, data_type: Any, shape: Any = None, data: Any = None) -> MLTensor:
        """A tensor for `MLGraphBuilder.constant`, from an array or bytes."""
        if data is None:
            raise TypeInferenceError("create_constant_tensor: the data is missing")
        type = self._type(data_type, shape, "create_constant_tensor")
        array = array_of(data, type, "create_constant_tensor")
        tensor = self._tensor(type, constant=array)
        self._upload(tensor, array)
        return tensor

    def import_gpu_buffer(
        self, buffer: Any, data_type: Any, shape: Any = None, readable: bool = False, writable: bool = False
    ) -> MLTensor:
        """A tensor in a caller's `wgpu.GPUBuffer` of this device, which needs the usages COPY_SRC and COPY_DST. The
        caller keeps owning it."""
        type = self._type(data_type, shape, "import_gpu_buffer")
        if buffer.size < _padded(type):
            raise TypeInferenceError(f"import_gpu_buffer: {type} needs {_padded(type)} bytes, there are {buffer.size}")
        tensor = MLTensor(self, type, buffer, bool(readable), bool(writable), owned=False)
        self._keep(tensor)
        return tensor

    def _type(self, dtype: Any, shape: Any, where: str) -> TensorType:
        self._require_open()
        if isinstance(dtype, MLOperandDescriptor):
            dtype, shape = dtype.data_type, dtype.shape
        return tensor_type(dtype, shape, self._max_bytes, where)

    def _tensor(self, type: TensorType, **options: Any) -> MLTensor:
        u = self._device.api.BufferUsage
        with self._device.guard(f"creating a tensor {type}"):
            buffer = self._device.handle.create_buffer(
                label=f"tensor {type}", size=_padded(type), usage=u.STORAGE | u.COPY_SRC | u.COPY_DST
            )
        tensor = MLTensor(self, type, buffer, **options)
        self._keep(tensor)
        return tensor

    def write_tensor(self, tensor: MLTensor, data: Any) -> None:
        """Set a writable tensor from an array or bytes, after everything dispatched so far."""
        self._require_open()
        self._check(tensor, "write_tensor")
        if not tensor.writable:
            raise InputError(f"write_tensor: {tensor!r} is not writable")
        self._upload(tensor, array_of(data, tensor._type, "write_tensor"))

    def _upload(self, tensor: MLTensor, array: np.ndarray) -> None:
        data = array.reshape(-1).view(np.uint8)
        if data.size % 4:
            data = np.concatenate((data, np.zeros(-data.size % 4, np.uint8)))
        with self._device.guard(f"writing {tensor!r}"):
            self._device.handle.queue.write_buffer(tensor.gpu_buffer, 0, data)

    def read_tensor(self, tensor: MLTensor, out: np.ndarray | bytearray | memoryview | None = None) -> Any:
        """The contents of a readable tensor after everything dispatched so far, as a new array; or copied into `out`,
        an array or buffer of the same number of bytes, which is then returned."""
        staging, target = self._start_read(tensor, out)
        try:
            with self._device.guard(f"reading {tensor!r}"):
                self._device.map_read(staging, staging.size).sync_wait()
                return _take(staging, tensor, target, out)
        finally:
            staging.destroy()

    async def read_tensor_async(self, tensor: MLTensor, out: np.ndarray | bytearray | memoryview | None = None) -> Any:
        """`read_tensor`, without blocking the event loop while the GPU works."""
        staging, target = self._start_read(tensor, out)
        try:
            try:
                await self._device.map_read(staging, staging.size)
            except Exception as e:
                raise self._device.translate(e, f"reading {tensor!r}") from e
            return _take(staging, tensor, target, out)
        finally:
            staging.destroy()

    def _start_read(self, tensor: MLTensor, out: Any) -> tuple[Any, np.ndarray | None]:
        self._require_open()
        self._check(tensor, "read_tensor")
        if not tensor.readable:
            raise InputError(f"read_tensor: {tensor!r} is not readable")
        target = None if out is None else _bytes_of(out, tensor)
        u, handle = self._device.api.BufferUsage, self._device.handle
        with self._device.guard(f"reading {tensor!r}"):
            staging = handle.create_buffer(size=_padded(tensor._type), usage=u.COPY_DST | u.MAP_READ)
            encoder = handle.create_command_encoder()
            encoder.copy_buffer_to_buffer(tensor.gpu_buffer, 0, staging, 0, staging.size)
            handle.queue.submit([encoder.finish()])
        return staging, target

    def _check(self, tensor: object, where: str) -> None:
        if not isinstance(tensor, MLTensor):
            raise TypeInferenceError(f"{where}: {tensor!r} is not an MLTensor")
        if tensor._context is not self:
            raise TypeInferenceError(f"{where}: {tensor!r} belongs to another context")
        if tensor.destroyed:
            raise InputError(f"{where}: {tensor!r} was used after destroy")

    # ------------------------------------------------------------------ running

    def dispatch(self, graph: MLGraph, inputs: Mapping[str, MLTensor], outputs: Mapping[str, MLTensor]) -> None:
        """Run a graph on tensors, after everything dispatched so far; returns at once. Reading an output waits."""
        self._require_open()
        if not isinstance(graph, MLGraph) or graph._context is not self:
            raise TypeInferenceError(f"dispatch: {graph!r} is no graph of this context")
        if graph._executable is None:
            raise InputError("dispatch: the graph was used after destroy")
        seen: dict[int, str] = {}
        for kind, given, wanted in (("input", inputs, graph.inputs), ("output", outputs, graph.outputs)):
            for name in given:
                if name not in wanted:
                    raise TypeInferenceError(f"dispatch: there is no {kind} {name!r}; there are {', '.join(wanted)}")
            for name, descriptor in wanted.items():
                where = f"dispatch: {kind} {name!r}"
                if name not in given:
                    raise TypeInferenceError(f"{where} is missing")
                tensor = given[name]
                self._check(tensor, where)
                if tensor.constant:
                    raise TypeInferenceError(f"{where}: {tensor!r} is constant")
                if (tensor.data_type, tensor.shape) != (descriptor.data_type, descriptor.shape):
                    raise TypeInferenceError(f"{where}: {tensor!r} given, {descriptor} wanted")
                if id(tensor.gpu_buffer) in seen:
                    raise TypeInferenceError(f"{where}: the tensor is {seen[id(tensor.gpu_buffer)]} as well")
                seen[id(tensor.gpu_buffer)] = f"{kind} {name!r}"
        graph._executable.dispatch(
            {name: t.gpu_buffer for name, t in inputs.items()}, {name: t.gpu_buffer for name, t in outputs.items()}
        )

    def compute(
        self, graph: MLGraph, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Run a graph on arrays and wait: the specification's older spelling. `outputs` are arrays to fill; without
        them new ones are made. Returns arrays by output name."""
        self._require_open()
        if not isinstance(graph, MLGraph) or graph._context is not self or graph._executable is None:
            raise TypeInferenceError(f"compute: {graph!r} is no graph of this context")
        result = graph._executable.run({name: np.asarray(a) for name, a in inputs.items()})
        if outputs is None:
            return result
        for name, array in outputs.items():
            if name not in result or array.shape != result[name].shape or array.dtype != result[name].dtype:
                raise InputError(f"compute: output {name!r} does not fit {graph!r}")
            array[...] = result[name]
        return dict(outputs)

    # ------------------------------------------------------------------ limits

    def op_support_limits(self) -> dict[str, Any]:
        """What each operator takes: data types and ranks by operand, in the specification's structure (snake_case)."""
        everything = _limits(frozenset(DATA_TYPES), 0, MAX_RANK)
        result: dict[str, Any] = {
            "preferred_input_layout": "nchw",
            "max_tensor_byte_length": self._max_bytes,
            **{name: everything for name in ("input", "constant", "output")},
        }
        for name in OPERATORS:
            cls = op_class(name)
            if cls is not None:
                result[name] = self._op_limits(cls)
        result["split"] = {"input": _limits(frozenset(DATA_TYPES), 1, MAX_RANK)}
        return result

    def _op_limits(self, cls: type[Op]) -> dict[str, Any]:
        out = {}
        for operand in cls.operands:
            name = operand.rstrip("?*")
            dtypes, low, high = cls.constraints.get(name, (frozenset(DATA_TYPES), 0, MAX_RANK))
            out[name] = _limits(dtypes, low, high)
        return out

    # ------------------------------------------------------------------ older spelling

    def create_graph_builder(self) -> MLGraphBuilder:
        """`MLGraphBuilder(context)`."""
        return MLGraphBuilder(self)

    def create_buffer(self, data_type: Any, shape: Any = None) -> MLTensor:
        """A readable and writable tensor."""
        return self.create_tensor(data_type, shape, readable=True, writable=True)

    def write_buffer(self, buffer: MLTensor, data: Any) -> None:
        """`write_tensor`."""
        self.write_tensor(buffer, data)

    def read_buffer(self, buffer: MLTensor, out: Any = None) -> Any:
        """`read_tensor`."""
        return self.read_tensor(buffer, out)


def _padded(type: TensorType) -> int:
    """Bytes of a buffer for it: whole words."""
    return (type.nbytes + 3) // 4 * 4


def _limits(dtypes: frozenset[DataType], low: int, high: int) -> dict[str, Any]:
    return {"data_types": [d.value for d in DATA_TYPES if d in dtypes], "rank_range": {"min": low, "max": high}}


def _bytes_of(out: Any, tensor: MLTensor) -> np.ndarray:
    """A writable view of the bytes of `out`."""
    if isinstance(out, np.ndarray) and not out.flags.c_contiguous:
        raise InputError("read_tensor: the array is not contiguous")
    view = memoryview(out).cast("B")
    if view.readonly or view.nbytes != tensor._type.nbytes:
        raise InputError(f"read_tensor: {tensor!r} needs {tensor._type.nbytes} writable bytes, not {view.nbytes}")
    return np.frombuffer(view, np.uint8)


def _take(staging: Any, tensor: MLTensor, target: np.ndarray | None, out: Any) -> Any:
    type = tensor._type
    data = np.frombuffer(staging.read_mapped(copy=False), np.uint8)[: type.nbytes]
    try:
        if target is not None:
            target[:] = data
            return out
        return data.copy().view(type.dtype.numpy).reshape(type.shape)
    finally:
        del data
        staging.unmap()
