"""Strategies of gathers and scatters, quantisation and recurrent networks."""

from __future__ import annotations

import math

import numpy as np

from gpucompile.ir.op import FLOATS, MAX_RANK
from gpucompile.ir.types import DataType, TensorType
from gpucompile.ops.gather import INDICES, Gather, GatherElements, GatherNd, ScatterElements, ScatterNd
from gpucompile.ops.quantize import INTEGERS, DequantizeLinear, QuantizeLinear
from gpucompile.ops.recurrent import ACTIVATIONS, DIRECTIONS, Gru, GruCell, Lstm, LstmCell, Recurrent
from gpucompile.ops.update import UpdateSlice
from tests.generate.draw import Case, Draw, Operand, Shape
from tests.generate.registry import strategy_for

# Indices -------------------------------------------------------------------------------------------------------------

INDEX_TYPES = sorted(INDICES, key=lambda t: t.value)


@strategy_for(Gather)
def gather(d: Draw) -> Case:
    shape = d.shape(1, size=60)
    axis = d.axis(len(shape))
    indices = d.shape(0, MAX_RANK - len(shape) + 1, size=12)
    return d.case(Gather(axis), d.operand(shape), d.indices(indices, shape[axis], d.of(*INDEX_TYPES)))


@strategy_for(GatherElements)
def gather_elements(d: Draw) -> Case:
    shape = d.shape(1, size=80)
    axis = d.axis(len(shape))
    picked = (*shape[:axis], d.integer(1, 8), *shape[axis + 1 :])
    return d.case(GatherElements(axis), d.operand(shape), d.indices(picked, shape[axis], d.of(*INDEX_TYPES)))


@strategy_for(GatherNd)
def gather_nd(d: Draw) -> Case:
    shape = d.shape(1, size=60)
    count = d.integer(1, len(shape))
    lead = d.shape(0, MAX_RANK - (len(shape) - count), size=8)[: MAX_RANK - 1]
    dtype = d.of(*INDEX_TYPES)
    columns = [d.indices(lead, shape[k], dtype).array for k in range(count)]
    indices = Operand(TensorType(dtype, (*lead, count)), np.stack(columns, -1))
    return d.case(GatherNd(), d.operand(shape), indices)


def from_the_end(d: Draw, places: np.ndarray, extents: np.ndarray | int, dtype: DataType) -> np.ndarray:
    """Some of the places as negative numbers, where the type has them."""
    if dtype.is_signed:
        places = np.where(d.rng.integers(0, 2, places.shape) == 1, places - extents, places)
    return places.astype(dtype.numpy)


@strategy_for(ScatterElements)
def scatter_elements(d: Draw) -> Case:
    """Distinct places in each line."""
    shape = d.shape(1, size=80)
    axis = d.axis(len(shape))
    count, dtype = d.integer(1, shape[axis]), d.of(*INDEX_TYPES)
    places = np.argsort(d.rng.random(shape), axis).take(range(count), axis)
    indices = Operand(TensorType(dtype, places.shape), from_the_end(d, places, shape[axis], dtype))
    return d.case(ScatterElements(axis), d.operand(shape), indices, d.operand(places.shape))


@strategy_for(ScatterNd)
def scatter_nd(d: Draw) -> Case:
    """Distinct places; their shape has one or two axes."""
    shape = d.shape(1, size=80)
    count, dtype = d.integer(1, len(shape)), d.of(*INDEX_TYPES)
    space = math.prod(shape[:count])
    n = d.integer(1, min(8, space))
    lead = (n,) if n % 2 or d.flag() or len(shape) - count + 2 > MAX_RANK else (2, n // 2)
    flat = d.rng.permutation(space)[:n].reshape(lead)
    places = np.stack(np.unravel_index(flat, shape[:count]), -1)
    indices = Operand(
        TensorType(dtype, places.shape), from_the_end(d, places, np.array(shape[:count], np.int64), dtype)
    )
    return d.case(ScatterNd(), d.operand(shape), indices, d.operand((*lead, *shape[count:])))


@strategy_for(UpdateSlice)
def update_slice(d: Draw) -> Case:
    shape = d.shape(1, size=80)
    axis, circular = d.axis(len(shape)), d.flag()
    count = d.integer(1, shape[axis])
    places = shape[axis] if circular else shape[axis] - count + 1
    starts = d.indices(shape[:1] if axis and d.flag() else (), places, d.of(*INDEX_TYPES))
    updates = d.operand((*shape[:axis], count, *shape[axis + 1 :]))
    return d.case(UpdateSlice(axis, circular), d.operand(shape), starts, updates)


# Quantisation --------------------------------------------------------------------------------------------------------


def blocks(d: Draw) -> tuple[Shape, Shape]:
    """The shape of an input and that of its scales, whose extents divide it."""
    shape = d.shape(size=160)
    return shape, tuple(d.of(*(b for b in range(1, e + 1) if e % b == 0)) for e in shape)


@strategy_for(QuantizeLinear)
def quantize_linear(d: Draw) -> Case:
    """Scales are powers of two: elsewhere the rounding of the division decides on which side of a tie a result is."""
    shape, block = blocks(d)
    dtype = d.of(*sorted(INTEGERS, key=lambda t: t.value))
    scale = d.operand(block)
    scale = Operand(scale.type, np.asarray(2.0 ** d.rng.integers(-3, 3, block)).astype(scale.array.dtype))
    zero_point = d.small(block, dtype)
    op = QuantizeLinear(dtype if dtype.bits == 4 else d.of(None, dtype, dtype))
    return d.case(op, d.operand(shape, domain=d.of((-4.0, 4.0), (-300.0, 300.0))), scale, zero_point)


@strategy_for(DequantizeLinear)
def dequantize_linear(d: Draw) -> Case:
    """Numbers that float32 holds, in which the op computes."""
    shape, block = blocks(d)
    scale = d.operand(block, d.of(*sorted(FLOATS, key=lambda t: t.value)), domain=(0.1, 2.0))
    return d.case(DequantizeLinear(), d.small(shape, d.dtype), scale, d.small(block, d.dtype))


# Recurrent networks --------------------------------------------------------------------------------------------------


def gates(d: Draw, cls: type[Recurrent]) -> dict[str, object]:
    """The options that all four have."""
    activations = tuple(d.of(*ACTIVATIONS) for _ in range(cls.activation_count))
    out = {"hidden_size": d.of(1, 2, 3, 4, 5, 8), "layout": d.of(*cls.layouts), "activations": activations}
    return out | ({"reset_after": d.flag()} if cls in (Gru, GruCell) else {})


@strategy_for(GruCell, LstmCell, Gru, Lstm)
def recurrent(d: Draw) -> Case:
    """Weights are small, as the operands of a step are the results of another; absent operands in all combinations."""
    assert issubclass(d.cls, Recurrent)
    options, batch, width = gates(d, d.cls), d.of(1, 2, 3, 4), d.of(1, 2, 3, 4, 7)
    cell = d.cls in (GruCell, LstmCell)
    if not cell:
        options |= {"steps": d.of(1, 2, 2, 3), "return_sequence": d.flag(), "direction": d.of(*DIRECTIONS)}
    op = d.cls(**options)
    hidden, rows = op.hidden_size, len(op.layout) * op.hidden_size
    lead = () if cell else (op.directions,)
    shapes = {
        "weight": (rows, width),
        "recurrent_weight": (rows, hidden),
        "bias": (rows,),
        "recurrent_bias": (rows,),
        "peephole_weight": (3 * hidden,),
    }
    x = (batch, width) if cell else (options["steps"], batch, width)
    operands = [d.operand(x, domain=(-1.0, 1.0))]
    for name in op.operands[1:]:
        shape = (*lead, *shapes.get(name.rstrip("?"), (batch, hidden)))
        present = not name.endswith("?") or d.flag()
        operands.append(d.operand(shape, domain=(-0.5, 0.5)) if present else None)
    return d.case(op, *operands)
