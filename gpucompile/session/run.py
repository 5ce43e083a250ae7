"""One run of a session: its inputs and outputs, checked and brought to where they are wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucompile.errors import InputError
from gpucompile.runtime.executable import NUMPY_DTYPES
from gpucompile.runtime.format import Plan, Port
from gpucompile.session.model import Header
from gpucompile.session.tensor import CPU, Tensor

if TYPE_CHECKING:
    from gpucompile.session.session import InferenceSession


class Run:
    """One run: everything checked, GPU tensors for the outputs at hand."""

    def __init__(
        self,
        session: InferenceSession,
        output_names: Sequence[str] | None,
        feed: Mapping[str, Any],
        fetches: Mapping[str, Any] | None,
    ) -> None:
        if not isinstance(feed, Mapping):
            raise InputError(f"run: the inputs are a dict by name, not {type(feed).__name__}")
        self.session = session
        header = session._header
        values = {name: _value(name, value, header) for name, value in feed.items()}
        known = {a.name for a in header.inputs}
        for name in values:
            if name not in known:
                raise InputError(f"run: there is no input {name!r}; there are {', '.join(sorted(known))}")
        self.program = session._program(session._dims_of(values))
        all_names = [o.name for o in header.outputs]
        self.names = all_names if output_names is None else list(output_names)
        fetches = dict(fetches or {})
        for name in (*self.names, *fetches):
            if name not in all_names:
                raise InputError(f"run: there is no output {name!r}; there are {', '.join(all_names)}")
        self.inputs: dict[str, Any] = {}
        for name, value in values.items():
            if isinstance(value, Tensor):
                _check(f"input {name!r}", value, self.program.inputs[name])
                value = value.gpu_buffer if value.location != CPU else value.data
            self.inputs[name] = value
        self.buffers: dict[str, Any] = {}
        self.kept: dict[str, Any] = {}
        for name, target in fetches.items():
            port = self.program.outputs[name]
            if isinstance(target, np.ndarray):
                want = (
                    np.dtype(bool) if name in header.booleans and target.dtype == bool else NUMPY_DTYPES.get(port.dtype)
                )
                if (want is not None and target.dtype != want) or not fits(target.shape, port.shape):
                    found = f"{target.dtype}{list(target.shape)}"
                    raise InputError(f"fetch {name!r} is {found}, the output is {port.dtype}{list(port.shape)}")
            elif isinstance(target, Tensor):
                _check(f"fetch {name!r}", target, port)
                if target.location != CPU:
                    self.buffers[name] = target.gpu_buffer
            else:
                raise InputError(f"fetch {name!r}: a Tensor or an array is wanted, not {type(target).__name__}")
            self.kept[name] = target
        self._refuse_shared()
        for name in self.names:
            location = session._locations[name]
            if name not in self.kept and location != CPU:
                made = session._pool.output(self.program.outputs[name], location)
                self.buffers[name], self.kept[name] = made.gpu_buffer, made
        self.read = {n for n in (*self.names, *fetches) if n not in self.buffers}

    def _refuse_shared(self) -> None:
        """An output's buffer may be an input's only if everything that reads the input comes before what writes it."""
        given = {id(b): n for n, b in self.inputs.items() if hasattr(b, "usage")}
        seen: dict[int, str] = {}
        for name, buffer in self.buffers.items():
            if id(buffer) in seen:
                raise InputError(f"outputs {seen[id(buffer)]!r} and {name!r} share a buffer")
            seen[id(buffer)] = name
            source = given.get(id(buffer))
            if source is not None and not in_place(self.program.executable.plan, source, name):
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


def fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a shape is that of a port, whose -1 stand for what depends on data."""
    return len(shape) == len(wanted) and all(w in (-1, d) for d, w in zip(shape, wanted, strict=True))


def _value(name: str, value: Any, header: Header) -> Any:
    """An input as an array or a Tensor."""
    if isinstance(value, Tensor):
        value._require_open()
        return value
    if not isinstance(value, (np.ndarray, np.generic, int, float)) and callable(getattr(value, "numpy", None)):
        value = value.numpy()  # an OrtValue
    if isinstance(value, (list, tuple)):
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and value.dtype == bool:
        value = value.view(np.uint8) if value.flags.c_contiguous else value.astype(np.uint8)
    return value


def _check(what: str, tensor: Tensor, port: Port) -> None:
    if tensor.data_type != port.dtype or tensor.dims != port.shape:
        raise InputError(f"{what} is {tensor!r}, {port.dtype}{list(port.shape)} is wanted")


def in_place(plan: Plan, input: str, output: str) -> bool:
    """Whether the last step that reads an input comes before the first one that writes an output."""
    (source,) = (p.buffer for p in plan.inputs if p.name == input)
    (target,) = (p.buffer for p in plan.outputs if p.name == output)
    reads = [i for i, s in enumerate(plan.steps) if any(b.buffer == source for b in s.bindings)]
    writes = [i for i, s in enumerate(plan.steps) if any(b.buffer == target for b in s.bindings)]
    return not reads or not writes or max(reads) < min(writes)
