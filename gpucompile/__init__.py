"""gpucompile: compiles neural networks to WebGPU.

bundle = gpucompile.compile("model.onnx")      # ahead of time
bundle.save("model.gpub")
with gpucompile.load("model.gpub") as run:     # anywhere with WebGPU
    y = run(x)
"""

from gpucompile.compile import compile
from gpucompile.errors import (
    BundleError,
    ClosedError,
    DeviceError,
    DeviceLost,
    GpucompileError,
    InputError,
    ModelError,
    ParseError,
    PassError,
    TypeInferenceError,
    UnsupportedError,
    VerificationError,
)
from gpucompile.plan.bundle import Bundle, Report
from gpucompile.runtime.device import Device
from gpucompile.runtime.executable import Executable, load
from gpucompile.target import Target

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "BundleError",
    "ClosedError",
    "Device",
    "DeviceError",
    "DeviceLost",
    "Executable",
    "GpucompileError",
    "InputError",
    "ModelError",
    "ParseError",
    "PassError",
    "Report",
    "Target",
    "TypeInferenceError",
    "UnsupportedError",
    "VerificationError",
    "compile",
    "load",
]
