"""GPU tensors for the outputs of sessions: what is given back is used again, so that a loop allocates nothing."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from gpucompile.ir.types import DataType, TensorType
from gpucompile.runtime.format import Port
from gpucompile.runtime.memory import Memory
from gpucompile.session.tensor import Tensor
from gpucompile.webnn.context import MLContext, tensor_bytes
from gpucompile.webnn.objects import MLTensor

#: Bytes of tensors that wait to be used again; more are freed at once.
KEPT_BYTES = 256 << 20


class Pool:
    """The spare tensors of a session, counted in its memory. Safe to use from several threads and from garbage
    collection."""

    def __init__(self, context: MLContext, memory: Memory) -> None:
        self._context, self._memory = context, memory
        self._spare: dict[TensorType, list[MLTensor]] = {}
        self._collected: deque[MLTensor] = deque()  # given back by garbage collection
        self._lock = threading.Lock()
        self._closed = False
        self.allocations = 0

    def take(self, data_type: str, dims: tuple[int, ...]) -> tuple[MLTensor, Callable[[bool], None]]:
        """A tensor with undefined content, and the function that gives it back; its argument says whether garbage
        collection does so. Raises UnsupportedError if there is no memory for it, DeviceError if the device refuses."""
        type = TensorType(DataType.parse(data_type), dims)
        self.take_collected()
        with self._lock:
            spare = self._spare.get(type)
            tensor = spare.pop() if spare else None
        if tensor is not None and tensor.destroyed:
            self._free(tensor)
            tensor = None
        if tensor is None:
            tensor = self._make(type)
        return tensor, lambda collected: self._collect(tensor) if collected else self._give(tensor)

    def output(self, port: Port, location: str) -> Tensor:
        """A Tensor for an output, which owns a tensor of the pool."""
        tensor, give_back = self.take(port.dtype, port.shape)
        return Tensor(port.dtype, port.shape, location, ml_tensor=tensor, release=give_back)

    def _make(self, type: TensorType) -> MLTensor:
        size = tensor_bytes(type)
        if not self._memory.fits({"tensors": size}):
            self.trim()
        self._memory.add("tensors", size, f"an output {type}")
        try:
            tensor = self._context._tensor(type, readable=True, writable=True)
        except BaseException:
            self._memory.sub("tensors", size)
            raise
        with self._lock:
            self.allocations += 1
        return tensor

    def _collect(self, tensor: MLTensor) -> None:
        """Give a tensor back from garbage collection, which may strike under any lock, so that none is taken."""
        if not self._closed:  # else it is freed with its last reference
            self._collected.append(tensor)

    def take_collected(self) -> None:
        """Have what garbage collection gave back wait to be used again."""
        while self._collected:
            self._give(self._collected.popleft())

    def _give(self, tensor: MLTensor) -> None:
        if tensor.destroyed:
            self._free(tensor)
            return
        size = tensor_bytes(tensor._type)
        with self._lock:
            kept = sum(tensor_bytes(type) * len(each) for type, each in self._spare.items())
            if not self._closed and kept + size <= KEPT_BYTES:
                self._spare.setdefault(tensor._type, []).append(tensor)
                return
        self._free(tensor)

    def _free(self, tensor: MLTensor) -> None:
        tensor.destroy()
        self._memory.sub("tensors", tensor_bytes(tensor._type))

    def trim(self) -> None:
        """Free what is spare."""
        self.take_collected()
        with self._lock:
            spare = [t for each in self._spare.values() for t in each]
            self._spare.clear()
        for tensor in spare:
            self._free(tensor)

    def close(self) -> None:
        """Free what is spare; what is out is freed when it comes back."""
        self._closed = True
        self.trim()
