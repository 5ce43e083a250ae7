"""Run passes on a model and print the resulting graph as .gir text.

  gpucompile opt model.onnx -p canonicalize,fuse --time --statistics
  gpucompile opt graph.gir -p default --check-each
  gpucompile opt model.gpub -p dce --random-weights  the graph that a bundle was made from
  gpucompile opt --replay failed-03-fuse.gir         runs the rest of the pipeline that failed
  gpucompile opt --list                              all passes with their options

The graph goes to stdout, everything else to stderr. Large constants are printed by their hash unless the text goes to
a file (-o), or --weights inline asks for them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gpucompile.cli._common import (
    add_constant_option,
    add_device_option,
    add_dim_option,
    choose_target,
    positive,
    read_constants,
    read_model,
    register_ops,
    require_file,
)
from gpucompile.errors import PassError

if TYPE_CHECKING:
    from gpucompile.ir.graph import Graph
    from gpucompile.passmanager import Context, Statistics, Timing
    from gpucompile.passmanager.instruments import Instrument
    from gpucompile.target import Target

NAME = "opt"
HELP = "run passes on a model and print the graph"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", nargs="?", help="an ONNX file, a .gir file, or a bundle")
    parser.add_argument("-p", "--pipeline", help="passes such as 'dce,fuse{max_ops=4}', or a named pipeline")
    parser.add_argument("-o", "--output", metavar="OUT.gir", type=Path, help="write the graph to a file")
    parser.add_argument("--weights", choices=("ref", "inline"), default="ref", help="how to print large constants")
    parser.add_argument("--list", action="store_true", help="list passes with their options, and named pipelines")
    parser.add_argument("--target", choices=("portable", "native"), default="portable", help="what passes may assume")
    parser.add_argument(
        "--random-weights", action="store_true", help="random data for constants of which the text has only the hash"
    )
    add_device_option(parser)
    add_dim_option(parser)
    add_constant_option(parser)
    watch = parser.add_argument_group("watching")
    watch.add_argument("--print-after-change", action="store_true", help="print the graph after passes that changed it")
    watch.add_argument("--dump", metavar="DIR", type=Path, help="the same into numbered files")
    watch.add_argument("--time", action="store_true", help="time of each pass")
    watch.add_argument("--statistics", action="store_true", help="what each pass did, in numbers")
    watch.add_argument("--why-not", action="store_true", help="why rewrites did not fire")
    debug = parser.add_argument_group("debugging")
    debug.add_argument("--check-each", action="store_true", help="compare numbers before and after each pass")
    debug.add_argument("--seed", type=int, default=0, help="of the inputs of --check-each (default: %(default)s)")
    debug.add_argument("--stop-after", metavar="N", type=positive, help="run the first N passes only")
    debug.add_argument("--replay", action="store_true", help="MODEL is the file that a failed pass has left")
    debug.add_argument("--graphml", metavar="FILE", type=Path, help="draw the resulting graph: nodes, edges, types")
    debug.add_argument("--reproducer-dir", metavar="DIR", type=Path, help="where a failure leaves its file")


def run(args: argparse.Namespace) -> int:
    if args.list:
        print(_list())
        return 0
    if args.model is None:
        raise PassError("no MODEL given (or did you mean --list?)")
    from gpucompile.passmanager import Context, PassManager, Statistics, Timing
    from gpucompile.passmanager.pipeline import parse_pipeline

    graph, pipeline, target = _read(args)
    passes = parse_pipeline(pipeline)[: args.stop_after]
    ctx = Context(target, args.why_not, args.reproducer_dir)
    timing, statistics = (Timing() if args.time else None), (Statistics() if args.statistics else None)
    try:
        PassManager(passes, _instruments(args, statistics, timing)).run(graph, ctx)
    finally:
        _report(ctx, statistics, timing)
    _write(graph, args)
    if args.graphml:
        _draw(graph, args.graphml)
    return 0


def _read(args: argparse.Namespace) -> tuple[Graph, str, Target]:
    """The graph, the pipeline and the target to use."""
    if args.replay:
        require_file(args.model)
        from gpucompile.passmanager import read_reproducer

        register_ops()
        graph, pipeline, target = read_reproducer(Path(args.model))
        return graph, args.pipeline or pipeline, target
    if args.pipeline is None:
        raise PassError("no pipeline given: -p PIPELINE (see --list), -p '' for none")
    graph = read_model(args.model, dict(args.dim), args.random_weights, read_constants(args.const))
    return graph, args.pipeline, choose_target(args)


def _instruments(args: argparse.Namespace, statistics: Statistics | None, timing: Timing | None) -> list[Instrument]:
    from gpucompile.passmanager import CheckEach, CheckReports, Dump, PrintAfterChange

    wanted: list[Instrument | None] = [
        PrintAfterChange() if args.print_after_change else None,
        Dump(args.dump) if args.dump else None,
        CheckReports() if args.check_each else None,
        CheckEach(args.seed) if args.check_each else None,
        statistics,
        timing,
    ]
    return [i for i in wanted if i is not None]


def _report(ctx: Context, statistics: Statistics | None, timing: Timing | None) -> None:
    """What was asked for, on stderr; also when a pass failed."""
    parts = [str(r) for r in ctx.remarks]
    if statistics is not None:
        parts.append(statistics.table())
    if timing is not None:
        parts.append(timing.table())
    if parts:
        print("\n".join(parts), file=sys.stderr)


def _write(graph: Graph, args: argparse.Namespace) -> None:
    from gpucompile.ir.text import print_graph, write_gir

    if args.output is None:
        print(print_graph(graph, args.weights), end="")
        return
    side = write_gir(args.output, graph)
    if side is not None:
        print(f"large constants are in {side}, keep it beside {args.output}", file=sys.stderr)


def _draw(graph: Graph, path: Path) -> None:
    """Write the graph as GraphML, which Gephi, yEd and networkx read."""
    import networkx as nx

    from gpucompile.ir.graph import Constant

    drawing = nx.DiGraph()
    for v in graph.inputs:
        drawing.add_node(str(id(v)), label=v.name, type=str(v.type))
    for node in graph.nodes:
        if isinstance(node.op, Constant):
            continue
        drawing.add_node(str(id(node)), label=node.op.name, type=", ".join(str(v.type) for v in node.outputs))
        for v in node.operand_values:
            if v.constant is None:
                drawing.add_edge(str(id(v.producer or v)), str(id(node)), type=str(v.type))
    nx.write_graphml(drawing, path)


def _list() -> str:
    from gpucompile.ir.syntax import describe, field_types, format_scalar
    from gpucompile.passmanager import all_passes, named_pipelines

    lines = ["passes"]
    for name, cls in all_passes().items():
        lines.append(f"  {name:20} {(cls.__doc__ or '').strip().splitlines()[0]}")
        hints = field_types(cls)
        for option, default in cls().options().items():
            lines.append(f"  {'':20}   {option}={format_scalar(default)} ({describe(hints[option])})")
    lines.append("pipelines")
    lines += [f"  {name:20} {text}" for name, text in named_pipelines().items()]
    return "\n".join(lines)
