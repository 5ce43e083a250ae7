"""Compile an ONNX model (or a .gir graph) ahead of time to a shader bundle that plays in Python and in browsers.

The bundle is one file if its name ends in .gpub, else a directory. It is complete or it is not there.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from gpucompile.cli._common import (
    add_compile_options,
    choose_target,
    progress_bar,
    read_model,
    require_file,
    single_sizes,
    size,
)

if TYPE_CHECKING:
    from gpucompile.plan.bundle import Report

NAME = "compile"
HELP = "compile a model to a shader bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="an ONNX file, or a .gir file")
    parser.add_argument("-o", "--output", metavar="X.gpub", required=True, help="the bundle to write")
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    add_compile_options(parser)


def run(args: argparse.Namespace) -> int:
    require_file(args.model)
    from gpucompile.compiler import compile

    start = time.perf_counter()
    target, dims = choose_target(args), dict(args.dim)
    model = read_model(args.model, single_sizes(args.dim)) if args.model.endswith(".gir") else args.model
    with progress_bar(args.quiet) as progress:
        bundle = compile(model, target, dims, args.pipeline, args.plan, progress)
        path = bundle.save(args.output, progress)
    if not args.quiet:
        if bundle.report is not None:
            print(report_text(bundle.report))
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
