"""List the WebGPU adapters of this machine, best first, and OpenVINO's devices. `*` marks the adapter that would be
chosen."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from gpucompile.cli._common import size, table

NAME = "devices"
HELP = "list the WebGPU adapters and OpenVINO's devices"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limits", action="store_true", help="print features and limits too")
    parser.add_argument("--json", action="store_true", help="print all as JSON")
    parser.add_argument(
        "--implementation", metavar="NAME", help="a module with wgpu-py's API, such as wgpudawn (default: wgpu)"
    )


def run(args: argparse.Namespace) -> int:
    from gpucompile.errors import DeviceError
    from gpucompile.runtime import openvino
    from gpucompile.runtime.adapters import list_adapters

    adapters = list_adapters(args.implementation)
    others = openvino.list_devices()
    if args.json:
        print(json.dumps([*map(dataclasses.asdict, adapters), *map(dataclasses.asdict, others)], indent=2))
        return 0
    if not adapters and not others:
        hint = "; install a Vulkan driver (a software one: mesa-vulkan-drivers)" if sys.platform == "linux" else ""
        raise DeviceError(f"no WebGPU adapter found{hint}")
    chosen = next((i for i, a in enumerate(adapters) if a.usable), None)
    rows = []
    for i, a in enumerate(adapters):
        notes = "" if a.usable else f"never chosen: {a.backend} fails late"
        buffer = size(a.limits.get("max-storage-buffer-binding-size", 0))
        rows.append(("*" if i == chosen else "", a.name, a.type, a.backend, a.driver, buffer, notes))
    if adapters:
        print(table(rows, ("", "name", "type", "backend", "driver", "largest binding", "")))
    if others:
        kinds = " or ".join(dict.fromkeys(d.kind for d in others))
        print(*([""] if adapters else []), f"OpenVINO {openvino.version()} (--device {kinds})", sep="\n")
        print(table([(d.kind, d.name, d.full_name) for d in others], indent="  "))
    if args.limits:
        for a in adapters:
            print(f"\n{a.name} ({a.backend}, {a.implementation})")
            print(f"  features  {', '.join(a.features) or 'none'}")
            print(table(sorted(a.limits.items()), indent="  "))
    return 0
