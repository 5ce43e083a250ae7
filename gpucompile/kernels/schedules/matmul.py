"""Contractions in tiles through workgroup memory; `vector` has those of few rows.

Which tile is best depends on the shape and on the device: a large tile reads less memory for each product, a small one
makes enough workgroups to fill the device; where even small tiles do not, k is split over workgroups and a second
kernel adds the parts. `configs` orders the choices by a model of the time they take.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from gpucompile.ir.index import Index
from gpucompile.ir.types import DataType, TensorType
from gpucompile.kernels.builder import KernelBuilder
from gpucompile.kernels.function import LANE, Function
from gpucompile.kernels.kernel import Kernel
from gpucompile.kernels.schedules.base import (
    MAX_ITERATIONS,
    Problem,
    Schedule,
    require_iterations,
    threads_for,
)
from gpucompile.kernels.schedules.contraction import Contraction, contraction_of, wide
from gpucompile.kernels.view import COMPUTE_TYPE, Storage, View

LANES = Index.var(LANE, 4)


@dataclass(frozen=True)
class Tile:
    """Tile of C (bm x bn), step in k (bk), share of an invocation (tm x tn), groups of invocations that share a step
    (slices), workgroups that share k (splits).

    `step_us` is how long one step in k takes a workgroup alone on a core, `resident` how many workgroups a core works
    on before they slow each other down: fitted to measurements, see benchmarks/README.md."""

    bm: int
    bn: int
    bk: int
    tm: int
    tn: int
    slices: int
    step_us: float
    resident: float
    splits: int = 1
    unroll: bool = True

    @property
    def threads(self) -> int:
        return (self.bm // self.tm) * (self.bn // self.tn) * self.slices

    @property
    def bytes(self) -> int:
        """Workgroup memory: both tiles, and later the sums that slices exchange."""
        return max(4 * (self.bm + self.bn) * self.bk, self.slices // 2 * self.bm * self.bn * 4)


TILES = (
    Tile(16, 16, 128, 4, 4, 16, 1.08, 2.0),
    Tile(16, 32, 64, 4, 4, 8, 0.97, 2.2),
    Tile(32, 16, 64, 4, 4, 8, 1.24, 2.35),
    Tile(32, 32, 16, 4, 4, 1, 1.07, 4.9),
    Tile(32, 32, 32, 4, 4, 4, 0.89, 2.0),
    Tile(32, 32, 64, 4, 4, 4, 1.45, 1.87),
    Tile(32, 32, 64, 8, 4, 8, 1.46, 1.68),
    Tile(32, 64, 16, 4, 4, 1, 0.82, 2.1),
    Tile(32, 64, 32, 4, 4, 2, 1.21, 1.67),
    Tile(64, 32, 16, 4, 4, 1, 1.10, 2.7),
    Tile(64, 32, 32, 4, 4, 2, 1.34, 1.78),
    Tile(64, 64, 16, 4, 8, 1, 1.28, 1.94),
    Tile(64, 64, 16, 8, 4, 1, 1.27, 1.92),
    Tile(64, 64, 16, 8, 8, 1, 2.00, 3.0),
    Tile(64, 64, 32, 8, 4, 2, 1.81, 1.34),
    Tile(128, 64, 16, 8, 8, 1, 1.99, 1.54),
    # more than WebGPU's default 16 KiB of workgroup memory
    Tile(32, 64, 64, 4, 4, 2, 1.84, 1.34),
    Tile(32, 64, 64, 4, 4, 4, 1.76, 1.32),
    Tile(16, 32, 128, 4, 4, 8, 1.34, 1.67),
    Tile(64, 64, 64, 8, 4, 2, 2.80, 1.05),
    Tile(128, 64, 32, 8, 8, 2, 2.94, 1.03),
)
SPLITS = (2, 3, 4, 6, 8, 12, 16, 24)
SPLIT_GAIN = 0.9  # a split is taken when it is predicted to take less than this part of the time


class TiledMatmul(Schedule):
    name = "matmul"

    def match(self, problem: Problem) -> bool:
        return contraction_of(problem.anchor) is not None

    def configs(self, problem: Problem) -> list[Tile]:
        c = contraction_of(problem.anchor)
        assert c is not None
        t = problem.target
        fits = [
            replace(tile, unroll=not t.cpu)
            for tile in TILES
            if tile.threads <= t.limit("max-compute-invocations-per-workgroup")
            and tile.bytes <= t.limit("max-compute-workgroup-storage-size")
        ]
        if t.cpu:
            serial = [tile for tile in fits if tile.slices == 1]
            few = _bounded(c, serial) or _bounded(c, [replace(tile, splits=s) for tile in serial for s in SPLITS])
            return sorted(few or serial, key=lambda tile: (tile.splits, serial_time(c, tile)))
        whole = sorted(fits, key=lambda tile: predicted_us(c, tile, t.cores))
        split = [replace(tile, splits=s) for tile in fits for s in SPLITS if c.k >= s * 2 * tile.bk]
        split.sort(key=lambda tile: predicted_us(c, tile, t.cores))
        # a second kernel and its memory must be worth it
        worth = bool(split) and predicted_us(c, split[0], t.cores) < SPLIT_GAIN * predicted_us(c, whole[0], t.cores)
        choices = split + whole if worth else whole + split
        return _bounded(c, choices) or choices

    def emit(self, problem: Problem, config: Any) -> list[Kernel]:
        c = contraction_of(problem.anchor)
        assert c is not None
        tile: Tile = config
        k_split = -(-c.k // (tile.splits * tile.bk)) * tile.bk
        splits = -(-c.k // k_split)
        require_iterations(problem, k_split // tile.bk)
        tiles_m, tiles_n = -(-c.m // tile.bm), -(-c.n // tile.bn)
        kernel = problem.builder()
        z, m = Index.var("z", c.batch), Index.var("m", tiles_m * tile.bm)
        k4 = Index.var("k", splits * k_split // 4) * 4 + LANES
        coords, guards = c.a_at(z, m, k4)
        load_a = kernel.load(
            "load_a", c.a, [("z", 0), ("m", 0), ("k", 0)], coords, 4, ((m, 0, c.m), (k4, 0, c.k), *guards)
        )
        k, n4 = Index.var("k", splits * k_split), Index.var("n", tiles_n * tile.bn // 4) * 4 + LANES
        load_b = kernel.load(
            "load_b", c.b, [("z", 0), ("k", 0), ("n", 0)], c.b_at(z, k, n4), 4, ((k, 0, c.k), (n4, 0, c.n))
        )
        edge = ((m, 0, c.m), (n4, 0, c.n))
        if splits == 1:
            store = store_result(kernel, c, [("s", 0), ("z", 0), ("m", 0), ("n", 0)], (z, m, n4), edge, 4)
            partials = None
        else:
            partials = _partials(splits, c)
            fn = Function(kernel, "store_c", [("s", 0), ("z", 0), ("m", 0), ("n", 0)])
            fn.params.append("v: vec4<f32>")
            fn.open_guards(edge, 4)
            at = (Index.var("s", splits), z, m, n4)
            fn.write(partials, "v", at, 4, edge)
            kernel.functions.append(fn.text())
            store = "store_c"
        groups = tiles_m * tiles_n * splits * c.batch
        first = kernel.finish(
            "matmul", groups, (tile.threads, 1, 1), tile.bytes,
            load_a=load_a, load_b=load_b, store=store, bm=tile.bm, bn=tile.bn, bk=tile.bk, tm=tile.tm, tn=tile.tn,
            slices=tile.slices, tiles_m=tiles_m, tiles_n=tiles_n, splits=splits, k_split=k_split,
            k_end=-(-c.k // tile.bk) * tile.bk, unroll=tile.unroll,
        )  # fmt: skip
        return [first] if partials is None else [first, _add_partials(problem, c, partials, splits)]


def _bounded(c: Contraction, tiles: list[Tile]) -> list[Tile]:
    """Those whose invocations loop no more often than every adapter lets them."""
    return [tile for tile in tiles if -(-c.k // (tile.splits * tile.bk)) <= MAX_ITERATIONS]


def predicted_us(c: Contraction, tile: Tile, cores: int) -> float:
    """Microseconds by a model fitted to an H200: launch, steps in k (slower when a core holds many workgroups), and for
    a split the second kernel with its traffic."""
    steps = -(-c.k // (tile.splits * tile.bk))
    groups = -(-c.m // tile.bm) * -(-c.n // tile.bn) * c.batch * tile.splits
    crowding = math.pow(1 + (groups / cores / tile.resident) ** 3, 1 / 3)
    time = 5.9 + (steps + 2) * tile.step_us * crowding
    return time if tile.splits == 1 else time + 2.0 + 0.01e-6 * tile.splits * c.batch * c.m * c.n


def serial_time(c: Contraction, tile: Tile) -> float:
    """Relative time where the invocations of a workgroup run one after the other: multiply-adds of the padded problem,
    and workgroup memory read for them."""
    padded = -(-c.m // tile.bm) * tile.bm * -(-c.n // tile.bn) * tile.bn * -(-c.k // tile.bk) * tile.bk
    return padded * (1.0 + 2.0 * (1 / tile.tm + 1 / tile.tn) + 2.0 * (1 / tile.bm + 1 / tile.bn))


def store_result(
    kernel: KernelBuilder,
    c: Contraction,
    params: list[tuple[str, int]],
    at: tuple[Index, Index, Index],
    guards: tuple[tuple[Index, int, int], ...],
    width: int,
) -> str:
    half = c.out.type.dtype is DataType.FLOAT16

    def adjust(fn: Function, v: str, coords: tuple[Index, ...]) -> str:
        v = c.finish(fn, v, coords, width)
        return fn.let(f"{wide('f16', width)}({v})") if half else v

    return kernel.store("store_c", c.out, params, c.c_at(*at), width, guards, adjust, source="f32")


def _partials(splits: int, c: Contraction) -> View:
    """Scratch for the partial sums, [splits, batch, m, n] in float32."""
    type = TensorType(DataType.FLOAT32, (splits, c.batch, c.m, c.n))
    return View.whole(Storage("scratch", type.nbytes, "partials"), type)


def _add_partials(problem: Problem, c: Contraction, partials: View, splits: int) -> Kernel:
    kernel = problem.builder("+")
    width = 4 if c.n % 4 == 0 else 1
    vectors = c.batch * c.m * c.n // width
    i = Index.var("i", vectors)
    rows, columns = i // (c.n // width), i % (c.n // width) * width
    if width == 4:
        columns = columns + LANES
    z, m = rows // c.m, rows % c.m
    fn = Function(kernel, "load_p", [("s", 0), ("i", 0)])
    fn.returns(
        fn.read(partials, (Index.var("s", splits), z, m, columns), width), wide(COMPUTE_TYPE[DataType.FLOAT32], width)
    )
    kernel.functions.append(fn.text())
    store = store_result(kernel, c, [("i", 0)], (z, m, columns), (), width)
    threads = threads_for(vectors, problem.target)
    return kernel.finish(
        "partials", -(-vectors // threads), (threads, 1, 1), count=vectors, splits=splits, load="load_p", store=store
    )
