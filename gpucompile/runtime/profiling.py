"""Timing the steps of a plan on the device: every step in a pass of its own between two timestamps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpucompile.errors import DeviceError
from gpucompile.runtime.player import Player
from gpucompile.runtime.recording import Step

_MAX_QUERIES = 4096  # WebGPU's limit for one query set
_DOING = "profiling the plan"


def step_seconds(player: Player, arrays: Sequence[npt.NDArray[Any] | None], repeat: int = 1) -> list[float]:
    """Seconds each step takes on the device, dispatched `repeat` times. With repeat above 1 in-place steps compute
    nonsense, so only times come back. Raises DeviceError without timestamp-query."""
    device = player.device
    if "timestamp-query" not in device.features:
        raise DeviceError(f"{device.name}: no timestamp-query, so steps cannot be timed")
    with device.holding(_DOING):
        player.write(arrays)
    out: list[float] = []
    for first in range(0, len(player.plan.steps), _MAX_QUERIES // 2):
        out += _time(player, slice(first, first + _MAX_QUERIES // 2), repeat)
    return out


def _time(player: Player, part: slice, repeat: int) -> list[float]:
    device, u = player.device, player.device.api.BufferUsage
    handle = device.handle
    with device.holding(_DOING):
        player.follow_arenas()
        steps: Sequence[Step] = player.steps[part]
        size = 16 * len(steps)
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
            device.recorder([step] * repeat)(compute_pass)
            compute_pass.end()
        encoder.resolve_query_set(queries, 0, 2 * len(steps), resolved, 0)
        encoder.copy_buffer_to_buffer(resolved, 0, staging, 0, size)
        handle.queue.submit([encoder.finish()])
    with device.guard(_DOING):
        device.map_read(staging, size).sync_wait()
        ticks = np.frombuffer(staging.read_mapped(copy=False), np.uint64).astype(np.int64).reshape(-1, 2)
        staging.unmap()
    for buffer in (resolved, staging):
        buffer.destroy()
    seconds = (ticks[:, 1] - ticks[:, 0]) * (device.timestamp_period * 1e-9 / repeat)
    return [float(s) for s in seconds]
