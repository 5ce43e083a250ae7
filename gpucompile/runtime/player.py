"""Playing one plan on one device: the plan's integers become GPU objects once, then every run replays them.

    create   buffers, weights uploaded shard by shard, one pipeline per shader, one bind group per step
    start    write the inputs, record all steps in one compute pass, copy the outputs to a staging buffer, submit
    finish   map the staging buffer once, hand its bytes out, unmap

A staging buffer is kept and reused; runs that are in flight at the same time get one each. The queue orders the work,
so `start` of one run may follow `start` of another before it is finished.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gpucompile.errors import ClosedError, DeviceError
from gpucompile.runtime.binding import Bindings
from gpucompile.runtime.bundle import BundleLike
from gpucompile.runtime.checks import port_bytes
from gpucompile.runtime.device import Device
from gpucompile.runtime.format import Access, Plan
from gpucompile.runtime.recording import Step

Progress: TypeAlias = "Callable[[str, int, int], None]"  # stage (weights, pipelines), done, total
#: Weight buffers on the device by the shards they hold.
SharedWeights: TypeAlias = "dict[tuple[int, ...], Any]"
_Pipelines: TypeAlias = "Mapping[tuple[int, tuple[Access, ...]], Any]"  # by shader index and accesses
_MAX_QUERIES = 4096  # WebGPU's limit for one query set


class Player:
    """The GPU objects of one plan. `Executable` is the public face of it; this class checks nothing about its inputs.

    Weight buffers found in `weights` are used, new ones added to it; they are then the caller's to free, also where the
    player could not be made.

    Not thread-safe except for `finish`, which any thread may call for its own staging buffer.
    Raises DeviceError if the device refuses anything; what was created is then freed.
    """

    def __init__(
        self,
        device: Device,
        plan: Plan,
        bundle: BundleLike,
        progress: Progress | None = None,
        submits: int = 1,
        weights: SharedWeights | None = None,
    ) -> None:
        self.device, self.plan = device, plan
        self._buffers: list[Any] = []
        self._owned: list[Any] = []  # those of the buffers that go with this player
        self._weights: SharedWeights = {} if weights is None else weights
        self._shares = weights is not None
        self._spare: list[Any] = []  # staging buffers not in use
        self._flying: set[Any] = set()  # staging buffers of runs that are not finished
        self._staging_lock = threading.RLock()  # what threads do with staging buffers, and closing
        self._closed = False
        self._usage = device.api.BufferUsage
        self.places, self.staging_bytes, self._with_states = _staging_layout(plan)
        self._pipelines: _Pipelines = {}
        self._lacks_states = any(b.kind == "state" for b in plan.buffers)  # made when a run needs them
        try:
            self._create_buffers()
            self._upload(bundle, progress)
            self._pipelines = self._create_pipelines(bundle, progress)
            self.steps: list[Step] = self._create_groups()
            self._submits = submits
            self._records = [] if self._lacks_states else self._record({})
            self.bindings = Bindings(device, plan, self._buffers, self._group, self._record, self._make_states)
            self._spare.append(self._create_staging(self.staging_bytes))
        except BaseException:
            self.close()
            raise

    # ------------------------------------------------------------------ creation

    def _create_buffers(self) -> None:
        for i, buffer in enumerate(self.plan.buffers):
            if buffer.kind == "weight" and buffer.shards in self._weights:
                self._buffers.append(self._weights[buffer.shards])
            else:
                self._buffers.append(None if buffer.kind == "state" else self._create_buffer(i))

    def _create_buffer(self, number: int) -> Any:
        buffer, u = self.plan.buffers[number], self._usage
        usage = u.STORAGE | u.COPY_DST if buffer.kind == "weight" else u.STORAGE | u.COPY_SRC | u.COPY_DST
        label = buffer.name or f"{buffer.kind} {number}"
        with self.device.guard(f"creating {buffer.kind} buffer {number} of {buffer.size:,} bytes"):
            gpu = self.device.handle.create_buffer(label=label, size=buffer.size, usage=usage)
        self._owned.append(gpu)
        return gpu

    @property
    def state_bytes(self) -> int:
        """Bytes of the plan's own states, as far as they exist."""
        return 0 if self._lacks_states else self.plan.bytes_of("state")

    def _make_states(self) -> None:
        """The plan's own states, for runs to which the caller gives no buffers for them."""
        if self._lacks_states:
            for i, buffer in enumerate(self.plan.buffers):
                if buffer.kind == "state" and self._buffers[i] is None:
                    self._buffers[i] = self._create_buffer(i)
            self._lacks_states = False
            self.steps = self._create_groups()
            self._records = self._record({})

    def _create_staging(self, size: int) -> Any:
        u = self._usage
        with self.device.guard(f"creating a staging buffer of {size:,} bytes"):
            return self.device.handle.create_buffer(label="staging", size=size, usage=u.COPY_DST | u.MAP_READ)

    def _take_staging(self, read: Collection[int]) -> Any:
        """A staging buffer with room for the outputs in these buffers. States are large and seldom read: only then is
        there room for them."""
        large = any(self.plan.buffers[b].kind == "state" for b in read)
        size = self._with_states if large else self.staging_bytes
        with self._staging_lock:
            spare = next((s for s in self._spare if s.size >= size), None)
            if spare is None:
                spare = self._create_staging(size)
            else:
                self._spare.remove(spare)
            self._flying.add(spare)
        return spare

    def _upload(self, bundle: BundleLike, progress: Progress | None) -> None:
        queue, done, total = self.device.handle.queue, 0, self.plan.bytes_of("weight")
        for i, buffer in enumerate(self.plan.buffers):
            if buffer.kind != "weight" or buffer.shards in self._weights:
                continue
            at = 0
            for shard in buffer.shards:
                data = bundle.shard(shard)
                with self.device.guard(f"uploading weight shard {shard}"):
                    queue.write_buffer(self._buffers[i], at, data)
                    queue.submit([])  # lets the device reuse its upload memory before the next shard
                at += len(data)
                done += len(data)
                if progress is not None:
                    progress("weights", done, total)
            if self._shares:
                self._weights[buffer.shards] = self._buffers[i]
                self._owned.remove(self._buffers[i])

    def _create_pipelines(self, bundle: BundleLike, progress: Progress | None) -> _Pipelines:
        plan, features = self.plan, self.plan.requires.features
        wanted: dict[tuple[int, tuple[Access, ...]], str] = {}
        for step in plan.steps:
            wanted.setdefault((step.shader, tuple(b.access for b in step.bindings)), step.label)

        def create(item: tuple[tuple[int, tuple[Access, ...]], str]) -> tuple[tuple[int, tuple[Access, ...]], Any]:
            (shader, accesses), label = item
            sha = plan.shaders[shader]
            return item[0], self.device.pipeline(sha, texts[sha], accesses, features, label)

        texts = {sha: bundle.shader(sha) for sha in plan.shaders}
        out = {}
        # drivers compile for a long time and release Python's lock meanwhile; Dawn's devices take one thread at a time
        workers = min(16, os.cpu_count() or 1) if self.device.is_naga else 1
        with ThreadPoolExecutor(workers, "gpucompile-pipelines") as pool:
            for done, (key, pipeline) in enumerate(pool.map(create, wanted.items()), 1):
                out[key] = pipeline
                if progress is not None:
                    progress("pipelines", done, len(wanted))
        return out

    def _create_groups(self) -> list[Step]:
        """The steps as they are recorded; those on states that do not exist yet have no bind group."""
        out = []
        with self.device.guard("creating bind groups"):
            for i, step in enumerate(self.plan.steps):
                accesses = tuple(b.access for b in step.bindings)
                ready = all(self._buffers[b.buffer] is not None for b in step.bindings)
                group = self._group(i, self._buffers) if ready else None
                out.append((self._pipelines[step.shader, accesses], group, *step.grid))
        return out

    def _group(self, number: int, buffers: Sequence[Any]) -> Any:
        """The bind group of a step with these buffers in the places of the plan's."""
        bindings = self.plan.steps[number].bindings
        entries = [
            {"binding": i, "resource": {"buffer": buffers[b.buffer], "offset": b.offset, "size": b.size}}
            for i, b in enumerate(bindings)
        ]
        layout = self.device.layout(tuple(b.access for b in bindings))[0]
        return self.device.handle.create_bind_group(layout=layout, entries=entries)

    def _record(self, groups: Mapping[int, Any]) -> list[Callable[[Any], None]]:
        """Recorders of all steps, some of them with other bind groups."""
        steps = [(step[0], groups[i], *step[2:]) if i in groups else step for i, step in enumerate(self.steps)]
        return [self.device.recorder(part) for part in _parts(steps, self._submits)]

    # ------------------------------------------------------------------ runs

    def start(
        self,
        arrays: Sequence[npt.NDArray[Any] | None],
        inputs: Sequence[Any] = (),
        outputs: Sequence[Any] = (),
        wanted: Collection[str] | None = None,
    ) -> Any:
        """Submit a run and return the staging buffer that gets its outputs, None if there is nothing to read.

        `arrays` are the inputs in order: contiguous, whole words; None where `inputs` gives a GPU buffer instead.
        `outputs` are GPU buffers to write to, None (or no list) for what is to be read; `wanted`, if given, names what
        is read of these."""
        plan, buffers, handle = self.plan, self._buffers, self.device.handle
        outputs = outputs or (None,) * len(plan.outputs)
        if self._lacks_states and self.bindings.needs_states(inputs or (None,) * len(plan.inputs), outputs):
            self._make_states()
        own = [p for p, b in zip(plan.outputs, outputs, strict=True) if b is None]
        read = {p.buffer for p in own if wanted is None or p.name in wanted}
        staging = self._take_staging(read) if read else None
        try:
            with self.device.guard("running the plan"):
                write = handle.queue.write_buffer
                for port, array in zip(plan.inputs, arrays, strict=True):
                    if array is not None and array.nbytes:
                        write(buffers[port.buffer], 0, array)
                encoder = handle.create_command_encoder()
                if any(b is not None for b in (*inputs, *outputs)):
                    encoder = self._bound(encoder, inputs or (None,) * len(plan.inputs), outputs)
                else:
                    encoder = self._dispatch(encoder, self._records)
                for buffer, offset, size in self.places.values():
                    if buffer in read:
                        encoder.copy_buffer_to_buffer(buffers[buffer], 0, staging, offset, size)
                handle.queue.submit([encoder.finish()])
        except BaseException:
            if staging is not None:
                self._drop(staging)
            raise
        return staging

    def _bound(self, encoder: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """Record a run on callers' buffers; returns the encoder that is still open."""
        bound = self.bindings.bind(inputs, outputs)
        for source, target, size in bound.copies_in:
            encoder.copy_buffer_to_buffer(source, 0, target, 0, size)
        encoder = self._dispatch(encoder, bound.records)
        for source, target, size in bound.copies_out:
            encoder.copy_buffer_to_buffer(source, 0, target, 0, size)
        return encoder

    def _dispatch(self, encoder: Any, records: Sequence[Callable[[Any], None]]) -> Any:
        """Record all steps; returns the encoder that is still open."""
        handle = self.device.handle
        for i, record in enumerate(records):
            if i:  # the device starts on what was recorded so far
                handle.queue.submit([encoder.finish()])
                encoder = handle.create_command_encoder()
            compute_pass = encoder.begin_compute_pass()
            record(compute_pass)
            compute_pass.end()
        return encoder

    def finish(self, staging: Any, read: Callable[[Any], Any]) -> Any:
        """Wait for a run and return `read(bytes)` of its mapped staging buffer; `read` must copy what it keeps."""
        try:
            with self.device.guard("waiting for the results"):
                self.device.map_read(staging, staging.size).sync_wait()
                return self._read(staging, read)
        except BaseException:
            self._drop(staging)
            raise

    async def finish_async(self, staging: Any, read: Callable[[Any], Any]) -> Any:
        """Like `finish`, waiting in the running event loop."""
        try:
            promise = self.device.map_read(staging, staging.size)
            try:
                await promise
            except Exception as e:
                raise self.device.translate(e, "waiting for the results") from e
            with self.device.guard("reading the results"):
                return self._read(staging, read)
        except BaseException:
            self._drop(staging)
            raise

    def _read(self, staging: Any, read: Callable[[Any], Any]) -> Any:
        with self._staging_lock:  # wgpu-native ends the process if a buffer is destroyed while it is read
            if self._closed:
                raise ClosedError("the executable was closed while it ran")
            try:
                result = read(staging.read_mapped(copy=False))
            finally:
                staging.unmap()
            self._flying.discard(staging)
            self._spare.append(staging)
        return result

    def _drop(self, staging: Any) -> None:
        with self._staging_lock:
            self._flying.discard(staging)
            staging.destroy()

    def close(self) -> None:
        """Free all buffers at once; a run in flight fails."""
        with self._staging_lock:
            self._closed = True
            for buffer in (*self._owned, *self._spare, *self._flying):
                buffer.destroy()
        self._buffers, self._owned, self._spare, self.steps = [], [], [], []
        self._records = []
        if hasattr(self, "bindings"):
            self.bindings.clear()

    # ------------------------------------------------------------------ profiling

    def profile(self, arrays: Sequence[npt.NDArray[Any]], repeat: int = 1) -> list[float]:
        """Seconds each step takes on the device: every step in a pass of its own between two timestamps, dispatched
        `repeat` times. With repeat above 1 in-place steps compute nonsense, so only times come back."""
        if "timestamp-query" not in self.device.features:
            raise DeviceError(f"{self.device.name}: no timestamp-query, so steps cannot be timed")
        with self.device.guard("profiling the plan"):
            self._make_states()
            for port, array in zip(self.plan.inputs, arrays, strict=True):
                if array.nbytes:
                    self.device.handle.queue.write_buffer(self._buffers[port.buffer], 0, array)
            out: list[float] = []
            for first in range(0, len(self.steps), _MAX_QUERIES // 2):
                out += self._time(self.steps[first : first + _MAX_QUERIES // 2], repeat)
            return out

    def _time(self, steps: Sequence[Step], repeat: int) -> list[float]:
        handle, u, size = self.device.handle, self._usage, 16 * len(steps)
        queries = handle.create_query_set(type="timestamp", count=2 * len(steps))
        resolved = handle.create_buffer(size=size, usage=u.QUERY_RESOLVE | u.COPY_SRC)
        staging = handle.create_buffer(size=size, usage=u.MAP_READ | u.COPY_DST)
        encoder = handle.create_command_encoder()
        for i, step in enumerate(steps):
            marks = {
                "query_set": queries,
                "beginning_of_pass_write_index": 2 * i,
                "end_of_pass_write_index": 2 * i + 1,
            }
            compute_pass = encoder.begin_compute_pass(timestamp_writes=marks)
            self.device.recorder([step] * repeat)(compute_pass)
            compute_pass.end()
        encoder.resolve_query_set(queries, 0, 2 * len(steps), resolved, 0)
        encoder.copy_buffer_to_buffer(resolved, 0, staging, 0, size)
        handle.queue.submit([encoder.finish()])
        self.device.map_read(staging, size).sync_wait()
        ticks = np.frombuffer(staging.read_mapped(copy=False), np.uint64).astype(np.int64).reshape(-1, 2)
        staging.unmap()
        for buffer in (resolved, staging):
            buffer.destroy()
        seconds = (ticks[:, 1] - ticks[:, 0]) * (self.device.timestamp_period * 1e-9 / repeat)
        return [float(s) for s in seconds]


def _staging_layout(plan: Plan) -> tuple[dict[int, tuple[int, int, int]], int, int]:
    """Where each output buffer goes in the staging buffer (buffer -> buffer, offset, size), states at its end, and the
    size without and with these."""
    places: dict[int, tuple[int, int, int]] = {}
    at = plain = 0
    for states in (False, True):
        for port in plan.outputs:
            if port.buffer in places or (plan.buffers[port.buffer].kind == "state") != states:
                continue
            size = max(port_bytes(p) for p in plan.outputs if p.buffer == port.buffer)
            places[port.buffer] = (port.buffer, at, size)
            at += (size + 7) // 8 * 8
        plain = plain if states else at
    return places, max(plain, 8), max(at, 8)


def _parts(steps: Sequence[Step], submits: int) -> list[Sequence[Step]]:
    """The steps in at most `submits` runs of 8, 24, 72, ... and the rest: short ones first, so that the device starts
    early and the host stays ahead of it."""
    parts: list[Sequence[Step]] = []
    start, size = 0, 8
    while start < len(steps):
        end = len(steps) if len(parts) == submits - 1 else min(start + size, len(steps))
        parts.append(steps[start:end])
        start, size = end, size * 3
    return parts
