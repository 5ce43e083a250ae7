"""Small windows: pooling, depthwise convolution, local response normalisation. One invocation folds one window."""

from __future__ import annotations

from typing import Any

from gpucompile.ir.graph import Node
from gpucompile.ir.index import Index, delinearize
from gpucompile.ir.types import DataType
from gpucompile.kernels.builder import KernelBuilder
from gpucompile.kernels.function import Function, condition_of, float_literal
from gpucompile.kernels.kernel import Kernel
from gpucompile.kernels.schedules.base import Problem, Schedule, require_iterations, threads_for
from gpucompile.kernels.schedules.contraction import Guards, wide
from gpucompile.kernels.schedules.map import numbered
from gpucompile.kernels.schedules.reduce import accumulator, first_value
from gpucompile.ops.conv import Conv2d
from gpucompile.ops.formula import is_nan
from gpucompile.ops.normalize import LocalResponseNormalization
from gpucompile.ops.pool import Pool2d

Coords = tuple[Index, ...]


class Window(Schedule):
    name = "window"

    def match(self, problem: Problem) -> bool:
        node = problem.anchor
        if node is None:
            return False
        if isinstance(node.op, Conv2d):
            x, w = node.operand_values[:2]
            g = node.op.geometry(x.type, w.type)
            return g.groups > 1 and g.c_in == g.groups == g.c_out
        return isinstance(node.op, (Pool2d, LocalResponseNormalization))

    def emit(self, problem: Problem, config: Any) -> list[Kernel]:
        node = problem.anchor
        assert node is not None
        out = node.output.type
        # four channels to an invocation where channels are last, else one result
        vector = channels_last(node) and out.shape[-1] % 4 == 0 and not problem.has_64_bits
        width = 4 if vector else 1
        count = out.size // width
        kernel = problem.builder()
        coords = numbered(count, out.shape, width)
        scalar = accumulator(out.dtype)
        t = wide(scalar, width)
        fold = _fold(kernel, node, coords, count, width, t)
        half = out.dtype is DataType.FLOAT16
        bias = node.inputs[2] if isinstance(node.op, Conv2d) and len(node.inputs) > 2 else None

        def adjust(fn: Function, v: str, at: Coords) -> str:
            if bias is not None and isinstance(node.op, Conv2d):
                channel = at[3] if node.op.input_layout == "nhwc" else at[1]
                v = fn.let(f"{v} + {t}({fn.value(bias, (channel,), width)})")
            return fn.let(f"{wide('f16', width)}({v})") if half else v

        require_iterations(problem, 2 * fold["taps"])  # a second loop may count the taps inside the input
        store = kernel.store("store_y", node.output, [("i", count)], coords, width, (), adjust, source=scalar)
        threads = threads_for(count, problem.target)
        return [
            kernel.finish(
                "window", -(-count // threads), (threads, 1, 1),
                count=count, type=t, word=t.replace(scalar, "u32"), store=store, **{"nan": False, **fold},
            )
        ]  # fmt: skip


def channels_last(node: Node) -> bool:
    """Whether neighbours in memory are neighbouring channels."""
    op = node.op
    if isinstance(op, Conv2d):
        return op.input_layout == "nhwc"
    if isinstance(op, Pool2d):
        return op.layout == "nhwc"
    return isinstance(op, LocalResponseNormalization) and op.axis == node.output.type.rank - 1


def _fold(kernel: KernelBuilder, node: Node, coords: Coords, count: int, width: int, t: str) -> dict[str, Any]:
    """What the window template needs to know of an op; `t` is the accumulator's type."""
    op = node.op
    if isinstance(op, LocalResponseNormalization):
        return _fold_lrn(kernel, node, op, coords, count, width, t)
    assert isinstance(op, (Conv2d, Pool2d))
    x = node.operand_values[0]
    if isinstance(op, Conv2d):
        g, layout = op.geometry(x.type, node.operand_values[1].type), op.input_layout
    else:
        g, layout = op.geometry(x.type), op.layout
    taps = g.kh * g.kw
    ky, kx = delinearize(Index.var("k", taps), (g.kh, g.kw))
    row, col = layout.index("h"), layout.index("w")
    at = list(coords)
    at[row] = coords[row] * op.strides[0] + ky * op.dilations[0] - op.padding[0]
    at[col] = coords[col] * op.strides[1] + kx * op.dilations[1] - op.padding[2]
    guards: Guards = ((at[row], 0, g.h), (at[col], 0, g.w))
    params = [("i", count), ("k", taps)]
    if isinstance(op, Conv2d):
        part = {"h": ky, "w": kx, "i": Index(), "o": coords[layout.index("c")]}
        load = kernel.load("load_x", x, params, at, width, guards)
        w = kernel.load("load_w", node.operand_values[1], params, tuple(part[a] for a in op.filter_layout), width)
        value = f"{t}({load}(i, k)) * {t}({w}(i, k))"
        return {"taps": taps, "start": "0.0", "value": value, "mapped": "$x", "combine": "($a + $b)", "finish": "$x"}
    start = first_value(op.identity, x.type.dtype)
    outside = f"f16({start})" if x.type.dtype is DataType.FLOAT16 else start
    load = kernel.load("load_x", x, params, at, width, guards, outside=outside)
    valid = _count_valid(kernel, count, guards, taps)
    return {
        "taps": taps,
        "start": start,
        "value": f"{t}({load}(i, k))",
        "mapped": op.map("$x", t),
        "combine": op.combine("$a", "$b", t),
        "finish": op.finish("$x", f"{t}({valid})", t),
        "nan": op.drops_nan and x.type.dtype.is_float,
    }


def _count_valid(kernel: KernelBuilder, count: int, guards: Guards, taps: int) -> str:
    """WGSL for how many taps of a window lie inside the input: a literal where all do."""
    condition = condition_of(guards)
    if condition is None:
        return f"{taps}.0"
    kernel.functions.append(
        "fn valid(i: u32) -> f32 {\n"
        "  var n = 0.0;\n"
        f"  for (var k = 0u; k < {taps}u; k++) {{\n"
        f"    if ({condition}) {{ n += 1.0; }}\n"
        "  }\n"
        "  return n;\n}"
    )
    return "valid(i)"


def _fold_lrn(
    kernel: KernelBuilder,
    node: Node,
    op: LocalResponseNormalization,
    coords: Coords,
    count: int,
    width: int,
    t: str,
) -> dict[str, Any]:
    x = node.operand_values[0]
    before = (op.size - 1) // 2
    at = list(coords)
    at[op.axis] = coords[op.axis] + Index.var("k", op.size) - before
    guards: Guards = ((at[op.axis], 0, x.type.shape[op.axis]),)
    near = kernel.load("load_x", x, [("i", count), ("k", op.size)], at, width, guards)
    centre = kernel.load("load_centre", x, [("i", count)], coords, width)
    scale = f"({t}({float_literal(op.bias)}) + $x * {float_literal(op.alpha / op.size)})"
    power = f"pow({scale}, {t}({float_literal(-op.beta)}))"  # some devices lose NaN
    return {
        "taps": op.size,
        "start": "0.0",
        "value": f"{t}({near}(i, k))",
        "mapped": "$x * $x",
        "combine": "($a + $b)",
        "finish": f"{t}({centre}(i)) * select({power}, $x, {is_nan('$x', t)})",
    }
