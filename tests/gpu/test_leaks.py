"""Memory over many runs: flat, whether outputs are disposed or left to garbage collection. `python -m benchmarks leaks`
prints the figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks import leaks
from gpucompile import InferenceSession


@pytest.mark.parametrize("runs", [160, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", leaks.KINDS)
def test_memory_is_flat(adapter: Any, kind: str, runs: int) -> None:
    # when the collector comes by itself is chance, so that in few runs the most that is alive at a time may come late
    found = list(leaks.samples(kind, runs, 4, every=10 if runs < 1000 else 0))
    for sample in found:
        print(sample)
    assert [s.runs for s in found] == [runs // 4 * i for i in range(1, 5)]
    assert not leaks.growth(found)


def test_a_leak_is_found(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same loop, with one result in 24 kept."""
    kept: list[Any] = []

    def leaking(session: InferenceSession, x: np.ndarray) -> None:
        leaks.disposed(session, x)
        kept.append(None if len(kept) % 8 else session.run(None, {"x": x})[0])

    monkeypatch.setitem(leaks.KINDS, "leaking", leaking)
    grown = leaks.growth(list(leaks.samples("leaking", 64, 4)))
    assert [text.split()[0] for text in grown] == ["buffers", "buffer_bytes", "session_bytes"]
    for each in kept:
        if each is not None:
            each.dispose()


def test_resident_memory_is_measured(adapter: Any) -> None:
    before = leaks.resident_bytes()
    kept = np.ones(4 * leaks.NOISE, np.uint8)
    assert leaks.resident_bytes() - before > 2 * leaks.NOISE
    assert len(leaks.growth([leaks.Sample(1, 1, 1, 1, n) for n in (before, before + 2 * leaks.NOISE)])) == 1
    assert kept.all()
