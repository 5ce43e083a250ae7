"""The driver of rewriting passes: rules by op class, tried on every node in execution order until nothing changes.

    rule(graph, node, ctx) -> the value that replaces the node's result, or None

A rule looks back, at the operands of its node: these are in normal form already, so one sweep carries a rewrite down
the whole graph. It inserts what it needs before the node. What loses its last user disappears at once; use counts stay
honest. A sweep is linear; a second one finds nothing unless a rule made work for an earlier node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from gpucompile.ir.graph import Graph, Node, Value
from gpucompile.ir.op import Op
from gpucompile.passmanager.base import Context

Rule = Callable[[Graph, Node, Context], Value | None]
#: Rules by the class of the node's op, subclasses included, in the order in which they are tried.
Rules = Mapping[type[Op], Sequence[Rule]]
#: The same by the very class of an op, filled as classes turn up.
RulesOf = dict[type[Op], tuple[Rule, ...]]

MAX_SWEEPS = 8  # a guard against rules that undo each other
MAX_STEPS = 16  # the same for one node


def rewrite(graph: Graph, rules: Rules, ctx: Context) -> bool:
    """Apply `rules` until no one fires; whether anything changed. Counts each rule by its name."""
    by_type: RulesOf = {}
    changed = False
    for _ in range(MAX_SWEEPS):
        before = changed
        changed = False
        for node in graph.nodes:
            changed |= _rewrite_node(graph, node, by_type, rules, ctx)
        if not changed:
            return before
    return True


def _rewrite_node(graph: Graph, node: Node, by_type: RulesOf, rules: Rules, ctx: Context) -> bool:
    """Rewrite one node, then what replaced it, until no rule fires."""
    changed = False
    for _ in range(MAX_STEPS):
        kind = type(node.op)
        if kind not in by_type:
            by_type[kind] = tuple(r for cls in kind.__mro__ for r in rules.get(cls, ()))
        value = None
        for rule in by_type[kind]:
            value = rule(graph, node, ctx)
            if value is not None:
                ctx.count(rule.__name__)
                break
        if value is None:
            return changed
        changed = True
        producer = value.producer
        replace(graph, node, value)
        if producer is None or producer.graph is not graph:
            return True
        node = producer
    return changed


def replace(graph: Graph, node: Node, value: Value) -> None:
    """`graph.replace`, and remove the operands of `node` that nobody uses any more."""
    operands = node.operand_values
    graph.replace(node, value)
    erase(graph, operands)


def erase(graph: Graph, values: Iterable[Value]) -> None:
    """Remove the producers of unused values, and theirs."""
    stack = [v.producer for v in values]
    while stack:
        node = stack.pop()
        if node is not None and node.graph is graph and not any(map(used, node.outputs)):
            operands = node.operand_values
            graph.remove(node)
            stack.extend(v.producer for v in operands)


def used(value: Value) -> bool:
    """Whether anybody reads `value`; unlike `value.users` it does not list them all (a shared zero has thousands)."""
    return bool(value._uses)


def only_user(value: Value) -> Node | None:
    """The one node that reads `value`, if there is just one and the graph does not return it."""
    if len(value._uses) != 1 or value.is_output:
        return None
    return next(iter(value._uses))
