"""Team-draft interleaving judged: each choice counts for the order that put the item into the list.

Radlinski, Kurup & Joachims (2008), "How does clickthrough data reflect retrieval quality?".
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from reranker.data.schema import USER
from reranker.errors import DataError
from reranker.evaluation.logs.outcomes import PLACE, REWARD, TEAM
from reranker.utils.statistics import Interval, mean_interval


@dataclass(frozen=True, kw_only=True)
class InterleavingResult:
    """Which of two orders wins.

    Attributes:
        wins_a, wins_b, ties: rankings by whose items were chosen more often.
        preference: (wins of A + ties / 2) / rankings; 0.5 is no preference.
        p: two-sided sign test on the decided rankings, as if each were of another user.
        by_user: the preference as the mean over users of their own, with its interval (bootstrap over users).
        a, b: names of the orders.
    """

    wins_a: int
    wins_b: int
    ties: int
    preference: float
    p: float
    by_user: Interval
    a: str = "A"
    b: str = "B"

    @property
    def decided(self) -> bool:
        """Whether the interval by user leaves 0.5 out."""
        return self.by_user.low > 0.5 or self.by_user.high < 0.5

    def __str__(self) -> str:
        said = f"{self.a if self.by_user.mean > 0.5 else self.b} is preferred" if self.decided else "not decided"
        return (
            f"{self.a} wins {self.wins_a}, {self.b} {self.wins_b}, {self.ties} ties; preference for {self.a} "
            f"{self.by_user.mean:.3f} [{self.by_user.low:.3f}, {self.by_user.high:.3f}] by {self.by_user.n} users "
            f"(0.5 is none; sign test p {self.p:.3f}): {said}"
        )


def interleaving_result(
    chosen_a: Sequence[float], chosen_b: Sequence[float], users: Sequence[object] | None = None
) -> InterleavingResult:
    """The winner, from what was chosen of each team's items.

    Args:
        chosen_a: (rankings,) reward of A's items.
        chosen_b: (rankings,) of B's.
        users: (rankings,) whose each is; another one each by default.

    Raises:
        DataError: no rankings, or not as many of both.
    """
    if not len(chosen_a) or len(chosen_a) != len(chosen_b):
        raise DataError(f"interleaving: {len(chosen_a)} and {len(chosen_b)} rankings; give both rewards of each")
    gap = np.asarray(chosen_a, dtype=np.float64) - np.asarray(chosen_b, dtype=np.float64)
    a, b = int((gap > 0).sum()), int((gap < 0).sum())
    each = pd.Series((np.sign(gap) + 1) / 2)
    whose = pd.Series(range(len(gap)) if users is None else list(users), dtype=object)
    by_user = np.array(each.groupby(whose).mean().tolist(), dtype=np.float64)
    return InterleavingResult(
        wins_a=a,
        wins_b=b,
        ties=len(gap) - a - b,
        preference=float(each.mean()),
        p=float(binomtest(a, a + b).pvalue) if a + b else 1.0,
        by_user=mean_interval(by_user),
    )


def judge_interleaving(rows: pd.DataFrame, k: int | None = None) -> InterleavingResult:
    """The winner of the interleaved rankings of a log.

    Args:
        rows: of `JoinedLog`, with a column `team`; A is the first team in the alphabet.
        k: places that count; all that were shown by default.

    Raises:
        DataError: no ranking is interleaved, or the teams are not two.
    """
    mixed = rows[rows[TEAM].notna()] if TEAM in rows else rows.iloc[:0]
    names = sorted(mixed[TEAM].unique())
    if len(names) != 2:
        raise DataError(
            f"interleaving needs two orders, the score log holds {names or 'none'}: give the part with one experiment"
        )
    counts = (mixed[PLACE] > 0) & (mixed[PLACE] <= (np.inf if k is None else k))
    reward = mixed[REWARD].where(counts, 0.0)
    rankings = mixed.groupby("request_id", sort=True)
    of_a, of_b = (
        reward.where(mixed[TEAM] == name, 0.0).groupby(mixed["request_id"], sort=True).sum().tolist() for name in names
    )
    return replace(interleaving_result(of_a, of_b, rankings[USER].first().tolist()), a=names[0], b=names[1])
