"""Inputs that are updated in place: when the planner makes one of a slice written into them, and what is checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

import gpucompile
from gpucompile.errors import BundleError, VerificationError
from gpucompile.ir.graph import Graph, Value
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.activation import Relu
from gpucompile.ops.categories import tensor
from gpucompile.ops.elementwise import Add, Mul
from gpucompile.ops.reduction import ReduceSum
from gpucompile.ops.update import UpdateSlice
from gpucompile.plan.verify import verify
from gpucompile.runtime.checks import check_plan
from gpucompile.runtime.format import Binding, Plan, Region, State, Step

I32 = DataType.INT32
Add_ = Callable[..., Value]


def graph(more: Callable[[Add_, Value, Value], dict[str, Value]], dtype: DataType = DataType.FLOAT32) -> Graph:
    """present = past with 2 * new at `start`; `more(add, past, present)` gives other outputs, perhaps present too."""
    g, type = Graph(), tensor(2, 8, 4, dtype=dtype)
    past = g.add_input("past", type)
    new = g.add_input("new", type.with_shape((2, 1, 4)))
    start = g.add_input("start", TensorType(I32, ()))
    present = g.add(UpdateSlice(1), past, start, g.add(Add(), new, new))
    g.set_outputs({"present": present} | more(g.add, past, present))
    return g


def plan(made: Graph) -> Plan:
    (out,) = gpucompile.compile(made).plans
    return out


def sound() -> Plan:
    return plan(graph(lambda add, past, present: {"total": add(ReduceSum((1,)), present)}))


def test_a_slice_is_written_in_place() -> None:
    """One kernel on one buffer, which reads what is written and nothing of the rest."""
    made = sound()
    assert made.states == (State("past", "present", 1, 1),)
    (state,) = (i for i, b in enumerate(made.buffers) if b.kind == "state")
    assert [p.buffer for p in (made.inputs[0], made.outputs[0])] == [state, state]
    update, total = made.steps
    assert update.label == "add+update_slice update" and update.grid == (1, 1, 1)
    assert {b.buffer: b.access for b in update.bindings}[state] == "read_write"
    assert {b.buffer: b.access for b in total.bindings}[state] == "read"
    assert "copy" not in "".join(s.label for s in made.steps)


@pytest.mark.parametrize("dtype", [DataType.FLOAT16, DataType.INT8, DataType.INT64])
def test_every_data_type(dtype: DataType) -> None:
    """Elements that share words too, as a slice is whole words; float16 is not widened for it."""
    made = plan(graph(lambda add, past, present: {}, dtype))
    assert len(made.states) == 1 and made.bytes_of("state") == 64 * dtype.bits // 8


@pytest.mark.parametrize(
    "more",
    [
        lambda add, past, present: {"before": add(Relu(), past)},
        lambda add, past, present: {"present": add(Relu(), present)},
        lambda add, past, present: {"both": add(Mul(), past, present)},
    ],
    ids=["read elsewhere", "not the output", "read beside"],
)
def test_what_cannot_be_in_place_is_copied(more: Callable[..., dict[str, Value]]) -> None:
    made = plan(graph(more))
    assert not made.states and not made.bytes_of("state")
    assert any("copy" in s.label for s in made.steps)


def test_scratch_is_written_in_place_too() -> None:
    g = Graph()
    x, new = g.add_input("x", tensor(8, 3, 4)), g.add_input("new", tensor(2, 4))
    start = g.add_input("start", TensorType(I32, ()))
    wide = g.add(ReduceSum((1,)), x)
    g.set_outputs({"y": g.add(ReduceSum((1,)), g.add(UpdateSlice(0), wide, start, new))})
    made = plan(g)
    assert not any("copy" in s.label for s in made.steps)


def changed(step: int, **fields: object) -> Plan:
    made = sound()
    steps = list(made.steps)
    steps[step] = dataclasses.replace(steps[step], **fields)  # type: ignore[arg-type]
    return dataclasses.replace(made, steps=tuple(steps))


def late_reader() -> Plan:
    """Something reads what the state held before, after the update."""
    made = sound()
    old = next(r for r in made.steps[0].reads if made.buffers[r.buffer].kind == "state")
    out = next(r for r in made.steps[1].writes)
    binding = Binding(old.buffer, 0, made.buffers[old.buffer].size, "read")
    target = Binding(out.buffer, 0, made.buffers[out.buffer].size, "read_write")
    late = Step(0, (1, 1, 1), (binding, target), "late", (old,), (dataclasses.replace(out, value=99),))
    return dataclasses.replace(made, steps=(*made.steps, late))


def early_reader() -> Plan:
    """Something reads the updated state before the update."""
    made = sound()
    return dataclasses.replace(made, steps=(made.steps[1], made.steps[0]))


def two_pasts() -> Plan:
    """Two steps call what the state held at first two different tensors."""
    made = sound()
    old = next(r for r in made.steps[0].reads if made.buffers[r.buffer].kind == "state")
    binding = Binding(old.buffer, 0, made.buffers[old.buffer].size, "read")
    first = Step(0, (1, 1, 1), (binding,), "first", (dataclasses.replace(old, value=77),))
    return dataclasses.replace(made, steps=(first, *made.steps))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (late_reader, r"step 2 \(late\) reads %\d+, .* overwritten by %\d+"),
        (early_reader, r"step 0 .* reads %\d+, .* never written"),
        (two_pasts, r"reads %\d+, .* overwritten by %77"),
    ],
    ids=["late", "early", "two"],
)
def test_the_verifier_follows_states(broken: Callable[[], Plan], message: str) -> None:
    verify(sound())
    with pytest.raises(VerificationError, match=message):
        verify(broken())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"states": ()}, "state buffer 0 is not that of one state"),
        ({"states": (State("past", "other", 1, 1),)}, "there is no such input or output"),
        ({"states": (State("new", "present", 1, 1),)}, "'new' and output 'present' are not of one type in one buffer"),
        ({"states": (State("past", "present", 3, 1),)}, r"1 places of axis 3 are not within \[2, 8, 4\]"),
        ({"states": (State("past", "present", 1, 9),)}, r"9 places of axis 1 are not within \[2, 8, 4\]"),
        ({"states": (State("past", "present", 1, 1),) * 2}, "state buffer 0 is not that of one state"),
    ],
)
def test_readers_check_states(fields: dict[str, object], message: str) -> None:
    check_plan(sound(), "plan")
    with pytest.raises(BundleError, match=message):
        check_plan(dataclasses.replace(sound(), **fields), "plan")  # type: ignore[arg-type]


def test_bundles_keep_states(tmp_path: object) -> None:
    bundle = gpucompile.compile(graph(lambda add, past, present: {}))
    path = bundle.save(f"{tmp_path}/x.gpub")
    from gpucompile.runtime.bundle import read_bundle

    with read_bundle(path) as read:
        assert read.plan("base").states == bundle.plans[0].states


def test_reads_count_as_reads() -> None:
    """The update reads all of the state: what it leaves is still there afterwards."""
    made = sound()
    state = made.inputs[0].buffer
    read, written = (
        [r for r in regions if r.buffer == state] for regions in (made.steps[0].reads, made.steps[0].writes)
    )
    assert [dataclasses.replace(r, value=0) for r in read] == [Region(state, 0, 0, 256)]
    assert [dataclasses.replace(r, value=0) for r in written] == [Region(state, 0, 0, 256)]
    assert read[0].value != written[0].value


def test_reference() -> None:
    past, new = np.zeros((2, 5), np.float32), np.ones((2, 3), np.float32)
    for start, want in ((1, [0, 1, 1, 1, 0]), (9, [0, 0, 1, 1, 1]), (-1, [0, 0, 1, 1, 1]), (-2, [0, 1, 1, 1, 0])):
        np.testing.assert_array_equal(UpdateSlice(1).reference(past, np.array(start), new)[0], want)
    starts = np.array([4, 0])
    got = UpdateSlice(1, True).reference(past, starts, new)
    np.testing.assert_array_equal(got, [[1, 1, 0, 0, 1], [1, 1, 1, 0, 0]])
