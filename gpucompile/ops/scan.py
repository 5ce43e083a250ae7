"""Ops that walk along one axis: the index of the largest or smallest element, running sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpucompile.ir.op import ALL, FLOATS, MAX_RANK, Constraint
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.categories import Anchor, Cases, tensor

WIDE = FLOATS | {DataType.INT32, DataType.UINT32, DataType.INT64, DataType.UINT64}


@dataclass(frozen=True)
class ArgMinMax(Anchor, abstract=True):
    """The index of an extreme element along `axis`, the first of equals, the first NaN if there is
    one; int32 or int64."""

    constraints: ClassVar[dict[str, Constraint]] = {"input": (ALL, 1, MAX_RANK)}
    #: WGSL's comparison that says that a is to be preferred to b.
    better: ClassVar[str] = ""
    axis: int = 0
    keep_dimensions: bool = False
    output_data_type: DataType = DataType.INT32

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        (t,) = ins
        if not 0 <= self.axis < t.rank:
            self.fail(ins, f"axis {self.axis} is not an axis of a rank {t.rank} tensor")
        if self.output_data_type not in (DataType.INT32, DataType.INT64):
            self.fail(ins, f"output_data_type is {self.output_data_type.value}, allowed: int32, int64")
        kept = (1,) if self.keep_dimensions else ()
        return (TensorType(self.output_data_type, (*t.shape[: self.axis], *kept, *t.shape[self.axis + 1 :])),)

    def compute(self, x: np.ndarray) -> np.ndarray:
        """The numpy result with the axis kept."""
        raise NotImplementedError(f"{type(self).__name__}.compute")

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        out = self.compute(ins[0]).astype(self.output_data_type.numpy)
        return out if self.keep_dimensions else out.squeeze(self.axis)

    def openvino(self, ov: Any, *args: Any) -> Any:
        mode = "max" if self.better == ">" else "min"
        index = "i64" if self.output_data_type is DataType.INT64 else "i32"
        out = ov.topk(args[0], ov.integers(1), self.axis, mode, "value", index, True)[1]
        return out if self.keep_dimensions else ov.squeeze(out, ov.integers([self.axis]))

    @classmethod
    def cases(cls) -> Cases:
        yield cls(1), (tensor(3, 10),)
        yield cls(0, True), (tensor(37, 9),)
        yield cls(1), (tensor(2, 1030),)
        yield cls(1, True), (tensor(2, 7, 5, 5),)
        yield cls(0), (tensor(5),)
        yield cls(1), (tensor(5, 1),)
        yield cls(1), (tensor(4, 23, 8, dtype=DataType.INT32),)  # many equal elements
        yield cls(2), (tensor(2, 3, 300, dtype=DataType.UINT8),)
        yield cls(0), (tensor(70000),)
        yield cls(1, False, DataType.INT64), (tensor(3, 10),)


@dataclass(frozen=True)
class ArgMax(ArgMinMax):
    """The index of the largest element along `axis` (WebNN argMax)."""

    better: ClassVar[str] = ">"

    def compute(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(np.argmax(x, self.axis, keepdims=True))


@dataclass(frozen=True)
class ArgMin(ArgMinMax):
    """The index of the smallest element along `axis` (WebNN argMin)."""

    better: ClassVar[str] = "<"

    def compute(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(np.argmin(x, self.axis, keepdims=True))


@dataclass(frozen=True)
class CumulativeSum(Anchor):
    """Sums of all elements up to each along `axis`, without that element itself if `exclusive`, from the end if
    `reversed` (WebNN cumulativeSum)."""

    constraints: ClassVar[dict[str, Constraint]] = {"input": (WIDE, 1, MAX_RANK)}
    axis: int = 0
    exclusive: bool = False
    reversed: bool = False

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        if not 0 <= self.axis < ins[0].rank:
            self.fail(ins, f"axis {self.axis} is not an axis of a rank {ins[0].rank} tensor")
        return (ins[0],)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        x = np.moveaxis(ins[0], self.axis, -1)
        x = x[..., ::-1] if self.reversed else x
        dtype = np.dtype(np.float64) if x.dtype.kind == "f" else x.dtype
        out = np.cumsum(x, -1, dtype=dtype)
        if self.exclusive:
            out = np.concatenate([np.zeros_like(out[..., :1]), out[..., :-1]], -1)
        out = out[..., ::-1] if self.reversed else out
        return np.moveaxis(out, -1, self.axis).astype(ins[0].dtype)

    def openvino(self, ov: Any, *args: Any) -> Any:
        return ov.cumsum(args[0], ov.integers(self.axis), self.exclusive, self.reversed)

    @classmethod
    def cases(cls) -> Cases:
        yield cls(1), (tensor(3, 10),)
        yield cls(0, True), (tensor(37, 9),)
        yield cls(1, False, True), (tensor(2, 7, 5),)
        yield cls(2, True, True), (tensor(2, 3, 301),)
        yield cls(0), (tensor(1030),)
        yield cls(1), (tensor(5, 1),)
        yield cls(0, True), (tensor(70, 8, dtype=DataType.INT32),)
        yield cls(1), (tensor(3, 9, dtype=DataType.UINT32),)
