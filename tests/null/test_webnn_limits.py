"""`op_support_limits` against the tables of the specification, which `tests/wpt/operand_types.json` holds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpucompile.ir.op import NIBBLES
from gpucompile.ir.types import DataType
from gpucompile.webnn import MLContext
from gpucompile.webnn.limits import op_support_limits, operator_limits
from gpucompile.webnn.operators import OPERATORS, op_class
from gpucompile.webnn.validation import DATA_TYPES
from tests.wpt import suite

SPECIFIED: dict[str, dict[str, Any]] = json.loads((suite.HERE / "operand_types.json").read_text())

#: Where the specification's table and its algorithm differ, the class follows the algorithm.
SLIPS = {
    ("is_nan", "a"): {"data_types": ["float32", "float16"]},
    ("is_infinite", "a"): {"data_types": ["float32", "float16"]},
    ("gather", "output"): {"rank_range": [0, 8]},  # a scalar index takes an element out of a vector
}


def test_operators_are_the_specifications() -> None:
    assert set(SPECIFIED) == {*OPERATORS, "split"}


@pytest.mark.parametrize("name", [n for n in SPECIFIED if n == "split" or op_class(n) is not None])
def test_limits_are_the_specifications(name: str) -> None:
    found = {}  # without 4-bit types, which the specification does not have
    for operand, limits in operator_limits(name).items():
        types = [d.value for d in DATA_TYPES if d in limits.data_types - NIBBLES]
        found[operand] = {"data_types": types, "rank_range": [limits.lowest, limits.highest]}
    wanted = {operand: row | SLIPS.get((name, operand), {}) for operand, row in SPECIFIED[name].items()}
    assert found == wanted


def test_slips_are_still_needed() -> None:
    for (name, operand), change in SLIPS.items():
        assert SPECIFIED[name][operand] != SPECIFIED[name][operand] | change


def test_structure() -> None:
    limits = op_support_limits(frozenset({DataType.FLOAT32, DataType.INT32}), 1 << 20)
    top = {"preferred_input_layout", "max_tensor_byte_length", "input", "constant", "output"}
    assert set(limits) == top | {n for n in SPECIFIED if n == "split" or op_class(n) is not None}
    assert (limits["preferred_input_layout"], limits["max_tensor_byte_length"]) == ("nchw", 1 << 20)
    whole = {"data_types": ["float32", "int32"], "rank_range": {"min": 0, "max": 8}}
    assert limits["input"] == limits["constant"] == limits["output"] == whole
    assert limits["arg_max"]["output"] == {"data_types": ["int32"], "rank_range": {"min": 0, "max": 8}}
    assert limits["matmul"]["b"] == {"data_types": ["float32"], "rank_range": {"min": 2, "max": 8}}
    json.dumps(limits)


def test_a_contexts_limits_are_what_build_takes(device: Any) -> None:
    from gpucompile.webnn import ML, MLGraphBuilder

    with ML().create_context(gpu_device=device) as context:
        for dtype in context.op_support_limits()["identity"]["input"]["data_types"]:
            builder = MLGraphBuilder(context)
            graph = builder.build({"y": builder.identity(builder.input("x", dtype, [2]))})
            assert graph.outputs["y"].data_type == dtype
        assert isinstance(context, MLContext)
