"""What subcommands share: options of a compilation, reading models, tables, sizes, progress bars."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpucompile.errors import InputError, ModelError

if TYPE_CHECKING:
    import numpy as np

    from gpucompile.ir.graph import Graph
    from gpucompile.target import Target

Progress = Callable[[str, int, int], None]


def add_compile_options(parser: argparse.ArgumentParser, target: str = "portable", pipeline: str = "default") -> None:
    """--target --device --dim -p --plan."""
    group = parser.add_argument_group("compilation")
    group.add_argument(
        "--target",
        choices=("portable", "native"),
        default=target,
        help="portable: runs on every WebGPU device; native: uses what the device here offers (default: %(default)s)",
    )
    add_device_option(group)
    group.add_argument(
        "--dim",
        metavar="NAME=N",
        action="append",
        type=_dims,
        default=[],
        help="size of a free dimension of the model; NAME=N,N,... or NAME=N..N (doubling) makes a plan for each size",
    )
    add_constant_option(group)
    group.add_argument(
        "-p",
        "--pipeline",
        default=pipeline,
        help="passes to run, such as 'canonicalize,fuse{max_ops=4}', or a named pipeline (default: %(default)s)",
    )
    group.add_argument(
        "--precision",
        choices=("f32", "f16"),
        default="f32",
        help="f16: weights and activations in float16 where that does no harm, sums in float32 (default: %(default)s)",
    )
    group.add_argument(
        "--plan",
        choices=("memory", "balanced", "overlap"),
        default="balanced",
        help="weigh scratch memory against running parallel branches at once (default: %(default)s)",
    )


def add_constant_option(group: Any) -> None:
    """--const NAME=FILE.npy."""
    group.add_argument(
        "--const",
        metavar="NAME=FILE.npy",
        action="append",
        type=name_and_file,
        default=[],
        help="value of an input of the model, compiled in: what hangs on it is known when the model is compiled",
    )


def name_and_file(text: str) -> tuple[str, str]:
    """An argparse type: NAME=FILE.npy."""
    name, _, file = text.partition("=")
    if not name or not file:
        raise argparse.ArgumentTypeError(f"expected NAME=FILE.npy, found {text!r}")
    return name, file


def read_array(name: str, file: str) -> np.ndarray:
    """The array in a .npy file. Raises InputError naming the input it is for."""
    import numpy as np

    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise InputError(f"input {name}: cannot read {file}: {e}") from e
    if not isinstance(array, np.ndarray):
        raise InputError(f"input {name}: {file} is an archive of arrays, a single one (.npy) is wanted")
    return array


def read_constants(options: Sequence[tuple[str, str]]) -> dict[str, np.ndarray]:
    """The --const options."""
    return {name: read_array(name, file) for name, file in options}


def add_dim_option(group: Any) -> None:
    """--dim NAME=N, a single size."""
    group.add_argument(
        "--dim", metavar="NAME=N", action="append", type=_dim, default=[], help="value of a free dimension of the model"
    )


def add_device_option(group: Any) -> None:
    """--device NAME."""
    group.add_argument(
        "--device",
        metavar="NAME",
        help="part of an adapter's name, or hardware, or software; or npu or cpu, through OpenVINO; or auto, the "
        "fastest, or first, of npu, gpu, cpu; see `gpucompile devices` (default: the best adapter)",
    )


def _dim(text: str) -> tuple[str, int]:
    name, _, value = text.rpartition("=")
    if not name or not value.isdecimal() or int(value) == 0:
        raise argparse.ArgumentTypeError(f"expected NAME=N with N a positive integer, found {text!r}")
    return name, int(value)


def _dims(text: str) -> tuple[str, int | list[int]]:
    name, _, value = text.rpartition("=")
    sizes = [int(v) for part in value.split(",") for v in part.split("..") if v.isdecimal()]
    if name and re.fullmatch(r"\d+", value):
        return name, sizes[0]
    if name:
        if re.fullmatch(r"\d+(,\d+)+", value):
            return name, sizes
        if re.fullmatch(r"\d+\.\.\d+", value) and 0 < sizes[0] < sizes[1]:
            doubled = [sizes[0]]
            while 2 * doubled[-1] < sizes[1]:
                doubled.append(2 * doubled[-1])
            return name, [*doubled, sizes[1]]
    raise argparse.ArgumentTypeError(
        f"expected NAME=N, NAME=N,N,... or NAME=N..N (doubling, from 1 on), found {text!r}"
    )


def single_sizes(dims: list[tuple[str, int | list[int]]]) -> dict[str, int]:
    """The --dim options of a model that has no free dimensions, or must not have any left."""
    for name, size in dims:
        if not isinstance(size, int):
            raise InputError(f"--dim {name}: one size is wanted here, not {', '.join(map(str, size))}")
    return {name: size for name, size in dims if isinstance(size, int)}


def read_model(
    path: str, dims: dict[str, int], random_weights: bool = False, constants: Mapping[str, np.ndarray] | None = None
) -> Graph:
    """The graph of an ONNX or .gir file, or of a bundle. The text in a bundle mentions large constants by their hash
    only; `random_weights` puts random data in their place."""
    if is_bundle(path) or path.endswith(".gir"):
        from gpucompile.ir.text import parse_graph, read_gir

        register_ops()
        if is_bundle(path):
            from gpucompile.runtime.bundle import read_bundle

            with read_bundle(path) as bundle:
                text = bundle.gir()
            if "ref<" in text and not random_weights:
                raise ModelError(f"{path}: a bundle's graph has large constants by hash only; add --random-weights")
        elif random_weights:
            text = Path(path).read_text(encoding="utf-8")
        else:
            require_file(path)
            return read_gir(Path(path))
        return parse_graph(text, random_literals(text) if random_weights else None, path)
    require_file(path)
    from gpucompile.frontends.onnx.importer import import_model

    graph: Graph = import_model(path, dims, constants=constants)
    return graph


def is_bundle(path: str) -> bool:
    """Whether a path is a bundle rather than a model: by its suffix, or as a directory or zip."""
    if path.endswith(".gpub") or Path(path, "manifest.json").is_file():
        return True
    require_file(path)
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def random_literals(text: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Random data for the constants that a .gir text mentions by their hash only: small normal floats, see
    `random_array` for integers."""
    import numpy as np

    from gpucompile.ir.syntax import Tokens
    from gpucompile.passmanager.instruments import random_array

    rng = np.random.default_rng(seed)
    out = {}
    for kind, sha in re.findall(r'\bref<([^>"]*)>\("([0-9a-f]{64})"\)', text):
        t = Tokens(kind).tensor_type()
        array = random_array(rng, t.dtype, t.shape)
        out[sha] = array * array.dtype.type(0.1) if t.dtype.is_float else array
    return out


def register_ops() -> None:
    """Import all ops, which registers the names that a .gir file may hold."""
    importlib.import_module("gpucompile.ops")


def positive(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a positive integer, found {text!r}")
    return int(text)


def require_file(path: str) -> None:
    """ModelError where there is no such file."""
    if not Path(path).is_file():
        raise ModelError(f"{path}: {'is a directory' if Path(path).is_dir() else 'no such file'}")


def choose_target(args: argparse.Namespace) -> Target:
    """What --target and --device ask for."""
    from gpucompile.target import Target

    if args.target == "portable":
        return Target.portable()
    from gpucompile.runtime.device import Device

    with Device.open(prefer=args.device) as device:
        return Target.of(device.adapter)


def size(count: float) -> str:
    """Bytes for people: `4.9 MB` (decimal units)."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000 or unit == "GB":
            break
    return f"{count:.{max(0, 2 - len(str(int(count))) + 1)}f} {unit}"


def table(rows: Sequence[Sequence[object]], headers: Sequence[str] = (), indent: str = "") -> str:
    """Columns aligned by spaces; numbers to the right."""
    cells = [[str(c) for c in row] for row in rows]
    lines = [list(headers), *cells] if headers else cells
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))] if lines else []
    right = [all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(widths))]
    out = []
    for line in lines:
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)]
        out.append((indent + "  ".join(padded)).rstrip())
    return "\n".join(out)


@contextlib.contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Progress | None]:
    """A progress callback (phase, done, total) that draws bars on stderr; None where nobody watches."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    percent = TextColumn("{task.percentage:3.0f} %")
    columns = (TextColumn("{task.description:12}"), BarColumn(), percent, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def update(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done, total=total)

        yield update
