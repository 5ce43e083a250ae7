"""How exact functions are that do not rely on the device's own: errors in units in the last place (ULP) of float32."""

from __future__ import annotations

import numpy as np
import pytest

import gpucompile
from gpucompile.ops.categories import tensor
from gpucompile.ops.elementwise import Cos, Sin, Tan
from gpucompile.ops.formula import Unary
from tests.support import graph_of


def sweep() -> np.ndarray:
    """Magnitudes from 1e-30 to 1e5, and the numbers next to multiples of pi / 2, where results are nearly zero."""
    rng = np.random.default_rng(0)
    spread = 10.0 ** rng.uniform(-30, 5, 50_000)
    even = np.concatenate([rng.uniform(0, top, 150_000) for top in (1, 10, 100, 1e3, 1e4, 1e5)])
    multiples = np.arange(1, 63_000) * (np.pi / 2)
    x = np.concatenate([spread, even, multiples]).astype(np.float32)
    return np.concatenate([x, -x])


@pytest.mark.parametrize(
    ("op", "ulp"), [(Sin(), 4.0), (Cos(), 4.0), (Tan(), 9.0)], ids=lambda v: getattr(v, "name", "")
)
def test_trigonometry(device: gpucompile.Device, op: Unary, ulp: float) -> None:
    x = sweep()
    with gpucompile.load(gpucompile.compile(graph_of(op, (tensor(len(x)),))), device=device) as run:
        got = run.run({"x0": x})["y0"].astype(np.float64)
    want = op.compute(x.astype(np.float64))
    spacing = np.spacing(np.abs(want).astype(np.float32)).astype(np.float64)
    errors = np.abs(got - want) / spacing
    worst = int(np.argmax(errors))
    print(f"{op.name}: {errors[worst]:.2f} ULP at {x[worst]!r}")
    assert errors[worst] <= ulp, f"{errors[worst]} ULP at {x[worst]!r}: {got[worst]}, want {want[worst]}"
