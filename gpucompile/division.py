"""Cutting a model between devices: NPU and CPU through OpenVINO, and the GPU.

    graph, devices in order of preference --who takes which node--> segments --compile--> a bundle per part

Every node goes to the device that the caller assigns it to, else to the first of `devices` that takes it: for OpenVINO
as its rules say once its pipeline has run, for the GPU if there is a kernel. The whole graph is tried first, single
nodes only where that is refused. Where a part is refused although its nodes are not, these go to the next device.

Values cross between parts through host memory, which `runtime/partitioned.py` does and `runtime/parts.py` counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from gpucompile.backends.openvino import compile as openvino
from gpucompile.compiler import Clock, Options, Source, import_model, source_hash
from gpucompile.errors import InputError, UnsupportedError
from gpucompile.fallback import compile_part_on_gpu
from gpucompile.frontends.onnx.importer import import_partitioned
from gpucompile.frontends.onnx.partition import DevicePart, Kind, Partition
from gpucompile.ir.graph import Constant, Graph, Node, Value
from gpucompile.ir.partition import Segment, cut, extract
from gpucompile.ir.text import print_graph
from gpucompile.passmanager.base import Context
from gpucompile.passmanager.manager import PassManager
from gpucompile.plan.backends import DeviceAndHosts, EachTried
from gpucompile.plan.bundle import Bundle, Report
from gpucompile.plan.partitioned import DeviceModel, PartitionedBundle, assemble
from gpucompile.precision import convert
from gpucompile.runtime.format import HostNode
from gpucompile.runtime.openvino import openvino_module
from gpucompile.target import Target

#: Who takes a node: names of ops or of values, or a function of the node; None leaves it to the order of devices.
Assignment: TypeAlias = "Mapping[str, str] | Callable[[Node], str | None]"

#: Before nodes are asked: what is constant is no node.
_FOLD = "fold-constants{max_widened=0},dce"


def compile_divided(
    model: Source | Graph, dims: Mapping[str, int], options: Options, assignment: Assignment | bool, hosts: bool
) -> PartitionedBundle:
    """`gpucompile.compile` with `partition`. `hosts` says whether nodes that no device takes are left to what runs ONNX
    here."""
    clock = Clock()
    divider = _Divider(options, {} if isinstance(assignment, bool) else assignment)
    found: Graph | Partition
    if isinstance(model, Graph):
        found = model.clone()
    elif hosts:
        found = import_partitioned(model, _Backends(options.target, divider), dims, options.constants)
    else:
        found = import_model(model, dims, options.constants)
    clock.lap("import")
    partition = found if isinstance(found, Partition) else whole(found)
    divider.check_names(part.graph for part in partition.parts if isinstance(part, DevicePart))
    if not partition.parts:
        raise InputError("partition: every output of the model is an input, so that there is nothing to cut")
    divider.names |= set(partition.kinds)
    return assemble(partition, divider.divide, source_hash(model), dims, clock.seconds)


def whole(graph: Graph) -> Partition:
    """A graph as one part, each of whose results has one name that no input has."""
    kinds = {v.name: Kind(v.type.dtype.value, v.type.shape) for v in graph.inputs}
    names: dict[Value, str] = {v: v.name for v in graph.inputs}
    results: dict[str, Value] = {}
    for name, v in zip(graph.output_names, graph.outputs, strict=True):
        if v not in names:
            names[v] = _fresh(name, kinds)
            kinds[names[v]] = Kind(v.type.dtype.value, v.type.shape)
            results[names[v]] = v
    outputs = {name: names[v] for name, v in zip(graph.output_names, graph.outputs, strict=True)}
    graph.set_outputs(results)
    inputs = tuple(v.name for v in graph.inputs)
    return Partition(graph.name, (DevicePart(graph),) if results else (), inputs, outputs, kinds)


def _fresh(wish: str, taken: Mapping[str, object] | set[str]) -> str:
    name, n = wish, 1
    while name in taken:
        n += 1
        name = f"{wish}.{n}"
    return name


# Who takes what ------------------------------------------------------------------------------------------------------


@dataclass
class _Divider:
    """Cuts the device parts of one model."""

    options: Options
    assignment: Assignment
    refused: dict[tuple[Node, str], str] = field(default_factory=dict)
    tried: dict[object, str | None] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)  # of all values that cross
    each: bool = False  # whether single nodes are compiled for the GPU to see if it takes them

    def __post_init__(self) -> None:
        if set(self.options.devices) != {"gpu"}:
            openvino_module()  # where it is missing no node is to blame
        if isinstance(self.assignment, Mapping):
            for name, kind in self.assignment.items():
                self._check_kind(kind, name)

    def check_names(self, graphs: Iterable[Graph]) -> None:
        """InputError where an assignment names what is in no graph."""
        if isinstance(self.assignment, Mapping):
            nodes = [node for graph in graphs for node in graph.nodes if not isinstance(node.op, Constant)]
            names = {name for node in nodes for name in _names(node)}
            for name in self.assignment:
                if name not in names:
                    ops = ", ".join(sorted({node.op.name for node in nodes}))
                    raise InputError(f"partition: no op and no result of one is called {name!r}; there are {ops}")

    def divide(self, graph: Graph) -> list[DeviceModel]:
        """The parts of a graph, which is changed, compiled. Raises UnsupportedError listing the nodes that no device
        takes."""
        PassManager(_FOLD).run(graph, Context(self.options.target))
        nodes = [n for n in graph.nodes if not isinstance(n.op, Constant) or n.output.is_output]
        for kind in self.options.devices:
            if kind != "gpu" and not self._rejections(graph, kind):
                self.tried |= {self._key(node, kind): None for node in nodes}
        names = _Names(graph, self.names)
        done: dict[object, DeviceModel] = {}
        while True:
            takers = self._takers(nodes)
            segments = cut(nodes, _needs, takers.__getitem__, self.options.devices[0])
            models = []
            for i, segment in enumerate(segments):
                results = _results(segment)
                key = (segment, tuple(results))
                try:
                    if key not in done:
                        part = extract(f"{graph.name}.{i}", segment.nodes, results, names)
                        done[key] = DeviceModel(self._compile(part, segment.backend), self._moved(segment))
                except UnsupportedError as e:
                    self._refuse(segment, e)
                    break
                models.append(done[key])
            else:
                return models

    def reject(self, node: Node, kind: str) -> str | None:
        """Why a kind of device does not take a node, found out once for equal nodes; None if it does."""
        if (node, kind) in self.refused:
            return self.refused[node, kind]
        key = self._key(node, kind)
        if key not in self.tried:
            self.tried[key] = self._try(node, kind)
        return self.tried[key]

    def _key(self, node: Node, kind: str) -> object:
        literals = tuple(v.op if isinstance(v.op, Constant) else None for v in node.operand_values)
        return kind, node.op, node.input_types, literals, self.each

    def _try(self, node: Node, kind: str) -> str | None:
        if kind == "gpu":
            empty = next((v for v in (*node.operand_values, *node.outputs) if not v.type.size), None)
            if empty is not None:
                return f"wgpu has no tensors without elements, such as {empty.type}"
            target = self.options.target
            asked = EachTried(target, self.options.pipeline) if self.each else DeviceAndHosts(target)
            return asked.reject(node, lambda v: v.constant is not None)
        names: dict[Value, str] = {}
        graph = extract("trial", [node], node.outputs, lambda v: names.setdefault(v, f"v{len(names)}"))
        return next(iter(self._rejections(graph, kind)), None)

    def _rejections(self, graph: Graph, kind: str) -> list[str]:
        """What one of OpenVINO's devices has against a graph, which stays as it is."""
        graph = graph.clone()
        try:
            PassManager(openvino.PIPELINE[kind]).run(graph, Context(Target.portable()))
        except UnsupportedError as e:
            return [_line(e)]
        model = openvino.lowered(graph, kind)
        return list(map(str, model)) if isinstance(model, list) else []

    # ------------------------------------------------------------------ choosing

    def _takers(self, nodes: Sequence[Node]) -> dict[Node, str]:
        takers, homeless = {}, []
        for node in nodes:
            kind = self._assigned(node)
            if kind is not None:
                reason = self.reject(node, kind)
                if reason is not None:
                    raise UnsupportedError(f"partition: {_called(node)} is assigned to {kind}: {reason}")
            else:
                kind = next((k for k in self.options.devices if self.reject(node, k) is None), None)
            if kind is None:
                homeless.append(f"{_called(node)}: {self._why(node, self.options.devices)}")
            else:
                takers[node] = kind
        if homeless:
            raise UnsupportedError("nodes that no device takes:\n  " + "\n  ".join(homeless))
        return takers

    def _assigned(self, node: Node) -> str | None:
        if isinstance(self.assignment, Mapping):
            return next((self.assignment[n] for n in _names(node) if n in self.assignment), None)
        kind = self.assignment(node)
        if kind is not None:
            self._check_kind(kind, node.op.name)
        return kind

    def _check_kind(self, kind: str, name: str) -> None:
        if kind not in self.options.devices:
            devices = ", ".join(self.options.devices)
            raise InputError(f"partition: {name!r} is assigned to {kind!r}, the devices are {devices}")

    def _refuse(self, segment: Segment[Node], error: UnsupportedError) -> None:
        """What is to be known after a part was refused: which of its nodes are to blame, else that all of them are."""
        kind, blamed = segment.backend, []
        if kind == "gpu" and not self.each:
            self.each = True
            blamed = [node for node in segment.nodes if self.reject(node, kind) is not None]
        for node in segment.nodes if not blamed else ():
            if self._assigned(node) is not None:
                what = f"a part with {_called(node)} is assigned to {kind}"
                raise UnsupportedError(f"partition: {what}: {error}") from error
            self.refused[node, kind] = f"its part is refused: {_line(error)}"

    def _why(self, node: Node, kinds: Sequence[str]) -> str:
        return "; ".join(f"{kind}: {self.reject(node, kind)}" for kind in kinds)

    def _moved(self, segment: Segment[Node]) -> tuple[HostNode, ...]:
        """The nodes of a part that are not where they would be first, and why."""
        before = self.options.devices[: self.options.devices.index(segment.backend)]
        if not before:
            return ()
        out = []
        for node in segment.nodes:
            reason = "assigned by the caller" if self._assigned(node) is not None else self._why(node, before)
            out.append(HostNode(node.outputs[0].name, node.op.name, reason))
        return tuple(out)

    # ------------------------------------------------------------------ compiling

    def _compile(self, graph: Graph, kind: str) -> Bundle:
        options = replace(self.options, devices=(kind,))
        if kind == "gpu":
            return compile_part_on_gpu(graph, options, Clock())
        clock = Clock()
        nodes = sum(graph.statistics().values())
        kept = convert(graph, options.precision, options.target)
        files = openvino.compile_graph(graph, kind, progress=options.progress)
        clock.lap("openvino")
        report = Report(nodes, nodes, phases=clock.seconds, kept_float32=kept)
        return Bundle([], {}, gir=print_graph(graph, literals="ref"), report=report, openvino={kind: files})


@dataclass(frozen=True)
class _Backends(DeviceAndHosts):
    """Devices that share a model, then hosts: a node is for a host if none of the devices takes it."""

    divider: _Divider

    def reject(self, node: Node, known: Callable[[Value], bool]) -> str | None:
        """Why no device takes a node."""
        if any(known(v) and v.constant is None for v in node.operand_values):
            return None  # it is folded
        reasons = []
        for kind in self.divider.options.devices:
            reason = self.divider.reject(node, kind)
            if reason is None:
                return None
            reasons.append(f"{kind}: {reason}")
        return "; ".join(reasons)


# Names ---------------------------------------------------------------------------------------------------------------


class _Names:
    """A name for every value that crosses between parts: that of an input or output of the graph, its own, or a new
    one. `taken` are those of all parts of the model."""

    def __init__(self, graph: Graph, taken: set[str]) -> None:
        self.known = {v: v.name for v in graph.inputs} | dict(zip(graph.outputs, graph.output_names, strict=True))
        self.taken = taken

    def __call__(self, value: Value) -> str:
        if value not in self.known:
            self.known[value] = _fresh(value.name or (value.op.name if value.op else "value"), self.taken)
            self.taken.add(self.known[value])
        return self.known[value]


def _names(node: Node) -> list[str]:
    """What an assignment may call a node: its results, then its op."""
    return [*(v.name for v in node.outputs if v.name), node.op.name]


def _called(node: Node) -> str:
    name = node.outputs[0].name
    return f"{node.op.name} {name!r}" if name else node.op.name


def _needs(node: Node) -> list[Node]:
    return [v.producer for v in node.operand_values if v.producer is not None and v.constant is None]


def _results(segment: Segment[Node]) -> list[Value]:
    """What others read of a segment's results."""
    inside = set(segment.nodes)
    return [v for node in segment.nodes for v in node.outputs if any(u not in inside for u in v.users)]


def _line(e: Exception) -> str:
    return str(e).splitlines()[0]
