"""Matrix products: matmul and gemm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from gpucompile.ir.op import FLOATS, MAX_RANK, Constraint, MaybeType
from gpucompile.ir.types import TensorType
from gpucompile.ops.categories import Anchor, Cases, broadcast, tensor


@dataclass(frozen=True)
class Matmul(Anchor):
    """Matrix product over the last two axes, leading axes broadcast (WebNN matmul)."""

    operands: ClassVar[tuple[str, ...]] = ("a", "b")
    constraints: ClassVar[dict[str, Constraint]] = {"a": (FLOATS, 2, MAX_RANK), "b": (FLOATS, 2, MAX_RANK)}

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        a, b = ins
        if a.dtype != b.dtype:
            self.fail(ins, "data types differ")
        if a.shape[-1] != b.shape[-2]:
            self.fail(ins, f"inner dimensions {a.shape[-1]} and {b.shape[-2]} differ")
        lead = broadcast(self, a.with_shape(a.shape[:-2]), b.with_shape(b.shape[:-2]))
        return (a.with_shape((*lead, a.shape[-2], b.shape[-1])),)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        return _product(ins[0], ins[1]).astype(ins[0].dtype)

    @classmethod
    def cases(cls) -> Cases:
        for m, k, n in ((1, 1, 1), (37, 50, 60), (64, 64, 64), (1, 333, 130), (5, 7, 3), (130, 36, 68), (3, 1024, 8)):
            yield cls(), (tensor(m, k), tensor(k, n))
        yield cls(), (tensor(2, 3, 17, 20), tensor(3, 20, 24))
        yield cls(), (tensor(4, 1, 9, 8), tensor(1, 2, 8, 12))


@dataclass(frozen=True)
class Gemm(Anchor):
    """alpha * A' * B' + beta * C, where ' transposes if asked (WebNN gemm). C broadcasts to [M, N]."""

    operands: ClassVar[tuple[str, ...]] = ("a", "b", "c?")
    constraints: ClassVar[dict[str, Constraint]] = {"a": (FLOATS, 2, 2), "b": (FLOATS, 2, 2), "c": (FLOATS, 0, 2)}
    alpha: float = 1.0
    beta: float = 1.0
    a_transpose: bool = False
    b_transpose: bool = False

    def infer(self, *ins: MaybeType) -> tuple[TensorType, ...]:
        a, b, c = operands(ins, 3)
        assert a is not None and b is not None
        m, k = reversed(a.shape) if self.a_transpose else a.shape
        k2, n = reversed(b.shape) if self.b_transpose else b.shape
        if k != k2:
            self.fail(ins, f"inner dimensions {k} and {k2} differ")
        out = a.with_shape((m, n))
        if a.dtype != b.dtype or (c is not None and c.dtype != a.dtype):
            self.fail(ins, "data types differ")
        if c is not None and broadcast(self, out, c) != out.shape:
            self.fail(ins, f"c does not broadcast to [{m}, {n}]")
        return (out,)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        a, b = ins[0], ins[1]
        out = _product(a.T if self.a_transpose else a, b.T if self.b_transpose else b) * self.alpha
        if len(ins) > 2 and ins[2] is not None:
            out = out + ins[2].astype(out.dtype) * self.beta
        return out.astype(a.dtype)

    @classmethod
    def cases(cls) -> Cases:
        yield cls(), (tensor(37, 50), tensor(50, 60), tensor(60))
        yield cls(b_transpose=True), (tensor(1, 100), tensor(36, 100), tensor(36))
        yield cls(alpha=0.5, beta=2.0, a_transpose=True), (tensor(24, 33), tensor(24, 20), tensor(33, 1))
        yield cls(a_transpose=True, b_transpose=True), (tensor(8, 12), tensor(16, 8), None)


def prefers_rows(m: int) -> bool:
    """Whether a product of `m` rows wants its constant right operand as rows [N, K] instead of [K, N].

    Few rows are a matrix-vector product: a result reads one contiguous row of weights. The layout pass stores weights
    by it (gemm b_transpose, conv2d filter_layout ohwi), the kernel schedules choose by it."""
    return m <= 4


def operands(ins: Sequence[MaybeType], count: int) -> tuple[MaybeType, ...]:
    """`ins` filled up with None to `count` operands."""
    return (*ins, *(None,) * (count - len(ins)))


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A product in float64, so that the oracle is better than what it judges; large ones in float32, as float64 would
    take minutes."""
    big = a.size * b.shape[-1] > 1 << 28
    wide = np.float32 if big else np.float64
    return np.asarray(np.matmul(a.astype(wide), b.astype(wide)))
