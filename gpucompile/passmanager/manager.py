"""`PassManager`: runs the passes of a pipeline on a graph, verifies, and leaves a file that replays a failure.

    for each pass:  instruments.before -> pass.run -> verify if it changed the graph -> instruments.after

A failure (an exception in a pass, a broken invariant, an instrument's complaint) becomes a PassError that names the
pass, the cause and the reproducer: the .gir text of the graph before that pass, with the rest of the pipeline and the
target in comment lines at its top. The state before the pass is not kept on the way: the manager clones the graph once,
at the start, and repeats the passes that went well when it needs it.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from gpucompile.errors import DeviceError, ModelError, ParseError, PassError, UnsupportedError
from gpucompile.ir.graph import Graph
from gpucompile.ir.text import read_gir, write_gir
from gpucompile.passmanager.base import Context, Pass
from gpucompile.passmanager.instruments import Instrument
from gpucompile.passmanager.pipeline import parse_pipeline, print_pass, print_pipeline
from gpucompile.target import Target

#: Failures that are the model's or the machine's, not the pass's: they go through unchanged.
NOT_OURS = (DeviceError, ModelError, UnsupportedError)


class PassManager:
    """Runs a pipeline (text or passes) on graphs, watched by instruments.

    `verify` checks the graph after every pass that says it changed something. One that changes the graph and does not
    say so is found by the instruments `CheckReports` and `CheckEach`."""

    def __init__(
        self, pipeline: str | Sequence[Pass], instruments: Sequence[Instrument] = (), verify: bool = True
    ) -> None:
        self.passes = parse_pipeline(pipeline) if isinstance(pipeline, str) else tuple(pipeline)
        self.instruments = tuple(instruments)
        self.verify = verify

    def run(
        self, graph: Graph, ctx: Context | None = None, progress: Callable[[str, int, int], None] | None = None
    ) -> bool:
        """Transform the graph in place; whether any pass changed it. `progress` is called with ("passes", done, total).

        Raises PassError when a pass fails; UnsupportedError, ModelError and DeviceError of a pass go through."""
        ctx = ctx or Context()
        start = graph.clone()
        changed_any = False
        for i, p in enumerate(self.passes):
            if progress:
                progress("passes", i, len(self.passes))
            try:
                changed_any |= self._run_one(p, graph, ctx)
            except NOT_OURS:
                raise
            except Exception as e:
                raise self._failure(i, start, ctx, e) from e
            if any(instrument.stop for instrument in self.instruments):
                break
        return changed_any

    def _run_one(self, p: Pass, graph: Graph, ctx: Context) -> bool:
        for instrument in self.instruments:
            instrument.before(p, graph, ctx)
        ctx.pass_name = p.name
        changed = p.run(graph, ctx)
        if changed is not True and changed is not False:
            raise TypeError(f"run returned {changed!r}, neither True nor False")
        if self.verify:
            graph.verify()
        for instrument in reversed(self.instruments):
            instrument.after(p, graph, ctx, changed)
        return changed

    def _failure(self, index: int, start: Graph, ctx: Context, cause: Exception) -> PassError:
        """The error for a failure of pass `index`, its reproducer written."""
        p = self.passes[index]
        why = f"{type(cause).__name__}: {cause}".rstrip(": ")
        try:
            path = self._write_reproducer(index, start, ctx, why)
        except Exception as e:  # the failure itself matters more
            return PassError(f"pass {p.name} failed: {why} (no reproducer could be written: {e})")
        checks = "".join(f" {i.option}" for i in self.instruments if i.option)
        return PassError(f"pass {p.name} failed: {why}; replay it with: gpucompile opt --replay {path}{checks}")

    def _write_reproducer(self, index: int, start: Graph, ctx: Context, why: str) -> Path:
        graph, first = start.clone(), index
        quiet = Context(target=ctx.target)
        try:
            for p in self.passes[:index]:
                p.run(graph, quiet)
        except Exception:  # not deterministic; then replay from the start
            graph, first = start, 0
        name = self.passes[index].name
        if ctx.reproducer_dir is None:
            folder = Path(tempfile.mkdtemp(prefix="gpucompile-"))
        else:
            folder = ctx.reproducer_dir
            folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"failed-{index + 1:02d}-{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.gir"
        header = {
            "reproducer": f"pass {print_pass(self.passes[index])} failed: {why}",
            "pipeline": print_pipeline(self.passes[first:]),
            "target": json.dumps(dataclasses.asdict(ctx.target)),
        }
        lines = [f"// {key}: {' '.join(value.split())}\n" for key, value in header.items()]
        write_gir(path, graph, "".join(lines))
        return path


def read_reproducer(path: Path) -> tuple[Graph, str, Target]:
    """Graph, rest of the pipeline and target of a file that a failed run left. Raises ParseError."""
    graph = read_gir(path)
    found: dict[str, str] = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.startswith("// "):
                break
            key, _, value = line[3:].partition(": ")
            found[key] = value.rstrip("\n")
    if "pipeline" not in found:
        raise ParseError(f"{path} is no reproducer: it has no line '// pipeline: ...' at its top")
    try:
        values = json.loads(found.get("target", "{}"))
        target = Target(**{**values, "features": tuple(values.get("features", ()))})
    except (TypeError, ValueError) as e:
        raise ParseError(f"{path}: malformed '// target: ...' line: {e}") from e
    return graph, found["pipeline"], target
