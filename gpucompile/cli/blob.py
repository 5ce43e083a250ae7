"""Compile the OpenVINO models in a bundle for the devices of this machine, and put the result into the bundle.

  gpucompile blob model.gpub                       # for those of npu and cpu that are here
  gpucompile blob model.gpub --device npu -o here.gpub

It then loads faster, on just this kind of device with just this driver and version of OpenVINO; elsewhere it is
compiled when it is loaded, as before. `gpucompile compile --blob` does the same at once.
"""

from __future__ import annotations

import argparse

from gpucompile.cli._common import size
from gpucompile.cli._openvino import kinds_of
from gpucompile.errors import InputError

NAME = "blob"
HELP = "put what OpenVINO's devices here compile a bundle to into it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="X.gpub", help="a bundle, file or directory")
    parser.add_argument("--device", metavar="LIST", help="npu, cpu, or both (default: those that are here)")
    parser.add_argument("-o", "--output", metavar="Y.gpub", help="the bundle to write (default: X.gpub itself)")


def run(args: argparse.Namespace) -> int:
    from gpucompile.backends.openvino.blobs import add_blobs
    from gpucompile.runtime.openvino import openvino_module

    kinds = kinds_of(args.device)
    if args.device and (not kinds or "gpu" in kinds):
        raise InputError(f"--device {args.device}: must be npu, cpu, or both")
    openvino_module()
    for name, blob in add_blobs(args.bundle, args.output, kinds).items():
        print(f"added    {name}: {size(blob.data.size)}, for {blob.device}, OpenVINO {blob.version}")
    print(f"wrote    {args.output or args.bundle}")
    return 0
