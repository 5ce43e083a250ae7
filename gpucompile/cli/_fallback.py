"""What subcommands share about nodes that the device does not take: options, compiling, the cut as a table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gpucompile.cli._common import read_constants, read_model, single_sizes, table
from gpucompile.errors import UnsupportedError
from gpucompile.runtime.parts import on_the_cpu

if TYPE_CHECKING:
    import numpy as np

    from gpucompile.cli._common import Progress
    from gpucompile.plan.bundle import Bundle
    from gpucompile.plan.partitioned import PartitionedBundle
    from gpucompile.runtime.format import PartitionManifest
    from gpucompile.target import Target

HEADERS = ("part", "backend", "node", "reason", "bytes in", "bytes out")


def add_fallback_options(parser: argparse.ArgumentParser) -> None:
    """--fallback --explain."""
    group = parser.add_argument_group("nodes that the device does not take")
    group.add_argument(
        "--fallback",
        choices=("error", "warn", "allow"),
        default="error",
        help="refuse them, or leave them to the CPU (onnxruntime, else onnx), with or without a warning "
        "(default: %(default)s)",
    )
    add_explain_option(group)


def add_explain_option(parser: argparse._ActionsContainer) -> None:
    """--explain."""
    parser.add_argument(
        "--explain",
        action="store_true",
        help="print what runs where: parts in order, why nodes are left to the CPU, bytes that parts read and give",
    )


def compile_model(
    args: argparse.Namespace, target: Target, progress: Progress | None, devices: Sequence[str] = ("gpu",)
) -> Bundle | PartitionedBundle:
    """Compile args.model as the options say. With --explain the cut is shown even where --fallback=error refuses it."""
    from gpucompile.compiler import compile

    dims = dict(args.dim)
    model = read_model(args.model, single_sizes(args.dim)) if args.model.endswith(".gir") else args.model
    options = (target, dims, args.pipeline, args.plan)
    fallback = "allow" if args.fallback == "warn" else args.fallback
    constants = read_constants(args.const)
    try:
        bundle = compile(
            model, *options, progress, args.precision, fallback=fallback, devices=devices, constants=constants
        )
    except UnsupportedError:
        if args.explain and isinstance(model, str) and set(devices) == {"gpu"}:
            _explain_refused(model, options, constants)
        raise
    manifest = manifest_of(bundle)
    nodes = [n for part in manifest.parts for n in part.nodes] if manifest else []
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


def manifest_of(bundle: Bundle | PartitionedBundle) -> PartitionManifest | None:
    """The manifest of a bundle in parts; None for any other."""
    from gpucompile.plan.partitioned import PartitionedBundle

    return bundle.manifest if isinstance(bundle, PartitionedBundle) else None


def explained(manifest: PartitionManifest | None) -> str:
    """The cut as a table; None for a model that is not cut."""
    if manifest is None:
        return "every node runs on the device"
    from gpucompile.runtime.parts import explain

    return table(explain(manifest), HEADERS)
