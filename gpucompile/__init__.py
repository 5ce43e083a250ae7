"""gpucompile: compiles neural networks to WebGPU.

    bundle = gpucompile.compile("model.onnx")      # ahead of time
    bundle.save("model.gpub")
    with gpucompile.load("model.gpub") as run:     # anywhere with WebGPU
        y = run(x)

The public names are imported when first used: a program that only loads bundles never imports the compiler.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpucompile.compiler import compile
    from gpucompile.dynamic import DynamicExecutable, compile_dynamic
    from gpucompile.errors import (
        BundleError,
        ClosedError,
        ConstraintError,
        DeviceError,
        DeviceLost,
        FallbackError,
        GpucompileError,
        GpucompileWarning,
        InputError,
        ModelError,
        ParseError,
        PassError,
        PrecisionWarning,
        TypeInferenceError,
        UnsupportedError,
        VerificationError,
    )
    from gpucompile.plan.bundle import Bundle, Report
    from gpucompile.plan.partitioned import PartitionedBundle
    from gpucompile.runtime.buckets import BucketExecutable
    from gpucompile.runtime.device import Device
    from gpucompile.runtime.executable import Executable
    from gpucompile.runtime.loading import load
    from gpucompile.runtime.openvino import OpenvinoDevice, OpenvinoExecutable, OpenvinoOptions
    from gpucompile.session import (
        ExecutionMode,
        GraphOptimizationLevel,
        InferenceSession,
        IOBinding,
        ModelMetadata,
        NodeArg,
        OrtValue,
        RunOptions,
        SessionOptions,
        Tensor,
        get_all_providers,
        get_available_providers,
        get_device,
        set_default_logger_severity,
    )
    from gpucompile.target import Target

__version__ = "0.1.0"

__all__ = [
    "BucketExecutable",
    "Bundle",
    "BundleError",
    "ClosedError",
    "ConstraintError",
    "Device",
    "DeviceError",
    "DeviceLost",
    "DynamicExecutable",
    "Executable",
    "ExecutionMode",
    "FallbackError",
    "GpucompileError",
    "GpucompileWarning",
    "GraphOptimizationLevel",
    "IOBinding",
    "InferenceSession",
    "InputError",
    "ModelError",
    "ModelMetadata",
    "NodeArg",
    "OpenvinoDevice",
    "OpenvinoExecutable",
    "OpenvinoOptions",
    "OrtValue",
    "ParseError",
    "PartitionedBundle",
    "PassError",
    "PrecisionWarning",
    "Report",
    "RunOptions",
    "SessionOptions",
    "Target",
    "Tensor",
    "TypeInferenceError",
    "UnsupportedError",
    "VerificationError",
    "compile",
    "compile_dynamic",
    "get_all_providers",
    "get_available_providers",
    "get_device",
    "load",
    "set_default_logger_severity",
]

_HOMES = {
    "BucketExecutable": "runtime.buckets",
    "Bundle": "plan.bundle",
    "Device": "runtime.device",
    "DynamicExecutable": "dynamic",
    "Executable": "runtime.executable",
    "IOBinding": "session",
    "InferenceSession": "session",
    "OpenvinoDevice": "runtime.openvino",
    "OpenvinoExecutable": "runtime.openvino",
    "OpenvinoOptions": "runtime.openvino",
    "PartitionedBundle": "plan.partitioned",
    "Report": "plan.bundle",
    "SessionOptions": "session",
    "Tensor": "session",
    "Target": "target",
    "compile": "compiler",
    "compile_dynamic": "dynamic",
    "load": "runtime.loading",
    "ExecutionMode": "session",
    "GraphOptimizationLevel": "session",
    "ModelMetadata": "session",
    "NodeArg": "session",
    "OrtValue": "session",
    "RunOptions": "session",
    "get_all_providers": "session",
    "get_available_providers": "session",
    "get_device": "session",
    "set_default_logger_severity": "session",
}


def __getattr__(name: str) -> Any:
    if name == "capi":  # where ONNX Runtime's programs look for its exceptions
        return importlib.import_module("gpucompile.capi")
    if name not in __all__:
        raise AttributeError(f"module 'gpucompile' has no attribute {name!r}")
    return getattr(importlib.import_module(f"gpucompile.{_HOMES.get(name, 'errors')}"), name)
