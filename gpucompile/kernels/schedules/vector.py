"""Contractions of at most four rows: matrix-vector products, bound by reading B once.

    Rows      B's elements along k are neighbours: invocations share k, a workgroup computes a few columns
    Columns   B's elements along n are neighbours: invocations share n in vectors, and k in slices

So a decoder's step multiplies by its weights (which the layout pass stores as rows), and one query by the keys (rows)
and values (columns) of a cache.
"""

from __future__ import annotations

from typing import Any

from gpucompile.ir.graph import Value
from gpucompile.ir.index import Index
from gpucompile.kernels.function import never, split_lane
from gpucompile.kernels.kernel import Kernel
from gpucompile.kernels.schedules.base import Problem, Schedule, power_of_two, require_iterations
from gpucompile.kernels.schedules.contraction import Contraction, contraction_of
from gpucompile.kernels.schedules.matmul import LANES, store_result
from gpucompile.ops.categories import Elementwise, Movement
from gpucompile.ops.contraction import prefers_rows


class Rows(Schedule):
    """For at most four rows and a B stored as [n, k]."""

    name = "rows"

    def match(self, problem: Problem) -> bool:
        c = contraction_of(problem.anchor)
        return c is not None and prefers_rows(c.m) and (c.rows or lies_along(problem, c, "k"))

    def configs(self, problem: Problem) -> list[tuple[int, int]]:
        c = contraction_of(problem.anchor)
        assert c is not None
        most = min(128, problem.target.limit("max-compute-invocations-per-workgroup"))
        lanes = power_of_two(-(-c.k // 16), most)
        columns = 4 if c.batch * c.n >= 4 * 4 * problem.target.cores else 2
        return [(lanes, columns), (lanes, 1), (lanes, 2), (lanes, 4), (max(1, lanes // 2), 4)]

    def emit(self, problem: Problem, config: Any) -> list[Kernel]:
        c = contraction_of(problem.anchor)
        assert c is not None
        lanes, columns = config
        lanes = max(lanes, power_of_two(c.m * columns, 64))  # every sum needs an invocation to store it
        extent = -(-c.k // 4)
        require_iterations(problem, -(-extent // lanes))
        z, m, n = Index.var("z", c.batch), Index.var("m", c.m), Index.var("n", -(-c.n // columns) * columns)
        k = Index.var("k", extent) * 4 + LANES
        kernel = problem.builder()
        coords, guards = c.a_at(z, m, k)
        load_a = kernel.load("load_a", c.a, [("z", 0), ("m", 0), ("k", 0)], coords, 4, ((k, 0, c.k), *guards))
        where = ((n, 0, c.n), (k, 0, c.k))
        load_b = kernel.load("load_b", c.b, [("z", 0), ("n", 0), ("k", 0)], c.b_at(z, k, n), 4, where)
        store = store_result(kernel, c, [("z", 0), ("m", 0), ("n", 0)], (z, m, Index.var("n", c.n)), (), 1)
        tiles = -(-c.n // columns)
        return [
            kernel.finish(
                "rows", tiles * c.batch, (lanes, 1, 1), 4 * c.m * columns * lanes,
                load_a=load_a, load_b=load_b, store=store, rows=c.m, columns=columns, count=c.n, extent=extent,
                lanes=lanes, tiles=tiles, batch=c.batch,
            )
        ]  # fmt: skip


class Columns(Schedule):
    """For at most four rows and a B stored as [k, n]."""

    name = "columns"

    def match(self, problem: Problem) -> bool:
        c = contraction_of(problem.anchor)
        return c is not None and prefers_rows(c.m) and lies_along(problem, c, "n")

    def configs(self, problem: Problem) -> list[tuple[int, int]]:
        """(vectors of columns, slices of k) that a workgroup has."""
        c = contraction_of(problem.anchor)
        assert c is not None
        most = min(256, problem.target.limit("max-compute-invocations-per-workgroup"))
        # enough workgroups for all cores, then as many slices as there is work for
        wide = [v for v in (16, 8, 4, 2) if c.batch * -(-c.n // (4 * v)) >= problem.target.cores] or [2]
        vectors = min(wide[0], power_of_two(-(-c.n // 4), 16))
        slices = power_of_two(-(-c.k // 4), most // vectors)
        while 16 * c.m * vectors * slices > problem.target.limit("max-compute-workgroup-storage-size"):
            slices //= 2
        return [(vectors, slices), *((v, power_of_two(-(-c.k // 4), 64 // v)) for v in (16, 8, 4, 2) if v <= c.n)]

    def emit(self, problem: Problem, config: Any) -> list[Kernel]:
        c = contraction_of(problem.anchor)
        assert c is not None
        vectors, slices = config
        require_iterations(problem, -(-c.k // slices))
        tiles = -(-c.n // (4 * vectors))
        z, m, k = Index.var("z", c.batch), Index.var("m", c.m), Index.var("k", c.k)
        n = Index.var("n", tiles * vectors) * 4 + LANES
        kernel = problem.builder()
        coords, guards = c.a_at(z, m, k)
        load_a = kernel.load("load_a", c.a, [("z", 0), ("m", 0), ("k", 0)], coords, 1, guards)
        edge = ((n, 0, c.n),)
        load_b = kernel.load("load_b", c.b, [("z", 0), ("k", 0), ("n", 0)], c.b_at(z, k, n), 4, edge)
        store = store_result(kernel, c, [("z", 0), ("m", 0), ("n", 0)], (z, m, n), edge, 4)
        return [
            kernel.finish(
                "columns", tiles * c.batch, (vectors * slices, 1, 1), 16 * c.m * vectors * slices,
                load_a=load_a, load_b=load_b, store=store, rows=c.m, vectors=vectors, slices=slices, extent=c.k,
                tiles=tiles, batch=c.batch,
            )
        ]  # fmt: skip


def lies_along(problem: Problem, c: Contraction, axis: str) -> bool:
    """Whether elements of B that follow each other along `axis` (k or n) are neighbours in memory."""
    z, k, n = Index.var("z", c.batch), Index.var("k", c.k), Index.var("n", c.n)
    if axis == "k":
        k = Index.var("k", -(-c.k // 4)) * 4 + LANES
    else:
        n = Index.var("n", -(-c.n // 4)) * 4 + LANES
    return _step(problem, c.b, c.b_at(z, k, n)) == 1


def _step(problem: Problem, value: Value, coords: tuple[Index, ...]) -> int | None:
    """By how many elements the lanes of a vector lie apart where they are read; None where that is not regular."""
    coords = tuple(Index() if d == 1 else c for c, d in zip(coords, value.type.shape, strict=True))
    node = value.producer
    if node is None:
        return split_lane(problem.views[value].position(coords))[1]
    if isinstance(node.op, Movement):
        types = [v.type for v in node.operand_values]
        pieces = node.op.pieces(types, node.output.type, coords)
        steps = {_step(problem, node.operand_values[p.operand], p.coords) for p in pieces if not never(p.guards)}
        return steps.pop() if len(steps) == 1 else None
    if isinstance(node.op, Elementwise):
        largest = max(node.operand_values, key=lambda v: v.type.size)
        return _step(problem, largest, coords[len(coords) - largest.type.rank :])
    return None
