"""Placing the items of one list by pins, caps and quotas."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from reranker.types import IntArray


@dataclass(kw_only=True)
class CapCount:
    """A cap over one list, and what was counted for it so far.

    Attributes:
        values: each position's values of the column; none is never capped.
        most: items of one value.
        first: places that are looked at.
    """

    values: Sequence[tuple[str, ...]]
    most: int
    first: int
    counts: Counter[str] = field(default_factory=Counter)
    counted: set[int] = field(default_factory=set)

    def admits(self, position: int) -> bool:
        """Whether one more such item is within the cap."""
        return position in self.counted or all(self.counts[value] < self.most for value in self.values[position])

    def add(self, position: int) -> None:
        """Counts an item, once."""
        if position not in self.counted:
            self.counted.add(position)
            self.counts.update(self.values[position])


@dataclass(frozen=True, kw_only=True, eq=False)
class QuotaMask:
    """A quota over one list.

    Attributes:
        mask: (n,) True where the item meets the condition.
        at_least: items.
        first: places that are looked at.
    """

    mask: NDArray[np.bool_]
    at_least: int
    first: int


def placed(order: IntArray, pins: Mapping[int, int], caps: Sequence[CapCount], quotas: Sequence[QuotaMask]) -> IntArray:
    """(n,) positions in the order in which they are shown: always a permutation of `order`.

    Place by place the best item that no cap forbids, where a quota does not ask for another one. Items that quotas need
    are set aside before, and counted for the caps. Where every item is forbidden, the best one is taken all the same.

    Args:
        order: (n,) positions, best first.
        pins: 0-based place -> position.
        caps, quotas: with nothing counted yet.
    """
    for place, position in pins.items():
        for cap in caps:
            if place < cap.first:
                cap.add(position)
    owed = [_reserved(order, pins, caps, quota) for quota in quotas]
    reserved = set().union(*owed)
    waiting = [position for position in order.tolist() if position not in pins.values()]
    windows = [cap.first for cap in caps] + [quota.first for quota in quotas] + [place + 1 for place in pins]
    shown: list[int] = []
    for place in range(min(max(windows, default=0), len(order))):
        if place in pins:
            position = pins[place]
        else:
            position = _best(waiting, place, caps, _due(place, pins, quotas, owed), reserved)
            waiting.remove(position)
        shown.append(position)
        for cap in caps:
            if place < cap.first:
                cap.add(position)
        for items in owed:
            items.discard(position)
    return np.array([*shown, *waiting], dtype=np.int64)


def _reserved(order: IntArray, pins: Mapping[int, int], caps: Sequence[CapCount], quota: QuotaMask) -> set[int]:
    """The best items that a quota needs beside the pinned ones, within the caps, which count them from here on."""
    pinned = sum(quota.mask[position] for place, position in pins.items() if place < quota.first)
    found: set[int] = set()
    for position in order.tolist():
        if len(found) >= quota.at_least - pinned:
            break
        if not quota.mask[position] or position in pins.values():
            continue
        around = [cap for cap in caps if cap.first >= quota.first]
        if all(cap.admits(position) for cap in around):
            found.add(position)
            for cap in around:
                cap.add(position)
    return found


def _due(place: int, pins: Mapping[int, int], quotas: Sequence[QuotaMask], owed: Sequence[set[int]]) -> set[int] | None:
    """The items of which one has to stand here, lest there be too few places left for them; None for any."""
    due: set[int] | None = None
    for quota, items in zip(quotas, owed, strict=True):
        if items and place < quota.first:
            free = sum(other not in pins for other in range(place, quota.first))
            if free <= len(items):
                due = items if due is None else (due & items or due)
    return due


def _best(
    waiting: Sequence[int], place: int, caps: Sequence[CapCount], due: set[int] | None, reserved: set[int]
) -> int:
    """The best waiting item that may stand here; where none may, the best that is due, or the best of all."""
    here = [cap for cap in caps if place < cap.first]
    wanted = waiting if due is None else [position for position in waiting if position in due]
    for position in wanted:
        if all(cap.admits(position) for cap in here):
            return position
    spare = [position for position in wanted if position not in reserved] or wanted
    return spare[0]
