"""Comparisons and logic (their results are uint8, 0 or 1), where and cast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpucompile.ir.literals import limits
from gpucompile.ir.op import FLOATS, Constraint
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.categories import Cases, Elementwise, broadcast, tensor
from gpucompile.ops.formula import ANY_RANK, Binary, Unary, bits, is_nan, is_wide, literal, prefix, retype, scalar

BOOL = frozenset({DataType.UINT8})


@dataclass(frozen=True)
class Comparison(Binary, abstract=True):
    """uint8(a ? b), broadcast; comparisons with NaN are false, `not_equal` true."""

    exact: ClassVar[bool] = True

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        return (super().infer(*ins)[0].with_dtype(DataType.UINT8),)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(self.compute(*ins)).astype(np.uint8)

    def openvino(self, ov: Any, *args: Any) -> Any:
        return ov.cast(super().openvino(ov, *args), DataType.UINT8)


@dataclass(frozen=True)
class Equal(Comparison):
    """a == b"""

    onnx: ClassVar[str | None] = "Equal"
    opset: ClassVar[str | None] = "equal"
    formula: ClassVar[str] = "{R}({a} == {b})"
    formula64: ClassVar[str] = "{R}(all({a} == {b}))"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(ins[0] == ins[1])


@dataclass(frozen=True)
class NotEqual(Comparison):
    """a != b"""

    opset: ClassVar[str | None] = "not_equal"

    # not `a != b`: some compilers make that "less or greater", which is false for NaN
    formula: ClassVar[str] = "{R}(!({a} == {b}))"
    formula64: ClassVar[str] = "{R}(any({a} != {b}))"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(ins[0] != ins[1])


@dataclass(frozen=True)
class Greater(Comparison):
    """a > b"""

    onnx: ClassVar[str | None] = "Greater"
    opset: ClassVar[str | None] = "greater"
    formula: ClassVar[str] = "{R}({a} > {b})"
    formula64: ClassVar[str] = "{R}({I}_less({b}, {a}))"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(ins[0] > ins[1])


@dataclass(frozen=True)
class GreaterOrEqual(Comparison):
    """a >= b"""

    onnx: ClassVar[str | None] = "GreaterOrEqual"
    opset: ClassVar[str | None] = "greater_equal"
    formula: ClassVar[str] = "{R}({a} >= {b})"
    formula64: ClassVar[str] = "{R}(!{I}_less({a}, {b}))"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(ins[0] >= ins[1])


@dataclass(frozen=True)
class Lesser(Comparison):
    """a < b"""

    onnx: ClassVar[str | None] = "Less"
    opset: ClassVar[str | None] = "less"
    formula: ClassVar[str] = "{R}({a} < {b})"
    formula64: ClassVar[str] = "{R}({I}_less({a}, {b}))"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(ins[0] < ins[1])


@dataclass(frozen=True)
class LesserOrEqual(Comparison):
    """a <= b"""

    onnx: ClassVar[str | None] = "LessOrEqual"
    opset: ClassVar[str | None] = "less_equal"
    formula: ClassVar[str] = "{R}({a} <= {b})"
    formula64: ClassVar[str] = "{R}(!{I}_less({b}, {a}))"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(ins[0] <= ins[1])


@dataclass(frozen=True)
class Logical(Comparison, abstract=True):
    """A truth function of uint8 operands; everything but 0 is true."""

    constraints: ClassVar[dict[str, Constraint]] = {"a": (BOOL, *ANY_RANK), "b": (BOOL, *ANY_RANK)}
    domain: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def openvino(self, ov: Any, *args: Any) -> Any:
        return super().openvino(ov, *map(ov.truth, args))

    @classmethod
    def cases(cls) -> Cases:
        u8 = DataType.UINT8
        yield cls(), (tensor(3, 5, dtype=u8), tensor(3, 5, dtype=u8))
        yield cls(), (tensor(2, 3, 8, dtype=u8), tensor(3, 1, dtype=u8))


@dataclass(frozen=True)
class LogicalAnd(Logical):
    """a and b"""

    onnx: ClassVar[str | None] = "And"
    opset: ClassVar[str | None] = "logical_and"
    formula: ClassVar[str] = "{R}(({a} != {T}(0)) & ({b} != {T}(0)))"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.logical_and(*ins))


@dataclass(frozen=True)
class LogicalOr(Logical):
    """a or b"""

    onnx: ClassVar[str | None] = "Or"
    opset: ClassVar[str | None] = "logical_or"
    formula: ClassVar[str] = "{R}(({a} != {T}(0)) | ({b} != {T}(0)))"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.logical_or(*ins))


@dataclass(frozen=True)
class LogicalXor(Logical):
    """either a or b"""

    onnx: ClassVar[str | None] = "Xor"
    opset: ClassVar[str | None] = "logical_xor"
    formula: ClassVar[str] = "{R}(({a} != {T}(0)) != ({b} != {T}(0)))"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.logical_xor(*ins))


@dataclass(frozen=True)
class Predicate(Unary, abstract=True):
    """uint8(property of a)."""

    operands: ClassVar[tuple[str, ...]] = ("a",)
    constraints: ClassVar[dict[str, Constraint]] = {"a": (FLOATS, *ANY_RANK)}
    exact: ClassVar[bool] = True

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        return (ins[0].with_dtype(DataType.UINT8),)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(self.compute(*ins)).astype(np.uint8)

    def openvino(self, ov: Any, *args: Any) -> Any:
        return ov.cast(super().openvino(ov, *args), DataType.UINT8)

    @classmethod
    def cases(cls) -> Cases:
        (dtype, *_) = sorted(cls.constraints["a"][0], key=lambda d: -d.bits)
        yield cls(), (tensor(3, 7, dtype=dtype),)
        yield cls(), (tensor(2, 8, dtype=dtype),)


@dataclass(frozen=True)
class LogicalNot(Predicate):
    """not a"""

    onnx: ClassVar[str | None] = "Not"
    opset: ClassVar[str | None] = "logical_not"
    constraints: ClassVar[dict[str, Constraint]] = {"a": (BOOL, *ANY_RANK)}
    formula: ClassVar[str] = "{R}({x} == {T}(0))"
    domain: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(ins[0] == 0)

    def openvino(self, ov: Any, *args: Any) -> Any:
        return super().openvino(ov, ov.truth(args[0]))


@dataclass(frozen=True)
class IsNan(Predicate):
    """Whether a is NaN"""

    onnx: ClassVar[str | None] = "IsNaN"
    opset: ClassVar[str | None] = "is_nan"

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        return f"{r}({is_nan(args[0], t)})"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.isnan(ins[0]))


@dataclass(frozen=True)
class IsInfinite(Predicate):
    """Whether a is positive or negative infinity"""

    opset: ClassVar[str | None] = "is_inf"

    def expression(self, args: Sequence[str], t: str, r: str) -> str:
        u = retype(t, "u32")
        return f"{r}(({bits(args[0], t)} & {u}(0x7fffffffu)) == {u}(0x7f800000u))"

    def compute(self, *ins: np.ndarray) -> np.ndarray:
        return np.asarray(np.isinf(ins[0]))


@dataclass(frozen=True)
class Where(Elementwise):
    """true_value where condition is not 0, else false_value, broadcast (WebNN where)."""

    onnx: ClassVar[str | None] = "Where"
    operands: ClassVar[tuple[str, ...]] = ("condition", "true_value", "false_value")
    constraints: ClassVar[dict[str, Constraint]] = {"condition": (BOOL, *ANY_RANK)}

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        if ins[1].dtype != ins[2].dtype:
            self.fail(ins, "data types of true_value and false_value differ")
        return (TensorType(ins[1].dtype, broadcast(self, *ins)),)

    def wgsl(self, args: Sequence[str], t: str, r: str) -> str:
        condition, a, b = args  # t is the type of the condition
        return f"select({b}, {a}, {condition} != {t}(0))"

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        return np.where(ins[0] != 0, ins[1], ins[2])

    def openvino(self, ov: Any, *args: Any) -> Any:
        return ov.select(ov.truth(args[0]), args[1], args[2])

    @classmethod
    def cases(cls) -> Cases:
        u8, i32 = DataType.UINT8, DataType.INT32
        yield cls(), (tensor(2, 3, 5, dtype=u8), tensor(2, 3, 5), tensor(5))
        yield cls(), (tensor(3, 1, dtype=u8), tensor(4, 1, 8), tensor())
        yield cls(), (tensor(7, dtype=u8), tensor(7, dtype=i32), tensor(7, dtype=i32))


@dataclass(frozen=True)
class Cast(Elementwise):
    """The operand as another data type (WebNN cast). Floats become integers by truncation, and saturate; integers
    become narrower integers modulo 2^bits."""

    constraints: ClassVar[dict[str, Constraint]] = {"input": (frozenset(DataType), *ANY_RANK)}
    to: DataType = DataType.FLOAT32

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        return (ins[0].with_dtype(self.to),)

    def wgsl(self, args: Sequence[str], t: str, r: str) -> str:
        (x,) = args
        if is_wide(r):
            if is_wide(t):
                return f"{r}({x})"
            if t in ("f32", "f16"):
                return f"{prefix(r)}_from_f32(f32({x}))"
            return f"i64_from_i32({x})" if t == "i32" else f"{r}({x}, 0u)"
        if is_wide(t):
            if self.to.is_float:
                return f"{r}({prefix(t)}_to_f32({x}))"
            x, t = f"{x}.x", "u32"
        if self.to.is_float or (self.to.bits == 32 and "f" not in scalar(t)):
            return f"{r}({x})"
        if "f" in scalar(t):
            return self._saturated(x, t, r)
        shift = retype(r, "u32") + f"({32 - self.to.bits}u)"
        return f"(({r}({x}) << {shift}) >> {shift})"

    def _saturated(self, x: str, t: str, r: str) -> str:
        """Of a float: by comparisons, because what WGSL's conversions do outside the range differs from device to
        device, as its upper end is no float. NaN becomes 0."""
        f = retype(t, "f32")
        wide, (smallest, largest) = f"{f}({x})", limits(self.to)
        low, high = literal(smallest, f), literal(largest, f)  # the largest of 32 bits is rounded up to 2^31 or 2^32
        inside = f"{r}(select({f}(0), {wide}, ({wide} > {low}) & ({wide} < {high})))"
        inside = f"select({inside}, {literal(smallest, r)}, {wide} <= {low})"
        return f"select({inside}, {literal(largest, r)}, {wide} >= {high})"

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        (x,) = ins
        if self.to.is_float:
            return x.astype(self.to.numpy)
        low, high = limits(self.to)
        if x.dtype.kind == "f":
            out = np.where((x > low) & (x < high), x, 0).astype(self.to.numpy)
            out[x >= high] = high
            out[x <= low] = low
            return np.asarray(out)
        if self.to.bits == 4:
            return np.asarray((x.astype(np.int64) - low) % 16 + low).astype(self.to.numpy)
        return x.astype(self.to.numpy)

    def openvino(self, ov: Any, *args: Any) -> Any:
        return ov.cast(args[0], self.to)

    @classmethod
    def cases(cls) -> Cases:
        f32, i32, u32, u8, i8, i64, u64 = map(DataType.parse, ("f32", "i32", "u32", "u8", "i8", "i64", "u64"))
        pairs = "f32 i32,i32 f32,f32 u8,u8 f32,i32 u32,i32 i8,u32 i32,f32 f32,f32 u32,f32 i8,f32 f16"
        for pair in pairs.split(","):
            a, b = map(DataType.parse, pair.split())
            yield cls(b), (tensor(3, 7, dtype=a),)
            yield cls(b), (tensor(4, 8, dtype=a),)
        for wide in (i64, u64):
            for other in (f32, i32, u32, u8, i8, i64, u64):
                yield cls(wide), (tensor(3, 7, dtype=other),)
                yield cls(other), (tensor(4, 8, dtype=wide),)
        for a, b in ((DataType.INT4, f32), (f32, DataType.INT4), (u8, DataType.UINT4), (DataType.UINT4, i32)):
            yield cls(b), (tensor(3, 7, dtype=a),)
            yield cls(b), (tensor(4, 8, dtype=a),)
