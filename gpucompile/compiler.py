"""The whole path on one screen: model -> graph -> passes -> kernels -> plan -> bundle."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import numpy as np

from gpucompile.cache import KeyValueCache, import_with_cache, require_states, updated_outputs
from gpucompile.errors import InputError, UnsupportedError
from gpucompile.ir.graph import Graph
from gpucompile.ir.text import print_graph
from gpucompile.passmanager.base import Context
from gpucompile.passmanager.manager import PassManager
from gpucompile.plan.bundle import Bundle, OpenvinoFiles, Report
from gpucompile.plan.planner import Planned, make_plan, weight_store
from gpucompile.plan.verify import verify
from gpucompile.plan.weights import WeightStore
from gpucompile.precision import check, convert
from gpucompile.runtime.format import Bucket, FreeAxis
from gpucompile.sizes import Sizes, find_free_axes
from gpucompile.target import Target

if TYPE_CHECKING:
    import onnx

    from gpucompile.division import Assignment
    from gpucompile.plan.partitioned import PartitionedBundle

Progress = Callable[[str, int, int], None]
Source: TypeAlias = "str | Path | bytes | onnx.ModelProto"

#: What may become of nodes that the device does not take.
FALLBACKS = ("error", "warn", "allow")


@overload
def compile(
    model: Source | Graph,
    target: Target | None = None,
    dims: Mapping[str, int | Sequence[int]] | None = None,
    pipeline: str = "default",
    plan: str = "balanced",
    progress: Progress | None = None,
    precision: str = "f32",
    fallback: Literal["error"] = "error",
    *,
    devices: Sequence[str] = ("gpu",),
    cache: KeyValueCache | int | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
) -> Bundle: ...


@overload
def compile(
    model: Source | Graph,
    target: Target | None = None,
    dims: Mapping[str, int | Sequence[int]] | None = None,
    pipeline: str = "default",
    plan: str = "balanced",
    progress: Progress | None = None,
    precision: str = "f32",
    *,
    fallback: str,
    devices: Sequence[str] = ("gpu",),
    cache: KeyValueCache | int | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
) -> Bundle | PartitionedBundle: ...


@overload
def compile(
    model: Source | Graph,
    target: Target | None = None,
    dims: Mapping[str, int | Sequence[int]] | None = None,
    pipeline: str = "default",
    plan: str = "balanced",
    progress: Progress | None = None,
    precision: str = "f32",
    fallback: str = "error",
    *,
    devices: Sequence[str] = ("gpu",),
    partition: Assignment | bool,
    cache: KeyValueCache | int | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
) -> Bundle | PartitionedBundle: ...


def compile(
    model: Source | Graph,
    target: Target | None = None,
    dims: Mapping[str, int | Sequence[int]] | None = None,
    pipeline: str = "default",
    plan: str = "balanced",
    progress: Progress | None = None,
    precision: str = "f32",
    fallback: str = "error",
    *,
    devices: Sequence[str] = ("gpu",),
    partition: Assignment | bool = False,
    cache: KeyValueCache | int | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
) -> Bundle | PartitionedBundle:
    """Compile a model to a bundle: of shaders, and of models for OpenVINO's devices.

    model     an ONNX file, its bytes, an onnx.ModelProto, or a Graph (which is not changed)
    target    what the code may rely on; default `Target.portable()`, which runs on every WebGPU device
    dims      values for the model's free dimensions, by name; `{"seq": [16, 64]}` makes a plan for each size, of which
              a run takes the smallest that fits (see `load`), `{"batch": [1, 4], "seq": [16, 64]}` one for each pair
    pipeline  the passes to run: a named pipeline or pipeline text, see `gpucompile opt --help`
    plan      memory | balanced | overlap: how scratch memory is weighed against parallel branches
    progress  called with (phase, done, total)
    precision f32, or f16: weights and activations in float16 where that does no harm (passes/precision.py says where),
              sums in float32; inputs and outputs keep their types. `report.kept_float32` tells what stays float32; a
              target without shader-f16 is warned about
    fallback  what becomes of ONNX nodes that the device does not take. `error` refuses the model; `warn` and `allow`
              leave them to the CPU (onnxruntime where it is installed, else onnx's ReferenceEvaluator), `warn` with a
              GpucompileWarning that names them. The result is then a PartitionedBundle, whose `fallback` lists them
    devices   what the bundle is for: gpu (WebGPU), npu and cpu (through OpenVINO; their pipelines are openvino-npu and
              openvino-cpu unless `pipeline` is given and they are the only ones)
    constants values for inputs of the model, by name: arrays of the input's data type and shape. They are compiled in:
              shapes, axes and trip counts that hang on them are known, and the result has these inputs no more
    partition False puts the whole model into the bundle for each of `devices`. True cuts it: every node is for the
              first of `devices` that takes it, as in ("npu", "gpu", "cpu"). A dict of devices by name of an op or of
              a value, or a function of the node (gpucompile.ir.graph.Node) that gives a device or None, says so
              outright. The result is a PartitionedBundle, whose parts exchange values through host memory
    cache     for decoders with their keys and values as inputs and outputs: how many tokens the cache has room for, or
              a KeyValueCache. It is updated in place, on a GPU; docs/models.md tells more

    Raises ModelError, UnsupportedError or InputError for models and dims that cannot be compiled; nothing is written.
    """
    sizes = check_options(target, dims, fallback)
    target = target or Target.portable()
    if isinstance(devices, str) or not devices or not set(devices) <= {"gpu", "npu", "cpu"}:
        raise InputError(f"devices must be some of gpu, npu and cpu, as in ('gpu', 'cpu'), not {devices!r}")
    check(precision, target)
    constants = check_constants(model, constants)
    if isinstance(model, Graph) and sizes.lists:
        raise InputError(f"dims: a Graph has no free dimensions, so {', '.join(sizes.lists)} cannot have several sizes")
    divided = partition is True or not isinstance(partition, bool)
    if divided and not (partition is True or callable(partition) or isinstance(partition, Mapping)):
        raise InputError(f"partition must be True, a dict of devices by name, or a function, not {partition!r}")
    if divided and sizes.lists:
        raise InputError(f"dims: {', '.join(sizes.lists)} cannot have several sizes where a model is cut")
    if isinstance(cache, int):
        cache = KeyValueCache(cache)
    if cache is not None:
        _check_cache(model, sizes, devices, fallback, divided, constants)
    if set(devices) != {"gpu"} and not divided and (sizes.lists or fallback != "error"):
        what = f"dims: {', '.join(sizes.lists)} can have several sizes" if sizes.lists else "nodes are left to the CPU"
        raise InputError(f"{what} on the GPU only; the devices are {', '.join(devices)}")
    options = Options(target, pipeline, plan, progress, precision, tuple(dict.fromkeys(devices)), constants, cache)
    if divided:
        from gpucompile.division import compile_divided

        return compile_divided(model, sizes.fixed, options, partition, fallback != "error")
    if fallback == "error" or isinstance(model, Graph):
        return _compile(model, sizes, options)
    if not sizes.lists:
        from gpucompile.fallback import compile_with_hosts

        return compile_with_hosts(model, sizes, options, fallback == "warn")
    try:
        return _compile(model, sizes, options)
    except UnsupportedError as e:
        raise UnsupportedError(
            f"{e}\nThe fallback leaves nodes to the CPU for one size at a time, {', '.join(sizes.lists)} has "
            "several: compile_dynamic and InferenceSession take sizes as they come, with fallback"
        ) from e


def check_options(target: Any, dims: Any, fallback: Any) -> Sizes:
    """What `dims` says. Raises InputError for options that are none."""
    if target is not None and not isinstance(target, Target):
        raise InputError(f"target must be a gpucompile.Target, such as Target.portable(), not {target!r}")
    if dims is not None and not isinstance(dims, Mapping):
        raise InputError(f"dims must map names to sizes, as in {{'batch': 1}}, not {dims!r}")
    if fallback not in FALLBACKS:
        raise InputError(f"fallback is {fallback!r}, it must be one of {', '.join(FALLBACKS)}")
    return Sizes.of(dims or {})


@dataclass(frozen=True)
class Options:
    """How to compile; see `compile`."""

    target: Target
    pipeline: str = "default"
    plan: str = "balanced"
    progress: Progress | None = None
    precision: str = "f32"
    devices: tuple[str, ...] = ("gpu",)
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    cache: KeyValueCache | None = None


def _check_cache(
    model: Source | Graph, sizes: Sizes, devices: Sequence[str], fallback: str, divided: bool, constants: object
) -> None:
    """Raise InputError for what does not go with a cache."""
    if isinstance(model, Graph):
        raise InputError("cache: an ONNX model is wanted; a Graph has its update_slice already")
    if sizes.lists:
        raise InputError(
            f"cache: one size at a time, {', '.join(sizes.lists)} has several (InferenceSession shares weights)"
        )
    if constants:
        raise InputError("cache: values of inputs (constants) cannot be compiled in as well")
    if set(devices) != {"gpu"} or fallback != "error" or divided:
        raise InputError("cache: caches are updated in place on the GPU only, by models without parts on the CPU")


def graph_of(model: Source, dims: Mapping[str, int], options: Options) -> Graph:
    """A model's graph for these sizes of its free dimensions, with caches in place where that is asked for."""
    if options.cache is None:
        return import_model(model, dims, options.constants)
    return import_with_cache(model, dims, options.cache, Context(options.target))


def check_constants(model: Source | Graph, constants: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    """Values of inputs by name; what the model has against them the importer finds."""
    if constants is None:
        return {}
    if not isinstance(constants, Mapping):
        raise InputError(f"constants must map names of inputs to arrays, not {type(constants).__name__}")
    if constants and isinstance(model, Graph):
        raise InputError("constants are for ONNX models; a Graph has its own")
    return dict(constants)


def _compile(model: Source | Graph, sizes: Sizes, options: Options) -> Bundle:
    """A bundle without parts for the CPU."""
    target = options.target
    clock = Clock()
    store = weight_store(target)
    parts = []
    for bound in sizes.combinations():
        graph = model.clone() if isinstance(model, Graph) else graph_of(model, sizes.fixed | bound, options)
        clock.lap("import")
        updated = {} if options.cache is None else updated_outputs(graph)
        kept = convert(graph, options.precision, target)
        openvino = _for_openvino(graph, options, clock)
        if "gpu" in options.devices:
            name = "-".join(("base", *map(str, bound.values())))
            try:
                parts.append(compile_graph(graph, options, clock, store, name))
                require_states(parts[-1].planned.plan, updated)
            except UnsupportedError as e:
                raise refused(model, sizes.fixed | bound, options, e) from e
    if not parts:
        nodes = sum(graph.statistics().values())
        report = Report(nodes, nodes, phases=clock.seconds, kept_float32=kept)
        gir = print_graph(graph, literals="ref")
        source = source_hash(model)
        return Bundle([], {}, gir=gir, source_sha256=source, dims=sizes.fixed, report=report, openvino=openvino)
    largest = parts[-1]
    buckets: Sequence[Bucket] = ()
    axes: Sequence[FreeAxis] = ()
    if sizes.lists and not isinstance(model, Graph):
        buckets = sizes.buckets([p.planned.plan for p in parts])
        axes = find_free_axes(model, sizes, [p.planned.plan for p in parts], options.constants)
        clock.lap("axes")
    report = replace(
        largest.report, kept_float32=kept, weight_bytes=sum(b.size for b in store.buffers), phases=clock.seconds
    )
    return Bundle(
        [p.planned.plan for p in parts],
        {sha: text for p in parts for sha, text in p.planned.shaders.items()},
        store.shards,
        gir=largest.gir,
        source_sha256=source_hash(model),
        dims=sizes.fixed,
        report=report,
        buckets=buckets,
        free_axes=axes,
        openvino=openvino,
    )


def refused(model: Source | Graph, dims: Mapping[str, int], options: Options, e: Exception) -> Exception:
    """The error that names the ONNX nodes without a kernel, all of them; `e`, which has stopped the compilation, where
    none is found."""
    if isinstance(model, Graph):
        return e
    from gpucompile.frontends.onnx.importer import find_refusals
    from gpucompile.plan.backends import EachListed, Listed

    tries = (Listed(options.target), EachListed(options.target, options.pipeline))
    return next(filter(None, (find_refusals(model, b, dims, options.constants) for b in tries)), e)


def _for_openvino(graph: Graph, options: Options, clock: Clock) -> dict[str, OpenvinoFiles]:
    """The OpenVINO models that are asked for, by device."""
    kinds = [d for d in dict.fromkeys(options.devices) if d != "gpu"]
    if not kinds:
        return {}
    from gpucompile.backends.openvino import compile as backend

    own = None if options.pipeline == "default" or "gpu" in options.devices else options.pipeline
    out = {kind: backend.compile_graph(graph, kind, own, options.progress) for kind in kinds}
    clock.lap("openvino")
    return out


@dataclass(frozen=True)
class Compiled:
    """One plan, what was done for it, and the graph as text."""

    planned: Planned
    report: Report
    gir: str


def compile_graph(graph: Graph, options: Options, clock: Clock, store: WeightStore, name: str = "base") -> Compiled:
    """From a graph, which is changed, to a verified plan called `name`; its weights go to `store`."""
    before = sum(graph.statistics().values())
    updated = {} if options.cache is None else updated_outputs(graph)
    PassManager(options.pipeline).run(graph, Context(options.target), options.progress)
    clock.lap("passes")
    planned = make_plan(graph, options.target, name, options.plan, options.progress, store)
    if options.cache is not None:
        require_states(planned.plan, updated)
    clock.add(planned.seconds)
    verify(planned.plan)
    clock.lap("verify")
    report = Report(
        nodes_before=before,
        nodes_after=sum(graph.statistics().values()),
        kernels=len(planned.plan.steps),
        scratch_bytes=planned.plan.bytes_of("scratch"),
        scratch_bound_bytes=planned.plan.scratch_bound,
        weight_bytes=planned.plan.bytes_of("weight"),
        phases=clock.seconds,
    )
    return Compiled(planned, report, print_graph(graph, literals="ref"))


def import_model(
    model: str | Path | bytes | onnx.ModelProto,
    dims: Mapping[str, int] | None,
    constants: Mapping[str, np.ndarray] | None = None,
) -> Graph:
    """The importer's function of this name."""
    from gpucompile.frontends.onnx import importer  # 0.1 s, which a graph need not wait for

    return importer.import_model(model, dims, constants=constants)


class Clock:
    """Seconds per phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        """Start the next lap now."""
        self._start = time.perf_counter()

    def add(self, seconds: Mapping[str, float]) -> None:
        """Laps that were taken elsewhere; the next starts now."""
        for phase, s in seconds.items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + s
        self.restart()

    def lap(self, phase: str) -> None:
        """The time since the last lap goes to `phase`."""
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._start
        self._start = now


def source_hash(model: object) -> str:
    """sha256 of the model file or bytes; empty for models that only exist in memory."""
    if isinstance(model, bytes):
        return hashlib.sha256(model).hexdigest()
    if isinstance(model, (str, Path)):
        digest = hashlib.sha256()
        with open(model, "rb") as f:
            while block := f.read(1 << 22):
                digest.update(block)
        return digest.hexdigest()
    return ""
