"""What contexts and builders hand out: descriptors, operands, tensors, graphs."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gpucompile.errors import InputError
from gpucompile.ir.graph import Value
from gpucompile.ir.types import TensorType
from gpucompile.runtime.buffers import is_destroyed
from gpucompile.runtime.executable import Executable

if TYPE_CHECKING:
    from gpucompile.webnn.builder import MLGraphBuilder
    from gpucompile.webnn.context import MLContext


@dataclass(frozen=True)
class MLOperandDescriptor:
    """Data type (the specification's name) and shape."""

    data_type: str
    shape: tuple[int, ...]

    @staticmethod
    def of(type: TensorType) -> MLOperandDescriptor:
        """The descriptor of an IR type."""
        return MLOperandDescriptor(type.dtype.value, type.shape)

    def __str__(self) -> str:
        return f"{self.data_type}{list(self.shape)}"


class MLOperand:
    """A tensor inside a graph that is being built."""

    __slots__ = ("_builder", "_value")

    def __init__(self, builder: MLGraphBuilder, value: Value) -> None:
        self._builder = builder
        self._value = value

    @property
    def data_type(self) -> str:
        """The specification's name of the data type, `float32` and so on."""
        return self._value.type.dtype.value

    @property
    def shape(self) -> tuple[int, ...]:
        return self._value.type.shape

    def __repr__(self) -> str:
        name = f" {self._value.name!r}" if self._value.name else ""
        return f"<MLOperand{name}: {self.data_type}{list(self.shape)}>"


class MLTensor:
    """A tensor on the GPU, made by `MLContext.create_tensor`. `gpu_buffer` is the buffer that holds it, row-major."""

    def __init__(
        self,
        context: MLContext,
        type: TensorType,
        buffer: Any,
        readable: bool = False,
        writable: bool = False,
        constant: Any = None,
        owned: bool = True,
    ) -> None:
        self._context = context
        self._type = type
        self._buffer = buffer
        self._owned = owned
        self._constant = constant  # the host's copy of a constant tensor, which compilation wants
        self.readable = readable
        self.writable = writable

    @property
    def data_type(self) -> str:
        """The specification's name of the data type, `float32` and so on."""
        return self._type.dtype.value

    @property
    def shape(self) -> tuple[int, ...]:
        return self._type.shape

    @property
    def constant(self) -> bool:
        """Whether it can only be used as a constant of a graph."""
        return self._constant is not None

    @property
    def destroyed(self) -> bool:
        """Whether it was destroyed, or the caller's buffer that it was made of."""
        return self._buffer is None or is_destroyed(self._buffer)

    @property
    def gpu_buffer(self) -> Any:
        """The `wgpu.GPUBuffer`, for use by other shaders of the device; InputError if the tensor was destroyed, or is
        in the host's memory, DeviceLost if its device was lost."""
        if self._buffer is None:
            self._context._require_device()
            raise InputError(f"{self!r} was destroyed")
        if not hasattr(self._buffer, "usage"):
            raise InputError(f"{self!r} is in the host's memory, it has no GPU buffer")
        return self._buffer

    def destroy(self) -> None:
        """Free the GPU memory. What was dispatched before still runs; using the tensor again is an InputError."""
        with self._context._lock:
            buffer, self._buffer = self._buffer, None
            if buffer is not None and self._owned:
                buffer.destroy()

    def _forget(self) -> None:
        self._buffer = None

    def __repr__(self) -> str:
        return f"<MLTensor {self.data_type}{list(self.shape)}{' destroyed' if self.destroyed else ''}>"


class MLGraph:
    """A compiled graph, made by `MLGraphBuilder.build`. `inputs` and `outputs` are descriptors by name."""

    def __init__(
        self,
        context: MLContext,
        executable: Executable,
        inputs: dict[str, MLOperandDescriptor],
        outputs: dict[str, MLOperandDescriptor],
    ) -> None:
        self._context = context
        self._executable: Executable | None = executable
        self.inputs = inputs
        self.outputs = outputs

    @property
    def destroyed(self) -> bool:
        return self._executable is None

    def destroy(self) -> None:
        """Free its weights and buffers; dispatching it again is an InputError."""
        executable, self._executable = self._executable, None
        if executable is not None:
            executable.close()

    def _forget(self) -> None:
        self._executable = None

    def __enter__(self) -> MLGraph:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.destroy()

    def __repr__(self) -> str:
        ports = [", ".join(f"{name}: {d}" for name, d in each.items()) for each in (self.inputs, self.outputs)]
        return f"<MLGraph {ports[0]} -> {ports[1]}>"
