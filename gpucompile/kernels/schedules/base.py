"""What a schedule is, and the problem it is given.

`SCHEDULES` (see `__init__.py`) is an ordered list: the first that matches wins, the last always matches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from gpucompile.errors import UnsupportedError
from gpucompile.ir.graph import Constant, Graph, Node, Value
from gpucompile.kernels.builder import KernelBuilder
from gpucompile.kernels.kernel import Kernel
from gpucompile.kernels.view import View
from gpucompile.ops.categories import Elementwise, Movement
from gpucompile.target import Target


@dataclass(frozen=True)
class Problem:
    """One node to lower: its body (a single op gets a body of its own), where its tensors lie, and the target."""

    label: str
    body: Graph
    views: Mapping[Value, View]
    target: Target

    @cached_property
    def anchor(self) -> Node | None:
        """The op that is neither elementwise nor movement, if there is one."""
        return find_anchor(self.body)

    @property
    def has_64_bits(self) -> bool:
        """Whether it computes with 64-bit integers, which never come in vectors."""
        return any(v.type.dtype.bits == 64 for node in self.body.nodes for v in (*node.operand_values, *node.outputs))

    @property
    def result(self) -> Value:
        """The value the body returns."""
        (value,) = self.body.outputs
        return value

    def builder(self, suffix: str = "") -> KernelBuilder:
        return KernelBuilder(self.label + suffix, self.body, self.views, self.target)


def find_anchor(body: Graph) -> Node | None:
    """The one node of a body that owns a schedule."""
    for node in body.nodes:
        if not isinstance(node.op, (Elementwise, Movement, Constant)):
            return node
    return None


class Schedule:
    """How one kind of problem becomes kernels."""

    name: ClassVar[str] = ""

    def match(self, problem: Problem) -> bool:
        """Whether this schedule can do it."""
        raise NotImplementedError

    def configs(self, problem: Problem) -> list[Any]:
        """Configurations to choose from; the first is the default, all together are the search space."""
        return [None]

    def emit(self, problem: Problem, config: Any) -> list[Kernel]:
        """The kernels, in order."""
        raise NotImplementedError


#: llvmpipe (Mesa's software adapter) ends the loops of an invocation silently after 65,535 iterations in total.
MAX_ITERATIONS = 60_000


def require_iterations(problem: Problem, count: int) -> None:
    """Refuse a kernel whose invocations would loop `count` times: some adapters would end early, with wrong numbers."""
    if count > MAX_ITERATIONS:
        raise UnsupportedError(
            f"{problem.label}: one invocation would loop {count:,} times; software adapters end loops after 65,535: "
            "reduce over fewer elements at a time"
        )


def threads_for(count: int, target: Target, most: int = 64) -> int:
    """A workgroup size for `count` independent invocations."""
    limit = min(most, target.limit("max-compute-invocations-per-workgroup"))
    return min(limit, max(1, 1 << math.ceil(math.log2(max(1, count)))))


def power_of_two(x: int, most: int) -> int:
    """The smallest power of two >= x, at most `most`."""
    return min(most, 1 << max(0, x - 1).bit_length())
