"""Team-draft interleaving: two orders share one list, and each choice counts for the order that put the item there.

Radlinski, Kurup & Joachims (2008), "How does clickthrough data reflect retrieval quality?".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.stats import binomtest

from reranker.errors import DataError

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class InterleavingResult:
    """Which of two orders wins.

    Attributes:
        wins_a, wins_b, ties: rankings by whose items were chosen more often.
        preference: (wins of A + ties / 2) / rankings; 0.5 is no preference.
        p: two-sided sign test on the decided rankings.
    """

    wins_a: int
    wins_b: int
    ties: int
    preference: float
    p: float

    @property
    def decided(self) -> bool:
        """Whether chance alone would show this less than one time in 20."""
        return self.p < 0.05

    def __str__(self) -> str:
        said = "" if self.decided else "; not decided"
        return f"A wins {self.wins_a}, B {self.wins_b}, {self.ties} ties: {self.preference:.3f} (p {self.p:.3f}){said}"


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
    drafted: list[Item] = []
    teams: list[int] = []
    while len(drafted) < n:
        begins = int(rng.integers(2))
        for team in (begins, 1 - begins):
            if len(drafted) < n:
                best = next(item for item in (a, b)[team] if item not in taken)
                taken.add(best)
                drafted.append(best)
                teams.append(team)
    return drafted, teams


def interleaving_result(chosen_a: Sequence[float], chosen_b: Sequence[float]) -> InterleavingResult:
    """The winner, from what was chosen of each team's items.

    Args:
        chosen_a: (rankings,) reward of A's items.
        chosen_b: (rankings,) of B's.

    Raises:
        DataError: no rankings, or not as many of both.
    """
    if not len(chosen_a) or len(chosen_a) != len(chosen_b):
        raise DataError(f"interleaving: {len(chosen_a)} and {len(chosen_b)} rankings; give both rewards of each")
    gap = np.asarray(chosen_a, dtype=np.float64) - np.asarray(chosen_b, dtype=np.float64)
    a, b = int((gap > 0).sum()), int((gap < 0).sum())
    ties = len(gap) - a - b
    return InterleavingResult(
        wins_a=a,
        wins_b=b,
        ties=ties,
        preference=(a + ties / 2) / len(gap),
        p=float(binomtest(a, a + b).pvalue) if a + b else 1.0,
    )
