"""Every contraction as one problem: C[b, m, n] = sum over k of A[b, m, k] * B[b, k, n].

matmul and gemm say so themselves. A convolution is one too: m counts output positions, k counts filter taps times input
channels, and A is the input seen through an index map (im2col that is never stored); a group of channels is a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gpucompile.ir.graph import Node, Value
from gpucompile.ir.index import Index, delinearize
from gpucompile.kernels.builder import Function, float_literal
from gpucompile.ops.contraction import Gemm, Matmul
from gpucompile.ops.conv import Conv2d

Guards = tuple[tuple[Index, int, int], ...]
Place = tuple[tuple[Index, ...], Guards]


@dataclass(frozen=True)
class Contraction:
    """Sizes, operands and index maps. `a_at(b, m, k)`, `b_at(b, k, n)` give coordinates and guards, `c_at(b, m, n)`
    coordinates; `rows` says that B is stored as [n, k]. `finish` adds what belongs to the op itself (bias, alpha)."""

    batch: int
    m: int
    n: int
    k: int
    a: Value
    b: Value
    out: Value
    rows: bool
    a_at: Callable[[Index, Index, Index], Place]
    b_at: Callable[[Index, Index, Index], tuple[Index, ...]]
    c_at: Callable[[Index, Index, Index], tuple[Index, ...]]
    finish: Callable[[Function, str, tuple[Index, ...], int], str]


def contraction_of(node: Node | None) -> Contraction | None:
    """The contraction a node computes, or None."""
    if node is None:
        return None
    if isinstance(node.op, Matmul):
        return _matmul(node)
    if isinstance(node.op, Gemm):
        return _gemm(node, node.op)
    if isinstance(node.op, Conv2d):
        return _conv(node, node.op)
    return None


def _matmul(node: Node) -> Contraction:
    a, b = node.operand_values
    lead = node.output.type.shape[:-2]
    m, n = node.output.type.shape[-2:]
    batch = 1
    for d in lead:
        batch *= d

    def operand(value: Value, z: Index) -> tuple[Index, ...]:
        shape = value.type.shape[:-2]
        tail = delinearize(z, lead)[len(lead) - len(shape) :]
        return tuple(Index() if d == 1 else c for c, d in zip(tail, shape, strict=True))

    return Contraction(
        batch, m, n, a.type.shape[-1], a, b, node.output, False,
        lambda z, i, k: ((*operand(a, z), i, k), ()),
        lambda z, k, j: (*operand(b, z), k, j),
        lambda z, i, j: (*delinearize(z, lead), i, j),
        lambda fn, v, coords, width: v,
    )  # fmt: skip


def _gemm(node: Node, op: Gemm) -> Contraction:
    a, b = node.operand_values[:2]
    c = node.inputs[2] if len(node.inputs) > 2 else None
    m, n = node.output.type.shape

    def finish(fn: Function, v: str, coords: tuple[Index, ...], width: int) -> str:
        if op.alpha != 1.0:
            v = fn.let(f"{v} * {float_literal(op.alpha)}")
        if c is not None and op.beta != 0.0:
            tail = coords[2 - c.type.rank :]
            at = tuple(Index() if d == 1 else x for x, d in zip(tail, c.type.shape, strict=True))
            scale = "" if op.beta == 1.0 else f" * {float_literal(op.beta)}"
            v = fn.let(f"{v} + {wide('f32', width)}({fn.value(c, at, width)}){scale}")
        return v

    return Contraction(
        1, m, n, a.type.shape[0] if op.a_transpose else a.type.shape[1], a, b, node.output, op.b_transpose,
        lambda z, i, k: ((k, i) if op.a_transpose else (i, k), ()),
        lambda z, k, j: (j, k) if op.b_transpose else (k, j),
        lambda z, i, j: (i, j),
        finish,
    )  # fmt: skip


def _conv(node: Node, op: Conv2d) -> Contraction | None:
    x, w = node.operand_values[:2]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    g = op.geometry(x.type, w.type)
    ci, co = g.c_in // g.groups, g.c_out // g.groups
    if g.groups > 1 and co == 1 and ci == 1:
        return None  # depthwise: no sum over channels to share, see window.py

    def a_at(z: Index, i: Index, k: Index) -> Place:
        b, oy, ox = delinearize(i, (g.n, g.oh, g.ow))
        ky, kx, c = delinearize(k, (g.kh, g.kw, ci))
        y = oy * op.strides[0] + ky * op.dilations[0] - op.padding[0]
        xx = ox * op.strides[1] + kx * op.dilations[1] - op.padding[2]
        c = z * ci + c
        return ((b, y, xx, c) if op.input_layout == "nhwc" else (b, c, y, xx)), ((y, 0, g.h), (xx, 0, g.w))

    def b_at(z: Index, k: Index, j: Index) -> tuple[Index, ...]:
        ky, kx, c = delinearize(k, (g.kh, g.kw, ci))
        part = {"h": ky, "w": kx, "i": c, "o": z * co + j}
        return tuple(part[axis] for axis in op.filter_layout)

    def c_at(z: Index, i: Index, j: Index) -> tuple[Index, ...]:
        b, oy, ox = delinearize(i, (g.n, g.oh, g.ow))
        c = z * co + j
        return (b, oy, ox, c) if op.input_layout == "nhwc" else (b, c, oy, ox)

    def finish(fn: Function, v: str, coords: tuple[Index, ...], width: int) -> str:
        if bias is None:
            return v
        channel = coords[3] if op.input_layout == "nhwc" else coords[1]
        return fn.let(f"{v} + {wide('f32', width)}({fn.value(bias, (channel,), width)})")

    rows = op.filter_layout == "ohwi"
    return Contraction(
        g.groups, g.n * g.oh * g.ow, co, g.kh * g.kw * ci, x, w, node.output, rows, a_at, b_at, c_at, finish
    )


def wide(scalar: str, width: int) -> str:
    """The WGSL type of `width` scalars."""
    return scalar if width == 1 else f"vec4<{scalar}>"
