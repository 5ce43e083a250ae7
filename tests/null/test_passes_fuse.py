"""fuse: what becomes one kernel, where a value has several readers or a tensor is read in part."""

from __future__ import annotations

from gpucompile.ir.graph import Value
from gpucompile.ops.activation import Sigmoid, Tanh
from gpucompile.ops.contraction import Gemm
from gpucompile.ops.elementwise import Add, Exp, Mul, Neg, Sub
from gpucompile.ops.fused import Fused
from gpucompile.ops.movement import Expand, Reverse, Slice
from tests.null.graphs import Build, check


def test_a_map_takes_what_several_of_its_nodes_read() -> None:
    """z * x + (1 - z) * tanh(x): z is computed once, so all is one kernel."""
    b = Build()
    x = b.x(3, 5)
    z = b(Sigmoid(), b(Neg(), x))
    y = b(Add(), b(Mul(), z, x), b(Mul(), b(Sub(), b.value(1.0), z), b(Tanh(), x)))
    graph = check(b, "fuse", {"fused": 1}, y)
    (node,) = (n for n in graph.nodes if isinstance(n.op, Fused))
    assert isinstance(node.op, Fused)
    assert [n.op.name for n in node.op.body.nodes].count("sigmoid") == 1


def test_what_is_read_at_several_coordinates_stays_a_kernel() -> None:
    """exp(x) would be computed twice for every element."""
    b = Build()
    e = b(Exp(), b.x(4, 6))
    check(b, "fuse", {"exp": 1, "fused": 1}, b(Add(), e, b(Reverse((0,)), e)))
    b = Build()
    row = b(Exp(), b.x(6))
    check(b, "fuse", {"exp": 1, "fused": 1}, b(Mul(), b(Add(), b.x(4, 6, name="z"), row), b(Expand((4, 6)), row)))


def test_what_is_returned_too_stays_a_kernel() -> None:
    b = Build()
    e = b(Exp(), b.x(4, 6))
    check(b, "fuse", {"exp": 1, "mul": 1}, b(Mul(), e, e), e)


def test_products_read_what_follows_a_slow_formula() -> None:
    """gemm(sigmoid(a) * tanh(c), w): a map and a product, not two maps and a product that multiplies again."""
    b = Build()
    x = b(Mul(), b(Sigmoid(), b.x(5, 8)), b(Tanh(), b.x(5, 8, name="c")))
    check(b, "fuse", {"fused": 1, "gemm": 1}, b(Gemm(), x, b.c(8, 4)))


def rows(b: Build, x: Value, begin: int, count: int, columns: tuple[int, int] = (0, 6)) -> Value:
    return b(Slice((begin, columns[0]), (count, columns[1])), x)


def test_rows_are_sliced_outside() -> None:
    """Both windows lie in rows 2 to 5: these are an alias, and the kernel says nothing of the place."""
    b = Build()
    x = b.x(9, 6)
    y = b(Add(), b(Exp(), rows(b, x, 2, 2, (0, 3))), rows(b, x, 4, 2, (3, 3)))
    graph = check(b, "fuse", {"slice": 1, "fused": 1}, y)
    (outside,) = (n.op for n in graph.nodes if isinstance(n.op, Slice))
    assert outside == Slice((2, 0), (4, 6))
    (node,) = (n for n in graph.nodes if isinstance(n.op, Fused))
    assert isinstance(node.op, Fused)
    assert [n.op for n in node.op.body.nodes if isinstance(n.op, Slice)] == [
        Slice((0, 0), (2, 3)),
        Slice((2, 3), (2, 3)),
    ]


def test_rows_stay_inside_where_all_are_read() -> None:
    b = Build()
    x = b.x(4, 6)
    check(b, "fuse", {"fused": 1}, b(Add(), b(Exp(), rows(b, x, 0, 2)), rows(b, x, 2, 2)))
    b = Build()
    x = b.x(4, 6)
    y = b(Add(), b(Expand((4, 6)), rows(b, x, 1, 1)), x)  # x itself is read as well
    check(b, "fuse", {"fused": 1}, y)
