"""Instruments: everything that watches passes. `before` and `after` are called around each one; `stop` ends the run.

    PrintAfterChange   the graph after each pass that changed it
    Dump               the same into numbered files
    Timing             seconds by pass
    Statistics         nodes before and after, counters of the passes
    CheckReports       a pass that changed the graph must have said so
    CheckEach          interprets the graph before and after each pass on seeded random inputs
    StopAfter          ends the run after n passes

`before` is called in the order given, `after` in reverse, so the last instrument sees the pass alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar, TextIO

import numpy as np

from gpucompile.errors import VerificationError
from gpucompile.ir.graph import Graph, Value
from gpucompile.ir.interpret import interpret
from gpucompile.ir.literals import limits
from gpucompile.ir.text import print_graph
from gpucompile.ir.types import DataType
from gpucompile.passmanager.base import Context, Pass


class Instrument:
    """Watches the passes of one run. An exception that it raises counts as a failure of the pass."""

    option: ClassVar[str] = ""  # of `gpucompile opt`, where it takes part in a failure
    stop: bool = False

    def before(self, p: Pass, graph: Graph, ctx: Context) -> None:
        """Called before each pass."""

    def after(self, p: Pass, graph: Graph, ctx: Context, changed: bool) -> None:
        """Called after each pass, when the graph has been verified."""


@dataclass
class PrintAfterChange(Instrument):
    """Prints the graph (large constants by hash) after each pass that changed it."""

    stream: TextIO | None = None

    def after(self, p: Pass, graph: Graph, ctx: Context, changed: bool) -> None:
        if changed:
            print(f"// after {p.name}\n{print_graph(graph, 'ref')}", file=self.stream or sys.stderr)


@dataclass
class Dump(Instrument):
    """Writes `NN-pass.gir` (large constants by hash) into a folder after each pass that changed the graph, NN being the
    pass's place in the pipeline; `00-input.gir` is the graph before all."""

    folder: Path
    _count: int = 0

    def before(self, p: Pass, graph: Graph, ctx: Context) -> None:
        if self._count == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write("input", graph)
        self._count += 1

    def after(self, p: Pass, graph: Graph, ctx: Context, changed: bool) -> None:
        if changed:
            self._write(p.name, graph)

    def _write(self, name: str, graph: Graph) -> None:
        (self.folder / f"{self._count:02d}-{name}.gir").write_text(print_graph(graph, "ref"), encoding="utf-8")


@dataclass
class Timing(Instrument):
    """Seconds each pass took, verification included. Give it as the last instrument, so that it measures no other."""

    seconds: list[tuple[str, float]] = field(default_factory=list)
    _start: float = 0.0

    def before(self, p: Pass, graph: Graph, ctx: Context) -> None:
        self._start = time.perf_counter()

    def after(self, p: Pass, graph: Graph, ctx: Context, changed: bool) -> None:
        self.seconds.append((p.name, time.perf_counter() - self._start))

    def table(self) -> str:
        """One line a pass, and the sum."""
        total = sum(s for _, s in self.seconds)
        rows = [*self.seconds, ("total", total)]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:{width}}  {s * 1e3:9.2f} ms  {s / (total or 1):6.1%}" for name, s in rows)


@dataclass
class Statistics(Instrument):
    """Nodes before and after each pass, which ops became more or fewer, and what the pass counted."""

    rows: list[str] = field(default_factory=list)
    _ops: dict[str, int] = field(default_factory=dict)
    _counters: dict[str, int] = field(default_factory=dict)

    def before(self, p: Pass, graph: Graph, ctx: Context) -> None:
        self._ops = _census(graph)
        self._counters = dict(ctx.counters.get(p.name, {}))

    def after(self, p: Pass, graph: Graph, ctx: Context, changed: bool) -> None:
        counted = ctx.counters.get(p.name, {})
        ops = _census(graph)
        delta = {k: ops.get(k, 0) - self._ops.get(k, 0) for k in sorted({*ops, *self._ops})} if changed else {}
        notes = [f"{k} {n - self._counters.get(k, 0)}" for k, n in counted.items() if n != self._counters.get(k, 0)]
        notes += [f"{k} {n:+d}" for k, n in delta.items() if n]
        nodes = f"{sum(self._ops.values())} -> {len(graph)} nodes" if changed else "no change"
        self.rows.append(f"{p.name}: {nodes}" + (f" ({', '.join(notes)})" if notes else ""))

    def table(self) -> str:
        """One line a pass."""
        return "\n".join(self.rows)


@dataclass
class StopAfter(Instrument):
    """Ends the run after `n` passes; for bisecting a pipeline."""

    n: int
    stop: bool = False
    _count: int = 0

    def after(self, p: Pass, graph: Graph, ctx: Context, changed: bool) -> None:
        self._count += 1
        self.stop = self._count >= self.n


@dataclass
class CheckReports(Instrument):
    """A pass that changed the graph must return True."""

    option: ClassVar[str] = "--check-each"
    _before: int = 0

    def before(self, p: Pass, graph: Graph, ctx: Context) -> None:
        self._before = fingerprint(graph)

    def after(self, p: Pass, graph: Graph, ctx: Context, changed: bool) -> None:
        if not changed and fingerprint(graph) != self._before:
            raise VerificationError("it changed the graph but reports no change")


#: Largest allowed error, relative to the largest magnitude of the output; integer results must be equal.
CHECK_TOLERANCE = {DataType.FLOAT32: 2e-5, DataType.FLOAT16: 4e-3}
#: Outputs that are smaller everywhere are what a cancellation (x - mean(x), say) left over: rounding, not a value.
CANCELLED = 1e-2


@dataclass
class CheckEach(Instrument):
    """Interprets the graph (numpy) before and after each pass that changed it; outputs must agree.

    The inputs are random with a seed, or those of `inputs`. Names pass, output and error on a mismatch."""

    option: ClassVar[str] = "--check-each"
    seed: int = 0
    inputs: Mapping[str, np.ndarray] | None = None
    _expected: dict[str, np.ndarray] | None = None

    def before(self, p: Pass, graph: Graph, ctx: Context) -> None:
        if self._expected is None:
            if self.inputs is None:
                self.inputs = random_inputs(graph, self.seed)
            self._expected = interpret(graph, self.inputs)

    def after(self, p: Pass, graph: Graph, ctx: Context, changed: bool) -> None:
        if not changed or self._expected is None or self.inputs is None:
            return
        results = interpret(graph, self.inputs)
        if list(results) != list(self._expected):
            raise VerificationError(f"it changed the outputs from {list(self._expected)} to {list(results)}")
        for name, expected in self._expected.items():
            problem = difference(results[name], expected, p.tolerance)
            if problem:
                raise VerificationError(f"it changed the value of output {name}: {problem}")
        self._expected = results


def difference(actual: np.ndarray, expected: np.ndarray, tolerance: float = 0.0) -> str:
    """How two results differ beyond the tolerance of their data type (or `tolerance`, where larger); empty if equal."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return f"{expected.dtype}{list(expected.shape)} became {actual.dtype}{list(actual.shape)}"
    dtype = DataType.of(expected.dtype)
    if not dtype.is_float:
        wrong = int((actual != expected).sum())
        return f"{wrong} of {expected.size} elements differ" if wrong else ""
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(b)
    special = (~finite | ~np.isfinite(a)) & ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if special.any():
        return f"{int(special.sum())} of {expected.size} elements differ in being finite"
    if not finite.any():
        return ""
    error, scale = np.abs(a[finite] - b[finite]).max(), np.abs(b[finite]).max()
    allowed = max(CHECK_TOLERANCE[dtype], tolerance) * max(scale, CANCELLED)
    return f"largest error {error:.3g}, allowed {allowed:.3g}" if error > allowed else ""


def random_inputs(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded random arrays for the inputs of a graph, see `random_array`."""
    rng = np.random.default_rng(seed)
    return {v.name: random_array(rng, v.type.dtype, v.type.shape) for v in graph.inputs}


def random_array(rng: np.random.Generator, dtype: DataType, shape: tuple[int, ...]) -> np.ndarray:
    """Normal floats; the full range of 4- and 8-bit integers; 0..7 for wider ones, which are often indices."""
    if dtype.is_float:
        return rng.standard_normal(shape, np.float32).astype(dtype.numpy)
    low, high = limits(dtype) if dtype.bits <= 8 else (0, 7)
    return rng.integers(low, high, shape, dtype.numpy, endpoint=True)


def fingerprint(graph: Graph) -> int:
    """A hash of a graph's structure: ops, operands, types, public names; not the hints that name other values."""
    number: dict[Value, int] = {}
    items: list[object] = [tuple((v.name, v.type) for v in graph.inputs), tuple(graph.output_names)]
    for v in graph.inputs:
        number[v] = len(number)
    for node in graph.nodes:
        bodies = [getattr(node.op, f.name) for f in fields(node.op)]
        op = (type(node.op), tuple(fingerprint(b) if isinstance(b, Graph) else b for b in bodies))
        items.append((op, tuple(None if v is None else number.get(v) for v in node.inputs)))
        for v in node.outputs:
            number[v] = len(number)
            items.append(v.type)
    items.append(tuple(number.get(v) for v in graph.outputs))
    return hash(tuple(items))


def _census(graph: Graph) -> dict[str, int]:
    out: dict[str, int] = {}
    for node in graph.nodes:
        out[node.op.name] = out.get(node.op.name, 0) + 1
    return out
