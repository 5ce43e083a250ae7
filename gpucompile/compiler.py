"""The whole path on one screen: model -> graph -> passes -> kernels -> plan -> bundle."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, overload

from gpucompile.errors import GpucompileWarning, InputError, UnsupportedError
from gpucompile.ir.graph import Graph
from gpucompile.ir.text import print_graph
from gpucompile.passmanager.base import Context
from gpucompile.passmanager.manager import PassManager
from gpucompile.plan.bundle import Bundle, Report
from gpucompile.plan.planner import make_plan
from gpucompile.plan.verify import verify
from gpucompile.target import Target

if TYPE_CHECKING:
    import onnx

    from gpucompile.frontends.onnx.partition import Partition
    from gpucompile.plan.partitioned import PartitionedBundle

Progress = Callable[[str, int, int], None]
Model: TypeAlias = "str | Path | bytes | onnx.ModelProto | Graph"

FALLBACKS = ("error", "warn", "allow")


@overload
def compile(
    model: Model,
    target: Target | None = None,
    dims: Mapping[str, int] | None = None,
    pipeline: str = "default",
    plan: str = "balanced",
    progress: Progress | None = None,
    fallback: Literal["error"] = "error",
) -> Bundle: ...


@overload
def compile(
    model: Model,
    target: Target | None = None,
    dims: Mapping[str, int] | None = None,
    pipeline: str = "default",
    plan: str = "balanced",
    progress: Progress | None = None,
    *,
    fallback: str,
) -> Bundle | PartitionedBundle: ...


def compile(
    model: Model,
    target: Target | None = None,
    dims: Mapping[str, int] | None = None,
    pipeline: str = "default",
    plan: str = "balanced",
    progress: Progress | None = None,
    fallback: str = "error",
) -> Bundle | PartitionedBundle:
    """Compile a model to a shader bundle.

    model     an ONNX file, its bytes, an onnx.ModelProto, or a Graph (which is not changed)
    target    what the code may rely on; default `Target.portable()`, which runs on every WebGPU device
    dims      values for the model's free dimensions, by name
    pipeline  the passes to run: a named pipeline or pipeline text, see `gpucompile opt --help`
    plan      memory | balanced | overlap: how scratch memory is weighed against parallel branches
    progress  called with (phase, done, total)
    fallback  what becomes of ONNX nodes that the device does not take. `error` refuses the model; `warn` and `allow`
              leave them to the CPU (onnxruntime where it is installed, else onnx's ReferenceEvaluator), `warn` with a
              GpucompileWarning that names them. The result is then a PartitionedBundle, whose `fallback` lists them

    Raises ModelError, UnsupportedError or InputError for models and dims that cannot be compiled; nothing is written.
    """
    target = target or Target.portable()
    if not isinstance(target, Target):
        raise InputError(f"target must be a gpucompile.Target, such as Target.portable(), not {target!r}")
    if dims is not None and not isinstance(dims, Mapping):
        raise InputError(f"dims must map names to sizes, as in {{'batch': 1}}, not {dims!r}")
    if fallback not in FALLBACKS:
        raise InputError(f"fallback is {fallback!r}, it must be one of {', '.join(FALLBACKS)}")
    clock = _Clock()
    found = model.clone() if isinstance(model, Graph) else _import(model, dims, target, fallback)
    clock.lap("import")
    options = _Options(target, pipeline, plan, progress)
    try:
        bundle = _compile_either(found, options, clock, _source_hash(model), dims)
    except UnsupportedError:
        if fallback == "error" or isinstance(model, Graph):
            raise
        found = _import(model, dims, target, fallback, pipeline)  # finds out what has no kernel
        clock.lap("import")
        bundle = _compile_either(found, options, clock, _source_hash(model), dims)
    if isinstance(bundle, Bundle):
        return bundle
    if fallback == "warn":
        nodes = "; ".join(f"{n.op} {n.name!r}: {n.reason}" for n in bundle.fallback)
        warnings.warn(f"{len(bundle.fallback)} nodes run on the CPU: {nodes}", GpucompileWarning, stacklevel=2)
    return bundle


def compile_partition(
    partition: Partition,
    target: Target,
    pipeline: str = "default",
    plan: str = "balanced",
    progress: Progress | None = None,
    source_sha256: str = "",
    dims: Mapping[str, int] | None = None,
    seconds: Mapping[str, float] | None = None,
) -> PartitionedBundle:
    """Compile the device parts of a partition, and put all parts together; options as in `compile`, `seconds` what
    phases before took."""
    from gpucompile.plan.partitioned import assemble

    options = _Options(target, pipeline, plan, progress)

    def compile_graph(graph: Graph) -> Bundle:
        return _compile_graph(graph, options, _Clock())

    return assemble(partition, compile_graph, source_sha256, dims, seconds)


def _compile_either(
    found: Graph | Partition, options: _Options, clock: _Clock, source_sha256: str, dims: Mapping[str, int] | None
) -> Bundle | PartitionedBundle:
    if isinstance(found, Graph):
        return _compile_graph(found, options, clock, source_sha256, dims)
    o = options
    return compile_partition(found, o.target, o.pipeline, o.plan, o.progress, source_sha256, dims, clock.seconds)


def _import(
    model: str | Path | bytes | onnx.ModelProto,
    dims: Mapping[str, int] | None,
    target: Target,
    fallback: str,
    pipeline: str = "",
) -> Graph | Partition:
    from gpucompile.frontends.onnx import importer  # 0.1 s, which a graph need not wait for

    if fallback == "error":
        return importer.import_model(model, dims)
    from gpucompile.plan.backends import DeviceAndHosts, EachTried

    backends = EachTried(target, pipeline) if pipeline else DeviceAndHosts(target)
    return importer.import_partitioned(model, backends, dims)


@dataclass(frozen=True)
class _Options:
    target: Target
    pipeline: str
    plan: str
    progress: Progress | None


def _compile_graph(
    graph: Graph, options: _Options, clock: _Clock, source_sha256: str = "", dims: Mapping[str, int] | None = None
) -> Bundle:
    """The rest of the way of a graph, which is changed."""
    target = options.target
    before = sum(graph.statistics().values())
    PassManager(options.pipeline).run(graph, Context(target), options.progress)
    clock.lap("passes")
    planned = make_plan(graph, target, mode=options.plan, progress=options.progress)
    clock.seconds.update(planned.seconds)
    clock.restart()
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
    gir = print_graph(graph, literals="ref")
    return Bundle(
        [planned.plan],
        planned.shaders,
        planned.shards,
        gir=gir,
        source_sha256=source_sha256,
        dims=dims,
        report=report,
    )


class _Clock:
    """Seconds per phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        self._start = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._start
        self._start = now


def _source_hash(model: object) -> str:
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
