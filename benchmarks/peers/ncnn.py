"""ncnn on Vulkan, the model converted by pnnx (`pip install ncnn pnnx`). float16 is switched off, as no other engine of
the table uses it. `create` leaves the conversion out: pnnx is a program of its own, run ahead of time."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.peers import worker


def load(model: Path, _: argparse.Namespace) -> worker.Loaded:
    import ncnn

    if not ncnn.get_gpu_count():
        raise SystemExit(worker.unusable("ncnn found no Vulkan device"))
    net = ncnn.Net()
    net.opt.use_vulkan_compute = True
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        param, weights = convert(model, Path(folder))
        converted = time.perf_counter() - start
        if net.load_param(str(param)) or net.load_model(str(weights)):
            raise SystemExit(worker.unusable("ncnn could not load the converted model"))
    source, target = net.input_names()[0], net.output_names()[0]

    def run(feeds: dict[str, worker.Array]) -> worker.Array:
        (x,) = feeds.values()
        with net.create_extractor() as extractor:
            extractor.input(source, ncnn.Mat(x[0]))  # ncnn knows no batch axis
            code, y = extractor.extract(target)
            if code:
                raise RuntimeError(f"ncnn: extract returned {code}")
            return np.array(y)[None]

    return worker.Loaded(run, {"device": ncnn.get_gpu_info().device_name()}, excluded=converted)


def convert(model: Path, folder: Path) -> tuple[Path, Path]:
    """ONNX -> ncnn's .param and .bin in `folder`."""
    package = importlib.util.find_spec("pnnx")
    if not package or not package.origin:
        raise SystemExit(worker.unusable("pnnx is missing: pip install pnnx"))
    program = Path(package.origin).with_name("pnnx")
    shutil.copyfile(model, folder / "model.onnx")
    done = subprocess.run([program, "model.onnx", "fp16=0"], cwd=folder, capture_output=True, text=True)
    param, weights = folder / "model.ncnn.param", folder / "model.ncnn.bin"
    if done.returncode or not param.is_file() or not weights.is_file():
        raise SystemExit(worker.unusable(f"pnnx could not convert {model.name}: {(done.stdout + done.stderr)[-300:]}"))
    return param, weights


if __name__ == "__main__":
    sys.exit(worker.main("ncnn", version("ncnn"), load))
