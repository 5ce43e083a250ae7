"""Small windows: pooling, depthwise convolution, local response normalisation. One invocation folds one window."""

from __future__ import annotations

from typing import Any

from gpucompile.ir.graph import Node, Value
from gpucompile.ir.index import Index, delinearize
from gpucompile.ir.types import DataType
from gpucompile.kernels.builder import LANE, Function, KernelBuilder, float_literal
from gpucompile.kernels.kernel import Kernel
from gpucompile.kernels.schedules.base import Problem, Schedule, threads_for
from gpucompile.kernels.schedules.contraction import Guards, wide
from gpucompile.kernels.schedules.map import numbered
from gpucompile.ops.conv import Conv2d
from gpucompile.ops.normalize import LocalResponseNormalization
from gpucompile.ops.pool import AveragePool2d, L2Pool2d, MaxPool2d

Coords = tuple[Index, ...]
LOWEST = "-3.4028234663852886e38"


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
        return isinstance(node.op, (AveragePool2d, L2Pool2d, MaxPool2d, LocalResponseNormalization))

    def emit(self, problem: Problem, config: Any) -> list[Kernel]:
        node = problem.anchor
        assert node is not None
        out = node.output.type
        # four channels to an invocation where channels are last, else one result
        vector = channels_last(node) and out.shape[-1] % 4 == 0
        width = 4 if vector else 1
        count = out.size // width
        kernel = problem.builder()
        coords = numbered(count, out.shape, width)
        fold = _fold(kernel, node, coords, count, width)
        t = wide("f32", width)
        half = out.dtype is DataType.FLOAT16
        bias = node.inputs[2] if isinstance(node.op, Conv2d) and len(node.inputs) > 2 else None

        def adjust(fn: Function, v: str, at: Coords) -> str:
            if bias is not None and isinstance(node.op, Conv2d):
                channel = at[3] if node.op.input_layout == "nhwc" else at[1]
                v = fn.let(f"{v} + {t}({fn.value(bias, (channel,), width)})")
            return fn.let(f"{wide('f16', width)}({v})") if half else v

        store = kernel.store("store_y", node.output, [("i", count)], coords, width, (), adjust, source="f32")
        threads = threads_for(count, problem.target)
        return [
            kernel.finish(
                "window", -(-count // threads), (threads, 1, 1), count=count, type=t, store=store, **fold
            )
        ]  # fmt: skip


def channels_last(node: Node) -> bool:
    """Whether neighbours in memory are neighbouring channels."""
    op = node.op
    if isinstance(op, Conv2d):
        return op.input_layout == "nhwc"
    if isinstance(op, (AveragePool2d, L2Pool2d, MaxPool2d)):
        return op.layout == "nhwc"
    return isinstance(op, LocalResponseNormalization) and op.axis == node.output.type.rank - 1


def _fold(kernel: KernelBuilder, node: Node, coords: Coords, count: int, width: int) -> dict[str, object]:
    """taps, start, step and finish of the window template."""
    op = node.op
    if isinstance(op, LocalResponseNormalization):
        return _fold_lrn(kernel, node, op, coords, count, width)
    x = node.operand_values[0]
    t = wide("f32", width)
    if isinstance(op, Conv2d):
        g = op.geometry(x.type, node.operand_values[1].type)
        window, layout = (g.kh, g.kw), op.input_layout
    else:
        assert isinstance(op, (AveragePool2d, L2Pool2d, MaxPool2d))
        layout = op.layout
        spatial = x.type.shape[1:3] if layout == "nhwc" else x.type.shape[2:4]
        window = op.window_dimensions or spatial
    taps = window[0] * window[1]
    ky, kx = delinearize(Index.var("k", taps), window)
    row, col = (1, 2) if layout == "nhwc" else (2, 3)
    y = coords[row] * op.strides[0] + ky * op.dilations[0] - op.padding[0]
    xx = coords[col] * op.strides[1] + kx * op.dilations[1] - op.padding[2]
    at = list(coords)
    at[row], at[col] = y, xx
    guards: Guards = ((y, 0, x.type.shape[row]), (xx, 0, x.type.shape[col]))
    params = [("i", count), ("k", taps)]
    if isinstance(op, MaxPool2d):
        load = kernel.load("load_x", x, params, at, width, guards, outside=LOWEST if x.type.dtype is DataType.FLOAT32 else "-65504.0")
        return {"taps": taps, "start": LOWEST, "step": f"max(acc, {t}({load}(i, k)))", "finish": "acc"}
    load = kernel.load("load_x", x, params, at, width, guards)
    value = f"{t}({load}(i, k))"
    if isinstance(op, Conv2d):
        channel = coords[3] if layout == "nhwc" else coords[1]
        part = {"h": ky, "w": kx, "i": Index(), "o": channel}
        w = kernel.load("load_w", node.operand_values[1], params, tuple(part[a] for a in op.filter_layout), width)
        return {"taps": taps, "start": "0.0", "step": f"fma({value}, {t}({w}(i, k)), acc)", "finish": "acc"}
    if isinstance(op, L2Pool2d):
        kernel.functions.append(f"fn square(x: {t}) -> {t} {{ return x * x; }}")
        return {"taps": taps, "start": "0.0", "step": f"acc + square({value})", "finish": "sqrt(acc)"}
    valid = _count_valid(kernel, coords, count, guards, (ky, kx), taps)
    return {"taps": taps, "start": "0.0", "step": f"acc + {value}", "finish": f"acc / {valid}"}


def _count_valid(
    kernel: KernelBuilder, coords: Coords, count: int, guards: Guards, tap: tuple[Index, Index], taps: int
) -> str:
    """WGSL for how many taps of a window lie inside the input: a literal where all do."""
    if all(g.range[0] >= low and g.range[1] < high for g, low, high in guards):
        return f"{taps}.0"
    conditions = [f"{(g - low).wgsl()} < {high - low}u" for g, low, high in guards]
    conditions = [c.replace(LANE, "0u") for c in conditions]
    kernel.functions.append(
        "fn valid(i: u32) -> f32 {\n"
        "  var n = 0.0;\n"
        f"  for (var k = 0u; k < {taps}u; k++) {{\n"
        f"    if ({' && '.join(conditions)}) {{ n += 1.0; }}\n"
        "  }\n"
        "  return n;\n}"
    )
    return "valid(i)"


def _fold_lrn(
    kernel: KernelBuilder, node: Node, op: LocalResponseNormalization, coords: Coords, count: int, width: int
) -> dict[str, object]:
    x: Value = node.operand_values[0]
    t = wide("f32", width)
    before = (op.size - 1) // 2
    at = list(coords)
    at[op.axis] = coords[op.axis] + Index.var("k", op.size) - before
    guards: Guards = ((at[op.axis], 0, x.type.shape[op.axis]),)
    near = kernel.load("load_x", x, [("i", count), ("k", op.size)], at, width, guards)
    centre = kernel.load("load_centre", x, [("i", count)], coords, width)
    kernel.functions.append(f"fn square(x: {t}) -> {t} {{ return x * x; }}")
    scale = f"{t}({float_literal(op.bias)}) + acc * {float_literal(op.alpha / op.size)}"
    return {
        "taps": op.size,
        "start": "0.0",
        "step": f"acc + square({t}({near}(i, k)))",
        "finish": f"{t}({centre}(i)) * pow({scale}, {t}({float_literal(-op.beta)}))",
    }
