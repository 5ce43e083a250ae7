"""Executables: what an application calls. numpy arrays in, numpy arrays out, everything checked on the way.

    load(path or bundle) -> Executable -> exe(x), exe(**inputs), exe.run({...}), await exe.run_async({...})

The loader takes the first variant of the bundle (best first) whose requirements the device meets.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from gpucompile.errors import BundleError, ClosedError, InputError
from gpucompile.runtime.bundle import BundleLike
from gpucompile.runtime.device import Device
from gpucompile.runtime.format import PAST_LENGTH, BufferKind, HostNode, Plan, Port
from gpucompile.runtime.memory import Memory
from gpucompile.runtime.nibbles import pack_nibbles, unpack_nibbles
from gpucompile.runtime.player import Player, Progress, SharedWeights
from gpucompile.runtime.profiling import step_seconds

if TYPE_CHECKING:
    pass

Array: TypeAlias = "npt.NDArray[Any]"
#: What fills inputs up to the size of a bucket: nothing ("error"), "zeros", a number, or numbers by input name.
Pad: TypeAlias = "str | float | Mapping[str, float]"

#: numpy's type for every WebNN data type. 4-bit integers are one int8 or uint8 each on the host, packed on the device.
NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype({"int4": "int8", "uint4": "uint8"}.get(name, name)).newbyteorder("<")
    for name in (
        "float32", "float16", "int32", "uint32", "int64", "uint64", "int8", "uint8", "int4", "uint4"
    )
}  # fmt: skip


_DONE = threading.Event()  # of what is not loaded by another thread
_DONE.set()


def select_plan(bundle: BundleLike, device: Device, variants: Sequence[str] | None = None) -> Plan:
    """The first plan of a bundle that the device can run, of all or some variants. Raises BundleError naming what every
    variant misses."""
    reasons = []
    for name in bundle.variants if variants is None else variants:
        plan = bundle.plan(name)
        missing = device.missing(plan.requires)
        if not missing:
            return plan
        reasons.append(f"variant {name} needs {', '.join(missing)}")
    raise BundleError(f"the device {device.name} cannot run this bundle: {'; '.join(reasons) or 'it has no shaders'}")


class Executable:
    """A compiled graph on a device.

    `exe(x)` takes the inputs by position, `exe(name=x)` by name, `exe.run({...})` as a dict. Arrays must have exactly
    the shape and data type of their port (row-major; anything else is refused with an InputError that lists what is
    expected); a Python number will do where the shape is `()`, an array of bool where the port is uint8. A
    graph with one output returns it from a call, one with several a dict; `run` always returns a dict.

    Weights stay on the GPU until `close`. All methods may be called from several threads.
    """

    _ready = _DONE
    _failure: Exception | None = None
    _loading: threading.Thread | None = None

    def __init__(
        self,
        bundle: BundleLike,
        device: Device,
        progress: Progress | None = None,
        submits: int = 1,
        *,
        variants: Sequence[str] | None = None,
        weights: SharedWeights | None = None,
        memory: Memory | None = None,
        stream: bool = False,
        owns_bundle: bool = False,
    ) -> None:
        """Create all GPU objects; `progress(stage, done, total)` with stage `weights` (bytes) or `pipelines`;
        `submits` and `stream` as in `load`. `variants` are the plans to choose from (default: all), `weights` the
        buffers shared with other executables of this bundle, which whoever made it frees. `memory` counts what is
        made. `owns_bundle` closes the bundle as soon as it is not needed.

        Raises BundleError if the bundle is damaged or no variant fits the device, DeviceError if the device refuses,
        UnsupportedError if `memory` has no room."""
        if not isinstance(device, Device):
            raise InputError(f"device must be a gpucompile.Device (see Device.open), not {device!r}")
        if submits < 1:
            raise InputError(f"submits must be at least 1, not {submits}")
        device.require_open()
        self.device = device
        self.plan = select_plan(bundle, device, variants)
        self._lock = threading.RLock()  # a device found lost while it is held closes what runs on it
        self._player: Player | None = Player(device, self.plan, submits, weights, memory)
        places = self._player.places
        self._outputs = [(p, places[p.buffer][1], math.prod(p.shape), NUMPY_DTYPES[p.dtype]) for p in self.outputs]
        if stream:
            self._ready = threading.Event()
            # no daemon: one that is inside of wgpu when the interpreter ends takes the process down
            arguments = (self._player, bundle, progress, owns_bundle)
            self._loading = threading.Thread(target=self._load, args=arguments, name="gpucompile-load")
            self._loading.start()
        else:
            self._fill(self._player, bundle, progress, owns_bundle)

    def _load(self, *arguments: Any) -> None:
        try:
            self._fill(*arguments)
        except Exception as e:
            self._failure = e
        finally:
            self._ready.set()

    @staticmethod
    def _fill(player: Player, bundle: BundleLike, progress: Progress | None, owns_bundle: bool) -> None:
        try:
            player.fill(bundle, progress)
        finally:
            if owns_bundle:
                close_bundle(bundle)

    @property
    def inputs(self) -> tuple[Port, ...]:
        """Name, WebNN data type and shape of every input, in order."""
        return self.plan.inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        """Name, WebNN data type and shape of every output, in order."""
        return self.plan.outputs

    @property
    def kernels(self) -> int:
        """How many dispatches a run is."""
        return len(self.plan.steps)

    @property
    def fallback(self) -> tuple[HostNode, ...]:
        """The nodes that the first device of the order does not run, each with the reason; empty where it runs
        everything."""
        return ()

    #: Why devices that come earlier in the order (with `auto`: all others) do not run it, one line each.
    skipped: tuple[str, ...] = ()

    @property
    def device_name(self) -> str:
        """What the device calls itself."""
        return self.device.name

    # ------------------------------------------------------------------ running

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run with inputs by position, by name, or both. Returns a numpy array, or a dict of them by output name if the
        graph has several outputs."""
        if len(args) > len(self.inputs):
            raise InputError(f"{len(args)} inputs given; {self._expected()}")
        given = {port.name: value for port, value in zip(self.inputs, args, strict=False)}
        twice = [name for name in kwargs if name in given]
        if twice:
            raise InputError(f"input {twice[0]!r} is given by position and by name; {self._expected()}")
        result = self.run(given | kwargs)
        return next(iter(result.values())) if len(result) == 1 else result

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Run once: arrays by input name -> new arrays by output name.

        Raises InputError for inputs that do not fit, DeviceError if the device fails, ClosedError after `close`."""
        arrays = self._check(inputs)
        player, staging = self._start(arrays)
        return self._finish(player, staging)

    async def run_async(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Like `run`, without blocking the event loop while the GPU works. Several runs may be awaited at once."""
        arrays = self._check(inputs)
        await self._loaded()
        player, staging = self._start(arrays)
        return await self._finish_async(player, staging)

    def dispatch(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Run once on GPU buffers by port name, without waiting: the queue orders it. The buffers hold whole 32-bit
        words; names, sizes and usages are the caller's business, nothing is checked. Shaders work on the buffers
        themselves where these have the usage STORAGE and a multiple of 16 bytes; else they are copied."""
        given, taken = [inputs[p.name] for p in self.inputs], [outputs[p.name] for p in self.outputs]
        with self._lock:
            self._open_player().start([None] * len(given), given, taken)

    def run_bound(
        self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], read: Collection[str] | None = None
    ) -> dict[str, Array]:
        """Run once on arrays and GPU buffers: every input is either, `outputs` has a GPU buffer for some. Returns the
        others (those in `read`, if given) as arrays by name, after waiting for them; with none it does not wait.

        Arrays are checked as in `run`, buffers as in `dispatch`."""
        player, staging, ports = self._start_bound(inputs, outputs, read)
        return {} if staging is None else self._finish(player, staging, ports)

    async def run_bound_async(
        self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], read: Collection[str] | None = None
    ) -> dict[str, Array]:
        """`run_bound`, without blocking the event loop."""
        await self._loaded()
        player, staging, ports = self._start_bound(inputs, outputs, read)
        return {} if staging is None else await self._finish_async(player, staging, ports)

    def _finish(self, player: Player, staging: Any, names: Collection[str] | None = None) -> dict[str, Array]:
        """Wait for a run; its outputs (those in `names`, if given) as arrays."""
        try:
            result: dict[str, Array] = player.finish(staging, lambda data: self._unpack(data, names))
        except Exception:
            self._open_player()  # closed from another thread meanwhile: say that instead
            raise
        return result

    async def _finish_async(
        self, player: Player, staging: Any, names: Collection[str] | None = None
    ) -> dict[str, Array]:
        """`_finish`, without blocking the event loop."""
        try:
            result: dict[str, Array] = await player.finish_async(staging, lambda data: self._unpack(data, names))
        except Exception:
            self._open_player()
            raise
        return result

    def _start_bound(
        self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], read: Collection[str] | None
    ) -> tuple[Player, Any, set[str]]:
        ports = {p.name for p in self.outputs if p.name not in outputs and (read is None or p.name in read)}
        buffers = [v if hasattr(v, "usage") else None for v in (inputs.get(p.name) for p in self.inputs)]
        arrays = self._check(inputs, {p.name for p, b in zip(self.inputs, buffers, strict=True) if b is not None})
        with self._lock:
            player = self._open_player()
            targets = [outputs.get(p.name) for p in self.outputs]
            return player, player.start(arrays, buffers, targets, ports), ports

    def copied_bytes(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> int:
        """How many bytes `dispatch` on these buffers copies because shaders cannot work on them."""
        given, taken = [inputs.get(p.name) for p in self.inputs], [outputs.get(p.name) for p in self.outputs]
        with self._lock:
            return self._open_player().bindings.copied_bytes(given, taken)

    def profile(self, inputs: Mapping[str, Any], repeat: int = 1) -> list[tuple[str, float]]:
        """Label and seconds of every step, measured on the device by timestamps around `repeat` dispatches of it.

        Each step is a pass of its own, so overlaps between steps do not show. DeviceError without timestamp-query."""
        arrays = self._check(inputs)
        with self._lock:
            seconds = step_seconds(self._open_player(), arrays, repeat)
        return [(step.label, s) for step, s in zip(self.plan.steps, seconds, strict=True)]

    def _start(self, arrays: list[Array | None]) -> tuple[Player, Any]:
        with self._lock:
            player = self._open_player()
            return player, player.start(arrays)

    # ------------------------------------------------------------------ life

    @property
    def ready(self) -> bool:
        """Whether it is loaded, so that a run need not wait; with `stream=True` that takes a while."""
        return self._ready.is_set() and self._failure is None

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Wait until it is loaded; False if that takes longer than `timeout` seconds. Raises what made loading fail."""
        if not self._ready.wait(timeout):
            return False
        if self._failure is not None:
            raise self._failure
        return True

    async def _loaded(self) -> None:
        if not self._ready.is_set():
            await asyncio.to_thread(self._ready.wait)

    def memory(self) -> dict[str, int]:
        """Bytes on the GPU by kind: input, output, state (made when a run needs it), weight, scratch, staging (more
        where runs overlap)."""
        kinds: tuple[BufferKind, ...] = ("input", "output", "weight", "scratch")
        if self._player is None:
            raise ClosedError("the executable is closed")
        sizes = {kind: self.plan.bytes_of(kind) for kind in kinds}
        return sizes | {"state": self._player.state_bytes, "staging": self._player.all_staging_bytes}

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._player is None

    def close(self) -> None:
        """Free the GPU memory, and end loading. Running afterwards raises ClosedError; closing twice is fine."""
        if self._loading is not None and self._player is not None:
            self._player.cancel()  # without the lock, which a run that waits for the end of loading holds
            if threading.current_thread() is not self._loading:  # as it is in a `progress`
                self._loading.join()
        with self._lock:
            player, self._player = self._player, None
            if player is not None:
                player.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self.plan.steps)} steps, variant {self.plan.name}"
        return f"<Executable on {self.device.name!r}: {state}>"

    def _open_player(self) -> Player:
        if self._player is None:
            raise ClosedError("the executable is closed")
        self.device.require_open()
        self.wait_ready()
        return self._player

    # ------------------------------------------------------------------ inputs and outputs

    def _expected(self) -> str:
        ports = ", ".join(f"{p.name}: {p.dtype}{list(p.shape)}" for p in self.inputs)
        return f"expected {ports}" if ports else "this graph has no inputs"

    def _check(self, inputs: Mapping[str, Any], but: Collection[str] = ()) -> list[Array | None]:
        """The arrays in the order of the ports, None for the ports in `but`."""
        self._check_names(inputs)
        return [None if p.name in but else self._pack(p, inputs[p.name]) for p in self.inputs]

    def _check_names(self, inputs: Mapping[str, Any]) -> None:
        if not isinstance(inputs, Mapping):
            raise InputError(f"inputs must be a dict by name, not {type(inputs).__name__}; {self._expected()}")
        known = {p.name for p in self.inputs}
        for name in inputs:
            if name not in known:
                raise InputError(f"there is no input {name!r}; {self._expected()}")
        for port in self.inputs:
            if port.name not in inputs:
                raise InputError(f"input {port.name!r} is missing; {self._expected()}")

    def _checked(self, port: Port, value: Any) -> Array:
        """An input of exactly the type of its port."""
        dtype = NUMPY_DTYPES[port.dtype]
        if type(value) in (int, float) and port.shape == ():
            try:
                if type(value) is float and dtype.kind != "f":
                    raise OverflowError
                value = np.array(value, dtype)
            except OverflowError:
                raise InputError(f"input {port.name!r}: {value} does not fit {port.dtype}") from None
        if not isinstance(value, (np.ndarray, np.generic)):
            found = type(value).__name__
            raise InputError(f"input {port.name!r}: a numpy array is wanted, not {found}; {self._expected()}")
        if value.dtype == np.bool_ and port.dtype == "uint8":
            value = np.asarray(value).view(np.uint8)
        if value.dtype != dtype or value.shape != port.shape:
            raise InputError(f"input {port.name!r} is {value.dtype}{list(value.shape)}; {self._expected()}")
        plan = getattr(self, "plan", None) if port.name == PAST_LENGTH else None  # executables in parts have none
        room = plan.room if plan is not None else None
        if room is not None and not 0 <= int(value) <= room:
            raise InputError(f"input {port.name!r} is {int(value)}; there is room for a run after 0 to {room} tokens")
        return np.asarray(value)

    def _pack(self, port: Port, value: Any) -> Array:
        """The bytes of an input as the device wants them: contiguous, whole 32-bit words."""
        array = np.ascontiguousarray(self._checked(port, value))
        if port.dtype in ("int4", "uint4"):
            _check_nibbles(array, port)
            array = pack_nibbles(array)
        if array.nbytes % 4:
            array = np.concatenate((array.reshape(-1).view(np.uint8), np.zeros(-array.nbytes % 4, np.uint8)))
        return array

    def _unpack(self, data: Any, names: Collection[str] | None = None) -> dict[str, Array]:
        result: dict[str, Array] = {}
        for port, offset, count, dtype in self._outputs:
            if names is not None and port.name not in names:
                continue
            if port.dtype in ("int4", "uint4"):
                nibbles = np.frombuffer(data, np.uint8, (count + 1) // 2, offset)
                result[port.name] = unpack_nibbles(nibbles, port.shape, port.dtype == "int4")
            else:
                result[port.name] = np.frombuffer(data, dtype, count, offset).reshape(port.shape).copy()
        return result


def _check_nibbles(array: Array, port: Port) -> None:
    low, high = (-8, 7) if port.dtype == "int4" else (0, 15)
    if array.size and (array.min() < low or array.max() > high):
        raise InputError(f"input {port.name!r}: values outside {low}..{high} of {port.dtype}")


def close_bundle(bundle: Any) -> None:
    """Close a bundle that can be closed: one on disk, not one just compiled."""
    close = getattr(bundle, "close", None)
    if close is not None:
        close()
