"""Architectures with random weights (`benchmarks.zoo`): compiled without fallback, run, compared with onnxruntime.

Reduced here; at full size behind `slow`. Compilation at full size is timed, too.
"""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

import gpucompile
from benchmarks import architectures, zoo

#: At full size: the quickest of each kind.
SAMPLES = ("squeezenet_1_1", "whisper_decoder")
#: Full size on a software adapter takes minutes or more memory than CI has.
LARGE = ("deeplab_v3", "sam_encoder", "sd15_unet_block", "sd15_vae_decoder")

#: Activations above the 128 MiB that every device binds, which are computed in parts; and limits in bytes that have the
#: same effect on the reduced ones.
IN_PARTS = {"sam_encoder": 77000, "sd15_unet_block": 65536, "sd15_vae_decoder": 8192}
#: Of processor time, which other work on the machine does not change as much: import plus compile.
SECONDS = 5.0


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_reduced(device: gpucompile.Device, name: str) -> None:
    row = architectures.measure(name, device, reduced=True, repeat=0)
    assert row.ok, row
    assert row.error < 1e-5


@pytest.mark.parametrize("name", [pytest.param("sam_encoder", marks=pytest.mark.slow), *list(IN_PARTS)[1:]])
def test_reduced_in_parts(device: gpucompile.Device, name: str) -> None:
    target = gpucompile.Target.of(device.adapter)
    limits = {**target.limits, "max-storage-buffer-binding-size": IN_PARTS[name], "max-buffer-size": 2 * IN_PARTS[name]}
    row = architectures.measure(name, device, reduced=True, repeat=0, target=replace(target, limits=limits))
    assert row.ok, row
    assert row.error < 1e-5


def _full(names: tuple[str, ...] | list[str]) -> list[object]:
    sample = [pytest.mark.slow, pytest.mark.sample]
    return [pytest.param(n, marks=sample if n in SAMPLES else pytest.mark.slow) for n in names]


@pytest.mark.parametrize("name", _full([n for n in zoo.NETWORKS if n not in LARGE]))
def test_full_size(device: gpucompile.Device, name: str) -> None:
    row = architectures.measure(name, device, reduced=False, repeat=0)
    assert row.ok, row


@pytest.mark.parametrize("name", _full(list(zoo.NETWORKS)))
def test_full_size_compiles_in_time(name: str) -> None:
    network = zoo.NETWORKS[name]
    content = network.build().SerializeToString()
    target = gpucompile.Target.portable()
    start = time.process_time()
    gpucompile.compile(content, target, network.dims)
    assert time.process_time() - start < SECONDS


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_reduced_outputs_follow_the_inputs(name: str) -> None:
    """Another image or sentence gives another result, nothing dies or explodes: else comparisons mean little."""
    from benchmarks.against_cpu import expected

    network = zoo.NETWORKS[name]
    model = network.build(reduced=True)
    first, second = (expected(model, network.feeds(model, reduced=True, seed=s)) for s in (0, 1))
    for output, y in first.items():
        assert 1e-3 < float(abs(y).max()) < 1e3, output
        assert float(y.std()) > 1e-3, output
        assert float(abs(y - second[output]).max()) > 1e-3 * float(abs(y).max()), output
