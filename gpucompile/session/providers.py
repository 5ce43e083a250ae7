"""Who runs a session: ONNX Runtime's providers and their options -> one context, and who takes what it cannot run.

The first provider runs the model. `cpu` after it takes the nodes that the first one cannot, with a warning that names
them; nothing else falls back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpucompile.errors import InputError
from gpucompile.runtime.device import Device, default_device
from gpucompile.session.tensor import context_of
from gpucompile.webnn.context import ML, MLContext

#: Provider names, ours and ONNX Runtime's, in lower case -> ours.
PROVIDERS = {
    "webgpu": "webgpu", "webgpuexecutionprovider": "webgpu", "jsexecutionprovider": "webgpu",
    "webnn": "webnn", "webnnexecutionprovider": "webnn",
    "npu": "npu", "cpu": "cpu", "cpuexecutionprovider": "cpu", "wasm": "cpu", "openvinoexecutionprovider": "openvino",
}  # fmt: skip

#: What a provider's name says of the device, where no deviceType does.
_DEVICE_TYPES = {"webgpu": "gpu", "webnn": "gpu", "cpu": "cpu", "npu": "npu", "openvino": "cpu"}

_OPTIONS = (
    "device_type", "power_preference", "num_threads", "context", "device", "preferred_layout", "device_id", "cache_dir",
)  # fmt: skip
_POWER = ("default", "high-performance", "low-power")


@dataclass(frozen=True)
class Provider:
    """One provider and its options, in snake_case. `given` is how it was spelled."""

    name: str
    options: Mapping[str, Any]
    given: str = "webgpu"

    @property
    def device_type(self) -> str:
        """gpu, cpu or npu. WebNN's default in ONNX Runtime is cpu; here it is the GPU, which every session has."""
        return str(self.options.get("device_type", _DEVICE_TYPES[self.name])).lower()


def providers_of(providers: Any, provider_options: Any) -> list[Provider]:
    """The providers in order of preference, from ONNX Runtime's spellings: names, (name, options) or dicts with "name".

    Raises InputError for unknown names and options, and for providers after the first that could run nothing."""
    if providers is None or (isinstance(providers, Sequence) and not providers):
        return [Provider("webgpu", {}, "WebGpuExecutionProvider")]
    if isinstance(providers, (str, Mapping)) or not isinstance(providers, Sequence):
        raise InputError(f"InferenceSession: providers is a list such as ['webgpu'], not {providers!r}")
    beside = list(provider_options or [{}] * len(providers))
    if len(beside) != len(providers):
        raise InputError(f"InferenceSession: {len(providers)} providers and {len(beside)} provider_options")
    out = [_provider(given, more) for given, more in zip(providers, beside, strict=True)]
    for later in out[1:]:
        if later.device_type not in ("cpu", out[0].device_type):
            raise InputError(
                f"InferenceSession: {out[0].given} runs the whole model, but for what cpu takes: {later.given} after "
                "it would have nothing to do"
            )
    return out


def _provider(given: Any, more: Mapping[str, Any] | None) -> Provider:
    if isinstance(given, Mapping):
        name, options = given.get("name"), {k: v for k, v in given.items() if k != "name"}
    elif isinstance(given, (tuple, list)) and len(given) == 2:
        name, options = given[0], dict(given[1])
    else:
        name, options = given, {}
    options = {snake(k): v for k, v in {**options, **(more or {})}.items()}
    if not isinstance(name, str) or name.lower() not in PROVIDERS:
        known = "webgpu, webnn, npu, cpu and ONNX Runtime's names for them"
        raise InputError(f"InferenceSession: unknown provider {name!r}; there are {known}")
    provider = Provider(PROVIDERS[name.lower()], options, name)
    for key in options:
        if key not in _OPTIONS:
            raise InputError(f"InferenceSession: provider {name} has no option {key!r}")
    if provider.device_type not in ("cpu", "gpu", "npu"):
        raise InputError(f"InferenceSession: deviceType {provider.device_type!r} is none of cpu, gpu, npu")
    if str(options.get("device_id", 0)) != "0":
        raise InputError(f"InferenceSession: device_id {options['device_id']!r}: name a GPU by device= or context=")
    if str(options.get("power_preference") or "default") not in _POWER:
        raise InputError(f"InferenceSession: unknown powerPreference {options['power_preference']!r}")
    threads = str(options.get("num_threads") or 0)
    if not threads.isdigit():
        raise InputError(f"InferenceSession: numThreads {threads!r} is no number")
    return provider


def falls_back(providers: Sequence[Provider]) -> bool:
    """Whether the CPU may take what the first provider cannot."""
    return providers[0].device_type == "gpu" and any(p.device_type == "cpu" for p in providers[1:])


def open_context(provider: Provider, threads: int) -> MLContext:
    """The context of a provider: a given one (the other options do not count then, as in ONNX Runtime), that of a given
    device, or that of the default device. `threads` are those of the session, where the provider says nothing."""
    options = provider.options
    context, device = options.get("context"), options.get("device")
    power = str(options.get("power_preference") or "default")
    if context is not None:
        if not isinstance(context, MLContext):
            raise InputError(f"InferenceSession: context is an MLContext, not {type(context).__name__}")
        context._require_open()
        return context
    if provider.device_type != "gpu":
        return ML().create_context(
            provider.device_type,
            power_preference=power,
            num_threads=int(options.get("num_threads") or threads),
            cache_dir=options.get("cache_dir"),
        )
    if device is not None and not isinstance(device, str) and not hasattr(getattr(device, "handle", device), "queue"):
        raise InputError(f"InferenceSession: device is a gpucompile.Device or a wgpu.GPUDevice, not {device!r}")
    if isinstance(device, str) and device.lower() not in ("gpu", "webgpu"):
        raise InputError(
            f"InferenceSession: device {device!r} is no kind of GPU; give a device, or gpu, webgpu or nothing"
        )
    if device is None or isinstance(device, str):  # the kind, not the device
        device = default_device() if power == "default" else Device.open(power_preference=power)
    return context_of(device.handle, device) if isinstance(device, Device) else context_of(device)


def unused_options(provider: Provider) -> list[str]:
    """The options of a provider that change nothing: hints for another kind of device."""
    hints = ("num_threads", "cache_dir") if provider.device_type == "gpu" else ("device",)
    return [f"{provider.given}: {key}" for key in (*hints, "preferred_layout") if provider.options.get(key) is not None]


def snake(name: str) -> str:
    """`freeDimensionOverrides` -> `free_dimension_overrides`."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
