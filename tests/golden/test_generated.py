"""The WGSL and the plan of small graphs, as files: a change of the compiler shows what it changes in what is generated.

Each graph is compiled for WebGPU's default limits. `NAME.wgsl` holds the shaders in the order of the plan, `NAME.json`
the plan without their hashes. A refactoring must not change a byte.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from gpucompile.compiler import compile
from gpucompile.ir.graph import Value
from gpucompile.ir.types import DataType
from gpucompile.ops.activation import Clamp, Relu, Sigmoid
from gpucompile.ops.contraction import Gemm, Matmul
from gpucompile.ops.elementwise import Add, Exp, Mul, Sub
from gpucompile.ops.logical import Greater, LogicalAnd, Where
from gpucompile.ops.movement import Concat, Pad, Reshape, Slice, Transpose
from gpucompile.ops.pool import AveragePool2d, MaxPool2d
from gpucompile.ops.reduction import ReduceL2, ReduceMax
from gpucompile.ops.softmax import Softmax
from gpucompile.ops.update import UpdateSlice
from gpucompile.plan.bundle import Bundle
from gpucompile.runtime.format import to_json
from tests.golden.conftest import FOLDER
from tests.null.graphs import Build, chain

Graph = Callable[[Build], Value]


def elementwise_chain(b: Build) -> Value:
    """One kernel, vec4, a broadcast operand and literals."""
    x = b(Add(), b.x(3, 8), b.c(8))
    return b(Mul(), chain(b, x, Sigmoid(), Clamp(0.25, 0.75)), b.value(1.5))


def elementwise_odd(b: Build) -> Value:
    """A size that is no multiple of four: scalars."""
    return b(Sub(), b(Exp(), b.x(5, 7)), b.x(5, 1, name="z"))


def movement(b: Build) -> Value:
    """Index arithmetic in one kernel: pad, slice with a stride, transpose, reshape."""
    x = b(Pad((0, 1, 0), (0, 2, 0), value=0.5), b.x(2, 5, 8))
    return b(Reshape((4, 16)), b(Relu(), b(Transpose((2, 1, 0)), b(Slice((0, 0, 0), (2, 8, 8), (1, 2, 1)), x))))


def conv_residual(b: Build) -> Value:
    """A 3x3 convolution with bias, ReLU and a residual add that overwrites its operand."""
    t = b.conv(b.x(1, 8, 8, 8), 8)
    return b(MaxPool2d((2, 2), strides=(2, 2)), b(Relu(), b(Add(), b.conv(t, 8), t)))


def conv_concat(b: Build) -> Value:
    """Two 1x1 convolutions that write side by side."""
    x = b.x(1, 16, 8, 8)
    return b(MaxPool2d((3, 3)), b(Concat(1), b(Relu(), b.conv(x, 8, 1)), b(Relu(), b.conv(x, 12, 1))))


def conv_after_transpose(b: Build) -> Value:
    """The transpose is part of the convolution's load."""
    return b.conv(b(Transpose((0, 3, 1, 2)), b.x(1, 9, 10, 3)), 16, 3, strides=(2, 2))


def conv_grouped(b: Build) -> Value:
    """Groups as batches of a product."""
    return b.conv(b.x(1, 8, 6, 6), 16, 3, groups=2)


def conv_depthwise(b: Build) -> Value:
    """A window of its own for every channel."""
    return b(Relu(), b.conv(b.x(1, 8, 9, 9), 8, 3, groups=8))


def matmul_batched(b: Build) -> Value:
    """Tiles in workgroup memory; edges that are no multiple of a tile."""
    return b(Matmul(), b.x(2, 37, 50), b.x(50, 60, name="z"))


def gemm_rows(b: Build) -> Value:
    """Two rows: each result reads a contiguous row of weights."""
    return b(Relu(), b(Gemm(b_transpose=True), b.x(2, 256), b.c(40, 256), b.c(40)))


def split_k(b: Build) -> Value:
    """A long sum for few results: k is split."""
    return b(Matmul(), b.x(16, 4096), b.x(4096, 16, name="z"))


def pooling(b: Build) -> Value:
    """A padded window and the whole image."""
    return b(AveragePool2d(), b(AveragePool2d((3, 3), (1, 1, 1, 1)), b.x(1, 8, 7, 7)))


def softmax(b: Build) -> Value:
    return b(Softmax(1), b.x(3, 70))


def reduce(b: Build) -> Value:
    """Lanes that share a sum; a map before it and a function after it."""
    return b(ReduceL2((1,)), b(ReduceMax((0,)), b.x(4, 5, 130)))


def comparison(b: Build) -> Value:
    """uint8: four elements to a word, written whole."""
    x, y = b.x(3, 5), b.x(3, 5, name="z")
    c = b(LogicalAnd(), b(Greater(), x, y), b.x(3, 5, name="mask", dtype=DataType.UINT8))
    return b(Where(), c, x, y)


def comparison_to_bytes(b: Build) -> Value:
    return b(Greater(), b.x(3, 5), b.graph.constant(np.float32(0.5)))


def update_in_place(b: Build) -> Value:
    """A key/value cache: the output is the input with a slice written at a place that is an input too."""
    cache, start = b.x(1, 2, 8, 4, name="cache"), b.x(name="start", dtype=DataType.INT32)
    return b(UpdateSlice(2), cache, start, b(Relu(), b.x(1, 2, 3, 4)))


GRAPHS: dict[str, Graph] = {
    f.__name__: f
    for f in (
        elementwise_chain, elementwise_odd, movement, conv_residual, conv_concat, conv_after_transpose, conv_grouped,
        conv_depthwise, matmul_batched, gemm_rows, split_k, pooling, softmax, reduce, comparison, comparison_to_bytes,
        update_in_place,
    )
}  # fmt: skip


def wgsl_of(bundle: Bundle) -> str:
    """All shaders, each under the labels of the steps that use it."""
    (plan,) = bundle.plans
    parts = []
    for i, sha in enumerate(plan.shaders):
        steps = [f"step {n}: {s.label}" for n, s in enumerate(plan.steps) if s.shader == i]
        parts.append(f"// ---- shader {i}, {'; '.join(steps)}\n{bundle.shader(sha).strip()}\n")
    return "\n".join(parts)


def json_of(bundle: Bundle) -> str:
    """The plan, a line for every buffer, region and binding."""
    data = to_json(bundle.plans[0])
    data["shaders"] = len(data["shaders"])
    return _pretty(data) + "\n"


def _pretty(data: object, indent: str = "") -> str:
    """JSON that breaks lines only where they would be long."""
    short = json.dumps(data)
    if len(indent) + len(short) <= 110 or not isinstance(data, (dict, list)):
        return short
    inner = indent + "  "
    items = [f"{json.dumps(k)}: {_pretty(v, inner)}" for k, v in data.items()] if isinstance(data, dict) else [
        _pretty(v, inner) for v in data
    ]  # fmt: skip
    open, close = "{}" if isinstance(data, dict) else "[]"
    return f"{open}\n{inner}" + f",\n{inner}".join(items) + f"\n{indent}{close}"


@pytest.mark.parametrize("name", GRAPHS)
def test_generated(name: str, golden: Callable[[str, str], None]) -> None:
    b = Build()
    b.graph.set_outputs({"y": GRAPHS[name](b)})
    bundle = compile(b.graph)
    assert json.loads(json_of(bundle))["steps"]
    golden(f"{name}.wgsl", wgsl_of(bundle))
    golden(f"{name}.json", json_of(bundle))


def test_every_file_belongs_to_a_test(request: pytest.FixtureRequest) -> None:
    wanted = {f"{name}.{suffix}" for name in GRAPHS for suffix in ("wgsl", "json")}
    found = {p.name for p in FOLDER.iterdir()} if FOLDER.is_dir() else set()
    if not request.config.getoption("--update-golden", default=False):
        assert found == wanted
    for name in found - wanted if request.config.getoption("--update-golden", default=False) else ():
        (FOLDER / name).unlink()
