"""Partitions of a model: device parts that are graphs, host parts that are ONNX models, in the order in which they run.

    graph nodes + HostNodes -> what outputs depend on -> `ir.partition.cut` -> a Graph or a ModelProto per segment

Parts give each other values by name. A value's name is that of an input, of an output or of an ONNX result where it has
one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx

from gpucompile.errors import UnsupportedError, counted
from gpucompile.frontends.onnx.fallback import HostModels, HostNode, Keeper, Thing, things
from gpucompile.frontends.onnx.refusal import grouped
from gpucompile.frontends.onnx.tensors import DATA_TYPES, element_name
from gpucompile.ir.graph import Constant, Graph, Node, Value
from gpucompile.ir.partition import Segment, cut, extract

#: The backend of device parts.
DEVICE = "wgpu"

_Item: TypeAlias = Node | HostNode


@dataclass(frozen=True)
class Kind:
    """What a value is: data type by name (WebNN's where it has one; bool is uint8) and shape, in which -1 is an extent
    that depends on data. Where the rank does, or there is none, `ranked` is false."""

    dtype: str
    shape: tuple[int, ...] = ()
    ranked: bool = True


@dataclass(frozen=True)
class DevicePart:
    """Nodes for the device."""

    graph: Graph


@dataclass(frozen=True)
class HostPart:
    """Nodes for a host, as a model and one by one."""

    backend: str
    model: onnx.ModelProto
    nodes: tuple[HostNode, ...]


@dataclass(frozen=True)
class Partition:
    """A model in parts. `outputs` maps the model's outputs to names of values, `kinds` has every value that crosses
    between parts or is an input or output."""

    name: str
    parts: tuple[DevicePart | HostPart, ...]
    inputs: tuple[str, ...]
    outputs: dict[str, str]
    kinds: dict[str, Kind]


def partition(
    graph: Graph,
    keeper: Keeper,
    inputs: Sequence[Thing],
    outputs: Mapping[str, Thing | np.ndarray],
) -> Graph | Partition:
    """What was imported into `graph` and kept by `keeper`, in parts; the graph itself where no host is needed.

    Raises UnsupportedError listing the nodes that nobody takes."""
    if keeper.refused:
        behind = sum(n.follows for n in keeper.refused)
        lines = grouped([n for n in keeper.refused if not n.follows])
        lines += [f"{counted(behind, 'node')} behind these could not be looked at"] if behind else []
        raise UnsupportedError("neither the device nor a host takes:\n  " + "\n  ".join(lines))
    ends: dict[str, Thing] = {}
    for name, result in outputs.items():
        if not isinstance(result, np.ndarray):
            ends[name] = result
        elif result.size:
            ends[name] = keeper.models.builder.value(result)
        else:
            ends[name] = graph.constant(result)
    return _Partitioner(graph, keeper, inputs, ends).run()


class _Partitioner:
    def __init__(self, graph: Graph, keeper: Keeper, inputs: Sequence[Thing], ends: dict[str, Thing]) -> None:
        self.graph = graph
        self.models: HostModels = keeper.models
        self.makers = keeper.makers
        self.inputs = inputs
        self.ends = ends
        self.live = self._live()
        read = {t for h in keeper.nodes if h in self.live for t in _read(h)} | set(ends.values())
        self.items: list[_Item] = [
            n for n in graph.nodes if n in self.live and (not isinstance(n.op, Constant) or n.output in read)
        ]
        self.hosts = [h for h in keeper.nodes if h in self.live]

    def run(self) -> Graph | Partition:
        if not self.hosts:
            self.graph.inputs = [v for v in self.inputs if isinstance(v, Value)]
            self.graph.set_outputs({name: v for name, v in self.ends.items() if isinstance(v, Value)})
            return self.graph
        for name, thing in self.ends.items():
            self.models.name(thing, name)
        segments = cut([*self.items, *self.hosts], self._needs, _backend, DEVICE)
        number = {item: i for i, s in enumerate(segments) for item in s.nodes}
        wanted: list[dict[Thing, None]] = [{} for _ in segments]
        for item, i in number.items():
            for thing in self._read(item):
                maker = self._maker(thing)
                if maker is not None and number[maker] != i:
                    wanted[number[maker]][thing] = None
        for thing in self.ends.values():
            maker = self._maker(thing)
            if maker is not None:
                wanted[number[maker]][thing] = None
        crossing = [*self.inputs, *(t for some in wanted for t in some)]
        return Partition(
            self.graph.name,
            tuple(self._part(i, s, list(w)) for i, (s, w) in enumerate(zip(segments, wanted, strict=True))),
            tuple(self.models.name(t) for t in self.inputs),
            {name: self.models.name(t) for name, t in self.ends.items()},
            {self.models.name(t): kind_of(t) for t in crossing},
        )

    def _part(self, index: int, segment: Segment[_Item], wanted: list[Thing]) -> DevicePart | HostPart:
        if segment.backend == DEVICE:
            nodes = [n for n in segment.nodes if isinstance(n, Node)]
            values = [v for v in wanted if isinstance(v, Value)]
            return DevicePart(extract(f"{self.graph.name}.{index}", nodes, values, self.models.name))
        hosts = tuple(n for n in segment.nodes if isinstance(n, HostNode))
        model = self.models.model(hosts, [(self.models.name(t), self.models.type(t)) for t in wanted])
        return HostPart(segment.backend, model, hosts)

    # the items and what they read ------------------------------------------------------------------------------------

    def _maker(self, thing: Thing) -> _Item | None:
        """What computes a value; None for an input of the model."""
        return self.makers.get(thing) or (thing.producer if isinstance(thing, Value) else None)

    def _read(self, item: _Item) -> Iterator[Thing]:
        """What an item reads, without constants that are copied into its part."""
        if isinstance(item, HostNode):
            yield from _read(item)
        else:
            yield from (v for v in item.operand_values if v.constant is None)

    def _needs(self, item: _Item) -> Iterator[_Item]:
        return filter(None, map(self._maker, self._read(item)))

    def _live(self) -> set[_Item]:
        """What the outputs depend on."""
        live: set[_Item] = set()
        stack = list(self.ends.values())
        while stack:
            maker = self._maker(stack.pop())
            if maker is not None and maker not in live:
                live.add(maker)
                stack.extend(self._read(maker))
        return live


def _backend(item: _Item) -> str:
    return item.backend if isinstance(item, HostNode) else DEVICE


def _read(node: HostNode) -> Iterator[Thing]:
    for operand in node.operands.values():
        yield from things(operand)


def kind_of(thing: Thing) -> Kind:
    """What the user, and the runtime, are told about a value."""
    if isinstance(thing, Value):
        return Kind(thing.type.dtype.value, thing.type.shape)
    return _kind(thing.type)


def _kind(t: onnx.TypeProto) -> Kind:
    if t.HasField("sequence_type"):
        return Kind(f"sequence({_kind(t.sequence_type.elem_type).dtype})", ranked=False)
    if t.HasField("optional_type"):
        return Kind(f"optional({_kind(t.optional_type.elem_type).dtype})", ranked=False)
    if not t.HasField("tensor_type"):
        return Kind("unknown", ranked=False)
    tensor = t.tensor_type
    name = element_name(tensor.elem_type)
    known = DATA_TYPES[tensor.elem_type].value if tensor.elem_type in DATA_TYPES else ""
    dtype = known or name.replace("double", "float64")
    if not tensor.HasField("shape"):
        return Kind(dtype, ranked=False)
    return Kind(dtype, tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim))
