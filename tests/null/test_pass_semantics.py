"""Every pass on every kind of graph: the interpreter gives the same results before and after, and what the pass leaves
prints, parses back and verifies.

Cases of every op, random graphs, small networks; each pass alone, and the named pipelines pass by pass. New passes and
new ops are found through their registries.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from benchmarks import networks
from gpucompile.errors import GpucompileError, UnsupportedError, VerificationError
from gpucompile.frontends.onnx.importer import import_model
from gpucompile.ir.graph import Graph, Literal
from gpucompile.ir.text import collect_literals, parse_graph, print_graph
from gpucompile.ops.elementwise import Add
from gpucompile.passes.pipelines import PIPELINES
from gpucompile.passmanager.base import Context, Pass, all_passes
from gpucompile.passmanager.instruments import CheckEach, CheckReports, Instrument
from gpucompile.passmanager.manager import PassManager
from gpucompile.passmanager.pipeline import parse_pipeline
from tests.support import OPS, TARGETS, feeds_of, graphs, op_graphs

PASSES = list(all_passes())


@dataclass
class RoundTrip(Instrument):
    """The text of a changed graph parses back to a graph that verifies and prints the same."""

    literals: str = "inline"

    def after(self, p: Pass, graph: Graph, ctx: Context, changed: bool) -> None:
        if changed:
            text = print_graph(graph, self.literals)
            again = parse_graph(text, collect_literals(graph) if self.literals == "ref" else None)
            again.verify()
            if print_graph(again, self.literals) != text:
                raise VerificationError("its text does not parse back to the same graph")


def check(graph: Graph, pipeline: str | list[Pass], literals: str = "inline", target: str = "portable") -> None:
    """Run on a clone, watched. A refusal of what has no kernel is no failure."""
    watch = [CheckEach(inputs=feeds_of(graph)), CheckReports(), RoundTrip(literals)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # overflow in numpy, on both sides
        try:
            PassManager(pipeline, watch).run(graph.clone(), Context(TARGETS[target]))
        except UnsupportedError:
            assert pipeline == "legalize" or pipeline in PIPELINES, "only legalize may refuse a graph"


@pytest.mark.parametrize("name", OPS)
def test_ops(name: str) -> None:
    for graph in op_graphs(name):
        for pipeline in (*PASSES, *PIPELINES):
            check(graph, pipeline)


@pytest.mark.parametrize("name", OPS)
def test_ops_with_constant_operands(name: str) -> None:
    """As weights are: every operand but the first is a constant, so that rewrites of weights fire."""
    for graph in op_graphs(name):
        feeds = feeds_of(graph)
        if len(graph.inputs) < 2:
            continue
        for v in graph.inputs[1:]:
            v.replace_by(graph.constant(Literal(feeds[v.name], v.type), before=next(graph.nodes)))
        del graph.inputs[1:]
        for pipeline in (*PASSES, "no-fuse", "default"):
            check(graph, pipeline)


@pytest.mark.parametrize("name", PASSES)
def test_each_pass_on_random_graphs(name: str) -> None:
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(graph=graphs())
    def run(graph: Graph) -> None:
        check(graph, name)

    run()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", PIPELINES)
def test_pipelines_on_random_graphs(name: str, target: str) -> None:
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(graph=graphs(max_ops=14))
    def run(graph: Graph) -> None:
        check(graph, name, target=target)

    run()


def test_passes_in_any_order() -> None:
    """Passes do not rely on others having run: a shuffled pipeline, twice over."""
    rng = np.random.default_rng(0)
    movable = [p for p in PASSES if p != "fuse"]

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(graph=graphs())
    def run(graph: Graph) -> None:
        order = [*rng.permutation(movable), *rng.permutation(movable), "fuse", "dce"]
        check(graph, list(parse_pipeline(",".join(order))))

    run()


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_networks(name: str) -> None:
    """Every step of the default pipeline, and every pass alone, on a real network."""
    graph = import_model(networks.cached(name))
    check(graph, "default", "ref")
    for p in PASSES:
        check(graph, p, "ref")


# The checks themselves -----------------------------------------------------------------------------------------------


@pytest.fixture
def wrong_pass() -> object:
    @dataclass(frozen=True)
    class WrongForTest(Pass):
        """add(a, b) -> add(a, a)"""

        counts: ClassVar[int] = 0

        def run(self, graph: Graph, ctx: Context) -> bool:
            for node in graph.nodes:
                if isinstance(node.op, Add):
                    node.inputs = (node.inputs[0], node.inputs[0])
                    return True
            return False

    yield WrongForTest
    del Pass.registry[WrongForTest.name]


def test_a_wrong_pass_is_found(wrong_pass: type[Pass]) -> None:
    (graph, *_) = op_graphs("add")
    with pytest.raises(GpucompileError, match="it changed the value of output y0"):
        check(graph, [wrong_pass()])
