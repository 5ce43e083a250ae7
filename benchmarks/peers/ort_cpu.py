"""onnxruntime's CPU provider: what every output is compared with."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import onnxruntime

from benchmarks.peers import worker


def load(model: Path, _: argparse.Namespace) -> worker.Loaded:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return worker.Loaded(lambda feeds: session.run(None, feeds)[0], {"device": "CPU"})


if __name__ == "__main__":
    sys.exit(worker.main("ort_cpu", onnxruntime.__version__, load))
