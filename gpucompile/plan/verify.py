"""Proving a plan before anything runs it.

The verifier plays the plan with owners instead of numbers. Every byte of scratch, output and state memory has an owner:
the number of the tensor (`Region.value`) that was written there last, or nobody. Then, step by step:

    structure   indices, alignment, sizes, grids, bindings (what the bundle reader checks too), limits in `requires`
    bindings    every region lies inside a binding with enough access, every binding has a region
    hazards     within a step, what is written overlaps neither another write nor a read, except exactly in place
    reads       every byte read belongs to the tensor the step says it reads: written before, not overwritten since;
                what is in a state before anything wrote there is one tensor
    end         every byte of every output was written, by one tensor

Bytes between two neighbouring region ends are never told apart, so owners are kept per such interval (coordinate
compression): a plan of n contiguous regions needs at most 2n of them however large its buffers are. Regions with
`count` runs, such as a concatenation by offset, get intervals for every run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from gpucompile.errors import BundleError, VerificationError
from gpucompile.runtime.checks import check_plan, check_requires, port_bytes
from gpucompile.runtime.format import Plan, Region, Step
from gpucompile.target import DEFAULT_LIMITS

_NOBODY = -1
_Span = tuple[int, int, int, int]  # offset, size, count, stride of a region, normalised


def verify(plan: Plan, limits: Mapping[str, int] | None = None) -> None:
    """Raise VerificationError, naming the step and the tensors, unless the plan is sound.

    `limits` are those of the device or target it is meant for; `plan.requires` must not exceed them. Limits that
    neither names are WebGPU's defaults.
    """
    where = f"plan {plan.name}"
    try:
        check_plan(plan, where)
    except BundleError as e:
        raise VerificationError(str(e)) from None
    if limits is not None:
        missing = check_requires(plan.requires, plan.requires.features, limits)
        if missing:
            raise VerificationError(f"{where} requires what the target lacks: {', '.join(missing)}")
    _check_limits(plan, where)
    for i, step in enumerate(plan.steps):
        at = f"{where}, step {i}" + (f" ({step.label})" if step.label else "")
        _check_regions(plan, step, at)
        _check_bindings(step, at)
        _check_hazards(step, at)
    _Owners(plan, where).play()


def _check_limits(plan: Plan, where: str) -> None:
    limits = DEFAULT_LIMITS | plan.requires.limits
    biggest, binding = limits["max-buffer-size"], limits["max-storage-buffer-binding-size"]
    count, grid = limits["max-storage-buffers-per-shader-stage"], limits["max-compute-workgroups-per-dimension"]
    alignment = limits["min-storage-buffer-offset-alignment"]
    for i, buffer in enumerate(plan.buffers):
        if buffer.size > biggest:
            raise VerificationError(f"{where}, buffer {i}: {buffer.size} bytes exceed max-buffer-size {biggest}")
    for i, step in enumerate(plan.steps):
        at = f"{where}, step {i} ({step.label})"
        if len(step.bindings) > count:
            raise VerificationError(f"{at}: {len(step.bindings)} bindings, the limit is {count} storage buffers")
        if max(step.grid) > grid:
            raise VerificationError(f"{at}: grid {step.grid} exceeds {grid} workgroups per dimension")
        for j, b in enumerate(step.bindings):
            if b.size > binding:
                raise VerificationError(f"{at}, binding {j}: {b.size} bytes exceed the binding limit {binding}")
            if b.offset % alignment:
                raise VerificationError(f"{at}, binding {j}: offset {b.offset} is not a multiple of {alignment}")


# ---------------------------------------------------------------------------------------------- one step


def _span(r: Region) -> _Span:
    """A region in whole 32-bit words; runs that touch are one run."""
    if r.count == 1 or r.stride == r.size:
        return r.offset, (r.size * r.count + 3) // 4 * 4, 1, 0
    return r.offset, r.size, r.count, r.stride


def _end(span: _Span) -> int:
    offset, size, count, stride = span
    return offset + size + (count - 1) * stride


def _text(r: Region) -> str:
    runs = f" in {r.count} runs {r.stride} bytes apart" if r.count > 1 else ""
    return f"bytes {r.offset}..{_end((r.offset, r.size, r.count, r.stride))}{runs} of buffer {r.buffer}"


def _check_regions(plan: Plan, step: Step, at: str) -> None:
    for kind, regions in (("reads", step.reads), ("writes", step.writes)):
        for r in regions:
            what = f"{at} {kind} %{r.value}, {_text(r)}"
            offset, size, count, stride = _span(r)
            if r.size < 1:
                raise VerificationError(f"{what}: the region is empty")
            if offset % 4 or (count > 1 and (size % 4 or stride % 4)):
                raise VerificationError(f"{what}: not whole 32-bit words")
            if count > 1 and stride < size:
                raise VerificationError(f"{what}: its runs overlap")
            if kind == "writes" and plan.buffers[r.buffer].kind in ("input", "weight"):
                raise VerificationError(f"{what}: a {plan.buffers[r.buffer].kind} buffer is only read")


def _check_bindings(step: Step, at: str) -> None:
    used = set()
    for kind, regions in (("reads", step.reads), ("writes", step.writes)):
        for r in regions:
            start, end, home = r.offset, _end(_span(r)), -1
            for j, b in enumerate(step.bindings):
                if b.buffer == r.buffer and b.offset <= start and end <= b.offset + b.size:
                    home = j
                    if kind == "writes" and b.access != "read_write":
                        raise VerificationError(f"{at} writes %{r.value} through binding {j}, which is bound read")
            if home < 0:
                raise VerificationError(f"{at} {kind} %{r.value}, {_text(r)}, which no binding covers")
            used.add(home)
    for j in range(len(step.bindings)):
        if j not in used:
            raise VerificationError(f"{at}: binding {j} is bound, but nothing in it is read or written")


def _check_hazards(step: Step, at: str) -> None:
    for i, w in enumerate(step.writes):
        span = _span(w)
        for other in step.writes[:i]:
            if other.buffer == w.buffer and _overlap(span, _span(other)):
                raise VerificationError(f"{at} writes %{other.value} and %{w.value} to the same bytes: {_text(w)}")
        for r in step.reads:
            if r.buffer == w.buffer and _span(r) != span and _overlap(span, _span(r)):
                raise VerificationError(
                    f"{at} reads %{r.value} while it writes %{w.value} over part of it: {_text(r)}, {_text(w)}"
                )


def _overlap(a: _Span, b: _Span) -> bool:
    if a[0] >= _end(b) or b[0] >= _end(a):
        return False
    if a[2] == 1 and b[2] == 1:
        return True
    if a[2] > 1 and b[2] > 1 and a[3] == b[3]:  # equal strides, as the operands of a concatenation have
        shift = (b[0] - a[0]) % a[3]
        if shift >= a[1] and shift + b[1] <= a[3]:
            return False
    starts_a, starts_b = _starts(a), _starts(b)
    next_b = np.searchsorted(starts_b, starts_a, side="right")
    before = next_b > 0
    hit_before = starts_b[np.maximum(next_b - 1, 0)] + b[1] > starts_a
    after = next_b < len(starts_b)
    hit_after = starts_b[np.minimum(next_b, len(starts_b) - 1)] < starts_a + a[1]
    return bool(np.any(before & hit_before) or np.any(after & hit_after))


def _starts(span: _Span) -> npt.NDArray[np.int64]:
    return span[0] + np.arange(span[2], dtype=np.int64) * span[3]


# ---------------------------------------------------------------------------------------------- data flow


class _Owners:
    """Who owns which bytes of the scratch and output buffers, while the plan is played."""

    def __init__(self, plan: Plan, where: str) -> None:
        self._plan, self._where = plan, where
        self._tracked = {i for i, b in enumerate(plan.buffers) if b.kind in ("scratch", "output", "state")}
        self._before: dict[int, int] = {}  # the tensor that a state holds at first, once somebody has read it
        self._written = {r.value for step in plan.steps for r in step.writes}
        self._index: dict[tuple[int, _Span], npt.NDArray[np.int64] | slice] = {}
        self._cuts: dict[int, npt.NDArray[np.int64]] = {}
        self._owner: dict[int, npt.NDArray[np.int64]] = {}
        spans: dict[int, set[_Span]] = defaultdict(set)
        for step in plan.steps:
            for r in step.reads + step.writes:
                if r.buffer in self._tracked:
                    spans[r.buffer].add(_span(r))
        for port in plan.outputs:
            spans[port.buffer].add((0, port_bytes(port), 1, 0))
        for buffer, found in spans.items():
            cuts = [np.concatenate((_starts(s), _starts(s) + s[1])) for s in found]
            self._cuts[buffer] = np.unique(np.concatenate(cuts))
            self._owner[buffer] = np.full(len(self._cuts[buffer]), _NOBODY, np.int64)
            for span in found:
                self._index[buffer, span] = self._intervals(buffer, span)

    def _intervals(self, buffer: int, span: _Span) -> npt.NDArray[np.int64] | slice:
        """The intervals a span covers, as an index into the buffer's owners."""
        cuts, starts = self._cuts[buffer], _starts(span)
        low = np.searchsorted(cuts, starts)
        high = np.searchsorted(cuts, starts + span[1])
        if len(low) == 1:
            return slice(int(low[0]), int(high[0]))
        sizes = high - low
        skip = np.repeat(low - np.concatenate(([0], np.cumsum(sizes)[:-1])), sizes)
        return np.asarray(skip + np.arange(int(sizes.sum())), dtype=np.int64)

    def _regions(self, regions: tuple[Region, ...]) -> Iterator[tuple[Region, npt.NDArray[np.int64] | slice]]:
        for r in regions:
            if r.buffer in self._tracked:
                yield r, self._index[r.buffer, _span(r)]

    def play(self) -> None:
        """Every step: check the reads, then record the writes. At the end: check the outputs."""
        for number, step in enumerate(self._plan.steps):
            for r, where in self._regions(step.reads):
                self._read_before(r, where)
                found = self._owner[r.buffer][where]
                wrong = found[found != r.value]
                if len(wrong):
                    at = f"{self._where}, step {number}" + (f" ({step.label})" if step.label else "")
                    state = "never written" if wrong[0] == _NOBODY else f"overwritten by %{wrong[0]}"
                    raise VerificationError(f"{at} reads %{r.value}, {_text(r)}, of which some are {state}")
            for r, where in self._regions(step.writes):
                self._owner[r.buffer][where] = r.value
        self._check_outputs()

    def _read_before(self, r: Region, where: npt.NDArray[np.int64] | slice) -> None:
        """Let the tensor that a state is first read as own what nobody has written there."""
        is_state = self._plan.buffers[r.buffer].kind == "state"
        if is_state and r.value not in self._written and self._before.setdefault(r.buffer, r.value) == r.value:
            owner = self._owner[r.buffer]
            owner[where] = np.where(owner[where] == _NOBODY, r.value, owner[where])

    def _check_outputs(self) -> None:
        for port in self._plan.outputs:
            if 0 in port.shape:
                continue
            where = self._index[port.buffer, (0, port_bytes(port), 1, 0)]
            owners = np.unique(self._owner[port.buffer][where])
            if owners[0] == _NOBODY:
                raise VerificationError(f"{self._where}: output {port.name!r} is not fully written at the end")
            if len(owners) > 1:
                names = ", ".join(f"%{o}" for o in owners)
                raise VerificationError(f"{self._where}: output {port.name!r} holds bytes of several tensors: {names}")
