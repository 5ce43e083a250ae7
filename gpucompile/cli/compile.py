"""Compile an ONNX model (or a .gir graph) ahead of time to a shader bundle that plays in Python and in browsers.

`--device cpu` or `npu` makes a bundle for OpenVINO instead, `--device gpu,npu,cpu` one for all three. A model for the
NPU is written to its rules (OpenVINO's intermediate representation, float16) and compiled where it is loaded, unless
`--blob` finds an NPU here.

The bundle is one file if its name ends in .gpub, else a directory. It is complete or it is not there.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from gpucompile.cli._common import (
    add_compile_options,
    choose_target,
    positive,
    progress_bar,
    read_model,
    require_file,
    size,
)
from gpucompile.cli._fallback import add_fallback_options, bundles_of, compile_model, explained, manifest_of, parts_text
from gpucompile.cli._openvino import kinds_of
from gpucompile.errors import InputError

if TYPE_CHECKING:
    from gpucompile.plan.bundle import Bundle, Report
    from gpucompile.plan.partitioned import PartitionedBundle

NAME = "compile"
HELP = "compile a model to a shader bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="an ONNX file, or a .gir file")
    parser.add_argument("-o", "--output", metavar="X.gpub", required=True, help="the bundle to write")
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    parser.add_argument(
        "--blob",
        action="store_true",
        help="also put in what OpenVINO's devices here compile the model to, which loads faster on just these",
    )
    parser.add_argument(
        "--cache",
        metavar="N",
        type=positive,
        help="a decoder with keys and values as inputs and outputs: room for N tokens, updated in place on the GPU",
    )
    add_compile_options(parser)
    add_fallback_options(parser)


def run(args: argparse.Namespace) -> int:
    require_file(args.model)
    from gpucompile.plan.bundle import Bundle

    start = time.perf_counter()
    devices = kinds_of(args.device)
    if devices:
        args.device = None  # no part of an adapter's name
    elif args.device and args.target == "portable":
        text = "gpu, npu, cpu or a list of these; a part of an adapter's name needs --target native"
        raise InputError(f"--device {args.device}: {text}")
    target = choose_target(args)
    with progress_bar(args.quiet) as progress:
        bundle = compile_model(args, target, progress, devices or ("gpu",))
        if args.blob:
            from gpucompile.backends.openvino.compile import with_blob

            if not set(devices) - {"gpu"}:
                raise InputError("--blob is for OpenVINO's devices: --device npu, cpu, or a list with these")
            for part in bundles_of(bundle):
                part.map_openvino(with_blob)
        path = bundle.save(args.output, progress)
    if not args.quiet:
        if bundle.report is not None:
            print(report_text(bundle.report))
        manifest = manifest_of(bundle)
        if manifest is not None:
            print(parts_text(manifest))
            if any(p.backend == "openvino-npu" for p in manifest.parts):
                print(f"{'npu':8} for OpenVINO{_unseen('npu')}")
        if args.explain:
            print(explained(manifest))
        if args.precision != "f32":
            print(_precision_text(args, bundle))
        what = f"target {target.name or args.target}"
        if isinstance(bundle, Bundle):
            for device in bundle.openvino:
                print(_openvino_text(bundle, device))
            what = what if bundle.plans else f"for {', '.join(bundle.openvino)}"
        print(f"wrote    {path} in {time.perf_counter() - start:.2f} s, {what}")
    return 0


def _openvino_text(bundle: Bundle, device: str) -> str:
    model = bundle.openvino_model(device)
    text = f"{device:8} OpenVINO {model.version}: IR of {size(model.xml.size + model.weights.size)}"
    for blob in model.blobs:
        text += f", compiled for {blob.device} ({size(blob.data.size)})"
    return text + _unseen(device)


def _unseen(device: str) -> str:
    """What could not be tried where one of OpenVINO's devices is not here."""
    from gpucompile.runtime.openvino import list_devices

    if any(d.kind == device for d in list_devices()):
        return ""
    return f"; no {device.upper()} here: it is compiled where it is loaded, only its rules are checked"


def _precision_text(args: argparse.Namespace, bundle: Bundle | PartitionedBundle) -> str:
    """What stays float32, and the error against float32 of the smallest sizes compiled."""
    from gpucompile.plan.partitioned import PartitionedBundle
    from gpucompile.precision import error

    lines = [f"  {n:5}  {what}" for what, n in (bundle.report.kept_float32 if bundle.report else {}).items()]
    lines.insert(0, "float32  ops that stay in float32:" if lines else "float32  no op stays in float32")
    if args.cache is not None:
        lines.append("error    not measured: the float32 model has no cache to compare with")
        return "\n".join(lines)
    if isinstance(bundle, PartitionedBundle):
        lines.append(
            "error    not measured: the interpreter that compares with float32 does not run the parts on the CPU"
        )
        return "\n".join(lines)
    dims = bundle.dims | (bundle.buckets[0].dims if bundle.buckets else {})
    for name, e in error(read_model(args.model, dims), args.precision).items():
        lines.append(
            f"error    {name}: {e.largest:.3g}, {e.relative:.2%} of the largest magnitude, against float32 "
            "(numpy, random input)"
        )
    return "\n".join(lines)


def report_text(report: Report) -> str:
    """The story of a compile in four lines."""
    bound = report.scratch_bound_bytes
    ratio = f", {report.scratch_bytes / bound:.2f} x the largest sum of live bytes" if bound else ""
    phases = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in report.phases.items())
    if not report.kernels:
        return f"nodes    {report.nodes_before}\ntime     {phases}"
    lines = [
        f"nodes    {report.nodes_before} -> {report.nodes_after}",
        f"kernels  {report.kernels}",
        f"memory   weights {size(report.weight_bytes)}, scratch {size(report.scratch_bytes)}{ratio}",
        f"time     {phases}",
    ]
    return "\n".join(lines)
