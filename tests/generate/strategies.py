"""A strategy for every op class: operand shapes, all options, values.

A new unary or binary op, comparison or reduction has one by its base class. All draw valid operands only. Where numbers
are not determined (two updates of one place, a window that holds nothing but padding), they do not draw them.
"""

from tests.generate import anchors, indexed, maps
from tests.generate.registry import EXCUSED, cases, data_types, strategy_of

__all__ = ["EXCUSED", "anchors", "cases", "data_types", "indexed", "maps", "strategy_of"]
