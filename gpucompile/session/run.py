"""One run of a session: its inputs and outputs, checked and brought to where they are wanted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucompile.errors import InputError
from gpucompile.runtime.executable import NUMPY_DTYPES
from gpucompile.runtime.format import Plan, Port
from gpucompile.session.model import TYPE_NAMES, Header
from gpucompile.session.ortvalue import OrtValue
from gpucompile.session.tensor import CPU, Tensor

if TYPE_CHECKING:
    from gpucompile.session.cache import Cache
    from gpucompile.session.session import InferenceSession


class Run:
    """One run: everything checked, GPU tensors for the outputs at hand. A context, which keeps its program open; where
    it ends with an error, the tensors that were made for the outputs are given back."""

    def __init__(
        self,
        session: InferenceSession,
        output_names: Sequence[str] | None,
        feed: Mapping[str, Any],
        fetches: Mapping[str, Any] | None,
        locations: Mapping[str, str] | None = None,
        cache: Cache | None = None,
    ) -> None:
        """`locations` by output name, where they are not the session's."""
        if not isinstance(feed, Mapping):
            raise InputError(f"run: the inputs are a dict by name, not {type(feed).__name__}")
        self.session = session
        self._made: list[Tensor] = []
        self._cache, self._tokens, self._took = cache, 0, False
        session._context._require_open()
        header = session._header
        for name in feed:
            if name not in header.input_names:
                raise InputError(f"run: {_unknown_input(name, header)}")
        require_inputs(feed, header, () if cache is None else cache.given)
        values = {name: _value(name, value, header) for name, value in feed.items()}
        self.program = session._program(session._dims_of(values))
        try:
            fetches = fetches or {}
            if cache is not None:
                cache.take()
                self._took = True
                more, ends, self._tokens = cache.bind(self.program.executable.plan, values)
                for name in ends:
                    if name in fetches:
                        raise InputError(f"run: fetch {name!r} is given, which the cache has")
                values, fetches = values | more, {**fetches, **ends}
            self._prepare(values, output_names, fetches, locations or session._locations)
        except BaseException:
            self._end(failed=True)
            raise

    def _prepare(
        self,
        values: Mapping[str, Any],
        output_names: Sequence[str] | None,
        fetches: Mapping[str, Any],
        locations: Mapping[str, str],
    ) -> None:
        session, header = self.session, self.session._header
        self.names: Sequence[str] = list(output_names) if output_names else header.output_names
        for name in (*self.names, *fetches):
            if name not in header.output_names:
                raise InputError(f"run: there is no output {name!r}; there are {', '.join(header.output_names)}")
        self.inputs: dict[str, Any] = {}
        for name, value in values.items():
            if isinstance(value, Tensor):
                _check(f"input {name!r}", value, self.program.inputs[name])
                value = value.gpu_buffer if value.location != CPU else value.data
            if isinstance(value, np.ndarray) and value.dtype == bool and self.program.inputs[name].dtype == "uint8":
                value = value.view(np.uint8) if value.flags.c_contiguous else value.astype(np.uint8)
            self.inputs[name] = value
        self.buffers: dict[str, Any] = {}
        self.kept: dict[str, Any] = {}
        for name, target in fetches.items():
            self.kept[name] = target = target.tensor if isinstance(target, OrtValue) else target
            self._fetch(name, target)
        self._refuse_shared()
        for name in self.names:
            location = locations[name]
            if name not in self.kept and location != CPU:
                made = session._pool.output(self.program.outputs[name], location)
                self._made.append(made)
                self.buffers[name], self.kept[name] = made.gpu_buffer, made
        self.read = {n for n in (*self.names, *fetches) if n not in self.buffers}

    def _fetch(self, name: str, target: Any) -> None:
        """Check a pre-allocated output."""
        port = self.program.outputs[name]
        if isinstance(target, Tensor):
            _check(f"fetch {name!r}", target, port)
            if target.location != CPU:
                self.buffers[name] = target.gpu_buffer
                return
            array = target.data
        elif isinstance(target, np.ndarray):
            array = target
            is_bool = name in self.session._header.booleans and target.dtype == bool
            want = np.dtype(bool) if is_bool else NUMPY_DTYPES.get(port.dtype)
            if target.dtype != want or target.shape != port.shape:
                found = f"{target.dtype}{list(target.shape)}"
                raise InputError(f"fetch {name!r} is {found}, the output is {port.dtype}{list(port.shape)}")
        else:
            raise InputError(f"fetch {name!r}: a Tensor or an array is wanted, not {type(target).__name__}")
        if not array.flags.writeable:
            raise InputError(f"fetch {name!r}: the array is read-only")

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self._end(failed=e is not None)

    def _end(self, failed: bool) -> None:
        if self._cache is not None and self._took:
            self._cache.give_back(0 if failed else self._tokens)
        for tensor in self._made if failed else ():
            tensor.dispose()
        self.session._done(self.program)

    def _refuse_shared(self) -> None:
        """An output's buffer may be an input's only if everything that reads the input comes before what writes it."""
        given = {id(b): n for n, b in self.inputs.items() if hasattr(b, "usage")}
        seen: dict[int, str] = {}
        for name, buffer in self.buffers.items():
            if id(buffer) in seen:
                raise InputError(f"outputs {seen[id(buffer)]!r} and {name!r} share a buffer")
            seen[id(buffer)] = name
            source = given.get(id(buffer))
            plan = self.program.executable.plan if source is not None else None
            if plan is not None and source is not None and not in_place(plan, source, name):
                raise InputError(
                    f"output {name!r} and input {source!r} share a buffer, and the input is read afterwards"
                )

    def results(self, arrays: Mapping[str, np.ndarray]) -> list[Any]:
        booleans = self.session._header.booleans
        found: dict[str, Any] = dict(self.kept)
        for name, array in arrays.items():
            array = array.astype(bool) if name in booleans else array
            target = self.kept.get(name)
            if target is None:
                found[name] = array
            else:  # an array, or a tensor on the host
                (target if isinstance(target, np.ndarray) else target.data)[...] = array
        return [found[name] for name in self.names]


#: ONNX Runtime's names of types -> numpy's.
NUMPY_NAMES = {f"tensor({theirs})": ours for ours, theirs in TYPE_NAMES.items() if ours not in ("bfloat16",)}
NUMPY_NAMES |= {"tensor(int4)": "int8", "tensor(uint4)": "uint8", "tensor(string)": "object"}


def require_inputs(feed: Mapping[str, Any], header: Header, given: Collection[str] = ()) -> None:
    """Raise InputError unless every input is there, or among those that are `given` otherwise."""
    missing = [a.name for a in header.inputs if a.name not in feed and a.name not in given]
    if missing:
        raise InputError(f"run: the input {missing[0]!r} is missing; given are {', '.join(map(repr, feed)) or 'none'}")


def _unknown_input(name: str, header: Header) -> str:
    if any(a.name == name for a in header.overridable):
        return f"{name!r} is an initializer, whose value is compiled in; change it in the model"
    return f"there is no input {name!r}; there are {', '.join(sorted(header.input_names))}"


def _value(name: str, value: Any, header: Header) -> Any:
    """An input as an array or a Tensor."""
    if isinstance(value, OrtValue):
        value = value.tensor
    if isinstance(value, Tensor):
        value._require_open()
        return value
    if not isinstance(value, (np.ndarray, np.generic, int, float)) and callable(getattr(value, "numpy", None)):
        value = value.numpy()  # ONNX Runtime's OrtValue
    if isinstance(value, (list, tuple)):
        value = list(value) if _is_sequence(name, header) else _array(name, value, header)
    return value


def _is_sequence(name: str, header: Header) -> bool:
    """Whether the input is a list of tensors, which the CPU takes, and not a tensor."""
    return any(a.name == name and "seq(" in a.type for a in header.inputs)


def _array(name: str, value: Any, header: Header) -> np.ndarray:
    """A list as an array of the input's type."""
    (type,) = (a.type for a in header.inputs if a.name == name)
    try:
        return np.asarray(value, NUMPY_NAMES[type])
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise InputError(f"run: input {name!r}: the list is no {type}: {e}") from e


def _check(what: str, tensor: Tensor, port: Port) -> None:
    tensor._require_open()
    if tensor.data_type != port.dtype or tensor.dims != port.shape:
        raise InputError(f"{what} is {tensor!r}, {port.dtype}{list(port.shape)} is wanted")


def in_place(plan: Plan, input: str, output: str) -> bool:
    """Whether the run updates an input in place to be the output, or the last step that reads it comes before the
    first one that writes the output."""
    if (input, output) in plan.updated:
        return True
    (source,) = (p.buffer for p in plan.inputs if p.name == input)
    (target,) = (p.buffer for p in plan.outputs if p.name == output)
    reads = [i for i, s in enumerate(plan.steps) if any(b.buffer == source for b in s.bindings)]
    writes = [i for i, s in enumerate(plan.steps) if any(b.buffer == target for b in s.bindings)]
    return not reads or not writes or max(reads) < min(writes)
