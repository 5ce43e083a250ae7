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
import mmap
import re
import struct
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from gpucompile.errors import BundleError
from gpucompile.runtime.checks import (
    SHA256,
    VARIANT,
    check_buckets,
    check_plan,
    ports_of,
    require,
)
from gpucompile.runtime.format import (
    FORMAT_VERSION,
    SHARD_BYTES,
    Bucket,
    FreeAxis,
    Manifest,
    OpenvinoModel,
    Plan,
    Shard,
    from_json,
)

_LAYOUT = re.compile(
    r"(parts/(0|[1-9][0-9]{0,4})/)?"
    r"(manifest\.json|graph\.gir|variants/[A-Za-z0-9][A-Za-z0-9._-]{0,63}\.json|shaders/[0-9a-f]{64}\.wgsl"
    r"|weights/(0|[1-9][0-9]{0,5})\.bin|openvino/(cpu|npu)\.(json|xml|bin|blob))|parts/(0|[1-9][0-9]{0,4})/model\.onnx"
)
_FOLDER = re.compile(r"(parts/((0|[1-9][0-9]{0,4})/)?)?((variants|shaders|weights|openvino)/)?")


class BundleLike(Protocol):
    """What the player needs of a bundle: a `BundleData` read from disk, or a `Bundle` just compiled."""

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the plans, best first."""

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The sizes of free dimensions there are plans for, smallest first; none where no dimension is free."""

    @property
    def free_axes(self) -> tuple[FreeAxis, ...]:
        """The axes of inputs and outputs whose sizes depend on free dimensions."""

    def plan(self, name: str) -> Plan:
        """One plan by name."""

    def shader(self, sha256: str) -> str:
        """WGSL text without prelude."""

    def shard(self, index: int) -> memoryview:
        """Bytes of one weight shard."""


class HasOpenvino(Protocol):
    """What `OpenvinoExecutable` needs of a bundle."""

    @property
    def openvino(self) -> tuple[str, ...]:
        """The devices that there are OpenVINO models for, cpu or npu."""

    def openvino_model(self, device: str) -> OpenvinoModel:
        """The model for a device."""

    def openvino_file(self, file: Shard) -> memoryview:
        """The content of one of a model's files."""


# ---------------------------------------------------------------------------------------------- files


class Store(Protocol):
    """The files of a bundle by name, wherever they are."""

    def names(self) -> list[str]:
        """The names of all files that belong to a bundle's layout."""

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

    def names(self) -> list[str]:
        found = (p.relative_to(self._root).as_posix() for p in sorted(self._root.rglob("*")) if p.is_file())
        return [name for name in found if _LAYOUT.fullmatch(name)]

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
            if info.file_size == 0 and _FOLDER.fullmatch(name):
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

    def names(self) -> list[str]:
        return list(self._entries)

    def size(self, name: str) -> int:
        return self._entry(name)[1]

    def read(self, name: str) -> memoryview:
        start, size, crc = self._entry(name)
        data = self._data[start : start + size]
        if "weights/" not in name and zlib.crc32(data) != crc:  # weights have a sha256
            raise BundleError(f"{name}: checksum differs from the zip directory's; the bundle {self._path} is damaged")
        return data

    def close(self) -> None:
        self._data = memoryview(b"")
        self._entries = {}


class PartStore:
    """The files of one part of a bundle in parts."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store, self._prefix = store, prefix

    def names(self) -> list[str]:
        return [n.removeprefix(self._prefix) for n in self._store.names() if n.startswith(self._prefix)]

    def size(self, name: str) -> int:
        return self._store.size(self._prefix + name)

    def read(self, name: str) -> memoryview:
        return self._store.read(self._prefix + name)

    def close(self) -> None:
        """Nothing: the whole bundle closes its store."""


# ---------------------------------------------------------------------------------------------- bundles


class OpenFiles:
    """The files of a bundle on disk, until it is closed; `origin` is how messages call the bundle."""

    def __init__(self, store: Store, origin: str) -> None:
        self._store: Store | None = store
        self.origin = origin

    def close(self) -> None:
        """Let go of the files. Views of shards that were handed out stay valid."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _files(self) -> Store:
        if self._store is None:
            raise BundleError(f"the bundle {self.origin} is closed")
        return self._store


class BundleData(OpenFiles):
    """A bundle on disk. Plans, shaders and weights are read, and checked, when asked for."""

    def __init__(self, store: Store, origin: str) -> None:
        super().__init__(store, origin)
        self._plans: dict[str, Plan] = {}
        self.manifest = self._read_manifest()

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the plans, best first."""
        return self.manifest.variants

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The sizes of free dimensions there are plans for, smallest first; none where no dimension is free."""
        return self.manifest.buckets

    @property
    def free_axes(self) -> tuple[FreeAxis, ...]:
        """The axes of inputs and outputs whose sizes depend on free dimensions."""
        return self.manifest.free_axes

    def plan(self, name: str) -> Plan:
        """One plan by name, checked; BundleError if it is damaged or does not exist."""
        if name not in self._plans:
            if name not in self.manifest.variants:
                raise BundleError(f"no variant {name[:80]!r}; there are {', '.join(self.manifest.variants)}")
            file, m = f"variants/{name}.json", self.manifest
            plan = from_json(Plan, self._json(file), file)
            require(plan.name == name, f"{file}: calls itself {plan.name[:80]!r}")
            dims = next((b.dims for b in m.buckets if name in b.variants), {})
            promised = ports_of(m.inputs, m.free_axes, dims), ports_of(m.outputs, m.free_axes, dims)
            check_plan(plan, file, [s.size for s in m.shards], promised)
            for sha in plan.shaders:
                self._files().size(f"shaders/{sha}.wgsl")
            self._plans[name] = plan
        return self._plans[name]

    def shader(self, sha256: str) -> str:
        """WGSL text without prelude; its hash is checked."""
        require(SHA256.fullmatch(sha256) is not None, f"not a sha256: {sha256[:80]!r}")
        name = f"shaders/{sha256}.wgsl"
        data = bytes(self._files().read(name))
        require(hashlib.sha256(data).hexdigest() == sha256, f"{name}: content does not match its sha256")
        return _text(data, name)

    def shard(self, index: int) -> memoryview:
        """Bytes of one weight shard, mapped from disk; its hash is checked."""
        require(0 <= index < len(self.manifest.shards), f"weight shard {index} does not exist")
        shard = self.manifest.shards[index]
        data = self._files().read(shard.file)
        require(len(data) == shard.size, f"{shard.file}: {len(data)} bytes, the manifest says {shard.size}")
        digest = hashlib.sha256(data).hexdigest()
        require(digest == shard.sha256, f"{shard.file}: content does not match its sha256; the bundle is damaged")
        return data

    @property
    def openvino(self) -> tuple[str, ...]:
        """The devices that there are OpenVINO models for."""
        return self.manifest.openvino

    def openvino_model(self, device: str) -> OpenvinoModel:
        """The OpenVINO model for a device, cpu or npu; BundleError if it is damaged or does not exist."""
        require(device in self.openvino, f"no OpenVINO model for {device[:80]!r} in the bundle {self.origin}")
        name = f"openvino/{device}"
        model = from_json(OpenvinoModel, self._json(f"{name}.json"), f"{name}.json")
        require(model.device == device, f"{name}.json: calls itself {model.device}")
        require(model.inputs == self.manifest.inputs, f"{name}.json: its inputs are not the manifest's")
        require(model.outputs == self.manifest.outputs, f"{name}.json: its outputs are not the manifest's")
        files = {model.xml: "xml", model.weights: "bin"} | {blob.data: "blob" for blob in model.blobs}
        for file, kind in files.items():
            require(file.file == f"{name}.{kind}", f"{name}.json: unexpected file name {file.file[:80]!r}")
            require(SHA256.fullmatch(file.sha256) is not None, f"{name}.json: not a sha256: {file.sha256[:80]!r}")
            size = self._files().size(file.file)
            require(size == file.size, f"{file.file}: {size} bytes, {name}.json says {file.size}")
        return model

    def openvino_file(self, file: Shard) -> memoryview:
        """The content of one of a model's files; its hash is checked."""
        data = self._files().read(file.file)
        require(hashlib.sha256(data).hexdigest() == file.sha256, f"{file.file}: content does not match its sha256")
        return data

    def gir(self) -> str:
        """The graph as IR text."""
        return _text(bytes(self._files().read("graph.gir")), "graph.gir")

    def _read_manifest(self) -> Manifest:
        data = manifest_json(self._files(), self.origin)
        if "parts" in data:
            raise BundleError(f"{self.origin}: a bundle in parts, some of them for the CPU; open it with open_bundle")
        m = from_json(Manifest, data, "manifest.json")
        some = bool(m.variants or m.openvino)
        require(some, "manifest.json.variants: a bundle needs at least one variant, or an OpenVINO model")
        require(len(set(m.openvino)) == len(m.openvino), "manifest.json.openvino: a name occurs twice")
        require(len(set(m.variants)) == len(m.variants), "manifest.json.variants: a name occurs twice")
        for name in m.variants:
            require(VARIANT.fullmatch(name) is not None, f"manifest.json.variants: not a plain name: {name[:80]!r}")
            self._files().size(f"variants/{name}.json")
        check_buckets(m.buckets, m.free_axes, m.variants, (m.inputs, m.outputs), "manifest.json")
        for i, shard in enumerate(m.shards):
            at = f"manifest.json.shards[{i}]"
            require(shard.file == f"weights/{i}.bin", f"{at}: file must be weights/{i}.bin, found {shard.file[:80]!r}")
            require(SHA256.fullmatch(shard.sha256) is not None, f"{at}: not a sha256: {shard.sha256[:80]!r}")
            good = 0 < shard.size <= SHARD_BYTES and shard.size % 4 == 0
            require(good, f"{at}: size {shard.size} is not a positive multiple of 4 of at most {SHARD_BYTES}")
            size = self._files().size(shard.file)
            require(size == shard.size, f"{shard.file}: {size} bytes, the manifest says {shard.size}")
        return m

    def _json(self, name: str) -> Any:
        return read_json(self._files(), name)


def manifest_json(store: Store, origin: str) -> dict[str, Any]:
    """The manifest as JSON, of a version that can be read."""
    data = read_json(store, "manifest.json")
    version = data.get("version") if isinstance(data, dict) else None
    if not isinstance(data, dict) or version != FORMAT_VERSION or isinstance(version, bool):
        raise BundleError(
            f"{origin}: bundle format version {version!r:.40}, but this gpucompile reads {FORMAT_VERSION}. "
            "Compile the model again or use another gpucompile"
        )
    return data


def read_json(store: Store, name: str) -> Any:
    """A file of a bundle as JSON."""
    data = bytes(store.read(name))
    try:
        return json.loads(_text(data, name), object_pairs_hook=_unique)
    except BundleError as e:
        raise BundleError(f"{name}: {e}" if not str(e).startswith(name) else str(e)) from None
    except (ValueError, RecursionError) as e:
        raise BundleError(f"{name}: not valid JSON: {str(e)[:200]}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    require(len(out) == len(pairs), "a field occurs twice in one object")
    return out


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise BundleError(f"{name}: not UTF-8 text (byte {e.start})") from None


def read_bundle(path: str | Path) -> BundleData:
    """Open a bundle: a directory, or a stored zip of it (`.gpub`).

    Raises BundleError if it is damaged, has an unknown version, or is no bundle at all, or one in parts.
    """
    return BundleData(open_store(path), str(path))


def open_store(path: str | Path) -> Store:
    """The files of a bundle."""
    path = Path(path)
    if "\0" in str(path):
        raise BundleError(f"{str(path)!r}: not a path: it has a NUL character")
    try:
        if path.is_dir():
            return _DirectoryStore(path)
        if not path.exists():
            raise BundleError(f"{path}: no such file or directory")
    except OSError as e:
        raise BundleError(f"{path}: cannot read: {e.strerror or e}") from None
    return _ZipStore(path)
