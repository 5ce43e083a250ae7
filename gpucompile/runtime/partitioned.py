"""Models in parts, running: the interface of `Executable`, with parts on wgpu, on OpenVINO's devices and on a host.

Values cross between parts as numpy arrays; one that several parts read is read back from the device once. What only
wgpu parts read stays in GPU buffers, which every run takes from a pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gpucompile.errors import BundleError, ClosedError, DeviceError, FallbackError, InputError, UnsupportedError
from gpucompile.runtime.checks import port_bytes
from gpucompile.runtime.device import Device, default_device
from gpucompile.runtime.executable import NUMPY_DTYPES, Executable
from gpucompile.runtime.format import HostNode, Part, PartitionManifest, Port, Slot
from gpucompile.runtime.host import HostModel, open_host
from gpucompile.runtime.memory import Memory
from gpucompile.runtime.openvino import OpenvinoExecutable, OpenvinoOptions, find_device
from gpucompile.runtime.parts import DEVICE, KIND_OF, Edge, PartitionedLike, edges, fallback_of, resident, slots_of
from gpucompile.runtime.player import Progress


class PartitionedExecutable(Executable):
    """A model in parts, ready to run: the interface of `Executable`. Inputs and outputs that the device cannot hold are
    numpy arrays of their type (strings: object arrays), sequences are lists of arrays; an extent that depends on data
    is -1 in their port's shape."""

    def __init__(
        self,
        bundle: PartitionedLike,
        device: Device | None = None,
        progress: Progress | None = None,
        submits: int = 1,
        options: OpenvinoOptions | None = None,
        substitute: bool = False,
        memory: Memory | None = None,
    ) -> None:
        """Put every part where it belongs: wgpu parts on `device` (default: the one that the process shares), parts for
        OpenVINO's devices there, with `options`, host parts on a host. With `substitute` parts for an NPU that is not
        here run on OpenVINO's CPU device, and `skipped` says so. `memory` counts what the wgpu parts take.

        Raises DeviceError naming the part whose device is missing, BundleError where a host part needs what is not
        installed, and what `Executable` raises."""
        self.manifest = bundle.manifest
        if device is not None:
            self.device = device
        self._slots = slots_of(self.manifest)
        self._runs: list[Executable | HostModel] = []
        self._spare: list[dict[str, Any]] = []  # GPU buffers of runs that are done
        self._resident = resident(self.manifest)
        self._lock = threading.RLock()
        self._open = True
        try:
            for i, part in enumerate(self.manifest.parts):
                if part.backend == DEVICE:
                    device = self.device = _opened(device, i, part)
                    self._runs.append(Executable(bundle.device_part(i), device, progress, submits, memory=memory))
                elif part.backend in KIND_OF:
                    self._runs.append(self._on_openvino(bundle, i, part, options, substitute))
                else:
                    self._runs.append(_open_host(bundle.host_part(i), i, part))
        except BaseException:
            self.close()
            raise
        self._last = _last_reads(self.manifest)

    def _on_openvino(
        self, bundle: PartitionedLike, index: int, part: Part, options: OpenvinoOptions | None, substitute: bool
    ) -> OpenvinoExecutable:
        kind, data = KIND_OF[part.backend], bundle.device_part(index)
        try:
            found = find_device(kind)
        except DeviceError as e:
            if not substitute or kind != "npu":
                raise DeviceError(f"{_called(index, part)} is for {kind}: {e}") from e
            found = find_device("cpu")
            self.skipped = (*self.skipped, f"{_called(index, part)} runs on {found.full_name}, not on an NPU: {e}")
        except UnsupportedError as e:
            raise UnsupportedError(f"{_called(index, part)} is for {kind}: {e}") from e
        try:
            return OpenvinoExecutable(data, found, options)
        except DeviceError as e:
            raise DeviceError(f"{_called(index, part)}: {e}") from e

    @property
    def inputs(self) -> tuple[Port, ...]:
        return tuple(map(_port, self.manifest.inputs))

    @property
    def outputs(self) -> tuple[Port, ...]:
        return tuple(map(_port, self.manifest.outputs))

    @property
    def kernels(self) -> int:
        return sum(run.kernels for run in self._runs if isinstance(run, Executable))

    @property
    def fallback(self) -> tuple[HostNode, ...]:
        return fallback_of(self.manifest)

    @property
    def backends(self) -> tuple[str, ...]:
        """What runs each part here."""
        return tuple(_backend(run) for run in self._runs)

    @property
    def edges(self) -> tuple[Edge, ...]:
        """The values that cross between parts, with bytes and the way they take."""
        return edges(self.manifest)

    @property
    def device_name(self) -> str:
        names = (r.device_name if isinstance(r, Executable) else r.backend for r in self._runs)
        return " + ".join(dict.fromkeys(names))

    # ------------------------------------------------------------------ running

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run all parts in order: arrays by input name -> new arrays by output name.

        Raises InputError for inputs that do not fit, FallbackError if a host fails, and what `Executable.run` does."""
        known = self._given(inputs)
        with self._buffers() as buffers:
            for i, run in enumerate(self._parts()):
                feeds = self._feeds(known | buffers, i)
                if isinstance(run, Executable):
                    with self._naming(i):
                        results = run.run_bound(feeds, self._kept(buffers, i))
                    self._take(known, i, results)
                else:
                    self._take(known, i, run.run(feeds))
        return self._results(known)

    async def run_async(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Like `run`, without blocking the event loop; host parts run in a thread."""
        known = self._given(inputs)
        with self._buffers() as buffers:
            for i, run in enumerate(self._parts()):
                feeds = self._feeds(known | buffers, i)
                if isinstance(run, Executable):
                    with self._naming(i):
                        results = await run.run_bound_async(feeds, self._kept(buffers, i))
                    self._take(known, i, results)
                else:
                    self._take(known, i, await asyncio.to_thread(run.run, feeds))
        return self._results(known)

    def dispatch(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Not possible: raises UnsupportedError, because parts give each other arrays."""
        raise UnsupportedError("a model in parts does not run on GPU buffers; use run")

    def run_bound(
        self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], read: Collection[str] | None = None
    ) -> dict[str, Any]:
        """`run` on arrays; with GPU buffers not possible, like `dispatch`."""
        self._refuse_buffers(inputs, outputs)
        return {n: y for n, y in self.run(inputs).items() if read is None or n in read}

    async def run_bound_async(
        self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], read: Collection[str] | None = None
    ) -> dict[str, Any]:
        """`run_bound`, without blocking the event loop."""
        self._refuse_buffers(inputs, outputs)
        return {n: y for n, y in (await self.run_async(inputs)).items() if read is None or n in read}

    def _refuse_buffers(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        if outputs or any(hasattr(value, "usage") for value in inputs.values()):
            self.dispatch(inputs, outputs)

    def copied_bytes(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> int:
        """Not possible, like `dispatch`."""
        self.dispatch(inputs, outputs)
        return 0

    def profile(self, inputs: Mapping[str, Any], repeat: int = 1) -> list[tuple[str, float]]:
        """Label and seconds of every kernel and every host part, in order; see `Executable.profile`."""
        known = self._given(inputs)
        out = []
        for i, run in enumerate(self._parts()):
            feeds = self._feeds(known, i)
            start = time.perf_counter()
            results = run.run(feeds)
            seconds = time.perf_counter() - start
            if isinstance(run, Executable):
                out += run.profile(feeds, repeat)
            else:
                out.append((f"part {i} on {run.backend}", seconds))
            self._take(known, i, results, frozenset())
        return out

    @contextlib.contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        """Says which part does not take what the parts before it gave."""
        try:
            yield
        except InputError as e:
            raise InputError(f"{_called(index, self.manifest.parts[index])}: {e}") from e

    @contextlib.contextmanager
    def _buffers(self) -> Iterator[dict[str, Any]]:
        """GPU buffers for what only device parts read, for one run."""
        self._parts()
        with self._lock:
            buffers = self._spare.pop() if self._spare else self._create_buffers()
        try:
            yield buffers
        except BaseException:
            _destroy([buffers])
            raise
        with self._lock:
            if self._open:
                self._spare.append(buffers)
            else:
                _destroy([buffers])

    def _create_buffers(self) -> dict[str, Any]:
        if not self._resident:
            return {}
        use = self.device.api.BufferUsage
        usage = use.STORAGE | use.COPY_SRC | use.COPY_DST
        buffers = {}
        with self.device.guard("creating buffers between parts"):
            for name in sorted(self._resident):
                size = (port_bytes(_port(self._slots[name])) + 15) // 16 * 16  # as shaders bind it
                buffers[name] = self.device.handle.create_buffer(label=name, size=size, usage=usage)
        return buffers

    def _kept(self, buffers: Mapping[str, Any], index: int) -> dict[str, Any]:
        return {name: buffers[name] for name in self.manifest.parts[index].outputs if name in buffers}

    def _parts(self) -> Sequence[Executable | HostModel]:
        if not self._open:
            raise ClosedError("the executable is closed")
        return self._runs

    def _given(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Checked inputs, by name."""
        self._check_names(inputs)
        out = {}
        for port, slot in zip(self.inputs, self.manifest.inputs, strict=True):
            value = inputs[port.name]
            if port.dtype == "uint8" and isinstance(value, np.ndarray) and value.dtype == np.bool_:
                value = value.view(np.uint8)
            if port.dtype in NUMPY_DTYPES and slot.ranked and -1 not in port.shape:
                out[port.name] = self._checked(port, value)
            elif (wrong := _mismatch(slot, value)) is not None:
                raise InputError(f"input {port.name!r} is {wrong}; {self._expected()}")
            else:
                out[port.name] = value
        return out

    def _feeds(self, known: Mapping[str, Any], index: int) -> dict[str, Any]:
        return {name: known[name] for name in self.manifest.parts[index].inputs}

    def _take(
        self, known: dict[str, Any], index: int, results: Mapping[str, Any], kept: frozenset[str] | None = None
    ) -> None:
        """Keep what a part gave, but for what is `kept` on the GPU, and let go of what nobody reads any more."""
        kept = self._resident if kept is None else kept
        for name in self.manifest.parts[index].outputs:
            if name in kept:
                continue
            wrong = _mismatch(self._slots[name], results[name])
            if wrong is not None:
                slot = self._slots[name]
                raise FallbackError(f"part {index}: {name!r} is {wrong}, {slot.dtype}{list(slot.shape)} was promised")
            known[name] = results[name]
        for name in self._last[index]:
            known.pop(name, None)

    def _results(self, known: Mapping[str, Any]) -> dict[str, Any]:
        named = zip(self.manifest.outputs, self.manifest.results, strict=True)
        inputs = {slot.name for slot in self.manifest.inputs}
        return {s.name: np.copy(known[r]) if r in inputs else known[r] for s, r in named}

    # ------------------------------------------------------------------ life

    def memory(self) -> dict[str, int]:
        """Bytes on the devices by kind, over all parts, and `between parts` on the GPU."""
        total: dict[str, int] = {}
        for run in self._parts():
            for kind, size in run.memory().items() if isinstance(run, Executable) else ():
                total[kind] = total.get(kind, 0) + size
        total["between parts"] = sum(buffer.size for buffers in self._spare for buffer in buffers.values())
        return total

    @property
    def closed(self) -> bool:
        return not self._open

    def close(self) -> None:
        """Free the GPU memory and the hosts' models. Running afterwards raises ClosedError."""
        with self._lock:
            self._open = False
            runs, self._runs = self._runs, []
            spare, self._spare = self._spare, []
        for run in runs:
            if isinstance(run, Executable):
                run.close()
        _destroy(spare)

    def __repr__(self) -> str:
        state = "closed" if self.closed else " + ".join(self.backends)
        return f"<PartitionedExecutable: {state}>"


def _port(slot: Slot) -> Port:
    return Port(slot.name, slot.dtype, slot.shape, 0)


def _destroy(sets: Iterable[Mapping[str, Any]]) -> None:
    for buffers in sets:
        for buffer in buffers.values():
            buffer.destroy()


def _called(index: int, part: Part) -> str:
    """A part as messages call it, by what it gives."""
    names = ", ".join(map(repr, part.outputs[:3])) + (", ..." if len(part.outputs) > 3 else "")
    return f"part {index} (which gives {names})"


def _opened(device: Device | None, index: int, part: Part) -> Device:
    try:
        return device or default_device()
    except DeviceError as e:
        raise DeviceError(f"{_called(index, part)} is for gpu: {e}") from e


def _backend(run: Executable | HostModel) -> str:
    if isinstance(run, OpenvinoExecutable):
        kind = run.openvino_device.kind
        return next(backend for backend, k in KIND_OF.items() if k == kind)
    return DEVICE if isinstance(run, Executable) else run.backend


def _open_host(data: bytes, index: int, part: Part) -> HostModel:
    try:
        return open_host(data)
    except UnsupportedError as e:
        ops = ", ".join(dict.fromkeys(n.op for n in part.nodes))
        raise BundleError(f"part {index} ({ops}) was compiled for {part.backend}, which cannot run it here: {e}") from e


def _last_reads(m: PartitionManifest) -> list[list[str]]:
    """For each part the values that neither a later part nor the user reads."""
    kept = set(m.results)
    out: list[list[str]] = []
    for i in reversed(range(len(m.parts))):
        part = m.parts[i]
        done = [name for name in dict.fromkeys((*part.inputs, *part.outputs)) if name not in kept]
        kept.update(done)
        out.append(done)
    return out[::-1]


def _mismatch(slot: Slot, value: Any) -> str | None:
    """What a value is, if that is not what its slot says."""
    if slot.dtype.startswith(("sequence", "optional", "unknown")):
        return None
    if not isinstance(value, (np.ndarray, np.generic)):
        return type(value).__name__
    if slot.dtype == "string":
        good = value.dtype.kind in "OUST"
    else:
        name = value.dtype.name.replace("_", "")  # ml_dtypes: float8_e5m2 is ONNX's float8e5m2
        good = {"float4e2m1fn": "float4e2m1", "float8e8m0fnu": "float8e8m0"}.get(name, name) == slot.dtype
    if slot.ranked:
        good = good and len(value.shape) == len(slot.shape)
        good = good and all(w in (-1, d) for w, d in zip(slot.shape, value.shape, strict=True))
    return None if good else f"{value.dtype}{list(value.shape)}"
