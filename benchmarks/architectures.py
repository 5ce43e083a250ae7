"""The zoo (architectures with random weights): nodes, kernels, compile time, latency, error against onnxruntime's CPU.

python -m benchmarks architectures                    all, at full size (minutes on a software adapter)
python -m benchmarks architectures --portable         for WebGPU's default limits instead of the adapter's own
python -m benchmarks architectures --reduced
python -m benchmarks architectures bert vit --write FOLDER      writes the models instead
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import onnx

import gpucompile
from benchmarks import against_cpu, zoo

#: Largest error accepted, relative to the largest value.
TOLERANCE = 1e-4


def measure(
    name: str, device: gpucompile.Device | str, reduced: bool, repeat: int = 3, target: gpucompile.Target | None = None
) -> against_cpu.Row:
    """One network of the zoo on `device` (or "cpu", through OpenVINO), compiled for what it offers or for `target`,
    without nodes on hosts."""
    network = zoo.NETWORKS[name]
    model = network.build(reduced)
    feeds = network.feeds(model, reduced)
    return against_cpu.measure(name, model, feeds, network.dims, TOLERANCE, device, repeat=repeat, target=target)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks architectures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all when left out: {', '.join(zoo.NETWORKS)}")
    parser.add_argument("--reduced", action="store_true", help="the reduced networks that the tests use")
    parser.add_argument("--portable", action="store_true", help="compile for WebGPU's default limits")
    parser.add_argument("--repeat", type=int, default=3, help="timed runs (3)")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write NAME.onnx there and run nothing")
    against_cpu.device_argument(parser)
    options = parser.parse_args(arguments)
    names = options.names or list(zoo.NETWORKS)
    for name in names:
        if name not in zoo.NETWORKS:
            parser.error(f"unknown network {name!r}; known: {', '.join(zoo.NETWORKS)}")
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        for name in names:
            path = options.write / f"{name}.onnx"
            onnx.save(zoo.NETWORKS[name].build(options.reduced), path)
            print(f"{path}  {path.stat().st_size / 1e6:.1f} MB", flush=True)
        return 0
    with against_cpu.chosen(options.device) as device:
        target = gpucompile.Target.portable() if options.portable else None
        rows = against_cpu.print_table(names, lambda n: measure(n, device, options.reduced, options.repeat, target))
    return 0 if all(r.ok for r in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
