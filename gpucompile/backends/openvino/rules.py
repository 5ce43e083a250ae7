"""What of a graph OpenVINO's devices do not take, each with its reason.

OpenVINO's devices compute integers as int32 (64-bit and unsigned ones too). For the CPU the passes split-int64 and
legalize-openvino make that exact; what they cannot help is refused here. For the NPU 64-bit inputs have to be within
int32, which `runtime.openvino` checks; what may leave int32 then is refused here.

The NPU takes less: its compiler wants static shapes, which a Graph always has, at most `NPU_RANK` axes, and the element
types of `NPU_TYPES`. Its plugin's check of tensors (`check_network_precision` in OpenVINO's intel_npu) also lets 16-bit
and 64-bit unsigned integers and float64 through; whether its compiler computes uint64 could not be tried, so it is left
out. Tensors of six axes get a layout that it refuses (OpenVINO's issue 30532). Ops may lower to operations with more
axes than they have themselves, so that the lowered model is checked too. Where the driver refuses more, compiling there
says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpucompile.ir.graph import Constant, Graph, Node
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType
from gpucompile.ops.categories import Movement
from gpucompile.ops.elementwise import Identity, Pow
from gpucompile.ops.gather import Indexed
from gpucompile.ops.logical import Cast, Where
from gpucompile.ops.words import WIDE, JoinWords, WordOf

if TYPE_CHECKING:
    import openvino

NPU_RANK = 5
NPU_TYPES = frozenset(map(DataType.parse, ("f32", "f16", "i64", "i32", "u32", "i8", "u8", "i4", "u4")))

#: The element types that a lowered model may have within: truths are not uint8 there.
_NPU_ELEMENTS = frozenset(d.short for d in NPU_TYPES) | {"boolean"}

#: Data types that the CPU device does not take as operands of single ops, which no pass replaces.
REFUSED: dict[type[Op], frozenset[DataType]] = {Pow: frozenset(WIDE)}
#: 64-bit integers may be moved and converted on the NPU.
_KEPT = (Movement, Indexed, Cast, Identity, Where)


@dataclass(frozen=True)
class Rejection:
    """A node that a device does not take, and why."""

    op: str
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.op}{f' {self.name!r}' if self.name else ''}: {self.reason}"


def reject(node: Node, device: str = "cpu") -> str | None:
    """Why `device`, cpu or npu, does not take a node; None if it does."""
    op = node.op
    if isinstance(op, Constant):
        return _reject_constant(op, device)
    if type(op).openvino is Op.openvino and op.opset is None:
        return "it has no form in OpenVINO's operations"
    wide = [v for v in (*node.operand_values, *node.outputs) if v.type.dtype in WIDE]
    if device == "cpu" and wide and not isinstance(op, (WordOf, JoinWords)):
        return f"OpenVINO computes {wide[0].type.dtype.value} in 32 bits, and no pass takes this apart"
    if device == "npu":
        for v in (*node.operand_values, *node.outputs):
            if v.type.rank > NPU_RANK:
                return f"{v.type} has {v.type.rank} axes, the NPU takes at most {NPU_RANK}"
            if v.type.dtype not in NPU_TYPES:
                return f"the NPU has no {v.type.dtype.value}"
        if wide and not isinstance(op, _KEPT):
            return f"its {wide[0].type.dtype.value} may leave int32, in which the NPU computes"
    return None


def _reject_constant(op: Constant, device: str) -> str | None:
    array, dtype = op.value.array, op.value.type.dtype
    if device != "npu" or dtype not in WIDE or not array.size:
        return None
    limits = np.iinfo(np.int32)
    if array.min() < limits.min or array.max() > limits.max:
        return f"a constant {op.value.type} has numbers beyond int32, in which the NPU computes"
    return None


def rejections(graph: Graph, device: str = "cpu") -> Iterator[Rejection]:
    """Every node of a graph that the device does not take."""
    for node in graph.nodes:
        reason = reject(node, device)
        if reason is not None:
            yield Rejection(node.op.name, node.outputs[0].name, reason)


def model_rejections(model: openvino.Model, device: str = "cpu") -> Iterator[Rejection]:
    """Every operation of a lowered model that the device does not take, inputs and outputs included. The NPU's rules;
    the CPU takes whatever OpenVINO has."""
    if device != "npu":
        return
    for op in model.get_ordered_ops():
        for out in op.outputs():
            shape, element = out.get_partial_shape(), out.get_element_type().get_type_name()
            reason = None
            if shape.is_dynamic:
                reason = f"its shape {shape} is not static"
            elif len(shape) > NPU_RANK:
                reason = f"{element}{list(out.get_shape())} has {len(shape)} axes, the NPU takes at most {NPU_RANK}"
            elif element not in _NPU_ELEMENTS:
                reason = f"the NPU has no {element}"
            if reason is not None:
                yield Rejection(f"OpenVINO's {op.get_type_name()}", str(op.get_friendly_name()), reason)
                break
