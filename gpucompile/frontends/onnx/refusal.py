"""What a model is refused for: all of it, by reason.

An import stops at the first node that it cannot take. The model is then imported once more, with a host that takes
every node and runs none: what that host was left are the reasons. A node behind such a node can be looked at as far as
ONNX knows types and shapes without running it; the others are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import onnx

from gpucompile.errors import ModelError, UnsupportedError, counted
from gpucompile.frontends.onnx.call import rephrased
from gpucompile.frontends.onnx.fallback import HostNode
from gpucompile.ir.graph import Node, Value

#: The "host" of nodes that are only to be listed.
NOBODY = "nobody"

#: How many nodes a line names.
EXAMPLES = 3


class Nobody:
    """`Backends` of an import that only looks at what the importer lacks."""

    def reject(self, node: Node, known: Callable[[Value], bool]) -> str | None:
        """The importer's matter only: None."""
        return None

    def host(self, model: onnx.ModelProto) -> tuple[str, Sequence[onnx.TypeProto]]:
        """Every node is taken; nothing is said about its results."""
        return NOBODY, ()


class Kept(Protocol):
    """What an import has kept for hosts: `fallback.Keeper`."""

    nodes: list[HostNode]
    inputs: list[str]


def refusal(
    found: Kept, first: UnsupportedError | ModelError | None, end: Exception | None
) -> UnsupportedError | ModelError | None:
    """The error for a model of which nodes were kept that nobody runs. `first` has stopped the import and is what there
    is to say where it is the only one; `end` has stopped the listing. None where nothing was kept."""
    roots = [n for n in found.nodes if not n.follows]
    behind = len(found.nodes) - len(roots)
    lines = [*found.inputs, *grouped(roots)]
    if not lines:
        return None
    if behind:
        lines.append(f"{counted(behind, 'node')} behind {'it' if len(roots) < 2 else 'these'} could not be looked at")
    if end is not None and str(end) != str(first):
        lines.append(f"the rest could not be looked at: {end}")
    if len(roots) + len(found.inputs) > 1:
        return UnsupportedError("not supported:\n  " + "\n  ".join(lines))
    alone = str(first) if first is not None else lines[0].removeprefix("1x ")
    return rephrased(first or UnsupportedError(), "; ".join([alone, *lines[1:]]))


def grouped(nodes: Sequence[HostNode]) -> list[str]:
    """A line for each op and reason: how many nodes, and the names of some."""
    groups: dict[tuple[str, str], list[str]] = {}
    for n in nodes:
        groups.setdefault((n.kind, n.reason), []).append(n.title)
    return [
        f"{len(names)}x {kind} {', '.join(map(repr, names[:EXAMPLES]))}{', ...' * (len(names) > EXAMPLES)}: {reason}"
        for (kind, reason), names in groups.items()
    ]
