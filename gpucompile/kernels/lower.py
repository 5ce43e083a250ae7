"""Lowering: one node becomes one or more kernels, through the first schedule that matches."""

from __future__ import annotations

from collections.abc import Mapping

from gpucompile.errors import UnsupportedError
from gpucompile.ir.graph import Constant, Graph, Literal, Node, Value
from gpucompile.ir.op import Op
from gpucompile.kernels.kernel import Kernel
from gpucompile.kernels.schedules import SCHEDULES, Problem, Schedule
from gpucompile.kernels.view import View
from gpucompile.ops.fused import Fused
from gpucompile.target import Target


def lower(node: Node, views: Mapping[Value, View], target: Target) -> list[Kernel]:
    """The kernels of one node, with each schedule's default configuration.

    `views` says where the operands and results of `node` lie. Raises UnsupportedError naming the node when no schedule
    takes it."""
    problem = problem_of(node, views, target)
    schedule = schedule_of(problem)
    return schedule.emit(problem, schedule.configs(problem)[0])


def schedule_of(problem: Problem) -> Schedule:
    """The first schedule that matches."""
    for schedule in SCHEDULES:
        if schedule.match(problem):
            return schedule
    anchor = problem.anchor
    what = anchor.op.name if anchor else "node"
    types = " x ".join(str(v.type) for v in anchor.operand_values) if anchor else ""
    raise UnsupportedError(f"{problem.label}: no kernel for {what}({types}) yet")


def problem_of(node: Node, views: Mapping[Value, View], target: Target) -> Problem:
    """The node as a problem: its body and where the body's values lie."""
    body = body_of(node.op, node.operand_values)
    externals = [v for v in node.operand_values if not (isinstance(node.op, Op) and _inlined(node.op, v))]
    inner = dict(zip(body.inputs, (views[v] for v in externals), strict=True))
    inner[body.outputs[0]] = views[node.output]
    return Problem(label_of(node), body, inner, target)


def body_of(op: Op, operands: tuple[Value, ...]) -> Graph:
    """The body of a fused op; for any other op a graph of that op alone, scalar constants included."""
    if isinstance(op, Fused):
        return op.body
    body = Graph(op.name)
    inner: list[Value] = []
    for i, v in enumerate(operands):
        if _inlined(op, v):
            inner.append(body.constant(Literal(v.constant, v.type)))  # type: ignore[arg-type]
        else:
            inner.append(body.add_input(f"in{i}", v.type))
    body.set_outputs({"out": body.add(op, *inner)})
    return body


def _inlined(op: Op, value: Value) -> bool:
    """Whether an operand of an unfused op becomes a literal in the shader."""
    return not isinstance(op, Fused) and value.constant is not None and value.type.size == 1 and value.type.rank == 0


def label_of(node: Node) -> str:
    """A short name for people: the ops of the node, then the name of its result."""
    ops = (
        [n.op.name for n in node.op.body.nodes if not isinstance(n.op, Constant)]
        if isinstance(node.op, Fused)
        else [node.op.name]
    )
    if len(ops) > 4:
        ops = [*ops[:3], f"{len(ops) - 3} more"]
    name = node.outputs[0].name
    return "+".join(ops) + (f" {name}" if name else "")
