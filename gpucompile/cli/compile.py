"""Compile an ONNX model (or a .gir graph) ahead of time to a shader bundle that plays in Python and in browsers.

The bundle is one file if its name ends in .gpub, else a directory. It is complete or it is not there.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from gpucompile.cli._common import add_compile_options, choose_target, progress_bar, require_file, size
from gpucompile.cli._fallback import add_fallback_options, compile_model, explained

if TYPE_CHECKING:
    from gpucompile.plan.bundle import Report

NAME = "compile"
HELP = "compile a model to a shader bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="an ONNX file, or a .gir file")
    parser.add_argument("-o", "--output", metavar="X.gpub", required=True, help="the bundle to write")
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    add_compile_options(parser)
    add_fallback_options(parser)


def run(args: argparse.Namespace) -> int:
    require_file(args.model)
    from gpucompile.plan.partitioned import PartitionedBundle

    start = time.perf_counter()
    target = choose_target(args)
    with progress_bar(args.quiet) as progress:
        bundle = compile_model(args, target, progress)
        path = bundle.save(args.output, progress)
    if not args.quiet:
        if bundle.report is not None:
            print(report_text(bundle.report))
        if isinstance(bundle, PartitionedBundle):
            print(f"parts    {len(bundle.parts)}, {len(bundle.fallback)} nodes on the CPU")
        if args.explain:
            print(explained(bundle.manifest if isinstance(bundle, PartitionedBundle) else None))
        print(f"wrote    {path} in {time.perf_counter() - start:.2f} s, target {target.name or args.target}")
    return 0


def report_text(report: Report) -> str:
    """The story of a compile in four lines."""
    bound = report.scratch_bound_bytes
    ratio = f", {report.scratch_bytes / bound:.2f} x the largest sum of live bytes" if bound else ""
    phases = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in report.phases.items())
    lines = [
        f"nodes    {report.nodes_before} -> {report.nodes_after}",
        f"kernels  {report.kernels}",
        f"memory   weights {size(report.weight_bytes)}, scratch {size(report.scratch_bytes)}{ratio}",
        f"time     {phases}",
    ]
    return "\n".join(lines)
