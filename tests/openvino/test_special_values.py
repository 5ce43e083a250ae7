"""NaN, infinities and zeros through every op on OpenVINO's CPU: the cases of `tests/gpu/test_special_values.py`.

What its kernels do otherwise is listed, and must differ: an op that has learnt it has to leave the list. Replacing
these kernels would cost every network its speed: a relu that keeps NaN is a comparison and a choice.
"""

from __future__ import annotations

import pytest

import gpucompile
from gpucompile.ir.interpret import interpret
from gpucompile.ops.categories import Elementwise, Movement
from tests.gpu.test_special_values import ANY_ZERO, problems, runs
from tests.openvino.test_ops import NOT_LOWERED
from tests.support import OPS

NAN = "x86's maximum and minimum give their second operand where one is NaN, so that NaN may be lost"
#: What differs by op, and why.
DIFFERENT = {
    **dict.fromkeys(
        ("clamp", "hard_sigmoid", "max", "min", "relu", "max_pool2d", "reduce_max", "reduce_min", "softmax"), NAN
    ),
    "arg_max": "NaN is not preferred to numbers",
    "arg_min": "NaN is not preferred to numbers",
    "batch_normalization": "the mean becomes a part of the bias, so that a difference is one of large numbers",
    "conv2d": "padding is not multiplied by weights: 0 * inf would be NaN",
    "elu": "the sign of -0 is lost",
    "exp": "NaN becomes infinite",
    "gelu": "inf * 0 of its formula is NaN, and the largest number becomes infinite",
    "quantize_linear": "NaN becomes the smallest number",
    "reduce_log_sum_exp": "its maximum loses NaN",
    "resample2d": "neighbours of weight 0 take part: 0 * inf is NaN",
}
#: Quick ones.
SAMPLES = ("greater", "cast", "sign", "max", "where")


def different(name: str) -> bool:
    signs = issubclass(OPS[name], (Elementwise, Movement)) and name not in ANY_ZERO
    for graph, feeds in runs(name):
        with gpucompile.load(gpucompile.compile(graph, devices=("cpu",)), "cpu") as run:
            for operands in feeds:
                got = run.run(operands)
                if any(problems(name, got[key], want, signs).any() for key, want in interpret(graph, operands).items()):
                    return True
    return False


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in SAMPLES else pytest.mark.slow) for n in OPS if n not in NOT_LOWERED]
)
def test_special_values(name: str) -> None:
    assert different(name) == (name in DIFFERENT), DIFFERENT.get(name, "a special value comes out as another")
