"""`InferenceSession`: a model that is compiled when it is opened (or was before), and run like ONNX Runtime runs it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gpucompile.compiler import compile
from gpucompile.errors import ClosedError, InputError, UnsupportedError
from gpucompile.runtime.bundle import BundleLike
from gpucompile.runtime.device import Device, default_device
from gpucompile.runtime.executable import NUMPY_DTYPES, Executable, load, select_plan
from gpucompile.runtime.format import HostNode, Plan, Port
from gpucompile.runtime.openvino import OpenvinoExecutable, model_for
from gpucompile.runtime.parts import DEVICE, PartitionedLike, open_bundle
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
        self._pool = Pool(self._context)
        self._trace = Trace(self._options.profile_file_prefix) if self._options.enable_profiling else None
        self._programs: OrderedDict[tuple[tuple[str, int], ...], _Program] = OrderedDict()
        self._closed = False
        self._source: Any = None
        self._header: Header
        self._free: dict[str, tuple[str, int]] = {}
        overrides = dict(self._options.free_dimension_overrides)
        if _is_bundle(path_or_bytes):
            bundle = open_bundle(path_or_bytes) if isinstance(path_or_bytes, (str, Path)) else path_or_bytes
            if self._options.constants:
                raise InputError("InferenceSession: constants are compiled in, a bundle is compiled already")
            program = self._programs[()] = self._load(bundle)
            self._header = header_of_ports(program.executable.inputs, program.executable.outputs)
        else:
            self._source = path_or_bytes
            self._header = read_header(path_or_bytes).without(self._options.constants)  # type: ignore[arg-type]
            self._free = self._header.free_dimensions(overrides)
            if not self._free:
                self._program({})
        self._locations = locations_of(self._options.preferred_output_location, [o.name for o in self._header.outputs])
        if self.fallback and set(self._locations.values()) - {CPU}:
            raise UnsupportedError("preferred_output_location: outputs of a model with nodes on the CPU are on the CPU")
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

    @property
    def fallback(self) -> tuple[HostNode, ...]:
        """The nodes that the CPU runs, with reasons, of the shapes compiled last; see `SessionOptions.fallback`."""
        programs = list(self._programs.values())
        return programs[-1].executable.fallback if programs else ()

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
        run = Run(self, output_names, input_feed, fetches)
        with self._measured(run):
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
        run = Run(self, output_names, input_feed, fetches)
        with self._measured(run):
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
        """Compile what is not compiled (for these sizes of free dimensions) and run once on zeros, unless an input is
        of a type or shape that only its data tell."""
        program = self._program(dict(dims or {}))
        if any(p.dtype not in NUMPY_DTYPES or -1 in p.shape for p in program.inputs.values()):
            return
        feeds = {n: np.zeros(p.shape, NUMPY_DTYPES[p.dtype]) for n, p in program.inputs.items()}
        program.executable.run(feeds)

    def end_profiling(self) -> str:
        """Stop profiling and return the name of the trace file, which `chrome://tracing` and Perfetto open."""
        if self._trace is None:
            raise InputError("end_profiling: the session was opened without enable_profiling")
        return self._trace.write()

    def _measured(self, run: Run) -> Any:
        return _Nothing() if self._trace is None else self._trace.measure("run", run.names)

    # ------------------------------------------------------------------ programs

    def _program(self, dims: Mapping[str, int]) -> _Program:
        """The model compiled for these sizes of its free dimensions."""
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
                    self._programs.popitem(last=False)[1].executable.close()
            else:
                self._programs.move_to_end(key)
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
        fallback, constants = self._options.fallback, self._options.constants
        if isinstance(self._context, OpenvinoContext):
            kinds = (self._context.device.kind,)
            return self._load(compile(self._source, None, dims, fallback=fallback, devices=kinds, constants=constants))
        device = self._context.device
        target = self._context._target
        budget = self._options.memory_budget
        bundle: Any = None
        for plan_mode in ("balanced",) if budget is None else ("balanced", "memory"):
            pipeline = self._options.pipeline
            bundle = compile(self._source, target, dims, pipeline, plan_mode, fallback=fallback, constants=constants)
            if budget is None or needed_by(bundle, device)["total"] <= budget:
                break
        return self._load(bundle)

    def _load(self, bundle: Any) -> _Program:
        budget = self._options.memory_budget
        on = self._context
        if isinstance(on, OpenvinoContext):
            weights = model_for(bundle, on.device).weights.size
            need = {"weights": weights, "total": weights}
        else:
            need = needed_by(bundle, on.device)
        others = sum(sum(p.executable.memory().values()) for p in self._programs.values())
        if budget is not None and need["total"] + others > budget:
            parts = ", ".join(f"{kind} {size:,}" for kind, size in need.items() if kind != "total")
            held = f", and other shapes hold {others:,}" if others else ""
            raise UnsupportedError(
                f"memory_budget is {budget:,} bytes, the model needs {need['total']:,} ({parts}){held}"
            )
        if isinstance(on, OpenvinoContext):
            executable: Executable = OpenvinoExecutable(bundle, on.device, on._options)
        else:
            executable = load(bundle, on.device)
        return _Program(executable, {p.name: p for p in executable.inputs}, {p.name: p for p in executable.outputs})

    # ------------------------------------------------------------------ memory and life

    def memory(self) -> dict[str, int]:
        """Bytes on the GPU: weights, scratch, inputs, outputs, staging of all compiled shapes; `tensors`, the outputs
        that callers hold or that wait to be used again; `total`; and `peak`, the most that there was at a time."""
        names = {
            "weight": "weights",
            "scratch": "scratch",
            "input": "inputs",
            "output": "outputs",
            "staging": "staging",
            "between parts": "scratch",
        }
        out = dict.fromkeys(names.values(), 0)
        with self._lock:
            for program in self._programs.values():
                for kind, size in program.executable.memory().items():
                    out[names[kind]] += size
        fixed = sum(out.values())
        return {**out, "tensors": self._pool.bytes, "total": fixed + self._pool.bytes, "peak": fixed + self._pool.peak}

    def close(self) -> None:
        """Free the GPU memory; outputs that callers hold stay theirs."""
        with self._lock:
            self._closed = True
            programs, self._programs = list(self._programs.values()), OrderedDict()
        for program in programs:
            program.executable.close()
        self._pool.close()

    release = close

    def __enter__(self) -> InferenceSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def needed_bytes(plan: Plan) -> dict[str, int]:
    """Bytes on the GPU that a plan takes: weights, scratch, inputs, outputs, staging, and their total."""
    kinds = {"weights": "weight", "scratch": "scratch", "inputs": "input", "outputs": "output"}
    out = {name: plan.bytes_of(kind) for name, kind in kinds.items()}  # type: ignore[arg-type]
    out["staging"] = out["outputs"]
    return {**out, "total": sum(out.values())}


def needed_by(bundle: BundleLike | PartitionedLike, device: Device) -> dict[str, int]:
    """`needed_bytes` of what a device runs of a bundle, over all its parts."""
    if not hasattr(bundle, "host_part"):
        return needed_bytes(select_plan(bundle, device))
    bundle = cast("PartitionedLike", bundle)
    total = dict.fromkeys(("weights", "scratch", "inputs", "outputs", "staging", "total"), 0)
    for i, part in enumerate(bundle.manifest.parts):
        if part.backend == DEVICE:
            for kind, size in needed_bytes(select_plan(bundle.device_part(i), device)).items():
                total[kind] += size
    return total


def _is_bundle(source: Any) -> bool:
    if isinstance(source, (str, Path)):
        path = Path(source)
        return path.suffix == ".gpub" or path.is_dir()
    return hasattr(source, "manifest") and (hasattr(source, "shard") or hasattr(source, "host_part"))


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
    return context_of(device if isinstance(device, Device) else Device.wrap(device))


class _Nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *args: object) -> None: ...


_pool: ThreadPoolExecutor | None = None


def _workers() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(4, "gpucompile-session")
    return _pool
