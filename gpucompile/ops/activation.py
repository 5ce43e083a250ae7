"""Activation functions: elementwise formulas of one operand, most with constants as attributes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpucompile.ir.op import ALL, Constraint
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.categories import Cases, tensor
from gpucompile.ops.formula import (
    ANY_RANK,
    SIGNED,
    Unary,
    erf,
    erf_wgsl,
    is_integer,
    is_nan,
    is_wide,
    literal,
    negative,
    prefix,
    quotient,
)


@dataclass(frozen=True)
class Relu(Unary):
    """max(x, 0)"""

    onnx: ClassVar[str | None] = "Relu"
    opset: ClassVar[str | None] = "relu"
    constraints: ClassVar[dict[str, Constraint]] = {"input": (SIGNED, *ANY_RANK)}
    formula: ClassVar[str] = "select({x}, {T}(0), {x} < {T}(0))"
    formula64: ClassVar[str] = "select({x}, {T}(), i64_negative({x}))"
    exact: ClassVar[bool] = True

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        (x,) = args
        return super().expression(args, t, r) if is_integer(t) else f"select({x}, {t}(0), {negative(x, t)})"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.maximum(ins[0], 0))


@dataclass(frozen=True)
class Clamp(Unary):
    """min(max(x, min_value), max_value); infinite bounds do not bound."""

    constraints: ClassVar[dict[str, Constraint]] = {"input": (ALL, *ANY_RANK)}
    exact: ClassVar[bool] = True
    min_value: int | float = -math.inf
    max_value: int | float = math.inf

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        if not self.min_value <= self.max_value:
            self.fail(ins, f"min_value {self.min_value} is greater than max_value {self.max_value}")
        return (ins[0],)

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        out, x = args[0], args[0]
        if is_wide(t):
            low, high = literal(self.min_value, t), literal(self.max_value, t)
            less = f"{prefix(t)}_less"
            return f"select(select({x}, {low}, {less}({x}, {low})), {high}, {less}({high}, {x}))"
        if self.min_value > -math.inf:
            low = literal(self.min_value, t)
            out = f"select({out}, {low}, {x} < {low})"
        if self.max_value < math.inf:
            high = literal(self.max_value, t)
            out = f"select({out}, {high}, {x} > {high})"
        return out if out == x or is_integer(t) else f"select({out}, {x}, {is_nan(x, t)})"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        (x,) = ins
        if x.dtype.kind == "f":
            return np.asarray(np.clip(x, x.dtype.type(self.min_value), x.dtype.type(self.max_value)))
        info = np.iinfo(x.dtype)
        low, high = (int(min(max(v, info.min), info.max)) for v in (self.min_value, self.max_value))
        return np.asarray(np.clip(x, low, high))

    def openvino(self, ov: Any, *args: Any) -> Any:
        (x,) = args
        if ov.type(x).dtype.is_float and math.isfinite(self.min_value) and math.isfinite(self.max_value):
            return ov.clamp(x, self.min_value, self.max_value)
        low, high = ov.bounds(x)
        out = ov.maximum(x, ov.scalar(self.min_value, x)) if self.min_value > low else x
        return ov.minimum(out, ov.scalar(self.max_value, x)) if self.max_value < high else out

    @classmethod
    def cases(cls) -> Cases:
        yield cls(0.0, 6.0), (tensor(2, 3, 7),)
        yield cls(-1.5, math.inf), (tensor(9),)
        yield cls(max_value=0.25), (tensor(4, 8),)
        yield cls(), (tensor(5),)
        yield cls(-2.0, 2.0), (tensor(3, 5, dtype=DataType.INT32),)


@dataclass(frozen=True)
class Elu(Unary):
    """x where positive, alpha * (e^x - 1) where negative"""

    in_f32: ClassVar[bool] = True
    formula: ClassVar[str] = "select({x}, {alpha} * (exp({x}) - {T}(1)), {x} < {T}(0))"
    alpha: float = 1.0

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.where(ins[0] < 0, self.alpha * np.expm1(ins[0]), ins[0])

    def openvino(self, ov: Any, *args: Any) -> Any:
        return ov.elu(args[0], self.alpha)

    @classmethod
    def cases(cls) -> Cases:
        yield cls(), (tensor(2, 3, 4),)
        yield cls(0.3), (tensor(3, 7),)


@dataclass(frozen=True)
class Gelu(Unary):
    """x/2 * (1 + erf(x / sqrt 2))"""

    in_f32: ClassVar[bool] = True

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        (x,) = args
        return f"({t}(0.5) * {x} * ({t}(1) + {erf_wgsl(f'({x} * {literal(math.sqrt(0.5), t)})', t)}))"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(0.5 * ins[0] * (1 + erf(ins[0] * math.sqrt(0.5))))

    def openvino(self, ov: Any, *args: Any) -> Any:
        return ov.gelu(args[0], "erf")


@dataclass(frozen=True)
class HardSigmoid(Unary):
    """max(0, min(1, alpha * x + beta))"""

    in_f32: ClassVar[bool] = True
    formula: ClassVar[str] = (
        "select(select({alpha} * {x} + {beta}, {T}(0), {alpha} * {x} + {beta} < {T}(0)), {T}(1), "
        "{alpha} * {x} + {beta} > {T}(1))"
    )
    alpha: float = 0.2
    beta: float = 0.5

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        return f"select({super().expression(args, t, r)}, {args[0]}, {is_nan(args[0], t)})"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.clip(self.alpha * ins[0] + self.beta, 0, 1))

    def openvino(self, ov: Any, *args: Any) -> Any:
        """Not as hard_sigmoid, which the CPU device may fuse with what is around it as if beta were 0.5."""
        (x,) = args
        if abs(self.alpha - 1 / 6) < 1e-7 and self.beta == 0.5:
            return ov.hsigmoid(x)
        line = ov.add(ov.multiply(x, ov.scalar(self.alpha, x)), ov.scalar(self.beta, x))
        return ov.clamp(line, 0.0, 1.0)

    @classmethod
    def cases(cls) -> Cases:
        yield cls(), (tensor(2, 3, 4),)
        yield cls(1.25, -0.5), (tensor(3, 7),)


@dataclass(frozen=True)
class HardSwish(Unary):
    """x * max(0, min(6, x + 3)) / 6"""

    onnx: ClassVar[str | None] = "HardSwish"
    opset: ClassVar[str | None] = "hswish"
    in_f32: ClassVar[bool] = True
    formula: ClassVar[str] = "select({x} * select({x} + {T}(3), {T}(0), {x} < {T}(-3)) / {T}(6), {x}, {x} > {T}(3))"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(ins[0] * np.clip(ins[0] + 3, 0, 6) / 6)


@dataclass(frozen=True)
class LeakyRelu(Unary):
    """x where positive, alpha * x where negative"""

    formula: ClassVar[str] = "select({x}, {alpha} * {x}, {x} < {T}(0))"
    alpha: float = 0.01

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.where(ins[0] < 0, self.alpha * ins[0], ins[0])

    def openvino(self, ov: Any, *args: Any) -> Any:
        (x,) = args
        return ov.prelu(x, ov.pad_rank(ov.scalar(self.alpha, x), 1))

    @classmethod
    def cases(cls) -> Cases:
        yield cls(), (tensor(2, 3, 4),)
        yield cls(0.3), (tensor(3, 7),)


@dataclass(frozen=True)
class Linear(Unary):
    """alpha * x + beta"""

    in_f32: ClassVar[bool] = True
    formula: ClassVar[str] = "{alpha} * {x} + {beta}"
    alpha: float = 1.0
    beta: float = 0.0

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(self.alpha * ins[0] + self.beta)

    def openvino(self, ov: Any, *args: Any) -> Any:
        (x,) = args
        return ov.add(ov.multiply(x, ov.scalar(self.alpha, x)), ov.scalar(self.beta, x))

    @classmethod
    def cases(cls) -> Cases:
        yield cls(), (tensor(2, 3, 4),)
        yield cls(-0.3, 1e-3), (tensor(3, 7),)


@dataclass(frozen=True)
class Sigmoid(Unary):
    """1 / (1 + e^-x)"""

    onnx: ClassVar[str | None] = "Sigmoid"
    opset: ClassVar[str | None] = "sigmoid"
    in_f32: ClassVar[bool] = True
    formula: ClassVar[str] = "{T}(1) / ({T}(1) + exp(-{x}))"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(1 / (1 + np.exp(-ins[0])))


@dataclass(frozen=True)
class Softplus(Unary):
    """log(1 + e^x), as max(x, 0) + log(1 + u) with u = e^-|x|, which does not overflow; the logarithm by its series
    where 1 + u would lose most of u"""

    onnx: ClassVar[str | None] = "Softplus"
    opset: ClassVar[str | None] = "softplus"
    in_f32: ClassVar[bool] = True

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        (x,) = args
        u = f"exp(-abs({x}))"
        series = f"({u} * ({t}(1) - {u} * ({literal(1 / 2, t)} - {u} * ({literal(1 / 3, t)} - {u} * {t}(0.25)))))"
        small = f"select(log({t}(1) + {u}), {series}, {u} < {literal(0.03, t)})"
        return f"(select({x}, {t}(0), {x} < {t}(0)) + {small})"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.logaddexp(ins[0], 0))


@dataclass(frozen=True)
class Softsign(Unary):
    """x / (1 + |x|)"""

    onnx: ClassVar[str | None] = "Softsign"
    opset: ClassVar[str | None] = "softsign"
    in_f32: ClassVar[bool] = True

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        return f"({quotient(args[0], f'({t}(1) + abs({args[0]}))', t)})"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(ins[0] / (1 + np.abs(ins[0])))


@dataclass(frozen=True)
class Tanh(Unary):
    """tanh x; beyond 15 its sign, because some drivers compute it through e^x, which overflows"""

    onnx: ClassVar[str | None] = "Tanh"
    opset: ClassVar[str | None] = "tanh"
    in_f32: ClassVar[bool] = True
    formula: ClassVar[str] = "select(tanh({x}), sign({x}), abs({x}) > {T}(15))"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.tanh(ins[0]))
