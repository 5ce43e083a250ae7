"""Normalisations: (x - mean) / sqrt(variance + epsilon) * scale + bias over various axes, and local response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpucompile.ir.op import FLOATS, MAX_RANK, Constraint, MaybeType, Op
from gpucompile.ir.types import TensorType
from gpucompile.ops.categories import Anchor, Cases, tensor
from gpucompile.ops.formula import wide

VECTOR: Constraint = (FLOATS, 1, 1)


@dataclass(frozen=True)
class BatchNormalization(Anchor):
    """(input - mean) / sqrt(variance + epsilon) * scale + bias with one mean, variance, scale and bias for each index
    of `axis` (WebNN batchNormalization)."""

    operands: ClassVar[tuple[str, ...]] = ("input", "mean", "variance", "scale?", "bias?")
    constraints: ClassVar[dict[str, Constraint]] = {
        "input": (FLOATS, 1, MAX_RANK),
        **dict.fromkeys(("mean", "variance", "scale", "bias"), VECTOR),
    }
    axis: int = 1
    epsilon: float = 1e-5

    def infer(self, *ins: MaybeType) -> tuple[TensorType, ...]:
        x, *rest = ins
        assert x is not None
        if not 0 <= self.axis < x.rank:
            self.fail(ins, f"axis {self.axis} is not an axis of a rank {x.rank} tensor")
        check_parameters(self, ins, rest, x.dtype, (x.shape[self.axis],))
        return (x,)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        shape = [-1 if i == self.axis else 1 for i in range(ins[0].ndim)]
        mean, variance, scale, bias = (None if v is None else wide(v) for v in (*ins[1:], *(None,) * (5 - len(ins))))
        assert mean is not None and variance is not None
        factor = 1 / np.sqrt(variance + self.epsilon)
        factor = factor if scale is None else factor * scale
        out = (wide(ins[0]) - mean.reshape(shape)) * factor.reshape(shape)
        out = out if bias is None else out + bias.reshape(shape)
        return np.asarray(out).astype(ins[0].dtype)

    @classmethod
    def cases(cls) -> Cases:
        c = tensor(5)
        yield cls(), (tensor(2, 5, 3, 4), c, c, c, c)
        yield cls(), (tensor(1, 8, 6, 6), *(tensor(8),) * 4)
        yield cls(epsilon=1e-3), (tensor(2, 5, 7), c, c, None, c)
        yield cls(axis=3), (tensor(1, 3, 4, 5), c, c, c)
        yield cls(axis=0), (tensor(5), c, c)


@dataclass(frozen=True)
class InstanceNormalization(Anchor):
    """Each image and channel normalised over its spatial axes, then scaled (WebNN instanceNormalization)."""

    operands: ClassVar[tuple[str, ...]] = ("input", "scale?", "bias?")
    constraints: ClassVar[dict[str, Constraint]] = {"input": (FLOATS, 4, 4), "scale": VECTOR, "bias": VECTOR}
    epsilon: float = 1e-5
    layout: str = "nchw"

    @property
    def channel(self) -> int:
        return self.layout.index("c")

    def infer(self, *ins: MaybeType) -> tuple[TensorType, ...]:
        x, *rest = ins
        assert x is not None
        if self.layout not in ("nchw", "nhwc"):
            self.fail(ins, f"unknown layout {self.layout!r}")
        check_parameters(self, ins, rest, x.dtype, (x.shape[self.channel],))
        return (x,)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        axes = tuple(self.layout.index(a) for a in "hw")
        return _normalize(ins, axes, (-1, 1, 1) if self.channel == 1 else (-1,), self.epsilon)

    def openvino(self, ov: Any, *args: Any) -> Any:
        axes = [self.layout.index(a) for a in "hw"]
        out = ov.mvn(args[0], ov.integers(axes), True, self.epsilon, "inside_sqrt")
        shape = [-1 if i == self.channel else 1 for i in range(4)]
        return _scaled(ov, out, [None if p is None else ov.reshape(p, ov.integers(shape), False) for p in args[1:]])

    @classmethod
    def cases(cls) -> Cases:
        yield cls(), (tensor(2, 5, 3, 4), tensor(5), tensor(5))
        yield cls(epsilon=1e-3), (tensor(1, 3, 9, 7), None, tensor(3))
        yield cls(layout="nhwc"), (tensor(2, 4, 5, 7), tensor(7))


@dataclass(frozen=True)
class LayerNormalization(Anchor):
    """Normalised over `axes` (None: all but the first), then scaled; scale and bias have the shape of `axes`, in their
    order (WebNN layerNormalization)."""

    operands: ClassVar[tuple[str, ...]] = ("input", "scale?", "bias?")
    constraints: ClassVar[dict[str, Constraint]] = dict.fromkeys(("input", "scale", "bias"), (FLOATS, 0, MAX_RANK))
    axes: tuple[int, ...] | None = None
    epsilon: float = 1e-5

    def normalized_axes(self, rank: int) -> tuple[int, ...]:
        """The axes it normalises over, in the order of the axes of scale and bias."""
        return tuple(range(1, rank)) if self.axes is None else self.axes

    def infer(self, *ins: MaybeType) -> tuple[TensorType, ...]:
        x, *rest = ins
        assert x is not None
        axes = self.normalized_axes(x.rank)
        if len(set(axes)) != len(axes) or any(not 0 <= a < x.rank for a in axes):
            self.fail(ins, f"axes {list(axes)} are not distinct axes of a rank {x.rank} tensor")
        check_parameters(self, ins, rest, x.dtype, tuple(x.shape[a] for a in axes))
        return (x,)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        axes = self.normalized_axes(ins[0].ndim)
        order = sorted(range(len(axes)), key=lambda i: axes[i])  # scale's axes in the order of the input's
        parameters = [None if p is None else p.transpose(order) for p in ins[1:]]
        shape = tuple(d if i in axes else 1 for i, d in enumerate(ins[0].shape))
        return _normalize((ins[0], *parameters), axes, shape, self.epsilon)

    def openvino(self, ov: Any, *args: Any) -> Any:
        x, *parameters = args
        shape = ov.type(x).shape
        axes = self.normalized_axes(len(shape))
        order = sorted(range(len(axes)), key=axes.__getitem__)  # scale's axes in the order of the input's
        spread = ov.integers([d if i in axes else 1 for i, d in enumerate(shape)])

        def parameter(p: Any) -> Any:
            return None if p is None else ov.reshape(ov.transpose(p, ov.integers(order)) if order else p, spread, False)

        out = ov.mvn(x, ov.integers(sorted(axes)), True, self.epsilon, "inside_sqrt")
        return _scaled(ov, out, [parameter(p) for p in parameters])

    @classmethod
    def cases(cls) -> Cases:
        yield cls(), (tensor(3, 37), tensor(37), tensor(37))
        yield cls((2,)), (tensor(2, 3, 64), tensor(64), tensor(64))
        yield cls((2, 1), 1e-3), (tensor(2, 3, 5), tensor(5, 3), None)
        yield cls((0,)), (tensor(9, 4),)


@dataclass(frozen=True)
class LocalResponseNormalization(Anchor):
    """x / (bias + alpha / size * sum of squares of `size` neighbours along `axis`) ^ beta (ONNX LRN; not in WebNN).

    The window reaches floor((size - 1) / 2) before and ceil((size - 1) / 2) after the element."""

    name: ClassVar[str] = "lrn"
    constraints: ClassVar[dict[str, Constraint]] = {"input": (FLOATS, 1, MAX_RANK)}
    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    bias: float = 1.0
    axis: int = 1

    @property
    def window(self) -> tuple[int, int]:
        """How many elements it takes before and after."""
        return (self.size - 1) // 2, self.size // 2

    def infer(self, *ins: TensorType) -> tuple[TensorType, ...]:
        if not 0 <= self.axis < ins[0].rank:
            self.fail(ins, f"axis {self.axis} is not an axis of a rank {ins[0].rank} tensor")
        if self.size < 1:
            self.fail(ins, f"size {self.size} is less than 1")
        return (ins[0],)

    def reference(self, *ins: np.ndarray) -> np.ndarray:
        x = np.moveaxis(wide(ins[0]), self.axis, 0)
        square, total = x * x, np.zeros_like(x)
        before, after = self.window
        for i in range(len(x)):
            total[i] = square[max(0, i - before) : i + after + 1].sum(axis=0)
        out = x / (self.bias + self.alpha / self.size * total) ** self.beta
        return np.moveaxis(out, 0, self.axis).astype(ins[0].dtype)

    def openvino(self, ov: Any, *args: Any) -> Any:
        return ov.lrn(args[0], ov.integers([self.axis]), self.alpha, self.beta, self.bias, self.size)

    @classmethod
    def cases(cls) -> Cases:
        yield cls(), (tensor(1, 12, 5, 5),)
        yield cls(3, 0.5, 0.6, 2.0), (tensor(2, 7, 3, 3),)
        yield cls(4, 1.0), (tensor(2, 9, 4),)
        yield cls(5, 0.1, axis=3), (tensor(1, 4, 4, 8),)
        yield cls(9, 0.1), (tensor(1, 3, 6, 6),)


def check_parameters(
    op: Op, ins: tuple[MaybeType, ...], parameters: list[MaybeType], dtype: object, shape: tuple[int, ...]
) -> None:
    """Scale, bias and the like have the input's data type and one shape."""
    for i, t in enumerate(parameters):
        if t is not None and (t.dtype is not dtype or t.shape != shape):
            op.fail(ins, f"{op.operand_name(1 + i)} needs the input's data type and the shape {list(shape)}")


def _scaled(ov: Any, out: Any, parameters: Sequence[Any]) -> Any:
    """A normalised value in OpenVINO's operations, with scale and bias, if there are any."""
    scale, bias = (*parameters, None, None)[:2]
    out = out if scale is None else ov.multiply(out, scale)
    return out if bias is None else ov.add(out, bias)


def _normalize(
    ins: tuple[np.ndarray | None, ...], axes: tuple[int, ...], shape: tuple[int, ...], epsilon: float
) -> np.ndarray:
    """Input, scale?, bias? normalised over `axes`; the parameters reshaped to `shape`."""
    source = ins[0]
    scale, bias = (ins[i] if i < len(ins) else None for i in (1, 2))
    assert source is not None
    x = wide(source)
    out = (x - x.mean(axis=axes, keepdims=True)) / np.sqrt(x.var(axis=axes, keepdims=True) + epsilon)
    if scale is not None:
        out = out * wide(scale).reshape(shape)
    if bias is not None:
        out = out + wide(bias).reshape(shape)
    return np.asarray(out).astype(source.dtype)
