"""The specification's operators: positional parameters, in its order. Everything else follows from the op classes.

Options are a class's remaining fields and optional operands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from inspect import Parameter, Signature
from typing import Any

from gpucompile import ops
from gpucompile.ir.op import Op
from gpucompile.ir.types import DataType, TensorType

_PARAMETERS = {
    "input": """abs arg_min,axis arg_max,axis average_pool2d batch_normalization,mean,variance cast,to ceil clamp
        conv2d,filter conv_transpose2d,filter cos cumulative_sum,axis dequantize_linear,scale,zero_point elu erf exp
        expand,new_shape floor gather,indices gather_elements,indices gather_nd,indices gelu
        gru,weight,recurrent_weight,steps,hidden_size gru_cell,weight,recurrent_weight,hidden_state,hidden_size
        hard_sigmoid hard_swish identity instance_normalization l2_pool2d layer_normalization leaky_relu linear log
        lstm,weight,recurrent_weight,steps,hidden_size
        lstm_cell,weight,recurrent_weight,hidden_state,cell_state,hidden_size max_pool2d neg pad,beginning,ending
        prelu,slope quantize_linear,scale,zero_point reciprocal reduce_l1 reduce_l2 reduce_log_sum reduce_log_sum_exp
        reduce_max reduce_mean reduce_min reduce_product reduce_sum reduce_sum_square relu resample2d reshape,new_shape
        reverse round_even scatter_elements,indices,updates scatter_nd,indices,updates sigmoid sign sin
        slice,starts,sizes softmax,axis softplus softsign sqrt tan tanh tile,repetitions transpose triangular""",
    "inputs": "concat,axis",
    "a": """add,b sub,b mul,b div,b max,b min,b pow,b equal,b not_equal,b greater,b greater_or_equal,b lesser,b
        lesser_or_equal,b logical_and,b logical_or,b logical_xor,b logical_not is_nan is_infinite matmul,b gemm,b""",
    "condition": "where,true_value,false_value",
}

#: Operator -> the names of its positional parameters. `split` is several slices, so it is not here.
OPERATORS: dict[str, tuple[str, ...]] = {
    name: (first, *rest)
    for first, text in _PARAMETERS.items()
    for name, *rest in (entry.split(",") for entry in text.split())
}

#: The specification's names of parameters that the op classes call differently.
ALIASES = {
    "cast": {"data_type": "to"},
    "pad": {"beginning_padding": "beginning", "ending_padding": "ending"},
}

#: Options of type MLNumber; every other number is a `double`, which must be finite.
UNRESTRICTED = {("clamp", "min_value"), ("clamp", "max_value"), ("pad", "value")}

#: Operators that return a list of operands, be it of one.
SEQUENCES = frozenset({"gru", "lstm", "lstm_cell"})

_POOLS = ("average_pool2d", "l2_pool2d", "max_pool2d")


def op_class(name: str) -> type[Op]:
    """The class of an operator."""
    return ops.OPS[name]


def extra_options(name: str) -> dict[str, Any]:
    """Options that no field stands for, with their defaults."""
    return {"output_shape_rounding": "floor"} if name in _POOLS else {}


def signature(name: str) -> Signature:
    """How the builder's method is called, after `self`: its positional parameters, then options with their defaults."""
    options: dict[str, Any]
    if name == "split":
        names, options = ["input", "splits"], {"axis": 0}
    else:
        cls, positional = op_class(name), OPERATORS[name]
        specified = {ours: theirs for theirs, ours in ALIASES.get(name, {}).items()}
        names = [specified.get(p, p) for p in positional]
        options = {key: None for o in cls.operands if o.endswith("?") and (key := o.rstrip("?")) not in positional}
        for f in fields(cls):
            if f.name not in positional:
                value = f.default.value if isinstance(f.default, DataType) else f.default
                options[specified.get(f.name, f.name)] = value
        options |= extra_options(name)
    return Signature(
        [Parameter(n, Parameter.POSITIONAL_OR_KEYWORD) for n in names]
        + [Parameter(n, Parameter.KEYWORD_ONLY, default=value) for n, value in options.items()]
    )


def complete(name: str, cls: type[Op], types: Sequence[TensorType | None], given: dict[str, Any]) -> Op:
    """The op with the given attributes, and with the defaults that depend on operand types."""
    if name == "transpose" and "permutation" not in given and types[0] is not None:
        given["permutation"] = tuple(reversed(range(types[0].rank)))
    if name == "quantize_linear" and "output_data_type" not in given and types[2] is not None:
        given["output_data_type"] = types[2].dtype
    if name == "clamp":  # a bound that is NaN does not bound
        given = {k: v for k, v in given.items() if v == v}
    if name in _POOLS:
        rounding = given.pop("output_shape_rounding", "floor")
        op = cls(**given)
        if rounding not in ("floor", "ceil"):
            op.fail(tuple(types), f"unknown output_shape_rounding {rounding!r}")
        if rounding == "floor" or "output_sizes" in given or types[0] is None or types[0].rank != 4:
            return op
        return cls(**given | {"output_sizes": _rounded_up(op, types[0])})
    return cls(**given)


def _rounded_up(op: Any, input: TensorType) -> tuple[int, int]:
    """The output sizes of a pooling under "ceil"."""
    op.check(input)
    op.geometry(input)  # refuses what has no result at all
    height, width = (input.shape[op.layout.index(axis)] for axis in "hw")
    window = op.window_dimensions or (height, width)
    sizes = []
    for axis, extent in enumerate((height, width)):
        covered = (window[axis] - 1) * op.dilations[axis] + 1
        room = extent + op.padding[2 * axis] + op.padding[2 * axis + 1] - covered
        sizes.append(math.ceil(room / op.strides[axis]) + 1)
    return sizes[0], sizes[1]
