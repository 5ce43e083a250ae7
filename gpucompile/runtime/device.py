"""Devices: finding an adapter, asking for all it can do, and turning its errors into exceptions.

    wgpu module -> adapters, ranked -> GPUDevice with every wanted feature and the adapter's limits -> Device

Only the wgpu-py API is used, so a drop-in implementation (`wgpudawn`) can take its place. OpenGL adapters are never
chosen: they exist wherever Vulkan is missing and fail late.

wgpu-py raises most errors in the call that caused them. Some only reach its log: those found while it polls, and those
of calls made without its wrapper. `Device.guard` watches that log too, so that nothing is swallowed.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any

from gpucompile.errors import ClosedError, DeviceError, DeviceLost
from gpucompile.runtime.bundle import check_requires
from gpucompile.runtime.format import Requires

#: Optional features asked for where the adapter has them (WebGPU names).
WANTED_FEATURES = ("shader-f16", "subgroups", "timestamp-query")

_NATIVE_NAMES = {"subgroup": "subgroups"}  # wgpu-native's name -> WebGPU's
_BACKENDS = {"linux": ("Vulkan",), "darwin": ("Metal",), "win32": ("D3D12", "Vulkan"), "emscripten": ("WebGPU",)}
_LOST = re.compile(r"device\]? (is |was )?lost", re.IGNORECASE)
_TYPES = ("DiscreteGPU", "IntegratedGPU", "Unknown", "CPU")  # best first

Step = tuple[Any, Any, int, int, int]  # pipeline, bind group, grid


@dataclass(frozen=True)
class AdapterInfo:
    """One adapter as `list_adapters` found it; `usable` says whether `Device.open` would take it."""

    implementation: str
    name: str
    backend: str
    type: str
    driver: str
    features: tuple[str, ...]
    limits: dict[str, int]
    usable: bool


def list_adapters(implementation: str | ModuleType | None = None) -> list[AdapterInfo]:
    """All adapters of an implementation (default `wgpu`), best first; unusable ones are last."""
    api = _api(implementation)
    found = []
    for adapter in _adapters(api):
        info = adapter.info
        found.append(
            AdapterInfo(
                implementation=_implementation(adapter),
                name=_name(adapter),
                backend=str(info["backend_type"]),
                type=str(info["adapter_type"]),
                driver=str(info["description"]),
                features=tuple(sorted(_webgpu_names(adapter.features))),
                limits=dict(adapter.limits),
                usable=_usable(adapter),
            )
        )
    return found


class Device:
    """A GPU (or a software one) ready to run plans. Open one with `Device.open` or wrap your own with `Device.wrap`.

    name             the adapter's name
    features         WebGPU names of the features that were enabled
    limits           the device's limits by kebab-case WebGPU name
    adapter, handle  the wgpu objects underneath
    is_software      whether the CPU does the work

    Closing a device makes its executables unusable. A wrapped device is left open.
    """

    def __init__(self, handle: Any, *, adapter: Any = None) -> None:
        """Use `Device.open` or `Device.wrap`."""
        self.handle = handle
        self.adapter = adapter if adapter is not None else handle.adapter
        self.features = frozenset(_webgpu_names(handle.features))
        self.limits: dict[str, int] = dict(handle.limits)
        self.name = _name(self.adapter)
        self.backend = str(self.adapter.info["backend_type"])
        self.is_software = self.adapter.info["adapter_type"] == "CPU"
        self.implementation = _implementation(self.adapter)
        self.api = sys.modules[self.implementation]
        self._modules: weakref.WeakValueDictionary[tuple[str, str], Any] = weakref.WeakValueDictionary()
        self._pipelines: weakref.WeakValueDictionary[tuple[object, ...], Any] = weakref.WeakValueDictionary()
        self._layouts: dict[tuple[str, ...], tuple[Any, Any]] = {}
        self._lock = threading.RLock()
        self._lost = ""
        self._closed = False
        self._map_mode = "READ_NOSYNC"  # wgpu-py's READ submits once more, which is not needed after a submit of ours
        _watch(self.implementation)

    @staticmethod
    def open(
        adapter: Any = None,
        *,
        implementation: str | ModuleType | None = None,
        power_preference: str = "high-performance",
        prefer: str | None = None,
    ) -> Device:
        """Open a device with every wanted feature and all limits its adapter offers.

        adapter           a wgpu adapter; None picks one: hardware before software, never OpenGL
        implementation    `"wgpu"` (default), `"wgpudawn"`, or such a module
        power_preference  `"high-performance"` takes discrete GPUs first, `"low-power"` integrated ones
        prefer            part of an adapter's name, or `"hardware"` or `"software"`: only such adapters

        A backend forced by wgpu's own WGPU_BACKEND_TYPE is obeyed. Raises DeviceError if there is no usable adapter.
        """
        if adapter is None:
            adapter = _choose(_api(implementation), power_preference, prefer)
        wanted = [f for f in adapter.features if _NATIVE_NAMES.get(f, f) in WANTED_FEATURES]
        try:
            handle = adapter.request_device_sync(required_features=wanted, required_limits=dict(adapter.limits))
        except Exception as e:
            raise DeviceError(f"{_name(adapter)}: the device cannot be opened: {e}") from e
        return Device(handle, adapter=adapter)

    @staticmethod
    def wrap(handle: Any) -> Device:
        """A Device around a caller's own `wgpu.GPUDevice`; the caller keeps owning it."""
        return Device(handle)

    def __repr__(self) -> str:
        return f"<Device {self.name!r} ({self.implementation}, {self.backend})>"

    @property
    def closed(self) -> bool:
        """Whether `close` was called or the device was lost."""
        return self._closed or bool(self._lost)

    def close(self) -> None:
        """Let go of the device; its executables can no longer run."""
        self._closed = True
        self._modules.clear()
        self._pipelines.clear()
        self._layouts.clear()

    def __enter__(self) -> Device:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # ------------------------------------------------------------------ errors

    def guard(self, doing: str) -> _Guard:
        """A context in which wgpu's errors, raised or only logged, become DeviceError or DeviceLost.

        `doing` starts the message: `creating buffer 3`."""
        return _Guard(self, doing)

    def require_open(self) -> None:
        """Raise ClosedError or DeviceLost if the device can no longer be used."""
        if self._lost:
            raise DeviceLost(f"{self.name}: the device was lost: {self._lost}. Open a new one")
        if self._closed:
            raise ClosedError(f"{self.name}: the device is closed")

    def translate(self, error: Exception, doing: str) -> Exception:
        """The exception of gpucompile's family that stands for one of wgpu's."""
        text, kind = str(error).strip(), type(error).__name__
        if _LOST.search(text):
            self._lost = self._lost or text
            return DeviceLost(f"{doing}: the device {self.name} was lost: {text}")
        what = {"GPUOutOfMemoryError": "out of memory", "GPUValidationError": "rejected by the device"}.get(kind, "")
        return DeviceError(f"{doing}: {what + ': ' if what else ''}{text or kind}")

    # ------------------------------------------------------------------ shaders

    @property
    def is_naga(self) -> bool:
        """Whether shaders are compiled by naga (wgpu-native), whose dialect differs from Tint's."""
        return ".wgpu_native" in type(self.adapter).__module__

    def prelude(self, features: Iterable[str]) -> str:
        """WGSL directives that a shader using these features starts with, in this device's dialect."""
        have = set(features)
        lines = ["enable f16;"] if "shader-f16" in have else []
        if "subgroups" in have and not self.is_naga:  # naga 29 knows subgroups without the directive, and rejects it
            lines.append("enable subgroups;")
        return "".join(line + "\n" for line in lines)

    def layout(self, accesses: tuple[str, ...]) -> tuple[Any, Any]:
        """Bind group layout and pipeline layout for storage bindings with these accesses."""
        with self._lock:
            if accesses not in self._layouts:
                kinds = {"read": "read-only-storage", "read_write": "storage"}
                visibility = self.api.ShaderStage.COMPUTE
                group = self.handle.create_bind_group_layout(
                    entries=[
                        {"binding": i, "visibility": visibility, "buffer": {"type": kinds[a]}}
                        for i, a in enumerate(accesses)
                    ]
                )
                pipeline = self.handle.create_pipeline_layout(bind_group_layouts=[group])
                self._layouts[accesses] = group, pipeline
            return self._layouts[accesses]

    def shader(self, text: str, key: str = "", label: str = "") -> Any:
        """A shader module from full WGSL text; `key` (such as a sha256) makes it shared. DeviceError if invalid."""
        with self._lock:
            module = self._modules.get((key, text)) if key else None
        if module is None:  # compiled outside the lock, so that several threads can
            with self.guard(f"compiling shader {label or key[:12]}"):
                module = self.handle.create_shader_module(label=label, code=text)
            if key:
                with self._lock:
                    module = self._modules.setdefault((key, text), module)
        return module

    def pipeline(
        self, sha256: str, text: str, accesses: Sequence[str], features: Iterable[str] = (), label: str = ""
    ) -> Any:
        """The compute pipeline of a shader (without prelude) whose bindings have these accesses; cached."""
        prelude = self.prelude(features)
        key = (sha256, prelude, *accesses)
        with self._lock:
            pipeline = self._pipelines.get(key)
        if pipeline is None:
            name = label or sha256[:12]
            module = self.shader(prelude + text, sha256, name)
            with self.guard(f"creating the pipeline of shader {name}"):
                pipeline = self.handle.create_compute_pipeline(
                    label=name,
                    layout=self.layout(tuple(accesses))[1],
                    compute={"module": module, "entry_point": "main"},
                )
            with self._lock:
                pipeline = self._pipelines.setdefault(key, pipeline)
        return pipeline

    def missing(self, requires: Requires) -> list[str]:
        """What this device lacks of a plan's requirements, as text; empty if it can run it."""
        return check_requires(requires, self.features, self.limits)

    # ------------------------------------------------------------------ the hot path

    def recorder(self, steps: Sequence[Step]) -> Callable[[Any], None]:
        """A function that records these dispatches into a compute pass.

        Where wgpu-py's foreign function layer is within reach its three calls are made directly (0.7 us a step); else
        through the public methods (3 us)."""
        raw = _raw_calls(steps[0][0]) if steps else None
        return _public_recorder(steps) if raw is None else _raw_recorder(steps, *raw)

    def map_read(self, buffer: Any, size: int) -> Any:
        """Start mapping a buffer for reading; returns wgpu's promise."""
        try:
            return buffer.map_async(self._map_mode, 0, size)
        except (KeyError, ValueError):  # an implementation that only knows the standard mode
            self._map_mode = "READ"
            return buffer.map_async(self._map_mode, 0, size)

    @property
    def timestamp_period(self) -> float:
        """Nanoseconds per tick of a timestamp. WebGPU promises 1; wgpu-native hands out the hardware's ticks."""
        module = sys.modules.get(type(self.handle).__module__)
        read = getattr(getattr(module, "lib", None), "wgpuQueueGetTimestampPeriod", None)
        return float(read(self.handle.queue._internal)) if read is not None else 1.0

    def synchronise(self) -> None:
        """Wait until all submitted work is done."""
        usage = self.api.BufferUsage
        with self.guard("waiting for the device"):
            buffer = self.handle.create_buffer(size=4, usage=usage.COPY_DST | usage.MAP_READ)
            encoder = self.handle.create_command_encoder()
            encoder.clear_buffer(buffer)
            self.handle.queue.submit([encoder.finish()])
            self.map_read(buffer, 4).sync_wait()
            buffer.unmap()
            buffer.destroy()


_default: weakref.ref[Device] | None = None
_default_lock = threading.Lock()


def default_device() -> Device:
    """The device shared by everything that names none; it lives as long as something uses it."""
    global _default
    with _default_lock:
        device = _default() if _default is not None else None
        if device is None or device.closed:
            device = Device.open()
            _default = weakref.ref(device)
        return device


# ---------------------------------------------------------------------------------------------- recording


def _public_recorder(steps: Sequence[Step]) -> Callable[[Any], None]:
    def record(compute_pass: Any) -> None:
        set_pipeline, set_group = compute_pass.set_pipeline, compute_pass.set_bind_group
        dispatch, last = compute_pass.dispatch_workgroups, None
        for pipeline, group, x, y, z in steps:
            if pipeline is not last:
                set_pipeline(pipeline)
                last = pipeline
            set_group(0, group)
            dispatch(x, y, z)

    return record


def _raw_calls(pipeline: Any) -> tuple[Any, Any] | None:
    """The cffi library and interface behind a wgpu object, or None where there is none (a browser)."""
    module = sys.modules.get(type(pipeline).__module__)
    lib: Any = getattr(module, "lib", None)
    ffi: Any = getattr(module, "ffi", None)
    names = ("SetPipeline", "SetBindGroup", "DispatchWorkgroups")
    try:
        if ffi.typeof(pipeline._internal) is ffi.typeof("WGPUComputePipeline") and all(
            callable(getattr(lib, "wgpuComputePassEncoder" + n)) for n in names
        ):
            return lib, ffi
    except Exception:  # any surprise here only means that the public methods are used
        pass
    return None


def _raw_recorder(steps: Sequence[Step], lib: Any, ffi: Any) -> Callable[[Any], None]:
    objects = list(steps)  # the handles below are valid as long as the objects live
    last, flat = None, []
    for pipeline, group, x, y, z in objects:
        flat.append((None if pipeline is last else pipeline._internal, group._internal, x, y, z))
        last = pipeline
    set_pipeline, set_group = lib.wgpuComputePassEncoderSetPipeline, lib.wgpuComputePassEncoderSetBindGroup
    dispatch, null = lib.wgpuComputePassEncoderDispatchWorkgroups, ffi.NULL

    def record(compute_pass: Any, keep: object = objects) -> None:
        handle = compute_pass._internal
        for pipeline, group, x, y, z in flat:
            if pipeline is not None:
                set_pipeline(handle, pipeline)
            set_group(handle, 0, group, 0, null)
            dispatch(handle, x, y, z)

    return record


# ---------------------------------------------------------------------------------------------- errors in the log


class _LogWatch(logging.Handler):
    """Collects errors that wgpu logs for the guards that are open: those of the guard's own thread, and those of
    wgpu's polling threads."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.guards: set[_Guard] = set()

    def emit(self, record: logging.LogRecord) -> None:
        polling = type(threading.current_thread()).__name__ == "PollThread"
        for guard in list(self.guards):
            if polling or guard.thread == record.thread:
                guard.logged.append(record.getMessage())


_watches: dict[str, _LogWatch] = {}


def _watch(implementation: str) -> None:
    if implementation not in _watches:
        _watches[implementation] = _LogWatch()
        logging.getLogger(implementation).addHandler(_watches[implementation])


class _Guard:
    __slots__ = ("device", "doing", "logged", "thread")

    def __init__(self, device: Device, doing: str) -> None:
        self.device, self.doing = device, doing
        self.thread = threading.get_ident()
        self.logged: list[str] = []

    def __enter__(self) -> None:
        _watches[self.device.implementation].guards.add(self)

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        _watches[self.device.implementation].guards.discard(self)
        if e is None and self.logged:
            raise self.device.translate(RuntimeError("\n".join(self.logged)), self.doing)
        if isinstance(e, Exception) and (type(e).__name__.startswith("GPU") or type(e) is RuntimeError):
            raise self.device.translate(e, self.doing) from e


# ---------------------------------------------------------------------------------------------- adapters


def _api(implementation: str | ModuleType | None) -> ModuleType:
    if isinstance(implementation, ModuleType):
        return implementation
    name = implementation or "wgpu"
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise DeviceError(f"the WebGPU implementation {name!r} cannot be imported: {e}. Try: pip install {name}") from e


def _implementation(adapter: Any) -> str:
    return str(type(adapter).__module__).split(".")[0]


def _name(adapter: Any) -> str:
    info = adapter.info
    return str(info["device"] or info["description"] or info["vendor"] or "unnamed adapter")


def _webgpu_names(features: Iterable[str]) -> list[str]:
    return [_NATIVE_NAMES.get(f, f) for f in features]


def _forced() -> bool:
    return bool(os.environ.get("WGPU_BACKEND_TYPE", "").strip())  # read by wgpu-py itself, for tests


def _usable(adapter: Any) -> bool:
    return _forced() or adapter.info["backend_type"] in _BACKENDS.get(sys.platform, ("Vulkan",))


def _rank(adapter: Any, low_power: bool = False) -> tuple[bool, int]:
    kinds = ("IntegratedGPU", *(t for t in _TYPES if t != "IntegratedGPU")) if low_power else _TYPES
    kind = adapter.info["adapter_type"]
    return not _usable(adapter), kinds.index(kind if kind in kinds else "Unknown")


def _adapters(api: ModuleType) -> list[Any]:
    gpu: Any = api.gpu
    try:
        found = [gpu.request_adapter_sync()] if _forced() else list(gpu.enumerate_adapters_sync())
    except Exception as e:
        raise DeviceError(f"{api.__name__} finds no adapter: {e}") from e
    return sorted((a for a in found if a is not None), key=_rank)


def _choose(api: ModuleType, power_preference: str, prefer: str | None) -> Any:
    if power_preference not in ("high-performance", "low-power"):
        raise DeviceError(f"power_preference must be high-performance or low-power, not {power_preference!r}")
    found = _adapters(api)
    good = [a for a in found if _usable(a)]
    if prefer in ("hardware", "software"):
        good = [a for a in good if (a.info["adapter_type"] == "CPU") == (prefer == "software")]
    elif prefer is not None:
        good = [a for a in good if prefer.lower() in f"{_name(a)} {a.info['vendor']}".lower()]
    if not good:
        what = f"adapter matching {prefer!r}" if prefer else "usable adapter"
        seen = ", ".join(f"{_name(a)} ({a.info['backend_type']})" for a in found) or "none at all"
        hint = " Install a Vulkan driver (a software one: mesa-vulkan-drivers)." if sys.platform == "linux" else ""
        raise DeviceError(f"no {what} found through {api.__name__}; there is {seen}.{hint}")
    return min(good, key=lambda a: _rank(a, power_preference == "low-power"))
