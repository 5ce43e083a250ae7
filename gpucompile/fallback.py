"""Compiling models of which nodes are left to the CPU.

    model -> importer, which asks who takes each node -> Graph or Partition -> bundle

If something has no kernel when all is lowered, the model is imported once more, with every node compiled by itself to
find out what that is.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from dataclasses import replace

from gpucompile.compiler import Clock, Options, Source, compile_graph, source_hash
from gpucompile.errors import GpucompileError, GpucompileWarning, UnsupportedError
from gpucompile.frontends.onnx.importer import import_partitioned
from gpucompile.frontends.onnx.partition import Partition
from gpucompile.ir.graph import Graph
from gpucompile.plan.backends import DeviceAndHosts, EachListed, EachTried, Listed
from gpucompile.plan.bundle import Bundle
from gpucompile.plan.partitioned import DeviceModel, PartitionedBundle, assemble, outline
from gpucompile.plan.planner import weight_store
from gpucompile.precision import convert
from gpucompile.runtime.format import PartitionManifest
from gpucompile.runtime.parts import on_the_cpu
from gpucompile.sizes import Sizes


def compile_with_hosts(model: Source, sizes: Sizes, options: Options, warn: bool) -> Bundle | PartitionedBundle:
    """`gpucompile.compile` with nodes that may run on the CPU; a Bundle where none does."""
    clock = Clock()
    found = import_partitioned(model, DeviceAndHosts(options.target), sizes.fixed, options.constants)
    clock.lap("import")
    try:
        bundle = _compile(found, model, sizes, options, clock)
    except UnsupportedError:
        found = import_partitioned(model, EachTried(options.target, options.pipeline), sizes.fixed, options.constants)
        clock.lap("import")
        bundle = _compile(found, model, sizes, options, clock)
    if warn and isinstance(bundle, PartitionedBundle):
        warnings.warn(on_the_cpu(bundle.fallback), GpucompileWarning, stacklevel=3)
    return bundle


def explain_refused(model: Source, sizes: Sizes, options: Options) -> PartitionManifest | None:
    """The cut of a model that not even hosts run, for `explain`: what nobody takes is a part of its own. None where it
    cannot be imported or every node has a taker."""
    for backends in (Listed(options.target), EachListed(options.target, options.pipeline)):
        with contextlib.suppress(GpucompileError):
            found = import_partitioned(model, backends, sizes.fixed, options.constants)
            if isinstance(found, Partition):
                return outline(found)
    return None


def _compile(
    found: Graph | Partition, model: Source, sizes: Sizes, options: Options, clock: Clock
) -> Bundle | PartitionedBundle:
    if isinstance(found, Partition):
        return compile_partition(found, options, source_hash(model), sizes.fixed, clock.seconds)
    return compile_part_on_gpu(found, options, clock, source_hash(model), sizes.fixed)


def compile_partition(
    partition: Partition,
    options: Options,
    source_sha256: str = "",
    dims: Mapping[str, int] | None = None,
    seconds: Mapping[str, float] | None = None,
) -> PartitionedBundle:
    """Compile the device parts of a partition, and put all parts together; `seconds` is what phases before took."""

    def compile_part(graph: Graph) -> list[DeviceModel]:
        return [DeviceModel(compile_part_on_gpu(graph, options, Clock()))]

    return assemble(partition, compile_part, source_sha256, dims, seconds)


def compile_part_on_gpu(
    graph: Graph, options: Options, clock: Clock, source_sha256: str = "", dims: Mapping[str, int] | None = None
) -> Bundle:
    """A graph as a bundle of one plan."""
    kept = convert(graph, options.precision, options.target)
    store = weight_store(options.target)
    part = compile_graph(graph, options, clock, store)
    return Bundle(
        [part.planned.plan],
        part.planned.shaders,
        store.shards,
        gir=part.gir,
        source_sha256=source_sha256,
        dims=dims,
        report=replace(part.report, kept_float32=kept),
    )
