"""What runs inside the NullPlayer's process, see tests/support.py: compile, then play on Dawn's Null backend."""

from __future__ import annotations

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from gpucompile.compiler import compile
from gpucompile.errors import GpucompileError
from gpucompile.ir.graph import Graph
from gpucompile.ir.text import print_graph
from gpucompile.target import Target
from tests.support import TARGETS, compile_op, graphs, null_device, op_graphs, play_on_null, runs_on_gpu

PIPELINES = ("none", "default")


def play_op(name: str) -> tuple[int, list[str]]:
    """How many bundles were played, and what was wrong: every case of an op, for every target, by both pipelines."""
    count, problems = 0, []
    for target in TARGETS.values():
        for pipeline in PIPELINES:
            for i, (graph, bundle) in enumerate(compile_op(name, pipeline, target)):
                count += 1
                try:
                    play_on_null(bundle)
                except GpucompileError as e:
                    problems.append(f"{target.name} {pipeline}, case {i}: {e}\n{print_graph(graph, 'ref')}")
    return count, problems


def play_network(name: str) -> dict[str, int]:
    """Import a network once, compile it for every target, play it. Kernels by target."""
    from benchmarks import networks
    from gpucompile.frontends.onnx.importer import import_model

    graph, out = import_model(networks.cached(name)), {}
    for key, target in TARGETS.items():
        bundle = compile(graph, target)
        play_on_null(bundle)
        out[key] = len(bundle.plans[0].steps)
    return out


def expected_cases(name: str) -> int:
    """How many bundles `play_op` has to play."""
    return sum(map(runs_on_gpu, op_graphs(name))) * len(TARGETS) * len(PIPELINES)


def play_random_graphs(count: int) -> int:
    """Compile and play random graphs, the same ones every time; how many there were."""
    played = 0

    @settings(max_examples=count, deadline=None, derandomize=True, database=None)
    @given(graph=graphs(), target=st.sampled_from(list(TARGETS.values())), pipeline=st.sampled_from(PIPELINES))
    def play(graph: Graph, target: Target, pipeline: str) -> None:
        nonlocal played
        play_on_null(compile(graph, target, pipeline=pipeline))
        played += 1

    play()
    return played


# What must fail ------------------------------------------------------------------------------------------------------


def barrier_after_return() -> None:
    """A barrier in non-uniform control flow."""
    _pipeline(64, "if (lid == 3u) { return; } workgroupBarrier(); data[lid] = 1.0;")


def too_many_threads() -> None:
    """More invocations in a workgroup than WebGPU guarantees."""
    _pipeline(512, "data[lid] = 1.0;")


def misaligned_offset() -> None:
    """A storage binding that starts at 32 bytes."""
    device = null_device()
    with device.guard("creating a bind group"):
        buffer = device.handle.create_buffer(size=512, usage=device.api.BufferUsage.STORAGE)
        resource = {"buffer": buffer, "offset": 32, "size": 256}
        device.handle.create_bind_group(
            layout=device.layout(("read",))[0], entries=[{"binding": 0, "resource": resource}]
        )


def _pipeline(threads: int, body: str) -> None:
    text = f"""
    @group(0) @binding(0) var<storage, read_write> data: array<f32>;
    @compute @workgroup_size({threads}) fn main(@builtin(local_invocation_index) lid: u32) {{ {body} }}
    """
    null_device().pipeline(hashlib.sha256(text.encode()).hexdigest(), text, ["read_write"])
