"""Ops and data types that OpenVINO lacks, in terms of what it has.

    reduce_log_sum_exp(x)                 -> log(sum(exp(x - m))) + m, m = max(x)
    batch_normalization(x, m, v, s, b)    -> (x - m) * (s / sqrt(v + epsilon)) + b
    reductions of nothing                 -> elementwise

Linear time.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpucompile.ir.graph import Graph
from gpucompile.ops.categories import Reduction
from gpucompile.ops.normalize import BatchNormalization
from gpucompile.ops.reduction import ReduceLogSumExp
from gpucompile.passes._rewrite import Rules, rewrite
from gpucompile.passes.legalize import batch_norm, log_sum_exp, reduction_of_nothing
from gpucompile.passmanager.base import Context, Pass


@dataclass(frozen=True)
class LegalizeOpenvino(Pass):
    """ops and data types that OpenVINO lacks -> those it has"""

    def run(self, graph: Graph, ctx: Context) -> bool:
        return rewrite(graph, RULES, ctx)


RULES: Rules = {
    Reduction: (reduction_of_nothing,),
    ReduceLogSumExp: (reduction_of_nothing, log_sum_exp),
    BatchNormalization: (batch_norm,),
}
