"""What subcommands share about models in parts: options, compiling, the cut as a table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gpucompile.cli._common import read_constants, read_model, single_sizes, size, table
from gpucompile.cli._openvino import KINDS
from gpucompile.errors import InputError, UnsupportedError, counted
from gpucompile.runtime.parts import on_the_cpu

if TYPE_CHECKING:
    import numpy as np

    from gpucompile.cli._common import Progress
    from gpucompile.plan.bundle import Bundle
    from gpucompile.plan.partitioned import PartitionedBundle
    from gpucompile.runtime.format import HostNode, PartitionManifest
    from gpucompile.target import Target

HEADERS = ("part", "backend", "node", "reason", "bytes in", "bytes out")
EDGE_HEADERS = ("value", "type", "from", "to", "bytes", "through")


def add_fallback_options(parser: argparse.ArgumentParser) -> None:
    """--fallback --partition --assign --explain."""
    group = parser.add_argument_group("nodes that the device does not take")
    group.add_argument(
        "--fallback",
        choices=("error", "warn", "allow"),
        default="error",
        help="refuse them, or leave them to the CPU (onnxruntime, else onnx), with or without a warning "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--partition",
        action="store_true",
        help="cut the model: every node for the first of the devices of --device, such as npu,gpu,cpu, that takes it",
    )
    group.add_argument(
        "--assign",
        metavar="NAME=DEVICE",
        action="append",
        type=_assignment,
        default=[],
        help="cut the model, with the ops or values of this name on gpu, npu or cpu",
    )
    add_explain_option(group)


def _assignment(text: str) -> tuple[str, str]:
    name, _, device = text.rpartition("=")
    if not name or device not in KINDS:
        raise argparse.ArgumentTypeError(f"expected NAME=DEVICE with one of {', '.join(KINDS)}, found {text!r}")
    return name, device


def add_explain_option(parser: argparse._ActionsContainer) -> None:
    """--explain."""
    parser.add_argument(
        "--explain",
        action="store_true",
        help="print what runs where: parts in order, why nodes are not where they would be first, and the bytes that "
        "cross between parts",
    )


def compile_model(
    args: argparse.Namespace, target: Target, progress: Progress | None, devices: Sequence[str] = ("gpu",)
) -> Bundle | PartitionedBundle:
    """Compile args.model as the options say. With --explain the cut is shown even where --fallback=error refuses it."""
    from gpucompile.compiler import compile

    if (args.partition or args.assign) and len(devices) < 2:
        raise InputError("--partition and --assign need the devices in order of preference, as in --device npu,gpu,cpu")
    partition = dict(args.assign) or args.partition
    dims = dict(args.dim)
    model = read_model(args.model, single_sizes(args.dim)) if args.model.endswith(".gir") else args.model
    options = (target, dims, args.pipeline, args.plan)
    gpu_only = set(devices) == {"gpu"} and not partition
    fallback = "allow" if args.fallback == "warn" else args.fallback
    constants = read_constants(args.const)
    try:
        bundle = compile(
            model,
            *options,
            progress,
            args.precision,
            fallback=fallback,
            devices=devices,
            constants=constants,
            partition=partition,
            cache=getattr(args, "cache", None),
        )
    except UnsupportedError:
        if args.explain and isinstance(model, str) and gpu_only:
            _explain_refused(model, options, constants)
        raise
    manifest = manifest_of(bundle)
    nodes = host_nodes(manifest)
    if nodes and args.fallback == "warn":
        print(f"gpucompile: warning: {on_the_cpu(nodes)}", file=sys.stderr)
    return bundle


def _explain_refused(
    model: str, options: tuple[Target, dict[str, Any], str, str], constants: dict[str, np.ndarray]
) -> None:
    """Print the cut of a model that is refused, for the smallest sizes."""
    from gpucompile.compiler import Options
    from gpucompile.fallback import explain_refused
    from gpucompile.sizes import Sizes

    target, dims, pipeline, _ = options
    sizes = Sizes.of(dims)
    fixed = Sizes(sizes.fixed | sizes.combinations()[0], {})
    manifest = explain_refused(model, fixed, Options(target, pipeline, constants=constants))
    if manifest is not None:
        print(explained(manifest))


def host_nodes(manifest: PartitionManifest | None) -> list[HostNode]:
    """The nodes of a model in parts that are left to what runs ONNX."""
    from gpucompile.runtime.parts import KIND_OF

    return [n for part in manifest.parts if part.backend not in KIND_OF for n in part.nodes] if manifest else []


def bundles_of(bundle: Bundle | PartitionedBundle) -> list[Bundle]:
    """The bundles of the device parts, or the bundle itself."""
    from gpucompile.plan.partitioned import DeviceModel, PartitionedBundle

    if isinstance(bundle, PartitionedBundle):
        return [part.bundle for part in bundle.parts if isinstance(part, DeviceModel)]
    return [bundle]


def manifest_of(bundle: Bundle | PartitionedBundle) -> PartitionManifest | None:
    """The manifest of a bundle in parts; None for any other."""
    from gpucompile.plan.partitioned import PartitionedBundle

    return bundle.manifest if isinstance(bundle, PartitionedBundle) else None


def parts_text(manifest: PartitionManifest) -> str:
    """What runs the parts, in order, the nodes left to the CPU, and what crosses between parts on the host."""
    from gpucompile.runtime.parts import edges

    crossing = [e for e in edges(manifest) if not e.resident]
    known = sum(e.bytes or 0 for e in crossing)
    backends = " + ".join(part.backend for part in manifest.parts)
    text = f"parts    {backends}, {counted(len(host_nodes(manifest)), 'node')} on the CPU, {size(known)} between parts"
    return text + (" and what depends on data" if any(e.bytes is None for e in crossing) else "")


def explained(manifest: PartitionManifest | None) -> str:
    """The cut as a table; None for a model that is not cut."""
    if manifest is None:
        return "every node runs on the device"
    from gpucompile.runtime.parts import explain, explain_edges

    crossing = explain_edges(manifest)
    text = table(explain(manifest), HEADERS)
    return f"{text}\n{table(crossing, EDGE_HEADERS)}" if crossing else text
