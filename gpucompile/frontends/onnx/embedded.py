"""Reading a model file without reading the weights in it.

    model.onnx --wire format--> its bytes without large `raw_data`, which become external data in model.onnx

Protobuf copies what it parses, and Python's copies it again for whoever asks: twice the weights before anything is
done with them. Here the initializers of the main graph stay in the file and are mapped one by one when they are read,
as those of external files are, so they cost no memory and go with the array that holds them. What does not look as
expected is left as it is: protobuf then says what is wrong with it.

The wire format: https://protobuf.dev/programming-guides/encoding; the field numbers: onnx.proto.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from onnx import ModelProto, StringStringEntryProto, TensorProto

#: Initializers below this many bytes are parsed: a mapping takes whole pages.
SMALLEST = 16 << 10
MAX_FIELDS = 64  # of an initializer with raw data: name, type, dims, data and a few more

WINDOW = 1 << 16  # bytes read at a time

_GRAPH = ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = 5  # GraphProto.initializer
_RAW_DATA = TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number
_LENGTH = 2  # the wire type of bytes and messages


class _UnexpectedError(ValueError):
    """Bytes that are not the protobuf that is looked for."""


def parse_file(path: Path) -> ModelProto:
    """The model in a file; its large initializers refer to the file by external data.

    Raises DecodeError for what protobuf cannot parse, OSError for what cannot be read."""
    model = ModelProto()
    if not path.stat().st_size:
        return model
    with path.open("rb") as file:
        data = _Bytes(file)
        try:
            slim = b"".join(_without_data(data, path.name))
        except _UnexpectedError:
            slim = data[0 : len(data)]
    model.ParseFromString(slim)
    return model


class _Bytes:
    """A file as bytes that are read when asked for. (Mapped, all that is near would become resident as well.)"""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, io.SEEK_END)
        self._start, self._window = 0, b""

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, where: slice) -> bytes:
        start, end = where.start, where.stop
        if not (self._start <= start and end <= self._start + len(self._window)):
            self._file.seek(start)
            found = self._file.read(max(end - start, WINDOW))
            if end - start > WINDOW:
                return found
            self._start, self._window = start, found
        return self._window[start - self._start : end - self._start]


def _without_data(data: _Bytes, location: str) -> Iterator[bytes]:
    """The parts of a model whose initializers lie in `location`, where `data` is."""
    for field, start, value, end in _fields(data, 0, len(data)):
        if field != _GRAPH:
            yield data[start:end]
            continue
        graph = list(_graph(data, value, end, location))
        yield _header(_GRAPH, sum(map(len, graph)))
        yield from graph


def _graph(data: _Bytes, start: int, end: int, location: str) -> Iterator[bytes]:
    for field, at, value, stop in _fields(data, start, end):
        tensor = None
        if field == _INITIALIZER and stop - value > SMALLEST:
            tensor = _tensor(data, value, stop, location)
        if tensor is None:
            yield data[at:stop]
        else:
            yield _header(_INITIALIZER, len(tensor))
            yield tensor


def _tensor(data: _Bytes, start: int, end: int, location: str) -> bytes | None:
    """An initializer with external data in place of raw data; None for one without much of it."""
    kept: list[bytes] = []
    where: tuple[int, int] | None = None
    for count, (field, at, value, stop) in enumerate(_fields(data, start, end)):
        if count == MAX_FIELDS:
            return None
        if field == _RAW_DATA:
            where = value, stop
        else:
            kept.append(data[at:stop])
    if where is None or where[1] - where[0] < SMALLEST:
        return None
    entries = {"location": location, "offset": str(where[0]), "length": str(where[1] - where[0])}
    reference = TensorProto(
        data_location=TensorProto.EXTERNAL,
        external_data=[StringStringEntryProto(key=k, value=v) for k, v in entries.items()],
    )
    instead = bytes(reference.SerializeToString())
    return b"".join(kept) + instead


def _fields(data: _Bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of the message in `data[start:end]`: number, where it starts, where its value starts and ends. The
    number of a field that is no message and no bytes is negative."""
    at = start
    while at < end:
        first = at
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        value = at
        if wire == _LENGTH:
            size, value = _varint(data, at, end)
            at = value + size
        elif wire == 0:
            _, at = _varint(data, at, end)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise _UnexpectedError(f"wire type {wire}")
        if at > end:
            raise _UnexpectedError("a field ends outside its message")
        yield (number if wire == _LENGTH else -number), first, value, at


def _varint(data: _Bytes, at: int, end: int) -> tuple[int, int]:
    """An integer of 7 bits a byte, and where it ends."""
    value = 0
    for i, byte in enumerate(data[at : min(at + 10, end)]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise _UnexpectedError("an integer without an end")


def _header(field: int, size: int) -> bytes:
    """The tag and length before a message."""
    out = bytearray()
    for value in (field << 3 | _LENGTH, size):
        while value >= 0x80:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
    return bytes(out)
