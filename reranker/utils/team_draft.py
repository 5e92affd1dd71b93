"""Team-draft interleaving: two orders share one list, each item put there by one of them.

Radlinski, Kurup & Joachims (2008), "How does clickthrough data reflect retrieval quality?".
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from reranker.errors import DataError

Item = TypeVar("Item")

INTERLEAVED = "interleaved"
"""What answers and logs call the order of such a list."""


def team_draft(
    a: Sequence[Item], b: Sequence[Item], rng: np.random.Generator, length: int | None = None
) -> tuple[list[Item], list[int]]:
    """One list of two orders of the same items, and the team (0 for A, 1 for B) of each place.

    In each round both teams pick their best item that is not taken; who picks first is drawn.

    Args:
        a: items, best first.
        b: the same items, in another order.
        rng: draws who begins.
        length: of the list; all by default.

    Raises:
        DataError: the items are not the same, or one stands twice.
    """
    if len(a) != len(b) or set(a) != set(b) or len(set(a)) != len(a):
        raise DataError("team draft: two orders of the same items are needed, each item once")
    n = len(a) if length is None else min(length, len(a))
    taken: set[Item] = set()
    left = iter(a), iter(b)
    drafted: list[Item] = []
    teams: list[int] = []
    while len(drafted) < n:
        begins = int(rng.integers(2))
        for team in (begins, 1 - begins):
            if len(drafted) < n:
                best = next(item for item in left[team] if item not in taken)
                taken.add(best)
                drafted.append(best)
                teams.append(team)
    return drafted, teams
