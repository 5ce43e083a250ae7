"""Reductions in two steps: the same results, whatever the axes, extents and data types."""

from __future__ import annotations

import numpy as np
import pytest

import gpucompile
from gpucompile.ir.graph import Graph
from gpucompile.ir.interpret import interpret
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops import reduction
from gpucompile.ops.categories import Reduction, tensor
from gpucompile.ops.softmax import Softmax
from gpucompile.passes.split_reductions import STEPS, SplitReductions, division, longest_run
from gpucompile.passmanager.base import Context
from gpucompile.passmanager.manager import PassManager
from gpucompile.target import Target
from tests.support import graph_of

SHAPES = [((7, 3, 5), (0, 1, 2)), ((6, 4, 8), (0,)), ((2, 5, 7, 3), (0, 2, 3)), ((4, 35), (1,)), ((31, 2), (0,))]


def split(graph: Graph, **options: int) -> Graph:
    out = graph.clone()
    PassManager([SplitReductions(**options)]).run(out, Context(Target(cores=8)))
    return out


def names(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes if isinstance(n.op, Reduction)]


@pytest.mark.parametrize(("shape", "axes"), SHAPES)
@pytest.mark.parametrize("cls", STEPS, ids=lambda c: c.name)
@pytest.mark.parametrize("keep", [False, True])
def test_results_stay(cls: type[Reduction], shape: tuple[int, ...], axes: tuple[int, ...], keep: bool) -> None:
    graph = graph_of(cls(axes, keep), (tensor(*shape),))
    after = split(graph, min_elements=4)
    assert len(names(after)) == 2
    x = np.random.default_rng(0).uniform(0.8, 1.25, shape).astype(np.float32)
    (want,) = interpret(graph, {"x0": x}).values()
    (got,) = interpret(after, {"x0": x}).values()
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("name", ["f16", "i32", "i64", "u8", "i8", "u32"])
def test_data_types(name: str) -> None:
    dtype = DataType.parse(name)
    classes = [c for c in STEPS if dtype in c.constraints["input"][0]]
    assert classes
    x = np.random.default_rng(0).integers(0 if dtype.numpy.kind == "u" else -9, 10, (5, 37)).astype(dtype.numpy)
    x = np.abs(x) + x.dtype.type(1) if dtype.is_float else x
    for cls in classes:
        graph = graph_of(cls((1,)), (TensorType(dtype, x.shape),))
        after = split(graph, min_elements=4)
        assert len(names(after)) == 2
        with np.errstate(all="ignore"):
            (want,), (got,) = interpret(graph, {"x0": x}).values(), interpret(after, {"x0": x}).values()
        np.testing.assert_allclose(got, want, rtol=2e-3 if dtype.is_float else 0)


def test_padding_takes_no_part() -> None:
    """37 is no multiple of anything: what is added must not be the largest, the smallest, or count."""
    for cls, x in ((reduction.ReduceMax, -3.0), (reduction.ReduceMin, 3.0), (reduction.ReduceMean, 3.0)):
        graph = graph_of(cls((0,)), (tensor(37),))
        after = split(graph, min_elements=4)
        assert "pad" in [n.op.name for n in after.nodes]
        assert interpret(after, {"x0": np.full(37, x, np.float32)})["y0"] == x


def test_what_is_split() -> None:
    def parts(shape: tuple[int, ...], axes: tuple[int, ...], **options: int) -> int:
        """Results of the first step for each of the second; 1 is no split."""
        reductions = [n for n in split(graph_of(reduction.ReduceSum(axes), (tensor(*shape),)), **options).nodes]
        reductions = [n for n in reductions if isinstance(n.op, Reduction)]
        return reductions[0].output.type.size // reductions[-1].output.type.size

    assert parts((1 << 16,), (0,)) == 1  # few elements
    assert parts((1 << 17,), (0,)) == 16  # two workgroups a core
    assert parts((4, 1 << 17), (1,)) == 4
    assert parts((100, 1 << 17), (1,)) == 1  # enough results
    assert parts((100, 1 << 17), (1,), max_elements=1 << 15) == 4  # but too many elements
    assert parts((1 << 17, 64), (0,)) == 1  # 16 workgroups of four results
    assert parts((1 << 17, 16), (0,)) == 4


def test_more_than_an_invocation_may_loop_over() -> None:
    """60,000 iterations of 256 lanes are some 15 million elements."""
    for op in (reduction.ReduceSum(), reduction.ReduceMax(), reduction.ReduceLogSumExp()):
        for pipeline in ("none", "default"):
            gpucompile.compile(graph_of(op, (tensor(1 << 24),)), pipeline=pipeline)
    with pytest.raises(gpucompile.UnsupportedError, match="65,535"):
        gpucompile.compile(graph_of(Softmax(0), (tensor(1 << 24),)))


@pytest.mark.parametrize("run", [2, 3, 37, 1 << 16, 65537, 1000003])
@pytest.mark.parametrize("wanted", [2, 16, 256])
def test_division(run: int, wanted: int) -> None:
    parts, length = division(run, wanted)
    assert parts * length >= run > (parts - 1) * length
    assert parts <= 2 * wanted
    assert parts >= min(run, wanted) / 2


def test_longest_run() -> None:
    assert longest_run((0, 2, 3), (50, 5, 7, 6)) == (0, 1)
    assert longest_run((0, 2, 3), (40, 5, 7, 6)) == (2, 4)
    assert longest_run((1,), (2, 3)) == (1, 2)
