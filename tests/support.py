"""What several tiers share: graphs to test with, targets to compile for, and a player on Dawn's Null backend.

op_graphs    one graph for every case of every registered op
graphs       a hypothesis strategy: random DAGs of small tensors
TARGETS      a portable, a large native and a software target
NullPlayer   a process of its own, whose wgpu is Dawn without a driver: Chrome's validator and WGSL compiler
"""

from __future__ import annotations

import functools
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from hypothesis import strategies as st

import gpucompile.ops  # noqa: F401  registers all ops
from gpucompile.errors import UnsupportedError
from gpucompile.ir.graph import Constant, Graph, Return, Value
from gpucompile.ir.interpret import interpret
from gpucompile.ir.op import MaybeType, Op
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.activation import Clamp, LeakyRelu, Relu, Sigmoid, Tanh
from gpucompile.ops.contraction import Gemm, Matmul
from gpucompile.ops.conv import Conv2d
from gpucompile.ops.elementwise import Abs, Add, Identity, Max, Min, Mul, Neg, Sub
from gpucompile.ops.fused import Fused
from gpucompile.ops.logical import Cast, Greater, LogicalNot, Where
from gpucompile.ops.movement import Concat, Expand, Pad, Reshape, Slice, Transpose
from gpucompile.ops.normalize import (
    BatchNormalization,
    InstanceNormalization,
    LayerNormalization,
    LocalResponseNormalization,
)
from gpucompile.ops.pool import AveragePool2d, MaxPool2d
from gpucompile.ops.reduction import ReduceL2, ReduceMax, ReduceMean, ReduceMin, ReduceSum
from gpucompile.ops.softmax import Softmax
from gpucompile.runtime.format import Buffer, Step
from gpucompile.target import DEFAULT_LIMITS, Target

if TYPE_CHECKING:
    from gpucompile.plan.bundle import Bundle
    from gpucompile.runtime.device import Device

T = TypeVar("T")
Arrays = dict[str, np.ndarray]

#: Every op that can stand in a graph, by name.
OPS = {name: cls for name, cls in sorted(Op.registry.items()) if cls not in (Constant, Return)}

#: What kernels exist for so far; graphs with other data types are refused with UnsupportedError.
GPU_TYPES = frozenset(DataType)

#: Limits as a large discrete GPU has them (through wgpu-native), and as a software adapter has them.
_LARGE = DEFAULT_LIMITS | {
    "max-storage-buffers-per-shader-stage": 64,
    "max-storage-buffer-binding-size": (1 << 31) - 4,
    "max-buffer-size": 1 << 32,
    "max-compute-workgroup-storage-size": 49152,
    "max-compute-invocations-per-workgroup": 1024,
    "max-compute-workgroup-size-x": 1024,
    "max-compute-workgroup-size-y": 1024,
}
TARGETS = {
    "portable": Target.portable(),
    "native": Target(("shader-f16", "subgroups"), _LARGE, cores=128, name="large"),
    "software": Target((), _LARGE, cores=8, cpu=True, name="software"),
}


# Graphs of one op ----------------------------------------------------------------------------------------------------


def graph_of(op: Op, types: tuple[TensorType | None, ...]) -> Graph:
    """A graph of one op whose operands are all inputs."""
    graph = Graph(op.name)
    inputs = [None if t is None else graph.add_input(f"x{i}", t) for i, t in enumerate(types)]
    node = graph.insert(op, tuple(inputs))
    graph.set_outputs({f"y{i}": v for i, v in enumerate(node.outputs)})
    return graph


def op_graphs(name: str, float16: bool = False) -> Iterator[Graph]:
    """One graph for every case of an op; with `float16`, cases in float32 come in float16 as well."""
    for op, types in OPS[name].cases():
        for variant in with_float16(op, types) if float16 else (types,):
            yield graph_of(op, variant)


def with_float16(op: Op, types: tuple[MaybeType, ...]) -> list[tuple[MaybeType, ...]]:
    """These operands, and the same with float16 in the place of float32 unless the op only takes one of the two."""
    half = tuple(t.with_dtype(DataType.FLOAT16) if t and t.dtype is DataType.FLOAT32 else t for t in types)
    only = any(DataType.FLOAT32 in dtypes and DataType.FLOAT16 not in dtypes for dtypes, *_ in op.constraints.values())
    return [types] if half == types or only or isinstance(op, Fused) else [types, half]  # a Fused op's body has types


def runs_on_gpu(graph: Graph) -> bool:
    """Whether all its tensors have data types that kernels exist for."""
    return all(v.type.dtype in GPU_TYPES for v in (*graph.inputs, *graph.outputs))


def targets_of(device: Device, graph: Graph) -> list[Target]:
    """What the adapter offers; for float16 also without it, so that it is emulated."""
    target = Target.of(device.adapter)
    half = any(v.type.dtype is DataType.FLOAT16 for v in (*graph.inputs, *graph.outputs))
    return [target, target.without("shader-f16")] if half and "shader-f16" in target.features else [target]


# Random graphs -------------------------------------------------------------------------------------------------------

#: No tensor of a random graph has more elements.
MAX_SIZE = 1500


@dataclass
class _Builder:
    """Draws one op after the other. Ops neither amplify errors (no division, no product of two unbounded values) nor
    jump at values that are likely, so that results of two correct executions are close."""

    draw: st.DrawFn
    graph: Graph = field(default_factory=lambda: Graph("random"))
    pool: list[Value] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def choice(self, *values: T) -> T:
        return self.draw(st.sampled_from(values))

    def constant(self, *shape: int, scale: float = 1.0) -> Value:
        return self.graph.constant((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def add(self, op: Op, *inputs: Value | None) -> Value:
        return self.graph.add(op, *inputs)

    def start(self) -> None:
        """The inputs: mostly images, whose sizes are often multiples of four."""
        for i in range(self.integer(1, 2)):
            shape = self.choice((1, 4, 6, 6), (2, 3, 5, 7), (1, 8, 4, 4), (3, 12), (2, 5, 8), (17,))
            self.pool.append(self.graph.add_input(f"x{i}", TensorType(DataType.FLOAT32, shape)))

    def step(self) -> None:
        x = self.pool[-1 - self.integer(0, min(3, len(self.pool) - 1))]
        kinds: list[Callable[[Value], Value]] = [self.unary, self.binary, self.reshape, self.select]
        if x.type.rank >= 1:
            kinds += [self.concat, self.slice, self.transpose, self.pad, self.softmax, self.reduce]
        if x.type.rank >= 2:
            kinds += [self.matmul, self.binary, self.normalise]
        if x.type.rank == 4:
            kinds += [self.conv, self.conv, self.pool2d, self.residual]
        y = self.choice(*kinds)(x)
        if y.type.size <= MAX_SIZE:
            self.pool.append(y)

    def unary(self, x: Value) -> Value:
        op = self.choice(Relu(), Neg(), Abs(), Sigmoid(), Tanh(), LeakyRelu(0.1), Clamp(-0.7, 1.3), Identity())
        return self.add(op, x)

    def binary(self, x: Value) -> Value:
        """With another value of that shape, itself, or a constant that broadcasts."""
        same = [v for v in self.pool if v.type == x.type]
        shape = tuple(d if self.choice(True, False) else 1 for d in x.type.shape)[self.integer(0, x.type.rank) :]
        other = self.choice(*same) if self.choice(True, False) else self.constant(*shape)
        left, right = (x, other) if self.choice(True, False) else (other, x)
        op = self.choice(Add(), Sub(), Max(), Min(), Mul())
        if isinstance(op, Mul) and other.constant is None:
            left, right = self.add(Tanh(), left), right
        return self.add(op, left, right)

    def select(self, x: Value) -> Value:
        """A comparison, its uint8 result, and a choice by it."""
        condition = self.add(Greater(), x, self.graph.constant(np.float32(0.3712345)))
        if self.choice(True, False):
            condition = self.add(LogicalNot(), condition)
        if self.choice(True, False):
            return self.add(Cast(DataType.FLOAT32), condition)
        a, b = (self.add(Sigmoid(), x), x) if self.choice(True, False) else (x, self.constant(*x.type.shape))
        return self.add(Where(), condition, a, b)

    def reshape(self, x: Value) -> Value:
        shape, rest = [], x.type.size
        for _ in range(self.integer(0, 3)):
            d = self.choice(*[d for d in range(1, 13) if rest % d == 0])
            shape.append(d)
            rest //= d
        return self.add(Reshape((*shape, rest)), x)

    def concat(self, x: Value) -> Value:
        axis = self.integer(0, x.type.rank - 1)

        def fits(v: Value) -> bool:
            a, b = list(v.type.shape), list(x.type.shape)
            return (
                v.type.dtype == x.type.dtype
                and len(a) == len(b)
                and all(i == axis or d == e for i, (d, e) in enumerate(zip(a, b, strict=True)))
            )

        others = [v for v in self.pool if fits(v)]
        return self.add(Concat(axis), x, *(self.choice(*others) for _ in range(self.integer(1, 2))))

    def slice(self, x: Value) -> Value:
        starts = tuple(self.integer(0, d - 1) if self.choice(True, False) else 0 for d in x.type.shape)
        sizes = tuple(self.integer(1, d - s) if s else d for d, s in zip(x.type.shape, starts, strict=True))
        strides = tuple(self.choice(1, 1, 2) for _ in sizes)
        return self.add(Slice(starts, sizes, strides), x)

    def transpose(self, x: Value) -> Value:
        return self.add(Transpose(tuple(self.draw(st.permutations(range(x.type.rank))))), x)

    def pad(self, x: Value) -> Value:
        before = tuple(self.integer(0, min(2, d - 1)) for d in x.type.shape)
        after = tuple(self.integer(0, min(1, d - 1)) for d in x.type.shape)
        padded = self.add(Pad(before, after, self.choice("constant", "edge", "reflection"), 0.5), x)
        if self.choice(True, False) or x.type.size > MAX_SIZE // 2:
            return padded
        return self.add(Expand((2, *padded.type.shape)), padded) if x.type.rank < 4 else padded

    def softmax(self, x: Value) -> Value:
        return self.add(Softmax(self.integer(0, x.type.rank - 1)), x)

    def reduce(self, x: Value) -> Value:
        axes = tuple(i for i in range(x.type.rank) if self.choice(True, False))
        keep = self.choice(True, False)
        kind = self.choice(ReduceMean, ReduceMax, ReduceMin, ReduceL2, ReduceSum)
        if kind in (ReduceL2, ReduceSum):  # keeps sums of many elements small
            x = self.add(Mul(), x, self.graph.constant(np.float32(1 / math.sqrt(x.type.size))))
        return self.add(kind(axes, keep), x)

    def normalise(self, x: Value) -> Value:
        """The epsilons are large, so that rounding errors stay small."""
        kind = self.choice("lrn", "layer", *(("batch", "instance") if x.type.rank == 4 else ()))
        if kind == "lrn":
            return self.add(LocalResponseNormalization(3, 0.1), x)
        if kind == "layer":
            return self.add(LayerNormalization((self.integer(0, x.type.rank - 1),), 0.25), x)
        if kind == "instance":
            return self.add(InstanceNormalization(0.25), x, self.constant(x.type.shape[1]))
        axis = self.integer(0, 3)
        mean, variance = (
            self.constant(x.type.shape[axis]),
            self.graph.constant(np.full(x.type.shape[axis], 1.5, np.float32)),
        )
        return self.add(BatchNormalization(axis), x, mean, variance)

    def matmul(self, x: Value) -> Value:
        k, n = x.type.shape[-1], self.choice(1, 3, 8, 16)
        if x.type.rank == 2 and self.choice(True, False):
            op = Gemm(0.5, 1.0, b_transpose=self.choice(True, False))
            b = self.constant(*((n, k) if op.b_transpose else (k, n)), scale=1 / math.sqrt(k))
            return self.add(op, x, b, self.choice(None, self.constant(n)))
        if self.choice(True, False):
            return self.add(Matmul(), x, self.constant(k, n, scale=1 / math.sqrt(k)))
        bounded = self.add(Softmax(x.type.rank - 1), x)  # both operands are computed
        order = (*range(x.type.rank - 2), x.type.rank - 1, x.type.rank - 2)
        return self.add(Matmul(), bounded, self.add(Transpose(order), x))

    def conv(self, x: Value) -> Value:
        c = x.type.shape[1]
        groups = self.choice(*{1, c, 2 if c % 2 == 0 else 1})
        k = self.choice(1, 3)
        per_group, out = c // groups, groups * self.choice(1, 2, 4)
        weights = self.constant(out, per_group, k, k, scale=1 / math.sqrt(per_group * k * k))
        bias = self.choice(None, self.constant(out))
        stride, dilation = self.choice(1, 1, 2), self.choice(1, 1, 2)
        padding = (dilation * (k // 2),) * 4
        y = self.add(Conv2d(padding, (stride, stride), (dilation, dilation), groups), x, weights, bias)
        return self.add(Relu(), y) if self.choice(True, False) else y

    def residual(self, x: Value) -> Value:
        """Two convolutions with the same shape as their input, added to it or concatenated with it."""
        c = x.type.shape[1]
        y = x
        for _ in range(2):
            y = self.add(Relu(), self.add(Conv2d((1,) * 4), y, self.constant(c, c, 3, 3, scale=1 / (3 * math.sqrt(c)))))
        return self.add(Add(), y, x) if self.choice(True, False) else self.add(Concat(1), y, x)

    def pool2d(self, x: Value) -> Value:
        h, w = x.type.shape[2:]
        kind = self.choice(MaxPool2d, AveragePool2d)
        if self.choice(True, False):
            return self.add(kind(), x)
        window = (min(h, self.choice(2, 3)), min(w, self.choice(2, 3)))
        padding = self.choice((0, 0, 0, 0), (1, 0, 1, 0) if min(window) > 1 else (0, 0, 0, 0))
        return self.add(kind(window, padding, self.choice((1, 1), (2, 2), (2, 1))), x)


@st.composite
def graphs(draw: st.DrawFn, max_ops: int = 10) -> Graph:
    """A random DAG of up to `max_ops` steps, one to four ops each, with one to three outputs. Not in a normal form:
    identities, values returned twice, results nobody reads, constants in every place."""
    b = _Builder(draw, rng=np.random.default_rng(draw(st.integers(0, 99))))
    b.start()
    for _ in range(draw(st.integers(1, max_ops))):
        b.step()
    outputs = [b.pool[-1], *draw(st.lists(st.sampled_from(b.pool), max_size=2))]
    b.graph.set_outputs({f"y{i}": v for i, v in enumerate(outputs)})
    b.graph.verify()
    return b.graph


def feeds_of(graph: Graph, seed: int = 0) -> Arrays:
    """Seeded random inputs: floats within -2..2 and never near zero, small integers."""
    rng = np.random.default_rng(seed)
    out = {}
    for v in graph.inputs:
        if v.type.dtype.is_float:
            x = rng.uniform(0.1, 2.0, v.type.shape) * rng.choice([-1.0, 1.0], v.type.shape)
        else:
            x = rng.integers(-5 if v.type.dtype.is_signed else 0, 6, v.type.shape)
        out[v.name] = np.asarray(x).astype(v.type.dtype.numpy)
    return out


def interpret_with_scale(graph: Graph, feeds: Mapping[str, np.ndarray]) -> tuple[Arrays, float]:
    """The oracle's results, and the largest magnitude of any value on the way: rounding errors are of its size."""
    top = 1.0

    def watch(node: Any, results: tuple[np.ndarray, ...]) -> None:
        nonlocal top
        for r in results:
            if r.dtype.kind == "f" and r.size and not isinstance(node.op, Constant):
                top = max(top, float(np.abs(r).max()))

    return interpret(graph, feeds, watch), top


# Dawn without a driver -----------------------------------------------------------------------------------------------


class NullPlayer:
    """A process whose wgpu is Dawn on its Null backend: Tint compiles and Chrome's rules are checked, nothing computes.

    A process of its own, because the backend is chosen by an environment variable when Dawn starts, and because Dawn
    and wgpu-native need not get along in one. `call` runs a function of an importable module there."""

    def __init__(self) -> None:
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _choose_null)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        return self._pool.submit(function, *args).result()

    def __enter__(self) -> NullPlayer:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self._pool.shutdown()


def _choose_null() -> None:
    os.environ["WGPU_BACKEND_TYPE"] = "Null"


@functools.cache
def null_device() -> Device:
    """Inside a NullPlayer: the device. Its limits are WebGPU's defaults."""
    from gpucompile.runtime.device import Device

    device = Device.open(implementation="wgpudawn")
    assert device.backend == "Null", device.backend
    assert all(device.limits[k] == v for k, v in DEFAULT_LIMITS.items()), "the limits are not WebGPU's defaults"
    return device


#: Inside a NullPlayer: pipelines made so far; the device caches them as long as they live, so each is compiled once.
_KEPT: dict[str, Any] = {}


def play_on_null(bundle: Bundle) -> None:
    """Inside a NullPlayer: create everything, run once on zeros. A plan that needs more than WebGPU's default limits is
    not run there; its shaders are compiled all the same. Raises DeviceError where Dawn objects."""
    from gpucompile.runtime.executable import Executable

    device = null_device()
    if bundle.plans[0].bytes_of("weight") > 64 << 20:
        bundle = without_weights(bundle)
    plan = bundle.plans[0]
    if device.missing(plan.requires):
        prelude = device.prelude(plan.requires.features)
        for sha in plan.shaders:
            if sha not in _KEPT:
                _KEPT[sha] = device.shader(prelude + bundle.shader(sha), sha, sha)
        return
    with Executable(bundle, device) as run:
        assert run._player is not None
        _KEPT.update(zip((plan.shaders[s.shader] for s in plan.steps), (s[0] for s in run._player.steps), strict=True))
        run.run({p.name: np.zeros(p.shape, DataType(p.dtype).numpy) for p in run.inputs})


def without_weights(bundle: Bundle) -> Bundle:
    """The same with one buffer, of the largest one's size and without content, in the place of all weight buffers: the
    Null backend has 512 MB, and its numbers mean nothing anyway."""
    from gpucompile.plan.bundle import Bundle

    plan = bundle.plans[0]
    kept = [i for i, b in enumerate(plan.buffers) if b.kind != "weight"]
    largest = max(b.size for b in plan.buffers if b.kind == "weight")
    number = {i: kept.index(i) if i in kept else len(kept) for i in range(len(plan.buffers))}

    def move(part: Any) -> Any:
        return replace(part, buffer=number[part.buffer])

    def moved(step: Step) -> Step:
        bindings, reads, writes = (tuple(map(move, p)) for p in (step.bindings, step.reads, step.writes))
        return replace(step, bindings=bindings, reads=reads, writes=writes)

    smaller = replace(
        plan,
        buffers=(*(plan.buffers[i] for i in kept), Buffer("scratch", largest, "weights")),
        steps=tuple(map(moved, plan.steps)),
        inputs=tuple(map(move, plan.inputs)),
        outputs=tuple(map(move, plan.outputs)),
    )
    return Bundle([smaller], bundle.shaders)


def compile_op(name: str, pipeline: str, target: Target) -> Iterator[tuple[Graph, Bundle]]:
    """Every case of an op that has kernels, compiled alone. A refusal for another reason than its data types fails."""
    from gpucompile.compiler import compile

    for graph in op_graphs(name):
        try:
            yield graph, compile(graph, target, pipeline=pipeline)
        except UnsupportedError:
            if runs_on_gpu(graph):
                raise
