"""`Pass`, the base class of all passes, and `Context`, what a pass is given besides the graph.

    @dataclass(frozen=True)
    class FoldThings(Pass):                      # registers as `fold-things`
        \"\"\"things(x) -> x\"\"\"

        max_bytes: int = 1 << 20                 # the option max_bytes=...

        def run(self, graph: Graph, ctx: Context) -> bool:
            ...                                  # rewrite in place; True if anything changed

Every module of `gpucompile.passes` is imported when the first pipeline is parsed: passes are discovered, not listed.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from gpucompile.ir.graph import Graph, Node, Value
from gpucompile.target import Target

PASSES_PACKAGE = "gpucompile.passes"


@dataclass
class Context:
    """What passes share during one run of a pipeline: the target, remarks, counters.

    `why_not` asks for remarks (why a pattern did not fire); without it they are dropped. `reproducer_dir` is where the
    manager writes the files that replay a failure (default: a new folder in the system's temporary one)."""

    target: Target = field(default_factory=Target.portable)
    why_not: bool = False
    reproducer_dir: Path | None = None
    remarks: list[Remark] = field(default_factory=list)
    counters: dict[str, dict[str, int]] = field(default_factory=dict)  # pass name -> counter -> number
    pass_name: str = ""  # of the running pass; set by the manager

    def remark(self, where: Node | Value | None, text: str) -> None:
        """Note why something was not rewritten, shown by `--why-not`."""
        if self.why_not:
            self.remarks.append(Remark(self.pass_name, "" if where is None else repr(where), text))

    def count(self, what: str, n: int = 1) -> None:
        """Add to a counter of the running pass, shown by `--statistics`."""
        counters = self.counters.setdefault(self.pass_name, {})
        counters[what] = counters.get(what, 0) + n


@dataclass(frozen=True)
class Remark:
    """Why a rewrite did not fire: the pass, the node or value it looked at, the reason."""

    pass_name: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.pass_name}: {self.where + ': ' if self.where else ''}{self.text}"


@dataclass(frozen=True)
class Pass:
    """One graph transformation. Subclasses are frozen dataclasses: their fields are the pass's options and need
    defaults; subclassing registers them under the class name in kebab-case."""

    name: ClassVar[str] = ""
    registry: ClassVar[dict[str, type[Pass]]] = {}
    #: Relative error of its results that the pass may add on purpose (lower precision); none for nearly all.
    tolerance: ClassVar[float] = 0.0

    def __init_subclass__(cls, abstract: bool = False, **kw: Any) -> None:
        super().__init_subclass__(**kw)
        if abstract:
            return
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()
        if Pass.registry.setdefault(cls.name, cls).__qualname__ != cls.__qualname__:
            raise TypeError(f"two passes are called {cls.name}")
        Pass.registry[cls.name] = cls

    def run(self, graph: Graph, ctx: Context) -> bool:
        """Transform the graph in place; whether anything changed."""
        raise NotImplementedError(f"{type(self).__name__}.run")

    def options(self) -> dict[str, Any]:
        """Option names and values in declaration order."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@cache
def discover() -> None:
    """Import every module of `gpucompile.passes` once, so that all passes are registered.

    By name, inside a function: passes build on this package, not the other way round."""
    package = importlib.import_module(PASSES_PACKAGE)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{PASSES_PACKAGE}.{module.name}")


@cache
def named_pipelines() -> dict[str, str]:
    """Name -> pipeline text, the dict PIPELINES of `gpucompile.passes.pipelines`."""
    try:
        module = importlib.import_module(f"{PASSES_PACKAGE}.pipelines")
    except ModuleNotFoundError as e:
        if e.name != f"{PASSES_PACKAGE}.pipelines":
            raise
        return {}
    return dict(module.PIPELINES)


def all_passes() -> dict[str, type[Pass]]:
    """Name -> class of every pass, sorted by name."""
    discover()
    return dict(sorted(Pass.registry.items()))
