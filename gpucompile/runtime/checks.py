"""What must hold for a plan before a byte of it reaches a device, and what a device must offer for it.

A plan read from a file may say anything: names, indices, offsets, sizes, alignments, bindings that overlap, grids and
ports are all checked here. Every failure is a `BundleError` that says what is wrong and where.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from gpucompile.errors import BundleError
from gpucompile.runtime.format import Bucket, FreeAxis, Plan, Port, Requires, Step

#: Bits per element of every WebNN data type a port can have.
DTYPE_BITS: dict[str, int] = {
    "float32": 32, "float16": 16, "int32": 32, "uint32": 32, "int64": 64, "uint64": 64,
    "int8": 8, "uint8": 8, "int4": 4, "uint4": 4,
}  # fmt: skip

OFFSET_ALIGNMENT = 256  # WebGPU's default min-storage-buffer-offset-alignment
MAX_GRID = 65535  # workgroups per dimension, WebGPU's default and every device's maximum
_MAX_BYTES = 1 << 53  # what JavaScript can count

Shaped = tuple[str, str, tuple[int | None, ...]]  # a port: name, data type, shape with None for what is not known

VARIANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SHA256 = re.compile(r"[0-9a-f]{64}")


def port_bytes(port: Port) -> int:
    """Bytes a tensor of this port occupies in its buffer: whole 32-bit words, at least one."""
    return max(4, (math.prod(port.shape) * DTYPE_BITS[port.dtype] + 31) // 32 * 4)


def check_requires(requires: Requires, features: Iterable[str], limits: Mapping[str, int]) -> list[str]:
    """What a device with these features and limits lacks, one line of text each; empty if it will do."""
    have = set(features)
    missing = [f"feature {f}" for f in requires.features if f not in have]
    for name, value in requires.limits.items():
        if name not in limits:
            missing.append(f"limit {name} (unknown to this device)")
        elif name.startswith("min-") and limits[name] > value:
            missing.append(f"{name} of at most {value} (the device has {limits[name]})")
        elif not name.startswith("min-") and limits[name] < value:
            missing.append(f"{name} of {value} (the device has {limits[name]})")
    return missing


# ---------------------------------------------------------------------------------------------- plans


def check_plan(
    plan: Plan,
    where: str,
    shard_sizes: Sequence[int] | None = None,
    ports: tuple[Sequence[Shaped], Sequence[Shaped]] | None = None,
) -> None:
    """Raise BundleError unless every index, offset, size, name and shape of a plan is consistent.

    `where` names the plan in messages; `shard_sizes` are the sizes of the bundle's weight shards and `ports` the inputs
    and outputs its manifest promises, as `ports_of` gives them (both unchecked if None). Data flow is
    `gpucompile.plan.verify`'s matter.
    """
    for i, sha in enumerate(plan.shaders):
        require(SHA256.fullmatch(sha) is not None, f"{where}.shaders[{i}]: not a sha256: {sha[:80]!r}")
    _check_buffers(plan, where, shard_sizes)
    for i, step in enumerate(plan.steps):
        _check_step(plan, step, f"{where}.steps[{i}]")
    _check_ports(plan, plan.inputs, "input", f"{where}.inputs")
    _check_ports(plan, plan.outputs, "output", f"{where}.outputs")
    _check_states(plan, where)
    if ports is not None:
        for kind, mine, promised in (("inputs", plan.inputs, ports[0]), ("outputs", plan.outputs, ports[1])):
            same = len(mine) == len(promised) and all(map(_is_as_promised, mine, promised))
            require(same, f"{where}.{kind}: differ from the manifest's")


def _is_as_promised(port: Port, promised: Shaped) -> bool:
    name, dtype, shape = promised
    if (port.name, port.dtype, len(port.shape)) != (name, dtype, len(shape)):
        return False
    return all(size is None or d == size for d, size in zip(port.shape, shape, strict=True))


def check_buckets(
    buckets: Sequence[Bucket],
    axes: Sequence[FreeAxis],
    variants: Sequence[str],
    ports: tuple[Sequence[Port], Sequence[Port]],
    where: str,
) -> None:
    """Raise BundleError unless the buckets hold every variant once and the free axes speak of axes and dimensions that
    exist."""
    if not buckets:
        require(not axes, f"{where}.free_axes: there are no buckets")
        return
    held = [v for b in buckets for v in b.variants]
    require(sorted(held) == sorted(variants), f"{where}.buckets: do not hold every variant once")
    names = set(buckets[0].dims)
    for i, bucket in enumerate(buckets):
        at = f"{where}.buckets[{i}]"
        require(bool(bucket.variants), f"{at}: has no variants")
        require(set(bucket.dims) == names and bool(names), f"{at}: has other dimensions than the first")
        require(all(0 <= n < _MAX_BYTES for n in bucket.dims.values()), f"{at}: a dimension is negative or too large")
    inputs, outputs = ({p.name: p for p in side} for side in ports)
    seen: set[tuple[str, int]] = set()
    for i, free in enumerate(axes):
        at = f"{where}.free_axes[{i}]"
        port = inputs.get(free.port) or outputs.get(free.port)
        require(port is not None and free.axis < len(port.shape), f"{at}: there is no such axis")
        require((free.port, free.axis) not in seen, f"{at}: a second one for this axis")
        seen.add((free.port, free.axis))
        require(free.dim in names or (not free.dim and free.port in outputs), f"{at}: there is no such dimension")
    given = {free.dim for free in axes if free.port in inputs}
    require(given == names, f"{where}.free_axes: not every dimension is the axis of an input")


def ports_of(ports: Sequence[Port], axes: Sequence[FreeAxis], dims: Mapping[str, int]) -> list[Shaped]:
    """Name, data type and shape of ports for sizes of the free dimensions; None for axes whose size is not known."""
    known = {(a.port, a.axis): dims[a.dim] if a.dim else None for a in axes}
    return [(p.name, p.dtype, tuple(known.get((p.name, i), d) for i, d in enumerate(p.shape))) for p in ports]


def require(condition: bool, message: str) -> None:
    if not condition:
        raise BundleError(message)


def _check_buffers(plan: Plan, where: str, shard_sizes: Sequence[int] | None) -> None:
    for i, buffer in enumerate(plan.buffers):
        at = f"{where}.buffers[{i}]"
        if buffer.size <= 0 or buffer.size % 4 or buffer.size > _MAX_BYTES:
            raise BundleError(f"{at}: size {buffer.size} is not a positive multiple of 4")
        if buffer.kind != "weight":
            require(not buffer.shards, f"{at}: a {buffer.kind} buffer cannot have weight shards")
        elif shard_sizes is not None:
            for shard in buffer.shards:
                require(shard < len(shard_sizes), f"{at}: weight shard {shard} of {len(shard_sizes)} does not exist")
            total = sum(shard_sizes[s] for s in buffer.shards)
            require(total == buffer.size, f"{at}: {buffer.size} bytes, but its weight shards hold {total}")


def _check_step(plan: Plan, step: Step, at: str) -> None:
    if step.shader >= len(plan.shaders):
        raise BundleError(f"{at}: shader {step.shader} of {len(plan.shaders)} does not exist")
    if not all(1 <= g <= MAX_GRID for g in step.grid):
        raise BundleError(f"{at}: grid {step.grid} is not within 1..{MAX_GRID}")
    buffers = plan.buffers
    access: dict[int, str] = {}
    written: list[tuple[int, int, int, int]] = []
    for j, b in enumerate(step.bindings):
        if b.buffer >= len(buffers):
            raise BundleError(f"{at}.bindings[{j}]: buffer {b.buffer} of {len(buffers)} does not exist")
        buffer = buffers[b.buffer]
        if b.offset % OFFSET_ALIGNMENT:
            raise BundleError(f"{at}.bindings[{j}]: offset {b.offset} is not a multiple of {OFFSET_ALIGNMENT}")
        if b.size <= 0 or b.size % 4:
            raise BundleError(f"{at}.bindings[{j}]: size {b.size} is not a positive multiple of 4")
        if b.offset + b.size > buffer.size:
            raise BundleError(
                f"{at}.bindings[{j}]: bytes {b.offset}..{b.offset + b.size} lie outside buffer {b.buffer} "
                f"of {buffer.size} bytes"
            )
        if access.setdefault(b.buffer, b.access) != b.access:
            raise BundleError(f"{at}.bindings[{j}]: buffer {b.buffer} is bound both read and read_write")
        if b.access == "read_write":
            if buffer.kind in ("input", "weight"):
                raise BundleError(f"{at}.bindings[{j}]: {buffer.kind} buffer {b.buffer} is bound read_write")
            written.append((b.buffer, b.offset, b.offset + b.size, j))
    written.sort()
    for (buf0, _, end0, j0), (buf1, start1, _, j1) in pairwise(written):
        if buf0 == buf1 and start1 < end0:
            raise BundleError(f"{at}: read_write bindings {min(j0, j1)} and {max(j0, j1)} of buffer {buf0} overlap")
    for r in step.reads + step.writes:
        if r.buffer >= len(buffers):
            raise BundleError(f"{at}: region of buffer {r.buffer}, which does not exist")
        end = r.offset + r.size + (r.count - 1) * r.stride
        if r.count < 1 or end > buffers[r.buffer].size:
            raise BundleError(f"{at}: region {r.offset}..{end} lies outside buffer {r.buffer}")


def _check_ports(plan: Plan, ports: Sequence[Port], kind: str, where: str) -> None:
    names: set[str] = set()
    used: set[int] = set()
    for i, port in enumerate(ports):
        at = f"{where}[{i}]"
        require(bool(port.name) and port.name not in names, f"{at}: name {port.name!r} is empty or used twice")
        names.add(port.name)
        require(port.dtype in DTYPE_BITS, f"{at}: unknown data type {port.dtype!r}")
        require(len(port.shape) <= 32, f"{at}: rank {len(port.shape)} is above 32")
        require(port.buffer < len(plan.buffers), f"{at}: buffer {port.buffer} does not exist")
        buffer = plan.buffers[port.buffer]
        require(buffer.kind in (kind, "state"), f"{at}: {kind} {port.name!r} lies in a buffer of kind {buffer.kind}")
        need = port_bytes(port)
        require(
            need <= buffer.size,
            f"{at}: {port.dtype}{list(port.shape)} needs {need} bytes, its buffer has {buffer.size}",
        )
        require(kind == "output" or port.buffer not in used, f"{at}: two inputs share buffer {port.buffer}")
        used.add(port.buffer)
    for index, buffer in enumerate(plan.buffers):
        require(
            buffer.kind not in (kind, "state") or index in used, f"{where}: no port for {buffer.kind} buffer {index}"
        )


def _check_states(plan: Plan, where: str) -> None:
    """States are inputs and outputs of one type in one buffer, and the buffers of kind state are theirs."""
    inputs, outputs = ({p.name: p for p in ports} for ports in (plan.inputs, plan.outputs))
    held: list[int] = []
    for i, state in enumerate(plan.states):
        at = f"{where}.states[{i}]"
        require(state.input in inputs and state.output in outputs, f"{at}: there is no such input or output")
        a, b = inputs[state.input], outputs[state.output]
        same = (a.dtype, a.shape, a.buffer) == (b.dtype, b.shape, b.buffer)
        require(same, f"{at}: input {a.name!r} and output {b.name!r} are not of one type in one buffer")
        inside = state.axis < len(a.shape) and 1 <= state.count <= a.shape[state.axis]
        require(inside, f"{at}: {state.count} places of axis {state.axis} are not within {list(a.shape)}")
        held.append(a.buffer)
    ports = [p.buffer for p in plan.outputs]
    for index, buffer in enumerate(plan.buffers):
        good = held.count(index) == ports.count(index) == 1 if buffer.kind == "state" else index not in held
        require(good, f"{where}.states: {buffer.kind} buffer {index} is not that of one state")
