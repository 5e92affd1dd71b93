"""Is a difference real? Paired bootstrap by user, Holm's correction, and what the sample could have shown.

Efron & Tibshirani (1993) percentile bootstrap; Holm (1979) step-down; the user is the unit that is resampled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from reranker.errors import DataError
from reranker.utils.statistics import RESAMPLES

Values = NDArray[np.float64]
POOLED = "pooled"
POWER = 0.8


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One system against another on the same users.

    Attributes:
        domain: the domain, or "pooled": the mean over domains, each counting the same.
        metric: for instance "ndcg@10".
        mean, low, high: difference `system - versus` with its 95 % interval, in units of the metric.
        relative, relative_low, relative_high: the same as a share of `versus`; NaN where that is 0.
        p: two-sided bootstrap p-value; p_holm: after Holm's correction over the systems of one table.
        n_users: users compared.
        split: label of the split the users come from.
        detectable: smallest true difference that a sample like this finds with 80 % power at the 5 % level.
    """

    domain: str
    system: str
    versus: str
    metric: str
    mean: float
    low: float
    high: float
    relative: float
    relative_low: float
    relative_high: float
    p: float
    p_holm: float
    n_users: int
    detectable: float
    split: str = ""

    @property
    def decided(self) -> bool:
        """True when the interval leaves zero out."""
        return self.low > 0 or self.high < 0

    @property
    def power_note(self) -> str:
        """What an undecided comparison could have shown; empty for a decided one."""
        if self.decided:
            return ""
        if self.detectable == 0 and self.mean == 0:
            users = f"every one of {self.n_users} users"
            return f"{self.domain}: {self.system} gives {users} the {self.metric} of {self.versus}"
        return (
            f"{self.domain}: {self.system} against {self.versus} is not decided by {self.n_users} users; a true "
            f"difference in {self.metric} of {self.detectable:.4f} or more would be found four times in five"
        )


def bootstrap_columns(values: Values, seed: int = 0, resamples: int = RESAMPLES) -> Values:
    """(resamples, columns) means of resampled users, the same draws for every column of (users, columns)."""
    weights = _weights(len(values), seed, resamples)
    means: Values = weights @ values / len(values)
    return means


@lru_cache(maxsize=2)  # the same users are compared many times: metric by metric, system by system
def _weights(n: int, seed: int, resamples: int) -> Values:
    """(resamples, n) how often each user is drawn; the draws of `reranker.utils.statistics`."""
    if n == 0:
        raise DataError("cannot bootstrap: there is no user to draw from")
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size=resamples)
    return draws.astype(np.float64)


def compare(
    values: Mapping[str, tuple[Values, Values]],
    *,
    system: str,
    versus: str,
    metric: str,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> list[Comparison]:
    """One comparison a domain, and a pooled one when there are several domains.

    Args:
        values: domain -> (of the system, of the other), each (users,), row by row the same user.

    Raises:
        DataError: the two do not hold the same number of users, or hold none.
    """
    draws, plain, results = [], [], []
    for number, (domain, (mine, other)) in enumerate(values.items()):
        if mine.shape != other.shape:
            raise DataError(f"domain {domain!r}: {system!r} has {mine.shape} users and {versus!r} {other.shape}")
        resampled = bootstrap_columns(np.column_stack([mine, other]), seed + number, resamples)
        difference = mine - other
        spread = float(difference.std(ddof=1) / np.sqrt(len(difference))) if len(difference) > 1 else float("nan")
        draws.append(resampled)
        plain.append((float(mine.mean()), float(other.mean()), len(mine), spread))
        results.append(_comparison(domain, system, versus, metric, resampled, *plain[-1]))
    if len(results) > 1:
        means = np.array([row[:2] for row in plain]).mean(axis=0)
        error = float(np.sqrt(np.square([row[3] for row in plain]).sum()) / len(plain))
        together = np.mean(draws, axis=0)
        n_users = sum(row[2] for row in plain)
        results.append(
            _comparison(POOLED, system, versus, metric, together, float(means[0]), float(means[1]), n_users, error)
        )
    return results


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given; NaN stays NaN and does not count."""
    adjusted = np.full(len(p_values), np.nan)
    p = np.asarray(p_values, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(p))
    running = 0.0
    for step, position in enumerate(tested[np.argsort(p[tested], kind="stable")]):
        running = max(running, min(1.0, float(p[position]) * (len(tested) - step)))
        adjusted[position] = running
    return [float(value) for value in adjusted]


def with_holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Corrects over the systems of each (split, domain, versus, metric)."""
    families: dict[tuple[str, str, str, str], list[int]] = {}
    for position, comparison in enumerate(comparisons):
        family = (comparison.split, comparison.domain, comparison.versus, comparison.metric)
        families.setdefault(family, []).append(position)
    corrected = list(comparisons)
    for positions in families.values():
        adjusted = holm([comparisons[position].p for position in positions])
        for position, p_holm in zip(positions, adjusted, strict=True):
            corrected[position] = replace(comparisons[position], p_holm=p_holm)
    return corrected


def _comparison(
    domain: str,
    system: str,
    versus: str,
    metric: str,
    resampled: Values,
    mine: float,
    other: float,
    n_users: int,
    standard_error: float,
) -> Comparison:
    differences = resampled[:, 0] - resampled[:, 1]
    enough = n_users > 1
    low, high = np.quantile(differences, [0.025, 0.975]) if enough else (np.nan, np.nan)
    relative, relative_low, relative_high = (np.nan, np.nan, np.nan)
    if other != 0:
        relative = mine / other - 1
        usable = resampled[:, 1] > 0
        if enough and usable.any():
            ratios = resampled[usable, 0] / resampled[usable, 1] - 1
            relative_low, relative_high = np.quantile(ratios, [0.025, 0.975])
    tail = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    p = min(1.0, 2 * (tail + 1) / (len(differences) + 1)) if enough else float("nan")
    return Comparison(
        domain=domain,
        system=system,
        versus=versus,
        metric=metric,
        mean=mine - other,
        low=float(low),
        high=float(high),
        relative=float(relative),
        relative_low=float(relative_low),
        relative_high=float(relative_high),
        p=p,
        p_holm=p,
        n_users=n_users,
        detectable=float((norm.ppf(0.975) + norm.ppf(POWER)) * standard_error),
    )
