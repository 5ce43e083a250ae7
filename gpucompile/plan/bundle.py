"""The result of a compilation, in memory, and how it is written to disk.

    Bundle   plans (best first), WGSL texts by sha256, weight shards, IR text, report
      .save  ->  manifest.json  variants/<name>.json  shaders/<sha256>.wgsl  graph.gir  weights/<n>.bin

A `Bundle` offers the player the same access as a `BundleData` read from disk, so a graph runs without touching disk.
Writing goes to a temporary name beside the target, which is then renamed: a failure leaves what was there before.
Shards are put together one at a time, when they are uploaded, hashed or written.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TypeAlias

from gpucompile.errors import BundleError
from gpucompile.plan.weights import BytesLike, Content
from gpucompile.runtime.checks import check_buckets, check_plan, ports_of
from gpucompile.runtime.format import (
    FORMAT_VERSION,
    SHARD_BYTES,
    Bucket,
    FreeAxis,
    Manifest,
    OpenvinoModel,
    PartitionManifest,
    Plan,
    Port,
    Shard,
    to_json,
)

Progress: TypeAlias = "Callable[[str, int, int], None]"  # stage, done, total


@dataclass(frozen=True)
class Report:
    """What the compiler did: node counts, kernels (dispatches), bytes, seconds per phase in order, and with
    precision f16, how many ops stay float32, by op and reason."""

    nodes_before: int = 0
    nodes_after: int = 0
    kernels: int = 0
    scratch_bytes: int = 0
    scratch_bound_bytes: int = 0
    weight_bytes: int = 0
    phases: dict[str, float] = field(default_factory=dict)
    kept_float32: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def total(reports: Sequence[Report]) -> Report:
        """The sum over the parts of a model."""
        phases: dict[str, float] = {}
        kept: dict[str, int] = {}
        for r in reports:
            for name, seconds in r.phases.items():
                phases[name] = phases.get(name, 0.0) + seconds
            for why, count in r.kept_float32.items():
                kept[why] = kept.get(why, 0) + count
        names = [f.name for f in fields(Report) if f.name not in ("phases", "kept_float32")]
        numbers = {name: sum(getattr(r, name) for r in reports) for name in names}
        return Report(**numbers, phases=phases, kept_float32=kept)


@dataclass(frozen=True)
class OpenvinoFiles:
    """An OpenVINO model and the files that it names."""

    model: OpenvinoModel
    files: Mapping[str, bytes]


class Bundle:
    """A compiled graph in memory.

    plans    one per variant, best first; all (of a bucket) with the same inputs and outputs
    shaders  WGSL texts without prelude, by sha256; others than those the plans use are refused
    weights  content of the weight shards, as `WeightStore` gives them
    buckets  sizes of free dimensions with the plans for them, smallest first; `free_axes` says which axes
             have these sizes
    openvino OpenVINO models by device, cpu or npu, beside the plans or instead of them

    Raises BundleError (a defect of the compiler) if a plan is inconsistent or a shader is missing.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        shaders: Mapping[str, str],
        weights: Sequence[BytesLike | Content] = (),
        *,
        gir: str = "",
        source_sha256: str = "",
        dims: Mapping[str, int] | None = None,
        licence: str = "",
        report: Report | None = None,
        buckets: Sequence[Bucket] = (),
        free_axes: Sequence[FreeAxis] = (),
        openvino: Mapping[str, OpenvinoFiles] | None = None,
    ) -> None:
        if not plans and not openvino:
            raise BundleError("a bundle needs at least one plan or OpenVINO model")
        self.plans = tuple(plans)
        self.shaders = dict(shaders)
        self.report = report
        self.source_sha256 = source_sha256
        self.dims = dict(dims or {})
        self.licence = licence
        self.buckets, self.free_axes = tuple(buckets), tuple(free_axes)
        self._gir = gir
        self._openvino = dict(openvino or {})
        self._shards = [w if isinstance(w, Content) else Content.of(w) for w in weights]
        self._by_name = {p.name: p for p in self.plans}
        self._check()

    def _check(self) -> None:
        if len(self._by_name) != len(self.plans):
            raise BundleError("two plans of a bundle have the same name")
        sizes, (inputs, outputs) = [len(s) for s in self._shards], self.ports
        for i, size in enumerate(sizes):
            if not 0 < size <= SHARD_BYTES or size % 4:
                raise BundleError(f"weight shard {i} has {size} bytes: no positive multiple of 4 up to {SHARD_BYTES}")
        check_buckets(self.buckets, self.free_axes, self.variants, (inputs, outputs), "the bundle")
        for plan in self.plans:
            dims = next((b.dims for b in self.buckets if plan.name in b.variants), {})
            promised = ports_of(inputs, self.free_axes, dims), ports_of(outputs, self.free_axes, dims)
            check_plan(plan, f"plan {plan.name}", sizes, promised)
            for sha in plan.shaders:
                if sha not in self.shaders:
                    raise BundleError(f"plan {plan.name}: shader {sha} is missing from the bundle")
        used = {sha for plan in self.plans for sha in plan.shaders}
        for sha, text in self.shaders.items():
            if sha not in used:
                raise BundleError(f"shader {sha} belongs to no plan")
            if hashlib.sha256(text.encode()).hexdigest() != sha:
                raise BundleError(f"shader {sha}: the text has another sha256")

    @property
    def ports(self) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
        """Inputs and outputs; those of the first plan, if there is one, also say in which buffer they are."""
        first = self.plans[0] if self.plans else next(iter(self._openvino.values())).model
        return first.inputs, first.outputs

    # ------------------------------------------------------------------ what the player reads

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the plans, best first."""
        return tuple(p.name for p in self.plans)

    @cached_property
    def manifest(self) -> Manifest:
        """The table of contents; hashes all weights when first asked for."""
        shards = tuple(
            Shard(f"weights/{i}.bin", len(s), hashlib.sha256(s.bytes()).hexdigest()) for i, s in enumerate(self._shards)
        )
        inputs, outputs = self.ports
        return Manifest(
            version=FORMAT_VERSION,
            producer=f"gpucompile {version()}",
            source_sha256=self.source_sha256,
            dims=self.dims,
            variants=self.variants,
            shards=shards,
            inputs=inputs,
            outputs=outputs,
            licence=self.licence,
            buckets=self.buckets,
            free_axes=self.free_axes,
            openvino=tuple(self._openvino),  # type: ignore[arg-type]  # its keys are checked where they are made
        )

    def plan(self, name: str) -> Plan:
        """One plan by name."""
        try:
            return self._by_name[name]
        except KeyError:
            raise BundleError(f"no variant {name!r}; there are {', '.join(self.variants)}") from None

    def shader(self, sha256: str) -> str:
        """WGSL text without prelude."""
        try:
            return self.shaders[sha256]
        except KeyError:
            raise BundleError(f"no shader {sha256}") from None

    def shard(self, index: int) -> memoryview:
        """Bytes of one weight shard."""
        if not 0 <= index < len(self._shards):
            raise BundleError(f"weight shard {index} does not exist")
        return self._shards[index].bytes()

    @property
    def openvino(self) -> tuple[str, ...]:
        """The devices that there are OpenVINO models for."""
        return tuple(self._openvino)

    def openvino_model(self, device: str) -> OpenvinoModel:
        """The OpenVINO model for a device, cpu or npu."""
        if device not in self._openvino:
            raise BundleError(f"no OpenVINO model for {device!r}; compile with devices=({device!r},)")
        inputs, outputs = self.ports
        return replace(self._openvino[device].model, inputs=inputs, outputs=outputs)

    def map_openvino(self, change: Callable[[OpenvinoFiles], OpenvinoFiles]) -> None:
        """Replace each OpenVINO model by what `change` makes of it."""
        self._openvino = {device: change(files) for device, files in self._openvino.items()}

    def openvino_file(self, file: Shard) -> memoryview:
        """The content of one of a model's files."""
        return next(memoryview(m.files[file.file]) for m in self._openvino.values() if file.file in m.files)

    def gir(self) -> str:
        """The graph as IR text."""
        return self._gir

    # ------------------------------------------------------------------ writing

    def save(self, path: str | Path, progress: Progress | None = None) -> Path:
        """Write the bundle: a stored zip if the name ends in `.gpub`, else a directory. Returns the path.

        An existing bundle of that name is replaced once the new one is complete; anything else there is left alone.
        `progress(stage, done, total)` is called with bytes. Raises BundleError if the path cannot be written.
        """
        return write_bundle(path, self.files(), progress)

    def files(self) -> list[tuple[str, Content]]:
        """Names and contents in the order in which a player wants them."""
        texts = {"manifest.json": json_text(self.manifest)}
        texts |= {f"variants/{p.name}.json": json_text(p) for p in self.plans}
        texts |= {f"shaders/{sha}.wgsl": self.shaders[sha] for sha in sorted(self.shaders)}
        texts |= {f"openvino/{device}.json": json_text(self.openvino_model(device)) for device in self._openvino}
        texts["graph.gir"] = self._gir
        files = [(name, Content.of(text.encode())) for name, text in texts.items()]
        files += [(f"weights/{i}.bin", shard) for i, shard in enumerate(self._shards)]
        return files + [(name, Content.of(data)) for m in self._openvino.values() for name, data in m.files.items()]


# ---------------------------------------------------------------------------------------------- writing

Files: TypeAlias = "Sequence[tuple[str, Content]]"  # names and contents


def write_bundle(path: str | Path, files: Files, progress: Progress | None = None) -> Path:
    """Write the files of a bundle, see `Bundle.save`."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        if path.suffix == ".gpub":
            _save_zip(temporary, path, _reported(files, progress))
        else:
            _save_directory(temporary, path, _reported(files, progress))
    except OSError as e:
        raise BundleError(f"{path}: cannot write the bundle: {e.strerror or e}") from e
    finally:
        _remove(temporary)
    return path


def _reported(files: Files, progress: Progress | None) -> Iterator[tuple[str, memoryview]]:
    done, total = 0, sum(len(data) for _, data in files)
    for name, data in files:
        yield name, data.bytes()
        done += len(data)
        if progress is not None:
            progress("write", done, total)


def _save_zip(temporary: Path, path: Path, files: Iterator[tuple[str, memoryview]]) -> None:
    if path.is_dir():
        raise BundleError(f"{path}: a directory is in the way of the bundle file")
    with temporary.open("xb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files:
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)  # type: ignore[arg-type,unused-ignore]
    temporary.replace(path)


def _save_directory(temporary: Path, path: Path, files: Iterator[tuple[str, memoryview]]) -> None:
    if path.exists() and not path.is_dir():
        raise BundleError(f"{path}: a file is in the way of the bundle directory (did you mean {path.name}.gpub?)")
    if path.is_dir() and any(path.iterdir()) and not (path / "manifest.json").is_file():
        raise BundleError(f"{path}: this directory holds something that is no bundle; give another name")
    for name, data in files:
        file = temporary / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    old = temporary.with_suffix(".old")
    if path.exists():
        path.rename(old)
    try:
        temporary.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    _remove(old)


def json_text(obj: Plan | Manifest | OpenvinoModel | PartitionManifest) -> str:
    """A plan or manifest as it is written."""
    return json.dumps(to_json(obj), separators=(",", ":"), ensure_ascii=False) + "\n"


def version() -> str:
    """Of gpucompile."""
    try:
        return metadata.version("gpucompile")
    except metadata.PackageNotFoundError:
        return "unknown"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
