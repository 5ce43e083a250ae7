"""Recording the dispatches of a run into a compute pass: the hot path of every inference.

wgpu-py's own methods cost 2.2 us a dispatch; where its cffi library is at hand, its three functions are called directly
(0.7 us). `recorder_of` picks; both record the same.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

Step = tuple[Any, Any, int, int, int]  # pipeline, bind group, grid


def public_recorder(steps: Sequence[Step]) -> Callable[[Any], None]:
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


def raw_calls(pipeline: Any) -> tuple[Any, Any] | None:
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


def raw_recorder(steps: Sequence[Step], lib: Any, ffi: Any) -> Callable[[Any], None]:
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
