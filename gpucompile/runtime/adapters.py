"""Adapters: which ones there are, which can be used, which comes first.

OpenGL adapters are never chosen: they exist wherever Vulkan is missing and fail late.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from gpucompile.errors import DeviceError
from gpucompile.runtime.startup import prepare

NATIVE_NAMES = {"subgroup": "subgroups"}  # wgpu-native's name -> WebGPU's
_BACKENDS = {"linux": ("Vulkan",), "darwin": ("Metal",), "win32": ("D3D12", "Vulkan"), "emscripten": ("WebGPU",)}
_TYPES = ("DiscreteGPU", "IntegratedGPU", "Unknown", "CPU")  # best first


@dataclass(frozen=True)
class AdapterInfo:
    """One adapter as `list_adapters` found it; `usable` says whether `Device.open` would take it."""

    implementation: str
    name: str
    backend: str
    type: str
    driver: str
    features: tuple[str, ...]
    limits: dict[str, int]
    usable: bool


def list_adapters(implementation: str | ModuleType | None = None) -> list[AdapterInfo]:
    """All adapters of an implementation (default `wgpu`), best first; unusable ones are last."""
    api = api_of(implementation)
    found = []
    for adapter in _adapters(api):
        info = adapter.info
        found.append(
            AdapterInfo(
                implementation=implementation_of(adapter),
                name=name_of(adapter),
                backend=str(info["backend_type"]),
                type=str(info["adapter_type"]),
                driver=str(info["description"]),
                features=tuple(sorted(webgpu_names(adapter.features))),
                limits=dict(adapter.limits),
                usable=_usable(adapter),
            )
        )
    return found


def api_of(implementation: str | ModuleType | None) -> ModuleType:
    if isinstance(implementation, ModuleType):
        return implementation
    name = implementation or "wgpu"
    try:
        api = importlib.import_module(name)
    except ImportError as e:
        raise DeviceError(f"the WebGPU implementation {name!r} cannot be imported: {e}. Try: pip install {name}") from e
    prepare(api)
    return api


def implementation_of(adapter: Any) -> str:
    return str(type(adapter).__module__).split(".")[0]


def name_of(adapter: Any) -> str:
    info = adapter.info
    return str(info["device"] or info["description"] or info["vendor"] or "unnamed adapter")


def webgpu_names(features: Iterable[str]) -> list[str]:
    return [NATIVE_NAMES.get(f, f) for f in features]


def _forced() -> bool:
    return bool(os.environ.get("WGPU_BACKEND_TYPE", "").strip())  # read by wgpu-py itself, for tests


def _usable(adapter: Any) -> bool:
    return _forced() or adapter.info["backend_type"] in _BACKENDS.get(sys.platform, ("Vulkan",))


def _rank(adapter: Any, low_power: bool = False) -> tuple[bool, int]:
    kinds = ("IntegratedGPU", *(t for t in _TYPES if t != "IntegratedGPU")) if low_power else _TYPES
    kind = adapter.info["adapter_type"]
    return not _usable(adapter), kinds.index(kind if kind in kinds else "Unknown")


def _adapters(api: ModuleType) -> list[Any]:
    gpu: Any = api.gpu
    try:
        found = [gpu.request_adapter_sync()] if _forced() else list(gpu.enumerate_adapters_sync())
    except Exception as e:
        raise DeviceError(f"{api.__name__} finds no adapter: {e}") from e
    return sorted((a for a in found if a is not None), key=_rank)


def choose_adapter(api: ModuleType, power_preference: str, prefer: str | None) -> Any:
    if power_preference not in ("high-performance", "low-power"):
        raise DeviceError(f"power_preference must be high-performance or low-power, not {power_preference!r}")
    found = _adapters(api)
    good = [a for a in found if _usable(a)]
    if prefer in ("hardware", "software"):
        good = [a for a in good if (a.info["adapter_type"] == "CPU") == (prefer == "software")]
    elif prefer is not None:
        good = [a for a in good if prefer.lower() in f"{name_of(a)} {a.info['vendor']}".lower()]
    if not good:
        what = f"adapter matching {prefer!r}" if prefer else "usable adapter"
        seen = ", ".join(f"{name_of(a)} ({a.info['backend_type']})" for a in found) or "none at all"
        hint = " Install a Vulkan driver (a software one: mesa-vulkan-drivers)." if sys.platform == "linux" else ""
        raise DeviceError(f"no {what} found through {api.__name__}; there is {seen}.{hint}")
    return min(good, key=lambda a: _rank(a, power_preference == "low-power"))
