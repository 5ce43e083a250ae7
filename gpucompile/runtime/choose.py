"""Which device runs a bundle, where the caller leaves it open or asks for one of OpenVINO's.

    gpu      wgpu, from the bundle's variants
    npu cpu  OpenVINO, from the bundle's models for it
    first    npu, gpu, cpu: the first that the bundle is for and that is here
    auto     the fastest of them, measured on this machine with random inputs; remembered by bundle and devices

What was measured lies in one file (`choices_file`), which may be deleted at any time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpucompile.errors import BundleError, DeviceError, InputError, UnsupportedError
from gpucompile.runtime.device import default_device
from gpucompile.runtime.executable import NUMPY_DTYPES, Array, Executable, Pad
from gpucompile.runtime.format import to_json
from gpucompile.runtime.loading import make_executable
from gpucompile.runtime.openvino import (
    KINDS,
    OpenvinoExecutable,
    OpenvinoOptions,
    find_device,
    list_devices,
    model_for,
    version,
)
from gpucompile.runtime.player import Progress

#: The order in which devices are tried.
ORDER = ("npu", "gpu", "cpu")
#: How long `auto` measures a device, in seconds, and how many runs at least.
_SECONDS, _RUNS = 0.3, 5


@dataclass(frozen=True)
class Measured:
    """Seconds of a model on a device: to make it ready, the first run, and statistics of the runs after it."""

    device: str
    name: str
    ready: float
    first: float
    mean: float
    p95: float
    best: float
    runs: int


def load_on(
    bundle: Any,
    device: str,
    progress: Progress | None = None,
    submits: int = 1,
    pad: Pad = "error",
    options: OpenvinoOptions | None = None,
    owns_bundle: bool = False,
) -> Executable:
    """A bundle on npu, cpu, first or auto; `owns_bundle` closes it as soon as it is not needed. Raises InputError for
    other words, DeviceError where there is no such device, BundleError where the bundle is for no device here."""
    keeps = bool(bundle.buckets)  # the GPU's executable goes on reading those

    def on_gpu() -> Executable:
        return make_executable(bundle, default_device(), progress, submits, pad, owns_bundle and keeps)

    try:
        return _load_on(bundle, device, on_gpu, options)
    finally:
        if owns_bundle and not keeps:
            bundle.close()


def _load_on(bundle: Any, device: str, on_gpu: Callable[[], Executable], options: OpenvinoOptions | None) -> Executable:
    if device in KINDS:
        return OpenvinoExecutable(bundle, device, options)
    if device not in ("first", "auto"):
        raise InputError(f"unknown device {device!r}: gpu, npu, cpu, first, auto, or a gpucompile.Device")
    skipped: list[str] = []
    makers, slower = dict(candidates(bundle, skipped, on_gpu, options)), dict[str, str]()
    if device == "auto" and len(makers) > 1:
        key = _key(bundle, makers, options or OpenvinoOptions())
        seconds = _remembered(key, makers)
        if seconds is None:
            seconds = _measured(makers, skipped)
            if len(seconds) == len(makers):
                _remember(key, seconds)
            makers = {kind: makers[kind] for kind in seconds}
        best = min(seconds.values(), default=0.0)
        makers = {kind: makers[kind] for kind in sorted(makers, key=lambda k: seconds[k])}
        slower = {k: f"{k}: {1e3 * s:.2f} ms here, {1e3 * best:.2f} ms the fastest" for k, s in seconds.items()}
    for kind, make in makers.items():
        try:
            exe = make()
        except (DeviceError, UnsupportedError) as e:
            skipped.append(f"{kind}: {e}")
            continue
        passed = [*skipped, *(slower[k] for k in slower if k != kind)]
        before = ORDER if device == "auto" else ORDER[: ORDER.index(kind)]
        exe.skipped = tuple(line for line in passed if line.split(":")[0] in before)
        return exe
    raise DeviceError(f"no device here runs the bundle: {'; '.join(skipped) or 'it is for none'}")


def candidates(
    bundle: Any, skipped: list[str], on_gpu: Callable[[], Executable], options: OpenvinoOptions | None = None
) -> Iterator[tuple[str, Callable[[], Executable]]]:
    """The kinds of device that a bundle is for and that are here, in order, each with what puts the bundle there; the
    others' reasons are added to `skipped`."""
    here = {d.kind: d for d in reversed(list_devices())}
    for kind in ORDER:
        if kind == "gpu":
            if bundle.variants:
                yield "gpu", on_gpu
            else:
                skipped.append("gpu: the bundle has no shaders")
        elif kind not in here:
            try:
                find_device(kind)
            except (DeviceError, UnsupportedError) as e:
                skipped.append(f"{kind}: {e}")
        else:
            try:
                model_for(bundle, here[kind])
            except BundleError as e:
                skipped.append(f"{kind}: {e}")
                continue
            found = here[kind]
            yield kind, lambda found=found: OpenvinoExecutable(bundle, found, options)  # type: ignore[misc]


# Measuring -----------------------------------------------------------------------------------------------------------


def random_inputs(exe: Executable, seed: int = 0) -> dict[str, Array]:
    """Standard normal floats, and integers of 0 and 1."""
    rng = np.random.default_rng(seed)
    out = {}
    for port in exe.inputs:
        dtype = NUMPY_DTYPES[port.dtype]
        array = rng.standard_normal(port.shape) if dtype.kind == "f" else rng.integers(0, 2, port.shape)
        out[port.name] = np.asarray(array).astype(dtype)
    return out


def measure(
    kind: str,
    make: Callable[[], Executable],
    inputs: Mapping[str, Array] | None = None,
    seconds: float = _SECONDS,
    runs: int = _RUNS,
) -> Measured:
    """Time a model on a device: at least `runs` runs and `seconds`, after the first."""
    clock = time.perf_counter
    start = clock()
    with make() as exe:
        ready = clock() - start
        feeds = random_inputs(exe) if inputs is None else inputs
        start = clock()
        exe.run(feeds)
        first = clock() - start
        times: list[float] = []
        while len(times) < runs or sum(times) < seconds:
            start = clock()
            exe.run(feeds)
            times.append(clock() - start)
        name = exe.device_name
    p95 = sorted(times)[max(0, -(-95 * len(times) // 100) - 1)]
    return Measured(kind, name, ready, first, statistics.fmean(times), p95, min(times), len(times))


def _measured(makers: Mapping[str, Callable[[], Executable]], skipped: list[str]) -> dict[str, float]:
    """The mean seconds of those that run; the others' reasons are added to `skipped`."""
    seconds = {}
    for kind, make in makers.items():
        try:
            seconds[kind] = measure(kind, make).mean
        except (DeviceError, UnsupportedError) as e:
            skipped.append(f"{kind}: {e}")
    return seconds


def fastest(measured: list[Measured]) -> Measured:
    """The one with the least mean."""
    return min(measured, key=lambda m: m.mean)


# Remembering ---------------------------------------------------------------------------------------------------------


def choices_file() -> Path:
    """Where measured choices are kept: gpucompile/devices.json in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or str(Path.home() / ".cache")
    return Path(base) / "gpucompile" / "devices.json"


def _key(bundle: Any, makers: Mapping[str, object], options: OpenvinoOptions) -> str:
    """sha256 of what the choice depends on: the bundle (its manifest with the hashes of weights, its plans with those
    of shaders, OpenVINO's models with those of their files), the devices with names and drivers, OpenVINO's version,
    and the options."""
    plans = [to_json(bundle.plan(name)) for name in bundle.variants]
    models = [to_json(bundle.openvino_model(kind)) for kind in bundle.openvino]
    devices: list[Any] = [dataclasses.astuple(d) for d in list_devices()]
    if "npu" in makers or "cpu" in makers:
        devices.append((version(), *(options.properties(kind) for kind in KINDS)))
    if "gpu" in makers:
        info = dict(default_device().adapter.info)  # its description is the driver with its version
        devices.append([str(info.get(key, "")) for key in ("vendor", "device", "description", "backend_type")])
    text = json.dumps([to_json(bundle.manifest), plans, models, sorted(makers), devices], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_choices() -> dict[str, Any]:
    try:
        data = json.loads(choices_file().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _remembered(key: str, makers: Mapping[str, object]) -> dict[str, float] | None:
    """The mean seconds by device that were measured, if they are those of all candidates."""
    found = _read_choices().get(key)
    good = isinstance(found, dict) and set(found) == set(makers) and all(type(s) is float for s in found.values())
    return found if good else None


def _remember(key: str, seconds: Mapping[str, float]) -> None:
    """Written to a name of its own first, so that two processes do not mix; where it cannot be written, `auto` measures
    again the next time."""
    path = choices_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(_read_choices() | {key: seconds}, indent=1), "utf-8")
        temporary.replace(path)
    except OSError:
        pass
