"""Run a bundle, or an ONNX model straight away, and print its outputs and latency.

  gpucompile run model.gpub --random --repeat 100
  gpucompile run model.onnx --input data=image.npy --output results/

The first run is listed apart: it includes what the driver puts off until then. Average, median and best are over the
others. A run is: inputs to the device, all kernels, outputs back as numpy arrays.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpucompile.cli._common import (
    add_compile_options,
    choose_target,
    is_bundle,
    name_and_file,
    positive,
    progress_bar,
    read_array,
    table,
)
from gpucompile.cli._fallback import add_fallback_options, compile_model, explained, parts_text
from gpucompile.cli._openvino import add_options, compiled_for, kinds_of, options_of
from gpucompile.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from gpucompile.cli._common import Progress
    from gpucompile.plan.bundle import Bundle
    from gpucompile.plan.partitioned import PartitionedBundle
    from gpucompile.runtime.device import Device
    from gpucompile.runtime.executable import Executable

NAME = "run"
HELP = "run a bundle or an ONNX model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a bundle (file or directory), an ONNX file, or a .gir file")
    parser.add_argument(
        "--input", metavar="NAME=FILE.npy", action="append", type=name_and_file, default=[], help="data of one input"
    )
    parser.add_argument("--random", action="store_true", help="random data for the inputs that no --input gives")
    parser.add_argument("--seed", type=int, default=0, help="of --random (default: %(default)s)")
    parser.add_argument("--repeat", metavar="N", type=positive, default=1, help="how often to run (default: once)")
    parser.add_argument(
        "--pad",
        metavar="VALUE",
        type=_pad,
        default="error",
        help="what fills inputs up to the sizes a model was compiled for: error (nothing does), zeros, or a number",
    )
    parser.add_argument("--output", metavar="DIR", type=Path, help="write outputs to NAME.npy files in this folder")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bars")
    add_compile_options(parser, target="native")
    add_options(parser)
    add_fallback_options(parser)


def _pad(text: str) -> str | float:
    if text in ("error", "zeros"):
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected error, zeros or a number, found {text!r}") from None


def run(args: argparse.Namespace) -> int:
    from gpucompile.runtime.device import Device
    from gpucompile.runtime.loading import make_executable
    from gpucompile.runtime.parts import open_bundle

    files = {name: read_array(name, file) for name, file in args.input}
    bundled = is_bundle(args.model)
    chosen = (args.pipeline, args.target, args.precision, args.fallback, args.partition, args.assign)
    if bundled and (args.dim or args.const or chosen != ("default", "native", "f32", "error", False, [])):
        options = "--dim, --const, --pipeline, --precision, --fallback, --partition, --assign and --target"
        raise InputError(f"{args.model} is compiled already: {options} only apply to models")
    kinds = kinds_of(args.device)
    chosen_here = args.device in ("auto", "first") or (bundled and not args.device and _for_openvino(args.model))
    if chosen_here or set(kinds) - {"gpu"}:
        return _run_on_kind(args, files, bundled)
    if args.device == "gpu":
        args.device = None
    with Device.open(prefer=args.device) as device:
        start = time.perf_counter()
        with progress_bar(args.quiet) as progress:
            bundle = open_bundle(args.model) if bundled else _compile(args, device, progress)
            compiled = time.perf_counter()
            exe = make_executable(bundle, device, progress, pad=args.pad, options=options_of(args))
        created = time.perf_counter()
        with exe:
            print(f"device   {device.name} ({device.backend})")
            if not bundled:
                print(f"compile  {compiled - start:.2f} s, {exe.kernels} kernels")
            print(f"create   {created - compiled:.2f} s")
            _run(exe, files, args)
    return 0


def _for_openvino(path: str) -> bool:
    """Whether a bundle is for OpenVINO's devices only, or has parts for them."""
    from gpucompile.runtime.parts import DEVICE, KIND_OF, PartitionedData, open_bundle

    with open_bundle(path) as bundle:
        if isinstance(bundle, PartitionedData):
            return any(p.backend in KIND_OF and p.backend != DEVICE for p in bundle.manifest.parts)
        return not bundle.variants


def _run_on_kind(args: argparse.Namespace, files: dict[str, np.ndarray], bundled: bool) -> int:
    """On the NPU or the CPU, on the first or the fastest device, or on several that share a model."""
    from gpucompile.runtime.loading import load
    from gpucompile.target import Target

    device, several = args.device, len(kinds_of(args.device)) > 1
    divided = bool(args.partition or args.assign)
    if several and (bundled or not divided):
        raise InputError(f"--device {device}: one of these, or --partition, or auto, or first")
    start = time.perf_counter()
    with progress_bar(args.quiet) as progress:
        source: Any = args.model
        if not bundled:
            args.device = None  # no part of an adapter's name
            target = choose_target(args) if divided and "gpu" in kinds_of(device) else Target.portable()
            source = compile_model(args, target, progress, compiled_for(device))
        compiled = time.perf_counter()
        exe = load(source, None if several else device, progress, options=options_of(args))
    created = time.perf_counter()
    with exe:
        print(f"device   {exe.device_name}")
        for reason in exe.skipped:
            print(f"not      {reason}")
        if not bundled:
            print(f"compile  {compiled - start:.2f} s")
        print(f"create   {created - compiled:.2f} s")
        _run(exe, files, args)
    return 0


def _run(exe: Executable, files: dict[str, np.ndarray], args: argparse.Namespace) -> None:
    """Run as often as asked; print the parts, the outputs and the latency, and save the outputs."""
    from gpucompile.runtime.partitioned import PartitionedExecutable

    manifest = exe.manifest if isinstance(exe, PartitionedExecutable) else None
    if manifest is not None:
        print(parts_text(manifest))
    if args.explain:
        print(explained(manifest))
    results, seconds = _repeat(exe, _feeds(exe, files, args), args)
    outputs = _flat(results)
    print(_outputs_table(outputs))
    print(_latency(seconds))
    if args.output is not None:
        _save(outputs, args.output)


def _compile(args: argparse.Namespace, device: Device, progress: Progress | None) -> Bundle | PartitionedBundle:
    from gpucompile.target import Target

    target = Target.portable() if args.target == "portable" else Target.of(device.adapter)
    return compile_model(args, target, progress)


#: Data types that only hosts have -> what is drawn for them.
_HOST_DTYPES = {
    "float64": "float32",
    "int16": "int8",
    "uint16": "uint8",
    "complex64": "float32",
    "complex128": "float32",
}


def _feeds(exe: Executable, files: dict[str, np.ndarray], args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Arrays by input name: from files, else random where allowed."""
    import numpy as np

    from gpucompile.ir.types import DataType
    from gpucompile.passmanager.instruments import random_array
    from gpucompile.runtime.checks import DTYPE_BITS

    rng = np.random.default_rng(args.seed)
    feeds = dict(files)
    for port in exe.inputs:
        what = f"{port.name!r}, {port.dtype}{list(port.shape)}"
        drawable = port.dtype in (*DTYPE_BITS, *_HOST_DTYPES) and -1 not in port.shape
        if drawable:  # drawn for all, so that a file shifts no other
            kind = _HOST_DTYPES.get(port.dtype, port.dtype)
            array = random_array(rng, DataType(kind), port.shape)
            array = array.astype(port.dtype) if kind != port.dtype else array
        if port.name not in feeds:
            if not args.random:
                raise InputError(f"no data for input {what}: give --input {port.name}=FILE.npy, or --random")
            if not drawable:
                raise InputError(f"no random data for input {what}: give --input {port.name}=FILE.npy")
            feeds[port.name] = array
    return feeds


def _repeat(
    exe: Executable, feeds: dict[str, np.ndarray], args: argparse.Namespace
) -> tuple[Mapping[str, Any], list[float]]:
    """Outputs of the last run, and the seconds of each."""
    seconds: list[float] = []
    outputs: Mapping[str, Any] = {}
    with progress_bar(args.quiet or args.repeat == 1) as progress:
        shown = 0.0
        for i in range(args.repeat):
            start = time.perf_counter()
            outputs = exe.run(feeds)
            end = time.perf_counter()
            seconds.append(end - start)
            if progress is not None and end - shown > 0.1:
                progress("run", i + 1, args.repeat)
                shown = end
    return outputs, seconds


def _flat(outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays in outputs, those of sequences as NAME[0], NAME[1], ..."""
    flat: dict[str, np.ndarray] = {}
    for name, value in outputs.items():
        if isinstance(value, list):
            flat |= _flat({f"{name}[{i}]": v for i, v in enumerate(value)})
        elif value is not None:
            flat[name] = value.astype(str) if value.dtype == object else value
    return flat


def _outputs_table(outputs: dict[str, np.ndarray]) -> str:
    import numpy as np

    rows = []
    for name, a in outputs.items():
        number = a.dtype.kind in "fiub"
        texts = (f"{x:.6g}" if number else str(x) for x in a.reshape(-1)[:4])
        first = " ".join(texts) + (" ..." if a.size > 4 else "")
        low, high, mean = "-", "-", "-"
        if number and a.size:
            low, high, mean = f"{a.min():.6g}", f"{a.max():.6g}", f"{a.mean(dtype=np.float64):.6g}"
        rows.append((name, f"{a.dtype}{list(a.shape)}", first, low, high, mean))
    return table(rows, ("output", "type", "first values", "min", "max", "mean"))


def _latency(seconds: list[float]) -> str:
    if len(seconds) == 1:
        return f"latency  {seconds[0] * 1e3:.2f} ms (one run; --repeat N for more)"
    rest = [s * 1e3 for s in seconds[1:]]
    return (
        f"latency  first {seconds[0] * 1e3:.2f} ms, then average {statistics.fmean(rest):.2f}, median "
        f"{statistics.median(rest):.2f}, best {min(rest):.2f} ms ({len(rest)} runs)"
    )


def _save(outputs: dict[str, np.ndarray], folder: Path) -> None:
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    used: set[str] = set()
    for name, array in outputs.items():
        stem = base = re.sub(r"[^A-Za-z0-9_.-]", "_", name).lstrip(".") or "output"
        n = 0
        while stem in used:
            n += 1
            stem = f"{base}_{n}"
        used.add(stem)
        path = folder / f"{stem}.npy"
        np.save(path, array)
        print(f"wrote    {path}")
