"""A model in parts, compiled: bundles for the device parts, ONNX models for the host parts.

manifest.json                          the parts in order, and the values between them
parts/<i>/manifest.json  variants/...  a device part: a bundle of its own
parts/<i>/model.onnx                   a host part
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from gpucompile.errors import BundleError
from gpucompile.frontends.onnx.partition import DevicePart, HostPart, Partition
from gpucompile.ir.graph import Graph
from gpucompile.plan.backends import serialized
from gpucompile.plan.bundle import Bundle, Progress, Report, json_text, version, write_bundle
from gpucompile.plan.weights import Content
from gpucompile.runtime.format import FORMAT_VERSION, Backend, Extent, HostNode, Part, PartitionManifest, Slot
from gpucompile.runtime.parts import DEVICE, KIND_OF, check_partition, fallback_of


@dataclass(frozen=True)
class DeviceModel:
    """A device part: its bundle, which is for one backend, and those of its nodes that devices before that in the order
    do not take, with reasons. `ops` counts what it was made of."""

    bundle: Bundle
    nodes: tuple[HostNode, ...] = ()
    ops: dict[str, int] = field(default_factory=dict)

    @property
    def backend(self) -> Backend:
        """wgpu where it has shaders, else OpenVINO's device."""
        return DEVICE if self.bundle.plans else {k: b for b, k in KIND_OF.items()}[self.bundle.openvino[0]]


@dataclass(frozen=True)
class HostModel:
    """A host part: who runs it, its ONNX model, the values that it reads and gives, and its nodes with reasons."""

    backend: Backend
    data: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[HostNode, ...]


def assemble(
    partition: Partition,
    compile_graph: Callable[[Graph], Sequence[DeviceModel]],
    source_sha256: str = "",
    dims: Mapping[str, int] | None = None,
    seconds: Mapping[str, float] | None = None,
) -> PartitionedBundle:
    """The bundle of a partition. `compile_graph` compiles a device part, to one model or to several that run in order;
    `seconds` is what phases before took.

    Raises UnsupportedError where the constants of a host part are too large for an ONNX file."""
    plain = outline(partition)
    parts: list[DeviceModel | HostModel] = []
    for p, whole in zip(partition.parts, plain.parts, strict=True):
        if isinstance(p, HostPart):
            parts.append(_host_model(p))
            continue
        made = compile_graph(p.graph)
        parts += [replace(made[0], ops=whole.ops)] if len(made) == 1 else made
    slots = {slot.name: slot for slot in plain.values}
    models = [p.bundle for p in parts if isinstance(p, DeviceModel)]
    for port in (port for model in models for port in model.ports[1]):
        slots.setdefault(port.name, Slot(port.name, port.dtype, tuple(map(Extent, port.shape))))
    reports = [m.report for m in models if m.report is not None]
    report = Report.total([Report(phases=dict(seconds or {})), *reports])
    return PartitionedBundle(
        parts,
        plain.inputs,
        partition.outputs,
        list(slots.values()),
        source_sha256=source_sha256,
        dims=dims,
        report=report,
    )


def outline(partition: Partition) -> PartitionManifest:
    """The manifest of a partition that is not compiled, perhaps because nobody takes some parts: for `explain`."""
    slots = {n: Slot(n, k.dtype, tuple(map(Extent, k.shape)), k.ranked) for n, k in partition.kinds.items()}
    inputs = tuple(slots.pop(name) for name in partition.inputs)
    parts = []
    for p in partition.parts:
        if isinstance(p, DevicePart):
            graph = p.graph
            ends = tuple(v.name for v in graph.inputs), tuple(graph.output_names)
            parts.append(Part(DEVICE, *ends, ops=graph.statistics()))
        else:
            ends = tuple(v.name for v in p.model.graph.input), tuple(v.name for v in p.model.graph.output)
            parts.append(Part(cast("Backend", p.backend), *ends, _host_nodes(p)))
    return PartitionManifest(
        FORMAT_VERSION,
        f"gpucompile {version()}",
        "",
        {},
        inputs,
        (),
        tuple(partition.outputs.values()),
        tuple(slots.values()),
        tuple(parts),
    )


def _host_nodes(part: HostPart) -> tuple[HostNode, ...]:
    return tuple(HostNode(n.title, n.kind, n.reason) for n in part.nodes)


def _host_model(part: HostPart) -> HostModel:
    inputs, outputs = (tuple(v.name for v in values) for values in (part.model.graph.input, part.model.graph.output))
    return HostModel(cast("Backend", part.backend), serialized(part.model), inputs, outputs, _host_nodes(part))


class PartitionedBundle:
    """A compiled model in parts, in memory: what `compile` gives where nodes are left to the CPU or devices share them.

    parts    in the order in which they run
    inputs   what the user gives, `outputs` what the user gets: (public name, name of the value)
    values   data types and shapes of everything that inputs and parts give

    Raises BundleError (a defect of the compiler) if a part reads what nothing before it gives.
    """

    def __init__(
        self,
        parts: Sequence[DeviceModel | HostModel],
        inputs: Sequence[Slot],
        outputs: Mapping[str, str],
        values: Sequence[Slot],
        *,
        source_sha256: str = "",
        dims: Mapping[str, int] | None = None,
        licence: str = "",
        report: Report | None = None,
    ) -> None:
        self.parts = tuple(parts)
        self.report = report
        slots = {s.name: s for s in (*inputs, *values)}
        ends = tuple(
            Slot(name, slots[v].dtype, slots[v].shape, slots[v].ranked) for name, v in outputs.items() if v in slots
        )
        self.manifest = PartitionManifest(
            FORMAT_VERSION,
            f"gpucompile {version()}",
            source_sha256,
            dict(dims or {}),
            tuple(inputs),
            ends,
            tuple(outputs.values()),
            tuple(values),
            tuple(_part(p) for p in parts),
            licence,
        )
        check_partition(self.manifest, "the partition")

    @property
    def fallback(self) -> tuple[HostNode, ...]:
        """The nodes that the first device of the order does not run, each with the reason."""
        return fallback_of(self.manifest)

    def device_part(self, index: int) -> Bundle:
        """The bundle of a device part."""
        part = self.parts[index]
        if not isinstance(part, DeviceModel):
            raise BundleError(f"part {index} is not for a device")
        return part.bundle

    def host_part(self, index: int) -> bytes:
        """The ONNX model of a host part."""
        part = self.parts[index]
        if not isinstance(part, HostModel):
            raise BundleError(f"part {index} is not for a host")
        return part.data

    def save(self, path: str | Path, progress: Progress | None = None) -> Path:
        """Write the bundle, as `Bundle.save` does."""
        files = [("manifest.json", Content.of(json_text(self.manifest).encode()))]
        for i, part in enumerate(self.parts):
            if isinstance(part, DeviceModel):
                files += [(f"parts/{i}/{name}", data) for name, data in part.bundle.files()]
            else:
                files.append((f"parts/{i}/model.onnx", Content.of(part.data)))
        return write_bundle(path, files, progress)


def _part(part: DeviceModel | HostModel) -> Part:
    if isinstance(part, DeviceModel):
        inputs, outputs = ([p.name for p in ports] for ports in part.bundle.ports)
        return Part(part.backend, tuple(inputs), tuple(outputs), part.nodes, ops=part.ops)
    digest = hashlib.sha256(part.data).hexdigest()
    return Part(part.backend, part.inputs, part.outputs, part.nodes, len(part.data), digest)
