"""`InferenceSession`: a model that is compiled when it is opened (or was before), and run like ONNX Runtime runs it."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucompile.compiler import compile
from gpucompile.errors import ClosedError, InputError, UnsupportedError
from gpucompile.runtime.bundle import BundleLike, read_bundle
from gpucompile.runtime.device import Device, default_device
from gpucompile.runtime.executable import NUMPY_DTYPES, Executable, select_plan
from gpucompile.runtime.format import Port
from gpucompile.runtime.loading import load
from gpucompile.runtime.memory import Memory, plan_bytes
from gpucompile.runtime.openvino import OpenvinoExecutable, model_for
from gpucompile.session.model import Header, ModelMetadata, NodeArg, header_of_ports, read_header
from gpucompile.session.options import Provider, SessionOptions, device_type_of, locations_of, providers_of
from gpucompile.session.pool import Pool
from gpucompile.session.profile import Trace
from gpucompile.session.run import Run
from gpucompile.session.tensor import CPU, Tensor, context_of
from gpucompile.webnn.context import ML, MLContext
from gpucompile.webnn.host import OpenvinoContext

if TYPE_CHECKING:
    import onnx

    from gpucompile.session.binding import IOBinding

__all__ = ["InferenceSession", "ModelMetadata", "NodeArg"]

#: Shapes for which a model with free dimensions stays compiled.
KEPT_PROGRAMS = 8


@dataclass(eq=False)
class _Program:
    """The model for certain sizes of its free dimensions."""

    executable: Executable
    inputs: dict[str, Port]
    outputs: dict[str, Port]
    host_bytes: int = 0  # of weights that count in the session's memory, but not by themselves
    users: int = 0  # runs that are not finished
    dropped: bool = False  # to be closed when nobody uses it any more


class InferenceSession:
    """ONNX Runtime's InferenceSession over gpucompile.

    path_or_bytes     an ONNX file, its bytes, an onnx.ModelProto, a bundle (`.gpub` or folder), or a Bundle
    sess_options      `gpucompile.SessionOptions`, a dict, or an `onnxruntime.SessionOptions`
    providers         `["webgpu"]`, `["webnn"]`, `["cpu"]` (through OpenVINO), or ONNX Runtime's names, with options as
                      in `[{"name": "webnn", "deviceType": "npu"}]`; the first is used. Sessions that exchange tensors
                      share a `context`, or a `device` (a `wgpu.GPUDevice` or `gpucompile.Device`); without either all
                      share one device.
    provider_options  a list of dicts, as ONNX Runtime has it
    options           session options by name, in snake_case or camelCase

    Free dimensions that no override binds are taken from the inputs: each new combination is compiled when it first
    comes, the last KEPT_PROGRAMS stay.

    Raises ModelError, UnsupportedError, InputError, BundleError or DeviceError. All methods may be called from several
    threads; runs follow one another in the order of their calls.
    """

    def __init__(
        self,
        path_or_bytes: str | Path | bytes | onnx.ModelProto | BundleLike,
        sess_options: Any = None,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        self._options = SessionOptions.of(sess_options, options)
        self._providers = providers_of(providers, provider_options)
        self._context = _context(self._providers[0], self._options)
        self._lock = threading.RLock()
        self._memory = Memory(self._options.memory_budget, self._context._arenas)
        self._pool = Pool(self._context, self._memory)
        self._trace = Trace(self._options.profile_file_prefix) if self._options.enable_profiling else None
        self._programs: OrderedDict[tuple[tuple[str, int], ...], _Program] = OrderedDict()
        self._closed = False
        self._source: Any = None
        self._header: Header
        self._free: dict[str, tuple[str, int]] = {}
        overrides = dict(self._options.free_dimension_overrides)
        if _is_bundle(path_or_bytes):
            bundle = read_bundle(path_or_bytes) if isinstance(path_or_bytes, (str, Path)) else path_or_bytes
            program = self._programs[()] = self._load(bundle)
            self._header = header_of_ports(program.executable.inputs, program.executable.outputs)
        else:
            self._source, self._header = path_or_bytes, read_header(path_or_bytes)  # type: ignore[arg-type]
            self._free = self._header.free_dimensions(overrides)
            if not self._free:
                self._done(self._program({}))
        self._locations = locations_of(self._options.preferred_output_location, [o.name for o in self._header.outputs])
        if isinstance(self._context, OpenvinoContext) and set(self._locations.values()) - {CPU}:
            raise UnsupportedError("preferred_output_location: outputs of npu and cpu are numpy arrays, location cpu")

    # ------------------------------------------------------------------ what it is

    def get_inputs(self) -> list[NodeArg]:
        """Name, shape and type of every input."""
        return [self._bound(arg) for arg in self._header.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """Name, shape and type of every output."""
        return [self._bound(arg) for arg in self._header.outputs]

    def get_modelmeta(self) -> ModelMetadata:
        """What the model file says of itself (nothing for a bundle)."""
        return self._header.metadata

    def get_providers(self) -> list[str]:
        """The providers in use, as they were asked for."""
        return [p.name for p in self._providers]

    def get_provider_options(self) -> dict[str, dict[str, Any]]:
        """Their options."""
        return {p.name: dict(p.options) for p in self._providers}

    def get_session_options(self) -> SessionOptions:
        """The options it was made with."""
        return self._options

    @property
    def context(self) -> MLContext:
        """The WebNN context it runs in: pass it to other sessions, create MLTensors in it."""
        return self._context

    @property
    def device(self) -> Device:
        return self._context.device

    def __repr__(self) -> str:
        return f"<InferenceSession {self._header.metadata.graph_name!r} on {self.device.name!r}>"

    def _bound(self, arg: NodeArg) -> NodeArg:
        sizes = self._options.free_dimension_overrides
        shape = [sizes.get(d or "", d) if not isinstance(d, int) else d for d in arg.shape]
        program = None if self._free else next(iter(self._programs.values()), None)
        if program is not None:
            port = program.inputs.get(arg.name) or program.outputs.get(arg.name)
            shape = list(port.shape) if port is not None else shape
        return NodeArg(arg.name, shape, arg.type)

    # ------------------------------------------------------------------ running

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: Any = None,
        *,
        fetches: Mapping[str, Any] | None = None,
    ) -> list[Any]:
        """Run once; returns the outputs in the order of `output_names` (None: all).

        input_feed  arrays, numbers, Tensors or objects with `numpy()`, by name; arrays must have the input's type
        fetches     pre-allocated outputs by name: Tensors, or arrays to be filled; returned in their place

        An output is a numpy array, or a Tensor where its preferred location is the GPU or `fetches` has one. A run all
        of whose outputs stay on the GPU does not wait. InputError for what does not fit, before anything runs."""
        with Run(self, output_names, input_feed, fetches) as run, self._measured(run):
            arrays = run.program.executable.run_bound(run.inputs, run.buffers, run.read)
            return run.results(arrays)

    def run_async(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        callback: Callable[[list[Any], Any, str], None] | None = None,
        user_data: Any = None,
        run_options: Any = None,
        *,
        fetches: Mapping[str, Any] | None = None,
    ) -> Awaitable[list[Any]] | None:
        """`run`, awaitable; or, as in ONNX Runtime's Python API, with a `callback(results, user_data, error)` that is
        called from another thread (`error` is an empty text if all went well)."""
        if callback is None:
            return self._run_async(output_names, input_feed, fetches)
        call = callback

        def work() -> None:
            try:
                results = self.run(output_names, input_feed, fetches=fetches)
            except Exception as e:
                call([], user_data, str(e))
            else:
                call(results, user_data, "")

        _workers().submit(work)
        return None

    async def _run_async(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], fetches: Mapping[str, Any] | None
    ) -> list[Any]:
        with Run(self, output_names, input_feed, fetches) as run, self._measured(run):
            arrays = await run.program.executable.run_bound_async(run.inputs, run.buffers, run.read)
            return run.results(arrays)

    def io_binding(self) -> IOBinding:
        """A set of inputs and outputs to be bound once and run often, see `run_with_iobinding`."""
        from gpucompile.session.binding import IOBinding

        return IOBinding(self)

    def run_with_iobinding(self, iobinding: IOBinding, run_options: Any = None) -> None:
        """Run once with what is bound; the results are in the binding."""
        iobinding._run()

    def warm_up(self, dims: Mapping[str, int] | None = None) -> None:
        """Compile what is not compiled (for these sizes of free dimensions) and run once on zeros, so that a run like
        it finds everything there: pipelines, buffers, and tensors for outputs that stay on the GPU."""
        with self._using(dict(dims or {})) as program:
            feeds = {n: np.zeros(p.shape, NUMPY_DTYPES[p.dtype]) for n, p in program.inputs.items()}
        for result in self.run(None, feeds):
            if isinstance(result, Tensor):
                result.dispose()

    def end_profiling(self) -> str:
        """Stop profiling and return the name of the trace file, which `chrome://tracing` and Perfetto open."""
        if self._trace is None:
            raise InputError("end_profiling: the session was opened without enable_profiling")
        return self._trace.write()

    def _measured(self, run: Run) -> Any:
        return contextlib.nullcontext() if self._trace is None else self._trace.measure("run", run.names)

    # ------------------------------------------------------------------ programs

    @contextlib.contextmanager
    def _using(self, dims: Mapping[str, int]) -> Iterator[_Program]:
        """The model compiled for these sizes of its free dimensions, which stays open meanwhile."""
        program = self._program(dims)
        try:
            yield program
        finally:
            self._done(program)

    def _done(self, program: _Program) -> None:
        """One user of a program less."""
        with self._lock:
            program.users -= 1
            if program.dropped and not program.users:
                self._close(program)

    def _drop(self, program: _Program) -> None:
        """Close a program as soon as nobody uses it."""
        program.dropped = True
        if not program.users:
            self._close(program)

    def _close(self, program: _Program) -> None:
        program.executable.close()
        self._memory.sub("weights", program.host_bytes)
        program.host_bytes = 0

    def _program(self, dims: Mapping[str, int]) -> _Program:
        """The model compiled for these sizes of its free dimensions; `_done` must follow."""
        key = tuple(sorted(dims.items()))
        with self._lock:
            if self._closed:
                raise ClosedError("the session is closed")
            program = self._programs.get(key)
            if program is None:
                missing = [n for n in self._free if n not in dims]
                if missing:
                    raise InputError(f"the model's free dimension {missing[0]!r} has no size")
                program = self._programs[key] = self._compile({**self._options.free_dimension_overrides, **dims})
                if len(self._programs) > KEPT_PROGRAMS:
                    self._drop(self._programs.popitem(last=False)[1])
            else:
                self._programs.move_to_end(key)
            program.users += 1
            return program

    def _dims_of(self, values: Mapping[str, Any]) -> dict[str, int]:
        """The sizes of the free dimensions, as the inputs have them."""
        out = {}
        for name, (arg, axis) in self._free.items():
            if arg not in values:
                raise InputError(f"run: the input {arg!r} is missing, which says how large {name!r} is")
            shape = np.shape(values[arg]) if not isinstance(values[arg], Tensor) else values[arg].dims
            if axis >= len(shape):
                raise InputError(f"run: input {arg!r} has rank {len(shape)}, too few axes")
            out[name] = int(shape[axis])
        return out

    def _compile(self, dims: dict[str, int]) -> _Program:
        if isinstance(self._context, OpenvinoContext):
            return self._load(compile(self._source, None, dims, devices=(self._context.device.kind,)))
        device, limit = self._context.device, self._options.memory_budget
        bundle: Any = None
        for plan_mode in ("balanced",) if limit is None else ("balanced", "memory"):
            bundle = compile(self._source, self._context._target, dims, self._options.pipeline, plan_mode)
            if limit is None or sum(plan_bytes(select_plan(bundle, device)).values()) <= limit:
                break
        return self._load(bundle)

    def _load(self, bundle: Any) -> _Program:
        """A compiled model on the device; other shapes make room for it where memory is limited."""
        on, memory = self._context, self._memory
        if isinstance(on, OpenvinoContext):
            weights = model_for(bundle, on.device).weights.size
            memory.add("weights", weights, "the model")
            executable: Executable = OpenvinoExecutable(bundle, on.device, on._options)
        else:
            weights, plan = 0, select_plan(bundle, on.device)
            if not memory.fits(memory.needed(plan)):
                self._pool.trim()
            while not memory.fits(memory.needed(plan)) and self._programs:
                self._drop(self._programs.popitem(last=False)[1])
            memory.require("the model", memory.needed(plan))
            executable = load(bundle, on.device, memory=memory)
        inputs, outputs = ({p.name: p for p in each} for each in (executable.inputs, executable.outputs))
        return _Program(executable, inputs, outputs, weights)

    # ------------------------------------------------------------------ memory and life

    def memory(self) -> dict[str, int]:
        """Bytes on the GPU: weights, scratch, inputs, outputs, staging of all compiled shapes; `tensors`, the outputs
        that callers hold or that wait to be used again; `total`; and `peak`, the most that there was at a time.

        `scratch` is what the session needs. It lies in buffers that all sessions of the context share, as large as the
        neediest one wants: `context.memory()`, which also has what reading tensors takes."""
        self._pool.take_collected()
        held = self._memory.held()
        return {**held, "total": sum(held.values()), "peak": self._memory.peak}

    def close(self) -> None:
        """Free the GPU memory; outputs that callers hold stay theirs."""
        with self._lock:
            self._closed = True
            programs, self._programs = list(self._programs.values()), OrderedDict()
            for program in programs:
                self._close(program)
        self._pool.close()

    release = close

    def __enter__(self) -> InferenceSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _is_bundle(source: Any) -> bool:
    if isinstance(source, (str, Path)):
        path = Path(source)
        return path.suffix == ".gpub" or path.is_dir()
    return hasattr(source, "variants") and hasattr(source, "shard")


def _context(provider: Provider, settings: SessionOptions) -> MLContext:
    context, device = provider.options.get("context"), provider.options.get("device")
    kind = device_type_of(provider)
    if context is None and kind != "gpu":
        return ML().create_context(
            kind,
            power_preference=str(provider.options.get("power_preference") or "default"),
            num_threads=int(provider.options.get("num_threads") or settings.intra_op_num_threads),
            cache_dir=provider.options.get("cache_dir"),
        )
    if context is not None:
        if not isinstance(context, MLContext):
            raise InputError(f"InferenceSession: context is an MLContext, not {type(context).__name__}")
        context._require_open()
        return context
    if isinstance(device, str):  # "webgpu" and the like: the kind, not the device
        device = None
    if device is None:
        preference = provider.options.get("power_preference")
        power = str(preference or "default")
        if power not in ("default", "high-performance", "low-power"):
            raise InputError(f"InferenceSession: unknown powerPreference {power!r}")
        device = default_device() if power == "default" else Device.open(power_preference=power)
    return context_of(device.handle, device) if isinstance(device, Device) else context_of(device)


_pool: ThreadPoolExecutor | None = None


def _workers() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(4, "gpucompile-session")
    return _pool
