"""Whether a model computes with the length of its past otherwise than by the shapes that follow from it.

A graph has static shapes, so a model that reads the size of its past (to number positions, say) has it as a constant
after import, and would use the cache's capacity in its place. Two imports, for pasts that differ by one token, tell:
they are node by node the same but for extents and for constants that run along the cache, which `slots` looks at.
"""

from __future__ import annotations

from itertools import zip_longest

import numpy as np

from gpucompile.errors import UnsupportedError
from gpucompile.ir.graph import Constant, Graph, Node
from gpucompile.ops.movement import Expand, Reshape, Slice

#: Attributes that are nothing but extents.
_EXTENTS = {Reshape: ("new_shape",), Expand: ("new_shape",), Slice: ("sizes",)}


def require_length_only_in_shapes(graph: Graph, shorter: Graph) -> None:
    """Raise UnsupportedError naming the first node in which the length of the past is more than an extent."""
    for a, b in zip_longest(graph.nodes, shorter.nodes):
        if a is None or b is None or type(a.op) is not type(b.op):
            raise UnsupportedError("cache: the model's nodes depend on the length of its past, not only their shapes")
        if isinstance(a.op, Constant) and isinstance(b.op, Constant):
            one, two = a.op.value.array, b.op.value.array
            if one.shape == two.shape and not _same_bytes(one, two):
                reader = next((n.op.name for n in a.output.users), "nobody")
                raise UnsupportedError(
                    f"cache: a constant of type {a.output.type}, read by {reader}, depends on the length of the past: "
                    "the model computes positions from it. Export it with position_ids as an input"
                )
        else:
            _compare(a, b)


def _same_bytes(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of one type are bit for bit the same; without a temporary, as all weights are compared."""
    if not a.size:
        return True
    one, two = (np.ascontiguousarray(x).reshape(-1).view(np.uint8).data for x in (a, b))
    return one == two


def _compare(a: Node, b: Node) -> None:
    """Refuse attributes that differ and are no extents."""
    mine, other = a.op.attributes(), b.op.attributes()
    extents = next((names for kind, names in _EXTENTS.items() if isinstance(a.op, kind)), ())
    for name, value in mine.items():
        if value != other[name] and name not in extents:
            raise UnsupportedError(
                f"cache: {name} of {a.op.name} depends on the length of the past ({value} and {other[name]} for a past "
                "that is a token shorter)"
            )
