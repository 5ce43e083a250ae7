"""Which strategy draws the cases of an op, found by its class, then by its base classes."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from gpucompile.ir.op import MAX_RANK, Op
from gpucompile.ir.types import DataType
from tests.generate.draw import Case, Draw

Strategy = Callable[[Draw], Case]
STRATEGIES: dict[type[Op], Strategy] = {}

#: Registered ops without a strategy, and why.
EXCUSED = {
    "return": "the end of a graph",
    "constant": "takes no operands; constant operands are drawn for all ops",
    "fused": "made by the fuse pass; test_random_graphs.py covers it",
}


def strategy_for(*classes: type[Op]) -> Callable[[Strategy], Strategy]:
    """Registers a strategy for op classes and what derives from them."""

    def register(strategy: Strategy) -> Strategy:
        STRATEGIES.update(dict.fromkeys(classes, strategy))
        return strategy

    return register


def strategy_of(cls: type[Op]) -> Strategy | None:
    """The strategy of the op or of its nearest base class that has one."""
    return next((STRATEGIES[base] for base in cls.__mro__ if base in STRATEGIES), None)


def data_types(cls: type[Op]) -> list[DataType]:
    """What the op's main operand may be: the one that most others share their data type with."""
    name = {"where": "true_value"}.get(cls.name, cls.operands[0].rstrip("?*"))
    allowed = cls.constraints.get(name, (frozenset(DataType), 0, MAX_RANK))[0]
    return [d for d in DataType if d in allowed]


@st.composite
def cases(draw: st.DrawFn, cls: type[Op], dtype: DataType) -> Case:
    """A case of one op, whose main operand is of one data type."""
    strategy = strategy_of(cls)
    assert strategy is not None, cls.name
    case = strategy(Draw(draw, cls, dtype))
    case.op.result_types(*case.types)  # a strategy that draws nonsense raises TypeInferenceError
    return case
