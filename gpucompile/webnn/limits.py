"""What operators take and give, derived from the op classes: `MLContext.op_support_limits`.

Operands come from a class's constraints. Results are found by asking its type inference: the class's test cases, with
each operand in each data type that it may have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

from gpucompile.errors import TypeInferenceError
from gpucompile.ir.op import ALL, MAX_RANK, Op
from gpucompile.ir.types import DataType, TensorType
from gpucompile.webnn.operators import OPERATORS, op_class
from gpucompile.webnn.validation import DATA_TYPES

Types = tuple[TensorType | None, ...]


@dataclass(frozen=True)
class Limits:
    """Data types and ranks of one operand or result."""

    data_types: frozenset[DataType] = ALL
    lowest: int = 0
    highest: int = MAX_RANK

    def structure(self, supported: frozenset[DataType]) -> dict[str, Any]:
        """MLTensorLimits, of the data types that are supported."""
        names = [d.value for d in DATA_TYPES if d in self.data_types & supported]
        return {"data_types": names, "rank_range": {"min": self.lowest, "max": self.highest}}


def op_support_limits(supported: frozenset[DataType], max_bytes: int) -> dict[str, Any]:
    """MLOpSupportLimits with names in snake_case, for the data types that kernels take here."""
    everything = Limits().structure(supported)
    result: dict[str, Any] = {
        "preferred_input_layout": "nchw",
        "max_tensor_byte_length": max_bytes,
        **{name: everything for name in ("input", "constant", "output")},
    }
    for name in (*OPERATORS, "split"):
        result[name] = {key: each.structure(supported) for key, each in operator_limits(name).items()}
    return result


@cache
def operator_limits(name: str) -> dict[str, Limits]:
    """The limits of every operand and result of an operator, whatever a device supports."""
    if name == "split":  # several slices of at least one axis
        return {"input": Limits(lowest=1), "outputs": Limits(lowest=1)}
    cls = op_class(name)
    free = frozenset(DATA_TYPES), 0, MAX_RANK
    operands = {o.rstrip("?*"): Limits(*cls.constraints.get(o.rstrip("?*"), free)) for o in cls.operands}
    return operands | _results(cls, operands)


def _results(cls: type[Op], operands: dict[str, Limits]) -> dict[str, Limits]:
    samples = [(ins, outs) for op, types in cls.cases() for ins, outs in _samples(op, types)]
    count = max(len(outs) for _, outs in samples)
    first = next(iter(operands.values()))
    found = {}
    for i in range(count):
        some = [(ins, outs[i]) for ins, outs in samples if i < len(outs)]
        lowest, highest = _ranks(first, operands.values(), some)
        dtypes = frozenset(out.dtype for _, out in some)
        found["output" if count == 1 else f"output{i}"] = Limits(dtypes, lowest, highest)
    return found


def _ranks(
    first: Limits, operands: Iterable[Limits], samples: list[tuple[list[TensorType], TensorType]]
) -> tuple[int, int]:
    """Of a result: that of the first operand, the larger one of several, always the same, or any."""
    if all(out.rank == max(t.rank for t in ins) or out.rank == ins[0].rank for ins, out in samples):
        return first.lowest, first.highest
    if all(o.lowest == o.highest for o in operands):
        ranks = {out.rank for _, out in samples}
        return min(ranks), max(ranks)
    return 0, MAX_RANK


def _samples(op: Op, types: Types) -> Iterator[tuple[list[TensorType], tuple[TensorType, ...]]]:
    """Valid operand types and their result types: the case, and the case in other data types."""
    for variant, changed in variants(op, types):
        if (outs := results(variant, changed)) is not None:
            yield [t for t in changed if t is not None], outs


def variants(op: Op, types: Types) -> Iterator[tuple[Op, Types]]:
    """A case, then the same with other data types: of attributes, and of all operands that share one. Many are not
    valid."""
    ops = [op]
    for f in fields(op):
        if isinstance(value := getattr(op, f.name), DataType):
            ops += [replace(op, **{f.name: other}) for other in DATA_TYPES if other is not value]
    for variant in ops:
        yield variant, types
        for dtype in dict.fromkeys(t.dtype for t in types if t is not None):
            for other in DATA_TYPES:
                if other is not dtype:
                    yield variant, tuple(replace(t, dtype=other) if t and t.dtype is dtype else t for t in types)


def results(op: Op, types: Types) -> tuple[TensorType, ...] | None:
    """The result types, None for operand types that the op does not take."""
    try:
        return op.result_types(*types)
    except TypeInferenceError:
        return None
