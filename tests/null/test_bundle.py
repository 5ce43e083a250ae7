"""Bundles on disk: what is written reads back, and nothing damaged gets through."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpucompile.errors import BundleError
from gpucompile.plan.bundle import Bundle
from gpucompile.plan.weights import Place, make_shards
from gpucompile.runtime.bundle import read_bundle
from gpucompile.runtime.checks import check_requires, port_bytes
from gpucompile.runtime.format import Binding, Buffer, Plan, Port, Region, Requires, Step, to_json

TEXT = "@compute @workgroup_size(1) fn main() {}\n"
SHA = hashlib.sha256(TEXT.encode()).hexdigest()


def make(name: str = "base", licence: str = "") -> Bundle:
    """Two steps over an arena, weights in three shards."""
    rng = np.random.default_rng(0)
    weights = make_shards([rng.integers(0, 255, 300, np.uint8), rng.integers(0, 255, 100, np.uint8)], shard_bytes=256)
    buffers = (
        Buffer("input", 64, "x"),
        weights.buffers[0],
        Buffer("scratch", 1024),
        Buffer("output", 16, "y"),
    )
    steps = (
        Step(0, (1, 2, 3), (Binding(0, 0, 64, "read"), Binding(1, 256, 300, "read"), Binding(2, 0, 64, "read_write")),
             "first", (Region(0, 0, 0, 64),), (Region(2, 1, 0, 16, 2, 32),)),
        Step(0, (65535, 1, 1), (Binding(2, 0, 64, "read_write"), Binding(2, 256, 64, "read_write"))),
    )  # fmt: skip
    plan = Plan(
        name,
        Requires(("shader-f16",), {"max-buffer-size": 1024}),
        (SHA,),
        buffers,
        steps,
        (Port("x", "float32", (1, 16), 0),),
        (Port("y", "float16", (2, 4), 3),),
        scratch_bound=512,
    )
    return Bundle([plan], {SHA: TEXT}, weights.shards, gir="graph {}\n", source_sha256="", licence=licence)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make().save(tmp_path / "model")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return make().save(tmp_path / "model.gpub")


def read_all(path: Path) -> None:
    """Everything a loader reads."""
    with read_bundle(path) as bundle:
        for name in bundle.variants:
            for sha in bundle.plan(name).shaders:
                bundle.shader(sha)
        for i in range(len(bundle.manifest.shards)):
            bundle.shard(i)
        bundle.gir()


# ---------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("name", ["model", "model.gpub"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    bundle = make(licence="MIT\nnö")
    path = bundle.save(tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]
    with read_bundle(path) as back:
        assert back.manifest == bundle.manifest
        assert back.manifest.licence == "MIT\nnö"
        assert back.plan("base") == bundle.plan("base")
        assert back.shader(SHA) == TEXT
        assert back.gir() == "graph {}\n"
        assert len(back.manifest.shards) == 3
        for i in range(3):
            assert bytes(back.shard(i)) == bytes(bundle.shard(i))
        for use in (lambda: back.plan("fast"), lambda: back.shader("../x"), lambda: back.shard(3)):
            with pytest.raises(BundleError):
                use()
    with pytest.raises(BundleError, match="is closed"):
        back.gir()


def test_the_layout_is_the_documented_one(folder: Path) -> None:
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    weights = [f"weights/{i}.bin" for i in range(3)]
    assert files == ["graph.gir", "manifest.json", f"shaders/{SHA}.wgsl", "variants/base.json", *weights]


def test_zip_is_stored_and_deterministic(tmp_path: Path) -> None:
    first, second = (make().save(tmp_path / f"{i}.gpub").read_bytes() for i in range(2))
    assert first == second
    with zipfile.ZipFile(tmp_path / "0.gpub") as z:
        assert all(i.compress_type == zipfile.ZIP_STORED for i in z.infolist())
        assert z.infolist()[0].filename == "manifest.json"


def test_a_zipped_directory_reads(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.gpub", "w", zipfile.ZIP_STORED) as z:
        for path in sorted(folder.rglob("*")):
            z.write(path, path.relative_to(folder))
    read_all(tmp_path / "z.gpub")


def test_a_view_of_a_shard_outlives_the_bundle(archive: Path) -> None:
    with read_bundle(archive) as bundle:
        shard = bundle.shard(0)
    assert bytes(shard) == bytes(make().shard(0))


# ---------------------------------------------------------------------------------------------- saving


@pytest.mark.parametrize("name", ["model", "model.gpub"])
def test_saving_replaces_an_older_bundle(tmp_path: Path, name: str) -> None:
    make().save(tmp_path / name)
    make(licence="new").save(tmp_path / name)
    with read_bundle(tmp_path / name) as bundle:
        assert bundle.manifest.licence == "new"
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["model", "model.gpub"])
def test_a_failed_save_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    make().save(tmp_path / name)

    def fail(stage: str, done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(licence="new").save(tmp_path / name, progress=fail)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    with read_bundle(tmp_path / name) as bundle:
        assert bundle.manifest.licence == ""


def test_saving_harms_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").write_text("")
    (tmp_path / "file").write_text("")
    (tmp_path / "dir.gpub").mkdir()
    for name, message in (("photos", "is no bundle"), ("file", "in the way"), ("dir.gpub", "in the way")):
        with pytest.raises(BundleError, match=message):
            make().save(tmp_path / name)
    with pytest.raises(BundleError, match="cannot write"):
        make().save(tmp_path / "missing" / "model.gpub")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dir.gpub", "file", "photos"]


def test_inconsistent_bundles_are_not_made() -> None:
    good = make()
    with pytest.raises(BundleError, match="at least one plan"):
        Bundle([], {})
    with pytest.raises(BundleError, match="missing from the bundle"):
        Bundle(good.plans, {}, [good.shard(i) for i in range(3)])
    with pytest.raises(BundleError, match="another sha256"):
        Bundle(good.plans, {SHA: "x"}, [good.shard(i) for i in range(3)])
    with pytest.raises(BundleError, match="weight shard 2 of 2 does not exist"):
        Bundle(good.plans, {SHA: TEXT}, [good.shard(i) for i in range(2)])


# ---------------------------------------------------------------------------------------------- damaged bundles


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_missing_files(folder: Path) -> None:
    for file in [p for p in folder.rglob("*") if p.is_file()]:
        kept = file.read_bytes()
        file.unlink()
        with pytest.raises(BundleError, match="missing from the bundle"):
            read_all(folder)
        file.write_bytes(kept)
    read_all(folder)


@pytest.mark.parametrize("name", ["weights/1.bin", f"shaders/{SHA}.wgsl"])
def test_a_flipped_byte(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[17] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name}: content does not match its sha256"):
        read_all(folder)


def test_a_flipped_byte_in_a_zip(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    at = data.index(bytes(make().shard(1)))
    data[at + 5] ^= 1
    archive.write_bytes(data)
    with pytest.raises(BundleError, match=r"weights/1\.bin: content does not match its sha256"):
        read_all(archive)
    data[at + 5] ^= 1
    data[data.index(b'"grid"') + 8] ^= 1
    archive.write_bytes(data)
    with pytest.raises(BundleError, match=r"variants/base\.json: checksum differs"):
        read_all(archive)


def test_truncated(archive: Path, folder: Path) -> None:
    data = archive.read_bytes()
    for size in (0, 1, 10, len(data) // 2, len(data) - 1):
        archive.write_bytes(data[:size])
        with pytest.raises(BundleError, match="not a shader bundle"):
            read_all(archive)
    shard = folder / "weights/0.bin"
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(BundleError, match=r"weights/0\.bin: 252 bytes, the manifest says 256"):
        read_bundle(folder)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"\x08\x07\x12\x04" * 100)
    for name, message in (
        ("x.onnx", "not a shader bundle"),
        ("nothing.gpub", "no such file"),
        (".", "manifest.json: missing"),
        ("a\0b", "not a path"),
    ):
        with pytest.raises(BundleError, match=message):
            read_bundle(tmp_path / name)


@pytest.mark.parametrize("version", [0, 2, True, "1", None, 1e300])
def test_other_versions(folder: Path, version: object) -> None:
    edit_json(folder / "manifest.json", lambda m: m.update(version=version, from_the_future=1))
    with pytest.raises(BundleError, match=r"bundle format version .*, but this gpucompile reads 1"):
        read_bundle(folder)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, '{"version": 1, "version": 1}', "\xff", "nul", "1", '{"a": ' + "9" * 10_000 + "}", "\0"],
)
def test_json_garbage(folder: Path, text: str) -> None:
    for name in ("manifest.json", "variants/base.json"):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(text.encode("latin-1"))
        with pytest.raises(BundleError):
            read_all(folder)
        (folder / name).write_bytes(kept)


BAD_MANIFESTS: list[tuple[str, Callable[[Any], object]]] = [
    ("unknown field 'extra'", lambda m: m.update(extra=1)),
    ("at least one variant", lambda m: m.update(variants=[])),
    ("not a plain name", lambda m: m.update(variants=["../../base"])),
    ("not a plain name", lambda m: m.update(variants=["/base"])),
    ("a name occurs twice", lambda m: m.update(variants=["base", "base"])),
    (r"file must be weights/0\.bin", lambda m: m["shards"][0].update(file="../secret")),
    (r"file must be weights/1\.bin", lambda m: m["shards"][1].update(file="weights/0.bin")),
    (r"shards\[0\]: not a sha256", lambda m: m["shards"][0].update(sha256="0" * 63)),
    ("not a positive multiple of 4", lambda m: m["shards"][0].update(size=255)),
    ("the manifest says 260", lambda m: m["shards"][0].update(size=260)),
    ("expected an integer|non-negative integer", lambda m: m["shards"][0].update(size=256.0)),
    ("field 'producer' is missing", lambda m: m.pop("producer")),
    ("inputs: differ from the manifest's", lambda m: m["inputs"][0].update(name="z")),
    ("outputs: differ from the manifest's", lambda m: m["outputs"][0].update(shape=[4, 2])),
]


@pytest.mark.parametrize(("message", "change"), BAD_MANIFESTS)
def test_bad_manifests(folder: Path, message: str, change: Callable[[Any], object]) -> None:
    edit_json(folder / "manifest.json", change)
    with pytest.raises(BundleError, match=message):
        read_all(folder)


def step(i: int, **fields: Any) -> Callable[[Any], object]:
    return lambda p: p["steps"][i].update(fields)


def binding(i: int, j: int, **fields: Any) -> Callable[[Any], object]:
    return lambda p: p["steps"][i]["bindings"][j].update(fields)


BAD_PLANS: list[tuple[str, Callable[[Any], object]]] = [
    (r"base\.json: unknown field 'code'", lambda p: p.update(code="eval")),
    ("calls itself 'other'", lambda p: p.update(name="other")),
    (r"shaders\[0\]: not a sha256", lambda p: p.update(shaders=["../../etc/passwd"])),
    ("missing from the bundle", lambda p: p.update(shaders=["0" * 64])),
    (r"steps\[0\]: shader 1 of 1 does not exist", step(0, shader=1)),
    (r"steps\[0\]: grid \(0, 1, 1\) is not within 1\.\.65535", step(0, grid=[0, 1, 1])),
    (r"steps\[1\]: grid", step(1, grid=[65536, 1, 1])),
    (r"steps\[0\]\.grid: expected 3 values", step(0, grid=[1])),
    (r"grid\[0\]: expected a non-negative integer, found -1", step(0, grid=[-1, 1, 1])),
    (r"steps\[0\]\.bindings\[1\]: buffer 4 of 4 does not exist", binding(0, 1, buffer=4)),
    (r"steps\[0\]\.bindings\[1\]: offset 128 is not a multiple of 256", binding(0, 1, offset=128)),
    (r"bindings\[0\]: size 0 is not a positive multiple of 4", binding(0, 0, size=0)),
    (r"bindings\[0\]: size 30 is not a positive multiple of 4", binding(0, 0, size=30)),
    (r"bindings\[0\]: bytes 0\.\.68 lie outside buffer 0 of 64 bytes", binding(0, 0, size=68)),
    (r"bindings\[0\]: bytes 256\.\.320 lie outside", binding(0, 0, offset=256)),
    ("expected one of read, read_write, found 'write'", binding(0, 0, access="write")),
    ("weight buffer 1 is bound read_write", binding(0, 1, access="read_write")),
    ("input buffer 0 is bound read_write", binding(0, 0, access="read_write")),
    ("buffer 2 is bound both read and read_write", binding(1, 1, access="read")),
    ("read_write bindings 0 and 1 of buffer 2 overlap", binding(1, 0, size=260)),
    (r"buffers\[2\]: size 0", lambda p: p["buffers"][2].update(size=0)),
    (r"buffers\[2\]: size 1022", lambda p: p["buffers"][2].update(size=1022)),
    ("expected one of input, output, state, weight, scratch", lambda p: p["buffers"][2].update(kind="uniform")),
    ("612 bytes, but its weight shards hold 356", lambda p: p["buffers"][1].update(shards=[0, 2])),
    ("weight shard 3 of 3 does not exist", lambda p: p["buffers"][1].update(shards=[0, 1, 3])),
    ("a scratch buffer cannot have weight shards", lambda p: p["buffers"][2].update(shards=[0])),
    ("unknown data type 'float65'", lambda p: p["inputs"][0].update(dtype="float65")),
    (r"float32\[1, 17\] needs 68 bytes, its buffer has 64", lambda p: p["inputs"][0].update(shape=[1, 17])),
    ("lies in a buffer of kind scratch", lambda p: p["inputs"][0].update(buffer=2)),
    ("buffer 99 does not exist", lambda p: p["outputs"][0].update(buffer=99)),
    ("no port for output buffer 3", lambda p: p.update(outputs=[])),
    ("empty or used twice", lambda p: p["outputs"].append(p["outputs"][0])),
    ("region 0..68 lies outside buffer 0", lambda p: p["steps"][0]["reads"][0].update(size=68)),
]


@pytest.mark.parametrize(("message", "change"), BAD_PLANS)
def test_bad_plans(folder: Path, message: str, change: Callable[[Any], object]) -> None:
    edit_json(folder / "variants/base.json", change)
    with pytest.raises(BundleError, match=message):
        read_all(folder)


def repack(archive: Path, change: Callable[[zipfile.ZipFile, zipfile.ZipInfo, bytes], None]) -> None:
    with zipfile.ZipFile(archive) as z:
        files = [(i, z.read(i)) for i in z.infolist()]
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as z:
        for info, data in files:
            change(z, info, data)


def test_strange_zips(archive: Path) -> None:
    good = archive.read_bytes()

    def deflate(z: zipfile.ZipFile, info: zipfile.ZipInfo, data: bytes) -> None:
        z.writestr(info.filename, data, zipfile.ZIP_DEFLATED)

    repack(archive, deflate)
    with pytest.raises(BundleError, match="is compressed or encrypted"):
        read_bundle(archive)
    for extra in ("../evil", "/etc/passwd", "weights/00.bin", "readme.txt", "shaders/x.wgsl", "weights\\0.bin", "é"):
        archive.write_bytes(good)
        with zipfile.ZipFile(archive, "a") as z:
            z.writestr(zipfile.ZipInfo(extra), b"x")
        with pytest.raises(BundleError, match="unexpected entry"):
            read_bundle(archive)
    archive.write_bytes(good)
    with zipfile.ZipFile(archive, "a") as z, pytest.warns(UserWarning, match="Duplicate"):
        z.writestr(zipfile.ZipInfo("manifest.json"), b"{}")
    with pytest.raises(BundleError, match=r"entry manifest\.json occurs twice"):
        read_bundle(archive)


def test_a_zip_whose_headers_disagree(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    data[30:43] = b"manifest.jsoX"  # the local header of the first entry
    archive.write_bytes(data)
    with pytest.raises(BundleError, match="another name in its header"):
        read_bundle(archive)


def test_a_zip_whose_entries_overlap(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    at = data.index(b"PK\x01\x02")
    size = struct.unpack_from("<I", data, at + 24)[0]
    struct.pack_into("<II", data, at + 20, size + 40, size + 40)
    archive.write_bytes(data)
    with pytest.raises(BundleError, match="overlap"):
        read_bundle(archive)


def test_links_do_not_lead_out(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "graph.gir", tmp_path / "graph.gir")
    (folder / "graph.gir").symlink_to(tmp_path / "graph.gir")
    with pytest.raises(BundleError, match=r"graph\.gir: missing"):
        read_all(folder)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_zips_raise_nothing_else(data: st.DataObject) -> None:
    """Any change of bytes is either harmless or a BundleError."""
    with tempfile.TemporaryDirectory() as root:
        path = make().save(Path(root) / "m.gpub")
        content = bytearray(path.read_bytes())
        interesting = st.sampled_from([i for i in range(len(content)) if content[i : i + 2] == b"PK"])
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(content) - 1) | interesting.flatmap(lambda i: st.integers(i, i + 46)))
            content[min(at, len(content) - 1)] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):
            del content[data.draw(st.integers(0, len(content) - 1)) :]
        path.write_bytes(content)
        check(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [p for k, v in items for p in ((*prefix, k), *paths(v, (*prefix, k)))]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_json_raises_nothing_else(data: st.DataObject) -> None:
    """Any value anywhere in the JSON files is either harmless or a BundleError."""
    with tempfile.TemporaryDirectory() as root:
        path = make().save(Path(root) / "m")
        file = path / data.draw(st.sampled_from(["manifest.json", "variants/base.json"]))
        content = json.loads(file.read_text())
        *parents, last = data.draw(st.sampled_from(paths(content)))
        inner = content
        for key in parents:
            inner = inner[key]
        inner[last] = data.draw(json_values)
        file.write_text(json.dumps(content))
        check(path)


def check(path: Path) -> None:
    try:
        read_all(path)
    except BundleError as e:
        assert str(e)


# ---------------------------------------------------------------------------------------------- pieces


def test_json_leaves_out_defaults() -> None:
    plan = make().plans[0]
    assert "scratch_bound" in to_json(plan)
    assert "scratch_bound" not in to_json(dataclasses.replace(plan, scratch_bound=0))
    assert to_json(copy.deepcopy(plan)) == to_json(plan)


def test_check_requires() -> None:
    requires = Requires(
        ("shader-f16", "subgroups"), {"max-buffer-size": 100, "min-storage-buffer-offset-alignment": 64}
    )
    limits = {"max-buffer-size": 100, "min-storage-buffer-offset-alignment": 32}
    assert check_requires(requires, {"subgroups", "shader-f16", "x"}, limits) == []
    assert check_requires(requires, {"subgroups"}, {"max-buffer-size": 99}) == [
        "feature shader-f16",
        "max-buffer-size of 100 (the device has 99)",
        "limit min-storage-buffer-offset-alignment (unknown to this device)",
    ]
    limits["min-storage-buffer-offset-alignment"] = 128
    assert "at most 64 (the device has 128)" in check_requires(requires, requires.features, limits)[0]


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [("float32", (), 4), ("float16", (3,), 8), ("int4", (9,), 8), ("int4", (8,), 4), ("int64", (2, 3), 48),
     ("uint8", (0,), 4), ("int8", (1,), 4)],
)  # fmt: skip
def test_port_bytes(dtype: str, shape: tuple[int, ...], size: int) -> None:
    assert port_bytes(Port("p", dtype, shape, 0)) == size


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 900), max_size=12),
    shard=st.sampled_from([4, 64, 256, 1024]),
    limit=st.sampled_from([256, 1024, 1 << 20]),
)
def test_make_shards(sizes: list[int], shard: int, limit: int) -> None:
    tensors = [np.full(n, i + 1, np.uint8) for i, n in enumerate(sizes)]
    weights = make_shards(tensors, max_buffer=limit, shard_bytes=shard)
    assert len(weights.places) == len(tensors)
    contents = [b"".join(weights.shards[s].bytes() for s in b.shards) for b in weights.buffers]
    for tensor, place in zip(tensors, weights.places, strict=True):
        assert place.offset % 256 == 0 and place.size % 4 == 0 and place.size >= max(4, tensor.size)
        content = contents[place.buffer][place.offset : place.offset + place.size]
        assert content == tensor.tobytes() + bytes(place.size - tensor.size)
    for buffer, content in zip(weights.buffers, contents, strict=True):
        assert buffer.size == len(content) and len(content) <= max(limit, 900 + 4)
    assert all(0 < len(s) <= shard and len(s) % 4 == 0 for s in weights.shards)
    places = sorted((p.buffer, p.offset, p.size) for p in weights.places)
    assert all(a[0] != b[0] or a[1] + a[2] <= b[1] for a, b in pairwise(places))


def test_make_shards_does_not_copy_big_tensors() -> None:
    big = np.arange(4096, dtype=np.float32)
    weights = make_shards([np.ones(3, np.float32), big], shard_bytes=4096)
    assert weights.places == (Place(0, 0, 12), Place(0, 256, 16384))
    assert np.shares_memory(np.frombuffer(weights.shards[1].bytes(), np.uint8), big)
    assert not np.shares_memory(np.frombuffer(weights.shards[0].bytes(), np.uint8), big)
