"""What a session can be asked for, in ONNX Runtime's words: options, providers, where outputs go."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpucompile.errors import InputError
from gpucompile.session.tensor import CPU, GPU_BUFFER, LOCATION_ALIASES, ML_TENSOR

#: ONNX Runtime's graph optimisation levels (its enum's names and numbers) -> our pipelines.
OPTIMIZATION_PIPELINES = {
    "ORT_DISABLE_ALL": "none", "ORT_ENABLE_BASIC": "no-fuse", "ORT_ENABLE_EXTENDED": "default",
    "ORT_ENABLE_LAYOUT": "default", "ORT_ENABLE_ALL": "default",
    "disabled": "none", "basic": "no-fuse", "extended": "default", "layout": "default", "all": "default",
    0: "none", 1: "no-fuse", 2: "default", 3: "default", 99: "default",
}  # fmt: skip

#: ONNX Runtime's configuration key for what `SessionOptions.fallback` is.
DISABLE_FALLBACK = "session.disable_cpu_ep_fallback"

#: Provider names, ours and ONNX Runtime's, in lower case -> ours.
PROVIDERS = {
    "webgpu": "webgpu", "webgpuexecutionprovider": "webgpu", "jsexecutionprovider": "webgpu",
    "webnn": "webnn", "webnnexecutionprovider": "webnn",
    "cpu": "cpu", "cpuexecutionprovider": "cpu", "wasm": "cpu", "openvinoexecutionprovider": "openvino",
}  # fmt: skip

_PROVIDER_OPTIONS = {
    "device_type", "power_preference", "num_threads", "context", "device", "preferred_layout", "device_id", "cache_dir",
}  # fmt: skip


@dataclass
class SessionOptions:
    """ONNX Runtime's SessionOptions, as far as they mean something here; the others are accepted and do nothing.

    graph_optimization_level  a level of ONNX Runtime's (name, number, enum), or a pipeline of `gpucompile opt`
    enable_profiling          write a trace; `end_profiling` names the file, which begins with `profile_file_prefix`
    preferred_output_location "cpu", "gpu-buffer", "ml-tensor", or a dict by output name
    free_dimension_overrides  sizes by name of the model's free dimensions
    memory_budget             bytes that weights, scratch, inputs, outputs and staging may take together
    fallback                  "error", "warn" or "allow": what becomes of nodes that the device does not take, see
                              `gpucompile.compile`. ONNX Runtime's configuration entry session.disable_cpu_ep_fallback
                              says the same: "1" is "error", the default here, "0" is "allow"
    constants                 values of inputs that are compiled in, by name, as `add_initializer` gives them
    """

    graph_optimization_level: Any = "ORT_ENABLE_ALL"
    enable_profiling: bool = False
    profile_file_prefix: str = "gpucompile_profile"
    preferred_output_location: str | Mapping[str, str] | None = None
    free_dimension_overrides: dict[str, int] = field(default_factory=dict)
    memory_budget: int | None = None
    fallback: str = "error"
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    intra_op_num_threads: int = 0
    inter_op_num_threads: int = 0
    execution_mode: Any = None
    enable_mem_pattern: bool = True
    enable_cpu_mem_arena: bool = True
    log_severity_level: int = 2
    log_verbosity_level: int = 0
    logid: str = ""

    def add_free_dimension_override_by_name(self, name: str, size: int) -> None:
        """Bind a free dimension."""
        self.free_dimension_overrides[name] = size

    def add_session_config_entry(self, key: str, value: str) -> None:
        """ONNX Runtime's configuration: session.disable_cpu_ep_fallback sets `fallback`, others mean nothing here."""
        if key == DISABLE_FALLBACK:
            if str(value) not in ("0", "1"):
                raise InputError(f"InferenceSession: {key} is {value!r}, it must be '0' or '1'")
            self.fallback = "error" if str(value) == "1" else "allow"

    def add_initializer(self, name: str, value: Any) -> None:
        """Give an input a value that is compiled in: an array, or an object with `numpy()` such as an OrtValue."""
        self.constants[name] = value if isinstance(value, np.ndarray) else value.numpy()

    @staticmethod
    def of(given: Any, extra: Mapping[str, Any]) -> SessionOptions:
        """From our options, a dict, or an onnxruntime.SessionOptions, with `extra` on top (camelCase too)."""
        out = SessionOptions()
        names = set(out.__dataclass_fields__)
        if isinstance(given, Mapping):
            extra = {**given, **extra}
        elif given is not None:
            for name in names:
                if hasattr(given, name):
                    setattr(out, name, getattr(given, name))
            out.free_dimension_overrides, out.constants = dict(out.free_dimension_overrides), dict(out.constants)
            with contextlib.suppress(RuntimeError):  # ONNX Runtime's, for a key that was not set
                if not isinstance(given, SessionOptions):
                    out.add_session_config_entry(DISABLE_FALLBACK, given.get_session_config_entry(DISABLE_FALLBACK))
        for key, value in extra.items():
            name = snake(key)
            if name not in names:
                raise InputError(f"InferenceSession: there is no option {key!r}; there are {', '.join(sorted(names))}")
            if value is not None:
                setattr(out, name, value)
        return out

    @property
    def pipeline(self) -> str:
        """The pass pipeline for the optimisation level."""
        level = self.graph_optimization_level
        level = getattr(level, "name", level)
        if isinstance(level, (str, int)) and level in OPTIMIZATION_PIPELINES:
            return OPTIMIZATION_PIPELINES[level]
        if isinstance(level, str):
            return level
        raise InputError(f"InferenceSession: unknown graph_optimization_level {level!r}")


@dataclass(frozen=True)
class Provider:
    """One provider and its options, in snake_case."""

    name: str
    options: Mapping[str, Any]


def providers_of(providers: Any, provider_options: Any) -> list[Provider]:
    """The providers in order of preference, from ONNX Runtime's spellings: names, (name, options) or dicts with "name".

    Raises InputError for unknown names and options."""
    if providers is None:
        return [Provider("webgpu", {})]
    if isinstance(providers, (str, Mapping)) or not isinstance(providers, Sequence) or not providers:
        raise InputError(f"InferenceSession: providers is a list such as ['webgpu'], not {providers!r}")
    beside = list(provider_options or [{}] * len(providers))
    if len(beside) != len(providers):
        raise InputError(f"InferenceSession: {len(providers)} providers and {len(beside)} provider_options")
    out = []
    for given, more in zip(providers, beside, strict=True):
        if isinstance(given, Mapping):
            name, options = given.get("name"), {k: v for k, v in given.items() if k != "name"}
        elif isinstance(given, (tuple, list)) and len(given) == 2:
            name, options = given[0], dict(given[1])
        else:
            name, options = given, {}
        options = {snake(k): v for k, v in {**options, **(more or {})}.items()}
        if not isinstance(name, str) or name.lower() not in PROVIDERS:
            known = "webgpu, webnn, cpu and ONNX Runtime's names for them"
            raise InputError(f"InferenceSession: unknown provider {name!r}; there are {known}")
        for key in options:
            if key not in _PROVIDER_OPTIONS:
                raise InputError(f"InferenceSession: provider {name} has no option {key!r}")
        out.append(Provider(PROVIDERS[name.lower()], options))
    return out


def device_type_of(provider: Provider) -> str:
    """gpu, cpu or npu. WebNN's default in ONNX Runtime is cpu; here it is the GPU, which every session has."""
    default = "cpu" if provider.name in ("cpu", "openvino") else "gpu"
    kind = str(provider.options.get("device_type", default)).lower()
    if kind not in ("cpu", "gpu", "npu"):
        raise InputError(f"InferenceSession: deviceType {kind!r} is none of cpu, gpu, npu")
    return kind


def locations_of(preferred: str | Mapping[str, str] | None, outputs: Sequence[str]) -> dict[str, str]:
    """Where each output goes."""
    if preferred is None or isinstance(preferred, str):
        preferred = dict.fromkeys(outputs, preferred or CPU)
    if not isinstance(preferred, Mapping):
        raise InputError(f"preferred_output_location: a location or a dict is wanted, not {preferred!r}")
    out = dict.fromkeys(outputs, CPU)
    for name, location in preferred.items():
        if name not in out:
            raise InputError(f"preferred_output_location: there is no output {name!r}; there are {', '.join(outputs)}")
        location = LOCATION_ALIASES.get(location, location)
        if location not in (CPU, GPU_BUFFER, ML_TENSOR):
            known = ", ".join((CPU, GPU_BUFFER, ML_TENSOR, *LOCATION_ALIASES))
            raise InputError(f"preferred_output_location: {location!r} for {name!r} is none of {known}")
        out[name] = location
    return out


def snake(name: str) -> str:
    """`freeDimensionOverrides` -> `free_dimension_overrides`."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
