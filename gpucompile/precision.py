"""Networks in less than float32: the passes that make one, and what it costs in accuracy.

`compile(..., precision="f16")` runs `pipeline("f16", ...)`; `error` tells the difference to float32 on random inputs,
with the numpy interpreter, in which sums are exact (those of the device are made in float32).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gpucompile.errors import InputError, PrecisionWarning
from gpucompile.ir.graph import Graph
from gpucompile.ir.interpret import interpret
from gpucompile.passes.pipelines import PHASES
from gpucompile.passmanager.base import Context
from gpucompile.passmanager.instruments import random_inputs
from gpucompile.passmanager.manager import PassManager
from gpucompile.target import Target

PRECISIONS = ("f32", "f16")
CONVERSION = f"{PHASES['simplify']},{PHASES['normalise']},precision"


def check(precision: str, target: Target) -> None:
    """Warn where the target computes float16 in float32. Raises InputError for a precision that does not exist."""
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    if precision == "f16" and "shader-f16" not in target.features:
        warnings.warn(
            f"the target {target.name} has no shader-f16: float16 is computed in float32 and rounded, which saves "
            "memory for weights, but no time",
            PrecisionWarning,
            stacklevel=3,
        )


def convert(graph: Graph, precision: str, target: Target) -> dict[str, int]:
    """Convert a graph in place, after what merges weights; how many ops stay float32, by op and reason."""
    if precision == "f32":
        return {}
    ctx = Context(target)
    PassManager(CONVERSION).run(graph, ctx)
    return {what: n for what, n in ctx.counters["precision"].items() if what != "converted"}


@dataclass(frozen=True)
class Error:
    """How far an output is from that of float32: the largest difference, and the largest magnitude of the output."""

    largest: float
    scale: float

    @property
    def relative(self) -> float:
        """The largest difference in terms of the largest magnitude."""
        return self.largest / self.scale if self.scale else self.largest


def error(
    graph: Graph, precision: str, seed: int = 0, inputs: Mapping[str, np.ndarray] | None = None
) -> dict[str, Error]:
    """The error of each output of a graph, which is not changed, by name; over finite elements, on random inputs unless
    `inputs` are given."""
    lower = graph.clone()
    convert(lower, precision, Target.portable())
    feeds = random_inputs(graph, seed) if inputs is None else inputs
    exact, rounded = interpret(graph, feeds), interpret(lower, feeds)
    out = {}
    for name, y in exact.items():
        a, b = y.astype(np.float64), rounded[name].astype(np.float64)
        finite = np.isfinite(a)
        difference = np.abs(np.where(finite, a, 0) - np.where(finite, b, 0))
        out[name] = Error(float(difference.max(initial=0)), float(np.abs(a[finite]).max(initial=0)))
    return out
