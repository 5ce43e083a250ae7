"""64-bit integers as pairs of 32-bit words; the pass `split-int64` makes them for OpenVINO.

OpenVINO's CPU device computes 64-bit integers in 32 bits, so in its models a 64-bit tensor is an int32 one with one
axis more, the last, of the low and the high word: the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpucompile.ir.op import Constraint
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.categories import Cases, tensor
from gpucompile.ops.formula import ANY_RANK, Binary, Unary

I32, I64, U64 = DataType.INT32, DataType.INT64, DataType.UINT64
WIDE = frozenset({I64, U64})
WORD = frozenset({I32})


@dataclass(frozen=True)
class WordOf(Unary):
    """The low or the high 32 bits of a 64-bit integer, as int32."""

    constraints: ClassVar[dict[str, Constraint]] = {"input": (WIDE, *ANY_RANK)}
    exact: ClassVar[bool] = True
    high: bool = False

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        return (ins[0].with_dtype(I32),)

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        return f"{r}({args[0]}.{'y' if self.high else 'x'})"

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        bits = ins[0].astype(np.uint64)
        return np.asarray((bits >> np.uint64(32 * self.high)).astype(np.uint32).astype(np.int32))

    def openvino(self, ov: Any, *args: Any) -> Any:
        return ov.gather(args[0], ov.integers(int(self.high)), ov.integers(-1))

    @classmethod
    def cases(cls) -> Cases:
        for high in (False, True):
            for dtype in (I64, U64):
                yield cls(high), (tensor(3, 7, dtype=dtype),)
                yield cls(high), (tensor(dtype=dtype),)


@dataclass(frozen=True)
class JoinWords(Binary):
    """The 64-bit integers `to` of their low and high 32 bits."""

    operands: ClassVar[tuple[str, ...]] = ("low", "high")
    constraints: ClassVar[dict[str, Constraint]] = {"low": (WORD, *ANY_RANK), "high": (WORD, *ANY_RANK)}
    exact: ClassVar[bool] = True
    to: DataType = I64

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        if self.to not in WIDE:
            self.fail(ins, f"to is {self.to.value}, allowed: int64, uint64")
        return (super().infer(*ins)[0].with_dtype(self.to),)

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        low, high = args
        return f"{r}(u32({low}), u32({high}))"

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        low, high = (x.astype(np.uint32).astype(np.uint64) for x in ins)
        return np.asarray(low | high << np.uint64(32)).astype(self.to.numpy)

    def openvino(self, ov: Any, *args: Any) -> Any:
        shape = self.infer(*map(ov.type, args))[0].shape
        apart = [ov.unsqueeze(ov.broadcast(x, ov.integers(shape)), ov.integers(-1)) for x in args]
        return ov.concat(apart, -1)

    @classmethod
    def cases(cls) -> Cases:
        for dtype in (I64, U64):
            yield cls(dtype), (tensor(3, 7, dtype=I32), tensor(3, 7, dtype=I32))
            yield cls(dtype), (tensor(dtype=I32), tensor(5, dtype=I32))
