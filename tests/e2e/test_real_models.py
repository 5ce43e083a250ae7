"""Trained models from packages (`benchmarks.real_models`): compiled, run, compared with onnxruntime.

Without nodes on the CPU, but for those whose shapes depend on data.
"""

from __future__ import annotations

import pytest

import gpucompile
from benchmarks import real_models

#: Small ones of different kinds: a convolutional network, LSTM cells, one made of If and functions.
SAMPLES = ("ocr_cls", "dtln_2", "silero_vad_ifless")


def _marked(name: str) -> object:
    sample = [pytest.mark.sample] if name in SAMPLES else []
    return pytest.param(name, marks=[pytest.mark.slow, *sample])


@pytest.mark.filterwarnings("ignore:output .* has the shape")  # ddddocr's outputs are not what it declares
@pytest.mark.parametrize("name", [_marked(n) for n in real_models.MODELS])
def test_against_onnxruntime(device: gpucompile.Device, name: str) -> None:
    row = real_models.measure(name, device, repeat=0)
    assert row.ok, row
    model = real_models.MODELS[name]
    assert ("nodes on the CPU" in row.note) == (bool(model.rounded) and not model.timed)
