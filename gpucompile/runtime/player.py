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

import numpy.typing as npt

from gpucompile.errors import ClosedError, DeviceError
from gpucompile.runtime.binding import Bindings
from gpucompile.runtime.bundle import BundleLike
from gpucompile.runtime.device import Device
from gpucompile.runtime.format import Access, Plan
from gpucompile.runtime.memory import Memory, staging_layout
from gpucompile.runtime.recording import Step

Progress: TypeAlias = "Callable[[str, int, int], None]"  # stage (weights, pipelines), done, total
#: Weight buffers on the device by the shards they hold.
SharedWeights: TypeAlias = "dict[tuple[int, ...], Any]"
_Pipelines: TypeAlias = "Mapping[tuple[int, tuple[Access, ...]], Any]"  # by shader index and accesses


class Player:
    """The GPU objects of one plan. `Executable` is the public face of it; this class checks nothing about its inputs.

    Weight buffers found in `weights` are used, new ones added to it; they are then the caller's to free, also where the
    player could not be made. What it makes is counted in `memory`, which may have scratch buffers to share.

    It can run once `fill` has uploaded the weights and made the pipelines, in whatever thread; `cancel` ends that.
    Else it is not thread-safe except for `finish`, which any thread may call for its own staging buffer.
    Raises UnsupportedError if `memory` has no room, DeviceError if the device refuses anything; what was created is
    then freed.
    """

    def __init__(
        self,
        device: Device,
        plan: Plan,
        submits: int = 1,
        weights: SharedWeights | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.device, self.plan = device, plan
        self._buffers: list[Any] = []
        self._owned: list[tuple[Any, str]] = []  # those of the buffers that go with this player, and how they count
        self._weights: SharedWeights = {} if weights is None else weights
        self._shares = weights is not None
        self._memory = Memory() if memory is None else memory
        self._arenas = self._memory.arenas
        self._arenas_version = -1
        self._spare: list[Any] = []  # staging buffers not in use
        self._flying: set[Any] = set()  # staging buffers of runs that are not finished
        self._staging_lock = threading.RLock()  # what threads do with staging buffers, and closing
        self._closed = self._cancelled = False
        self._usage = device.api.BufferUsage
        self._submits = submits
        self.steps: list[Step] = []
        self._records: Sequence[Callable[[Any], None]] = ()
        self.places, self.staging_bytes = staging_layout(plan)
        by_size = sorted(
            (i for i, b in enumerate(plan.buffers) if b.kind == "scratch"), key=lambda i: -plan.buffers[i].size
        )
        #: scratch buffers -> the shared ones that they are
        self._shared_scratch = {i: n for n, i in enumerate(by_size)} if self._arenas is not None else {}
        try:
            if self._shared_scratch:
                self._memory.share(self, plan)
            self._create_buffers()
            self._spare.append(self._create_staging())
        except BaseException:
            self.close()
            raise

    def fill(self, bundle: BundleLike, progress: Progress | None = None) -> None:
        """Upload the weights and make everything that runs need."""
        try:
            self._upload(bundle, progress)
            pipelines = self._create_pipelines(bundle, progress)
            with self.device.submission_lock:
                self._take_arenas()
                self.steps = self._create_groups(pipelines)
                self._records = self._record({})
            self.bindings = Bindings(self.device, self.plan, self._buffers, self._group, self._record)
        except BaseException:
            self.close()
            raise

    def cancel(self) -> None:
        """Have `fill` raise ClosedError soon, in whatever thread it is."""
        self._cancelled = True

    # ------------------------------------------------------------------ creation

    def _create_buffers(self) -> None:
        u = self._usage
        usages = {
            "input": ("inputs", u.STORAGE | u.COPY_DST | u.COPY_SRC),
            "output": ("outputs", u.STORAGE | u.COPY_SRC | u.COPY_DST),
            "weight": ("weights", u.STORAGE | u.COPY_DST),
            "scratch": ("scratch", u.STORAGE | u.COPY_SRC | u.COPY_DST),
        }
        for i, buffer in enumerate(self.plan.buffers):
            if buffer.kind == "weight" and buffer.shards in self._weights:
                self._buffers.append(self._weights[buffer.shards])
            elif i in self._shared_scratch:
                self._buffers.append(None)  # until `_take_arenas`
            else:
                what = f"{buffer.kind} buffer {i}"
                gpu = self._create(*usages[buffer.kind], buffer.size, what, buffer.name or f"{buffer.kind} {i}")
                self._buffers.append(gpu)
                self._owned.append((gpu, usages[buffer.kind][0]))

    def _create(self, kind: str, usage: int, size: int, what: str, label: str) -> Any:
        """A buffer that counts as `kind`."""
        self._memory.add(kind, size, what)
        try:
            with self.device.guard(f"creating {what} of {size:,} bytes"):
                return self.device.handle.create_buffer(label=label, size=size, usage=usage)
        except BaseException:
            self._memory.sub(kind, size)
            raise

    def _create_staging(self) -> Any:
        u = self._usage
        return self._create("staging", u.COPY_DST | u.MAP_READ, self.staging_bytes, "a staging buffer", "staging")

    @property
    def all_staging_bytes(self) -> int:
        """Bytes of all its staging buffers: one, and more where runs overlap."""
        return (len(self._spare) + len(self._flying)) * self.staging_bytes

    def _take_arenas(self) -> None:
        """Use the shared scratch buffers as they are now. Only under the device's submission lock."""
        if self._arenas is not None and self._shared_scratch:
            self._arenas_version = self._arenas.version
            for i, n in self._shared_scratch.items():
                self._buffers[i] = self._arenas.buffers[n]

    def follow_arenas(self) -> None:
        """Make bind groups anew if the shared scratch buffers are others by now. Only under the submission lock."""
        if self._arenas is None or not self._shared_scratch or self._arenas_version == self._arenas.version:
            return
        self._take_arenas()
        for i, step in enumerate(self.steps):
            if any(b.buffer in self._shared_scratch for b in self.plan.steps[i].bindings):
                self.steps[i] = (step[0], self._group(i, self._buffers), *step[2:])
        self._records = self._record({})
        self.bindings.clear()

    def _upload(self, bundle: BundleLike, progress: Progress | None) -> None:
        """Weights, shard by shard. Every second time it waits, so that the copies of what is not on the device yet do
        not add up to all weights."""
        queue, done, total = self.device.handle.queue, 0, self.plan.bytes_of("weight")
        written = 0
        for i, buffer in enumerate(self.plan.buffers):
            if buffer.kind != "weight" or buffer.shards in self._weights:
                continue
            at = 0
            for shard in buffer.shards:
                if self._cancelled:
                    raise ClosedError("the executable was closed while it was loaded")
                data = bundle.shard(shard)
                with self.device.holding(f"uploading weight shard {shard}"):
                    queue.write_buffer(self._buffers[i], at, data)
                    queue.submit([])
                written += 1
                if written % 2 == 0:
                    self.device.synchronise()
                at += len(data)
                done += len(data)
                if progress is not None:
                    progress("weights", done, total)
            if self._shares:
                self._weights[buffer.shards] = self._buffers[i]
                self._owned.remove((self._buffers[i], "weights"))

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

    def _create_groups(self, pipelines: _Pipelines) -> list[Step]:
        out = []
        with self.device.guard("creating bind groups"):
            for i, step in enumerate(self.plan.steps):
                accesses = tuple(b.access for b in step.bindings)
                out.append((pipelines[step.shader, accesses], self._group(i, self._buffers), *step.grid))
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

    def write(self, arrays: Sequence[npt.NDArray[Any] | None]) -> None:
        """Set the inputs, in order, but for those that are None: contiguous arrays of whole words."""
        for port, array in zip(self.plan.inputs, arrays, strict=True):
            if array is not None and array.nbytes:
                self.device.handle.queue.write_buffer(self._buffers[port.buffer], 0, array)

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
        own = [p for p, b in zip(plan.outputs, outputs, strict=True) if b is None]
        read = {p.buffer for p in own if wanted is None or p.name in wanted}
        staging = None
        if read:
            with self._staging_lock:
                staging = self._spare.pop() if self._spare else self._create_staging()
                self._flying.add(staging)
        try:
            with self.device.holding("running the plan"):
                self.follow_arenas()
                self.write(arrays)
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
                self.device.map_read(staging, self.staging_bytes).sync_wait()
            return self._read(staging, read)
        except BaseException:
            self._drop(staging)
            raise

    async def finish_async(self, staging: Any, read: Callable[[Any], Any]) -> Any:
        """Like `finish`, waiting in the running event loop."""
        try:
            try:
                await self.device.map_read(staging, self.staging_bytes)
            except DeviceError:
                raise
            except Exception as e:
                raise self.device.translate(e, "waiting for the results") from e
            return self._read(staging, read)
        except BaseException:
            self._drop(staging)
            raise

    def _read(self, staging: Any, read: Callable[[Any], Any]) -> Any:
        # wgpu-native ends the process if a buffer or its device is destroyed while it is read
        with self._staging_lock:
            if self._closed:
                raise ClosedError("the executable was closed while it ran")
            with self.device.holding("reading the results"):
                try:
                    result = read(staging.read_mapped(copy=False))
                finally:
                    staging.unmap()
            self._flying.discard(staging)
            self._spare.append(staging)
        return result

    def _drop(self, staging: Any) -> None:
        with self._staging_lock:
            if staging in self._flying:  # else it was closed meanwhile
                self._flying.discard(staging)
                staging.destroy()
                self._memory.sub("staging", staging.size)

    def close(self) -> None:
        """Free all buffers at once; a run in flight fails."""
        with self._staging_lock:
            self._closed = self._cancelled = True
            for buffer, kind in (*self._owned, *((b, "staging") for b in (*self._spare, *self._flying))):
                buffer.destroy()
                self._memory.sub(kind, buffer.size)
            self._flying.clear()
            self._buffers, self._owned, self._spare, self.steps, self._records = [], [], [], [], ()
        if self._shared_scratch:
            self._memory.unshare(self)
        if hasattr(self, "bindings"):
            self.bindings.clear()


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
