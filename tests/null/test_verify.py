"""The plan verifier: a sound plan passes, and every way of breaking it is named."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest

from gpucompile.errors import VerificationError
from gpucompile.plan.verify import verify
from gpucompile.runtime.format import Access, Binding, Buffer, Plan, Port, Region, Requires, Step

SIZE = 1024
X, W, Y, ARENA = range(4)  # buffers
BUFFERS = (Buffer("input", SIZE), Buffer("weight", SIZE), Buffer("output", 2 * SIZE), Buffer("scratch", 4 * SIZE))


def bind(buffer: int, offset: int = 0, size: int = SIZE, access: Access = "read_write") -> Binding:
    return Binding(buffer, offset, size, access)


def region(buffer: int, value: int, offset: int = 0, size: int = SIZE, count: int = 1, stride: int = 0) -> Region:
    return Region(buffer, value, offset, size, count, stride)


def sound() -> Plan:
    """%10 = f(x, w); %11 = g(%10); %12 = h(%11) in place; y = concat(%12, %10) along the inner axis, two steps."""
    x, w = bind(X, access="read"), bind(W, access="read")
    rows = {"size": 32, "count": 32, "stride": 64}
    steps = (
        Step(0, (4, 1, 1), (x, w, bind(ARENA)), "f", (region(X, 0), region(W, 1)), (region(ARENA, 10),)),
        Step(0, (4, 1, 1), (bind(ARENA), bind(ARENA, SIZE)), "g", (region(ARENA, 10),), (region(ARENA, 11, SIZE),)),
        Step(0, (4, 1, 1), (bind(ARENA, SIZE),), "h", (region(ARENA, 11, SIZE),), (region(ARENA, 12, SIZE),)),
        Step(0, (4, 1, 1), (bind(ARENA, SIZE), bind(Y, 0, 2 * SIZE)), "left",
             (region(ARENA, 12, SIZE),), (region(Y, 20, 0, **rows),)),
        Step(0, (4, 1, 1), (bind(ARENA), bind(Y, 0, 2 * SIZE)), "right",
             (region(ARENA, 10),), (region(Y, 20, 32, **rows),)),
    )  # fmt: skip
    ports = (Port("x", "float32", (256,), X),), (Port("y", "float32", (32, 16), Y),)
    return Plan("base", Requires(), ("0" * 64,), BUFFERS, steps, *ports)


def changed(i: int, **fields: Any) -> Plan:
    """The sound plan with fields of one step replaced."""
    plan = sound()
    step = dataclasses.replace(plan.steps[i], **fields)
    return dataclasses.replace(plan, steps=(*plan.steps[:i], step, *plan.steps[i + 1 :]))


def without(i: int) -> Plan:
    plan = sound()
    return dataclasses.replace(plan, steps=plan.steps[:i] + plan.steps[i + 1 :])


def with_step(i: int, step: Step) -> Plan:
    plan = sound()
    return dataclasses.replace(plan, steps=(*plan.steps[:i], step, *plan.steps[i:]))


def requiring(**fields: Any) -> Plan:
    return dataclasses.replace(sound(), requires=Requires(**fields))


def test_a_sound_plan() -> None:
    verify(sound())
    verify(sound(), {"max-buffer-size": 1 << 20})


def swapped() -> Plan:
    plan = sound()
    return dataclasses.replace(plan, steps=(plan.steps[1], plan.steps[0], *plan.steps[2:]))


def clobber() -> Plan:
    """Something lands in a part of %10 before its last reader."""
    step = Step(0, (1, 1, 1), (bind(ARENA, 256, 256),), "clobber", (), (region(ARENA, 13, 512 - 4, 4),))
    return with_step(3, step)


def overwritten_output() -> Plan:
    step = Step(0, (1, 1, 1), (bind(Y, 0, 256),), "late", (), (region(Y, 21, 0, 4),))
    return with_step(5, step)


BROKEN: list[tuple[str, Callable[[], Plan]]] = [
    (r"step 0 \(g\) reads %10, bytes 0\.\.1024 of buffer 3, of which some are never written", swapped),
    (r"step 2 \(h\) reads %9, .* overwritten by %11", lambda: changed(2, reads=(region(ARENA, 9, SIZE),))),
    (r"step 5 \(right\) reads %10, .* overwritten by %13", clobber),
    (r"reads %10, bytes 0\.\.1028 .* which no binding covers", lambda: changed(1, reads=(region(ARENA, 10, 0, 1028),))),
    (r"writes %10, bytes 4\.\.1028 of buffer 3, which no binding covers",
     lambda: changed(0, writes=(region(ARENA, 10, 4),))),
    (r"reads %10, .* never written", lambda: changed(0, writes=(region(ARENA, 10, 0, SIZE - 4),))),
    (r"step 0 \(f\) writes %10, .* a weight buffer is only read",
     lambda: changed(0, writes=(region(ARENA, 10), region(W, 10)))),
    ("writes %10 through binding 2, which is bound read",
     lambda: changed(0, bindings=(bind(X, access="read"), bind(W, access="read"), bind(ARENA, access="read")))),
    ("bound both read and read_write",
     lambda: changed(1, bindings=(bind(ARENA, access="read"), bind(ARENA, SIZE)))),
    ("read_write bindings 0 and 1 of buffer 3 overlap", lambda: changed(1, bindings=(bind(ARENA), bind(ARENA, 256)))),
    ("offset 128 is not a multiple of 256", lambda: changed(1, bindings=(bind(ARENA), bind(ARENA, 128)))),
    ("lie outside buffer 3", lambda: changed(1, bindings=(bind(ARENA), bind(ARENA, 4 * SIZE)))),
    ("binding 0 is bound, but nothing in it", lambda: changed(1, reads=())),
    (r"reads %11 while it writes %12 over part of it",
     lambda: changed(2, reads=(region(ARENA, 11, SIZE),), writes=(region(ARENA, 12, SIZE, SIZE - 4),))),
    (r"step 1 \(g\) writes %11 and %14 to the same bytes",
     lambda: changed(1, writes=(region(ARENA, 11, SIZE), region(ARENA, 14, SIZE, 4)))),
    ("output 'y' is not fully written", lambda: without(4)),
    ("output 'y' is not fully written", lambda: without(3)),
    ("output 'y' holds bytes of several tensors: %20, %21", overwritten_output),
    ("the region is empty", lambda: changed(1, reads=(region(ARENA, 10, 0, 0),))),
    ("not whole 32-bit words", lambda: changed(1, reads=(region(ARENA, 10, 2, 4),))),
    ("not whole 32-bit words", lambda: changed(3, writes=(region(Y, 20, 0, 30, 32, 64),))),
    ("its runs overlap", lambda: changed(3, writes=(region(Y, 20, 0, 64, 31, 32),))),
    (r"grid \(4, 0, 1\) is not within", lambda: changed(1, grid=(4, 0, 1))),
    ("shader 1 of 1 does not exist", lambda: changed(1, shader=1)),
    ("exceeds 3 workgroups", lambda: requiring(limits={"max-compute-workgroups-per-dimension": 3})),
    ("3 bindings, the limit is 2", lambda: requiring(limits={"max-storage-buffers-per-shader-stage": 2})),
    ("2048 bytes exceed the binding limit 1024", lambda: requiring(limits={"max-storage-buffer-binding-size": 1024})),
    ("exceed max-buffer-size 1024", lambda: requiring(limits={"max-buffer-size": 1024})),
    ("offset 1024 is not a multiple of 4096", lambda: requiring(limits={"min-storage-buffer-offset-alignment": 4096})),
]  # fmt: skip


@pytest.mark.parametrize(("message", "make"), BROKEN)
def test_broken_plans(message: str, make: Callable[[], Plan]) -> None:
    with pytest.raises(VerificationError, match=message):
        verify(make())


def test_limits_of_the_target() -> None:
    plan = requiring(limits={"max-buffer-size": 1 << 30})
    verify(plan)
    verify(plan, {"max-buffer-size": 1 << 30})
    with pytest.raises(VerificationError, match="requires what the target lacks: max-buffer-size of 1073741824"):
        verify(plan, {"max-buffer-size": 1 << 28})


def test_tensors_that_do_not_fill_words() -> None:
    """Three float16 take two words; whoever reads the padding reads the tensor."""
    buffers = (Buffer("input", 8), Buffer("scratch", 256), Buffer("output", 8))
    steps = (
        Step(0, (1, 1, 1), (bind(0, 0, 8, "read"), bind(1, 0, 8)), "a", (region(0, 0, 0, 6),), (region(1, 1, 0, 6),)),
        Step(0, (1, 1, 1), (bind(1, 0, 8), bind(2, 0, 8)), "b", (region(1, 1, 0, 8),), (region(2, 2, 0, 6),)),
    )
    ports = (Port("x", "float16", (3,), 0),), (Port("y", "float16", (3,), 2),)
    verify(Plan("p", Requires(), ("0" * 64,), buffers, steps, *ports))


def test_an_empty_output_needs_no_step() -> None:
    port = Port("y", "float32", (0, 3), 0)
    verify(Plan("p", Requires(), (), (Buffer("output", 4),), (), (), (port,)))


@pytest.mark.parametrize("strides", [(64, 64), (64, 128), (96, 64), (128, 96)])
@pytest.mark.parametrize("shift", [-32, -16, 0, 16, 32, 48, 1024])
def test_overlap_of_strided_regions(strides: tuple[int, int], shift: int) -> None:
    """Against sets of words."""
    a = region(Y, 1, 256, 32, 10, strides[0])
    b = region(Y, 2, 256 + shift, 16, 7, strides[1])
    words = [{w for i in range(r.count) for w in range(r.offset + i * r.stride, r.offset + i * r.stride + r.size, 4)}
             for r in (a, b)]  # fmt: skip
    plan = Plan("p", Requires(), ("0" * 64,), (*BUFFERS[:2], Buffer("output", 8192), BUFFERS[3]),
                (Step(0, (1, 1, 1), (bind(Y, 0, 8192),), "", (), (a, b)),),
                (Port("x", "float32", (1,), X),), (Port("y", "float32", (0,), Y),))  # fmt: skip
    if words[0] & words[1]:
        with pytest.raises(VerificationError, match="to the same bytes"):
            verify(plan)
    else:
        verify(plan)


def chain(steps: int, size: int) -> Plan:
    """x -> ... -> y through two halves of an arena, each step also reading a weight."""
    buffers = (Buffer("input", size), Buffer("weight", size), Buffer("output", size), Buffer("scratch", 2 * size))
    weight = bind(W, 0, size, "read")
    out = []
    for i in range(steps):
        here = (X, 0, "read") if i == 0 else (ARENA, size * (i % 2), "read_write")
        there = (Y, 0) if i == steps - 1 else (ARENA, size * ((i + 1) % 2))
        source = Binding(here[0], here[1], size, here[2])  # type: ignore[arg-type]
        reads = (region(here[0], i, here[1], size), region(W, -1, 0, size))
        writes = (region(there[0], i + 1, there[1], size),)
        out.append(Step(0, (1, 1, 1), (source, weight, bind(*there, size)), "s", reads, writes))
    n = size // 4
    ports = (Port("x", "float32", (n,), X),), (Port("y", "float32", (n,), Y),)
    return Plan("chain", Requires(), ("0" * 64,), buffers, tuple(out), *ports)


def test_fast_enough() -> None:
    """130 steps over 7 MB take well under 100 ms, 16,000 steps scale linearly."""
    for steps, limit in ((130, 0.1), (16_000, 4.0)):
        plan = chain(steps, 3 << 20)
        best = 1e9
        for _ in range(3 if steps < 1000 else 1):
            start = time.perf_counter()
            verify(plan)
            best = min(best, time.perf_counter() - start)
        assert best < limit
