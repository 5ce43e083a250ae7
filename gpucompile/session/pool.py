"""GPU tensors for the outputs of sessions: what is given back is used again, so that a loop allocates nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable

from gpucompile.ir.types import DataType, TensorType
from gpucompile.runtime.format import Port
from gpucompile.session.tensor import Tensor
from gpucompile.webnn.context import MLContext
from gpucompile.webnn.objects import MLTensor

#: Bytes of tensors that wait to be used again; more are freed at once.
KEPT_BYTES = 256 << 20


class Pool:
    """The spare tensors of a session. Safe to use from several threads and from garbage collection."""

    def __init__(self, context: MLContext) -> None:
        self._context = context
        self._spare: dict[TensorType, list[MLTensor]] = {}
        self._lock = threading.RLock()  # collection may strike inside `take`
        self._closed = False
        self.allocations = 0
        self.bytes = 0  # of all tensors made and not freed
        self.peak = 0

    def take(self, data_type: str, dims: tuple[int, ...]) -> tuple[MLTensor, Callable[[], None]]:
        """A tensor with undefined content, and the function that gives it back."""
        type = TensorType(DataType.parse(data_type), dims)
        with self._lock:
            spare = self._spare.get(type)
            tensor = spare.pop() if spare else None
        if tensor is None or tensor.destroyed:
            tensor = self._context._tensor(type, readable=True, writable=True)
            with self._lock:
                self.allocations += 1
                self.bytes += tensor.gpu_buffer.size
                self.peak = max(self.peak, self.bytes)
        return tensor, lambda: self._give(type, tensor)

    def output(self, port: Port, location: str) -> Tensor:
        """A Tensor for an output, which owns a tensor of the pool."""
        tensor, give_back = self.take(port.dtype, port.shape)
        return Tensor(port.dtype, port.shape, location, ml_tensor=tensor, release=give_back)

    def _give(self, type: TensorType, tensor: MLTensor) -> None:
        if tensor.destroyed:
            return
        size = tensor.gpu_buffer.size
        with self._lock:
            kept = sum(t.gpu_buffer.size for each in self._spare.values() for t in each if not t.destroyed)
            if not self._closed and kept + size <= KEPT_BYTES:
                self._spare.setdefault(type, []).append(tensor)
                return
            self.bytes -= size
        tensor.destroy()

    @property
    def spare_bytes(self) -> int:
        """Bytes that wait to be used again."""
        with self._lock:
            return sum(t.gpu_buffer.size for each in self._spare.values() for t in each if not t.destroyed)

    def close(self) -> None:
        """Free what is spare; what is out is freed when it comes back."""
        with self._lock:
            self._closed = True
            spare = [t for each in self._spare.values() for t in each]
            self._spare.clear()
        for tensor in spare:
            if not tensor.destroyed:
                self.bytes -= tensor.gpu_buffer.size
                tensor.destroy()
