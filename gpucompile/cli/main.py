"""The command line: `gpucompile COMMAND ...`.

Every module of this package with a NAME is a subcommand; it gives HELP, `add_arguments(parser)` and
`run(args) -> exit code`. Heavy imports stay inside `run`, so that `--help` comes at once.

Exit codes: 0 done; 2 wrong usage or an error of gpucompile, one line on stderr (and one for each thing that a model
has and gpucompile lacks); 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType

from gpucompile.errors import GpucompileError, PrecisionWarning, UnsupportedError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. `argv` defaults to the process's arguments."""
    args = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", PrecisionWarning)
            warnings.showwarning = _warning  # type: ignore[assignment]  # of all it gets it needs the first
            code: int = args.run(args)
        sys.stdout.flush()
        return code
    except GpucompileError as e:
        return _error(str(e), isinstance(e, UnsupportedError))
    except BrokenPipeError:  # the reader of our output has gone, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as e:
        return _error(f"{e.filename}: {e.strerror}" if e.filename and e.strerror else str(e))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def commands() -> dict[str, ModuleType]:
    """Name -> module of every subcommand, found by scanning this package."""
    folder = str(Path(__file__).parent)
    found = {}
    for info in pkgutil.iter_modules([folder]):
        if info.name != "main" and not info.name.startswith("_"):
            module = importlib.import_module(f"gpucompile.cli.{info.name}")
            found[module.NAME] = module
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpucompile",
        description="Compile neural networks to WebGPU shaders, run them, and look inside.",
        epilog="`gpucompile COMMAND --help` describes a command.",
    )
    parser.add_argument("--version", action="version", version=f"gpucompile {_version()}")
    sub = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, module in commands().items():
        p = sub.add_parser(
            name, help=module.HELP, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(p)
        p.set_defaults(run=module.run)
    return parser


def _version() -> str:
    try:
        return metadata.version("gpucompile")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "(not installed)"


def _warning(message: Warning | str, *where: object) -> None:
    print(f"gpucompile: warning: {message}", file=sys.stderr)


def _error(text: str, listed: bool = False) -> int:
    lines = [" ".join(line.split()) for line in (text.splitlines() if listed else [text])]
    print("\n  ".join(["gpucompile: error: " + lines[0], *lines[1:]]), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
