"""What code is generated for: the features and limits a device must offer.

`Target.portable()` is WebGPU's default limits with no optional feature, so its code runs on every WebGPU device.
`Target.of(adapter)` takes what a given wgpu adapter offers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from gpucompile.errors import GpucompileError

#: WebGPU's default limits (W3C WebGPU, section 3.6.2 "Limits") as far as compute uses them; bytes or counts.
DEFAULT_LIMITS: dict[str, int] = {
    "max-storage-buffers-per-shader-stage": 8,
    "max-storage-buffer-binding-size": 128 << 20,
    "max-buffer-size": 256 << 20,
    "min-storage-buffer-offset-alignment": 256,
    "max-compute-workgroup-storage-size": 16384,
    "max-compute-invocations-per-workgroup": 256,
    "max-compute-workgroup-size-x": 256,
    "max-compute-workgroup-size-y": 256,
    "max-compute-workgroup-size-z": 64,
    "max-compute-workgroups-per-dimension": 65535,
}

#: Optional WebGPU features the code generator knows how to use.
KNOWN_FEATURES = ("shader-f16", "subgroups")


@dataclass(frozen=True)
class Target:
    """Features (WebGPU names, sorted) and limits (kebab-case names; bytes or counts) code may rely on.

    `cores` is the number of workgroups the device runs at once, a hint for choosing tile sizes, never a requirement;
    `cpu` says that the adapter is a software one, where the loops of one workgroup run on one CPU thread.
    """

    features: tuple[str, ...] = ()
    limits: dict[str, int] = field(default_factory=lambda: dict(DEFAULT_LIMITS))
    cores: int = 64
    cpu: bool = False
    name: str = "portable"

    def __hash__(self) -> int:
        return hash((self.features, tuple(sorted(self.limits.items())), self.cores, self.cpu))

    @staticmethod
    def portable() -> Target:
        """WebGPU's default limits, no optional features: runs on every WebGPU device."""
        return Target()

    @staticmethod
    def of(adapter: Any) -> Target:
        """The features and limits of a wgpu adapter (`wgpu.GPUAdapter`), or of anything with `.features`, `.limits`
        and `.info` like one.

        The offset alignment stays WebGPU's 256 bytes even where the adapter allows less: plans then also pass
        browsers' validation.
        """
        limits = dict(DEFAULT_LIMITS)
        for key in limits:
            if key in adapter.limits:
                limits[key] = int(adapter.limits[key])
        limits["min-storage-buffer-offset-alignment"] = DEFAULT_LIMITS["min-storage-buffer-offset-alignment"]
        features = tuple(f for f in KNOWN_FEATURES if f in adapter.features)
        cpu = adapter.info.get("adapter_type") == "CPU"
        return Target(features, limits, cores=8 if cpu else 128, cpu=cpu, name=str(adapter.info.get("device", "")))

    def without(self, *features: str) -> Target:
        """The same target with features masked, to test what code does where they are missing."""
        unknown = sorted(set(features) - set(KNOWN_FEATURES))
        if unknown:
            raise GpucompileError(f"unknown feature {unknown[0]!r}; known: {', '.join(KNOWN_FEATURES)}")
        return replace(self, features=tuple(f for f in self.features if f not in features))

    def limit(self, name: str) -> int:
        """One limit by its kebab-case WebGPU name."""
        return self.limits[name]
