"""A decode loop with the key/value cache on the GPU: tokens a second, next to onnxruntime-webgpu with IO binding.

GPT-2 (12 layers, 768 channels, 12 heads, 50257 tokens) with random weights and an ArgMax behind it. For each engine a
process of its own (`benchmarks.peers.decode`) reads a prompt, then generates tokens: once reading each token before the
next step, once leaving it on the GPU. Logits along a loop of given tokens are compared with onnxruntime's CPU provider.
The floor is the time to read what a token needs (each weight, and what is in the cache) at the memory's bandwidth.

    python -m benchmarks decode --ort-webgpu FOLDER    FOLDER: pip install --target FOLDER --no-deps onnxruntime-webgpu
    python -m benchmarks decode --small                a narrow model of two layers, for software adapters
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks.models import ROOT
from benchmarks.peers import worker
from benchmarks.zoo import NETWORKS

TOLERANCE = 1e-4  # largest difference / largest value
NETWORK = NETWORKS["gpt2_with_positions"]


def build(small: bool) -> onnx.ModelProto:
    """The model, with the most likely next token of each position as one more output."""
    model = NETWORK.build(reduced=small)
    model.graph.node.append(helper.make_node("ArgMax", ["logits"], ["token"], axis=-1, keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("token", TensorProto.INT64, ["batch", "sequence"]))
    return model


def weight_bytes(model: onnx.ModelProto, length: int) -> int:
    """What a token reads of the weights: all but the table of `length` positions, of which it reads a row."""
    floats = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
    return sum(4 * int(np.prod(t.dims)) for t in floats if t.dims[0] != length)


def measure(engine: str, model: Path, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The report of one engine, or {"problem": text}."""
    command = [sys.executable, "-m", "benchmarks.peers.decode", engine, str(model)]
    for name in ("capacity", "prompt", "tokens", "checked", "vocabulary"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--output", str(folder / f"{engine}.npy")]
    environment = dict(os.environ)
    paths = [str(ROOT), environment.get("PYTHONPATH", "")]
    if engine == "ort_webgpu":
        paths.insert(0, str(Path(options.ort_webgpu).resolve()))
    environment["PYTHONPATH"] = os.pathsep.join(p for p in paths if p)
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=options.timeout
        )
    except subprocess.TimeoutExpired:
        return {"problem": f"no result after {options.timeout:.0f} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith(worker.MARK)]
    if done.returncode or not lines:
        said = (done.stderr.strip() or done.stdout.strip() or "said nothing").splitlines()[-1]
        return {"problem": said if done.returncode >= 0 else f"died of signal {-done.returncode}: {said}"}
    report: dict[str, Any] = json.loads(lines[-1])
    return report


def error_of(engine: str, folder: Path) -> float:
    """Largest difference of the logits from onnxruntime's CPU provider, relative to their largest value."""
    want, got = np.load(folder / "ort_cpu.npy"), np.load(folder / f"{engine}.npy")
    if not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(want - got).max() / np.abs(want).max())


def _figures(report: dict[str, Any], error: float) -> list[str]:
    read, resident = report["read"], report["resident"]
    rate = [f"{r['tokens'] / r['seconds']:.1f}" if r else "" for r in (read, resident)]
    each = [f"{1e3 * r['seconds'] / r['tokens']:.3f}" if r else "" for r in (read, resident)]
    per = report.get("per_token") or {}
    moved = [f"{per[k]:,.0f}" if k in per else "?" for k in ("written", "copied")]
    made = f"{per['buffers'] + per['bind_groups']:.0f}" if per else "?"
    create, prefill = f"{report['create_ms']:.0f}", f"{read['prefill_ms']:.1f}"
    return [create, prefill, rate[0], each[0], rate[1], each[1], *moved, made, f"{error:.0e}"]


HEAD = (
    "engine", "create ms", "prompt ms", "read tok/s", "ms", "resident tok/s", "ms", "written B", "copied B", "made",
    "error",
)  # fmt: skip


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(
        prog="python -m benchmarks decode", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--ort-webgpu", metavar="FOLDER", help="where the package onnxruntime-webgpu is installed")
    p.add_argument("--small", action="store_true", help="a narrow model of two layers, few tokens")
    p.add_argument("--capacity", type=int, metavar="N", help="tokens in the cache (1024; small: 64)")
    p.add_argument("--prompt", type=int, metavar="N", help="tokens before the loop (32; small: 8)")
    p.add_argument("--tokens", type=int, metavar="N", help="timed ones (400; small: 24)")
    p.add_argument("--checked", type=int, default=16, metavar="N", help="steps whose logits are compared (16)")
    p.add_argument("--bandwidth", type=float, default=4.8, metavar="TB/S", help="of the device's memory (4.8, an H200)")
    p.add_argument("--timeout", type=float, default=900.0, metavar="S", help="time limit of an engine (900)")
    p.add_argument("--json", type=Path, metavar="FILE", help="also write everything here")
    options = p.parse_args(arguments)
    for name, full, small in (("capacity", 1024, 64), ("prompt", 32, 8), ("tokens", 400, 24)):
        if getattr(options, name) is None:
            setattr(options, name, small if options.small else full)
    need = options.prompt + 1 + max(2, options.tokens // 8) + options.tokens
    if need > options.capacity or options.prompt + options.checked > options.capacity:
        p.error(f"--capacity {options.capacity}: the prompt, {options.tokens} tokens and warm ones need {need}")
    options.vocabulary = (NETWORK.small if options.small else NETWORK.full)["vocabulary"]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    engines = ["gpucompile", *(["ort_webgpu"] if options.ort_webgpu else [])]
    reports, rows, good = {}, [], True
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name), build(options.small)
        onnx.save(model, folder / "model.onnx")
        reference = measure("ort_cpu", folder / "model.onnx", options, folder)
        if "problem" in reference:
            print(f"onnxruntime's CPU provider, which the logits are compared with: {reference['problem']}")
            return 1
        for engine in engines:
            report = reports[engine] = measure(engine, folder / "model.onnx", options, folder)
            if "problem" in report:
                rows.append([engine, report["problem"]])
                good &= engine != "gpucompile"
                continue
            error = report["error"] = error_of(engine, folder)
            wrong = [] if error <= TOLERANCE else ["WRONG"]
            good &= not wrong or engine != "gpucompile"
            rows.append([engine, *_figures(report, error), *wrong])
    numbers = NETWORK.small if options.small else NETWORK.full
    weights = weight_bytes(model, numbers["length"])
    filled = options.prompt + options.tokens // 2
    cache = 8 * numbers["layers"] * numbers["channels"] * filled
    slots = 8 * numbers["layers"] * numbers["channels"] * options.capacity
    floor = (weights + cache) / options.bandwidth / 1e12
    widths = [max(len(r[i]) if i < len(r) and len(r) > 2 else 0 for r in (HEAD, *rows)) for i in range(len(HEAD))]
    for row in (HEAD, *rows):
        print(
            "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, [*widths, 0], strict=False)))
        )
    print(
        f"\nfloor: {weights / 1e6:.1f} MB of weights and {cache / 1e6:.1f} MB of a cache with {filled} tokens at "
        f"{options.bandwidth} TB/s: {floor * 1e3:.3f} ms, {1 / floor:,.0f} tokens/s (all {options.capacity} slots of "
        f"the cache: {slots / 1e6:.1f} MB)"
    )
    print(
        "read: each token is read before the next step; resident: it stays on the GPU. written, copied, made: bytes "
        "from the host, bytes copied on the GPU (the token itself, for reading), buffers and bind groups made, a token"
    )
    if "ort_webgpu" in reports:
        print(
            f"onnxruntime concatenates: in the middle of the loop it reads and writes {cache / 1e6:.1f} MB of past for "
            f"a token, to {2 * numbers['layers']} outputs that it allocates"
        )
    for engine, report in {"ort_cpu": reference, **reports}.items():
        print(f"{engine}: {', '.join(f'{k} {v}' for k, v in report.get('notes', {}).items())}")
    if options.json:
        options.json.write_text(
            json.dumps({"options": vars(options) | {"json": None}, "reports": reports}, indent=1) + "\n"
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
