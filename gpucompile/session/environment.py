"""ONNX Runtime's questions about the machine."""

from __future__ import annotations

from gpucompile.runtime import openvino
from gpucompile.runtime.adapters import list_adapters

_GPU = ["WebGpuExecutionProvider", "WebNNExecutionProvider"]
_CPU = "CPUExecutionProvider"


def get_all_providers() -> list[str]:
    """ONNX Runtime's names of the providers that sessions take."""
    return [*_GPU, _CPU]


def get_available_providers() -> list[str]:
    """Those of them that this machine has, in order of preference: WebGPU and WebNN with an adapter (a software one, or
    WebNN with an NPU, counts), the CPU with OpenVINO."""
    kinds = {d.kind for d in openvino.list_devices()}
    has_gpu = any(a.usable for a in list_adapters())
    out = list(_GPU) if has_gpu else []
    if not has_gpu and "npu" in kinds:
        out.append("WebNNExecutionProvider")
    return [*out, _CPU] if "cpu" in kinds else out


def get_device() -> str:
    """ "GPU" where there is a WebGPU adapter, else "CPU"."""
    return "GPU" if any(a.usable for a in list_adapters()) else "CPU"
