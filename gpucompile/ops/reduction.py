"""The ten WebNN reductions: finish(combine over `axes` of map(x))."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpucompile.ir.op import ALL, FLOATS, MAX_RANK, Constraint
from gpucompile.ir.types import DataType
from gpucompile.ops.categories import Cases, Reduction, tensor
from gpucompile.ops.formula import is_wide, literal, prefix, wide

ARITHMETIC = ALL - {DataType.INT8, DataType.UINT8}


@dataclass(frozen=True)
class Reduce(Reduction, abstract=True):
    """What the ten share: constraints, test cases, and the frame of the reference."""

    constraints: ClassVar[dict[str, Constraint]] = {"input": (ARITHMETIC, 0, MAX_RANK)}
    #: The interval from which tests draw operands.
    domain: ClassVar[tuple[float, float]] = (-4.0, 4.0)

    def compute(self, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        """The numpy result with the reduced axes kept as 1; floats come as float64."""
        raise NotImplementedError(f"{type(self).__name__}.compute")

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        (x,) = ins
        axes = self.numpy_axes(x)
        out = np.asarray(self.compute(wide(x), axes)).astype(x.dtype, copy=False)
        return out if self.keep_dimensions else out.reshape([d for i, d in enumerate(x.shape) if i not in axes])

    def combine(self, a: str, b: str, t: str) -> str:
        return f"add64({a}, {b})" if is_wide(t) else f"({a} + {b})"

    @classmethod
    def cases(cls) -> Cases:
        yield cls(), (tensor(3, 5),)
        yield cls((1,)), (tensor(5, 130),)
        yield cls((0,)), (tensor(37, 9),)
        yield cls((2, 3), True), (tensor(2, 5, 7, 7),)
        yield cls((0, 2)), (tensor(3, 4, 5),)
        yield cls((1,), True), (tensor(2, 6, 8),)
        yield cls(()), (tensor(4, 3),)
        yield cls(None, True), (tensor(2, 3, 4),)
        yield cls(), (tensor(),)
        yield cls((1,)), (tensor(2, 1030),)
        if DataType.INT32 in cls.constraints["input"][0]:
            yield cls((1,)), (tensor(3, 9, dtype=DataType.INT32),)
            yield cls((0,)), (tensor(6, 8, dtype=DataType.INT32),)


@dataclass(frozen=True)
class ReduceSum(Reduce):
    """The sum."""

    opset: ClassVar[str | None] = "reduce_sum"

    def compute(self, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        return np.asarray(x.sum(axis=axes, keepdims=True))


@dataclass(frozen=True)
class ReduceMean(Reduce):
    """The average."""

    opset: ClassVar[str | None] = "reduce_mean"
    constraints: ClassVar[dict[str, Constraint]] = {"input": (FLOATS, 0, MAX_RANK)}

    def compute(self, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        return np.asarray(x.mean(axis=axes, keepdims=True))

    def finish(self, x: str, count: int, t: str) -> str:
        return f"({x} / {literal(count, t)})"


@dataclass(frozen=True)
class ReduceMax(Reduce):
    """The largest element; NaN where there is one."""

    opset: ClassVar[str | None] = "reduce_max"
    constraints: ClassVar[dict[str, Constraint]] = {"input": (ALL, 0, MAX_RANK)}
    identity: ClassVar[str] = "lowest"
    drops_nan: ClassVar[bool] = True

    def compute(self, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        return np.asarray(x.max(axis=axes, keepdims=True))

    def combine(self, a: str, b: str, t: str) -> str:
        return f"select({a}, {b}, {prefix(t)}_less({a}, {b}))" if is_wide(t) else f"max({a}, {b})"


@dataclass(frozen=True)
class ReduceMin(Reduce):
    """The smallest element; NaN where there is one."""

    opset: ClassVar[str | None] = "reduce_min"
    constraints: ClassVar[dict[str, Constraint]] = {"input": (ALL, 0, MAX_RANK)}
    identity: ClassVar[str] = "highest"
    drops_nan: ClassVar[bool] = True

    def compute(self, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        return np.asarray(x.min(axis=axes, keepdims=True))

    def combine(self, a: str, b: str, t: str) -> str:
        return f"select({a}, {b}, {prefix(t)}_less({b}, {a}))" if is_wide(t) else f"min({a}, {b})"


@dataclass(frozen=True)
class ReduceProduct(Reduce):
    """The product."""

    opset: ClassVar[str | None] = "reduce_prod"
    identity: ClassVar[str] = "1.0"
    domain: ClassVar[tuple[float, float]] = (0.9, 1.1)

    def compute(self, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        return np.asarray(x.prod(axis=axes, keepdims=True, dtype=x.dtype))

    def combine(self, a: str, b: str, t: str) -> str:
        return f"multiply64({a}, {b})" if is_wide(t) else f"({a} * {b})"


@dataclass(frozen=True)
class ReduceL1(Reduce):
    """The sum of absolute values."""

    opset: ClassVar[str | None] = "reduce_l1"

    def compute(self, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        return np.asarray(np.abs(x).sum(axis=axes, keepdims=True))

    def map(self, x: str, t: str) -> str:
        if is_wide(t):
            return f"i64_size({x})" if t == "Int64" else x
        return f"abs({x})"


@dataclass(frozen=True)
class ReduceL2(Reduce):
    """The square root of the sum of squares."""

    opset: ClassVar[str | None] = "reduce_l2"
    constraints: ClassVar[dict[str, Constraint]] = {"input": (FLOATS, 0, MAX_RANK)}

    def compute(self, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        return np.asarray(np.sqrt((x * x).sum(axis=axes, keepdims=True)))

    def map(self, x: str, t: str) -> str:
        return f"({x} * {x})"

    def finish(self, x: str, count: int, t: str) -> str:
        return f"sqrt({x})"


@dataclass(frozen=True)
class ReduceSumSquare(Reduce):
    """The sum of squares."""

    def compute(self, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        return np.asarray((x * x).sum(axis=axes, keepdims=True))

    def map(self, x: str, t: str) -> str:
        return f"multiply64({x}, {x})" if is_wide(t) else f"({x} * {x})"

    def openvino(self, ov: Any, *args: Any) -> Any:
        return ReduceSum(self.axes, self.keep_dimensions).openvino(ov, ov.multiply(args[0], args[0]))


@dataclass(frozen=True)
class ReduceLogSum(Reduce):
    """The logarithm of the sum."""

    constraints: ClassVar[dict[str, Constraint]] = {"input": (FLOATS, 0, MAX_RANK)}
    domain: ClassVar[tuple[float, float]] = (0.1, 4.0)

    def compute(self, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        return np.asarray(np.log(x.sum(axis=axes, keepdims=True)))

    def finish(self, x: str, count: int, t: str) -> str:
        return f"log({x})"

    def openvino(self, ov: Any, *args: Any) -> Any:
        return ov.log(ReduceSum(self.axes, self.keep_dimensions).openvino(ov, *args))


@dataclass(frozen=True)
class ReduceLogSumExp(Reduce):
    """The logarithm of the sum of exponentials.

    These formulas are the naive ones, which overflow from x = 89 on. A pass should decompose it into the stable form
    m + log(sum(exp(x - m))) with m = max(x), which `compute` evaluates."""

    constraints: ClassVar[dict[str, Constraint]] = {"input": (FLOATS, 0, MAX_RANK)}

    def compute(self, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
        top = x.max(axis=axes, keepdims=True)
        top = np.where(np.isfinite(top), top, 0)
        return np.asarray(top + np.log(np.exp(x - top).sum(axis=axes, keepdims=True)))

    def map(self, x: str, t: str) -> str:
        return f"exp({x})"

    def finish(self, x: str, count: int, t: str) -> str:
        return f"log({x})"
