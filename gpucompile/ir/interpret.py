"""The numpy interpreter: runs a graph op by op through each op's `reference`. It is the oracle of all tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from gpucompile.errors import InputError, VerificationError
from gpucompile.ir.graph import Graph, Node, Value
from gpucompile.ir.types import TensorType

Watch = Callable[[Node, tuple[np.ndarray, ...]], None]


def interpret(graph: Graph, inputs: Mapping[str, np.ndarray], watch: Watch | None = None) -> dict[str, np.ndarray]:
    """Run `graph` on arrays by input name; returns arrays by output name.

    `watch(node, results)` is called after every node. Raises InputError for missing or wrongly typed inputs,
    VerificationError when an op's reference does not return what its `infer` promises."""
    env: dict[Value, np.ndarray] = {}
    for v in graph.inputs:
        if v.name not in inputs:
            raise InputError(f"input {v.name} is missing")
        array = np.asarray(inputs[v.name])
        if array.dtype != v.type.dtype.numpy or array.shape != v.type.shape:
            raise InputError(f"input {v.name} is {TensorType.of(array)}, the graph takes {v.type}")
        env[v] = array
    remaining = {v: v.use_count for n in graph.nodes for v in n.outputs}
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            results = run_node(node, tuple(None if v is None else env[v] for v in node.inputs))
            if watch:
                watch(node, results)
            env.update(zip(node.outputs, results, strict=True))
            for v in node.operand_values:  # free what nobody reads any more
                if v in remaining:
                    remaining[v] -= 1
                    if not remaining[v]:
                        del env[v]
    return {name: env[v] for name, v in zip(graph.output_names, graph.outputs, strict=True)}


def run_node(node: Node, arrays: tuple[np.ndarray | None, ...]) -> tuple[np.ndarray, ...]:
    """One node's results, checked against its types."""
    out = node.op.reference(*arrays)
    results = out if isinstance(out, tuple) else (out,)
    for v, r in zip(node.outputs, results, strict=True):
        if tuple(r.shape) != v.type.shape or r.dtype != v.type.dtype.numpy:
            raise VerificationError(f"reference of {node.op.name} returned {r.dtype}{list(r.shape)} for {v!r}")
    return results
