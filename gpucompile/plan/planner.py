"""From a fused graph to a plan: storages, kernels, lifetimes, addresses.

    graph -> materialize outputs -> assign storages -> arenas -> lower nodes -> lifetimes -> pack arenas -> Plan

The result is plain integers. `verify` proves it before anybody sees it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from gpucompile.errors import GpucompileError, UnsupportedError
from gpucompile.ir.graph import Constant, Graph, Node
from gpucompile.kernels.kernel import Argument, Kernel, Runs
from gpucompile.kernels.lower import label_of, lower
from gpucompile.kernels.schedules import SCHEDULES, Problem
from gpucompile.kernels.view import Storage, View
from gpucompile.ops.movement import Concat, Reshape
from gpucompile.ops.update import UpdateSlice
from gpucompile.plan.arenas import order_and_assign
from gpucompile.plan.memory import Item, distribute, pack
from gpucompile.plan.storage import Assignment, parts_of, update_of, updated_operand, written_in_parts
from gpucompile.plan.weights import Content, Place, WeightStore
from gpucompile.plan.windows import unwrapped, windowed
from gpucompile.runtime.format import Binding, Buffer, Plan, Port, Region, Requires, State, Step
from gpucompile.target import DEFAULT_LIMITS, Target

PLANS = ("memory", "balanced", "overlap")


@dataclass(frozen=True)
class Planned:
    """A plan with the texts and bytes it refers to."""

    plan: Plan
    shaders: dict[str, str]
    shards: tuple[Content, ...]
    seconds: dict[str, float]  # by phase: code generation, planning, packing weights


def make_plan(
    graph: Graph,
    target: Target,
    name: str = "base",
    mode: str = "balanced",
    progress: Callable[[str, int, int], None] | None = None,
    store: WeightStore | None = None,
) -> Planned:
    """Plan a graph. `mode` weighs memory against overlap of parallel branches: memory, balanced or overlap. Plans that
    are given one `store`, made by `weight_store(target)`, share weights; the shards are then all that it holds.

    Changes `graph` only by materializing outputs. Raises UnsupportedError when a node has no kernel on this target."""
    if mode not in PLANS:
        raise GpucompileError(f"unknown plan {mode!r}; known: {', '.join(PLANS)}")
    start = time.perf_counter()
    materialize_outputs(graph)
    assignment = order_and_assign(graph, mode, target)
    planning = time.perf_counter() - start
    start = time.perf_counter()
    kernels = lower_graph(graph, assignment, target, progress)
    lowering = time.perf_counter() - start
    start = time.perf_counter()
    weights = [s for s in dict.fromkeys(a.storage for k in kernels for a in k.arguments) if s.kind == "weight"]
    store = weight_store(target) if store is None else store
    places = store.add([_packed(s) for s in weights])
    packing = time.perf_counter() - start
    start = time.perf_counter()
    plan, shaders = _assemble(graph, assignment, kernels, dict(zip(weights, places, strict=True)), store, name, target)
    planning += time.perf_counter() - start
    return Planned(plan, shaders, tuple(store.shards), {"lower": lowering, "plan": planning, "weights": packing})


def weight_store(target: Target) -> WeightStore:
    """An empty store whose buffers a target can bind."""
    return WeightStore(min(target.limit("max-buffer-size"), target.limit("max-storage-buffer-binding-size")))


def materialize_outputs(graph: Graph) -> None:
    """Give every output a node of its own that computes it: a model input, a constant, or a value returned twice is
    copied."""
    seen = set()
    outputs = {}
    for name, value in zip(graph.output_names, graph.outputs, strict=True):
        if value.producer is None or isinstance(value.producer.op, Constant) or value in seen:
            value = graph.add(Reshape(value.type.shape), value, name=name)
        seen.add(value)
        outputs[name] = value
    graph.set_outputs(outputs)


def lower_graph(
    graph: Graph,
    assignment: Assignment,
    target: Target,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Kernel]:
    """The kernels of all nodes in execution order. Every node that has none is listed before failing."""
    kernels: list[Kernel] = []
    problems: list[str] = []
    total = len(graph)
    for i, node in enumerate(graph.nodes):
        if progress:
            progress("generate", i + 1, total)
        if isinstance(node.op, Constant) or node in assignment.aliases:
            continue
        if not any(v.type.size for v in node.outputs):  # empty outputs of the graph
            continue
        try:
            if isinstance(node.op, Concat) and written_in_parts(node, assignment.views[node.output]):
                kernels += _copies(node, assignment, target)
            else:
                views = windowed((*node.operand_values, *node.outputs), assignment.views)
                kernels += map(unwrapped, lower(node, views, target))
        except UnsupportedError as e:
            if str(e) not in problems:
                problems.append(str(e))
    if problems:
        raise UnsupportedError("\n".join(problems))
    return kernels


def _copies(node: Node, assignment: Assignment, target: Target) -> list[Kernel]:
    """Kernels that copy the operands of a concat which do not lie in the result already."""
    assert isinstance(node.op, Concat)
    parts = parts_of(node, assignment.views[node.output])
    kernels: list[Kernel] = []
    for i in assignment.copies[node]:
        v = node.operand_values[i]
        body = Graph("copy")
        source = body.add_input("in0", v.type)
        result = body.add(Reshape(v.type.shape), source)
        body.set_outputs({"out": result})
        views = windowed((source, result), {source: assignment.views[v], result: parts[i]})
        problem = Problem(f"{label_of(node)}[{i}]", body, views, target)
        kernels += map(unwrapped, SCHEDULES[-1].emit(problem, None))
    return kernels


# ------------------------------------------------------------------------------------------------------ assembling


def _assemble(
    graph: Graph,
    assignment: Assignment,
    kernels: list[Kernel],
    places: Mapping[Storage, Place],
    store: WeightStore,
    name: str,
    target: Target,
) -> tuple[Plan, dict[str, str]]:
    """Addresses for everything, and the plan made of them."""
    first: dict[Storage, int] = {}
    last: dict[Storage, int] = {}
    for i, kernel in enumerate(kernels):
        for a in kernel.arguments:
            first.setdefault(a.storage, i)
            last[a.storage] = i
    buffers: list[Buffer] = []
    where: dict[Storage, tuple[int, int]] = {}  # storage -> buffer, offset
    inputs = tuple(_port(n.name, assignment.views[n], buffers, where) for n in graph.inputs)
    ends = zip(graph.output_names, graph.outputs, strict=True)
    outputs = tuple(_port(n, assignment.views[v], buffers, where) for n, v in ends)
    used = {b: len(buffers) + i for i, b in enumerate(sorted({p.buffer for p in places.values()}))}
    where.update({s: (used[place.buffer], place.offset) for s, place in places.items()})
    buffers += [store.buffers[b] for b in used]
    scratch = [s for s in first if s.kind == "scratch"]
    bound = _pack_scratch(scratch, first, last, buffers, where, target.limit("max-buffer-size"))
    shaders: dict[str, str] = {}
    index: dict[str, int] = {}
    steps = []
    generation: dict[Storage, int] = {}
    numbers: dict[tuple[Storage, int], int] = {}
    for kernel in kernels:
        sha = hashlib.sha256(kernel.wgsl.encode()).hexdigest()
        shaders.setdefault(sha, kernel.wgsl)
        shader = index.setdefault(sha, len(index))
        reads: list[Region] = []
        writes: list[Region] = []
        for a in kernel.arguments:
            reads += _regions(a, a.reads, generation, numbers, where)
            if set(a.reads) & set(a.writes):  # in place: what is written is another value
                generation[a.storage] = generation.get(a.storage, 0) + 1
            writes += _regions(a, a.writes, generation, numbers, where)
        bindings = tuple(_binding(a, where) for a in kernel.arguments)
        steps.append(Step(shader, kernel.grid, bindings, kernel.label, tuple(reads), tuple(writes)))
    needs = _requires(kernels, buffers)
    states = _states(graph, assignment)
    plan = Plan(name, needs, tuple(index), tuple(buffers), tuple(steps), inputs, outputs, states, bound)
    return plan, shaders


def _states(graph: Graph, assignment: Assignment) -> tuple[State, ...]:
    """The outputs that are inputs updated in place."""
    out = []
    for name, v in zip(graph.output_names, graph.outputs, strict=True):
        if assignment.views[v].storage.kind == "state":
            source, update = updated_operand(v.producer), update_of(v.producer)
            assert source is not None and update is not None and isinstance(update.op, UpdateSlice)
            axis = update.op.axis
            out.append(State(source.name, name, axis, update.operand_values[2].type.shape[axis]))
    return tuple(out)


def _binding(a: Argument, where: dict[Storage, tuple[int, int]]) -> Binding:
    buffer, offset = where[a.storage]
    return Binding(buffer, offset + a.offset, _padded(a.storage) - a.offset, a.access)


def _port(name: str, view: View, buffers: list[Buffer], where: dict[Storage, tuple[int, int]]) -> Port:
    if view.storage not in where:  # a state is an input and an output
        where[view.storage] = (len(buffers), 0)
        buffers.append(Buffer(view.storage.kind, _padded(view.storage), name))
    return Port(name, view.type.dtype.value, view.type.shape, where[view.storage][0])


def _pack_scratch(
    storages: list[Storage],
    first: dict[Storage, int],
    last: dict[Storage, int],
    buffers: list[Buffer],
    where: dict[Storage, tuple[int, int]],
    limit: int,
) -> int:
    """Pack every arena into a buffer of its own, or several where it is larger than the `limit` of a buffer; returns
    the sum of their lower bounds in bytes."""
    bound = 0
    for arena in sorted({s.arena for s in storages}):
        members = [s for s in storages if s.arena == arena]
        items = [Item(_padded(s), first[s], last[s]) for s in members]
        shares = [list(range(len(items)))]
        if (packing := pack(items)).total > limit:
            shares = distribute(items, limit)
        for n, share in enumerate(shares):
            packing = packing if len(shares) == 1 else pack([items[i] for i in share])
            for i, offset in zip(share, packing.offsets, strict=True):
                where[members[i]] = (len(buffers), offset)
            buffers.append(Buffer("scratch", packing.total, f"arena{arena}" + (f"_{n}" if n else "")))
            bound += packing.bound
    return bound


def _packed(storage: Storage) -> np.ndarray:
    """The bytes of a weight as the GPU sees them: row-major, little-endian; the store pads them to whole vec4s."""
    array = storage.array
    assert isinstance(array, np.ndarray)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _padded(storage: Storage) -> int:
    """Bytes bound for a storage: a multiple of 16, so that it can be an array of vec4, and never none."""
    return max(16, (storage.nbytes + 15) // 16 * 16)


def _regions(
    a: Argument,
    runs: tuple[Runs, ...],
    generation: dict[Storage, int],
    numbers: dict[tuple[Storage, int], int],
    where: dict[Storage, tuple[int, int]],
) -> list[Region]:
    key = (a.storage, generation.get(a.storage, 0))
    value = numbers.setdefault(key, len(numbers))
    buffer, base = where[a.storage]
    return [Region(buffer, value, base + o, size, count, stride if count > 1 else 0) for o, size, count, stride in runs]


def _requires(kernels: list[Kernel], buffers: list[Buffer]) -> Requires:
    """The features and limits a plan needs; limits that WebGPU guarantees everywhere are left out."""
    needs: dict[str, int] = {}

    def need(limit: str, value: int) -> None:
        needs[limit] = max(needs.get(limit, 0), value)

    for kernel in kernels:
        need("max-storage-buffers-per-shader-stage", len(kernel.arguments))
        need("max-compute-workgroup-storage-size", kernel.workgroup_bytes)
        need("max-compute-invocations-per-workgroup", kernel.workgroup[0] * kernel.workgroup[1] * kernel.workgroup[2])
        for axis, size in zip("xyz", kernel.workgroup, strict=True):
            need(f"max-compute-workgroup-size-{axis}", size)
        for a in kernel.arguments:
            need("max-storage-buffer-binding-size", _padded(a.storage))
    for buffer in buffers:
        need("max-buffer-size", buffer.size)
    features = sorted({f for k in kernels for f in k.features})
    return Requires(tuple(features), {k: v for k, v in sorted(needs.items()) if v > DEFAULT_LIMITS[k]})
