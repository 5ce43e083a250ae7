"""Ops whose results are known at import: constants, shapes, ranges; and those that change nothing."""

from __future__ import annotations

import math

import numpy as np

from gpucompile.errors import ModelError
from gpucompile.frontends.onnx.call import FOLD_LIMIT, Anything, Call, Operand, onnx_op
from gpucompile.ir.graph import Literal
from gpucompile.ops.movement import Expand


@onnx_op("Identity", "MemcpyFromHost", "MemcpyToHost")  # ONNX Runtime's copies in models that it has optimised
def identity(call: Call) -> Anything:
    return call.present(0)


@onnx_op("Dropout")
def dropout(call: Call) -> tuple[Operand | None, ...]:
    """Nothing is dropped in inference, nor with the ratio 0; the mask is all ones."""
    if call.has(2) and call.array(2, "training_mode").any() and (not call.has(1) or call.array(1, "ratio").any()):
        call.unsupported("training mode: results would be random")
    mask = None
    if any(call.wanted[1:]):
        call.limit(*call.type().shape)
        mask = np.ones(call.type().shape, np.uint8)
    return (call.operand(0), mask)[: len(call.node.output)]


@onnx_op("Constant")
def constant(call: Call) -> Operand:
    for name, dtype in (("value_float", np.float32), ("value_floats", np.float32)):
        if name in call.attributes:
            return np.array(call.attr(name), dtype)
    for name in ("value_int", "value_ints"):
        if name in call.attributes:
            return np.array(call.attr(name), np.int64)
    value = call.attr("value")
    if isinstance(value, Literal):
        return call.builder.graph.constant(value)
    if isinstance(value, np.ndarray):
        return call.builder.mark(value, next(a.t.data_type for a in call.node.attribute if a.name == "value"))
    call.unsupported(f"a constant given by {', '.join(call.attributes) or 'nothing'}")


@onnx_op("ConstantOfShape")
def constant_of_shape(call: Call) -> Operand:
    shape = call.ints(0, "shape") or []
    if min(shape, default=0) < 0:
        raise ModelError(f"a negative dimension in {shape}")
    value = call.attr("value", np.zeros(1, np.float32))
    if isinstance(value, Literal):
        call.unsupported(f"a constant of {value.type.dtype.value}")
    one = value.reshape(())
    if math.prod(shape) > FOLD_LIMIT:  # a kernel's loads make it, no memory
        return call.builder.graph.add(Expand(tuple(shape)), call.builder.value(one))
    return np.broadcast_to(one, shape)


@onnx_op("Shape")
def shape(call: Call) -> Operand:
    dims = call.type().shape
    return np.array(dims[call.attr("start", 0) : call.attr("end", len(dims))], np.int64)


@onnx_op("Size")
def size(call: Call) -> Operand:
    return np.array(call.type().size, np.int64)


@onnx_op("Range")
def range_(call: Call) -> Operand:
    start, limit, delta = (call.array(i, n).reshape(()) for i, n in enumerate(("start", "limit", "delta")))
    if not delta:
        raise ModelError("delta is 0")
    count = max(0, math.ceil((limit - start) / delta))
    call.limit(count, arrays=3)
    return np.asarray(start + np.arange(count) * delta).astype(start.dtype)
