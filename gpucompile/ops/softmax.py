"""Softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpucompile.ir.op import FLOATS, MAX_RANK, Constraint
from gpucompile.ir.types import TensorType
from gpucompile.ops.categories import Anchor, Cases, tensor


@dataclass(frozen=True)
class Softmax(Anchor):
    """e^(x - m) / sum(e^(x - m)) along `axis`, m the maximum there (WebNN softmax)."""

    constraints: ClassVar[dict[str, Constraint]] = {"input": (FLOATS, 1, MAX_RANK)}
    axis: int = 0

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        if not 0 <= self.axis < ins[0].rank:
            self.fail(ins, f"axis {self.axis} is not an axis of a rank {ins[0].rank} tensor")
        return (ins[0],)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        x = ins[0].astype(np.float64)
        e = np.exp(x - x.max(axis=self.axis, keepdims=True))
        return np.asarray(e / e.sum(axis=self.axis, keepdims=True)).astype(ins[0].dtype)

    def openvino(self, ov: Any, *args: Any) -> Any:
        return ov.softmax(args[0], self.axis)

    @classmethod
    def cases(cls) -> Cases:
        yield cls(1), (tensor(3, 10),)
        yield cls(1), (tensor(1, 1000),)
        yield cls(0), (tensor(37),)
        yield cls(1), (tensor(2, 7, 5, 5),)
        yield cls(0), (tensor(9, 8),)
        yield cls(2), (tensor(3, 4, 130),)
        yield cls(1), (tensor(5, 1),)
        yield cls(1), (tensor(2, 2051),)
