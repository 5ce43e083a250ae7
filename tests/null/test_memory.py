"""Packing of an arena: what must hold for every input, and how good it is on what networks look like."""

from __future__ import annotations

import random
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucompile.plan import memory
from gpucompile.plan.memory import Item, Packing, distribute, pack


def check(items: list[Item], packing: Packing, alignment: int = 256) -> None:
    """No overlap of live items, alignment, and the bound, all from first principles."""
    sizes = [max(1, -(-i.size // alignment)) * alignment for i in items]
    spans = list(zip(items, packing.offsets, sizes, strict=True))
    assert all(offset >= 0 and offset % alignment == 0 for offset in packing.offsets)
    assert packing.total == max((o + s for _, o, s in spans), default=0)
    events = {i.start for i in items}
    assert packing.bound == max((sum(s for i, _, s in spans if i.start <= t <= i.end) for t in events), default=0)
    for t in events:  # whoever overlaps in time overlaps at the start of one of them
        live = sorted((o, o + s) for i, o, s in spans if i.start <= t <= i.end)
        assert all(a[1] <= b[0] for a, b in pairwise(live))
    assert packing.total >= packing.bound


items_strategy = st.lists(
    st.builds(
        lambda size, start, length: Item(size, start, start + length),
        st.integers(0, 5000) | st.sampled_from([256, 512, 1024]),
        st.integers(0, 20),
        st.integers(0, 8),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(items=items_strategy, alignment=st.sampled_from([1, 4, 256]))
def test_every_packing_is_valid(items: list[Item], alignment: int) -> None:
    packing = pack(items, alignment)
    check(items, packing, alignment)
    assert packing == pack(list(items), alignment)


@settings(max_examples=60, deadline=None)
@given(items=items_strategy)
def test_every_sweep_is_valid(items: list[Item]) -> None:
    sizes = [max(1, -(-i.size // 256)) for i in items]
    offsets = memory._sweep(items, sizes)
    total = max((o + s for o, s in zip(offsets, sizes, strict=True)), default=0)
    check(items, Packing(tuple(o * 256 for o in offsets), total * 256, memory._bound(items, sizes) * 256))


@settings(max_examples=60, deadline=None)
@given(items=items_strategy, data=st.data())
def test_pinned_items_stay(items: list[Item], data: st.DataObject) -> None:
    free = pack(items)
    for i in data.draw(st.sets(st.integers(0, len(items) - 1), max_size=5)) if items else ():
        items[i] = Item(items[i].size, items[i].start, items[i].end, free.offsets[i])
    packing = pack(items)
    check(items, packing)
    assert all(i.pinned in (None, o) for i, o in zip(items, packing.offsets, strict=True))


@settings(max_examples=60, deadline=None)
@given(items_strategy, st.integers(1, 40).map(lambda units: 256 * units))
def test_shares_fit_into_the_limit(items: list[Item], limit: int) -> None:
    shares = distribute(items, limit)
    assert sorted(i for share in shares for i in share) == list(range(len(items)))
    for share in shares:
        packing = pack([items[i] for i in share])
        assert packing.total <= limit or len(share) == 1


def test_few_shares_do() -> None:
    """Two items of half the limit live at a time."""
    items = [Item(512, start, start + 1) for start in range(0, 20, 2)] + [Item(512, s, s + 1) for s in range(0, 20, 2)]
    assert len(distribute(items, 1024)) == 1 and len(distribute(items, 512)) == 2


def test_a_pinned_item_far_up() -> None:
    assert pack([Item(256, 0, 0, pinned=2560), Item(512, 0, 3)]) == Packing((2560, 0), 2816, 768)


def test_bad_items() -> None:
    with pytest.raises(ValueError, match="item 1"):
        pack([Item(4, 0, 0), Item(4, 2, 1)])
    with pytest.raises(ValueError, match="not a multiple of 256"):
        pack([Item(4, 0, 0, pinned=128)])
    with pytest.raises(ValueError, match="pinned items 0 and 1"):
        pack([Item(4, 0, 1, pinned=0), Item(4, 1, 2, pinned=0)])
    assert pack([]) == Packing((), 0, 0)
    assert pack([Item(0, 0, 0)]).total == 256


# ---------------------------------------------------------------------------------------------- how good


def chain(n: int, seed: int) -> list[Item]:
    """Each result is read by the next step: two live at any time."""
    rng = random.Random(seed)
    return [Item(rng.randrange(1, 1 << 20), i, i + 1) for i in range(n)]


def residual(n: int, seed: int) -> list[Item]:
    """A chain in which every third result is added back two steps later, shrinking as the network gets deeper."""
    rng = random.Random(seed)
    return [Item((1 << 20 >> 2 * (i * 4 // n)) * rng.choice([1, 1, 4]), i, i + (3 if i % 3 == 0 else 1))
            for i in range(n)]  # fmt: skip


def inception(n: int, seed: int) -> list[Item]:
    """Blocks of four branches, each a short chain, that join; the input of a block lives until its last branch."""
    rng = random.Random(seed)
    out: list[Item] = []
    step = 0
    while len(out) < n:
        size = rng.choice([200, 400, 800]) * 1024
        end = step + 8
        out += [Item(size, step, step + 6), Item(size, end - 1, end + 1)]
        for branch in range(4):
            begin = step + 1 + branch
            out += [Item(rng.randrange(size // 8, size // 2), begin, begin + 1), Item(size // 4, begin + 1, end - 1)]
        step = end
    return out


def scattered(n: int, seed: int, span: float, flat: bool) -> list[Item]:
    """Random lifetimes and sizes: harder than any network."""
    rng = random.Random(seed)
    out = []
    for _ in range(n):
        start = rng.randrange(n)
        size = rng.randrange(1, 64) * 256 if flat else int(2 ** rng.uniform(8, 20))
        out.append(Item(size, start, min(n - 1, start + int(rng.expovariate(1 / span)))))
    return out


@pytest.mark.parametrize("make", [chain, residual, inception])
@pytest.mark.parametrize("n", [30, 100, 300])
def test_networks_meet_the_bound(make: object, n: int) -> None:
    for seed in range(5):
        items = make(n, seed)  # type: ignore[operator]
        packing = pack(items)
        check(items, packing)
        assert packing.total <= 1.002 * packing.bound, f"seed {seed}"


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("span", [2, 6, 20, 60])
@pytest.mark.parametrize("n", [30, 100, 300])
def test_hard_instances_come_close(n: int, span: float, flat: bool) -> None:
    ratios = []
    for seed in range(6):
        items = scattered(n, seed, span, flat)
        packing = pack(items)
        check(items, packing)
        ratios.append(packing.total / packing.bound)
    print(f"{n} items, lifetimes {span}, flat {flat}: mean {sum(ratios) / 6:.4f}, worst {max(ratios):.4f}")
    assert max(ratios) <= 1.1


def test_time() -> None:
    """300 items in some 50 ms of processor time (twice that here, for busy machines), 16,000 in under a second."""
    for items, limit in ((scattered(300, 0, 60, True), 0.1), (scattered(16_000, 0, 6, False), 1.0)):
        start = time.process_time()
        packing = pack(items)
        assert time.process_time() - start < limit
        assert packing.total <= 1.2 * packing.bound
