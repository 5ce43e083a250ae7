"""ML and MLContext: tensors on the GPU, and graphs that run on them in the order of the queue.

`host.py` has the context of OpenVINO's devices. What it does otherwise are the methods that touch the device:
`_close_device`, `_require_device`, `import_gpu_buffer`, `_tensor`, `_upload`, `_read`, `_compile`, `_run`.
"""

from __future__ import annotations

import contextlib
import math
import threading
import weakref
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future, InvalidStateError
from types import SimpleNamespace, TracebackType
from typing import Any

import numpy as np

from gpucompile.compiler import compile
from gpucompile.errors import ClosedError, InputError, TypeInferenceError
from gpucompile.ir.graph import Graph
from gpucompile.ir.op import NIBBLES
from gpucompile.ir.types import TensorType
from gpucompile.passmanager.pipeline import parse_pipeline
from gpucompile.runtime.buffers import require_usable
from gpucompile.runtime.device import Device, default_device
from gpucompile.runtime.executable import Executable
from gpucompile.runtime.loading import load
from gpucompile.runtime.memory import Arenas, Memory
from gpucompile.runtime.nibbles import pack_nibbles
from gpucompile.runtime.openvino import OpenvinoOptions, find_device
from gpucompile.target import Target
from gpucompile.webnn import limits
from gpucompile.webnn.builder import MLGraphBuilder
from gpucompile.webnn.objects import MLGraph, MLTensor
from gpucompile.webnn.readback import Readback, Reading
from gpucompile.webnn.validation import DATA_TYPES, array_of, described, tensor_type


class ML:
    """The entry point (`navigator.ml`)."""

    def create_context(
        self,
        device_type: Any = "gpu",
        *,
        power_preference: str = "default",
        accelerated: bool = True,
        gpu_device: Any = None,
        target: Target | None = None,
        pipeline: str = "default",
        num_threads: int = 0,
        cache_dir: str | None = None,
    ) -> MLContext:
        """A context on a GPU (or a software one), or on an NPU or the CPU through OpenVINO. The options are keyword
        arguments; a device may come first, as in the specification.

        device_type       `gpu`, `npu` or `cpu`
        power_preference  `high-performance` takes discrete GPUs first, `low-power` integrated ones; a hint to OpenVINO
        accelerated       False: on a software adapter
        gpu_device        a `wgpu.GPUDevice` or `gpucompile.Device` to use; it stays its caller's
        target            what graphs' code may rely on, such as `Target.portable()`; by default all that the device has
        pipeline          the passes that `build` runs, as in `gpucompile.compile`
        num_threads       of `cpu`; 0 leaves it to OpenVINO
        cache_dir         where `npu` and `cpu` keep compiled graphs, if anywhere

        Raises UnsupportedError for `cpu` and `npu` without OpenVINO, DeviceError if there is no usable adapter or no
        such device, InputError for a target that is more than the device."""
        if not isinstance(device_type, str):
            device_type, gpu_device = "gpu", device_type
        if device_type not in ("gpu", "cpu", "npu"):
            raise TypeInferenceError(f"create_context: device_type {device_type!r} is none of gpu, cpu, npu")
        if power_preference not in ("default", "high-performance", "low-power"):
            raise TypeInferenceError(f"create_context: unknown power_preference {power_preference!r}")
        parse_pipeline(pipeline)  # wrong text fails here, not in every build
        if device_type != "gpu":
            from gpucompile.webnn.host import OpenvinoContext

            if gpu_device is not None or target is not None:
                raise InputError(f"create_context: gpu_device and target are for the GPU, not for {device_type}")
            options = OpenvinoOptions(threads=num_threads or None, power=power_preference, cache_dir=cache_dir)
            return OpenvinoContext(find_device(device_type), options, pipeline)
        if isinstance(gpu_device, Device):
            return MLContext(gpu_device, target, pipeline)
        if gpu_device is not None:
            if not hasattr(gpu_device, "create_command_encoder"):
                raise TypeInferenceError(f"create_context: {gpu_device!r} is no GPUDevice")
            return MLContext(Device.wrap(gpu_device), target, pipeline)
        if power_preference == "default" and accelerated:
            return MLContext(default_device(), target, pipeline)
        device = Device.open(
            power_preference="low-power" if power_preference == "low-power" else "high-performance",
            prefer=None if accelerated else "software",
        )
        return MLContext(device, target, pipeline, owned=True)

    async def create_context_async(self, *args: Any, **options: Any) -> MLContext:
        """`create_context`, awaitable."""
        return self.create_context(*args, **options)


class MLContext:
    """Where tensors live and graphs run. Made by `ML.create_context`.

    lost         a `concurrent.futures.Future` that gets the reason (text) when the context is destroyed or its device
                 is found to be lost; `asyncio.wrap_future` makes it awaitable
    accelerated  whether hardware does the work

    All methods may be called from several threads; what one thread dispatches, writes and reads happens in that order.
    """

    def __init__(
        self, device: Device, target: Target | None = None, pipeline: str = "default", owned: bool = False
    ) -> None:
        device.require_open()
        whole = Target.of(SimpleNamespace(features=device.features, limits=device.limits, info=device.adapter.info))
        self._device = device
        self._owned = owned
        self._target = target or whole
        self._pipeline = pipeline
        _check_target(self._target, whole)
        self._max_bytes = min(self._target.limit(f"max-{n}-size") for n in ("storage-buffer-binding", "buffer"))
        self._max_bytes &= -4
        self._alive: weakref.WeakSet[MLTensor | MLGraph] = weakref.WeakSet()
        self._readback = Readback(device)
        self._arenas: Arenas | None = Arenas(device)
        self._destroyed = False
        self._lock = threading.RLock()  # wgpu-native aborts the process when a buffer is destroyed before its submit
        self.lost: Future[str] = Future()
        device.on_lost(self._lose)

    @property
    def accelerated(self) -> bool:
        return not self._device.is_software

    @property
    def device(self) -> Device:
        """The device underneath."""
        return self._device

    @property
    def closed(self) -> bool:
        """Whether `destroy` was called, or its device was closed or lost."""
        return self._destroyed or self._device.closed

    def memory(self) -> dict[str, int]:
        """Bytes on the GPU that belong to no single graph or session: `tensors`, `scratch` (the buffers that all graphs
        and sessions of the context share) and `staging` (for reading tensors)."""
        tensors = [t for t in list(self._alive) if isinstance(t, MLTensor) and t._owned and not t.destroyed]
        return {
            "tensors": sum(t._buffer.size for t in tensors),
            "scratch": self._arenas.bytes if self._arenas is not None else 0,
            "staging": self._readback.bytes,
        }

    def __repr__(self) -> str:
        return f"<MLContext on {self._device.name!r}{' destroyed' if self._destroyed else ''}>"

    # ------------------------------------------------------------------ life

    def destroy(self) -> None:
        """Free its tensors and graphs; reads in flight fail, using it again is a ClosedError."""
        if self._destroyed:
            return
        self._destroyed = True
        with self._lock:
            for each in list(self._alive):
                each.destroy()
        self._resolve("destroyed")
        self._close_device()

    def _close_device(self) -> None:
        with self._lock:
            self._readback.clear()
        if self._owned:
            self._device.close()

    def _lose(self, reason: str) -> None:
        """The device is gone, and with it all memory. The thread that found out may hold any lock, so none is taken."""
        for each in list(self._alive):
            each._forget()
        self._resolve(reason)

    def _resolve(self, reason: str) -> None:
        with contextlib.suppress(InvalidStateError):  # the first reason counts
            self.lost.set_result(reason)

    def __enter__(self) -> MLContext:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.destroy()

    def _require_open(self) -> None:
        if self._destroyed:
            raise ClosedError("the context was destroyed")
        self._require_device()

    def _require_device(self) -> None:
        """Raise DeviceLost or ClosedError unless the device can be used."""
        self._device.require_open()

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
        """A tensor in a caller's `wgpu.GPUBuffer` of this device, which needs the usages COPY_SRC and COPY_DST and
        whole words; graphs work on it without a copy if it also has STORAGE and whole vectors of 16 bytes. The caller
        keeps owning it: `destroy` leaves the buffer alone."""
        type = self._type(data_type, shape, "import_gpu_buffer")
        u = self._device.api.BufferUsage
        if not isinstance(buffer, self._device.api.GPUBuffer):
            raise TypeInferenceError(f"import_gpu_buffer: {buffer!r} is not a GPUBuffer of {self._device!r}")
        require_usable(buffer, self._device.handle, "import_gpu_buffer")
        if buffer.size < _padded(type):
            raise TypeInferenceError(f"import_gpu_buffer: {type} needs {_padded(type)} bytes, there are {buffer.size}")
        if missing := [n for n in ("COPY_SRC", "COPY_DST") if not buffer.usage & getattr(u, n)]:
            raise TypeInferenceError(f"import_gpu_buffer: the buffer lacks the usage {', '.join(missing)}")
        tensor = MLTensor(self, type, buffer, bool(readable), bool(writable), owned=False)
        self._keep(tensor)
        return tensor

    def _type(self, dtype: Any, shape: Any, where: str) -> TensorType:
        self._require_open()
        dtype, shape = described(dtype, shape, None, where)
        return tensor_type(dtype, shape, self._max_bytes, where)

    def _tensor(self, type: TensorType, **options: Any) -> MLTensor:
        u = self._device.api.BufferUsage
        with self._device.guard(f"creating a tensor {type}"):
            buffer = self._device.handle.create_buffer(
                label=f"tensor {type}", size=tensor_bytes(type), usage=u.STORAGE | u.COPY_SRC | u.COPY_DST
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
        array = array_of(data, tensor._type, "write_tensor")
        with self._lock:
            self._check(tensor, "write_tensor")
            self._upload(tensor, array)

    def _upload(self, tensor: MLTensor, array: np.ndarray) -> None:
        data = pack_nibbles(array) if tensor._type.dtype in NIBBLES else array.reshape(-1).view(np.uint8)
        if data.size % 4:
            data = np.concatenate((data, np.zeros(-data.size % 4, np.uint8)))
        with self._device.guard(f"writing {tensor!r}"):
            self._device.handle.queue.write_buffer(tensor.gpu_buffer, 0, data)

    def read_tensor(self, tensor: MLTensor, out: Any = None) -> Any:
        """The contents of a readable tensor after everything dispatched so far, as a new array; or copied into `out`,
        an array or writable buffer of the same number of bytes, which is then returned. 4-bit tensors come as bytes of
        two elements, the first one in the lower half: a flat uint8 array."""
        return self._start_read(tensor, out).wait()

    def read_tensor_async(self, tensor: MLTensor, out: Any = None) -> Coroutine[Any, Any, Any]:
        """`read_tensor`, awaitable. What is read is the tensor of the moment of this call, not of the `await`."""
        return self._start_read(tensor, out).wait_async()

    def _start_read(self, tensor: MLTensor, out: Any) -> Reading:
        self._require_open()
        self._check(tensor, "read_tensor")
        if not tensor.readable:
            raise InputError(f"read_tensor: {tensor!r} is not readable")
        with self._lock:
            self._check(tensor, "read_tensor")
            return self._read(tensor, out)

    def _read(self, tensor: MLTensor, out: Any) -> Reading:
        """A read of what was dispatched so far: something with `wait` and `wait_async`."""
        return self._readback.start(tensor, out)

    def _check(self, tensor: object, where: str) -> None:
        if not isinstance(tensor, MLTensor):
            raise TypeInferenceError(f"{where}: {tensor!r} is not an MLTensor")
        if tensor._context is not self:
            raise TypeInferenceError(f"{where}: {tensor!r} belongs to another context")
        if tensor.destroyed:
            raise InputError(f"{where}: {tensor!r} was used after destroy")
        if not tensor._owned:
            require_usable(tensor.gpu_buffer, self._device.handle, where)

    # ------------------------------------------------------------------ running

    def dispatch(self, graph: MLGraph, inputs: Mapping[str, MLTensor], outputs: Mapping[str, MLTensor]) -> None:
        """Run a graph on tensors, after everything dispatched so far; returns at once. Reading an output waits."""
        executable = self._executable(graph, "dispatch")
        with self._lock:
            self._check_tensors(graph, inputs, outputs)
            given, taken = ({name: t._buffer for name, t in each.items()} for each in (inputs, outputs))
            self._run(executable, given, taken)

    def _compile(self, graph: Graph) -> Executable:
        """A graph, ready to run."""
        bundle = compile(graph, self._target, pipeline=self._pipeline)
        return load(bundle, self._device, memory=Memory(arenas=self._arenas))

    def _run(self, executable: Executable, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        """Run on the buffers of tensors, by name."""
        executable.dispatch(inputs, outputs)

    def _check_tensors(self, graph: MLGraph, inputs: Mapping[str, MLTensor], outputs: Mapping[str, MLTensor]) -> None:
        seen: dict[int, str] = {}
        for kind, given, wanted in (("input", inputs, graph.inputs), ("output", outputs, graph.outputs)):
            if not isinstance(given, Mapping):
                raise TypeInferenceError(f"dispatch: {kind}s must be a dict of tensors by name, not {given!r}")
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
                if id(tensor._buffer) in seen:
                    raise TypeInferenceError(f"{where}: the tensor is {seen[id(tensor._buffer)]} as well")
                seen[id(tensor._buffer)] = f"{kind} {name!r}"

    def compute(
        self, graph: MLGraph, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """Run a graph on arrays and wait: the specification's older spelling. `outputs` are arrays to fill; without
        them new ones are made. Returns arrays by output name. An input may be a flat array of all its elements."""
        executable = self._executable(graph, "compute")
        if not isinstance(outputs, (Mapping, type(None))):
            raise InputError(f"compute: outputs is a dict of arrays by name, not {type(outputs).__name__}")
        shapes = {p.name: p.shape for p in executable.inputs}
        flat = {n: a for n, a in inputs.items() if isinstance(a, np.ndarray) and a.ndim == 1 and n in shapes}
        fit = {n: a.reshape(shapes[n]) for n, a in flat.items() if a.size == math.prod(shapes[n])}
        result = executable.run({**inputs, **fit})
        if outputs is None:
            return result
        for name, array in outputs.items():
            have = result.get(name)
            if (
                not isinstance(array, np.ndarray)
                or have is None
                or (array.shape, array.dtype) != (have.shape, have.dtype)
            ):
                raise InputError(f"compute: output {name!r} does not fit {graph!r}")
            array[...] = have
        return dict(outputs)

    def _executable(self, graph: object, where: str) -> Executable:
        self._require_open()
        if not isinstance(graph, MLGraph) or graph._context is not self:
            raise TypeInferenceError(f"{where}: {graph!r} is no graph of this context")
        if graph._executable is None:
            raise InputError(f"{where}: {graph!r} was used after destroy")
        return graph._executable

    # ------------------------------------------------------------------ limits

    def op_support_limits(self) -> dict[str, Any]:
        """What each operator takes and gives here: data types and ranks by operand, in the specification's structure
        with names in snake_case."""
        return limits.op_support_limits(frozenset(DATA_TYPES), self._max_bytes)

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


def tensor_bytes(type: TensorType) -> int:
    """Bytes of the buffer of a tensor: whole vectors, which graphs can use without a copy."""
    return _padded(type, 16)


def _padded(type: TensorType, unit: int = 4) -> int:
    return (type.nbytes + unit - 1) // unit * unit


def _check_target(target: Target, whole: Target) -> None:
    if not isinstance(target, Target):
        raise InputError(f"create_context: target must be a gpucompile.Target, not {target!r}")
    lacking = [f"feature {f}" for f in target.features if f not in whole.features]
    for name, value in target.limits.items():
        have = whole.limits[name]
        if value < have if name.startswith("min-") else value > have:
            lacking.append(f"{name} {value:,} (it has {have:,})")
    if lacking:
        raise InputError(f"create_context: the device {whole.name} lacks what the target asks: {', '.join(lacking)}")
