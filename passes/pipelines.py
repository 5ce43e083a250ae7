"""The named pipelines: lists of phases, each a list of passes.

    simplify    recurrent networks step by step, one normal form, constants evaluated, duplicates merged
    normalise   batch normalisation and its like move into the weights before them
    parts       results too large for a binding are computed in parts
    layout      activations channels-last, weights in the kernels' order; the weights' transposes are evaluated
    tidy        what the layout left: transposes cancel, become views or move into weights; concats
                share their beginnings
    target      weights too large for a binding are cut, small 64-bit integers become int32, ops without a kernel taken
                apart, long reductions split, float16 emulated where it must be, dead code removed
    fuse        one node becomes one kernel
    openvino    ops and data types that OpenVINO lacks by those it has; layout and fusion are its own business

`default` is what `compile` runs; `no-fuse` is the same with one kernel an op; `none` is the least that compiles.
`openvino-cpu` and `openvino-npu` are for OpenVINO's devices. The CPU gets 64-bit integers in two words, the NPU as
int32, for which its inputs are checked; and the NPU computes in float16.
"""

from __future__ import annotations

PHASES: dict[str, str] = {
    "simplify": "unroll,canonicalize,fold-constants,canonicalize,cse",
    "normalise": "fold-batchnorm",
    "parts": "split-activations",
    "layout": "layout,fold-constants",
    "tidy": "canonicalize,simplify-movement,fold-constants,canonicalize,cse,share-concats",
    "target": "dce,split-large,narrow-int64,legalize,split-reductions,emulate-f16,dce",
    "fuse": "fuse",
    "openvino": "legalize-openvino,fold-constants{max_widened=0},cse,dce",
}

#: OpenVINO computes in 8 bits where it finds 8-bit weights before a dequantisation, so those are not evaluated.
_FOR_OPENVINO = f"{PHASES['simplify']},{PHASES['normalise']}".replace("fold-constants", "fold-constants{max_widened=0}")

_UNFUSED = ",".join(PHASES[phase] for phase in ("simplify", "normalise", "parts", "layout", "tidy", "target"))

PIPELINES: dict[str, str] = {
    "default": f"{_UNFUSED},{PHASES['fuse']}",
    "no-fuse": _UNFUSED,
    "none": "unroll,fold-constants,split-activations," + PHASES["target"],
    "openvino-cpu": f"{_FOR_OPENVINO},dce,narrow-int64,split-int64,{PHASES['openvino']}",
    "openvino-npu": f"{_FOR_OPENVINO},precision,dce,narrow-int64{{int32_inputs=true}},{PHASES['openvino']}",
}
