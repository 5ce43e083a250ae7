"""The named pipelines: lists of phases, each a list of passes.

    simplify    recurrent networks step by step, one normal form, constants evaluated, duplicates merged
    normalise   batch normalisation and its like move into the weights before them
    layout      activations channels-last, weights in the kernels' order; the weights' transposes are evaluated
    tidy        what the layout left: transposes cancel, become views or move into weights; concats
                share their beginnings
    target      weights too large for a binding are cut, small 64-bit integers become int32, ops without a kernel taken
                apart, long reductions split, float16 emulated where it must be, dead code removed
    fuse        one node becomes one kernel

`default` is what `compile` runs; `no-fuse` is the same with one kernel an op; `none` is the least that compiles.
"""

from __future__ import annotations

PHASES: dict[str, str] = {
    "simplify": "unroll,canonicalize,fold-constants,canonicalize,cse",
    "normalise": "fold-batchnorm",
    "layout": "layout,fold-constants",
    "tidy": "canonicalize,simplify-movement,fold-constants,canonicalize,cse,share-concats",
    "target": "dce,split-large,narrow-int64,legalize,split-reductions,emulate-f16,dce",
    "fuse": "fuse",
}

PIPELINES: dict[str, str] = {
    "default": ",".join(PHASES.values()),
    "no-fuse": ",".join(text for phase, text in PHASES.items() if phase != "fuse"),
    "none": "unroll,fold-constants," + PHASES["target"],
}
