"""What tests of passes share: building small graphs, and checking what a pipeline makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from gpucompile.ir.graph import Graph, Value
from gpucompile.ir.interpret import interpret
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.conv import Conv2d
from gpucompile.ops.normalize import BatchNormalization
from gpucompile.passmanager.base import Context
from gpucompile.passmanager.manager import PassManager


class Build:
    """A graph under construction, with seeded constants: `b(Relu(), b.x(1, 3))`."""

    def __init__(self) -> None:
        self.graph = Graph("test")
        self.rng = np.random.default_rng(0)

    def x(self, *shape: int, name: str = "x", dtype: DataType = DataType.FLOAT32) -> Value:
        return self.graph.add_input(name, TensorType(dtype, shape))

    def c(self, *shape: int) -> Value:
        return self.value(self.rng.uniform(0.5, 1.5, shape).astype(np.float32))

    def value(self, array: object) -> Value:
        array = np.asarray(array)
        return self.graph.constant(array.astype(np.float32) if array.dtype.kind in "fi" else array)

    def __call__(self, op: Op, *inputs: Value | None) -> Value:
        return self.graph.add(op, *inputs)

    def conv(self, x: Value, out: int, k: int = 3, **attributes: object) -> Value:
        """An NCHW convolution with constant weights, `same` padding where nothing else is said."""
        op = replace(Conv2d(padding=(k // 2,) * 4), **attributes)  # type: ignore[arg-type]
        return self(op, x, self.c(out, x.type.shape[1] // op.groups, k, k), self.c(out))

    def bn(self, x: Value, axis: int = 1) -> Value:
        n = x.type.shape[axis]
        return self(BatchNormalization(axis), x, self.c(n), self.c(n), self.c(n), self.c(n))


def check(
    b: Build,
    pipeline: str,
    expected: Mapping[str, int],
    *results: Value,
    tolerance: float = 1e-5,
    ctx: Context | None = None,
) -> Graph:
    """Run the pipeline; assert the ops that are left (constants not counted) and that the outputs agree. A second run
    must find nothing to do."""
    graph = b.graph
    graph.set_outputs({f"y{i}": v for i, v in enumerate(results)})
    rng = np.random.default_rng(1)
    inputs = {v.name: rng.standard_normal(v.type.shape).astype(v.type.dtype.numpy) for v in graph.inputs}
    before = interpret(graph, inputs)
    manager = PassManager(pipeline)
    manager.run(graph, ctx)
    assert graph.statistics() == dict(expected)
    after = interpret(graph, inputs)
    assert list(after) == list(before)
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=tolerance, atol=tolerance * np.abs(value).max())
    assert not manager.run(graph, ctx), "a second run changes something"
    return graph


def the(graph: Graph, kind: type[Op]) -> Op:
    """The one op of a class."""
    (op,) = (node.op for node in graph.nodes if isinstance(node.op, kind))
    return op


def chain(b: Build, x: Value, *ops: Op) -> Value:
    """The ops one after the other."""
    for op in ops:
        x = b(op, x)
    return x
