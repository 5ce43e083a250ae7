"""What is known not to pass: suite -> reason -> file -> tests. It must shrink: a test that passes has to leave it."""

from __future__ import annotations

GAPS: dict[str, dict[str, dict[str, tuple[str, ...]]]] = {
    "validation": {
        "the specification lets groups be no divisor of the input channels": {
            "convTranspose2d": ("[convTranspose2d] Test with padding=1, groups=3. #1",),
        },
    },
    "conformance": {
        "fold-batchnorm rounds scale and shift of float16 to float16: a few ULP beyond the tolerance": {
            "batch_normalization": (
                "batchNormalization float16 3D tensor default options",
                "batchNormalization float16 4D tensor default options",
                "batchNormalization float16 5D tensor default options",
                "batchNormalization float16 4D NCHW tensor options.axis=1",
                "batchNormalization float16 4D NHWC tensor options.axis=3",
                "batchNormalization float16 4D NCHW tensor options.scale",
            ),
        },
    },
}
