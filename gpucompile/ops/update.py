"""Writing a slice at a place that is known only when it runs: how a key/value cache grows without moving."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpucompile.ir.op import ALL, MAX_RANK, Constraint
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.categories import Cases, tensor
from gpucompile.ops.gather import INDICES, Scatter, _inside, inside

I32, U32, I64, F16 = DataType.INT32, DataType.UINT32, DataType.INT64, DataType.FLOAT16


@dataclass(frozen=True)
class UpdateSlice(Scatter):
    """The input with `updates` written at `start` .. `start + n` of `axis`, n being the updates' extent there.

    `start` is a scalar, or has an element for each entry of axis 0. It chooses among the places where the slice fits:
    negative ones count from the last such place, what lies outside is moved to the nearest. If `circular`, the slice
    may begin anywhere and goes on at the beginning of the axis (ONNX TensorScatter). Where nobody else reads the input,
    its storage becomes the result's and only the slice is written."""

    operands: ClassVar[tuple[str, ...]] = ("input", "start", "updates")
    constraints: ClassVar[dict[str, Constraint]] = {
        "input": (ALL, 1, MAX_RANK),
        "start": (INDICES, 0, 1),
        "updates": (ALL, 1, MAX_RANK),
    }
    axis: int = 0
    circular: bool = False

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        self.need_axis(self.axis, ins)
        x, start, updates = ins
        if start.rank and (self.axis == 0 or start.shape != x.shape[:1]):
            self.fail(
                ins, "start is a scalar, or has an element for each entry of axis 0, which is not the axis written"
            )
        if updates.rank != x.rank or not 1 <= updates.shape[self.axis] <= x.shape[self.axis]:
            self.fail(
                ins, f"updates have the input's rank and from 1 to {x.shape[self.axis]} places on axis {self.axis}"
            )
        count = updates.shape[self.axis]
        self.need_updates((*x.shape[: self.axis], count, *x.shape[self.axis + 1 :]), ins)
        return (x,)

    def places(self, x: TensorType, updates: TensorType) -> int:
        """How many places there are where the slice may begin."""
        extent = x.shape[self.axis]
        return extent if self.circular else extent - updates.shape[self.axis] + 1

    def whole_words(self, updates: TensorType) -> bool:
        """Whether what is written are whole 32-bit words, so that elements that share words need not be widened."""
        return self.axis < updates.rank - 1 and updates.shape[-1] % 4 == 0

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        x, start, updates = ins
        count, extent = updates.shape[self.axis], x.shape[self.axis]
        first = inside(start, extent if self.circular else extent - count + 1)
        at = (np.broadcast_to(first, x.shape[:1])[:, None] if start.ndim else first[None]) + np.arange(count)
        shape = tuple(d if a == self.axis or (a == 0 and start.ndim) else 1 for a, d in enumerate(updates.shape))
        out = x.copy()
        np.put_along_axis(out, np.broadcast_to(at.reshape(shape) % extent, updates.shape), updates, self.axis)
        return out

    def openvino(self, ov: Any, *args: Any) -> Any:
        x, start, updates = args
        t, new = ov.type(x), ov.type(updates)
        count, extent = new.shape[self.axis], t.shape[self.axis]
        steps = np.arange(count, dtype=np.int32)
        first = _inside(ov, start, self.places(t, new))
        per_entry = len(ov.type(start).shape) > 0
        ones = (1,) * t.rank
        lead = (t.shape[0], *ones[1:]) if per_entry else ones
        along = tuple(count if a == self.axis else 1 for a in range(t.rank))
        at = ov.add(ov.reshape(first, ov.integers(lead), False), ov.constant(steps.reshape(along)))
        if self.circular:
            at = ov.floor_mod(at, ov.constant(np.int32(extent)))
        wide = ov.broadcast(at, ov.integers(new.shape))
        return ov.scatter_elements_update(x, wide, updates, ov.integers(self.axis))

    @classmethod
    def cases(cls) -> Cases:
        yield cls(), (tensor(7, 5), tensor(dtype=I32), tensor(2, 5))
        yield cls(1), (tensor(2, 7, 8), tensor(dtype=I32), tensor(2, 1, 8))
        yield cls(2), (tensor(2, 3, 7, 8), tensor(2, dtype=I32), tensor(2, 3, 3, 8))
        yield cls(1, True), (tensor(2, 5, 3), tensor(2, dtype=I64), tensor(2, 4, 3))
        yield cls(), (tensor(9), tensor(dtype=U32), tensor(9))
        yield cls(2), (tensor(1, 2, 6, 4, dtype=F16), tensor(dtype=I32), tensor(1, 2, 2, 4, dtype=F16))
        yield cls(1), (tensor(2, 6, 4, dtype=DataType.INT8), tensor(dtype=I32), tensor(2, 2, 4, dtype=DataType.INT8))
        yield cls(1), (tensor(3, 5, dtype=DataType.UINT8), tensor(3, dtype=I32), tensor(3, 2, dtype=DataType.UINT8))
