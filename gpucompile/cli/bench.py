"""Time a model or bundle on several devices: mean, 95th percentile and best after a first inference, listed apart.

  gpucompile bench model.onnx --devices all
  gpucompile bench model.gpub --devices gpu,cpu --seconds 5

`ready` is all between the compiled bundle and the first inference: what OpenVINO or the graphics driver compile, and
the upload of weights. An inference goes from numpy arrays to numpy arrays. `*` marks the device that `--device auto` of
`gpucompile run` takes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING, Any

from gpucompile.cli._common import add_dim_option, is_bundle, positive, progress_bar, read_model, single_sizes, table
from gpucompile.cli._openvino import add_options, options_of
from gpucompile.errors import DeviceError, InputError, UnsupportedError

if TYPE_CHECKING:
    from gpucompile.cli._common import Progress
    from gpucompile.runtime.choose import Measured

NAME = "bench"
HELP = "time a model on several devices"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="an ONNX file, a .gir file, or a bundle")
    parser.add_argument(
        "--devices", metavar="LIST", default="all", help="some of gpu,npu,cpu, or all that are here (default)"
    )
    parser.add_argument("--seconds", metavar="S", type=float, default=2.0, help="how long each runs (default: 2)")
    parser.add_argument("--runs", metavar="N", type=positive, default=10, help="and at least how often (default: 10)")
    parser.add_argument("--json", action="store_true", help="print all as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bars")
    add_dim_option(parser)
    add_options(parser)


def run(args: argparse.Namespace) -> int:
    from gpucompile.runtime.choose import ORDER, candidates, fastest, measure
    from gpucompile.runtime.device import default_device
    from gpucompile.runtime.loading import make_executable

    wanted = ORDER if args.devices == "all" else tuple(dict.fromkeys(args.devices.split(",")))
    if not set(wanted) <= set(ORDER):
        raise InputError(f"--devices {args.devices}: must be all, or some of {', '.join(ORDER)}")
    skipped: list[str] = []
    with progress_bar(args.quiet) as progress:
        bundle = _bundle(args, wanted, skipped, progress)
    makers = dict(candidates(bundle, skipped, lambda: make_executable(bundle, default_device()), options_of(args)))
    measured = []
    for kind in (k for k in wanted if k in makers):
        try:
            measured.append(measure(kind, makers[kind], seconds=args.seconds, runs=args.runs))
        except (DeviceError, UnsupportedError) as e:
            skipped.append(f"{kind}: {e}")
    reasons = [line for line in dict.fromkeys(skipped) if line.split(":")[0] in wanted]
    if not measured:
        raise DeviceError(f"no device to measure: {'; '.join(reasons)}")
    if args.json:
        print(json.dumps({"devices": [dataclasses.asdict(m) for m in measured], "skipped": reasons}, indent=2))
        return 0
    print(_table(measured, fastest(measured)))
    for line in reasons:
        print(f"not {line}")
    return 0


def _bundle(args: argparse.Namespace, wanted: tuple[str, ...], skipped: list[str], progress: Progress | None) -> Any:
    """The bundle to measure. A model is compiled for each device that takes it; the others' reasons go to `skipped`."""
    if is_bundle(args.model):
        from gpucompile.runtime.bundle import read_bundle

        return read_bundle(args.model)
    from gpucompile.compiler import compile
    from gpucompile.runtime.openvino import find_device, list_devices
    from gpucompile.target import Target

    model = read_model(args.model, single_sizes(args.dim))
    here = {"gpu", *(d.kind for d in list_devices())}
    target = None
    if "gpu" in wanted:
        from gpucompile.runtime.device import default_device

        try:
            target = Target.of(default_device().adapter)
        except DeviceError as e:
            here.remove("gpu")
            skipped.append(f"gpu: {e}")
    taken = []
    for kind in wanted:
        try:
            if kind not in here:
                if kind != "gpu":
                    find_device(kind)  # says why there is none
                continue
            if kind != "gpu":
                compile(model, devices=(kind,))
            taken.append(kind)
        except (DeviceError, UnsupportedError) as e:
            skipped.append(f"{kind}: {e}")
    if not taken:
        raise DeviceError(f"no device to measure: {'; '.join(skipped)}")
    return compile(model, target, devices=taken, progress=progress)


def _table(measured: list[Measured], best: Measured) -> str:
    rows = [
        (
            "*" if m is best else "",
            m.device,
            m.name,
            f"{m.ready:.2f} s",
            *(f"{1e3 * s:.2f} ms" for s in (m.first, m.mean, m.p95, m.best)),
            m.runs,
        )
        for m in measured
    ]
    return table(rows, ("", "device", "name", "ready", "first", "mean", "p95", "min", "runs"))
