"""Several sizes for free dimensions: which to compile, and how the outputs depend on them.

    {"batch": 1, "seq": [16, 64]} -> fixed sizes, combinations -> a plan for each -> buckets, free axes for the player

Which axes of the outputs have the size of a free dimension is seen from their shapes: those of all plans, and those
that the importer infers for a few sizes more (no plan is made for these). An axis that changes and is not always the
size of one dimension is noted as such: a player cannot tell which of its elements come from padding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucompile.errors import InputError, ModelError, UnsupportedError
from gpucompile.runtime.buckets import sorted_buckets
from gpucompile.runtime.format import Bucket, FreeAxis, Plan

if TYPE_CHECKING:
    import onnx

MAX_PLANS = 64

Dims = dict[str, int]


@dataclass(frozen=True)
class Sizes:
    """Free dimensions with one size, and with several (sorted, each once)."""

    fixed: Dims
    lists: dict[str, tuple[int, ...]]

    @staticmethod
    def of(dims: Mapping[str, int | Sequence[int]]) -> Sizes:
        """Tell numbers and lists apart. Raises InputError for what is neither, and for too many combinations."""
        fixed: Dims = {}
        lists: dict[str, tuple[int, ...]] = {}
        for name, given in dims.items():
            if (
                isinstance(given, int)
                or not isinstance(given, (Sequence, np.ndarray))
                or isinstance(given, (str, bytes))
            ):
                fixed[name] = _size(name, given)
                continue
            for size in given:
                _size(name, size)
            if not len(given):
                raise InputError(f"dims: {name} has an empty list of sizes")
            lists[name] = tuple(sorted({int(size) for size in given}))
        count = math.prod(map(len, lists.values()))
        if count > MAX_PLANS:
            each = " x ".join(f"{len(sizes)} of {name}" for name, sizes in lists.items())
            raise InputError(f"dims: {each} are {count} plans, at most {MAX_PLANS} are made; give fewer sizes")
        return Sizes(fixed, lists)

    def combinations(self) -> list[Dims]:
        """All sizes of the lists with each other, smallest first; one empty dict without lists."""
        each = [dict(zip(self.lists, values, strict=True)) for values in itertools.product(*self.lists.values())]
        return [b.dims for b in sorted_buckets([Bucket(dims, ()) for dims in each])]

    def buckets(self, plans: Sequence[Plan]) -> list[Bucket]:
        """Buckets of one plan each, for the plans of all combinations in order."""
        return [Bucket(dims, (plan.name,)) for dims, plan in zip(self.combinations(), plans, strict=True)]


def _size(name: str, given: Any) -> int:
    """One size. Raises InputError where it is none."""
    if isinstance(given, (bool, np.bool_)) or not isinstance(given, (int, np.integer)) or given < 0:
        raise InputError(f"dims: {name} is {given!r}, it must be an integer that is not negative")
    return int(given)


def find_free_axes(
    model: str | Path | bytes | onnx.ModelProto,
    sizes: Sizes,
    plans: Sequence[Plan],
    constants: Mapping[str, np.ndarray],
) -> tuple[FreeAxis, ...]:
    """The axes of inputs and outputs whose sizes depend on the dimensions with several sizes. `plans` are those of all
    combinations, in order."""
    from gpucompile.frontends.onnx.importer import input_shapes

    axes = [
        FreeAxis(name, axis, size)
        for name, shape in input_shapes(model, constants).items()
        for axis, size in enumerate(shape)
        if isinstance(size, str) and size in sizes.lists
    ]
    for name in sizes.lists:
        if not any(axis.dim == name for axis in axes):
            raise InputError(f"dims: {name} cannot have several sizes: it is no axis of an input without a value")
    seen = [
        (dims, {p.name: p.shape for p in plan.outputs}) for dims, plan in zip(sizes.combinations(), plans, strict=True)
    ]
    low = {name: values[0] for name, values in sizes.lists.items()}
    others = [low | {name: low[name] + 1} for name in low] + [{n: max(v[-1] - 1, 1) for n, v in sizes.lists.items()}]
    for dims in others:
        shapes = _output_shapes(model, sizes.fixed | dims, constants)
        if shapes is not None:
            seen.append((dims, shapes))
    for name, shape in seen[0][1].items():
        for axis in range(len(shape)):
            found = [(dims, shapes[name][axis]) for dims, shapes in seen]
            equal = [d for d in sizes.lists if all(dims[d] == size for dims, size in found)]
            if len({size for _, size in found}) > 1:
                axes.append(FreeAxis(name, axis, equal[0] if equal else ""))
            elif equal:  # nothing tells a fixed size from this dimension, as the model takes no other
                axes.append(FreeAxis(name, axis))
    return tuple(axes)


def _output_shapes(
    model: str | Path | bytes | onnx.ModelProto, dims: Dims, constants: Mapping[str, np.ndarray]
) -> dict[str, tuple[int, ...]] | None:
    """The shapes that the importer infers; None for sizes that the model does not take."""
    from gpucompile.frontends.onnx.importer import import_model

    try:
        graph = import_model(model, dims, constants=constants)
    except (ModelError, UnsupportedError, InputError):
        return None
    return {n: v.type.shape for n, v in zip(graph.output_names, graph.outputs, strict=True)}
