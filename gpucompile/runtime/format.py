"""The plan and manifest of a bundle as plain data: frozen dataclasses of integers and strings, to and from JSON.

A plan is everything a player needs and nothing it must think about:

    shaders   sha256 of each WGSL text, in order of first use
    buffers   input | output | state | weight | scratch, sizes in bytes
    steps     shader index, dispatch grid, bindings (buffer, offset, size, access)
    requires  device features and limits

This module belongs to the runtime, so it imports nothing of the compiler; `gpucompile.plan` builds these objects.
Byte counts are `int`; offsets are relative to the start of their buffer.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NewType, TypeVar

from gpucompile.errors import BundleError

FORMAT_VERSION = 1
SHARD_BYTES = 24 * 1024 * 1024  # a shard stays below the 25 MB that many web hosts allow a static file

BufferKind = Literal["input", "output", "state", "weight", "scratch"]
Access = Literal["read", "read_write"]
Backend = Literal["wgpu", "openvino-npu", "openvino-cpu", "onnxruntime", "onnx-reference"]
#: An extent of a shape; -1 where it depends on data.
Extent = NewType("Extent", int)


@dataclass(frozen=True)
class Requires:
    """What a device must offer. `features` are WebGPU feature names; `limits` WebGPU limit names in kebab-case,
    each a value the device must reach (for `min-...-alignment` limits: must not exceed)."""

    features: tuple[str, ...] = ()
    limits: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Buffer:
    """One GPU buffer. `shards` are the indices of the weight shards that fill a weight buffer, back to back. A state is
    an input and an output, see `State`."""

    kind: BufferKind
    size: int
    name: str = ""
    shards: tuple[int, ...] = ()


@dataclass(frozen=True)
class Region:
    """`count` runs of `size` bytes, `stride` bytes apart, starting at `offset` of buffer `buffer`.

    `value` identifies the tensor that owns these bytes (several views of one tensor share the number)."""

    buffer: int
    value: int
    offset: int
    size: int
    count: int = 1
    stride: int = 0


@dataclass(frozen=True)
class Binding:
    """One storage binding: bytes `offset .. offset + size` of buffer `buffer`; binding numbers are list positions."""

    buffer: int
    offset: int
    size: int
    access: Access


@dataclass(frozen=True)
class Step:
    """One dispatch. `reads` and `writes` say which bytes it touches inside its bindings; players ignore them,
    the verifier lives on them."""

    shader: int
    grid: tuple[int, int, int]
    bindings: tuple[Binding, ...]
    label: str = ""
    reads: tuple[Region, ...] = ()
    writes: tuple[Region, ...] = ()


@dataclass(frozen=True)
class Port:
    """An input or output of the model: WebNN data type name, static shape, and the buffer that holds it (row-major,
    at offset 0)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    buffer: int


#: The scalar int32 input that says how many places of the states are filled: where a run writes.
PAST_LENGTH = "past_length"


@dataclass(frozen=True)
class State:
    """An input that the steps update in place, so that afterwards it is an output: both ports have one buffer, of kind
    state. A run writes `count` places along `axis`, at a position that is one of its inputs."""

    input: str
    output: str
    axis: int
    count: int


@dataclass(frozen=True)
class Plan:
    """A compiled graph for one kind of device."""

    name: str
    requires: Requires
    shaders: tuple[str, ...]
    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    states: tuple[State, ...] = ()
    scratch_bound: int = 0  # largest sum of live bytes (256-byte aligned): what the planner was measured against

    @cached_property
    def room(self) -> int | None:
        """The largest `past_length` that leaves room for what a run writes; None without such an input."""
        if not self.states or not any(p.name == PAST_LENGTH and p.shape == () for p in self.inputs):
            return None
        extents = {p.name: p.shape for p in self.inputs}
        return min(extents[s.input][s.axis] - s.count for s in self.states)

    @cached_property
    def updated(self) -> frozenset[tuple[str, str]]:
        """Names of inputs that become outputs in place, with these outputs."""
        return frozenset((s.input, s.output) for s in self.states)

    def bytes_of(self, kind: BufferKind) -> int:
        """Total size in bytes of the buffers of one kind."""
        return sum(b.size for b in self.buffers if b.kind == kind)


@dataclass(frozen=True)
class Shard:
    """One weight file: its name in the bundle, its size in bytes and the sha256 of its content."""

    file: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Bucket:
    """Sizes of the free dimensions, and the plans compiled for them, best first."""

    dims: dict[str, int]
    variants: tuple[str, ...]


@dataclass(frozen=True)
class FreeAxis:
    """An axis of an input or output whose size is that of the free dimension `dim`. For outputs `dim` may be empty: the
    size depends on free dimensions, but is none of them."""

    port: str
    axis: int
    dim: str = ""


@dataclass(frozen=True)
class OpenvinoBlob:
    """A model as a device's plugin exports it: good for that device, that version of its driver (empty where it needs
    none) and that version of OpenVINO only."""

    device: str  # the full name of the device
    version: str
    data: Shard
    driver: str = ""


@dataclass(frozen=True)
class OpenvinoModel:
    """A graph as OpenVINO's intermediate representation (openvino/<device>.json). Its parameters and results stand in
    the order of `inputs` and `outputs`, whose buffers mean nothing. `version` is that of the OpenVINO that wrote it."""

    device: Literal["cpu", "npu"]
    version: str
    xml: Shard
    weights: Shard
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    blobs: tuple[OpenvinoBlob, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """The table of contents of a bundle (manifest.json).

    With buckets, `variants` are those of all buckets, `inputs` and `outputs` have the shapes of the first, and
    `dims` are the free dimensions that have one size only."""

    version: int
    producer: str
    source_sha256: str
    dims: dict[str, int]
    variants: tuple[str, ...]  # best first
    shards: tuple[Shard, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    licence: str = ""
    buckets: tuple[Bucket, ...] = ()  # smallest first
    free_axes: tuple[FreeAxis, ...] = ()
    openvino: tuple[Literal["cpu", "npu"], ...] = ()  # the devices that there are OpenVINO models for


@dataclass(frozen=True)
class Slot:
    """A value that crosses between the parts of a model, or enters or leaves it. Data types are WebNN's, numpy's or
    ONNX's, `sequence(float32)` and such included; `ranked` is false where the rank is not known or there is none."""

    name: str
    dtype: str
    shape: tuple[Extent, ...]
    ranked: bool = True


@dataclass(frozen=True)
class HostNode:
    """A node that the first device of the order does not run: its name, its op, and why."""

    name: str
    op: str
    reason: str


@dataclass(frozen=True)
class Part:
    """Some nodes of a model, which one backend runs: values read and given, by name. A device part (wgpu, or one of
    OpenVINO's) is a bundle in `parts/<index>`, `nodes` are those of its nodes that devices before it in the order do
    not take, and `ops` says how many nodes of which op it was made of. A host part is the file
    `parts/<index>/model.onnx`, and `nodes` are all of its nodes."""

    backend: Backend
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[HostNode, ...] = ()
    size: int = 0
    sha256: str = ""
    ops: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PartitionManifest:
    """The table of contents of a bundle in parts (manifest.json), which run in order. `results` are the names of the
    values that are the outputs."""

    version: int
    producer: str
    source_sha256: str
    dims: dict[str, int]
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    results: tuple[str, ...]
    values: tuple[Slot, ...]  # everything that parts give
    parts: tuple[Part, ...]
    licence: str = ""


T = TypeVar("T")


def to_json(obj: Any) -> Any:
    """Dataclasses, tuples and dicts -> JSON values; fields equal to their default are left out."""
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        out = {}
        for f in dataclasses.fields(obj):
            value = getattr(obj, f.name)
            default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
            if default is dataclasses.MISSING or value != default:
                out[f.name] = to_json(value)
        return out
    if isinstance(obj, (list, tuple)):
        return [to_json(v) for v in obj]
    if isinstance(obj, dict):
        return {k: to_json(v) for k, v in obj.items()}
    return obj


def from_json(cls: type[T], data: Any, where: str) -> T:
    """JSON values -> `cls`, checked strictly against the field types.

    Raises BundleError naming the place (`where`, a path such as `variants/base.json.steps[3].grid`)."""
    return typing.cast(T, _convert(cls, data, where))


_HINTS: dict[type, dict[str, Any]] = {}


def _convert(tp: Any, data: Any, where: str) -> Any:
    if dataclasses.is_dataclass(tp) and isinstance(tp, type):
        return _convert_dataclass(tp, data, where)
    origin, args = typing.get_origin(tp), typing.get_args(tp)
    if origin is tuple:
        if not isinstance(data, list):
            raise BundleError(f"{where}: expected a list, found {type(data).__name__}")
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(data))
        if len(data) != len(args):
            raise BundleError(f"{where}: expected {len(args)} values, found {len(data)}")
        return tuple(_convert(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, data, strict=True)))
    if origin is dict:
        if not isinstance(data, dict):
            raise BundleError(f"{where}: expected an object, found {type(data).__name__}")
        return {str(k): _convert(args[1], v, f"{where}.{k}") for k, v in data.items()}
    if origin is Literal:
        if data not in args:
            raise BundleError(f"{where}: expected one of {', '.join(map(str, args))}, found {data!r}")
        return data
    if tp is int:
        if not isinstance(data, int) or isinstance(data, bool) or data < 0:
            raise BundleError(f"{where}: expected a non-negative integer, found {data!r}")
        return data
    if tp is bool:
        if not isinstance(data, bool):
            raise BundleError(f"{where}: expected true or false, found {data!r}")
        return data
    if tp is Extent:
        return data if data == -1 and not isinstance(data, bool) else _convert(int, data, where)
    if tp is str:
        if not isinstance(data, str):
            raise BundleError(f"{where}: expected a string, found {data!r}")
        return data
    raise AssertionError(f"format dataclass with a field of type {tp}")


def _convert_dataclass(tp: type, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise BundleError(f"{where}: expected an object, found {type(data).__name__}")
    hints = _HINTS.get(tp)
    if hints is None:
        hints = _HINTS[tp] = typing.get_type_hints(tp)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise BundleError(f"{where}: unknown field {unknown[0]!r}")
    values = {}
    for f in dataclasses.fields(tp):
        if f.name in data:
            values[f.name] = _convert(hints[f.name], data[f.name], f"{where}.{f.name}")
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise BundleError(f"{where}: field {f.name!r} is missing")
    return tp(**values)
