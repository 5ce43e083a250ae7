"""`InferenceSession`: a model that is compiled when it is opened (or was before), and run like ONNX Runtime runs it."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucompile.compiler import Options, compile
from gpucompile.errors import ClosedError, InputError, UnsupportedError
from gpucompile.runtime.bundle import BundleLike, read_bundle
from gpucompile.runtime.executable import NUMPY_DTYPES, Executable, select_plan
from gpucompile.runtime.format import Port
from gpucompile.runtime.loading import load
from gpucompile.runtime.memory import Memory, plan_bytes
from gpucompile.runtime.openvino import OpenvinoExecutable, model_for
from gpucompile.session.cache import Cache, Caching, states_of
from gpucompile.session.description import Description
from gpucompile.session.model import ModelMetadata, NodeArg, header_of_ports, read_header
from gpucompile.session.options import SessionOptions, check_run_options, locations_of
from gpucompile.session.ortvalue import OrtValue
from gpucompile.session.pool import Pool
from gpucompile.session.profile import Trace
from gpucompile.session.providers import falls_back, open_context, providers_of, unused_options
from gpucompile.session.run import Run, require_inputs
from gpucompile.session.tensor import CPU, Tensor
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


class InferenceSession(Description, Caching):
    """ONNX Runtime's InferenceSession over gpucompile.

    path_or_bytes     an ONNX file, its bytes, an onnx.ModelProto, a bundle (`.gpub` or folder), or a Bundle
    sess_options      `gpucompile.SessionOptions`, a dict, or an `onnxruntime.SessionOptions`
    providers         `["webgpu"]`, `["webnn"]`, `["cpu"]` (through OpenVINO), or ONNX Runtime's names, with options as
                      in `[{"name": "webnn", "deviceType": "npu"}]`; the first is used. Sessions that exchange tensors
                      share a `context`, or a `device` (a `wgpu.GPUDevice` or `gpucompile.Device`); without either all
                      share one device.
                      With cpu after a GPU, the CPU takes the nodes that the GPU cannot, and a warning lists them.
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
        if bool(int(options.pop("enable_fallback", 0))):
            self.enable_fallback()
        self._options = SessionOptions.of(sess_options, options)
        if providers is None and self._options.execution_providers:
            providers = self._options.execution_providers
        elif self._options.execution_providers:
            raise InputError("InferenceSession: providers are given and in the options (execution_providers)")
        self._given = path_or_bytes
        self._lock = threading.RLock()
        self._trace = Trace(self._options.profile_file_prefix) if self._options.enable_profiling else None
        self._open(providers, provider_options)

    def _open(self, providers: Any, provider_options: Any) -> None:
        """Choose the device and compile."""
        self._providers = providers_of(providers, provider_options)
        first = self._providers[0]
        self._options.warn_of_hints(unused_options(first), first.device_type == "cpu")
        self._fallback = "warn" if falls_back(self._providers) and self._options.may_fall_back else "error"
        self._context = open_context(first, self._options.intra_op_num_threads)
        self._memory = Memory(self._options.memory_budget, self._context._arenas)
        self._pool = Pool(self._context, self._memory)
        self._programs: OrderedDict[tuple[tuple[str, int], ...], _Program] = OrderedDict()
        self._closed = False
        self._source: Any = None
        self._cached = None
        self._free: dict[str, tuple[str, int]] = {}
        source = self._given
        if _is_bundle(source):
            if self._options.constants:
                raise InputError("InferenceSession: constants are compiled in, a bundle is compiled already")
            bundle = read_bundle(source) if isinstance(source, (str, Path)) else source
            program = self._programs[()] = self._load(bundle)
            self._header = header_of_ports(program.executable.inputs, program.executable.outputs)
        else:
            self._source = source
            self._header = read_header(source).without(self._options.constants)  # type: ignore[arg-type]
            self._open_cached()
            overrides = self._options.free_dimension_overrides
            overrides |= self._header.denoted(self._options.free_dimension_overrides_by_denotation)
            self._free = self._header.free_dimensions(overrides)
            if not self._free:
                self._done(self._program({}))
            elif self._options.optimized_model_filepath:
                raise UnsupportedError(
                    f"optimized_model_filepath: the free dimension {next(iter(self._free))!r} has no size"
                )
        self._locations = locations_of(self._options.preferred_output_location, self._header.output_names)
        if isinstance(self._context, OpenvinoContext) and set(self._locations.values()) - {CPU}:
            raise UnsupportedError("preferred_output_location: outputs of npu and cpu are numpy arrays, location cpu")

    def set_providers(
        self, providers: Sequence[Any] | None = None, provider_options: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        """Compile anew for other providers (see the class); outputs that callers hold stay theirs."""
        with self._lock:
            self.close()
            self._open(providers, provider_options)

    # ------------------------------------------------------------------ running

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: Any = None,
        *,
        fetches: Mapping[str, Any] | None = None,
        cache: Cache | None = None,
    ) -> list[Any]:
        """Run once; returns the outputs in the order of `output_names` (None: all).

        input_feed  arrays, numbers, Tensors or objects with `numpy()`, by name; arrays must have the input's type
        fetches     pre-allocated outputs by name: Tensors, or arrays to be filled; returned in their place
        cache       what `create_cache` made: takes the place of the inputs and outputs that are past and present

        An output is a numpy array, or a Tensor where its preferred location is the GPU or `fetches` has one. A run all
        of whose outputs stay on the GPU does not wait. InputError for what does not fit, before anything runs."""
        if run_options is not None:
            check_run_options(run_options)
        with Run(self, output_names, input_feed, fetches, cache=cache) as run:
            return self._finish(run)

    def _finish(self, run: Run) -> list[Any]:
        with self._measured(run):
            arrays = run.program.executable.run_bound(run.inputs, run.buffers, run.read)
            return run.results(arrays)

    def run_with_ort_values(
        self, output_names: Sequence[str] | None, input_dict_ort_values: Mapping[str, Any], run_options: Any = None
    ) -> list[OrtValue]:
        """`run` on OrtValues (or Tensors); the outputs are OrtValues where `preferred_output_location` has them."""
        results = self.run(output_names, input_dict_ort_values, run_options)
        names = output_names or self._header.output_names
        types = {a.name: a.type for a in self._header.outputs}
        return [
            OrtValue(r if isinstance(r, Tensor) else Tensor.from_numpy(r), types[name])
            for name, r in zip(names, results, strict=True)
        ]

    def run_async(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        callback: Callable[[list[Any], Any, str], None] | None = None,
        user_data: Any = None,
        run_options: Any = None,
        *,
        fetches: Mapping[str, Any] | None = None,
        cache: Cache | None = None,
    ) -> Awaitable[list[Any]] | None:
        """`run`, awaitable; or, as in ONNX Runtime's Python API, with a `callback(results, user_data, error)` that is
        called from another thread (`error` is an empty text if all went well). A missing input raises at once. Runs
        with callbacks may overtake one another; an error that a callback raises goes to `sys.excepthook`."""
        if run_options is not None:
            check_run_options(run_options)
        if callback is None:
            return self._run_async(output_names, input_feed, fetches, cache)
        require_inputs(input_feed, self._header, () if cache is None else cache.given)
        call = callback

        def work() -> None:
            try:
                results = self.run(output_names, input_feed, fetches=fetches, cache=cache)
                error = ""
            except Exception as e:
                results, error = [], str(e)
            try:
                call(results, user_data, error)
            except Exception:
                sys.excepthook(*sys.exc_info())

        _workers().submit(work)
        return None

    async def _run_async(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        fetches: Mapping[str, Any] | None,
        cache: Cache | None,
    ) -> list[Any]:
        with Run(self, output_names, input_feed, fetches, cache=cache) as run, self._measured(run):
            arrays = await run.program.executable.run_bound_async(run.inputs, run.buffers, run.read)
            return run.results(arrays)

    def io_binding(self) -> IOBinding:
        """A set of inputs and outputs to be bound once and run often, see `run_with_iobinding`."""
        from gpucompile.session.binding import IOBinding

        return IOBinding(self)

    def run_with_iobinding(self, iobinding: IOBinding, run_options: Any = None) -> None:
        """Run once with what is bound; the results are in the binding."""
        if iobinding._session is not self:
            raise InputError("run_with_iobinding: the binding is another session's")
        if run_options is not None:
            check_run_options(run_options)
        iobinding._run()

    def create_ortvalue_from_shape_and_type(
        self, shape: Sequence[int], element_type: Any, device_type: str = "webgpu", device_id: int = 0
    ) -> OrtValue:
        """A tensor of undefined content on this session's device; see `OrtValue.ortvalue_from_shape_and_type`."""
        return OrtValue.ortvalue_from_shape_and_type(shape, element_type, device_type, device_id, context=self._context)

    def warm_up(self, dims: Mapping[str, int] | None = None) -> None:
        """Compile what is not compiled (for these sizes of free dimensions) and run once on zeros, so that a run like
        it finds everything there: pipelines, buffers, and tensors for outputs that stay on the GPU. What works on a
        cache is compiled only."""
        with self._using(dict(dims or {})) as program:
            if states_of(program.executable):
                return
            feeds = {n: np.zeros(p.shape, NUMPY_DTYPES[p.dtype]) for n, p in program.inputs.items()}
        for result in self.run(None, feeds):
            if isinstance(result, Tensor):
                result.dispose()

    def end_profiling(self) -> str:
        """Stop profiling and return the name of the trace file, which `chrome://tracing` and Perfetto open."""
        if self._trace is None:
            raise InputError("end_profiling: no profile is being made (option enable_profiling)")
        trace, self._trace = self._trace, None
        return trace.write()

    def get_profiling_start_time_ns(self) -> int:
        """When profiling began, in nanoseconds of `time.monotonic_ns`; InputError if it is off."""
        if self._trace is None:
            raise InputError("get_profiling_start_time_ns: no profile is being made (option enable_profiling)")
        return self._trace.start

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
            (rank,) = (len(a.shape) for a in self._header.inputs if a.name == arg)
            if len(shape) != rank:
                raise InputError(f"run: input {arg!r} has rank {len(shape)}, the model wants rank {rank}")
            out[name] = int(shape[axis])
        return out

    def _compile(self, dims: dict[str, int]) -> _Program:
        bundle: Any = None
        if isinstance(self._context, OpenvinoContext):
            bundle = compile(
                self._source, None, dims, devices=(self._context.device.kind,), constants=self._options.constants
            )
            if self._options.optimized_model_filepath:
                bundle.save(self._options.optimized_model_filepath)
            return self._load(bundle)
        device, target, limit = self._context.device, self._context._target, self._options.memory_budget
        for plan_mode in ("balanced",) if limit is None else ("balanced", "memory"):
            if self._cached is not None:
                bundle = self._cached.compile(Options(target, self._options.pipeline, plan_mode), dims)
            else:
                bundle = compile(
                    self._source,
                    target,
                    dims,
                    self._options.pipeline,
                    plan_mode,
                    fallback=self._fallback,
                    constants=self._options.constants,
                )
            in_parts = hasattr(bundle, "host_part")
            if in_parts and self._fallback == "warn":
                self._fallback = "allow"  # one warning a session, not one for each shape
            if limit is None or in_parts:
                break
            if sum(plan_bytes(select_plan(bundle, device)).values()) <= limit:
                break
        if self._options.optimized_model_filepath:
            bundle.save(self._options.optimized_model_filepath)
        return self._load(bundle)

    def _load(self, bundle: Any) -> _Program:
        """A compiled model on the device; other shapes make room for it where memory is limited."""
        on, memory = self._context, self._memory
        if isinstance(on, OpenvinoContext):
            weights = model_for(bundle, on.device).weights.size
            memory.add("weights", weights, "the model")
            executable: Executable = OpenvinoExecutable(bundle, on.device, on._options)
        elif hasattr(bundle, "host_part"):
            if self._options.memory_budget is not None:
                raise UnsupportedError("memory_budget: the bytes of a model with parts on the CPU are not known before")
            weights, executable = 0, load(bundle, on.device, memory=memory)
        else:
            weights, plan = 0, select_plan(bundle, on.device)
            if not memory.fits(memory.needed(plan)):
                self._pool.trim()
            while not memory.fits(memory.needed(plan)) and self._programs:
                self._drop(self._programs.popitem(last=False)[1])
            memory.require("the model", memory.needed(plan))
            load_it = load if self._cached is None else self._cached.load
            executable = load_it(bundle, on.device, memory=memory)
        inputs, outputs = ({p.name: p for p in each} for each in (executable.inputs, executable.outputs))
        return _Program(executable, inputs, outputs, weights)

    # ------------------------------------------------------------------ memory and life

    def memory(self) -> dict[str, int]:
        """Bytes on the GPU: weights, scratch, inputs, outputs, staging of all compiled shapes; `states`, the caches and
        what runs on arrays have in their place; `tensors`, the outputs that callers hold or that wait to be used again;
        `total`; and `peak`, the most that there was at a time.

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
            if self._cached is not None:
                self._cached.close()
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


_pool: ThreadPoolExecutor | None = None


def _workers() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(4, "gpucompile-session")
    return _pool
