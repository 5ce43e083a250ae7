"""Executables whose inputs may have several sizes: each run goes to a plan for sizes that are at least as large.

    inputs -> sizes of the free dimensions -> the smallest bucket that holds them -> pad -> run -> crop the outputs

Weights that buckets have in common are on the device once. The rest of a bucket (its scratch memory, inputs, outputs
and pipelines) is made when it is used first.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gpucompile.errors import ClosedError, InputError
from gpucompile.runtime.bundle import BundleLike
from gpucompile.runtime.device import Device
from gpucompile.runtime.executable import Array, Executable, Pad, close_bundle, select_plan
from gpucompile.runtime.format import Bucket, Port
from gpucompile.runtime.player import Progress, SharedWeights


class BucketExecutable(Executable):
    """A compiled graph with free dimensions on a device.

    Called like any `Executable`, with inputs of any sizes up to those of the largest bucket. Sizes that are those of a
    bucket run as they are. Others are refused, or, with a `pad`, filled up with that value at their ends, and what the
    outputs have too much of is cut off at their ends; an output with an axis whose size depends on a free dimension
    without being one (two merged into one, say) cannot be cut, so that padding is refused. Whether what the padding
    computes stays out of the rest of the results is the model's business: a transformer wants its attention mask padded
    with what masks.

    `inputs`, `outputs` and `plan` are those of the largest bucket.
    """

    def __init__(
        self,
        bundle: BundleLike,
        device: Device,
        progress: Progress | None = None,
        submits: int = 1,
        pad: Pad = "error",
        *,
        owns_bundle: bool = False,
    ) -> None:
        """Check that the device can run every bucket; `owns_bundle` closes the bundle with the executable.

        Raises BundleError if no variant of a bucket fits the device, InputError for a `pad` that is none."""
        if not isinstance(device, Device):
            raise InputError(f"device must be a gpucompile.Device (see Device.open), not {device!r}")
        device.require_open()
        self.device = device
        self.buckets, self.free_axes = bundle.buckets, bundle.free_axes
        plans = [select_plan(bundle, device, bucket.variants) for bucket in self.buckets]
        self.plan = plans[-1]
        self._fill_values = _fills(pad, self.inputs)
        self._lock = threading.RLock()
        self._bundle: BundleLike | None = bundle
        self._owns_bundle = owns_bundle
        self._options = (progress, submits)
        self._parts: dict[int, Executable] = {}
        self._weights: SharedWeights = {}

    # ------------------------------------------------------------------ running

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Run once: arrays by input name -> new arrays by output name.

        Raises InputError for inputs that fit no bucket, DeviceError if the device fails, ClosedError after `close`."""
        part, padded, dims = self._prepare(inputs)
        return self._crop(part.run(padded), dims)

    async def run_async(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Like `run`, without blocking the event loop while the GPU works."""
        part, padded, dims = self._prepare(inputs)
        return self._crop(await part.run_async(padded), dims)

    def dispatch(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Refused: GPU buffers do not tell their shapes. Use the `bucket` that has them."""
        raise InputError("GPU buffers do not tell their shapes: dispatch on executable.bucket(dim=size, ...)")

    def profile(self, inputs: Mapping[str, Any], repeat: int = 1) -> list[tuple[str, float]]:
        """Label and seconds of every step of the bucket that the inputs go to."""
        part, padded, _ = self._prepare(inputs)
        return part.profile(padded, repeat)

    def bucket(self, **dims: int) -> Executable:
        """The executable for one bucket, given all its sizes by name. It is closed with this one."""
        for i, bucket in enumerate(self.buckets):
            if bucket.dims == dims:
                return self._part(i)
        raise InputError(f"there is no bucket {_named(dims)}; there are {self._listed()}")

    def _prepare(self, inputs: Mapping[str, Any]) -> tuple[Executable, dict[str, Any], dict[str, int] | None]:
        """The executable, its inputs, and the sizes to cut the outputs to (None: as they are)."""
        dims = self._dims(inputs)
        index = self._choose(dims)
        bucket = self.buckets[index]
        if bucket.dims == dims:
            return self._part(index), dict(inputs), None
        if self._fill_values is None:
            raise InputError(
                f"there is no bucket for {_named(dims)}; there are {self._listed()}. Give sizes of a bucket, or load "
                'with pad="zeros" (or another value) to run a larger one'
            )
        for a in self.free_axes:
            if not a.dim:
                raise InputError(
                    f"{_named(dims)} is not the size of a bucket, and output {a.port!r} cannot be cut to it: its axis "
                    f"{a.axis} depends on {', '.join(dims)} but is none of them, so where padding ends up in it is not "
                    f"known (in the middle of a cache that is appended to). Give sizes of a bucket: {self._listed()}"
                )
        padded = dict(inputs)
        for port in self.inputs:
            axes = {a.axis: bucket.dims[a.dim] for a in self.free_axes if a.port == port.name}
            if axes:
                shape = tuple(axes.get(i, d) for i, d in enumerate(inputs[port.name].shape))
                padded[port.name] = _padded(inputs[port.name], shape, self._fill_values[port.name])
        return self._part(index), padded, dims

    def _dims(self, inputs: Mapping[str, Any]) -> dict[str, int]:
        """The sizes of the free dimensions in the inputs."""
        if not isinstance(inputs, Mapping):
            raise InputError(f"inputs must be a dict by name, not {type(inputs).__name__}; {self._expected()}")
        ports = {p.name: p for p in self.inputs}
        dims: dict[str, int] = {}
        for a in self.free_axes:
            if a.port not in ports:
                continue
            if a.port not in inputs:
                raise InputError(f"input {a.port!r} is missing; {self._expected()}")
            array = inputs[a.port]
            if not isinstance(array, np.ndarray) or array.ndim != len(ports[a.port].shape):
                found = f"{array.dtype}{list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
                raise InputError(f"input {a.port!r} is {found}; {self._expected()}")
            size = array.shape[a.axis]
            if dims.setdefault(a.dim, size) != size:
                raise InputError(f"input {a.port!r} axis {a.axis}: {a.dim} is {size} here and {dims[a.dim]} elsewhere")
        return dims

    def _choose(self, dims: Mapping[str, int]) -> int:
        """The first bucket, which is the smallest, that has room; nothing is padded from nothing."""
        for i, bucket in enumerate(self.buckets):
            if all(n <= bucket.dims[name] and (n or not bucket.dims[name]) for name, n in dims.items()):
                return i
        raise InputError(f"no bucket has room for {_named(dims)}; there are {self._listed()}")

    def _crop(self, outputs: dict[str, Array], dims: dict[str, int] | None) -> dict[str, Array]:
        if dims is None:
            return outputs
        for port in self.outputs:
            sizes = {a.axis: dims[a.dim] for a in self.free_axes if a.port == port.name}
            array = outputs[port.name]
            cut = tuple(slice(sizes.get(i)) for i in range(array.ndim))
            outputs[port.name] = np.ascontiguousarray(array[cut])
        return outputs

    def _part(self, index: int) -> Executable:
        """The executable of a bucket, made when first asked for."""
        with self._lock:
            if self._bundle is None:
                raise ClosedError("the executable is closed")
            if index not in self._parts:
                progress, submits = self._options
                variants = self.buckets[index].variants
                self._parts[index] = Executable(
                    self._bundle, self.device, progress, submits, variants=variants, weights=self._weights
                )
            return self._parts[index]

    # ------------------------------------------------------------------ life

    def memory(self) -> dict[str, int]:
        """Bytes on the GPU by kind, of buckets in use: input, output, state, weight (each once), scratch, staging."""
        with self._lock:
            total = dict.fromkeys(("input", "output", "state", "weight", "scratch", "staging"), 0)
            for part in self._parts.values():
                for kind, size in part.memory().items():
                    total[kind] += size
            return total | {"weight": sum(b.size for b in self._weights.values())}

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._bundle is None

    def close(self) -> None:
        """Free the GPU memory. Running afterwards raises ClosedError; closing twice is fine."""
        with self._lock:
            bundle, self._bundle = self._bundle, None
            for part in self._parts.values():
                part.close()
            for buffer in self._weights.values():
                buffer.destroy()
            self._parts, self._weights = {}, {}
            if self._owns_bundle:
                close_bundle(bundle)

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self.buckets)} buckets, {len(self._parts)} in use"
        return f"<BucketExecutable on {self.device.name!r}: {state}>"

    # ------------------------------------------------------------------ messages

    def _listed(self) -> str:
        return "; ".join(_named(b.dims) for b in self.buckets)

    def _expected(self) -> str:
        names = {(a.port, a.axis): a.dim for a in self.free_axes}
        ports = []
        for p in self.inputs:
            shape = ", ".join(str(names.get((p.name, i), d)) for i, d in enumerate(p.shape))
            ports.append(f"{p.name}: {p.dtype}[{shape}]")
        return f"expected {', '.join(ports)} with {self._listed()}"


def sorted_buckets(buckets: list[Bucket]) -> list[Bucket]:
    """Smallest first: by the product of the sizes, then by the sizes themselves."""
    return sorted(buckets, key=lambda b: (math.prod(b.dims.values()), tuple(b.dims.values())))


def _named(dims: Mapping[str, int]) -> str:
    return ", ".join(f"{k}={v}" for k, v in dims.items())


def _fills(pad: Pad, inputs: tuple[Port, ...]) -> dict[str, float] | None:
    """The value each input is filled with; None where nothing is to be filled."""
    names = [p.name for p in inputs]
    if isinstance(pad, str):
        if pad not in ("error", "zeros"):
            raise InputError(f'pad must be "error", "zeros", a number, or numbers by input name, not {pad!r}')
        return None if pad == "error" else dict.fromkeys(names, 0)
    if isinstance(pad, Mapping):
        for name, value in pad.items():
            if name not in names:
                raise InputError(f"pad: there is no input {name!r}; there are {', '.join(names)}")
            if not isinstance(value, (int, float)):
                raise InputError(f"pad: {name} is {value!r}, it must be a number")
        return {name: pad.get(name, 0) for name in names}
    if not isinstance(pad, (int, float)):
        raise InputError(f'pad must be "error", "zeros", a number, or numbers by input name, not {pad!r}')
    return dict.fromkeys(names, pad)


def _padded(array: npt.NDArray[Any], shape: tuple[int, ...], value: float) -> npt.NDArray[Any]:
    if array.shape == shape:
        return array
    array = array.view(np.uint8) if array.dtype == np.bool_ else array
    if array.dtype.kind != "f" and not (float(value).is_integer() and _holds(array.dtype, int(value))):
        raise InputError(f"pad: {value} does not fit {array.dtype}")
    out: npt.NDArray[Any] = np.full(shape, value, array.dtype)
    out[tuple(map(slice, array.shape))] = array
    return out


def _holds(dtype: np.dtype[Any], value: int) -> bool:
    limits = np.iinfo(dtype)
    return int(limits.min) <= value <= int(limits.max)
