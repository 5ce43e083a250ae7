"""Writes docs/operators.md: what every operator takes, found by asking the code.

    python -m docs.generate            writes the file
    python -m docs.generate --check    only says whether it is stale (exit code 1)

For each operator and data type the first of its test cases that has this data type is inferred, compiled for two
targets and interpreted. Nothing runs on a GPU: tests do that (`tests/gpu/test_ops.py`, the conformance suite).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np

from gpucompile.compiler import compile
from gpucompile.errors import UnsupportedError
from gpucompile.frontends.onnx import call, importer
from gpucompile.ir.graph import Graph
from gpucompile.ir.interpret import interpret
from gpucompile.ir.op import MAX_RANK, Op
from gpucompile.ir.types import DataType, TensorType
from gpucompile.target import DEFAULT_LIMITS, KNOWN_FEATURES, Target
from gpucompile.webnn import limits
from gpucompile.webnn.operators import OPERATORS, op_class, signature
from gpucompile.webnn.validation import DATA_TYPES
from tests.wpt import suite

FILE = Path(__file__).resolve().parent / "operators.md"
SHORT = {"float32": "f32", "float16": "f16", "int32": "i32", "uint32": "u32", "int64": "i64", "uint64": "u64"}
SHORT |= {"int8": "i8", "uint8": "u8", "int4": "i4", "uint4": "u4"}
FAMILIES = {m for m in sys.modules if m.startswith("gpucompile.frontends.onnx.")} - {call.__name__}
LEGEND = {
    "W": "a WGSL kernel for every WebGPU device",
    "F": "a WGSL kernel where the device has the feature `shader-f16`",
    "r": "the numpy interpreter only: constants fold with it, a graph that needs it on the GPU is refused",
    "-": "allowed, and not there yet",
}
SAMPLES = 3  # cases tried for one data type

HEAD = """# Operators

Made by `python -m docs.generate` from the op classes; edit those, not this file.

Data types are those of the operand that may have most of them (its name follows the operator where it is not the
first one). Every data type that the specification allows has a mark:

{legend}

*ranks*: of that operand. *cases*: tests of the class, each on the adapter and against the interpreter. *vectors*: tests
of the W3C suite that use the operator, all of which pass. *ONNX*: ops whose import may use this operator; `=` marks the
one equal to it. Every operator also lowers to OpenVINO for CPUs and NPUs, as far as [openvino.md](openvino.md) says.

"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the file is stale")
    options = parser.parse_args(arguments)
    text = document()
    stale = not FILE.exists() or FILE.read_text("utf-8") != text
    if options.check:
        print("docs/operators.md is " + ("stale: run `python -m docs.generate`" if stale else "up to date"))
        return int(stale)
    FILE.write_text(text, "utf-8")
    return 0


def document() -> str:
    """The whole text of docs/operators.md."""
    titles = ["operator", *(SHORT[d.value] for d in DATA_TYPES), "ranks", "cases", "vectors", "ONNX"]
    vectors, imports = vectors_of(), imports_of()
    rows = [row(name, vectors, imports) for name in sorted((*OPERATORS, "split"))]
    missing = [r[0] for r in rows if len(r) == 1]
    lines = [titles, ["---"] * len(titles), *(r for r in rows if len(r) > 1)]
    legend = "\n".join(
        f"- **{m}** {text}" for m, text in LEGEND.items() if any(m in row[1 : 1 + len(DATA_TYPES)] for row in rows)
    )
    text = HEAD.replace("{legend}", legend) + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
    if missing:
        text += f"\nNot there yet: {', '.join(missing)}.\n"
    text += "\n## Calls\n\nMethods of `MLGraphBuilder`: operands and parameters by position or name, options (after "
    text += "`*`) by name. Each also takes `label`.\n\n"
    text += "\n".join(f"- `{name}{signature(name)}`" for name in sorted((*OPERATORS, "split"))) + "\n"
    others = sorted(name for name in imports if name not in OPERATORS and op_class(name) is not None)
    text += "\n## Beyond the specification\n\nOps that an import or a pass makes.\n\n"
    return text + "\n".join(f"- `{n}`: {headline(n)}{onnx_text(n, imports, ' ONNX: ')}" for n in others) + "\n"


def row(name: str, vectors: Counter[str], imports: dict[str, list[str]]) -> list[str]:
    cls = op_class("slice" if name == "split" else name)
    if cls is None:
        return [f"`{name}`"]
    found = limits.operator_limits(name)
    operands = [o.rstrip("?*") for o in cls.operands]
    main_operand = max(operands, key=lambda o: (len(found[o].data_types), -operands.index(o)))
    index = operands.index(main_operand)
    limit = found[main_operand]
    marks = [support(cls, index, d) if d in limit.data_types else "" for d in DATA_TYPES]
    title = f"`{name}`" + (f" {main_operand}" if index else "")
    ranks = str(limit.lowest) if limit.lowest == limit.highest else f"{limit.lowest} to {limit.highest}"
    ranks = ranks.replace(f"to {MAX_RANK}", "to N")
    cases = str(sum(1 for _ in cls.cases())) + (" (slice)" if name == "split" else "")
    onnx = "Split" if name == "split" else onnx_text(name, imports)  # which is several slices, there as here
    return [title, *marks, ranks, cases, str(vectors[name]), onnx]


def headline(name: str) -> str:
    return (Op.registry[name].__doc__ or "").strip().split("\n\n")[0].replace("\n", " ").replace("    ", "").rstrip(
        "."
    ) + "."


def onnx_text(name: str, imports: dict[str, list[str]], prefix: str = "") -> str:
    found = imports.get(name, [])
    return prefix + ", ".join(found) if found else ""


# What has kernels ----------------------------------------------------------------------------------------------------

ANY_DEVICE = Target(limits=dict(DEFAULT_LIMITS), name="any")
FEATURES = Target(KNOWN_FEATURES, dict(DEFAULT_LIMITS), name="features")


def support(cls: type[Op], operand: int, dtype: DataType) -> str:
    """The mark of an operator whose operand `operand` has this data type."""
    graphs = list(islice(graphs_of(cls, operand, dtype), SAMPLES))
    for mark, target in (("W", ANY_DEVICE), ("F", FEATURES)):
        if any(compiles(graph, target) for graph in graphs):
            return mark
    return "r" if any(interprets(graph) for graph in graphs) else "-"


def graphs_of(cls: type[Op], operand: int, dtype: DataType) -> Iterator[Graph]:
    """A graph for each test case in this data type; the ones with small tensors are enough."""
    for op, types in cls.cases():
        if operand >= len(types) or types[operand] is None or sum(t.size for t in types if t is not None) > 1 << 16:
            continue
        for variant, changed in limits.variants(op, types):
            if changed[operand].dtype is dtype and limits.results(variant, changed) is not None:
                yield graph_of(variant, changed)
                break


def graph_of(op: Op, types: tuple[TensorType | None, ...]) -> Graph:
    graph = Graph(op.name)
    node = graph.insert(op, tuple(None if t is None else graph.add_input(f"x{i}", t) for i, t in enumerate(types)))
    graph.set_outputs({f"y{i}": v for i, v in enumerate(node.outputs)})
    return graph


def compiles(graph: Graph, target: Target) -> bool:
    try:
        compile(graph, target, pipeline="none")
    except UnsupportedError:
        return False
    return True


def interprets(graph: Graph) -> bool:
    with np.errstate(all="ignore"):
        try:
            interpret(graph, {v.name: np.ones(v.type.shape, v.type.dtype.numpy) for v in graph.inputs})
        except NotImplementedError:
            return False
    return True


# What tests and imports there are ------------------------------------------------------------------------------------


def vectors_of() -> Counter[str]:
    """How many tests of the conformance suite use an operator."""
    count: Counter[str] = Counter()
    for file in suite.files("conformance"):
        for test in suite.load("conformance", file):
            count.update({suite.snake(o["name"]) for o in test["graph"]["operators"]})
    return count


def imports_of() -> dict[str, list[str]]:
    """Operator -> ONNX ops whose import function may use its class; those that equal it come first, marked by `=`."""
    assert importer is not None  # importing it registers the functions
    found: dict[str, set[str]] = {cls.name: {f"={cls.onnx}"} if cls.onnx else set() for cls in Op.registry.values()}
    for (domain, onnx_name), entries in call.entries().items():
        if domain:
            continue
        for entry in entries:
            for cls in classes_of(entry.function, onnx_name, set()):
                found[cls.name].add(onnx_name)
    return {name: sorted(names, key=lambda n: (n[0] != "=", n)) for name, names in found.items() if names}


def classes_of(function: Any, onnx_name: str, seen: set[Any]) -> Iterator[type[Op]]:
    """The op classes that a function's code names, by itself, in tables, and in the functions and methods that it may
    call."""
    seen.add(function)
    codes = [function.__code__]
    for code in codes:  # with what is defined in it, comprehensions as well
        codes += [c for c in code.co_consts if isinstance(c, CodeType)]
    values = [function.__globals__.get(n) for code in codes for n in code.co_names]
    for value in [*values, *(c.cell_contents for c in function.__closure__ or ())]:
        if isinstance(value, dict):
            value = value.get(onnx_name)
        if isinstance(value, type) and issubclass(value, Op) and not value.abstract:
            yield value
        elif hasattr(value, "__code__") and value.__module__ in FAMILIES and value not in seen:
            yield from classes_of(value, onnx_name, seen)
        elif isinstance(value, type) and value.__module__ in FAMILIES:
            for member in vars(value).values():
                if hasattr(member, "__code__") and member not in seen:
                    yield from classes_of(member, onnx_name, seen)


if __name__ == "__main__":
    sys.exit(main())
