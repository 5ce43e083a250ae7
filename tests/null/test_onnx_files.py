"""Model files: external data, data inside the file that is not read, bfloat16, files over 2 GB, memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gpucompile.errors import ModelError, UnsupportedError
from gpucompile.frontends.onnx import embedded
from gpucompile.frontends.onnx.embedded import parse_file
from gpucompile.frontends.onnx.importer import import_model
from gpucompile.ir.graph import Graph
from gpucompile.ir.interpret import interpret
from tests.null.onnx_models import model, node

SIZE = 100  # a matrix of SIZE x SIZE floats is large enough to stay in its file


def chain(count: int, size: int = SIZE, kind: type[np.generic] = np.float32) -> onnx.ModelProto:
    """Matrix products, one after the other, and a small bias."""
    rng = np.random.default_rng(0)
    nodes = [node("MatMul", f"h{i}", f"w{i}", outputs=[f"h{i + 1}"]) for i in range(count)]
    nodes.append(node("Add", f"h{count}", "b"))
    constants = {f"w{i}": rng.standard_normal((size, size)).astype(kind) for i in range(count)}
    constants["b"] = rng.standard_normal(size).astype(kind)
    kinds = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16}
    return model(nodes, {"h0": (1, size)}, constants, dtype=kinds[kind])


def constants(graph: Graph) -> dict[str, np.ndarray]:
    return {v.name: v.constant for n in graph.nodes for v in n.outputs if v.constant is not None}


def is_mapped(array: np.ndarray) -> bool:
    base: object = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return False


# ---------------------------------------------------------------------------------------------- data in the file


def test_weights_in_the_file_are_mapped(tmp_path: Path) -> None:
    made = chain(3)
    path = tmp_path / "model.onnx"
    onnx.save(made, path)
    slim = parse_file(path)
    assert slim.ByteSize() < 4000
    found, wanted = constants(import_model(path)), constants(import_model(made))
    assert found.keys() == wanted.keys() and len(found) == 4
    for name, array in found.items():
        np.testing.assert_array_equal(array, wanted[name])
        assert is_mapped(array) == (name != "b")


def test_what_is_small_or_not_raw_is_parsed_as_it_is(tmp_path: Path) -> None:
    made = chain(1, size=16)
    big = helper.make_tensor("w0", TensorProto.FLOAT, (16, 16), np.arange(256, dtype=np.float32).tolist())
    made.graph.initializer[0].CopyFrom(big)
    onnx.save(made, tmp_path / "model.onnx")
    assert parse_file(tmp_path / "model.onnx") == made


def test_a_linked_model_file(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "here").mkdir()
    onnx.save(chain(1), tmp_path / "store" / "blob")
    link = tmp_path / "here" / "model.onnx"
    link.symlink_to(tmp_path / "store" / "blob")
    assert len(constants(import_model(link))) == 2


def test_every_damaged_length_is_an_error_or_reads_the_same(tmp_path: Path) -> None:
    """The reader of the wire format and protobuf agree about what is damaged."""
    data = bytearray(chain(1).SerializeToString())
    path = tmp_path / "model.onnx"
    at = data.index(chain(1).graph.initializer[0].raw_data[:16])
    outcomes = set()
    for position in [*range(0, 8), *range(at - 14, at + 2)]:
        for value in (0, 1, 0x7F, 0x80, 0xFF):
            broken = bytearray(data)
            broken[position] = value
            path.write_bytes(broken)
            results = []
            for source in (path, bytes(broken)):
                try:
                    results.append({n: a.tobytes() for n, a in constants(import_model(source)).items()})
                except (ModelError, UnsupportedError) as e:
                    results.append(type(e).__name__)
            assert results[0] == results[1], (position, value)
            outcomes.add(type(results[0]))
    assert outcomes == {str, dict}


@pytest.mark.slow
def test_weights_of_more_than_2_gb_in_the_file(tmp_path: Path) -> None:
    """More than protobuf parses. The file is sparse, so that it takes no space."""
    rows = 600_000_000
    tensors = []
    for i in range(2):
        header = TensorProto(name=f"w{i}", data_type=TensorProto.UINT8, dims=[2, rows]).SerializeToString()
        tensors.append(header + embedded._header(9, 2 * rows))
    made = model([node("Concat", "w0", "w1", axis=0)], {}, {}, dtype=TensorProto.UINT8)
    del made.graph.output[:]
    made.graph.output.append(helper.make_tensor_value_info("y", TensorProto.UINT8, [4, rows]))
    graph = made.graph.SerializeToString()
    rest = onnx.ModelProto()
    rest.CopyFrom(made)
    rest.ClearField("graph")
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.write(rest.SerializeToString())
        each = [embedded._header(5, len(t) + 2 * rows) + t for t in tensors]
        file.write(embedded._header(7, len(graph) + sum(len(e) + 2 * rows for e in each)))
        file.write(graph)
        for i, e in enumerate(each):
            file.write(e)
            file.seek(2 * rows - 1, os.SEEK_CUR)
            file.write(bytes([7 + i]))
    assert path.stat().st_size > 2**31
    found = constants(import_model(path))
    assert [a.reshape(-1)[-1] for a in found.values()] == [7, 8] and all(map(is_mapped, found.values()))


# ---------------------------------------------------------------------------------------------- external data


def save_external(made: onnx.ModelProto, folder: Path, location: str) -> Path:
    path = folder / "model.onnx"
    (folder / location).parent.mkdir(parents=True, exist_ok=True)
    onnx.save(made, path, save_as_external_data=True, location=location, size_threshold=0)
    return path


@pytest.mark.parametrize("location", ["weights.bin", "data/weights.bin"])
def test_external_data_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str) -> None:
    """Wherever the caller stands."""
    folder = tmp_path / "models"
    folder.mkdir()
    made = chain(2)
    path = save_external(onnx.ModelProto.FromString(made.SerializeToString()), folder, location)
    monkeypatch.chdir(tmp_path)
    for given in (path, Path("models/model.onnx"), "models/model.onnx"):
        found = constants(import_model(given))
        for t in made.graph.initializer:
            np.testing.assert_array_equal(found[t.name], numpy_helper.to_array(t))


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "a/../../secret", "link", "inner/secret", ""])
def test_external_data_stays_in_the_folder(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(1 << 20))
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "inner").symlink_to(tmp_path)
    path = save_external(chain(1), folder, "weights.bin")
    made = onnx.load(path, load_external_data=False)
    for entry in made.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(made.SerializeToString())
    with pytest.raises(ModelError, match="outside the model's folder"):
        import_model(path)


@pytest.mark.parametrize("location", ["inner", "nul\0", "loop"])
def test_external_data_that_is_no_file(tmp_path: Path, location: str) -> None:
    path = save_external(chain(1), tmp_path, "weights.bin")
    (tmp_path / "inner").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    made = onnx.load(path, load_external_data=False)
    for tensor in made.graph.initializer:
        del tensor.external_data[:]
        tensor.external_data.add(key="location", value=location)
        del tensor.dims[1:]
        tensor.dims[0] = 1  # a folder has some bytes, too
    path.write_bytes(made.SerializeToString())
    with pytest.raises(ModelError, match="cannot be read"):
        import_model(path)


# ---------------------------------------------------------------------------------------------- data types


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("raw", [False, True])
def test_bfloat16_weights_become_float32(tmp_path: Path, raw: bool, external: bool) -> None:
    values = np.array([1.0, -2.5, 3.0e38, 0.0, np.inf, 1.1754944e-38, 0.15625], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    if raw or external:
        tensor = TensorProto(name="w", data_type=TensorProto.BFLOAT16, dims=[7], raw_data=bits.tobytes())
    else:
        tensor = TensorProto(name="w", data_type=TensorProto.BFLOAT16, dims=[7], int32_data=bits.tolist())
    made = model([node("Mul", "x", "w")], {"x": (7,)})
    made.graph.initializer.append(tensor)
    path = tmp_path / "model.onnx"
    onnx.save(made, path, save_as_external_data=external, location="w.bin", size_threshold=0)
    y = interpret(import_model(path), {"x": np.ones(7, np.float32)})["y"]
    np.testing.assert_array_equal(y, (bits.astype(np.uint32) << 16).view(np.float32))


def test_float16_weights_stay_float16(tmp_path: Path) -> None:
    onnx.save(chain(1, kind=np.float16), tmp_path / "model.onnx")
    assert {a.dtype for a in constants(import_model(tmp_path / "model.onnx")).values()} == {np.dtype(np.float16)}


def test_string_metadata_is_ignored(tmp_path: Path) -> None:
    made = chain(1)
    made.metadata_props.add(key="licence", value="none")
    made.graph.node[0].doc_string = "a note"
    made.graph.doc_string = "another"
    onnx.save(made, tmp_path / "model.onnx")
    assert len(constants(import_model(tmp_path / "model.onnx"))) == 2


# ---------------------------------------------------------------------------------------------- memory

MEASURE = """
import sys
from gpucompile.compiler import compile
from gpucompile.passmanager.base import discover

def resident(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name + ":"))

compile(sys.argv[1])  # a small model: everything is imported
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = resident("VmRSS")
compile(sys.argv[2]).save(sys.argv[3])
print((resident("VmHWM") - before) * 1024)
"""


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak of memory can only be reset on Linux"
)
@pytest.mark.parametrize("external", [False, True], ids=["embedded", "external"])
def test_memory_is_at_most_1_3_times_the_weights(tmp_path: Path, external: bool) -> None:
    """200 MB of weights, most of which the layout transposes, from the file to the bundle; mapped pages count."""
    made = chain(50, size=1000)
    onnx.save(chain(2, size=8), tmp_path / "small.onnx")
    onnx.save(made, tmp_path / "model.onnx", save_as_external_data=external, location="weights.bin")
    del made
    paths = [str(tmp_path / name) for name in ("small.onnx", "model.onnx", "model.gpub")]
    done = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, check=True)
    assert 0.5 < int(done.stdout) / 200e6 < 1.3
