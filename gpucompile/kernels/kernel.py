"""What lowering produces: kernels with their arguments, still without addresses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from gpucompile.kernels.view import Storage

Access = Literal["read", "read_write"]
Runs = tuple[int, int, int, int]  # offset, size, count, stride in bytes, inside the storage


@dataclass(frozen=True)
class Argument:
    """One binding of a kernel: a storage, how it is accessed, which of its bytes are read and written, and the byte
    from which on it is bound."""

    storage: Storage
    access: Access
    reads: tuple[Runs, ...] = ()
    writes: tuple[Runs, ...] = ()
    offset: int = 0


@dataclass(frozen=True)
class Kernel:
    """One dispatch: WGSL text, number of workgroups, arguments in binding order."""

    label: str
    wgsl: str
    grid: tuple[int, int, int]
    workgroup: tuple[int, int, int]
    arguments: tuple[Argument, ...]
    workgroup_bytes: int = 0
    features: tuple[str, ...] = ()


def fold_grid(groups: int, limit: int) -> tuple[int, int, int]:
    """A grid with at least `groups` workgroups whose dimensions stay within `limit`; kernels number their workgroups
    `x + y * grid.x` and ignore numbers from `groups` on."""
    if groups <= limit:
        return groups, 1, 1
    y = math.ceil(groups / limit)
    return math.ceil(groups / y), y, 1
