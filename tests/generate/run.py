"""Drawn cases as one graph, which is compiled, run on an adapter and compared with the interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import gpucompile
from gpucompile.ir.graph import Graph, Literal, Value
from gpucompile.ir.interpret import interpret
from gpucompile.ops.elementwise import Add, Neg
from gpucompile.target import Target
from tests.generate.draw import Case
from tests.tolerance import check


@dataclass(frozen=True)
class Config:
    """How a graph is compiled: `features` of the device are used, or WebGPU's defaults only."""

    pipeline: str
    features: bool

    def target(self, device: gpucompile.Device) -> Target:
        class Adapter:
            features, limits, info = device.features, device.limits, device.adapter.info

        return Target.of(Adapter) if self.features else Target.portable()


#: The defaults with and without float16 in shaders; one kernel an op; nothing but what compiles.
CONFIGS = (Config("default", True), Config("default", False), Config("no-fuse", False), Config("none", True))


def graph_of(cases: Sequence[Case]) -> tuple[Graph, dict[str, np.ndarray]]:
    """A graph whose outputs are the results of all cases, and its inputs; output names begin with the case's index."""
    graph, feeds, outputs = Graph("generated"), {}, {}
    for n, case in enumerate(cases):
        values: list[Value | None] = []
        for i, (operand, constant) in enumerate(zip(case.operands, case.constant, strict=True)):
            if operand is None:
                values.append(None)
            elif constant:
                values.append(graph.constant(Literal(operand.array, operand.type)))
            else:
                name = f"x{n}_{i}"
                value = graph.add_input(name, operand.type)
                feeds[name], value = _dressed(graph, operand.array, value) if case.dressed else (operand.array, value)
                values.append(value)
        for i, out in enumerate(graph.insert(case.op, tuple(values)).outputs):
            outputs[f"{n}_{i}"] = _dressed(graph, None, out)[1] if case.dressed else out
    graph.set_outputs(outputs)
    return graph, feeds


def _dressed(graph: Graph, array: np.ndarray | None, value: Value) -> tuple[np.ndarray | None, Value]:
    """`value` after an op that rounds nothing, and the array that this op makes of what is wanted as `array`."""
    dtype = value.type.dtype
    if dtype.bits < 8:
        return array, value
    if dtype.is_float:
        return None if array is None else -array, graph.add(Neg(), value)
    one = np.ones((), dtype.numpy)
    return None if array is None else array - one, graph.add(Add(), value, graph.constant(one))


def run_cases(cases: Sequence[Case], device: gpucompile.Device, config: Config) -> None:
    """Raise AssertionError that names the case whose result on the device is not the reference's."""
    graph, feeds = graph_of(cases)
    want = interpret(graph, feeds)
    bundle = gpucompile.compile(graph, config.target(device), pipeline=config.pipeline)
    with gpucompile.load(bundle, device=device) as executable:
        got = executable.run(feeds)
    for key, expected in want.items():
        case = cases[int(key.split("_")[0])]
        try:
            check(case.op.name, got[key], expected)
        except AssertionError as e:
            raise AssertionError(f"{config}: {case}\n{e}") from None
