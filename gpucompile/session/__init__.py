"""ONNX Runtime's API over gpucompile: `InferenceSession`, tensors that may stay on the GPU, IO binding.

session = gpucompile.InferenceSession("model.onnx", providers=["webgpu"], preferred_output_location="gpu-buffer")
(y,) = session.run(None, {"x": gpucompile.Tensor.from_gpu_buffer(buffer, dtype="float32", dims=[1, 3, 224, 224])})
array = y.numpy()
y.dispose()
"""

from gpucompile.session.binding import IOBinding
from gpucompile.session.environment import get_all_providers, get_available_providers, get_device
from gpucompile.session.options import (
    ExecutionMode,
    GraphOptimizationLevel,
    RunOptions,
    SessionOptions,
    set_default_logger_severity,
)
from gpucompile.session.ortvalue import OrtValue
from gpucompile.session.session import InferenceSession, ModelMetadata, NodeArg
from gpucompile.session.tensor import Tensor

__all__ = [
    "ExecutionMode",
    "GraphOptimizationLevel",
    "IOBinding",
    "InferenceSession",
    "ModelMetadata",
    "NodeArg",
    "OrtValue",
    "RunOptions",
    "SessionOptions",
    "Tensor",
    "get_all_providers",
    "get_available_providers",
    "get_device",
    "set_default_logger_severity",
]
