"""`Fused`: several ops as one kernel. Its body is a graph, so printer, verifier and interpreter keep working."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gpucompile.ir.graph import Graph
from gpucompile.ir.interpret import interpret
from gpucompile.ir.op import MaybeType, Op
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.categories import Cases, tensor


@dataclass(frozen=True, eq=False)
class Fused(Op):
    """The results of `body` on the operands, in the order of the body's inputs. Made by the `fuse` pass."""

    operands: ClassVar[tuple[str, ...]] = ("inputs*",)
    body: Graph = None  # type: ignore[assignment]

    def infer(self, *ins: MaybeType) -> tuple[TensorType, ...]:
        if tuple(v.type for v in self.body.inputs) != ins:
            self.fail(ins, f"the body takes {', '.join(str(v.type) for v in self.body.inputs)}")
        return tuple(v.type for v in self.body.outputs)

    def reference(self, *ins: np.ndarray) -> tuple[np.ndarray, ...]:
        names = [v.name for v in self.body.inputs]
        results = interpret(self.body, dict(zip(names, ins, strict=True)))
        return tuple(results.values())

    @classmethod
    def cases(cls) -> Cases:
        from gpucompile.ops.contraction import Matmul
        from gpucompile.ops.movement import Reshape

        body = Graph("body")
        a = body.add_input("a", TensorType(DataType.FLOAT32, (6, 8)))
        b = body.add_input("b", TensorType(DataType.FLOAT32, (8, 4)))
        body.set_outputs({"y": body.add(Reshape((2, 3, 4)), body.add(Matmul(), a, b))})
        yield cls(body), (tensor(6, 8), tensor(8, 4))
