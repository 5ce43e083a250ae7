"""float32 networks in float16: weights and activations are stored as float16, sums are still made in float32.

    f(a: f32, b: f32): f32  -> cast(f(cast(a) as f16, cast(b) as f16)) as f32      casts of casts cancel
    f(w: constant f32)      -> f(w rounded to f16)

Kernels accumulate float16 products in float32, and softmax and the normalisations compute in float32 within. These stay
float32, each with its reason (`KEPT` and below):

    exp, pow, reciprocal, sums, squares    results beyond 65504, float16's largest number, are to be expected
    comparisons, arg_max, floor            what is rounded before may fall on the other side
    log                                    small operands lose the digits that a logarithm shows
    casts of integers above 2048           not every one is a float16 number
    constants float16 cannot hold          above 65504, or so small that nothing is left of them
    what reads one of these                up to an op whose results are moderate whatever it reads (`MODERATE`)
    ops that have no float16 form

An input that update_slice updates in place keeps its type, and those who read the result cast it. Inputs and outputs of
the graph keep their types by casts, unless `ports` asks for float16 there too. Data is taken to be within float16's
range. Run it after fold-batchnorm, so that weights are rounded once. Linear in nodes and weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gpucompile.errors import TypeInferenceError
from gpucompile.ir.graph import Constant, Graph, Node, Value
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType
from gpucompile.ops import activation, elementwise, reduction, trigonometry
from gpucompile.ops.categories import Movement
from gpucompile.ops.contraction import Gemm, Matmul
from gpucompile.ops.conv import Conv2d, ConvTranspose2d
from gpucompile.ops.elementwise import Div, Mul
from gpucompile.ops.logical import Cast, Comparison
from gpucompile.ops.normalize import InstanceNormalization, LayerNormalization, LocalResponseNormalization
from gpucompile.ops.scan import ArgMinMax, CumulativeSum
from gpucompile.ops.softmax import Softmax
from gpucompile.ops.update import UpdateSlice
from gpucompile.passmanager.base import Context, Pass

F16, F32 = DataType.FLOAT16, DataType.FLOAT32
LARGEST = 65504.0
SMALLEST = 2.0**-14  # below it float16 loses digits

_SUMS = "sums leave float16's range"
JUMPS = "a small difference makes another result"

#: Ops that stay float32, and why.
KEPT: dict[type[Op], str] = {
    elementwise.Exp: "exp leaves float16's range above 11",
    elementwise.Pow: "powers leave float16's range",
    elementwise.Reciprocal: "reciprocals of small numbers leave float16's range",
    elementwise.Log: "logarithms show digits that float16 has lost",
    elementwise.RoundFloat16: "it rounds to float16 itself",
    activation.Softplus: "exp leaves float16's range above 11",
    reduction.ReduceSum: _SUMS,
    reduction.ReduceSumSquare: _SUMS,
    reduction.ReduceL1: _SUMS,
    reduction.ReduceL2: _SUMS,
    reduction.ReduceLogSum: _SUMS,
    reduction.ReduceLogSumExp: _SUMS,
    reduction.ReduceProduct: "products leave float16's range",
    CumulativeSum: _SUMS,
    LocalResponseNormalization: "sums of squares leave float16's range",
    elementwise.Tan: "tangents leave float16's range",
    trigonometry.Sinh: "exp leaves float16's range above 11",
    trigonometry.Cosh: "exp leaves float16's range above 11",
    ArgMinMax: JUMPS,
    Comparison: JUMPS,
    elementwise.Floor: JUMPS,
    elementwise.Ceil: JUMPS,
    elementwise.RoundEven: JUMPS,
}
SQUARE = "squares leave float16's range"
INTEGER = "integers above 2048 are not float16 numbers"
LARGE = "it reads what may leave float16's range"
CONSTANT = "a constant is outside float16's range"
NO_FORM = "it has no float16 form"

#: Ops whose results are within float16's range, or as good as, even where their operands are not.
MODERATE: tuple[type[Op], ...] = (
    activation.Sigmoid, activation.Tanh, activation.HardSigmoid, activation.Softsign, Softmax, elementwise.Erf,
    elementwise.Sin, elementwise.Cos, elementwise.Sign, elementwise.Log, elementwise.RoundFloat16, Div, Matmul, Gemm,
    Conv2d, ConvTranspose2d, LayerNormalization, InstanceNormalization, LocalResponseNormalization,
)  # fmt: skip


@dataclass(frozen=True)
class Precision(Pass):
    """f(x: f32): f32 -> f(x: f16): f16 but for what float16 cannot hold"""

    tolerance: ClassVar[float] = 2e-2
    ports: bool = False

    def run(self, graph: Graph, ctx: Context) -> bool:
        work = _Conversion(graph)
        changed = self.ports and _convert_inputs(graph, work)
        for node in graph.nodes:
            work.visit(node, ctx)
        changed |= work.finish(self.ports)
        ctx.count("converted", len(work.replaced))
        return changed


def _convert_inputs(graph: Graph, work: _Conversion) -> bool:
    """float32 inputs become float16; what reads them gets them by a cast until it is converted itself."""
    first = next(graph.nodes, None)
    found = False
    for v in graph.inputs:
        if v.type.dtype is F32:
            found = True
            users = v.users
            v.type = v.type.with_dtype(F16)
            wide = graph.add(Cast(F32), v, before=first, name=v.name)
            for node in users:
                node.inputs = tuple(wide if u is v else u for u in node.inputs)
            work.halves[wide] = v
    return found


class _Conversion:
    """The float16 twins of float32 values, and the values that may be too large for one."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.halves: dict[Value, Value] = {}
        self.large: set[Value] = set()
        self.replaced: list[tuple[Node, Node]] = []

    def visit(self, node: Node, ctx: Context) -> None:
        """Insert a node's float16 form before it, or count why not."""
        op = node.op
        if isinstance(op, Constant):
            return
        if isinstance(op, UpdateSlice) and node.operand_values[0].producer is None:
            ctx.remark(node, "an input that is updated in place keeps its type")
            return
        floats = [v for v in (*node.operand_values, *node.outputs) if v.type.dtype is F32]
        if not floats or (isinstance(op, Cast) and not self._grows(node)):
            if isinstance(op, Cast) and op.to is F32 and node.operand_values[0].type.dtype is F16:
                self.halves[node.output] = node.operand_values[0]
            return
        reason = self._reason(node)
        if reason is None and isinstance(op, Movement) and not any(map(self._is_half, node.operand_values)):
            return  # nothing is gained before anything is computed
        if reason is None:
            reason = self._replace(node)
        if reason is not None:
            ctx.count(f"{op.name}: {reason}")
            ctx.remark(node, reason)
            if not isinstance(op, MODERATE) and (reason != JUMPS or any(v in self.large for v in node.operand_values)):
                self.large.update(v for v in node.outputs if v.type.dtype is F32)

    def _grows(self, node: Node) -> bool:
        """Whether a cast makes float32 of integers that float16 cannot hold; the other casts stay as they are."""
        source = node.operand_values[0].type.dtype
        return node.output.type.dtype is F32 and not source.is_float and source.bits > 8

    def _reason(self, node: Node) -> str | None:
        """Why a node stays float32."""
        op, values = node.op, node.operand_values
        kept = next((KEPT[c] for c in type(op).__mro__ if c in KEPT), None)
        if kept:
            return kept
        if isinstance(op, Cast):
            return INTEGER
        if isinstance(op, Mul) and values[0] is values[1]:
            return SQUARE
        if any(v in self.large for v in values):
            return LARGE
        numbers = [] if isinstance(op, activation.Clamp) else [a for a in op.attributes().values() if _is_float(a)]
        if any(math.isfinite(a) and abs(a) > LARGEST for a in numbers):
            return CONSTANT
        if any(v.constant is not None and v.type.dtype is F32 and not _holds(v.constant) for v in values):
            return CONSTANT
        return None

    def _is_half(self, v: Value) -> bool:
        return v in self.halves or v.constant is not None

    def _replace(self, node: Node) -> str | None:
        """Insert the float16 form; a reason if there is none."""
        types = (
            None if v is None else v.type.with_dtype(F16 if v.type.dtype is F32 else v.type.dtype) for v in node.inputs
        )
        try:
            results = node.op.result_types(*types)
        except TypeInferenceError:
            return NO_FORM
        wanted = tuple(v.type.with_dtype(F16) if v.type.dtype is F32 else v.type for v in node.outputs)
        if results != wanted:
            return NO_FORM
        inputs = tuple(self._half(v, node) if v is not None and v.type.dtype is F32 else v for v in node.inputs)
        new = self.graph.insert(node.op, inputs, before=node, name=node.outputs[0].name)
        self.replaced.append((node, new))
        for v, result in zip(node.outputs, new.outputs, strict=True):
            if v.type.dtype is F32:
                self.halves[v] = result
        return None

    def _half(self, v: Value, before: Node) -> Value:
        """A float32 value as float16."""
        if v not in self.halves:
            array = v.constant
            if array is not None:
                with np.errstate(under="ignore"):
                    self.halves[v] = self.graph.constant(array.astype(np.float16), before=before, name=v.name)
            else:
                self.halves[v] = self.graph.add(Cast(F16), v, before=before, name=v.name)
        return self.halves[v]

    def finish(self, ports: bool) -> bool:
        """Remove what was replaced; what still reads float32 gets it by a cast."""
        outputs = dict(zip(self.graph.output_names, self.graph.outputs, strict=True))
        wide = [name for name, v in outputs.items() if ports and v.type.dtype is F32]
        for name in wide:
            v = outputs[name]
            outputs[name] = self.halves[v] if v in self.halves else self.graph.add(Cast(F16), v, name=v.name)
        if wide:
            self.graph.set_outputs(outputs)
        for old, new in reversed(self.replaced):
            for v, result in zip(old.outputs, new.outputs, strict=True):
                if v.users:
                    back = v.type.dtype is not result.type.dtype
                    v.replace_by(self.graph.add(Cast(F32), result, before=old, name=v.name) if back else result)
            self.graph.remove(old)
        return bool(self.replaced or wide)


def _is_float(attribute: object) -> bool:
    return isinstance(attribute, float)


def _holds(array: np.ndarray) -> bool:
    """Whether float16 can stand for a constant: nothing in it is too large (infinity is not), and its largest element
    is not too small."""
    sizes = np.abs(array[np.isfinite(array)])
    largest = float(sizes.max(initial=0.0))
    return largest <= LARGEST and (largest >= SMALLEST or largest == 0)
