"""Key/value caches of a session: buffers that runs update in place, and how many of their slots are filled.

    session = InferenceSession("gpt2.onnx", cache_capacity=1024)
    cache = session.create_cache()
    (logits,) = session.run(["logits"], {"input_ids": prompt, ...}, cache=cache)     # cache.length == prompt.shape[1]
    (logits,) = session.run(["logits"], {"input_ids": token, ...}, cache=cache)      # + 1

Several caches of one session are as many conversations.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucompile.cache import PAST_LENGTH, KeyValueCache, find_pairs, free_dimensions, writes_cache
from gpucompile.compiler import Clock, Options, compile_graph, graph_of
from gpucompile.errors import ClosedError, InputError, UnsupportedError
from gpucompile.ir.types import DataType, TensorType
from gpucompile.plan.bundle import Bundle
from gpucompile.plan.planner import weight_store
from gpucompile.runtime.device import Device
from gpucompile.runtime.executable import NUMPY_DTYPES, Executable
from gpucompile.runtime.format import Plan, Port
from gpucompile.runtime.memory import Memory
from gpucompile.runtime.player import SharedWeights
from gpucompile.session.model import TYPE_NAMES, Header, NodeArg
from gpucompile.session.options import SessionOptions
from gpucompile.session.tensor import CPU, GPU_BUFFER, Tensor
from gpucompile.webnn.context import MLContext, tensor_bytes
from gpucompile.webnn.host import OpenvinoContext

if TYPE_CHECKING:
    from gpucompile.webnn.objects import MLTensor

_DATA_TYPES = {f"tensor({name})": dtype for dtype, name in TYPE_NAMES.items()}


@dataclass(frozen=True)
class State:
    """One tensor of a cache: the input and the output that it is, its type, and the axis of its slots."""

    input: str
    output: str
    data_type: str
    dims: tuple[int, ...]
    axis: int


class CachedModel:
    """A decoder that is compiled for a cache, once for each number of new tokens; its plans share weights."""

    def __init__(self, source: Any, header: Header, capacity: int, pairs: Mapping[str, str] | None) -> None:
        """Raises InputError for pairs or a capacity that cannot be, UnsupportedError where no past is found."""
        from gpucompile.frontends.onnx.importer import interface_of

        self._source, self.option = source, KeyValueCache(capacity, pairs)
        interface = interface_of(source)
        self.pairs = find_pairs(interface, pairs)
        self.axes, masks = free_dimensions(interface, self.pairs)
        self.shared = writes_cache(interface)
        self.header = self._header(header, {**self.axes, **masks})
        self._weights: SharedWeights = {}
        self._store: Any = None
        self._memory: Memory | None = None

    def _header(self, header: Header, axes: Mapping[str, int]) -> Header:
        """The model's header with `capacity` where the cache decides a size, and the input that says how much of it is
        filled."""
        inputs = [_resized(a, axes.get(a.name), self.option.capacity) for a in header.inputs]
        shapes = {self.pairs[a.name]: a.shape for a in inputs if a.name in self.pairs}
        outputs = [replace(o, shape=shapes.get(o.name, o.shape)) for o in header.outputs]
        length = [] if self.shared else [NodeArg(PAST_LENGTH, [], "tensor(int32)")]
        return replace(header, inputs=(*inputs, *length), outputs=tuple(outputs))

    def states(self, dims: Mapping[str, int]) -> list[State]:
        """What a cache consists of; free dimensions that `dims` lacks are 1."""
        args = {a.name: a for a in self.header.inputs}
        for name, size in dims.items():
            if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
                raise InputError(f"create_cache: {name} is {size!r}, a size is wanted")
        unknown = set(dims) - {d for name in self.pairs for d in args[name].shape if isinstance(d, str)}
        if unknown:
            raise InputError(f"create_cache: {sorted(unknown)[0]!r} is no free dimension of the past")
        out = []
        for past, present in self.pairs.items():
            shape = tuple(d if isinstance(d, int) else dims.get(d or "", 1) for d in args[past].shape)
            out.append(State(past, present, _DATA_TYPES[args[past].type], shape, self.axes[past]))
        return out

    def compile(self, options: Options, dims: Mapping[str, int]) -> Bundle:
        """A bundle with the plan for these sizes of the free dimensions that the cache does not decide."""
        options = replace(options, cache=self.option)
        graph = graph_of(self._source, dims, options)
        if self._store is None:
            self._store = weight_store(options.target)
        planned = compile_graph(graph, options, Clock(), self._store).planned
        return Bundle([planned.plan], planned.shaders, planned.shards)

    def load(self, bundle: Any, device: Device, *, memory: Memory) -> Executable:
        """Put a bundle on a device; weights that are there already are not uploaded again."""
        self._memory = memory
        return Executable(bundle, device, weights=self._weights, memory=memory)

    def close(self) -> None:
        """Free the weights, after the executables that use them."""
        for buffer in self._weights.values():
            buffer.destroy()
            if self._memory is not None:
                self._memory.sub("weights", buffer.size)
        self._weights.clear()


def _resized(arg: NodeArg, axis: int | None, size: int) -> NodeArg:
    return arg if axis is None else replace(arg, shape=[size if i == axis else d for i, d in enumerate(arg.shape)])


def states_of(executable: Executable) -> list[State]:
    """The states of what runs on the GPU as a whole."""
    plan = getattr(executable, "plan", None)
    if not isinstance(plan, Plan):
        return []
    ports = {p.name: p for p in plan.inputs}
    return [State(s.input, s.output, ports[s.input].dtype, ports[s.input].shape, s.axis) for s in plan.states]


class Caching:
    """The part of `InferenceSession` that has to do with caches."""

    _cached: CachedModel | None
    _context: MLContext
    _free: dict[str, tuple[str, int]]
    _header: Header
    _memory: Memory
    _options: SessionOptions
    _source: Any
    _using: Any

    def create_cache(self, **dims: int) -> Cache:
        """An empty key/value cache for `run`: of a model opened with `cache_capacity`, or of one whose outputs are
        inputs updated in place anyway. `dims` are sizes of free dimensions, such as batch; others are 1.

        InputError for a model without such outputs, UnsupportedError where the session's memory_budget has no room."""
        if self._cached is not None:
            states = self._cached.states(dims)
        else:
            with self._using(dict.fromkeys(self._free, 1) | dims) as program:
                states = states_of(program.executable)
        if not states:
            raise InputError("create_cache: no output is an input updated in place; give the session a cache_capacity")
        return Cache(self._context, self._memory, states, ordered=self._cached is not None)

    def _open_cached(self) -> None:
        """Take the model for a decoder with a cache, if the options say so."""
        capacity = self._options.cache_capacity
        if capacity is None:
            return
        if isinstance(self._context, OpenvinoContext):
            raise UnsupportedError("cache_capacity: caches are updated in place on a GPU, not on npu and cpu")
        if self._options.constants:
            raise InputError("cache_capacity: values of inputs (constants) cannot be compiled in as well")
        self._cached = CachedModel(self._source, self._header, capacity, self._options.cache_pairs)
        self._header = self._cached.header


class Cache:
    """The keys and values of one sequence (or batch of them), on the GPU; made by `InferenceSession.create_cache`.

    It owns its buffers until `dispose()`, garbage collection or the end of a `with`. One run at a time may use it."""

    def __init__(self, context: MLContext, memory: Memory, states: Sequence[State], ordered: bool = True) -> None:
        """Buffers of zeros, counted in `memory`. DeviceError if there is no memory for them. `ordered` says that slots
        are in the order of the tokens."""
        self._ordered = ordered
        self._states = {s.input: s for s in states}
        self._context, self._memory = context, memory
        self._length = 0
        self._busy = threading.Lock()
        self._whole: dict[str, MLTensor] = {}  # masks that hide nothing
        self._tensors: dict[str, MLTensor] = {}
        try:
            for s in states:
                self._tensors[s.input] = self._make(TensorType(DataType.parse(s.data_type), s.dims))
        except BaseException:
            self.dispose()
            raise

    def _make(self, type: TensorType) -> MLTensor:
        self._memory.add("states", tensor_bytes(type), f"a cache of {type}")
        try:
            return self._context._tensor(type, readable=True, writable=True)
        except BaseException:
            self._memory.sub("states", tensor_bytes(type))
            raise

    # ------------------------------------------------------------------ looking

    @property
    def given(self) -> tuple[str, ...]:
        """The inputs that a run need not be given."""
        return (*self._states, PAST_LENGTH)

    @property
    def length(self) -> int:
        """How many tokens are in it."""
        return self._length

    @property
    def capacity(self) -> int:
        """How many tokens there is room for."""
        return min(s.dims[s.axis] for s in self._states.values())

    @property
    def nbytes(self) -> int:
        """Bytes on the GPU."""
        return sum(tensor_bytes(t._type) for t in (*self._tensors.values(), *self._whole.values()))

    @property
    def disposed(self) -> bool:
        return not self._tensors

    def tensor(self, name: str) -> Tensor:
        """The tensor behind a past input or present output, all slots of it; the cache keeps owning it."""
        self._require_open()
        s = self._states.get(name) or next((s for s in self._states.values() if s.output == name), None)
        if s is not None:
            return Tensor(s.data_type, s.dims, GPU_BUFFER, ml_tensor=self._tensors[s.input])
        raise InputError(f"the cache has no {name!r}; there are {', '.join(self._states)}")

    def numpy(self, name: str) -> np.ndarray:
        """The filled slots of a past input or present output, as an array."""
        axis = next((s.axis for s in self._states.values() if name in (s.input, s.output)), 0)
        return self.tensor(name).numpy().take(range(self._length), axis)

    def __repr__(self) -> str:
        state = "disposed" if self.disposed else f"{self._length} of {self.capacity} tokens, {self.nbytes:,} bytes"
        return f"<Cache: {state}>"

    # ------------------------------------------------------------------ life

    def reset(self, length: int = 0) -> None:
        """Forget all tokens but the first `length`, so that others take their place. Nothing is copied; the slots of
        the others become zeros, as a NaN left in one would be 0 times NaN in every later sum."""
        self._require_open()
        if isinstance(length, bool) or not isinstance(length, (int, np.integer)):
            raise InputError(f"reset: a number of tokens to keep is wanted, not {length!r}")
        if not 0 <= length <= self._length:
            raise InputError(f"reset: the cache has {self._length} tokens, {length} of them cannot be kept")
        if length == 0 or self._ordered:
            for s in self._states.values():
                self._clear(s, int(length), self._length)
        self._length = int(length)

    def _clear(self, s: State, begin: int, end: int) -> None:
        """Make some slots zeros, on the GPU and after everything submitted so far; all where none is kept."""
        type, tensor = TensorType(DataType.parse(s.data_type), s.dims), self._tensors[s.input]
        inner = math.prod(s.dims[s.axis + 1 :]) * type.nbytes // max(math.prod(s.dims), 1)  # bytes of a slot
        if not type.dtype.is_float or begin == end or not type.nbytes:
            return
        if begin and inner % 4:  # buffers are cleared by the word
            array = np.array(self._context.read_tensor(tensor))
            array[(slice(None),) * s.axis + (slice(begin, end),)] = 0
            self._context.write_tensor(tensor, array)
            return
        row = s.dims[s.axis] * inner
        parts = [(i * row + begin * inner, (end - begin) * inner) for i in range(math.prod(s.dims[: s.axis]))]
        device = self._context.device
        with device.holding("clearing a cache"):
            encoder = device.handle.create_command_encoder()
            for offset, size in parts if begin else [(0, tensor.gpu_buffer.size)]:
                encoder.clear_buffer(tensor.gpu_buffer, offset, size)
            device.handle.queue.submit([encoder.finish()])

    def dispose(self) -> None:
        """Free the buffers. Disposing twice is fine."""
        tensors = (*self._tensors.values(), *self._whole.values())
        self._tensors, self._whole = {}, {}
        for tensor in tensors:
            tensor.destroy()
            self._memory.sub("states", tensor_bytes(tensor._type))

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.dispose()

    def __del__(self) -> None:
        if getattr(self, "_tensors", None):
            self.dispose()

    def _require_open(self) -> None:
        if self.disposed:
            raise ClosedError("the cache was disposed")

    # ------------------------------------------------------------------ running

    def take(self) -> None:
        """Use it for one run, until `give_back`. InputError while another does."""
        if not self._busy.acquire(blocking=False):
            raise InputError("run: the cache is in use by another run")

    def give_back(self, tokens: int) -> None:
        """So many tokens are in it besides, after a run."""
        self._length += tokens
        self._busy.release()

    def bind(self, plan: Plan, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor], int]:
        """What a run on `values` has as inputs and outputs besides, and how many tokens it adds. Masks become as long
        as the cache. InputError if something does not fit."""
        self._require_open()
        given = [n for n in self.given if n in values]
        if given:
            raise InputError(f"run: {given[0]!r} is given, which the cache has")
        states = {s.input: s for s in plan.states}
        if set(states) != set(self._states):
            raise InputError("run: the cache is not one of this model's")
        count = max(s.count for s in plan.states)
        total = self._length + count
        if total > self.capacity:
            raise InputError(
                f"run: the cache has {self._length} of {self.capacity} tokens, {count} more do not fit; reset it, or "
                "use a session with a larger cache_capacity"
            )
        inputs: dict[str, Any] = {name: self.tensor(name) for name in states}
        outputs = {s.output: inputs[s.input] for s in plan.states}
        for port in plan.inputs:
            if port.name == PAST_LENGTH:
                inputs[PAST_LENGTH] = np.array(self._length, np.int32)
            elif port.name in values:
                counted = any(p.name == PAST_LENGTH for p in plan.inputs)
                inputs[port.name] = self._mask(port, values[port.name], total, counted)
        return inputs, outputs, count

    def _mask(self, port: Port, value: Any, total: int, counted: bool) -> Any:
        """A mask over the tokens so far as one over all slots; what is no such mask, as it is."""
        array = value.data if isinstance(value, Tensor) and value.location == CPU else value
        if not isinstance(array, np.ndarray) or array.shape == port.shape or array.ndim != len(port.shape):
            return value
        axes = [a for a, (d, e) in enumerate(zip(array.shape, port.shape, strict=True)) if d != e]
        if len(axes) != 1 or (array.shape[axes[0]], port.shape[axes[0]]) != (total, self.capacity):
            return value
        if counted and (array == 1).all() and array.dtype == NUMPY_DTYPES[port.dtype]:
            return self._ones(port)  # slots that are not filled do not count anyway
        rest = [(0, e - d) for d, e in zip(array.shape, port.shape, strict=True)]
        return np.pad(array, rest)

    def _ones(self, port: Port) -> Tensor:
        """A mask that hides nothing, uploaded once."""
        if port.name not in self._whole:
            type = TensorType(DataType.parse(port.dtype), port.shape)
            tensor = self._whole[port.name] = self._make(type)
            self._context.write_tensor(tensor, np.ones(port.shape, type.dtype.numpy))
        return Tensor(port.dtype, port.shape, GPU_BUFFER, ml_tensor=self._whole[port.name])
