"""The base class of all ops.

An op is a frozen dataclass: its fields are its attributes, its name is its class name in snake_case, and subclassing
registers it. Attributes may be bool, int, float, str, DataType, tuples of those, None, Literal (constant data) and
Graph (the body of a fused op), so that every op prints and parses back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from gpucompile.errors import ConstraintError, TypeInferenceError
from gpucompile.ir.types import DataType, TensorType

MaybeType = TensorType | None
#: Which data types and ranks an operand may have: (data types, lowest rank, highest rank).
Constraint = tuple[frozenset[DataType], int, int]

NIBBLES = frozenset({DataType.INT4, DataType.UINT4})  # for quantized weights: moved and cast, no more
ALL = frozenset(DataType) - NIBBLES
FLOATS = frozenset({DataType.FLOAT32, DataType.FLOAT16})
INTS = ALL - FLOATS
MAX_RANK = 8


@dataclass(frozen=True)
class Op:
    """One operation. Subclasses give the class variables and methods below.

    `operands` names the operands in order; a trailing `?` marks an optional one (absent: None), a trailing `*` a list.
    `constraints` maps operand names to what they may be; operands it leaves out accept everything.
    """

    name: ClassVar[str] = ""
    operands: ClassVar[tuple[str, ...]] = ("input",)
    constraints: ClassVar[dict[str, Constraint]] = {}
    onnx: ClassVar[str | None] = None  # the ONNX op this one equals 1:1 (same operands, no attributes)
    opset: ClassVar[str | None] = None  # the OpenVINO operation this one equals 1:1 (same operands, no attributes)
    abstract: ClassVar[bool] = True
    registry: ClassVar[dict[str, type[Op]]] = {}

    def __init_subclass__(cls, abstract: bool = False, **kw: Any) -> None:
        super().__init_subclass__(**kw)
        cls.abstract = abstract
        if not abstract:
            if "name" not in cls.__dict__:
                cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
            if Op.registry.setdefault(cls.name, cls).__qualname__ != cls.__qualname__:
                raise TypeError(f"two ops are called {cls.name}")
            Op.registry[cls.name] = cls

    # What each op defines ------------------------------------------------------------------------------------------

    def infer(self, *ins: Any) -> tuple[TensorType, ...]:
        """Result types from operand types (None for an absent operand). Raises TypeInferenceError through `fail`."""
        raise NotImplementedError(f"{type(self).__name__}.infer")

    def reference(self, *ins: Any) -> np.ndarray | tuple[np.ndarray, ...]:
        """The numpy oracle: result arrays from operand arrays (None for an absent operand)."""
        raise NotImplementedError(f"{type(self).__name__}.reference")

    def openvino(self, ov: Any, *args: Any) -> Any:
        """The result from operand values (None for an absent operand), a tuple where there are several: calls of
        OpenVINO's operations through `ov`, a `gpucompile.backends.openvino.opset.Opset`, which has them by name."""
        if self.opset is None:
            raise NotImplementedError(f"{type(self).__name__}.openvino")
        return getattr(ov, self.opset)(*args)

    @classmethod
    def cases(cls) -> Iterator[tuple[Op, tuple[MaybeType, ...]]]:
        """Test cases: instances with operand types, awkward shapes included."""
        raise NotImplementedError(f"{cls.__name__}.cases")

    # What they share -----------------------------------------------------------------------------------------------

    def attributes(self) -> dict[str, Any]:
        """Attribute names and values in declaration order."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def operand_name(self, index: int) -> str:
        """The name of operand `index`, `inputs[3]` for one of a list."""
        for i, name in enumerate(self.operands):
            if name.endswith("*"):
                return f"{name[:-1]}[{index - i}]"
            if i == index:
                return name.rstrip("?")
        return f"operand {index}"

    def check(self, *ins: MaybeType) -> None:
        """Operand count, data types and ranks against `operands` and `constraints`."""
        variadic = any(n.endswith("*") for n in self.operands)
        required = sum(not n.endswith(("?", "*")) for n in self.operands)
        if len(ins) < required or (not variadic and len(ins) > len(self.operands)):
            self.fail(ins, f"takes {required}{'' if required == len(self.operands) else ' or more'} operands")
        for i, t in enumerate(ins):
            name = self.operand_name(i)
            if t is None:
                if i < required:
                    self.fail(ins, f"operand {name} is missing")
                continue
            rule = self.constraints.get(name.split("[")[0])
            if rule is None:
                continue
            dtypes, low, high = rule
            if t.dtype not in dtypes:
                self._forbid(ins, f"{name} is {t.dtype.value}, allowed: {', '.join(sorted(d.value for d in dtypes))}")
            if not low <= t.rank <= high:
                ranks = f"rank {low}" if low == high else f"a rank from {low} to {high}"
                self._forbid(ins, f"{name} has rank {t.rank}, needs {ranks}")

    def result_types(self, *ins: MaybeType) -> tuple[TensorType, ...]:
        """`check`, then `infer`."""
        self.check(*ins)
        return self.infer(*ins)

    def _forbid(self, ins: tuple[MaybeType, ...], why: str) -> Any:
        raise ConstraintError(self._clash(ins, why))

    def fail(self, ins: tuple[MaybeType, ...], why: str) -> Any:
        """Raise TypeInferenceError: `matmul f32[37,50] x f32[60,30]: inner dimensions 50 and 60 differ`."""
        raise TypeInferenceError(self._clash(ins, why))

    def _clash(self, ins: tuple[MaybeType, ...], why: str) -> str:
        return f"{self.name} {' x '.join('-' if t is None else str(t) for t in ins)}: {why}"
