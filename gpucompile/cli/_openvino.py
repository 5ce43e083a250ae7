"""What subcommands share about NPU and CPU: which devices are meant, and OpenVINO's options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpucompile.cli._common import positive

if TYPE_CHECKING:
    from gpucompile.runtime.openvino import OpenvinoOptions

from gpucompile.errors import InputError

KINDS = ("gpu", "npu", "cpu")


def add_options(parser: Any) -> None:
    """--cache-dir --threads --inference-precision."""
    group = parser.add_argument_group("NPU and CPU")
    group.add_argument("--cache-dir", metavar="DIR", type=Path, help="keep what OpenVINO compiles in this folder")
    group.add_argument("--threads", metavar="N", type=positive, help="of the CPU (default: as many as OpenVINO takes)")
    group.add_argument(
        "--inference-precision",
        choices=("f32", "bf16", "f16"),
        default="f32",
        help="in what the CPU computes float32 (default: %(default)s)",
    )


def options_of(args: argparse.Namespace) -> OpenvinoOptions:
    """What those options say."""
    from gpucompile.runtime.openvino import OpenvinoOptions

    return OpenvinoOptions(args.inference_precision, args.threads, cache_dir=args.cache_dir)


def kinds_of(device: str | None) -> tuple[str, ...]:
    """The kinds of device in a --device option such as `gpu,cpu`; empty where it names an adapter. InputError for a
    list with anything else in it."""
    kinds = tuple(dict.fromkeys((device or "").split(",")))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown and set(kinds) & set(KINDS):
        raise InputError(f"--device {device}: {unknown[0]!r} is none of {', '.join(KINDS)}")
    return () if unknown else kinds


def compiled_for(device: str) -> tuple[str, ...]:
    """What a model that `run` gets is compiled for: all that is here for `auto` and `first`."""
    from gpucompile.runtime.choose import ORDER
    from gpucompile.runtime.openvino import list_devices

    here = {"gpu", *(d.kind for d in list_devices())}
    return tuple(k for k in ORDER if k in here) if device in ("auto", "first") else kinds_of(device)
