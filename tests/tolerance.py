"""One table of tolerances for comparing a device's results with the numpy oracle, by data type and op.

A result passes when |got - want| <= absolute + relative * |want| everywhere; integers must be equal. Contractions are
compared relative to the largest value, as their rounding grows with the terms, not with the sum.
"""

from __future__ import annotations

import numpy as np

#: (relative, absolute) by data type for ops that round once.
BY_TYPE = {"float32": (2e-6, 1e-30), "float16": (2e-3, 1e-6)}

#: (relative, absolute) in float32 for ops that a GPU computes less exactly (WGSL section 15.7.4 allows far more).
BY_OP = {
    "exp": (2e-5, 1e-30),
    "log": (1e-5, 2e-6),
    "pow": (1e-4, 1e-30),
    "tanh": (1e-5, 2e-6),
    **dict.fromkeys(("asin", "acos", "atan"), (2e-6, 3e-7)),
    **dict.fromkeys(("sinh", "cosh", "asinh", "acosh", "atanh"), (2e-5, 2e-6)),
    "sigmoid": (1e-5, 1e-7),
    "softplus": (1e-5, 2e-6),
    "erf": (1e-5, 2e-6),
    "gelu": (2e-5, 2e-6),
    "elu": (1e-5, 2e-6),
    "hard_sigmoid": (2e-6, 2e-7),  # alpha * x + beta, which may cancel
    "linear": (2e-6, 1e-6),
    "softmax": (2e-5, 1e-8),
    "lrn": (2e-5, 1e-7),
    "reduce_log_sum": (1e-5, 2e-6),
    "reduce_log_sum_exp": (1e-5, 2e-6),
    "reduce_product": (1e-5, 1e-30),
    "reduce_sum": (1e-5, 2e-5),
    "cumulative_sum": (1e-5, 2e-5),
    "resample2d": (5e-6, 1e-6),
    "reduce_mean": (1e-5, 1e-6),
    "average_pool2d": (1e-5, 1e-6),
    "l2_pool2d": (1e-5, 1e-6),
    "instance_normalization": (2e-5, 5e-6),
    "layer_normalization": (2e-5, 5e-6),
    "batch_normalization": (1e-5, 2e-6),
}

#: Ops compared with `relative * max|want|`.
CONTRACTIONS = {"matmul": 2e-6, "gemm": 2e-6, "conv2d": 2e-6, "conv_transpose2d": 2e-6, "fused": 1e-5}
CONTRACTIONS |= dict.fromkeys(("gru", "gru_cell", "lstm", "lstm_cell"), 1e-5)

#: The same in float16, where each of the ops rounds that these are written as.
ROUNDED_OFTEN = dict.fromkeys(("gru", "gru_cell", "lstm", "lstm_cell"), 1e-2)


def bounds(op: str, want: np.ndarray) -> tuple[float, float]:
    """The (relative, absolute) tolerance for results `want` of `op`."""
    relative, absolute = BY_TYPE[want.dtype.name]
    if want.dtype == np.float32 and op in BY_OP:
        relative, absolute = BY_OP[op]
    if op in CONTRACTIONS:
        finite = np.abs(want[np.isfinite(want)])
        part = ROUNDED_OFTEN.get(op, relative) if want.dtype == np.float16 else relative
        least = 0.3 if want.dtype == np.float16 and op in ROUNDED_OFTEN else 1e-30  # gates may nearly cancel
        relative, absolute = 0.0, max(CONTRACTIONS[op], part) * float(finite.max(initial=least))
    return relative, absolute


def near(op: str, got: np.ndarray, want: np.ndarray, absolute: float = 0.0) -> np.ndarray:
    """Where `got` is `want` within the tolerance, or within `absolute`."""
    relative, least = bounds(op, want)
    got, want = got.astype(np.float64), want.astype(np.float64)
    return np.asarray(np.abs(got - want) <= max(least, absolute) + relative * np.abs(want))


def check(op: str, got: np.ndarray, want: np.ndarray) -> None:
    """Assert that `got` is `want` within the table's tolerance for `op` and the data type."""
    assert got.shape == want.shape and got.dtype == want.dtype, (got.shape, got.dtype, want.shape, want.dtype)
    if want.dtype.kind != "f":
        np.testing.assert_array_equal(got, want)
        return
    relative, absolute = bounds(op, want)
    np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=relative, atol=absolute)
