"""What a session and a run can be asked for, in ONNX Runtime's words, and where outputs go.

Every option does something, or is refused, or is a hint (how many threads, which arena) that a `GpucompileWarning`
names as without effect; docs/sessions.md has the table.
"""

from __future__ import annotations

import enum
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from gpucompile.errors import GpucompileError, GpucompileWarning, InputError, UnsupportedError
from gpucompile.session.providers import snake
from gpucompile.session.tensor import CPU, GPU_BUFFER, LOCATION_ALIASES, ML_TENSOR


class GraphOptimizationLevel(enum.IntEnum):
    """ONNX Runtime's levels: no passes, passes without fusion, and all passes."""

    ORT_DISABLE_ALL = 0
    ORT_ENABLE_BASIC = 1
    ORT_ENABLE_EXTENDED = 2
    ORT_ENABLE_LAYOUT = 3
    ORT_ENABLE_ALL = 99


class ExecutionMode(enum.IntEnum):
    """ONNX Runtime's order of independent nodes; a hint without effect."""

    ORT_SEQUENTIAL = 0
    ORT_PARALLEL = 1


#: ONNX Runtime's graph optimisation levels (its enum's names and numbers) -> our pipelines.
OPTIMIZATION_PIPELINES = {
    "ORT_DISABLE_ALL": "none", "ORT_ENABLE_BASIC": "no-fuse", "ORT_ENABLE_EXTENDED": "default",
    "ORT_ENABLE_LAYOUT": "default", "ORT_ENABLE_ALL": "default",
    "disabled": "none", "basic": "no-fuse", "extended": "default", "layout": "default", "all": "default",
    0: "none", 1: "no-fuse", 2: "default", 3: "default", 99: "default",
}  # fmt: skip

#: onnxruntime-web's spellings that differ by more than capitals.
_SPELLINGS = {"optimized_model_file_path": "optimized_model_filepath", "log_id": "logid"}

#: Options that can only make ONNX Runtime's own machinery slower or faster -> their values there when nobody asked.
_HINTS = {
    "inter_op_num_threads": (0,),
    "execution_mode": (None, "ORT_SEQUENTIAL", "sequential"),
    "execution_order": (None, "DEFAULT"),
    "enable_mem_pattern": (True,),
    "enable_mem_reuse": (True,),
    "enable_cpu_mem_arena": (True,),
    "use_per_session_threads": (True,),
    "log_verbosity_level": (0,),
}

#: Methods of ONNX Runtime's SessionOptions without a meaning here -> why.
_REFUSED = {
    "register_custom_ops_library": "native custom operators do not run on a GPU; give the model without them",
    "add_initializer": "weights are compiled in; change them in the model (onnx.ModelProto)",
    "add_external_initializers": "weights are compiled in; change them in the model (onnx.ModelProto)",
    "add_provider_for_devices": "name the device by providers=[('webgpu', {'device': ...})]",
    "set_provider_selection_policy": "name the provider; load(..., 'auto') chooses by measuring",
}

#: The severity of those who have none of their own.
_severity = 2


def set_default_logger_severity(severity: int) -> None:
    """ONNX Runtime's: 3 (errors) and above silence the warnings about options without effect, of all sessions whose
    `log_severity_level` is -1."""
    global _severity
    if severity not in range(5):
        raise InputError(f"set_default_logger_severity: {severity!r} is none of 0 (verbose) to 4 (fatal)")
    _severity = severity


@dataclass(slots=True)
class SessionOptions:
    """ONNX Runtime's SessionOptions; an attribute that neither has is an AttributeError.

    graph_optimization_level  a level of ONNX Runtime's (name, number, enum), or a pipeline of `gpucompile opt`
    enable_profiling          write a trace; `end_profiling` names the file, which begins with `profile_file_prefix`
    optimized_model_filepath  where the compiled bundle is saved, a name that ends in .gpub
    preferred_output_location "cpu", "gpu-buffer", "ml-tensor", or a dict by output name
    free_dimension_overrides  sizes by name of the model's free dimensions; `..._by_denotation` by what a dimension is
                              for, such as DATA_BATCH
    cache_capacity            compile a decoder for a key/value cache of so many tokens, see `create_cache`
    cache_pairs               its past inputs and present outputs, where their names do not tell
    constants                 values of inputs that are compiled in, by name; see `gpucompile.compile`
    memory_budget             bytes that weights, scratch, inputs, outputs, staging and outputs kept on the GPU may take
                              together; what would be more is an UnsupportedError with the numbers, before it is made
    intra_op_num_threads      threads of provider cpu
    log_severity_level        3 (errors) and above silence warnings about options without effect; -1 is the default's
    logid                     what those warnings begin with
    config_entries            see `add_session_config_entry`

    The rest are hints for ONNX Runtime's own machinery. An `onnxruntime.SessionOptions` is taken as well, but does not
    tell which free dimensions and configuration entries were added to it: pass these as options.
    """

    graph_optimization_level: Any = GraphOptimizationLevel.ORT_ENABLE_ALL
    enable_profiling: bool = False
    profile_file_prefix: str = "gpucompile_profile"
    optimized_model_filepath: str = ""
    preferred_output_location: str | Mapping[str, str] | None = None
    free_dimension_overrides: dict[str, int] = field(default_factory=dict)
    free_dimension_overrides_by_denotation: dict[str, int] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    memory_budget: int | None = None
    cache_capacity: int | None = None
    cache_pairs: Mapping[str, str] | None = None
    intra_op_num_threads: int = 0
    inter_op_num_threads: int = 0
    execution_mode: Any = None
    execution_order: Any = None
    enable_mem_pattern: bool = True
    enable_mem_reuse: bool = True
    enable_cpu_mem_arena: bool = True
    enable_graph_capture: bool = True  # every run replays what was recorded once
    use_deterministic_compute: bool = True  # kernels always are
    use_per_session_threads: bool = True
    log_severity_level: int = -1
    log_verbosity_level: int = 0
    logid: str = ""
    config_entries: dict[str, str] = field(default_factory=dict)
    execution_providers: list[Any] = field(default_factory=list)

    def add_free_dimension_override_by_name(self, name: str, size: int) -> None:
        """Bind a free dimension."""
        self.free_dimension_overrides[name] = size

    def add_free_dimension_override_by_denotation(self, denotation: str, size: int) -> None:
        """Bind the free dimensions that the model says are for this, such as DATA_BATCH."""
        self.free_dimension_overrides_by_denotation[denotation] = size

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Of ONNX Runtime's keys, `session.disable_cpu_ep_fallback` ("1": nodes that the first provider cannot run are
        an error, even with cpu after it) and `session.load_model_format` ("ONNX") mean something here."""
        self.config_entries[key] = value

    def get_session_config_entry(self, key: str) -> str:
        """An entry that was added; RuntimeError if there is none, as in ONNX Runtime."""
        return _entry(self.config_entries, key, "SessionOptions")

    def add_provider(self, name: str, options: Mapping[str, str]) -> None:
        """Add a provider; used if the session is given none."""
        self.execution_providers.append((name, dict(options)))

    def has_providers(self) -> bool:
        """Whether providers were added."""
        return bool(self.execution_providers)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"SessionOptions has no {name!r}" + (f": {_REFUSED[name]}" if name in _REFUSED else ""))

    @staticmethod
    def of(given: Any, extra: Mapping[str, Any]) -> SessionOptions:
        """From our options, a dict, or an onnxruntime.SessionOptions, with `extra` on top (camelCase too). The dicts in
        it are copies. Raises InputError for what does not fit."""
        out = SessionOptions()
        names = {f.name for f in fields(SessionOptions)}
        if isinstance(given, Mapping):
            extra = {**given, **extra}
        elif given is not None:
            if not hasattr(given, "graph_optimization_level"):
                raise InputError(f"InferenceSession: sess_options are SessionOptions, not {type(given).__name__}")
            for name in names:
                if hasattr(given, name):
                    setattr(out, name, getattr(given, name))
        for key, value in extra.items():
            name = snake(key)
            name = _SPELLINGS.get(name, name)
            if name not in names:
                raise InputError(f"InferenceSession: there is no option {key!r}; there are {', '.join(sorted(names))}")
            if value is not None:
                setattr(out, name, value)
        out._check()
        return out

    def _check(self) -> None:
        for name in ("free_dimension_overrides", "free_dimension_overrides_by_denotation"):
            sizes = dict(getattr(self, name))
            for key, size in sizes.items():
                if isinstance(size, bool) or not isinstance(size, int) or size < 0:
                    raise InputError(f"InferenceSession: {name} {key!r} is {size!r}, a size is wanted")
            setattr(self, name, sizes)
        budget: Any = self.memory_budget
        if budget is not None and (
            isinstance(budget, bool) or not isinstance(budget, (int, float, np.integer)) or budget < 0
        ):
            raise InputError(f"InferenceSession: memory_budget is {budget!r}, a number of bytes is wanted")
        self.config_entries, self.execution_providers = dict(self.config_entries), list(self.execution_providers)
        if not isinstance(self.intra_op_num_threads, int) or self.intra_op_num_threads < 0:
            raise InputError(f"InferenceSession: intra_op_num_threads is {self.intra_op_num_threads!r}, not a number")
        if self.config_entries.get("session.load_model_format", "ONNX").upper() != "ONNX":
            raise UnsupportedError("session.load_model_format: models are ONNX files or gpucompile's bundles")
        path = self.optimized_model_filepath
        if path and not str(path).endswith(".gpub"):
            raise UnsupportedError(f"optimized_model_filepath {path!r}: the compiled bundle is saved as a .gpub file")

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

    @property
    def may_fall_back(self) -> bool:
        """Whether the configuration allows the CPU to take nodes."""
        return self.config_entries.get("session.disable_cpu_ep_fallback", "0") != "1"

    def warn_of_hints(self, others: Sequence[str], threads: bool) -> None:
        """Warn, once a session, of all options that change nothing; `others` are those of the provider, `threads` says
        whether it has any."""
        hints = [n for n, usual in _HINTS.items() if getattr(getattr(self, n), "name", getattr(self, n)) not in usual]
        if self.intra_op_num_threads and not threads:
            hints.append("intra_op_num_threads")
        known = ("session.disable_cpu_ep_fallback", "session.load_model_format")
        hints += [key for key in self.config_entries if key not in known]
        if hints or others:
            self.warn(f"without effect: {', '.join([*hints, *others])}")

    def warn(self, text: str) -> None:
        """A GpucompileWarning, unless `log_severity_level` says otherwise."""
        severity = self.log_severity_level if self.log_severity_level >= 0 else _severity
        if severity <= 2:
            prefix = f"{self.logid}: " if self.logid else ""
            warnings.warn(f"{prefix}InferenceSession: {text}", GpucompileWarning, stacklevel=2)


class RunOptions:
    """ONNX Runtime's RunOptions: `terminate` refuses the runs that have not begun; the rest are hints, of which a
    GpucompileWarning says that they are without effect."""

    __slots__ = (
        "_entries", "log_severity_level", "log_verbosity_level", "logid", "only_execute_path_to_fetches", "terminate",
    )  # fmt: skip

    def __init__(self) -> None:
        self.log_severity_level = -1
        self.log_verbosity_level = 0
        self.logid = ""
        self.only_execute_path_to_fetches = False
        self.terminate = False
        self._entries: dict[str, str] = {}

    def add_run_config_entry(self, key: str, value: str) -> None:
        """Kept for `get_run_config_entry`; none of ONNX Runtime's keys means anything here."""
        self._entries[key] = value

    def get_run_config_entry(self, key: str) -> str:
        """An entry that was added; RuntimeError if there is none, as in ONNX Runtime."""
        return _entry(self._entries, key, "RunOptions")


def check_run_options(options: Any) -> None:
    """Do what a RunOptions (ours or ONNX Runtime's) asks before a run. Raises GpucompileError if it asks to stop."""
    if not hasattr(options, "terminate"):
        raise InputError(f"run_options are a RunOptions, not {type(options).__name__}")
    if options.terminate:
        raise GpucompileError("run: terminate is set in its RunOptions")
    hints = [n for n in ("only_execute_path_to_fetches", "log_verbosity_level") if getattr(options, n)]
    hints += getattr(options, "_entries", {})
    if hints and options.log_severity_level <= 2:
        prefix = f"{options.logid}: " if options.logid else ""
        warnings.warn(f"{prefix}RunOptions: without effect: {', '.join(hints)}", GpucompileWarning, stacklevel=4)


def _entry(entries: Mapping[str, str], key: str, where: str) -> str:
    if key not in entries:
        raise RuntimeError(f"{where} does not have configuration with key: {key}")
    return entries[key]


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
