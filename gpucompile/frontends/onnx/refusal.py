"""What a model is refused for: all of it, by reason.

An import stops at the first node that it cannot take. The model is then imported once more, with a host that takes
every node and runs none: what that host was left are the reasons. A node behind such a node can be looked at as far as
ONNX knows types and shapes without running it; the others are counted. Of nodes that the import did not come to, and of
bodies of nodes that it did not take, what is wrong whatever the shapes are is listed: ops that are unknown, and data of
types that are not supported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import onnx

from gpucompile.errors import ModelError, UnsupportedError, counted
from gpucompile.frontends.onnx.call import read_attributes, rephrased, resolved
from gpucompile.frontends.onnx.fallback import HostNode
from gpucompile.frontends.onnx.foreign import FOREIGN
from gpucompile.frontends.onnx.scope import Scope, where
from gpucompile.frontends.onnx.tensors import DATA_TYPES, data_type, read_tensor
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
    found: Kept, first: UnsupportedError | ModelError | None, end: Exception | None, unseen: Sequence[HostNode] = ()
) -> UnsupportedError | ModelError | None:
    """The error for a model of which nodes were kept that nobody runs. `first` has stopped the import and is what there
    is to say where it is the only one; `end` has stopped the listing; `unseen` is what else `lacking` found. None where
    that is nothing and nothing was kept."""
    kept = [n for n in found.nodes if not n.follows]
    behind = len(found.nodes) - len(kept)
    roots = [*kept, *(n for n in unseen if not any(where(n.proto) in k.reason for k in kept))]
    lines = [*found.inputs, *grouped(roots)]
    if not lines:
        return None
    if not kept and not found.inputs:  # the import did not come to the nodes
        return UnsupportedError("not supported:\n  " + "\n  ".join([str(first or end), *lines]))
    if behind:
        lines.append(f"{counted(behind, 'node')} behind {'it' if len(roots) < 2 else 'these'} could not be looked at")
    if end is not None and str(end) != str(first):
        lines.append(f"the rest could not be looked at: {end}")
    if len(roots) + len(found.inputs) > 1:
        return UnsupportedError("not supported:\n  " + "\n  ".join(lines))
    alone = str(first) if first is not None else lines[0].removeprefix("1x ")
    return rephrased(first or UnsupportedError(), "; ".join([alone, *lines[1:]]))


def lacking(scope: Scope, kept: Sequence[HostNode]) -> list[HostNode]:
    """What cannot be imported whatever the shapes are: nodes that were not looked at, and those in bodies of what was
    kept. Bodies of nodes that were imported do not count: a branch may lack anything that is not taken."""
    known = {tuple(n.proto.output) for n in kept}
    found: list[HostNode] = []
    with contextlib.suppress(ModelError):  # a model that is wrong in another way, too
        for node in scope.needed:
            if tuple(node.output) in known:
                found += _in_bodies(scope, node)
            elif not any(name in scope.env for name in node.output):
                found += _lacking(scope, node)
    return found


def _lacking(scope: Scope, node: onnx.NodeProto, place: str = "") -> Iterator[HostNode]:
    reason = scope.lacking(node)
    try:
        if not reason:
            to = read_attributes(resolved(node, scope.attributes)).get("to", 0)
            if node.op_type == "Cast" and to not in FOREIGN:
                data_type(to, "the result")
            for tensor in filter(None, map(scope.stored, node.input)):
                if tensor.data_type not in DATA_TYPES:
                    read_tensor(tensor, scope.folder)
    except UnsupportedError as e:
        reason = str(e)
    if reason:
        yield HostNode(node, reason + place, {})
    yield from _in_bodies(scope, node)


def _in_bodies(scope: Scope, node: onnx.NodeProto) -> Iterator[HostNode]:
    for a in node.attribute:
        for graph in (a.g, *a.graphs):
            inner = scope.inner(graph)
            for part in inner.needed:
                yield from _lacking(inner, part, f" (in the {a.name} of {where(node)})")


def grouped(nodes: Sequence[HostNode]) -> list[str]:
    """A line for each op and reason: how many nodes, and the names of some."""
    groups: dict[tuple[str, str], list[str]] = {}
    for n in nodes:
        groups.setdefault((n.kind, n.reason), []).append(n.title)
    return [
        f"{len(names)}x {kind} {', '.join(map(repr, names[:EXAMPLES]))}{', ...' * (len(names) > EXAMPLES)}: {reason}"
        for (kind, reason), names in groups.items()
    ]
