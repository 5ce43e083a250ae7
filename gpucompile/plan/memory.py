"""Packing tensors into one arena: who lives when is given, offsets are sought.

    in    items: a size in bytes, the first and last step in which the bytes must stay (inclusive)
    out   an offset per item, so that items alive in the same step never overlap; the arena's size; the lower bound

The bound is the largest sum of live bytes (each size rounded up to the alignment) over all steps: no packing can be
smaller. Finding the best packing is NP-hard, but real networks nearly always admit one that meets the bound, and
stopping there proves it best. Three stages, each deterministic, each skipped once the bound is met:

1. greedy: place items one by one (largest first, longest-lived first, by first step, ...), each at the lowest gap or
   in the tightest one between the neighbours in time that are already placed;
2. repair: items that end above the bound move forward in the order and everything is placed again ("squeaky wheel");
3. mend: an item above the bound and those that live beside it are taken out and put back in another order.

All three share a budget that is counted in neighbours looked at, not in time. Above `LARGE` items they give way to one
sweep over time with a best-fit free list, O(n log n), forwards and backwards.
"""

from __future__ import annotations

import bisect
import heapq
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LARGE = 2000  # above it only the sweep runs
BUDGET = 350_000  # neighbours looked at in the search, about 40 ms


@dataclass(frozen=True)
class Item:
    """`size` bytes alive from step `start` to step `end`, inclusive; `pinned` fixes the offset (a multiple of the
    alignment)."""

    size: int
    start: int
    end: int
    pinned: int | None = None


@dataclass(frozen=True)
class Packing:
    """Offsets in bytes, one per item; the arena's size `total`; `bound`, below which no packing can go."""

    offsets: tuple[int, ...]
    total: int
    bound: int


def pack(items: Sequence[Item], alignment: int = 256) -> Packing:
    """Offsets for items in one arena, aiming at total == bound.

    Sizes are rounded up to the alignment (an empty item takes one unit). The result depends only on the arguments.
    Raises ValueError for a lifetime that ends before it starts, or pinned items that collide.
    """
    sizes = [max(1, -(-item.size // alignment)) for item in items]  # in units of the alignment from here on
    for i, item in enumerate(items):
        if item.end < item.start or item.size < 0:
            raise ValueError(f"item {i}: {item} has a negative size or lifetime")
        if item.pinned is not None and (item.pinned < 0 or item.pinned % alignment):
            raise ValueError(f"item {i}: pinned at {item.pinned}, not a multiple of {alignment}")
    pinned = {i: item.pinned // alignment for i, item in enumerate(items) if item.pinned is not None}
    bound = _bound(items, sizes)
    if len(items) > LARGE and not pinned:
        offsets = _sweep(items, sizes)
    else:
        offsets = _Search(items, sizes, pinned, bound).run()
    total = max((o + s for o, s in zip(offsets, sizes, strict=True)), default=0)
    return Packing(tuple(o * alignment for o in offsets), total * alignment, bound * alignment)


def distribute(items: Sequence[Item], limit: int) -> list[list[int]]:
    """The items of one arena, by index, shared out to as few arenas as first-fit finds, none of which needs more than
    `limit` bytes unless a single item does."""
    order = sorted(range(len(items)), key=lambda i: (-items[i].size, items[i].start, i))
    steps = max((item.end for item in items), default=0) + 1
    for capacity in range(limit, 0, -max(1, limit // 16)):  # what fits by its sum may still be too large when packed
        live: list[np.ndarray] = []
        arenas: list[list[int]] = []
        for i in order:
            item = items[i]
            span = slice(item.start, item.end + 1)
            fitting = (k for k, used in enumerate(live) if used[span].max() + item.size <= capacity)
            k = next(fitting, len(live))
            if k == len(live):
                live.append(np.zeros(steps, np.int64))
                arenas.append([])
            live[k][span] += item.size
            arenas[k].append(i)
        if all(len(a) == 1 or pack([items[i] for i in a]).total <= limit for a in arenas):
            return arenas
    return [[i] for i in order]


def _bound(items: Sequence[Item], sizes: Sequence[int]) -> int:
    """Largest sum of live sizes over all steps."""
    if not items:
        return 0
    events = sorted([(item.start, size) for item, size in zip(items, sizes, strict=True)]
                    + [(item.end + 1, -size) for item, size in zip(items, sizes, strict=True)])  # fmt: skip
    live = best = 0
    for _, change in events:  # at one step, what ends (negative) sorts before what starts
        live += change
        best = max(best, live)
    return best


# ---------------------------------------------------------------------------------------------- greedy and repair


def _neighbours(items: Sequence[Item]) -> list[list[int]]:
    """For every item, the items that live at the same time as it."""
    start = np.array([i.start for i in items])
    end = np.array([i.end for i in items])
    out = []
    for i in range(len(items)):
        alive = (start <= end[i]) & (end >= start[i])
        alive[i] = False
        out.append(np.flatnonzero(alive).tolist())
    return out


class _Search:
    """Placing all items again and again, remembering the best, until the bound is met or the budget is spent."""

    def __init__(self, items: Sequence[Item], sizes: list[int], pinned: dict[int, int], bound: int) -> None:
        self._items, self._sizes, self._pinned = items, sizes, pinned
        self._bound = max([bound, *(at + sizes[i] for i, at in pinned.items())])  # what is worth aiming at
        self._near = _neighbours(items)
        self._work = sum(map(len, self._near)) + 4 * len(items) + 1  # the cost of placing all items once
        self._spent = 0
        self._total = -1
        self.best: list[int] = []
        _check_pinned(pinned, sizes, self._near)

    def run(self) -> list[int]:
        """The three stages in turn; the offsets of the best packing."""
        orders = [sorted(range(len(self._items)), key=key) for key in _orders(self._items, self._sizes, self._near)]
        for order in orders:
            for place in (_lowest, _tightest):
                if self._may_spend(0.25) or not self.best:
                    self._attempt(order, place)
        for order, place, share in (
            (orders[0], _lowest, 0.3),
            (orders[0], _tightest, 0.35),
            (orders[1], _lowest, 0.35),
        ):
            self._repair(order, place, share)
        self._mend()
        return self.best

    def _may_spend(self, share: float) -> bool:
        """Whether there is something to gain and budget left."""
        return self._total != self._bound and self._spent + self._work <= share * BUDGET

    def _attempt(self, order: list[int], place: _Placer) -> list[int]:
        offsets = _place(order, self._sizes, self._near, self._pinned, place)
        total = max((o + s for o, s in zip(offsets, self._sizes, strict=True)), default=0)
        if self._total < 0 or total < self._total:
            self.best, self._total = offsets, total
        self._spent += self._work
        return offsets

    def _repair(self, order: list[int], place: _Placer, share: float) -> None:
        """Squeaky wheel: who ends above the bound is served earlier the next time."""
        seen: set[tuple[int, ...]] = set()
        while self._may_spend(share):
            offsets = self._attempt(order, place)
            rank = {i: float(r) for r, i in enumerate(order)}
            for i in [i for i in order if offsets[i] + self._sizes[i] > self._bound]:
                earlier = sorted(rank[j] for j in self._near[i] if rank[j] < rank[i])
                if earlier:
                    rank[i] = earlier[len(earlier) // 2] - 0.5
            order = sorted(order, key=rank.__getitem__)
            if tuple(order) in seen:
                return
            seen.add(tuple(order))

    def _mend(self) -> None:
        """Take out an item that ends above the bound and those that live beside it, and put them back in another order;
        mostly keep what sticks out less. Items that stick out again and again come ever earlier in that order.
        Work is local, so that one part of a network can be mended without spoiling another."""
        sizes, near, draw = self._sizes, self._near, random.Random(0).random
        offsets = list(self.best)
        weight = [float(size) for size in sizes]
        while self._may_spend(1):
            high = [i for i, o in enumerate(offsets) if o + sizes[i] > self._bound]
            first = high[int(draw() * len(high))]
            window = {first, *near[first]}
            if draw() < 0.3:
                for i in near[first]:
                    window.update(near[i])
            window.difference_update(self._pinned)
            kept = {i: offsets[i] for i in window}
            weight[first] *= 1.5
            for i in window:
                offsets[i] = -1
            place = _lowest if draw() < 0.5 else _tightest
            noise = 2 * draw()
            for i in sorted(sorted(window), key=lambda i: -weight[i] * (1 + noise * draw())):
                taken = [(offsets[j], offsets[j] + sizes[j]) for j in near[i] if offsets[j] >= 0]
                taken.sort()
                offsets[i] = place(taken, sizes[i])
                self._spent += len(near[i]) + 8
            old, new = self._excess(window, kept), self._excess(window, offsets)
            if new > old and draw() >= 0.2:
                for i, offset in kept.items():
                    offsets[i] = offset
            total = max(o + s for o, s in zip(offsets, sizes, strict=True))
            if total < self._total:
                self.best, self._total = list(offsets), total

    def _excess(self, window: set[int], offsets: Mapping[int, int] | list[int]) -> int:
        """Sum of what the items of a window stick out above the bound."""
        return sum(max(0, offsets[i] + self._sizes[i] - self._bound) for i in window)


def _orders(items: Sequence[Item], sizes: list[int], near: list[list[int]]) -> list[Callable[[int], tuple[int, ...]]]:
    """Sort keys, the most promising first."""
    span = [item.end - item.start + 1 for item in items]
    crowd = [sizes[i] + sum(sizes[j] for j in near[i]) for i in range(len(items))]
    return [
        lambda i: (-sizes[i], items[i].start, i),
        lambda i: (-sizes[i] * span[i], items[i].start, i),
        lambda i: (-crowd[i], -sizes[i], i),
        lambda i: (items[i].start, -span[i], -sizes[i], i),
        lambda i: (-span[i], -sizes[i], i),
        lambda i: (-items[i].end, -span[i], -sizes[i], i),
    ]


_Placer = Callable[[list[tuple[int, int]], int], int]


def _lowest(taken: list[tuple[int, int]], size: int) -> int:
    """The lowest offset where `size` fits between sorted (start, end) ranges."""
    at = 0
    for start, end in taken:
        if start - at >= size:
            return at
        if end > at:
            at = end
    return at


def _tightest(taken: list[tuple[int, int]], size: int) -> int:
    """The offset of the smallest gap that holds `size`; above everything if none does."""
    at, best, best_gap = 0, -1, 0
    for start, end in taken:
        gap = start - at
        if gap >= size and (best < 0 or gap < best_gap):
            best, best_gap = at, gap
        if end > at:
            at = end
    return at if best < 0 else best


def _place(
    order: list[int], sizes: list[int], near: list[list[int]], pinned: dict[int, int], place: _Placer
) -> list[int]:
    offsets = [-1] * len(sizes)
    for i, at in pinned.items():
        offsets[i] = at
    for i in order:
        if offsets[i] < 0:
            taken = [(offsets[j], offsets[j] + sizes[j]) for j in near[i] if offsets[j] >= 0]
            taken.sort()
            offsets[i] = place(taken, sizes[i])
    return offsets


def _check_pinned(pinned: dict[int, int], sizes: list[int], near: list[list[int]]) -> None:
    for i, at in pinned.items():
        for j in near[i]:
            if j in pinned and at < pinned[j] + sizes[j] and pinned[j] < at + sizes[i]:
                raise ValueError(f"pinned items {min(i, j)} and {max(i, j)} live at the same time and overlap")


# ---------------------------------------------------------------------------------------------- sweep


class _FreeList:
    """Free ranges of a growing arena: found by size, merged by neighbour."""

    def __init__(self) -> None:
        self.top = 0
        self._sizes: list[tuple[int, int]] = []  # sorted (size, start)
        self._ends: dict[int, int] = {}  # end -> start
        self._starts: dict[int, int] = {}  # start -> end

    def take(self, size: int) -> int:
        """Offset of a range: the smallest free one that fits, else the top of the arena."""
        at = bisect.bisect_left(self._sizes, (size, -1))
        if at < len(self._sizes):
            start = self._sizes[at][1]
            end = self._starts[start]
            self._drop(start, end)
            if start + size < end:
                self._add(start + size, end)
            return start
        start = self._ends.get(self.top, self.top)
        if start < self.top:
            self._drop(start, self.top)
        self.top = start + size
        return start

    def give(self, start: int, size: int) -> None:
        end = start + size
        if start in self._ends:
            low = self._ends[start]
            self._drop(low, start)
            start = low
        if end in self._starts:
            high = self._starts[end]
            self._drop(end, high)
            end = high
        self._add(start, end)

    def _add(self, start: int, end: int) -> None:
        bisect.insort(self._sizes, (end - start, start))
        self._starts[start], self._ends[end] = end, start

    def _drop(self, start: int, end: int) -> None:
        self._sizes.pop(bisect.bisect_left(self._sizes, (end - start, start)))
        del self._starts[start], self._ends[end]


def _sweep(items: Sequence[Item], sizes: list[int]) -> list[int]:
    """The better of a sweep forwards and one backwards in time."""
    best: tuple[int, list[int]] | None = None
    for first, last in (
        ([i.start for i in items], [i.end for i in items]),
        ([-i.end for i in items], [-i.start for i in items]),
    ):
        free, offsets = _FreeList(), [0] * len(items)
        live: list[tuple[int, int]] = []  # heap of (last step, item)
        for i in sorted(range(len(items)), key=lambda i: (first[i], -last[i], -sizes[i], i)):
            while live and live[0][0] < first[i]:
                done = heapq.heappop(live)[1]
                free.give(offsets[done], sizes[done])
            offsets[i] = free.take(sizes[i])
            heapq.heappush(live, (last[i], i))
        if best is None or free.top < best[0]:
            best = free.top, offsets
    return best[1] if best else []
