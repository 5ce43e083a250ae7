"""Every contraction as one problem: C[b, m, n] = sum over k of A[b, m, k] * B[b, k, n].

matmul and gemm say so themselves. A convolution is one too: m counts output positions, k counts filter taps times input
channels, and A is the input seen through an index map (im2col that is never stored); a group of channels is a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gpucompile.ir.graph import Node, Value
from gpucompile.ir.index import Index, delinearize
from gpucompile.kernels.function import Function, float_literal
from gpucompile.ops.contraction import Gemm, Matmul
from gpucompile.ops.conv import Conv2d, ConvTranspose2d, Geometry

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
    if isinstance(node.op, ConvTranspose2d):
        return _conv_transpose(node, node.op)
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
    g = op.geometry(x.type, w.type)
    if g.groups > 1 and g.c_in == g.groups == g.c_out:
        return None  # depthwise: no sum over channels to share, see window.py

    def place(oy: Index, ox: Index, ky: Index, kx: Index) -> tuple[Index, Index, Guards]:
        y = oy * op.strides[0] + ky * op.dilations[0] - op.padding[0]
        xx = ox * op.strides[1] + kx * op.dilations[1] - op.padding[2]
        return y, xx, ((y, 0, g.h), (xx, 0, g.w))

    return _windows(node, op, g, place)


def _conv_transpose(node: Node, op: ConvTranspose2d) -> Contraction:
    x, w = node.operand_values[:2]
    g = op.geometry(x.type, w.type)
    sy, sx = op.strides

    def place(oy: Index, ox: Index, ky: Index, kx: Index) -> tuple[Index, Index, Guards]:
        """Result element o takes from input element i where o = i * stride + k * dilation - padding."""
        y = oy + op.padding[0] - ky * op.dilations[0]
        xx = ox + op.padding[2] - kx * op.dilations[1]
        inside = ((y, 0, (g.h - 1) * sy + 1), (xx, 0, (g.w - 1) * sx + 1))
        return y // sy, xx // sx, (*inside, (y % sy, 0, 1), (xx % sx, 0, 1))

    return _windows(node, op, g, place)


def _windows(
    node: Node,
    op: Conv2d | ConvTranspose2d,
    g: Geometry,
    place: Callable[[Index, Index, Index, Index], tuple[Index, Index, Guards]],
) -> Contraction:
    """A (transposed) convolution; `place` gives the input's row, column and guards for an output position and a tap."""
    x, w = node.operand_values[:2]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    ci, co = g.c_in // g.groups, g.c_out // g.groups
    last = op.input_layout == "nhwc"
    transposed = isinstance(op, ConvTranspose2d)

    def a_at(z: Index, i: Index, k: Index) -> Place:
        b, oy, ox = delinearize(i, (g.n, g.oh, g.ow))
        ky, kx, c = delinearize(k, (g.kh, g.kw, ci))
        y, xx, guards = place(oy, ox, ky, kx)
        c = z * ci + c
        return ((b, y, xx, c) if last else (b, c, y, xx)), guards

    def b_at(z: Index, k: Index, j: Index) -> tuple[Index, ...]:
        ky, kx, c = delinearize(k, (g.kh, g.kw, ci))
        # a transposed convolution's filter holds all input channels and the outputs of one group
        i, o = (z * ci + c, j) if transposed else (c, z * co + j)
        part = {"h": ky, "w": kx, "i": i, "o": o}
        return tuple(part[axis] for axis in op.filter_layout)

    def c_at(z: Index, i: Index, j: Index) -> tuple[Index, ...]:
        b, oy, ox = delinearize(i, (g.n, g.oh, g.ow))
        c = z * co + j
        return (b, oy, ox, c) if last else (b, c, oy, ox)

    def finish(fn: Function, v: str, coords: tuple[Index, ...], width: int) -> str:
        if bias is None:
            return v
        channel = coords[3] if last else coords[1]
        return fn.let(f"{v} + {wide('f32', width)}({fn.value(bias, (channel,), width)})")

    rows = op.filter_layout == "ohwi" and not transposed
    return Contraction(
        g.groups, g.n * g.oh * g.ow, co, g.kh * g.kw * ci, x, w, node.output, rows, a_at, b_at, c_at, finish
    )


def wide(scalar: str, width: int) -> str:
    """The WGSL type of `width` scalars."""
    return scalar if width == 1 else f"vec4<{scalar}>"
