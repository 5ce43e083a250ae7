"""Devices: finding an adapter, asking for all it can do, and turning its errors into exceptions.

    wgpu module -> adapters, ranked -> GPUDevice with every wanted feature and the adapter's limits -> Device

Only the wgpu-py API is used, so a drop-in implementation (`wgpudawn`) can take its place. OpenGL adapters are never
chosen: they exist wherever Vulkan is missing and fail late.

wgpu-py raises most errors in the call that caused them. Some only reach its log: those found while it polls, and those
of calls made without its wrapper. `Device.guard` watches that log too, so that nothing is swallowed.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType, TracebackType
from typing import Any

from gpucompile.errors import ClosedError, DeviceError, DeviceLost
from gpucompile.runtime.adapters import (
    NATIVE_NAMES,
    api_of,
    choose_adapter,
    implementation_of,
    name_of,
    webgpu_names,
)
from gpucompile.runtime.buffers import is_destroyed, submission_lock, watch_destroy
from gpucompile.runtime.checks import check_requires
from gpucompile.runtime.format import Requires
from gpucompile.runtime.recording import Step, public_recorder, raw_calls, raw_recorder

#: Optional features asked for where the adapter has them (WebGPU names).
WANTED_FEATURES = ("shader-f16", "subgroups", "timestamp-query")

#: Pipelines that a device keeps for graphs still to come, beside those that are in use.
MAX_RECENT = 4096

_PROBE = "gpucompile-probe"  # name of the threads that look whether a device is lost
_LOST = re.compile(r"device\]? (is |was )?lost", re.IGNORECASE)


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
        self.features = frozenset(webgpu_names(handle.features))
        self.limits: dict[str, int] = dict(handle.limits)
        self.name = name_of(self.adapter)
        self.backend = str(self.adapter.info["backend_type"])
        self.is_software = self.adapter.info["adapter_type"] == "CPU"
        self.implementation = implementation_of(self.adapter)
        self.api = sys.modules[self.implementation]
        self._modules: weakref.WeakValueDictionary[tuple[str, str], Any] = weakref.WeakValueDictionary()
        self._pipelines: weakref.WeakValueDictionary[tuple[object, ...], Any] = weakref.WeakValueDictionary()
        self._recent: OrderedDict[tuple[object, ...], Any] = OrderedDict()  # keeps pipelines alive, latest last
        self._layouts: dict[tuple[str, ...], tuple[Any, Any]] = {}
        self._lock = threading.RLock()
        self._lost = ""
        self._lost_callbacks: list[weakref.WeakMethod[Callable[[str], None]]] = []
        self._closed = False
        self._map_mode = "READ_NOSYNC"  # wgpu-py's READ submits once more, which is not needed after a submit of ours
        watch_destroy(type(handle))
        self.submission_lock = submission_lock(handle)
        _watch(self)
        with self.guard("trying the device"):
            probe = handle.create_buffer(size=4, usage=self.api.BufferUsage.COPY_DST)
        watch_destroy(type(probe))
        probe.destroy()

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
            adapter = choose_adapter(api_of(implementation), power_preference, prefer)
        wanted = [f for f in adapter.features if NATIVE_NAMES.get(f, f) in WANTED_FEATURES]
        try:
            handle = adapter.request_device_sync(required_features=wanted, required_limits=dict(adapter.limits))
        except Exception as e:
            raise DeviceError(f"{name_of(adapter)}: the device cannot be opened: {e}") from e
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
        return self._closed or bool(self._lost) or is_destroyed(self.handle)

    def close(self) -> None:
        """Let go of the device; its executables can no longer run."""
        self._closed = True
        self._modules.clear()
        self._pipelines.clear()
        self._recent.clear()
        self._layouts.clear()

    def __enter__(self) -> Device:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # ------------------------------------------------------------------ errors

    def guard(self, doing: str) -> _Guard:
        """A context in which wgpu's errors, raised or only logged, become DeviceError or DeviceLost.

        `doing` starts the message: `creating buffer 3`. Raises DeviceLost if it is known to be lost."""
        return _Guard(self, doing)

    def holding(self, doing: str) -> _Guard:
        """A `guard` around a submission and the checks of what it uses, or around the reading of a mapped buffer.
        Meanwhile no other thread submits to the device, or destroys it or a buffer of it."""
        return _Guard(self, doing, self.submission_lock)

    def require_open(self) -> None:
        """Raise ClosedError or DeviceLost if the device can no longer be used."""
        self.require_alive()
        if self._closed:
            raise ClosedError(f"{self.name}: the device is closed")

    def require_alive(self, doing: str = "") -> None:
        """Raise DeviceLost if the device is known to be lost; `doing` starts the message."""
        if not self._lost and is_destroyed(self.handle):
            self._lose("it was destroyed")
        if self._lost:
            raise self._loss(doing)

    def _loss(self, doing: str) -> DeviceLost:
        return DeviceLost(f"{doing + ': ' if doing else ''}{self._told()}. Open a new one")

    def translate(self, error: Exception, doing: str) -> Exception:
        """The exception of gpucompile's family that stands for one of wgpu's."""
        text, kind = str(error).strip(), type(error).__name__
        if _LOST.search(text):
            self._lose("it was destroyed" if is_destroyed(self.handle) else _reason(text))
            return self._loss(doing)
        what = {"GPUOutOfMemoryError": "out of memory", "GPUValidationError": "rejected by the device"}.get(kind, "")
        return DeviceError(f"{doing}: {what + ': ' if what else ''}{text or kind}")

    def on_lost(self, callback: Callable[[str], None]) -> None:
        """Have a method called with the reason when the device is found to be lost, from whatever thread finds it. Its
        object is not kept alive.

        wgpu-py has no `GPUDevice.lost`; a loss is found by the call that fails for it, or by what wgpu logs while it
        waits for the device."""
        with self._lock:
            self._lost_callbacks.append(weakref.WeakMethod(callback))
        if self._lost:
            callback(self._told())

    def _lose(self, reason: str) -> None:
        with self._lock:
            if self._lost:
                return
            self._lost = reason
            callbacks, self._lost_callbacks = self._lost_callbacks, []
        for reference in callbacks:
            if (callback := reference()) is not None:
                callback(self._told())

    def _told(self) -> str:
        return f"the device {self.name} was lost ({self._lost})"

    def _probe(self) -> None:
        """Find out whether the device is the one that wgpu's log calls lost."""
        with contextlib.suppress(DeviceError), self.guard("looking whether the device is lost"):
            self.handle.create_buffer(size=4, usage=self.api.BufferUsage.COPY_DST).destroy()

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
        """The compute pipeline of a shader (without prelude) whose bindings have these accesses. Pipelines in use, and
        the last MAX_RECENT ones, are shared by all that ask for them."""
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
            self._recent[key] = pipeline
            self._recent.move_to_end(key)
            if len(self._recent) > MAX_RECENT:
                self._recent.popitem(last=False)
        return pipeline

    def missing(self, requires: Requires) -> list[str]:
        """What this device lacks of a plan's requirements, as text; empty if it can run it."""
        return check_requires(requires, self.features, self.limits)

    # ------------------------------------------------------------------ the hot path

    def recorder(self, steps: Sequence[Step]) -> Callable[[Any], None]:
        """A function that records these dispatches into a compute pass.

        Where wgpu-py's foreign function layer is within reach its three calls are made directly (0.7 us a step); else
        through the public methods (3 us)."""
        raw = raw_calls(steps[0][0]) if steps else None
        return public_recorder(steps) if raw is None else raw_recorder(steps, *raw)

    def map_read(self, buffer: Any, size: int) -> Any:
        """Start mapping a buffer for reading; returns wgpu's promise."""
        with self.holding("reading a buffer"):
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
        doing = "waiting for the device"
        with self.holding(doing):
            buffer = self.handle.create_buffer(size=4, usage=usage.COPY_DST | usage.MAP_READ)
            encoder = self.handle.create_command_encoder()
            encoder.clear_buffer(buffer)
            self.handle.queue.submit([encoder.finish()])
        with self.guard(doing):
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


# ---------------------------------------------------------------------------------------------- errors in the log


class _LogWatch(logging.Handler):
    """Collects errors that wgpu logs for the guards that are open: those of the guard's own thread, and those of
    wgpu's polling threads. When it says that a device was lost, all devices look whether it is them: it says not
    which."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.guards: set[_Guard] = set()
        self.devices: weakref.WeakSet[Device] = weakref.WeakSet()

    def emit(self, record: logging.LogRecord) -> None:
        polling = type(threading.current_thread()).__name__ == "PollThread"
        for guard in list(self.guards):
            if polling or guard.thread == record.thread:
                guard.logged.append(record.getMessage())
        if _LOST.search(record.getMessage()) and record.threadName != _PROBE:
            for device in list(self.devices):  # not in this thread, which is inside of wgpu
                if not device._lost and not device._closed:
                    with contextlib.suppress(RuntimeError):  # the interpreter is shutting down
                        # no daemon: one that is inside of wgpu when the interpreter ends takes the process down
                        threading.Thread(target=device._probe, name=_PROBE).start()


_watches: dict[str, _LogWatch] = {}


def _watch(device: Device) -> None:
    name = device.implementation
    if name not in _watches:
        _watches[name] = _LogWatch()
        logging.getLogger(name).addHandler(_watches[name])
    _watches[name].devices.add(device)


def _reason(text: str) -> str:
    """What wgpu says of a loss, in one line: without its headings and the name of the call that met it."""
    lines = [line.strip() for line in text.splitlines()]
    told = [line for line in lines if line and not line.startswith(("Validation Error", "Caused by:", "In wgpu"))]
    return "; ".join(told) or text


class _Guard:
    __slots__ = ("device", "doing", "lock", "logged", "thread")

    def __init__(self, device: Device, doing: str, lock: Any = None) -> None:
        self.device, self.doing, self.lock = device, doing, lock
        self.thread = threading.get_ident()
        self.logged: list[str] = []

    def __enter__(self) -> None:
        if self.lock is not None:
            self.lock.acquire()
        try:
            self.device.require_alive(self.doing)
        except DeviceLost:
            if self.lock is not None:
                self.lock.release()
            raise
        _watches[self.device.implementation].guards.add(self)

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        _watches[self.device.implementation].guards.discard(self)
        if self.lock is not None:
            self.lock.release()
        if e is None and self.logged:
            raise self.device.translate(RuntimeError("\n".join(self.logged)), self.doing)
        if isinstance(e, Exception) and (type(e).__name__.startswith("GPU") or type(e) is RuntimeError):
            raise self.device.translate(e, self.doing) from e
