"""A/B: arms of an experiment compared by user."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from reranker.data.schema import USER
from reranker.errors import DataError
from reranker.evaluation.logs.outcomes import ARM, REWARD
from reranker.utils.statistics import RESAMPLES, Interval, bootstrap_means, mean_interval


@dataclass(frozen=True, kw_only=True)
class ArmComparison:
    """One arm against the control, by the mean reward of a ranking.

    Attributes:
        arm, control: names.
        value, control_value: mean over users of each user's mean reward a ranking.
        difference: arm minus control.
        detectable: smallest true difference that a sample like this finds four times in five.
    """

    arm: str
    control: str
    value: Interval
    control_value: Interval
    difference: Interval
    detectable: float

    def __str__(self) -> str:
        decided = self.difference.low > 0 or self.difference.high < 0
        note = "" if decided else f"; not decided, a difference of {self.detectable:.4f} would be found 4 times in 5"
        return (
            f"{self.arm} over {self.control}: {self.difference} ({self.value.mean:.4f} on {self.value.n} users, "
            f"{self.control_value.mean:.4f} on {self.control_value.n}){note}"
        )


def compare_arms(rows: pd.DataFrame, control: str | None = None, seed: int = 0) -> list[ArmComparison]:
    """Every arm against the control.

    Args:
        rows: of `JoinedLog`, with a column `arm`.
        control: name; the first in the alphabet by default.
        seed: of the bootstrap.

    Raises:
        DataError: no arms, one arm, an unknown control, a user in two arms, or an arm with one user.
    """
    found = rows[rows[ARM].notna()] if ARM in rows else rows.iloc[:0]
    names = sorted(found[ARM].unique()) if len(found) else []
    if len(names) < 2:
        raise DataError(
            f"an experiment needs two arms, the score log holds {names or 'none'}: set `experiment` in serve"
        )
    if control is not None and control not in names:
        raise DataError(f"the experiment has no arm {control!r}; there are {', '.join(names)}")
    both = found.groupby(USER)[ARM].nunique()
    if (both > 1).any():
        raise DataError(
            f"{int((both > 1).sum())} users are in two arms, first {both.index[both > 1][0]!r}: the log holds two "
            "experiments, or its arms changed; give the part since then"
        )
    lists = found.groupby([ARM, USER, "request_id"], sort=True)[REWARD].sum()
    by_user = lists.groupby(level=[0, 1]).mean()
    values = {name: by_user[name].to_numpy(dtype=np.float64) for name in names}
    few = [name for name in names if len(values[name]) < 2]
    if few:
        raise DataError(f"the arm {few[0]!r} has one user: nothing can be said of it")
    first = control or names[0]
    return [_compared(name, values[name], first, values[first], seed) for name in names if name != first]


def _compared(arm: str, mine: np.ndarray, control: str, theirs: np.ndarray, seed: int) -> ArmComparison:
    gaps = bootstrap_means(mine, seed) - bootstrap_means(theirs, seed + 1)
    low, high = np.quantile(gaps, [0.025, 0.975])
    assert len(gaps) == RESAMPLES
    difference = Interval(
        mean=float(mine.mean() - theirs.mean()), low=float(low), high=float(high), n=len(mine) + len(theirs)
    )
    return ArmComparison(
        arm=arm,
        control=control,
        value=mean_interval(mine, seed=seed),
        control_value=mean_interval(theirs, seed=seed + 1),
        difference=difference,
        detectable=float(2.8 * gaps.std()),  # z(0.975) + z(0.8)
    )
