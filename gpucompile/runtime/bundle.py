"""Reading a shader bundle: a directory, or the same files in a stored zip (`*.gpub`).

    path -> store (names -> bytes) -> manifest.json -> variants/<name>.json -> checked Plan
                                   -> shaders/<sha256>.wgsl, weights/<n>.bin: read when asked for, hash checked

A bundle may come from anywhere, so nothing in it is trusted: file names, versions, field names and types, hashes,
indices, offsets, sizes and dispatch grids are all checked before a byte reaches a device. Every failure is a
`BundleError` that says what is wrong and where. Weights are mapped, not read, and stay on disk until they are uploaded.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from gpucompile.errors import BundleError
from gpucompile.runtime.format import (
    FORMAT_VERSION,
    SHARD_BYTES,
    Manifest,
    Plan,
    Port,
    Requires,
    Step,
    from_json,
)

#: Bits per element of every WebNN data type a port can have.
DTYPE_BITS: dict[str, int] = {
    "float32": 32, "float16": 16, "int32": 32, "uint32": 32, "int64": 64, "uint64": 64,
    "int8": 8, "uint8": 8, "int4": 4, "uint4": 4,
}  # fmt: skip

OFFSET_ALIGNMENT = 256  # WebGPU's default min-storage-buffer-offset-alignment
MAX_GRID = 65535  # workgroups per dimension, WebGPU's default and every device's maximum
_MAX_BYTES = 1 << 53  # what JavaScript can count

_LAYOUT = re.compile(
    r"manifest\.json|graph\.gir|variants/[A-Za-z0-9][A-Za-z0-9._-]{0,63}\.json|shaders/[0-9a-f]{64}\.wgsl"
    r"|weights/(0|[1-9][0-9]{0,5})\.bin"
)
_FOLDERS = ("variants/", "shaders/", "weights/")
_VARIANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class BundleLike(Protocol):
    """What the player needs of a bundle: a `BundleData` read from disk, or a `Bundle` just compiled."""

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the plans, best first."""

    def plan(self, name: str) -> Plan:
        """One plan by name."""

    def shader(self, sha256: str) -> str:
        """WGSL text without prelude."""

    def shard(self, index: int) -> memoryview:
        """Bytes of one weight shard."""


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
    ports: tuple[Sequence[Port], Sequence[Port]] | None = None,
) -> None:
    """Raise BundleError unless every index, offset, size, name and shape of a plan is consistent.

    `where` names the plan in messages; `shard_sizes` are the sizes of the bundle's weight shards and `ports` the inputs
    and outputs its manifest promises (both unchecked if None). Data flow is `gpucompile.plan.verify`'s matter.
    """
    for i, sha in enumerate(plan.shaders):
        _require(_SHA256.fullmatch(sha) is not None, f"{where}.shaders[{i}]: not a sha256: {sha[:80]!r}")
    _check_buffers(plan, where, shard_sizes)
    for i, step in enumerate(plan.steps):
        _check_step(plan, step, f"{where}.steps[{i}]")
    _check_ports(plan, plan.inputs, "input", f"{where}.inputs")
    _check_ports(plan, plan.outputs, "output", f"{where}.outputs")
    if ports is not None:
        for kind, mine, promised in (("inputs", plan.inputs, ports[0]), ("outputs", plan.outputs, ports[1])):
            left = [(p.name, p.dtype, p.shape) for p in mine]
            right = [(p.name, p.dtype, p.shape) for p in promised]
            _require(left == right, f"{where}.{kind}: differ from the manifest's")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise BundleError(message)


def _check_buffers(plan: Plan, where: str, shard_sizes: Sequence[int] | None) -> None:
    for i, buffer in enumerate(plan.buffers):
        at = f"{where}.buffers[{i}]"
        if buffer.size <= 0 or buffer.size % 4 or buffer.size > _MAX_BYTES:
            raise BundleError(f"{at}: size {buffer.size} is not a positive multiple of 4")
        if buffer.kind != "weight":
            _require(not buffer.shards, f"{at}: a {buffer.kind} buffer cannot have weight shards")
        elif shard_sizes is not None:
            for shard in buffer.shards:
                _require(shard < len(shard_sizes), f"{at}: weight shard {shard} of {len(shard_sizes)} does not exist")
            total = sum(shard_sizes[s] for s in buffer.shards)
            _require(total == buffer.size, f"{at}: {buffer.size} bytes, but its weight shards hold {total}")


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
        _require(bool(port.name) and port.name not in names, f"{at}: name {port.name!r} is empty or used twice")
        names.add(port.name)
        _require(port.dtype in DTYPE_BITS, f"{at}: unknown data type {port.dtype!r}")
        _require(len(port.shape) <= 32, f"{at}: rank {len(port.shape)} is above 32")
        _require(port.buffer < len(plan.buffers), f"{at}: buffer {port.buffer} does not exist")
        buffer = plan.buffers[port.buffer]
        _require(buffer.kind == kind, f"{at}: {kind} {port.name!r} lies in a buffer of kind {buffer.kind}")
        need = port_bytes(port)
        _require(
            need <= buffer.size,
            f"{at}: {port.dtype}{list(port.shape)} needs {need} bytes, its buffer has {buffer.size}",
        )
        _require(kind == "output" or port.buffer not in used, f"{at}: two inputs share buffer {port.buffer}")
        used.add(port.buffer)
    for index, buffer in enumerate(plan.buffers):
        _require(buffer.kind != kind or index in used, f"{where}: no port for {kind} buffer {index}")


# ---------------------------------------------------------------------------------------------- files


class _Store(Protocol):
    """The files of a bundle by name, wherever they are."""

    def size(self, name: str) -> int:
        """Size in bytes; BundleError if there is no such file."""

    def read(self, name: str) -> memoryview:
        """The content, mapped where possible."""

    def close(self) -> None:
        """Let go of the files; views handed out stay valid."""


def _map(path: Path) -> memoryview:
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as e:
        raise BundleError(f"{path}: cannot read: {e.strerror or e}") from None


class _DirectoryStore:
    def __init__(self, path: Path) -> None:
        self._root = path.resolve()

    def _path(self, name: str) -> Path:
        path = self._root / name
        try:
            if path.is_file() and path.resolve().is_relative_to(self._root):
                return path
        except (OSError, RuntimeError):  # a loop of symbolic links
            pass
        raise BundleError(f"{name}: missing from the bundle {self._root}")

    def size(self, name: str) -> int:
        return self._path(name).stat().st_size

    def read(self, name: str) -> memoryview:
        return _map(self._path(name))

    def close(self) -> None:
        pass


_ZIP_ERRORS = (
    zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, OverflowError, IndexError, KeyError, EOFError,
    OSError, MemoryError,
)  # fmt: skip


class _ZipStore:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._data = _map(path)
        self._entries: dict[str, tuple[int, int, int]] = {}  # name -> start, size, crc
        try:
            with path.open("rb") as file, zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
        except _ZIP_ERRORS as e:
            raise BundleError(f"{path}: not a shader bundle (damaged or no zip): {e}") from None
        spans = []
        for info in infos:
            name = info.orig_filename
            if name in _FOLDERS and info.file_size == 0:
                continue
            if not _LAYOUT.fullmatch(name):
                raise BundleError(f"{path}: unexpected entry {name[:80]!r}; not part of a bundle's layout")
            if name in self._entries:
                raise BundleError(f"{path}: entry {name} occurs twice")
            start = self._start(info)
            spans.append((info.header_offset, start + info.file_size, name))
            self._entries[name] = (start, info.file_size, info.CRC)
        spans.sort()
        for (_, end, first), (start, _, second) in pairwise(spans):
            if start < end:
                raise BundleError(f"{path}: entries {first} and {second} overlap")

    def _start(self, info: zipfile.ZipInfo) -> int:
        """Where an entry's content starts, after checking its local header against the directory."""
        name, at, data = info.orig_filename, info.header_offset, self._data
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1:
            raise BundleError(f"{self._path}: entry {name} is compressed or encrypted; a bundle's entries are stored")
        header = bytes(data[at : at + 30]) if 0 <= at <= len(data) else b""
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise BundleError(f"{self._path}: entry {name} has no valid header at byte {at}")
        name_size, extra_size = struct.unpack_from("<HH", header, 26)
        if bytes(data[at + 30 : at + 30 + name_size]) != name.encode("utf-8"):
            raise BundleError(f"{self._path}: entry {name} has another name in its header")
        start = int(at + 30 + name_size + extra_size)
        if info.compress_size != info.file_size or start + info.file_size > len(data):
            raise BundleError(f"{self._path}: entry {name} is truncated")
        return start

    def _entry(self, name: str) -> tuple[int, int, int]:
        if name not in self._entries:
            raise BundleError(f"{name}: missing from the bundle {self._path}")
        return self._entries[name]

    def size(self, name: str) -> int:
        return self._entry(name)[1]

    def read(self, name: str) -> memoryview:
        start, size, crc = self._entry(name)
        data = self._data[start : start + size]
        if not name.startswith("weights/") and zlib.crc32(data) != crc:  # weights have a sha256
            raise BundleError(f"{name}: checksum differs from the zip directory's; the bundle {self._path} is damaged")
        return data

    def close(self) -> None:
        self._data = memoryview(b"")
        self._entries = {}


# ---------------------------------------------------------------------------------------------- bundles


class BundleData:
    """A bundle on disk. Plans, shaders and weights are read, and checked, when asked for."""

    def __init__(self, store: _Store, origin: str) -> None:
        self._store: _Store | None = store
        self._plans: dict[str, Plan] = {}
        self.origin = origin
        self.manifest = self._read_manifest()

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the plans, best first."""
        return self.manifest.variants

    def plan(self, name: str) -> Plan:
        """One plan by name, checked; BundleError if it is damaged or does not exist."""
        if name not in self._plans:
            if name not in self.manifest.variants:
                raise BundleError(f"no variant {name[:80]!r}; there are {', '.join(self.manifest.variants)}")
            file, m = f"variants/{name}.json", self.manifest
            plan = from_json(Plan, self._json(file), file)
            _require(plan.name == name, f"{file}: calls itself {plan.name[:80]!r}")
            check_plan(plan, file, [s.size for s in m.shards], (m.inputs, m.outputs))
            for sha in plan.shaders:
                self._files().size(f"shaders/{sha}.wgsl")
            self._plans[name] = plan
        return self._plans[name]

    def shader(self, sha256: str) -> str:
        """WGSL text without prelude; its hash is checked."""
        _require(_SHA256.fullmatch(sha256) is not None, f"not a sha256: {sha256[:80]!r}")
        name = f"shaders/{sha256}.wgsl"
        data = bytes(self._files().read(name))
        _require(hashlib.sha256(data).hexdigest() == sha256, f"{name}: content does not match its sha256")
        return _text(data, name)

    def shard(self, index: int) -> memoryview:
        """Bytes of one weight shard, mapped from disk; its hash is checked."""
        _require(0 <= index < len(self.manifest.shards), f"weight shard {index} does not exist")
        shard = self.manifest.shards[index]
        data = self._files().read(shard.file)
        _require(len(data) == shard.size, f"{shard.file}: {len(data)} bytes, the manifest says {shard.size}")
        digest = hashlib.sha256(data).hexdigest()
        _require(digest == shard.sha256, f"{shard.file}: content does not match its sha256; the bundle is damaged")
        return data

    def gir(self) -> str:
        """The graph as IR text."""
        return _text(bytes(self._files().read("graph.gir")), "graph.gir")

    def close(self) -> None:
        """Let go of the files. Views of shards that were handed out stay valid."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def __enter__(self) -> BundleData:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _files(self) -> _Store:
        if self._store is None:
            raise BundleError(f"the bundle {self.origin} is closed")
        return self._store

    def _read_manifest(self) -> Manifest:
        data = self._json("manifest.json")
        version = data.get("version") if isinstance(data, dict) else None
        if version != FORMAT_VERSION or isinstance(version, bool):
            raise BundleError(
                f"{self.origin}: bundle format version {version!r:.40}, but this gpucompile reads {FORMAT_VERSION}. "
                "Compile the model again or use another gpucompile"
            )
        m = from_json(Manifest, data, "manifest.json")
        _require(bool(m.variants), "manifest.json.variants: a bundle needs at least one variant")
        _require(len(set(m.variants)) == len(m.variants), "manifest.json.variants: a name occurs twice")
        for name in m.variants:
            _require(_VARIANT.fullmatch(name) is not None, f"manifest.json.variants: not a plain name: {name[:80]!r}")
            self._files().size(f"variants/{name}.json")
        for i, shard in enumerate(m.shards):
            at = f"manifest.json.shards[{i}]"
            _require(shard.file == f"weights/{i}.bin", f"{at}: file must be weights/{i}.bin, found {shard.file[:80]!r}")
            _require(_SHA256.fullmatch(shard.sha256) is not None, f"{at}: not a sha256: {shard.sha256[:80]!r}")
            good = 0 < shard.size <= SHARD_BYTES and shard.size % 4 == 0
            _require(good, f"{at}: size {shard.size} is not a positive multiple of 4 of at most {SHARD_BYTES}")
            size = self._files().size(shard.file)
            _require(size == shard.size, f"{shard.file}: {size} bytes, the manifest says {shard.size}")
        return m

    def _json(self, name: str) -> Any:
        data = bytes(self._files().read(name))
        try:
            return json.loads(_text(data, name), object_pairs_hook=_unique)
        except BundleError as e:
            raise BundleError(f"{name}: {e}" if not str(e).startswith(name) else str(e)) from None
        except (ValueError, RecursionError) as e:
            raise BundleError(f"{name}: not valid JSON: {str(e)[:200]}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    _require(len(out) == len(pairs), "a field occurs twice in one object")
    return out


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise BundleError(f"{name}: not UTF-8 text (byte {e.start})") from None


def read_bundle(path: str | Path) -> BundleData:
    """Open a bundle: a directory, or a stored zip of it (`.gpub`).

    Raises BundleError if it is damaged, has an unknown version, or is no bundle at all.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return BundleData(_DirectoryStore(path), str(path))
        if not path.exists():
            raise BundleError(f"{path}: no such file or directory")
    except OSError as e:
        raise BundleError(f"{path}: cannot read: {e.strerror or e}") from None
    except ValueError as e:  # a NUL in the path
        raise BundleError(f"{str(path)!r}: not a path: {e}") from None
    return BundleData(_ZipStore(path), str(path))
