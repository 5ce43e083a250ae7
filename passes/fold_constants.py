"""Constant folding.

    op(constant, ...) -> constant

The numpy reference of the op computes the result. One larger than `max_bytes` is only kept if it is not larger than the
operands together (a transposed weight is, an expanded scalar is not). Operands of more than `max_given` bytes are left
alone (0: none are). A result in a wider data type than the first operand (a dequantised weight, a float16 one cast to
float32) larger than `max_widened` is left to the kernels, which widen what they read: packed weights stay packed.

Operands that nobody else uses disappear at once; those mapped from a file give back their memory even where the graph
from before the passes, kept to replay failures, still has them. So the peak of memory stays low. One walk in execution
order: linear in nodes and in bytes computed.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucompile.ir.graph import Constant, Graph, Literal, Node
from gpucompile.ir.interpret import run_node
from gpucompile.ops.logical import Where
from gpucompile.passmanager.base import Context, Pass


@dataclass(frozen=True)
class FoldConstants(Pass):
    """op(constant, ...) -> constant"""

    max_bytes: int = 1 << 20
    max_widened: int = 1 << 14
    max_given: int = 0

    def run(self, graph: Graph, ctx: Context) -> bool:
        folded = 0
        for node in graph.nodes:
            if isinstance(node.op, Constant) or any(v.constant is None for v in node.operand_values):
                continue
            size = sum(v.type.nbytes for v in node.outputs)
            given = sum(v.type.nbytes for v in set(node.operand_values))
            if 0 < self.max_given < given:
                ctx.remark(node, f"its operands have {given} bytes; see max_given")
                continue
            if size > self.max_bytes and size > given:
                ctx.remark(node, f"the constant would have {size} bytes, its operands have {given}; see max_bytes")
                continue
            if size > self.max_widened and _widens(node):
                ctx.remark(node, f"the constant would have {size} bytes in a wider data type; see max_widened")
                continue
            _fold(graph, node)
            folded += 1
        ctx.count("folded", folded)
        return folded > 0


def _widens(node: Node) -> bool:
    """Whether an element of the result takes more bits than one of the first operand, which is no condition."""
    if not node.operand_values or isinstance(node.op, Where):
        return False
    return node.outputs[0].type.dtype.bits > node.operand_values[0].type.dtype.bits


def _fold(graph: Graph, node: Node) -> None:
    with np.errstate(all="ignore"):
        results = run_node(node, tuple(None if v is None else v.constant for v in node.inputs))
    operands = set(node.operand_values)
    constants = [
        graph.constant(Literal(_compact(r), v.type), before=node) for r, v in zip(results, node.outputs, strict=True)
    ]
    graph.replace(node, *constants)
    for v in operands:
        if not v.users and v.producer is not None:
            if v.constant is not None:
                _release(v.constant)
            graph.remove(v.producer)


def _compact(array: np.ndarray) -> np.ndarray:
    """The array in row-major order; a copy if it is a view that would keep a larger array alive."""
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return np.array(array, order="C") if owner.nbytes > array.nbytes else np.asarray(array, order="C")


def _release(array: np.ndarray) -> None:
    """Let go of the pages of a file that an array maps; they are read again when someone looks."""
    base: Any = array
    while isinstance(base, np.ndarray):
        mapped = isinstance(base, np.memmap) and base.mode == "r"
        base = base.base
        if mapped and isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            base.madvise(mmap.MADV_DONTNEED)
