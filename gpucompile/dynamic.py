"""Models whose inputs may have any size: compiled for the sizes that turn up, when they turn up.

    inputs -> sizes of the free dimensions -> executable from the cache, else compile -> run

The cache is bounded; what was used least recently goes first. All executables share weights, in host memory and on the
device. This needs the compiler where the model runs; `compile(..., dims={"seq": [16, 64]})` does not.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucompile.compiler import Clock, Options, check_constants, check_options, compile_graph, import_model, refused
from gpucompile.errors import ClosedError, InputError, UnsupportedError
from gpucompile.plan.bundle import Bundle
from gpucompile.plan.planner import weight_store
from gpucompile.runtime.device import Device, default_device
from gpucompile.runtime.executable import Array, Executable
from gpucompile.runtime.loading import make_executable
from gpucompile.runtime.player import SharedWeights
from gpucompile.sizes import Sizes
from gpucompile.target import Target

if TYPE_CHECKING:
    import onnx


@dataclass
class _Entry:
    executable: Executable
    users: int = 0  # runs that are under way


class DynamicExecutable:
    """A model with free dimensions on a device; `compile_dynamic` makes one.

    Call it with numpy arrays by position or name, as an `Executable`. `inputs` maps the names of the inputs to their
    shapes: numbers, and names of free dimensions. All methods may be called from several threads.
    """

    def __init__(
        self,
        model: str | Path | bytes | onnx.ModelProto,
        device: Device,
        target: Target,
        dims: Mapping[str, int],
        pipeline: str,
        plan: str,
        max_shapes: int,
        fallback: str = "error",
        constants: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        from gpucompile.frontends.onnx.importer import input_shapes

        self.device = device
        self.max_shapes = max_shapes
        self._model, self._fixed = model, Sizes.of(dims).fixed
        self._constants = check_constants(model, constants)
        self._options = Options(target, pipeline, plan, constants=self._constants)
        self._fallback = fallback
        self.inputs = {
            name: tuple(self._fixed.get(s, s) if isinstance(s, str) else s for s in shape)
            for name, shape in input_shapes(model, self._constants).items()
        }
        self._store = weight_store(target)
        self._weights: SharedWeights = {}
        self._cache: OrderedDict[tuple[tuple[str, int], ...], _Entry] = OrderedDict()
        self._lock = threading.RLock()  # of the cache
        self._compiling = threading.Lock()
        self._closed = False

    # ------------------------------------------------------------------ running

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run with inputs by position, by name, or both. Returns a numpy array, or a dict of them by output name if the
        graph has several outputs."""
        if len(args) > len(self.inputs):
            raise InputError(f"{len(args)} inputs given; {self._expected()}")
        given = dict(zip(self.inputs, args, strict=False))
        for name in kwargs:
            if name in given:
                raise InputError(f"input {name!r} is given by position and by name; {self._expected()}")
        result = self.run(given | kwargs)
        return next(iter(result.values())) if len(result) == 1 else result

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Run once: arrays by input name -> new arrays by output name. The first run with new sizes compiles.

        Raises InputError for inputs that do not fit, what `compile` raises for sizes that the model does not take,
        DeviceError if the device fails, ClosedError after `close`."""
        with self._executable(self._sizes(inputs)) as executable:
            return executable.run(inputs)

    async def run_async(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Like `run`, without blocking the event loop while the GPU works; compiling does block."""
        with self._executable(self._sizes(inputs)) as executable:
            return await executable.run_async(inputs)

    def warm_up(self, **dims: int) -> None:
        """Compile for these sizes of the free dimensions now."""
        free = [s for shape in self.inputs.values() for s in shape if isinstance(s, str)]
        if set(dims) != set(free):
            raise InputError(
                f"sizes wanted for {', '.join(dict.fromkeys(free))}, given for {', '.join(dims) or 'none'}"
            )
        with self._executable(dict(dims)):
            pass

    def _sizes(self, inputs: Mapping[str, Any]) -> dict[str, int]:
        """The sizes of the free dimensions in the inputs; what else may be wrong with these, `Executable` finds."""
        if not isinstance(inputs, Mapping):
            raise InputError(f"inputs must be a dict by name, not {type(inputs).__name__}; {self._expected()}")
        sizes: dict[str, int] = {}
        for name, shape in self.inputs.items():
            if not any(isinstance(s, str) for s in shape):
                continue
            if name not in inputs:
                raise InputError(f"input {name!r} is missing; {self._expected()}")
            array = inputs[name]
            if not isinstance(array, np.ndarray) or array.ndim != len(shape):
                found = f"{array.dtype}{list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
                raise InputError(f"input {name!r} is {found}; {self._expected()}")
            for axis, (dim, size) in enumerate(zip(shape, array.shape, strict=True)):
                if isinstance(dim, str) and sizes.setdefault(dim, size) != size:
                    raise InputError(f"input {name!r} axis {axis}: {dim} is {size} here and {sizes[dim]} elsewhere")
        return sizes

    # ------------------------------------------------------------------ the cache

    @contextlib.contextmanager
    def _executable(self, sizes: dict[str, int]) -> Iterator[Executable]:
        key = tuple(sorted(sizes.items()))
        entry = self._take(key)
        if entry is None:
            with self._compiling:
                entry = self._take(key)  # another thread may have made it meanwhile
                if entry is None:
                    entry = self._make(key, sizes)
        try:
            yield entry.executable
        finally:
            with self._lock:
                entry.users -= 1
                self._trim()

    def _take(self, key: tuple[tuple[str, int], ...]) -> _Entry | None:
        with self._lock:
            if self._closed:
                raise ClosedError("the executable is closed")
            entry = self._cache.get(key)
            if entry is not None:
                self._cache.move_to_end(key)
                entry.users += 1
            return entry

    def _make(self, key: tuple[tuple[str, int], ...], sizes: dict[str, int]) -> _Entry:
        entry = _Entry(self._compile(Sizes(self._fixed | sizes, {})), users=1)
        with self._lock:
            if self._closed:  # from another thread, while this one compiled
                entry.executable.close()
                self._free_weights()
                raise ClosedError("the executable is closed")
            self._cache[key] = entry
            self._trim()
            self._free_weights()  # only here, where no other executable is being made of them
        return entry

    def _compile(self, sizes: Sizes) -> Executable:
        """The model for these sizes, on the device. Weights are shared but for models in parts."""
        try:
            graph = import_model(self._model, sizes.fixed, self._constants)
            try:
                planned = compile_graph(graph, self._options, Clock(), self._store).planned
            except UnsupportedError as e:
                raise refused(self._model, sizes.fixed, self._options, e) from e
        except UnsupportedError:
            if self._fallback == "error":
                raise
            return self._in_parts(sizes)
        bundle = Bundle([planned.plan], planned.shaders, planned.shards)
        return Executable(bundle, self.device, weights=self._weights)

    def _in_parts(self, sizes: Sizes) -> Executable:
        from gpucompile.fallback import compile_with_hosts

        bundle = compile_with_hosts(self._model, sizes, self._options, self._fallback == "warn")
        if self._fallback == "warn" and not isinstance(bundle, Bundle):
            self._fallback = "allow"  # one warning, not one for each shape
        return make_executable(bundle, self.device)

    def _trim(self) -> None:
        """Close what was used least recently, as long as there is too much; never what is running."""
        idle = [key for key, entry in self._cache.items() if not entry.users]
        for key in idle[: max(0, len(self._cache) - self.max_shapes)]:
            self._cache.pop(key).executable.close()

    def _free_weights(self) -> None:
        """Free weight buffers that no cached plan binds."""
        shared = [e.executable for e in self._cache.values() if type(e.executable) is Executable]
        used = {b.shards for executable in shared for b in executable.plan.buffers if b.kind == "weight"}
        for shards in [s for s in self._weights if s not in used]:
            self._weights.pop(shards).destroy()

    # ------------------------------------------------------------------ life

    @property
    def shapes(self) -> list[dict[str, int]]:
        """The sizes in the cache, the least recently used first."""
        with self._lock:
            return [dict(key) for key in self._cache]

    def memory(self) -> dict[str, int]:
        """Bytes on the GPU by kind, of all cached sizes: input, output, state, weight (each once), scratch, staging."""
        with self._lock:
            total = dict.fromkeys(("input", "output", "state", "weight", "scratch", "staging"), 0)
            for entry in self._cache.values():
                for kind, size in entry.executable.memory().items():
                    if kind != "weight" or type(entry.executable) is not Executable:
                        total[kind] = total.get(kind, 0) + size
            return total | {"weight": total["weight"] + sum(b.size for b in self._weights.values())}

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Free the GPU memory. Running afterwards raises ClosedError; closing twice is fine."""
        with self._lock:
            self._closed = True
            for entry in self._cache.values():
                entry.executable.close()
            self._cache.clear()
            self._free_weights()

    def __enter__(self) -> DynamicExecutable:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._cache)} of {self.max_shapes} shapes"
        return f"<DynamicExecutable on {self.device.name!r}: {state}>"

    def _expected(self) -> str:
        shapes = ", ".join(f"{name}: [{', '.join(map(str, shape))}]" for name, shape in self.inputs.items())
        return f"expected {shapes}" if shapes else "this model has no inputs"


def compile_dynamic(
    model: str | Path | bytes | onnx.ModelProto,
    device: Device | None = None,
    target: Target | None = None,
    dims: Mapping[str, int] | None = None,
    pipeline: str = "default",
    plan: str = "balanced",
    max_shapes: int = 8,
    fallback: str = "error",
    constants: Mapping[str, np.ndarray] | None = None,
) -> DynamicExecutable:
    """Put an ONNX model on a device, to be compiled for the sizes of the inputs it is run with, on first use.

    device      as in `load`
    target      default: what the device offers
    dims        sizes for some of the free dimensions, by name; the others stay free
    max_shapes  how many combinations of sizes stay compiled; the least recently used goes first

    `pipeline`, `plan`, `fallback` and `constants` are those of `compile`. Raises ModelError for files that cannot be
    read, InputError for arguments that are wrong; what the model lacks otherwise turns up when it is run."""
    if isinstance(max_shapes, bool) or not isinstance(max_shapes, int) or max_shapes < 1:
        raise InputError(f"max_shapes must be an integer of at least 1, not {max_shapes!r}")
    if device is not None and not isinstance(device, Device):
        raise InputError(f"device must be a gpucompile.Device (see Device.open), not {device!r}")
    sizes = check_options(target, dims, fallback)
    if sizes.lists:
        raise InputError(
            f"dims: {', '.join(sizes.lists)} cannot have several sizes here: any size is taken as it comes"
        )
    device = device or default_device()
    target = target or Target.of(device.adapter)
    return DynamicExecutable(model, device, target, sizes.fixed, pipeline, plan, max_shapes, fallback, constants)
