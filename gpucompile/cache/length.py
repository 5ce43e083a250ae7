"""Whether a model computes with the length of its past otherwise than by the shapes that follow from it.

A graph has static shapes, so a model that reads the size of its past (to number positions, say) has it as a constant
after import, and would use the cache's capacity in its place. Imports for other pasts tell, for one that is a token
shorter (positions) and for an empty one (whatever begins at some length): they are node by node the same but for
extents and for constants that run along the cache, which are the same at both ends, and which `slots` looks at.
"""

from __future__ import annotations

from collections.abc import Container
from itertools import zip_longest

import numpy as np

from gpucompile.errors import UnsupportedError
from gpucompile.ir.graph import Constant, Graph, Node
from gpucompile.ops.movement import Concat, Expand, Reshape, Slice

#: Attributes that are nothing but extents.
_EXTENTS = {Reshape: ("new_shape",), Expand: ("new_shape",), Slice: ("sizes",)}


def require_length_only_in_shapes(graph: Graph, shorter: Graph, tokens: int, pasts: Container[str]) -> None:
    """Raise UnsupportedError naming the first node in which the length of the past is more than an extent. The past of
    `shorter` is so many tokens shorter; where it is empty, its concat with what is new is not there."""
    nodes = list(graph.nodes)
    if any(v.name in pasts and not v.type.size for v in shorter.inputs):
        nodes = [n for n in nodes if not (isinstance(n.op, Concat) and n.operand_values[0].name in pasts)]
    for a, b in zip_longest(nodes, shorter.nodes):
        if a is None or b is None or type(a.op) is not type(b.op):
            raise UnsupportedError(
                "cache: the model's nodes depend on the length of its past, not only their shapes: "
                f"{_name(a)} where the past is {tokens} shorter is {_name(b)}"
            )
        if isinstance(a.op, Constant) and isinstance(b.op, Constant):
            if not _same_ends(a.op.value.array, b.op.value.array):
                reader = next((n.op.name for n in a.output.users), "nobody")
                raise UnsupportedError(
                    f"cache: a constant of type {a.output.type}, read by {reader}, depends on the length of the past: "
                    "the model computes positions from it. Export it with position_ids as an input"
                )
        else:
            _compare(a, b, tokens)


def _name(node: Node | None) -> str:
    return "nothing" if node is None else node.op.name


def _same_ends(one: np.ndarray, two: np.ndarray) -> bool:
    """Whether two arrays are the same; of axes that are not of one length, at both ends, or as far as the shorter one
    goes. So are those that tell no slots apart, and causal masks, or numbers of slots; `slots` looks at the rest."""
    ends = one, two
    for axis, (n, m) in enumerate(zip(one.shape, two.shape, strict=False)):
        if n != m and n and m:
            ends = ends[0].take([0, -1], axis), ends[1].take([0, -1], axis)
    if ends[0].shape != ends[1].shape or _same_bytes(*ends):
        return True
    return one.shape != two.shape and _same_bytes(one[tuple(slice(n) for n in two.shape)], two)


def _same_bytes(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of one type are bit for bit the same; without a temporary, as all weights are compared."""
    if not a.size:
        return True
    one, two = (np.ascontiguousarray(x).reshape(-1).view(np.uint8).data for x in (a, b))
    return one == two


def _compare(a: Node, b: Node, tokens: int) -> None:
    """Refuse attributes that differ and are no extents."""
    mine, other = a.op.attributes(), b.op.attributes()
    extents = next((names for kind, names in _EXTENTS.items() if isinstance(a.op, kind)), ())
    for name, value in mine.items():
        if value != other[name] and name not in extents:
            raise UnsupportedError(
                f"cache: {name} of {a.op.name} depends on the length of the past ({value} and {other[name]} for a past "
                f"that is {tokens} shorter)"
            )
