"""The schedules, in order: the first that matches lowers the node."""

from __future__ import annotations

from gpucompile.kernels.schedules.base import Problem, Schedule, find_anchor
from gpucompile.kernels.schedules.map import Map
from gpucompile.kernels.schedules.matmul import TiledMatmul
from gpucompile.kernels.schedules.point import Point
from gpucompile.kernels.schedules.reduce import Reduce, SoftmaxRows
from gpucompile.kernels.schedules.scan import Pick, Scan
from gpucompile.kernels.schedules.vector import Columns, Rows
from gpucompile.kernels.schedules.window import Window

SCHEDULES: tuple[Schedule, ...] = (
    Rows(),
    Columns(),
    TiledMatmul(),
    Window(),
    Reduce(),
    SoftmaxRows(),
    Pick(),
    Scan(),
    Point(),
    Map(),
)

__all__ = ["SCHEDULES", "Problem", "Schedule", "find_anchor"]
