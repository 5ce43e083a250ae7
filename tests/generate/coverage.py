"""What drawn cases of an op left out: data types and absence of its operands, values of its options."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from gpucompile.errors import TypeInferenceError
from gpucompile.ir.op import MAX_RANK, MaybeType, Op
from gpucompile.ir.types import DataType
from tests.generate.draw import Case

ANYTHING = (frozenset(DataType), 0, MAX_RANK)


def left_out(cls: type[Op], cases: Sequence[Case]) -> list[str]:
    """One line for everything that the op allows and no case has; empty if all is well.

    Of flags, data types and names each value that the op accepts must be drawn; of numbers and tuples two values; of
    what may be None, that and another."""
    out = []
    for i, name in enumerate(cls.operands):
        types = [case.types[i] if i < len(case.types) else None for case in cases]
        allowed = cls.constraints.get(name.rstrip("?*"), ANYTHING)[0]
        seen = {t.dtype for t in types if t is not None}
        out += [f"{name}: {d.value}" for d in sorted(allowed - seen, key=lambda d: d.value)]
        if name.endswith("?") and None not in types:
            out.append(f"{name}: absent")
    names = {v for case in cases for v in case.op.attributes().values() if isinstance(v, str)}
    names |= {v for op, _ in cls.cases() for v in op.attributes().values() if isinstance(v, str)}
    for f in dataclasses.fields(cls):
        values = {getattr(case.op, f.name) for case in cases}
        candidates: set[Any] = set()
        for v in values:
            candidates |= {True, False} if isinstance(v, bool) else set()
            candidates |= set(DataType) if isinstance(v, DataType) else set()
            candidates |= names if isinstance(v, str) else set()
        some = [(case.op, case.types) for case in cases] + list(cls.cases())
        out += [f"{f.name} = {v}" for v in sorted(candidates - values, key=str) if _valid(some, f.name, v)]
        if len(values) < 2:
            out.append(f"{f.name}: nothing but {values}")
        if f.default is None and None not in values:
            out.append(f"{f.name} = None")
    return out


def _valid(some: Sequence[tuple[Op, tuple[MaybeType, ...]]], field: str, value: Any) -> bool:
    """Whether one of the ops has a result with another value of an option."""
    for op, types in some:
        try:
            dataclasses.replace(op, **{field: value}).result_types(*types)
        except TypeInferenceError:
            continue
        return True
    return False
