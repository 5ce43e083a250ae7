"""The whole path on one screen: model -> graph -> passes -> kernels -> plan -> bundle."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gpucompile.errors import InputError
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

Progress = Callable[[str, int, int], None]


def compile(
    model: str | Path | bytes | onnx.ModelProto | Graph,
    target: Target | None = None,
    dims: Mapping[str, int] | None = None,
    pipeline: str = "default",
    plan: str = "balanced",
    progress: Progress | None = None,
) -> Bundle:
    """Compile a model to a shader bundle.

    model     an ONNX file, its bytes, an onnx.ModelProto, or a Graph (which is not changed)
    target    what the code may rely on; default `Target.portable()`, which runs on every WebGPU device
    dims      values for the model's free dimensions, by name
    pipeline  the passes to run: a named pipeline or pipeline text, see `gpucompile opt --help`
    plan      memory | balanced | overlap: how scratch memory is weighed against parallel branches
    progress  called with (phase, done, total)

    Raises ModelError, UnsupportedError or InputError for models and dims that cannot be compiled; nothing is written.
    """
    target = target or Target.portable()
    if not isinstance(target, Target):
        raise InputError(f"target must be a gpucompile.Target, such as Target.portable(), not {target!r}")
    if dims is not None and not isinstance(dims, Mapping):
        raise InputError(f"dims must map names to sizes, as in {{'batch': 1}}, not {dims!r}")
    clock = _Clock()
    graph = model.clone() if isinstance(model, Graph) else _import(model, dims)
    clock.lap("import")
    before = sum(graph.statistics().values())
    ctx = Context(target)
    PassManager(pipeline).run(graph, ctx, progress)
    clock.lap("passes")
    planned = make_plan(graph, target, mode=plan, progress=progress)
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
    return Bundle(
        [planned.plan],
        planned.shaders,
        planned.shards,
        gir=print_graph(graph, literals="ref"),
        source_sha256=_source_hash(model),
        dims=dims,
        report=report,
    )


def _import(model: str | Path | bytes | onnx.ModelProto, dims: Mapping[str, int] | None) -> Graph:
    from gpucompile.frontends.onnx.importer import import_model  # 0.1 s, which a graph need not wait for

    return import_model(model, dims)


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
