"""Contractions: in tiles through workgroup memory, or row by row where there are few rows.

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
from gpucompile.kernels.builder import LANE, Function, KernelBuilder
from gpucompile.kernels.kernel import Kernel
from gpucompile.kernels.schedules.base import Problem, Schedule, power_of_two, threads_for
from gpucompile.kernels.schedules.contraction import Contraction, contraction_of, wide
from gpucompile.kernels.view import COMPUTE_TYPE, Storage, View
from gpucompile.ops.contraction import prefers_rows

LANES = Index.var(LANE, 4)


@dataclass(frozen=True)
class Tile:
    """Tile of C (bm x bn), step in k (bk), share of an invocation (tm x tn), groups of invocations that share a step
    (slices), workgroups that share k (splits).

    `rate` is the part of a core's peak the inner loop reaches when nothing else limits it (measured, see
    benchmarks/README.md)."""

    bm: int
    bn: int
    bk: int
    tm: int
    tn: int
    slices: int = 1
    rate: float = 0.5
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
    Tile(128, 64, 16, 8, 8, 1, 0.62),
    Tile(64, 64, 16, 8, 4, 1, 0.52),
    Tile(64, 64, 16, 4, 8, 1, 0.52),
    Tile(64, 64, 16, 8, 8, 1, 0.52),
    Tile(32, 64, 16, 4, 4, 1, 0.42),
    Tile(64, 32, 16, 4, 4, 1, 0.42),
    Tile(32, 32, 16, 4, 4, 1, 0.34),
    Tile(64, 64, 32, 8, 4, 2, 0.52),
    Tile(64, 64, 32, 8, 8, 4, 0.52),
    Tile(32, 32, 64, 8, 4, 8, 0.4),
    Tile(64, 32, 32, 4, 4, 2, 0.42),
    Tile(32, 64, 32, 4, 4, 2, 0.42),
    Tile(32, 32, 32, 4, 4, 4, 0.34),
    Tile(32, 32, 64, 4, 4, 4, 0.34),
    Tile(16, 32, 64, 4, 4, 8, 0.3),
    Tile(32, 16, 64, 4, 4, 8, 0.3),
    Tile(16, 16, 128, 4, 4, 16, 0.25),
)
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


class TiledMatmul(Schedule):
    name = "matmul"

    def match(self, problem: Problem) -> bool:
        return contraction_of(problem.anchor) is not None

    def configs(self, problem: Problem) -> list[Tile]:
        c = contraction_of(problem.anchor)
        assert c is not None
        t = problem.target
        fits = [
            tile
            for tile in TILES
            if tile.threads <= t.limit("max-compute-invocations-per-workgroup")
            and tile.bytes <= t.limit("max-compute-workgroup-storage-size")
        ]
        choices = []
        for tile in fits:
            for splits in SPLITS if not t.cpu else (1,):
                if splits == 1 or c.k >= splits * 2 * tile.bk:
                    choices.append(replace(tile, splits=splits, unroll=not t.cpu))
        return sorted(choices, key=lambda tile: predicted_time(c, tile, t.cores))

    def emit(self, problem: Problem, config: Any) -> list[Kernel]:
        c = contraction_of(problem.anchor)
        assert c is not None
        tile: Tile = config
        k_split = -(-c.k // (tile.splits * tile.bk)) * tile.bk
        splits = -(-c.k // k_split)
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
            store = _store(kernel, c, [("s", 0), ("z", 0), ("m", 0), ("n", 0)], (z, m, n4), edge, 4)
            partials = None
        else:
            partials = _partials(splits, c)
            fn = Function(kernel, "store_c", [("s", 0), ("z", 0), ("m", 0), ("n", 0)])
            fn.params.append("v: vec4<f32>")
            fn.open_guards(edge, 4)
            at = (Index.var("s", splits), z, m, n4)
            fn._write(partials, "v", at, 4, edge)
            kernel.functions.append(fn.text())
            store = "store_c"
        groups = tiles_m * tiles_n * splits * c.batch
        first = kernel.finish(
            "matmul", groups, (tile.threads, 1, 1), tile.bytes,
            load_a=load_a, load_b=load_b, store=store, bm=tile.bm, bn=tile.bn, bk=tile.bk, tm=tile.tm, tn=tile.tn,
            slices=tile.slices, tiles_m=tiles_m, tiles_n=tiles_n, splits=splits, k_split=k_split, k_end=-(-c.k // tile.bk) * tile.bk,
            unroll=tile.unroll,
        )  # fmt: skip
        return [first] if partials is None else [first, _add_partials(problem, c, partials, splits)]


def predicted_time(c: Contraction, tile: Tile, cores: int) -> float:
    """Relative time of a tile: multiply-adds of the busiest core over its rate, plus what starting and ending cost.

    A core with fewer than two workgroups cannot hide its memory latency; a split pays for a second kernel."""
    groups = -(-c.m // tile.bm) * -(-c.n // tile.bn) * c.batch * tile.splits
    k = -(-c.k // (tile.splits * tile.bk)) * tile.bk
    resident = max(1, 512 // tile.threads)  # workgroups a core works on at a time
    waves = math.ceil(groups / (cores * resident))
    busiest = min(resident * waves, math.ceil(groups / cores))
    hidden = min(1.0, 0.35 + 0.65 * busiest / min(resident, 4))
    work = busiest * tile.bm * tile.bn * (k + 2 * tile.bk)
    overhead = 0.0 if tile.splits == 1 else 3.0e5 + 1.0 * tile.splits * c.m * c.n * c.batch / cores * 4
    return work / (tile.rate * hidden) + overhead


class Rows(Schedule):
    """For at most four rows and a B stored as [n, k]: a matrix-vector product, bound by reading B once."""

    name = "rows"

    def match(self, problem: Problem) -> bool:
        c = contraction_of(problem.anchor)
        return c is not None and c.rows and c.batch == 1 and prefers_rows(c.m)

    def configs(self, problem: Problem) -> list[tuple[int, int]]:
        c = contraction_of(problem.anchor)
        assert c is not None
        most = min(128, problem.target.limit("max-compute-invocations-per-workgroup"))
        lanes = power_of_two(-(-c.k // 16), most)
        columns = 4 if c.n >= 4 * 4 * problem.target.cores else 2
        return [(lanes, columns), (lanes, 1), (lanes, 2), (lanes, 4), (max(1, lanes // 2), 4)]

    def emit(self, problem: Problem, config: Any) -> list[Kernel]:
        c = contraction_of(problem.anchor)
        assert c is not None
        lanes, columns = config
        lanes = max(lanes, power_of_two(c.m * columns, 64))  # every sum needs an invocation to store it
        extent = -(-c.k // 4)
        z, m, n = Index(), Index.var("m", c.m), Index.var("n", -(-c.n // columns) * columns)
        k = Index.var("k", extent) * 4 + LANES
        kernel = problem.builder()
        coords, guards = c.a_at(z, m, k)
        load_a = kernel.load("load_a", c.a, [("m", 0), ("k", 0)], coords, 4, ((k, 0, c.k), *guards))
        load_b = kernel.load(
            "load_b", c.b, [("n", 0), ("k", 0)], c.b_at(z, k, n), 4, ((n, 0, c.n), (k, 0, c.k))
        )
        store = _store(kernel, c, [("m", 0), ("n", 0)], (z, m, Index.var("n", c.n)), (), 1)
        return [
            kernel.finish(
                "rows", -(-c.n // columns), (lanes, 1, 1), 4 * c.m * columns * lanes,
                load_a=load_a, load_b=load_b, store=store, rows=c.m, columns=columns, count=c.n, extent=extent,
                lanes=lanes,
            )
        ]  # fmt: skip


def _store(
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
    fn.returns(fn._read(partials, (Index.var("s", splits), z, m, columns), width), wide(COMPUTE_TYPE[DataType.FLOAT32], width))
    kernel.functions.append(fn.text())
    half = c.out.type.dtype is DataType.FLOAT16

    def adjust(fn: Function, v: str, coords: tuple[Index, ...]) -> str:
        v = c.finish(fn, v, coords, width)
        return fn.let(f"{wide('f16', width)}({v})") if half else v

    store = kernel.store("store_c", c.out, [("i", 0)], c.c_at(z, m, columns), width, (), adjust, source="f32")
    threads = threads_for(vectors, problem.target)
    return kernel.finish(
        "partials", -(-vectors // threads), (threads, 1, 1), count=vectors, splits=splits, load="load_p", store=store
    )
