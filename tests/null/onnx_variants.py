"""What must hold for a damaged model: an error of ours, or a correct result.

Numbers of the interpreter for imported graphs are compared with onnxruntime's, where that loads the variant. Both run
in processes of their own (`Apart`), as a damaged model might crash or stop one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from gpucompile.errors import InputError, ModelError, UnsupportedError
from tests.null.onnx_mutations import variant

#: Graphs with larger values are not computed.
LARGEST = 1 << 22
#: Address space that a process may take beyond what it has: a variant that allocates what its sizes say fails.
MEMORY = 6 << 30


# one variant --------------------------------------------------------------------------------------------------------


def ours(seed: int, compiled: bool) -> tuple[str, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(the error or "", inputs, outputs) of a variant; other exceptions pass. Both are empty where the
    graph is too large to be computed here."""
    from gpucompile.compiler import compile
    from gpucompile.frontends.onnx.importer import import_model
    from gpucompile.ir.interpret import interpret

    try:
        graph = import_model(variant(seed)[1])
        graph.verify()
        if compiled:
            compile(graph)
    except (InputError, ModelError, UnsupportedError) as e:  # others would be defects of ours
        return f"{type(e).__name__}: {e}", {}, {}
    if any(v.type.size > LARGEST for v in (*graph.inputs, *(v for node in graph.nodes for v in node.outputs))):
        return "", {}, {}
    rng = np.random.default_rng(seed + 1)
    feeds = {v.name: rng.standard_normal(v.type.shape).astype(v.type.dtype.numpy) for v in graph.inputs}
    with np.errstate(all="ignore"):
        return "", feeds, dict(interpret(graph, feeds))


def theirs(seed: int, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """What onnxruntime computes for a variant, or None where it refuses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        with contextlib.redirect_stdout(None):  # it prints some refusals
            session = onnxruntime.InferenceSession(variant(seed)[1], options, providers=["CPUExecutionProvider"])
        return dict(zip((o.name for o in session.get_outputs()), session.run(None, feeds)))
    except Exception:
        return None


def difference(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> str:
    """What differs between two results, or "". Where the reference overflows only shapes are compared."""
    if list(got) != list(want):
        return f"outputs {list(got)} instead of {list(want)}"
    for name, w in want.items():
        g = got[name]
        w = w.astype(np.uint8) if w.dtype == np.bool_ else np.asarray(w)
        if (g.shape, g.dtype) != (w.shape, w.dtype):
            return f"{name} is {g.dtype}{list(g.shape)} instead of {w.dtype}{list(w.shape)}"
        if w.dtype.kind == "f" and (not np.isfinite(w).all() or np.abs(w).max(initial=0) > 1e15):
            continue
        scale = float(np.abs(w).max(initial=1e-6)) if w.dtype.kind == "f" else 0.0
        if not np.allclose(g, w, rtol=0, atol=1e-4 * scale):
            return f"{name} differs by {np.abs(g - w).max()}"
    return ""


# processes ----------------------------------------------------------------------------------------------------------


class Apart:
    """Calls functions of importable modules in another process, which is replaced when it dies or takes too long."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.pool: ProcessPoolExecutor | None = None

    def call(self, function: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
        """(the result, "") or (None, what happened instead)."""
        if self.pool is None:
            self.pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _start)
            self.pool.submit(os.getpid).result(120)  # starting does not count
        future = self.pool.submit(function, *arguments)
        try:
            return future.result(self.seconds), ""
        except TimeoutError:
            problem = f"takes more than {self.seconds} s"
        except BrokenProcessPool:
            problem = "crashes"
        except Exception as e:
            return None, f"{type(e).__name__}: {e}"
        self.close()
        return None, problem

    def close(self) -> None:
        if self.pool is not None:
            for process in list((self.pool._processes or {}).values()):
                process.kill()
            self.pool.shutdown()
            self.pool = None

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _start() -> None:
    """In a new process: imports, warnings as errors, and a limit of memory where the system has one."""
    import onnxruntime

    import gpucompile.frontends.onnx.importer

    del onnxruntime, gpucompile
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "output .* has the shape")  # as ONNX Runtime warns
    status = Path("/proc/self/status")
    if status.is_file():
        import resource

        used = int(next(line for line in status.read_text().splitlines() if line.startswith("VmSize")).split()[1]) << 10
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def raising() -> None:
    raise KeyError("x")


def crashing() -> None:
    os.abort()


def hanging() -> None:
    time.sleep(60)


def warning() -> None:
    warnings.warn("w", stacklevel=1)


def allocating() -> None:
    np.ones(2 * MEMORY, np.uint8)


def check(seeds: Iterable[int], compiled: Callable[[int], bool]) -> tuple[list[str], dict[str, int]]:
    """Problems with the variants `seeds`, and how many were refused, right, too large, or only run by us."""
    problems: list[str] = []
    counts = dict.fromkeys(("refused", "right", "large", "not compared"), 0)
    with Apart(20.0) as here, Apart(20.0) as there:
        for seed in seeds:
            result, problem = here.call(ours, seed, compiled(seed))
            if problem:
                problems.append(f"{seed} ({variant(seed)[0]}): {problem}")
                continue
            error, feeds, got = result
            if error or not got:
                counts["refused" if error else "large"] += 1
                continue
            want, _ = there.call(theirs, seed, feeds)
            counts["not compared" if want is None else "right"] += 1
            wrong = difference(got, want) if want is not None else ""
            if wrong:
                problems.append(f"{seed} ({variant(seed)[0]}): {wrong}")
    return problems, counts
