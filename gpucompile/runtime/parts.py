"""Bundles in parts: some for devices (wgpu, OpenVINO's), some for a host that runs ONNX, one after the other.

PartitionedData  such a bundle on disk, checked
open_bundle      a bundle of either kind
explain          the cut for people: parts, nodes, reasons, bytes
edges            the values that cross between parts, and their bytes
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from gpucompile.errors import counted
from gpucompile.runtime.bundle import (
    BundleData,
    BundleLike,
    HasOpenvino,
    OpenFiles,
    PartStore,
    Store,
    manifest_json,
    open_store,
)
from gpucompile.runtime.checks import DTYPE_BITS, SHA256, require
from gpucompile.runtime.format import Backend, HostNode, PartitionManifest, Slot, from_json

DEVICE: Final = "wgpu"
#: The kinds of device, as `load` and `compile` call them, by backend.
KIND_OF: Final[dict[Backend, str]] = {DEVICE: "gpu", "openvino-npu": "npu", "openvino-cpu": "cpu"}


class DevicePartLike(BundleLike, HasOpenvino, Protocol):
    """The bundle of a device part."""


class PartitionedLike(Protocol):
    """What an executable needs of a bundle in parts: one on disk, or one just compiled."""

    @property
    def manifest(self) -> PartitionManifest:
        """The parts, in order, and the values between them."""

    def device_part(self, index: int) -> DevicePartLike:
        """The bundle of a device part."""

    def host_part(self, index: int) -> bytes:
        """The ONNX model of a host part."""


# Reading -------------------------------------------------------------------------------------------------------------


class PartitionedData(OpenFiles):
    """A bundle in parts on disk. Parts are read, and checked, when asked for."""

    def __init__(self, store: Store, origin: str) -> None:
        super().__init__(store, origin)
        self.manifest = from_json(PartitionManifest, manifest_json(store, origin), "manifest.json")
        check_partition(self.manifest, "manifest.json")

    def device_part(self, index: int) -> BundleData:
        """The bundle of a device part; its inputs and outputs are those that the manifest promises."""
        part, at = self.manifest.parts[index], f"parts/{index}"
        require(part.backend in KIND_OF, f"{at}: not a part for a device")
        bundle = BundleData(PartStore(self._files(), f"{at}/"), f"{self.origin}/{at}")
        kind = KIND_OF[part.backend]
        suits = bool(bundle.variants) if kind == "gpu" else kind in bundle.openvino
        require(suits, f"{at}: the whole's manifest.json promises a part for {part.backend}, which it is not")
        slots = slots_of(self.manifest)
        for kind, ports, promised in (
            ("inputs", bundle.manifest.inputs, part.inputs),
            ("outputs", bundle.manifest.outputs, part.outputs),
        ):
            wanted = [(s.name, s.dtype, s.shape) for s in (slots[name] for name in promised)]
            require([(p.name, p.dtype, p.shape) for p in ports] == wanted, f"{at}: its {kind} differ from the whole's")
        return bundle

    def host_part(self, index: int) -> bytes:
        """The ONNX model of a host part; its hash is checked."""
        part, name = self.manifest.parts[index], f"parts/{index}/model.onnx"
        require(part.backend not in KIND_OF, f"parts/{index}: not a part for a host")
        data = bytes(self._files().read(name))
        require(len(data) == part.size, f"{name}: {len(data)} bytes, the manifest says {part.size}")
        require(hashlib.sha256(data).hexdigest() == part.sha256, f"{name}: content does not match its sha256")
        return data


def check_partition(m: PartitionManifest, where: str) -> None:
    """Raise BundleError unless every part only reads what inputs and earlier parts give."""
    require(bool(m.parts), f"{where}.parts: a bundle in parts needs at least one")
    given = set()
    for slot in (*m.inputs, *m.values):
        require(bool(slot.name) and slot.name not in given, f"{where}: two values are called {slot.name[:80]!r}")
        given.add(slot.name)
    known = {slot.name for slot in m.inputs}
    for i, part in enumerate(m.parts):
        at = f"{where}.parts[{i}]"
        for name in part.inputs:
            require(name in known, f"{at}: it reads {name[:80]!r}, which nothing before it gives")
        for name in part.outputs:
            require(name in given and name not in known, f"{at}: it gives {name[:80]!r}, which it must not")
            known.add(name)
        good = not (part.size or part.sha256) if part.backend in KIND_OF else SHA256.fullmatch(part.sha256) is not None
        good = good and (part.backend in KIND_OF or not part.ops)
        require(good, f"{at}: backend {part.backend} does not suit its size, sha256 and ops")
    names = [slot.name for slot in m.outputs]
    require(len(set(names)) == len(names) == len(m.results) > 0, f"{where}: outputs and results differ in number")
    for name in m.results:
        require(name in known, f"{where}.results: nothing gives {name[:80]!r}")


def slots_of(m: PartitionManifest) -> dict[str, Slot]:
    """Every value by name."""
    return {slot.name: slot for slot in (*m.inputs, *m.values)}


def open_bundle(path: str | Path) -> BundleData | PartitionedData:
    """Open a bundle, in parts or not: a directory, or a stored zip of it (`.gpub`).

    Raises BundleError if it is damaged, has an unknown version, or is no bundle at all."""
    store = open_store(path)
    parts = "parts" in manifest_json(store, str(path))
    return PartitionedData(store, str(path)) if parts else BundleData(store, str(path))


# Telling -------------------------------------------------------------------------------------------------------------


def fallback_of(m: PartitionManifest) -> tuple[HostNode, ...]:
    """The nodes that the first device of the order does not run, each with the reason."""
    return tuple(node for part in m.parts for node in part.nodes)


def on_the_cpu(nodes: Sequence[HostNode], most: int = 10) -> str:
    """What a warning says about nodes that run on the CPU."""
    listed = "; ".join(f"{n.op} {n.name!r}: {n.reason}" for n in nodes[:most])
    more = f"; and {len(nodes) - most} more (--explain and .fallback list them all)" if len(nodes) > most else ""
    return f"{counted(len(nodes), 'node')} {'runs' if len(nodes) == 1 else 'run'} on the CPU: {listed}{more}"


def resident(m: PartitionManifest) -> frozenset[str]:
    """The values that only wgpu parts read, and which therefore stay on the GPU."""
    given = {name for part in m.parts if part.backend == DEVICE for name in part.outputs}
    read = {name for part in m.parts if part.backend != DEVICE for name in part.inputs}
    return frozenset(given - read - set(m.results))


def size_of(slots: Iterable[Slot]) -> tuple[int, bool]:
    """Bytes of values, and whether that is all: sizes that depend on data are left out."""
    total, complete = 0, True
    for slot in slots:
        bits = DTYPE_BITS.get(slot.dtype, 64 if slot.dtype == "float64" else 16 if slot.dtype == "bfloat16" else 0)
        if not bits or not slot.ranked or -1 in slot.shape:
            complete = False
        else:
            total += (math.prod(slot.shape) * bits + 7) // 8
    return total, complete


@dataclass(frozen=True)
class Edge:
    """A value that one part gives and others read: through host memory, or `resident` in a GPU buffer. `bytes` is its
    size, None where that depends on data."""

    value: str
    dtype: str
    shape: tuple[int, ...]
    source: int
    targets: tuple[int, ...]
    bytes: int | None
    resident: bool


def edges(m: PartitionManifest) -> tuple[Edge, ...]:
    """The values that cross between parts, in the order in which they are given."""
    slots, staying = slots_of(m), resident(m)
    out = []
    for i, part in enumerate(m.parts):
        for name in part.outputs:
            targets = tuple(j for j, other in enumerate(m.parts) if name in other.inputs)
            if targets:
                slot, (size, known) = slots[name], size_of([slots[name]])
                out.append(Edge(name, slot.dtype, slot.shape, i, targets, size if known else None, name in staying))
    return tuple(out)


def explain_edges(m: PartitionManifest) -> list[tuple[str, ...]]:
    """Rows of a table: value, type, part that gives it, parts that read it, bytes, the way it takes."""
    rows: list[tuple[str, ...]] = []
    for e in edges(m):
        by = f"{e.source} {m.parts[e.source].backend}"
        to = ", ".join(f"{j} {m.parts[j].backend}" for j in e.targets)
        size = "depends on data" if e.bytes is None else f"{e.bytes:,}"
        rows.append((e.value, f"{e.dtype}{list(e.shape)}", by, to, size, "GPU buffer" if e.resident else "host memory"))
    return rows


def explain(m: PartitionManifest) -> list[tuple[str, ...]]:
    """Rows of a table: part, backend, node, reason, bytes in, bytes out. Inputs and outputs of the model count; what
    stays on the device between its parts is named apart. Of a device part it says how many of which op it was made of,
    and lists the nodes that another device was to take."""
    rows: list[tuple[str, ...]] = []
    for i, part in enumerate(m.parts):
        sizes = _bytes(m, part.inputs), _bytes(m, part.outputs)
        whole = part.backend in KIND_OF
        if whole:
            each = ", ".join(f"{n} {op}" for op, n in sorted(part.ops.items()))
            made = f"{sum(part.ops.values())} of the graph: {each}" if each else ""
            rows.append((str(i), part.backend, made, "", *sizes))
        for j, node in enumerate(part.nodes):
            head = (str(i), part.backend) if j == 0 and not whole else ("", "")
            ends = sizes if j == 0 and not whole else ("", "")
            rows.append((*head, f"{node.op} {node.name}", node.reason, *ends))
    return rows


def _bytes(m: PartitionManifest, names: Iterable[str]) -> str:
    slots, staying = slots_of(m), resident(m)
    names = tuple(names)
    total, complete = size_of(slots[n] for n in names if n not in staying)
    stays, _ = size_of(slots[n] for n in names if n in staying)
    text = f"{total:,}" if complete else f"{total:,} + what depends on data"
    return f"{text} ({stays:,} stay on the device)" if stays else text
