"""List the WebGPU adapters of this machine, best first. `*` marks the one that would be chosen."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from gpucompile.cli._common import size, table

NAME = "devices"
HELP = "list the WebGPU adapters"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limits", action="store_true", help="print features and limits too")
    parser.add_argument("--json", action="store_true", help="print all as JSON")
    parser.add_argument(
        "--implementation", metavar="NAME", help="a module with wgpu-py's API, such as wgpudawn (default: wgpu)"
    )


def run(args: argparse.Namespace) -> int:
    from gpucompile.errors import DeviceError
    from gpucompile.runtime.adapters import list_adapters

    adapters = list_adapters(args.implementation)
    if args.json:
        print(json.dumps([dataclasses.asdict(a) for a in adapters], indent=2))
        return 0
    if not adapters:
        hint = "; install a Vulkan driver (a software one: mesa-vulkan-drivers)" if sys.platform == "linux" else ""
        raise DeviceError(f"no WebGPU adapter found{hint}")
    chosen = next((i for i, a in enumerate(adapters) if a.usable), None)
    rows = []
    for i, a in enumerate(adapters):
        notes = "" if a.usable else f"never chosen: {a.backend} fails late"
        buffer = size(a.limits.get("max-storage-buffer-binding-size", 0))
        rows.append(("*" if i == chosen else "", a.name, a.type, a.backend, a.driver, buffer, notes))
    print(table(rows, ("", "name", "type", "backend", "driver", "largest binding", "")))
    if args.limits:
        for a in adapters:
            print(f"\n{a.name} ({a.backend}, {a.implementation})")
            print(f"  features  {', '.join(a.features) or 'none'}")
            print(table(sorted(a.limits.items()), indent="  "))
    return 0
