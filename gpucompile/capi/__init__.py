"""Where ONNX Runtime's programs look for its exceptions: `ort.capi.onnxruntime_pybind11_state.InvalidArgument`."""

from gpucompile.capi import onnxruntime_pybind11_state

__all__ = ["onnxruntime_pybind11_state"]
