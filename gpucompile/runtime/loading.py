"""Putting a bundle on a device: the executable that it asks for.

load(path or bundle) -> Executable, BucketExecutable, PartitionedExecutable or OpenvinoExecutable
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gpucompile.errors import InputError, UnsupportedError
from gpucompile.runtime.bundle import BundleData, BundleLike
from gpucompile.runtime.device import Device, default_device
from gpucompile.runtime.executable import Executable, Pad, close_bundle
from gpucompile.runtime.memory import Memory
from gpucompile.runtime.player import Progress

if TYPE_CHECKING:
    from gpucompile.runtime.parts import PartitionedLike


def make_executable(
    bundle: BundleLike | PartitionedLike,
    device: Device | None = None,
    progress: Progress | None = None,
    submits: int = 1,
    pad: Pad = "error",
    owns_bundle: bool = False,
    memory: Memory | None = None,
    stream: bool = False,
    options: Any = None,
    substitute: bool = False,
) -> Executable:
    """The executable a bundle asks for: a `BucketExecutable` if it has buckets, a `PartitionedExecutable` if it is in
    parts, whose parts for OpenVINO get `options`. `owns_bundle` closes the bundle as soon as it is not needed, unless
    this raises."""
    if hasattr(bundle, "host_part"):
        from gpucompile.runtime.partitioned import PartitionedExecutable

        if stream:
            raise UnsupportedError("load: stream=True is not for a bundle in parts, some of them for the CPU")
        try:
            parts = cast("PartitionedLike", bundle)
            return PartitionedExecutable(parts, device, progress, submits, options, substitute, memory)
        finally:
            if owns_bundle:
                close_bundle(bundle)
    device = device or default_device()
    if bundle.buckets:
        from gpucompile.runtime.buckets import BucketExecutable

        if stream:
            raise UnsupportedError("load: stream=True is not for a bundle with several sizes")
        return BucketExecutable(bundle, device, progress, submits, pad, owns_bundle=owns_bundle)
    return Executable(bundle, device, progress, submits, memory=memory, stream=stream, owns_bundle=owns_bundle)


def load(
    source: str | Path | BundleLike | PartitionedLike,
    device: Device | str | None = None,
    progress: Progress | None = None,
    submits: int = 1,
    pad: Pad = "error",
    options: Any = None,
    *,
    stream: bool = False,
    memory: Memory | None = None,
) -> Executable:
    """Put a bundle (a path, or one just compiled) on a device, ready to run.

    `device` is a gpucompile.Device, or gpu, npu or cpu (the latter two through OpenVINO, with `options` a
    gpucompile.OpenvinoOptions), or auto: the fastest of those that the bundle is for and that are here, which is
    measured once and remembered; or first: the first of npu, gpu, cpu. `Executable.skipped` says why devices before it
    were not taken. None is the GPU where the bundle is for it, else the NPU, else the CPU.
    Without a Device, one shared by the whole process is opened, and let go when its last executable is. A run is one
    submission; with `submits` above 1 it is cut into up to that many, so that the device starts before the host has
    recorded everything (12 to 23 % less latency with 4 on an H200, see benchmarks/README.md). A bundle in parts takes
    no kind of device but first and auto, which let OpenVINO's CPU run parts for an NPU that is not here; its host parts
    need onnxruntime or onnx. `Executable.fallback` lists what the first device of the order does not run.
    A bundle compiled for several sizes (`dims={"seq": [16, 64]}`) becomes a `BucketExecutable`: `pad` says what becomes
    of inputs between the sizes, "error" refuses them, "zeros", a number, or a dict of numbers by input name fills them
    up to the next size, and cuts the outputs.
    With `stream=True` it returns once the memory is there, and another thread uploads the weights shard by shard and
    makes the pipelines; `progress(stage, done, total)` is called from it. `Executable.ready` tells when that is done,
    `wait_ready` waits for it, and so does a run. Other executables run meanwhile.
    `memory` counts what is made on the GPU, and may limit it.
    Raises BundleError for a damaged or unsuitable bundle, DeviceError if there is no usable adapter, UnsupportedError
    for `stream` where it is not possible and for what `memory` has no room for.
    """
    from gpucompile.runtime.parts import PartitionedData, open_bundle

    owns = isinstance(source, (str, Path))
    bundle = open_bundle(source) if isinstance(source, (str, Path)) else source
    try:
        if device == "gpu":
            device = default_device()
        variants = getattr(bundle, "variants", None)  # None: a bundle in parts
        if variants is None:
            if device not in (None, "first", "auto") and not isinstance(device, Device):
                raise InputError(f"a bundle in parts runs each where it was compiled for, not all on {device!r}")
            on = device if isinstance(device, Device) else None
            substitute = isinstance(device, str)
            return make_executable(bundle, on, progress, submits, pad, owns, memory, stream, options, substitute)
        if isinstance(device, str) or (device is None and variants == ()):
            from gpucompile.runtime.choose import load_on

            if stream:
                raise UnsupportedError("load: stream=True is for the GPU")
            return load_on(bundle, device or "first", progress, submits, pad, options, owns)
        return make_executable(bundle, device, progress, submits, pad, owns, memory, stream)
    except BaseException:
        if isinstance(bundle, (BundleData, PartitionedData)) and owns:
            bundle.close()
        raise
