"""Every error gpucompile raises on purpose, in one small family.

Each message says what is wrong, where, and what to do about it. The command line prints it and exits with code 2.
Classes also derive from the built-in error a Python user would expect (`ValueError`, `TypeError`, `RuntimeError`).
"""

from __future__ import annotations


class GpucompileError(Exception):
    """Base of all errors raised by gpucompile."""


class ModelError(GpucompileError, ValueError):
    """A model file that cannot be read or is not valid (truncated, corrupt, not ONNX, inconsistent)."""


class UnsupportedError(GpucompileError, ValueError):
    """A valid model that uses what no part of gpucompile handles: an op, an opset, a data type, a dynamic shape."""


class TypeInferenceError(GpucompileError, TypeError, ValueError):
    """Operand types or attributes that an op's definition forbids; names the op, the operands and the clash."""


class ConstraintError(TypeInferenceError):
    """An operand of a data type or rank that an op's definition leaves out, which a wider one (ONNX's) may have."""


class VerificationError(GpucompileError, RuntimeError):
    """A broken invariant of a graph or a plan. Always a defect of gpucompile, never of the model."""


class PassError(GpucompileError, RuntimeError):
    """A pass failed or a pipeline string is malformed; carries the path of the reproducer when one was written."""


class ParseError(GpucompileError, ValueError):
    """Text (.gir or a pipeline) that does not parse; gives line and column."""


class BundleError(GpucompileError, ValueError):
    """A shader bundle that is damaged, has an unknown version, or needs what the device lacks."""


class InputError(GpucompileError, TypeError, ValueError):
    """A run was given a missing, superfluous, wrongly shaped or wrongly typed tensor."""


class DeviceError(GpucompileError, RuntimeError):
    """No usable adapter, or the device reported a validation, memory or internal error."""


class DeviceLost(DeviceError):
    """The device was lost or destroyed; open a new one."""


class FallbackError(GpucompileError, RuntimeError):
    """A part of a model that is left to the CPU failed there, or gave a value of another type than it promised."""


class GpucompileWarning(UserWarning):
    """What works, but not as one might expect: nodes of a model that run on the CPU."""


class ClosedError(GpucompileError, RuntimeError):
    """An executable, tensor or device was used after `close()` or `dispose()`."""


class PrecisionWarning(UserWarning):
    """A lower precision was asked for that the target does not compute in."""


def counted(count: int, what: str) -> str:
    """`1 node`, `2 nodes`: for messages."""
    return f"{count} {what}{'s' * (count != 1)}"
