"""The planner: what every plan must fulfil, on random graphs and nine networks; what it did on graphs made for it.

`plan.verify.verify` proves a plan sound; what is asserted here besides is that it is good (nothing copied that need not
be, scratch at its lower bound), the same every time, and made quickly.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import networks
from gpucompile.compiler import compile
from gpucompile.frontends.onnx.importer import import_model
from gpucompile.ir.graph import Graph, Value
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.activation import Relu, Sigmoid
from gpucompile.ops.conv import Conv2d
from gpucompile.ops.elementwise import Add, Mul
from gpucompile.ops.movement import Concat, Reshape, Slice, Transpose
from gpucompile.ops.pool import MaxPool2d
from gpucompile.ops.reduction import ReduceSum
from gpucompile.ops.softmax import Softmax
from gpucompile.passmanager.base import Context
from gpucompile.passmanager.manager import PassManager
from gpucompile.plan import planner
from gpucompile.plan.bundle import Bundle
from gpucompile.plan.planner import PLANS, make_plan
from gpucompile.plan.verify import verify
from gpucompile.plan.weights import WeightStore
from gpucompile.runtime.format import Plan, Region, from_json, to_json
from tests.null.graphs import Build
from tests.support import TARGETS, graphs

# Every plan ----------------------------------------------------------------------------------------------------------

pipelines = st.sampled_from(["none", "no-fuse", "default"])
targets = st.sampled_from(list(TARGETS.values()))


def check_plan(plan: Plan, bundle: Bundle) -> None:
    """Invariants beyond those of the verifier."""
    assert len(set(plan.shaders)) == len(plan.shaders), "a shader is listed twice"
    assert {s.shader for s in plan.steps} == set(range(len(plan.shaders))), "a shader without a step"
    for step in plan.steps:
        assert step.writes, f"{step.label} writes nothing"
        buffers = [(b.buffer, b.offset) for b in step.bindings]
        assert len(set(buffers)) == len(buffers), f"{step.label} binds a range twice"
    used = {b.buffer for s in plan.steps for b in s.bindings}
    kept = {i for i, b in enumerate(plan.buffers) if b.kind in ("input", "output")}
    assert used | kept == set(range(len(plan.buffers))), "a buffer that nobody uses"
    assert 0 <= plan.scratch_bound <= plan.bytes_of("scratch") <= 1.25 * plan.scratch_bound
    assert from_json(Plan, to_json(plan), "plan") == plan


@settings(max_examples=120, deadline=None)
@given(graph=graphs(), pipeline=pipelines, target=targets, mode=st.sampled_from(PLANS))
def test_random_graphs(graph: Graph, pipeline: str, target: object, mode: str) -> None:
    inputs, outputs = [v.name for v in graph.inputs], list(graph.output_names)
    bundle = compile(graph, target, pipeline=pipeline, plan=mode)  # type: ignore[arg-type]
    (plan,) = bundle.plans
    verify(plan, target.limits)  # type: ignore[attr-defined]
    check_plan(plan, bundle)
    assert [p.name for p in plan.inputs] == inputs and [p.name for p in plan.outputs] == outputs


@settings(max_examples=30, deadline=None)
@given(graph=graphs(), pipeline=pipelines, target=targets)
def test_compiling_twice_gives_the_same_bytes(graph: Graph, pipeline: str, target: object) -> None:
    """Also when the graph went through its clone: nothing depends on the identity of objects."""
    first, second = (compile(g, target, pipeline=pipeline) for g in (graph, graph.clone()))  # type: ignore[arg-type]
    assert dict(_contents(first)) == dict(_contents(second))


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_networks_compile_to_the_same_bytes(name: str) -> None:
    """In other processes too, whatever order their sets have."""
    program = f"""
import hashlib
from benchmarks import networks
from gpucompile.compiler import compile
digest = hashlib.sha256()
for name, data in ((n, d.bytes()) for n, d in compile(networks.cached({name!r})).files()):
    digest.update(name.encode() + data)
print(digest.hexdigest())
"""
    found = set()
    for seed in "12":
        env = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1


def _contents(bundle: Bundle) -> list[tuple[str, bytes]]:
    return [(name, bytes(data.bytes())) for name, data in bundle.files()]


@settings(max_examples=60, deadline=None)
@given(graph=graphs())
def test_fusion_never_costs_kernels(graph: Graph) -> None:
    """The default pipeline needs no more kernels than the plainest one."""
    plain, fused = (compile(graph, pipeline=p).plans[0] for p in ("none", "default"))
    added = sum(v.type.rank == 4 for v in graph.inputs) + sum(v.type.rank == 4 for v in graph.outputs)  # layouts
    splits = sum(s.label.endswith("+") for s in fused.steps)
    assert len(fused.steps) - splits <= len(plain.steps) + added


# What it did ---------------------------------------------------------------------------------------------------------


def plan_of(b: Build, *results: Value, pipeline: str = "fuse") -> Plan:
    b.graph.set_outputs({f"y{i}": v for i, v in enumerate(results)})
    (plan,) = compile(b.graph, pipeline=pipeline).plans
    return plan


def labels(plan: Plan) -> list[str]:
    return [s.label.split(" ")[0] for s in plan.steps]


def regions(plan: Plan, step: int) -> tuple[Region, ...]:
    return plan.steps[step].writes


def places(plan: Plan, step: int) -> set[tuple[int, int]]:
    """Buffer and offset of what a step writes."""
    return {(r.buffer, r.offset) for r in regions(plan, step)}


def test_concat_of_two_convolutions_is_written_in_place() -> None:
    b = Build()
    x = b.x(1, 8, 6, 6)
    left, right = b(Relu(), b.conv(x, 4)), b(Relu(), b.conv(x, 8))
    plan = plan_of(b, b(Concat(1), left, right))
    assert labels(plan) == ["conv2d+relu", "conv2d+relu"]
    (a,), (c,) = regions(plan, 0), regions(plan, 1)
    assert a.buffer == c.buffer and plan.buffers[a.buffer].kind == "output"
    assert (a.offset, a.size, c.offset, c.size) == (0, 4 * 36 * 4, 4 * 36 * 4, 8 * 36 * 4)
    assert plan.bytes_of("scratch") == 0


def test_concat_along_the_last_axis_is_written_in_stripes() -> None:
    b = Build()
    x = b.x(6, 8)
    plan = plan_of(b, b(Concat(1), b(Softmax(1), x), b(Softmax(0), x)))
    assert labels(plan) == ["softmax", "softmax"]
    (a,), (c,) = regions(plan, 0), regions(plan, 1)
    assert (a.offset, a.size, a.count, a.stride) == (0, 32, 6, 64)
    assert (c.offset, c.size, c.count, c.stride) == (32, 32, 6, 64)


def test_concats_of_concats_need_no_copy() -> None:
    """As in densenet: each block's result is the head of the next one's."""
    b = Build()
    x = b.x(1, 8, 6, 6)
    first = b(Concat(1), b.conv(x, 8), b.conv(x, 4))
    second = b(Concat(1), first, b.conv(b(Relu(), first), 4))
    plan = plan_of(b, second)
    assert not [label for label in labels(plan) if "concat" in label]


def test_a_concat_inside_a_concat_of_another_axis() -> None:
    """Its parts would lie in the outer result as stripes of stripes, which no region describes: it is copied as one."""
    b = Build()
    x = b(Relu(), b.x(1, 4, 6, 6))
    inner = b(Concat(3), b(Softmax(1), x), b(Softmax(2), x))
    plan = plan_of(b, b(Concat(2), inner, b(Softmax(1), inner)))
    assert labels(plan) == ["relu", "softmax", "softmax", "softmax", "concat[0]"]


@pytest.mark.parametrize("value", ["twice", "input", "constant"])
def test_a_concat_copies_only_what_it_must(value: str) -> None:
    b = Build()
    x = b.x(1, 4, 6, 6)
    y = b.conv(x, 4)
    other = {"twice": y, "input": x, "constant": b.c(1, 4, 6, 6)}[value]
    plan = plan_of(b, b(Concat(1), y, other))
    assert labels(plan) == ["conv2d", "concat[1]"]


def test_a_residual_add_overwrites_its_operand() -> None:
    """conv(relu(conv(t))) + t: t, one convolution's result, and the sum in the place of t."""
    b = Build()
    t = b.conv(b.x(1, 8, 16, 16), 8)
    y = b(Add(), b.conv(b(Relu(), b.conv(t, 8)), 8), t)
    plan = plan_of(b, b(Softmax(1), y))
    assert labels(plan) == ["conv2d", "conv2d+relu", "conv2d+add", "softmax"]
    size = 8 * 16 * 16 * 4
    assert plan.bytes_of("scratch") == plan.scratch_bound == 2 * size
    assert places(plan, 2) == places(plan, 0), "the sum is not where its operand was"
    written = [r for r in plan.steps[2].writes]
    read = [r for r in plan.steps[2].reads if r.offset == written[0].offset and r.buffer == written[0].buffer]
    assert len(plan.steps[2].bindings) == 4 and len(read) == 1, "the operand in place is bound a second time"


def test_an_operand_that_is_read_later_is_not_overwritten() -> None:
    b = Build()
    t = b.conv(b.x(1, 8, 16, 16), 8)
    y = b(Add(), b.conv(t, 8), t)
    plan = plan_of(b, b(Softmax(1), y), b(Softmax(2), t))
    assert plan.bytes_of("scratch") == 2 * 8 * 16 * 16 * 4
    assert places(plan, 0).isdisjoint(places(plan, 1))


def test_an_elementwise_chain_without_fusion_runs_in_one_place() -> None:
    b = Build()
    x = b(Relu(), b.x(1, 1000))
    for _ in range(5):
        x = b(Sigmoid(), x)
    plan = plan_of(b, b(ReduceSum(None), x), pipeline="none")
    assert len(plan.steps) == 7 and plan.bytes_of("scratch") == 4096


@pytest.mark.parametrize(
    "move",
    [
        lambda b, x: b(Reshape((8, 36)), x),
        lambda b, x: b(Slice((0, 2, 0, 0), (1, 4, 6, 6)), x),
        lambda b, x: b(Reshape((4, 6, 6)), b(Slice((0, 4, 0, 0), (1, 4, 6, 6)), x)),
        lambda b, x: b(Reshape((2, 4, 9, 4)), b(Reshape((8, 36)), x)),
    ],
    ids=["reshape", "slice", "both", "reshapes"],
)
def test_views_are_free(move: Callable[[Build, Value], Value]) -> None:
    """Between two kernels, a view costs neither a kernel nor memory."""
    b = Build()
    y = move(b, b.conv(b.x(1, 8, 6, 6), 8))
    plan = plan_of(b, b(Softmax(y.type.rank - 1), y))
    assert len(plan.steps) == 2 and labels(plan)[1].endswith("softmax")
    assert plan.bytes_of("scratch") == math.ceil(8 * 36 * 4 / 256) * 256


def test_a_reshape_at_the_end_lies_in_the_output() -> None:
    b = Build()
    plan = plan_of(b, b(Reshape((8, 36)), b.conv(b.x(1, 8, 6, 6), 8)))
    assert labels(plan) == ["conv2d"] and plan.bytes_of("scratch") == 0


def test_a_transpose_before_a_product_is_in_its_load() -> None:
    b = Build()
    y = b.conv(b(Transpose((0, 2, 1, 3)), b.x(1, 6, 8, 6)), 8)
    assert labels(plan_of(b, y)) == ["transpose+conv2d"]


def test_inputs_constants_and_values_returned_twice_get_a_copy_each() -> None:
    b = Build()
    x = b.x(3, 5)
    y = b(Relu(), x)
    plan = plan_of(b, y, x, y, b.c(3, 5))
    assert len(plan.steps) == 4
    assert sorted(b.kind for b in plan.buffers) == ["input"] + ["output"] * 4 + ["weight"]


def test_weights_are_in_order_of_first_use_and_shared() -> None:
    b = Build()
    x, w = b.x(1, 4, 6, 6), b.c(4, 4, 3, 3)
    first, second = b.c(4, 6, 6), b.c(1, 4, 6, 6)
    y = b(Mul(), b(Add(), x, second), first)
    y = b(Conv2d((1,) * 4), b(Conv2d((1,) * 4), y, w), w)
    plan = plan_of(b, b(MaxPool2d((2, 2)), y), pipeline="none")
    offsets = [r.offset for s in plan.steps for r in s.reads if plan.buffers[r.buffer].kind == "weight"]
    assert offsets == [0, 768, 1536, 1536], "not packed by first use, or not shared"
    assert all(offset % 256 == 0 for offset in offsets)


def test_equal_kernels_share_a_shader() -> None:
    b = Build()
    x = b.x(1, 8, 6, 6)
    for _ in range(4):
        x = b(Relu(), b.conv(x, 8))
    plan = plan_of(b, b(MaxPool2d((2, 2)), x))
    assert len(plan.steps) == 5
    assert len({plan.shaders[s.shader] for s in plan.steps[1:4]}) <= 2  # offsets of views are baked in, others not


def test_large_grids_fold() -> None:
    """70,000 workgroups: WebGPU allows 65,535 a dimension."""
    b = Build()
    x = b.graph.add_input("x", TensorType(DataType.FLOAT32, (70_000, 5)))
    plan = plan_of(b, b(Softmax(1), x))
    (step,) = plan.steps
    assert max(step.grid) <= 65_535 and math.prod(step.grid) >= 70_000


# Networks ------------------------------------------------------------------------------------------------------------

LARGE = {"alexnet", "vgg19", "zfnet512"}
NETWORKS = [pytest.param(n, marks=[pytest.mark.slow] if n in LARGE else []) for n in networks.NAMES]


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_reach_the_bound_quickly(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch within 2 % of the largest sum of live bytes, for every target; planned in 50 ms of processor time (the
    better of two, without the time to copy weights); no concat copies what a kernel could have written in place."""
    monkeypatch.setattr(planner.time, "perf_counter", time.process_time)
    copying = [_clocked(monkeypatch, planner, "_packed"), _clocked(monkeypatch, WeightStore, "add")]
    graph = import_model(networks.cached(name))
    for target in TARGETS.values():
        fused = graph.clone()
        PassManager("default").run(fused, Context(target))
        seconds = []
        for _ in range(2):
            before = sum(map(sum, copying))
            planned = make_plan(fused, target)
            seconds.append(planned.seconds["plan"] - (sum(map(sum, copying)) - before))
        plan = planned.plan
        verify(plan, target.limits)
        assert plan.bytes_of("scratch") <= 1.02 * plan.scratch_bound, target.name
        assert min(seconds) < 0.05, target.name
        copies = [s.label for s in plan.steps if "concat[" in s.label]
        assert len(copies) <= CONCAT_COPIES.get(name, 0), copies


#: Concats that copy an operand which another concat owns, or which is read before.
CONCAT_COPIES: dict[str, int] = {}


def _clocked(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[float]:
    """The processor seconds of all calls of a function of a module or class."""
    seconds: list[float] = []
    function = getattr(owner, name)

    def call(*args: object, **options: object) -> object:
        start = time.process_time()
        try:
            return function(*args, **options)
        finally:
            seconds.append(time.process_time() - start)

    monkeypatch.setattr(owner, name, call)
    return seconds
