"""One invocation computes one result, or four neighbours, from places that are known only when it runs.

Positions are computed into a WGSL name, which stands in index expressions as a variable of known extent.
"""

from __future__ import annotations

from typing import Any

from gpucompile.ir.graph import Node, Value
from gpucompile.ir.index import Index, delinearize
from gpucompile.ir.types import DataType
from gpucompile.kernels.builder import KernelBuilder
from gpucompile.kernels.function import LANE, Function
from gpucompile.kernels.kernel import Kernel
from gpucompile.kernels.schedules.base import Problem, Schedule, threads_for
from gpucompile.kernels.schedules.map import numbered
from gpucompile.kernels.view import COMPUTE_TYPE
from gpucompile.ops.formula import prefix
from gpucompile.ops.gather import Gather, GatherElements, GatherNd, Indexed, Scatter, ScatterElements
from gpucompile.ops.resample import Resample2d
from gpucompile.ops.update import UpdateSlice

Coords = tuple[Index, ...]


class Point(Schedule):
    name = "point"

    def match(self, problem: Problem) -> bool:
        return problem.anchor is not None and isinstance(problem.anchor.op, (Indexed, Resample2d))

    def emit(self, problem: Problem, config: Any) -> list[Kernel]:
        node = problem.anchor
        assert node is not None
        if isinstance(node.op, UpdateSlice):
            written, source = problem.views[problem.result], problem.views.get(node.operand_values[0])
            in_place = source is not None and source.same_place(written)
            return [*([] if in_place else [self._copy(problem, node)]), _update_slice(problem, node, in_place)]
        if isinstance(node.op, Scatter):
            return [self._copy(problem, node), self._update(problem, node)]
        kernel = problem.builder()

        def one(fn: Function, coords: Coords, width: int) -> str:
            if isinstance(node.op, Resample2d):
                return resample(fn, node, node.op, coords, width)
            x, indices = node.operand_values
            return fn.value(x, source_coords(fn, node, x, indices, coords), width)

        return [every_result(kernel, problem, node.output, one, free_axes(node))]

    def _copy(self, problem: Problem, node: Node) -> Kernel:
        source = node.operand_values[0]

        def one(fn: Function, coords: Coords, width: int) -> str:
            return fn.value(source, coords, width)

        return every_result(problem.builder(" copy"), problem, node.output, one, len(node.output.type.shape))

    def _update(self, problem: Problem, node: Node) -> Kernel:
        x, indices, updates = node.operand_values
        kernel = problem.builder(" update")
        count = updates.type.size
        fn = Function(kernel, "apply", [("i", count)])
        coords = delinearize(Index.var("i", count), updates.type.shape)
        value = fn.value(updates, coords, 1)
        if isinstance(node.op, ScatterElements):
            at = list(coords)
            at[node.op.axis] = position(fn, indices, coords, x.type.shape[node.op.axis])
        else:
            depth, lead = indices.type.shape[-1], indices.type.rank - 1
            at = [position(fn, indices, (*coords[:lead], Index.of(k)), x.type.shape[k]) for k in range(depth)]
            at += coords[lead:]
        fn.finish_chain(node.output, value, tuple(at), 1, ())
        kernel.functions.append(fn.text())
        return finish(kernel, problem, count)


def _update_slice(problem: Problem, node: Node, in_place: bool) -> Kernel:
    """Write a slice into what holds the rest already: a copy, or, in place, the operand itself."""
    op, (x, start, updates) = node.op, node.operand_values
    assert isinstance(op, UpdateSlice)
    shape = updates.type.shape
    width = 4 if op.whole_words(updates.type) and updates.type.dtype.bits < 64 else 1
    count = updates.type.size // width
    kernel = problem.builder(" update")
    fn = Function(kernel, "apply", [("i", count)])
    coords = numbered(count, shape, width)
    first = position(fn, start, coords[: start.type.rank], op.places(x.type, updates.type))
    value = fn.value(updates, coords, width)
    place = coords[op.axis] + first
    if op.circular:
        place = place % x.type.shape[op.axis]
    fn.finish_chain(node.output, value, (*coords[: op.axis], place, *coords[op.axis + 1 :]), width, ())
    kernel.functions.append(fn.text())
    if in_place:
        kernel.keep(problem.views[problem.result])
    return finish(kernel, problem, count)


def free_axes(node: Node) -> int:
    """How many last axes of the result are last axes of the input too, whatever the indices say."""
    op = node.op
    if isinstance(op, Resample2d):
        return 3 - max(op.axes)
    x, indices = node.operand_values[:2]
    if isinstance(op, Gather):
        return x.type.rank - op.axis - 1
    if isinstance(op, GatherNd):
        return x.type.rank - indices.type.shape[-1]
    return 0


def source_coords(fn: Function, node: Node, x: Value, indices: Value, coords: Coords) -> Coords:
    """Where in `x` the result at `coords` comes from."""
    op, shape = node.op, x.type.shape
    if isinstance(op, Gather):
        rank = indices.type.rank
        at = position(fn, indices, coords[op.axis : op.axis + rank], shape[op.axis])
        return (*coords[: op.axis], at, *coords[op.axis + rank :])
    if isinstance(op, GatherElements):
        at = position(fn, indices, coords, shape[op.axis])
        return (*coords[: op.axis], at, *coords[op.axis + 1 :])
    lead, depth = indices.type.rank - 1, indices.type.shape[-1]
    tuples = [position(fn, indices, (*coords[:lead], Index.of(k)), shape[k]) for k in range(depth)]
    return (*tuples, *coords[lead:])


def position(fn: Function, indices: Value, coords: Coords, extent: int) -> Index:
    """The index at `coords` as a position in an axis of `extent`: never outside."""
    i = fn.value(indices, coords, 1)
    if indices.type.dtype.bits == 64:
        i = fn.let(f"{prefix(COMPUTE_TYPE[indices.type.dtype])}_place({i}, {extent}u)")
    elif COMPUTE_TYPE[indices.type.dtype] == "i32":
        i = fn.let(f"u32(clamp(select({i}, {i} + {extent}i, {i} < 0i), 0i, {extent - 1}i))")
    else:
        i = fn.let(f"min({i}, {extent - 1}u)")
    return Index.var(i, extent)


def resample(fn: Function, node: Node, op: Resample2d, coords: Coords, width: int) -> str:
    """The result at `coords`. Positions are whole numbers over 2 * size, so that nothing is rounded."""
    (x,) = node.operand_values
    dtype = x.type.dtype
    resized = [a for a in op.axes if node.output.type.shape[a] != x.type.shape[a]]
    if op.mode == "nearest-neighbor":
        where = list(coords)
        for a in resized:
            size, extent = node.output.type.shape[a], x.type.shape[a]
            where[a] = ((coords[a] * 2 + 1) * extent - 1) // (2 * size)
        return fn.value(x, tuple(where), width)
    wide = "f32" if width == 1 else "vec4<f32>"
    neighbours = {a: _neighbours(fn, coords[a], x.type.shape[a], node.output.type.shape[a]) for a in resized}

    def blend(axes: list[int], at: Coords) -> str:
        if not axes:
            return fn.let(f"{wide}({fn.value(x, at, width)})")
        a, *rest = axes
        below, above, part, touches = neighbours[a]
        low, high = (blend(rest, (*at[:a], index, *at[a + 1 :])) for index in (below, above))
        mixed = f"{low} * (1.0 - {part}) + {high} * {part}"
        return fn.let(f"select({mixed}, {low}, {part} == 0.0)" if touches else mixed)  # 0 * inf would be NaN

    total = blend(resized, coords)
    if dtype is DataType.FLOAT32:
        return total
    narrow = COMPUTE_TYPE[dtype] if width == 1 else f"vec4<{COMPUTE_TYPE[dtype]}>"
    return fn.let(f"{narrow}({total if dtype.is_float else f'round({total})'})")


def _neighbours(fn: Function, i: Index, extent: int, size: int) -> tuple[Index, Index, str, bool]:
    """Element `i` of `size` lies between two of `extent`: both, the second one's weight, and whether that may be 0."""
    at = (i * 2 + 1) * extent
    high = (at + size) // (2 * size)  # one more than the lower neighbour, which may be -1
    part = fn.let(f"f32({((at + size) % (2 * size)).wgsl()}) / {2 * size}.0")
    low = Index.var(fn.let(f"max({high.wgsl()}, 1u) - 1u"), extent)
    top = Index.var(fn.let(f"min({high.wgsl()}, {extent - 1}u)"), extent)
    return low, top, part, any(((2 * j + 1) * extent + size) % (2 * size) == 0 for j in range(size))


def every_result(kernel: KernelBuilder, problem: Problem, value: Value, one: Any, free: int) -> Kernel:
    """A kernel that computes `value` by `one(function, coordinates, width)`. Its last `free` axes may be read in
    vectors; where there are none, vectors are made of four single elements."""
    shape, size = value.type.shape, value.type.size
    end = problem.result.type.dtype
    vector = free > 0 and shape[-1] % 4 == 0 and not after_64_bits(value, problem)
    width = 4 if vector or kernel.packed(end) else 1
    count = -(-size // width)
    ends_alone = False
    fn = Function(kernel, "apply", [("i", count)])
    if width == 4:
        coords = delinearize(Index.var("i", count) * 4 + Index.var(LANE, 4), shape)
    else:
        coords = delinearize(Index.var("i", count), shape)
    if vector or width == 1:
        result = one(fn, coords, width)
    else:
        lanes, ends_alone = [], bool(size % 4) or after_64_bits(value, problem)
        for lane in range(4):
            at = fn.let(f"min({(Index.var('i', count) * 4 + lane).wgsl()}, {size - 1}u)")
            where = delinearize(Index.var(at, size), shape)
            lanes.append(one(fn, where, 1))
            if ends_alone:
                fn.remember(value, where, 1, lanes[-1])
                lanes[-1] = fn.value(problem.result, where, 1)
        vector_type = kernel.type_of(end if ends_alone else value.type.dtype, 4)
        result = fn.let(f"{vector_type}({', '.join(lanes)})")
    if not ends_alone:
        fn.finish_chain(value, result, coords, width, ())
    else:  # 8-bit results hang over the end; storages are padded
        fn.line(kernel.write(problem.views[problem.result], Index.var("i", count) * 4, 4, result))
    kernel.functions.append(fn.text())
    return finish(kernel, problem, count)


def after_64_bits(value: Value, problem: Problem) -> bool:
    """Whether it is a 64-bit integer, or becomes one on the way to the result."""
    while value.type.dtype.bits != 64:
        if value is problem.result:
            return False
        (node,) = value.users
        value = node.output
    return True


def finish(kernel: KernelBuilder, problem: Problem, count: int) -> Kernel:
    threads = threads_for(count, problem.target)
    return kernel.finish("map", -(-count // threads), (threads, 1, 1), apply="apply", count=count)
