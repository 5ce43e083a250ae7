"""Traces of sessions, in the format that Chrome's tracing and Perfetto open."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence


class Trace:
    """The runs of a session."""

    def __init__(self, prefix: str) -> None:
        self._path = f"{prefix}_{time.strftime('%Y-%m-%d_%H-%M-%S')}_{os.getpid()}.json"
        self._events: list[dict[str, object]] = []
        self._zero = time.perf_counter()
        self.start = time.monotonic_ns()

    @contextlib.contextmanager
    def measure(self, name: str, outputs: Sequence[str]) -> Iterator[None]:
        """Record how long the block takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._events.append(
                {
                    "name": name, "cat": "Session", "ph": "X", "pid": os.getpid(), "tid": threading.get_ident(),
                    "ts": int((start - self._zero) * 1e6), "dur": int((time.perf_counter() - start) * 1e6),
                    "args": {"outputs": list(outputs)},
                }
            )  # fmt: skip

    def write(self) -> str:
        """Write the file; returns its name."""
        with open(self._path, "w", encoding="utf-8") as f:
            json.dump(self._events, f)
        return self._path
