"""What another order would have brought, from logs of a server that explored: IPS, SNIPS and doubly robust.

The value of an order is the mean reward of its first K places. An item that the order would put at place k tells of it
where the log shows that item at that place; it weighs 1 / p, with p the chance that the server put it there (Li et al.
2018, the item-position model: what is chosen at a place depends on the item and the place, not on its neighbours).
Horvitz & Thompson (1952) IPS; Swaminathan & Joachims (2015) SNIPS; Dudik et al. (2011) doubly robust.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.schema import ITEM, USER
from reranker.errors import DataError
from reranker.evaluation.logs.outcomes import PLACE, PROPENSITY, REWARD
from reranker.utils.statistics import RESAMPLES, Interval

Floats = NDArray[np.float64]

FEWEST_EFFECTIVE = 100.0
"""Effective rankings below which an estimate is not to be relied on, however narrow its interval looks."""

_PRIOR = 10.0  # expected choices that an item's own rate is shrunk by


@dataclass(frozen=True, kw_only=True)
class OffPolicyValue:
    """Mean reward of an order's first places, per ranking.

    Attributes:
        order: which.
        ips, snips, dr: estimates with 95 % intervals (bootstrap over users).
        effective: effective sample size in rankings, the least over the places.
        unsupported: share of (ranking, place) pairs whose item the server could not have put there: IPS counts them 0,
            so its value is too low by what they would have brought; SNIPS and DR guess it.
    """

    order: str
    ips: Interval
    snips: Interval
    dr: Interval
    effective: float
    unsupported: float

    @property
    def warning(self) -> str:
        """Why the numbers cannot be relied on; empty where they can."""
        if self.unsupported > 0.01:
            return (
                f"{self.unsupported:.0%} of what {self.order} would show could not have been served at its place, for "
                "the server explored too little (or not at all): the value is not known from this log"
            )
        if self.effective < FEWEST_EFFECTIVE:
            return f"the log is worth {self.effective:.0f} rankings for {self.order}: too few to tell"
        return ""


def estimate(rows: pd.DataFrame, target: Floats, order: str, k: int = 10, seed: int = 0) -> OffPolicyValue:
    """The value of an order's first k places.

    Args:
        rows: of `JoinedLog`.
        target: (rows,) place, from 1, at which the order would put each candidate.
        order: its name.
        k: places.
        seed: of the bootstrap.

    Raises:
        DataError: no rows, or a propensity outside (0, 1].
    """
    if rows.empty:
        raise DataError("off-policy estimate: the log holds no row")
    propensity = rows[PROPENSITY].to_numpy(dtype=np.float64)
    bad = ~((propensity > 0) & (propensity <= 1))
    if bad.any():
        raise DataError(
            f"score log, column {PROPENSITY!r}: {int(bad.sum())} values are outside (0, 1], first {propensity[bad][0]}"
        )
    place, reward = rows[PLACE].to_numpy(dtype=np.int64), rows[REWARD].to_numpy(dtype=np.float64)
    users, user_ids = pd.factorize(rows[USER])
    lists, _ = pd.factorize(rows["request_id"])
    n_lists, n_users = int(lists.max()) + 1, len(user_ids)
    owner = np.zeros(n_lists, dtype=np.int64)
    owner[lists] = users
    wanted = target <= k
    matched = wanted & (place == target)
    reach = _reach(propensity, place, lists, n_lists)
    supported = matched | (wanted & (place > 0) & (place <= reach) & (target <= reach))
    model = _RewardModel(rows, place, reward, users, k)
    weight = np.where(matched, 1.0 / propensity, 0.0)
    at = np.clip(target - 1, 0, k - 1).astype(np.int64)
    q = model.at(np.where(wanted, target, 0).astype(np.int64))
    totals = np.zeros((n_users, 1 + 3 * k))  # by user: lists, then by place weight x reward, weight, DR
    totals[:, 0] = np.bincount(owner, minlength=n_users)
    key = users * k + at
    for column, values in enumerate((weight * reward, weight, np.where(wanted, q + weight * (reward - q), 0.0))):
        summed = np.bincount(key, weights=values, minlength=n_users * k).reshape(n_users, k)
        totals[:, 1 + column * k : 1 + (column + 1) * k] = summed
    drawn = _draws(n_users, seed) @ totals
    squares = np.bincount(at, weights=weight**2, minlength=k)
    sums = np.bincount(at, weights=weight, minlength=k)
    places = np.bincount(at[wanted], minlength=k) > 0
    effective = float((sums[places] ** 2 / np.maximum(squares[places], 1e-12)).min()) if places.any() else 0.0
    intervals = [
        _interval(function, totals.sum(axis=0), drawn, k, n_users) for function in (_ips_of, _snips_of, _dr_of)
    ]
    return OffPolicyValue(
        order=order,
        ips=intervals[0],
        snips=intervals[1],
        dr=intervals[2],
        effective=effective,
        unsupported=float((wanted & ~supported).sum() / max(1, wanted.sum())),
    )


def _ips_of(sums: Floats, k: int) -> Floats:
    value: Floats = sums[..., 1 : 1 + k].sum(axis=-1) / sums[..., 0]
    return value


def _snips_of(sums: Floats, k: int) -> Floats:
    """Place by place: mean reward of the rankings that tell of it."""
    gained, weight = sums[..., 1 : 1 + k], sums[..., 1 + k : 1 + 2 * k]
    value: Floats = np.divide(gained, weight, out=np.zeros_like(gained), where=weight > 0).sum(axis=-1)
    return value


def _dr_of(sums: Floats, k: int) -> Floats:
    value: Floats = sums[..., 1 + 2 * k :].sum(axis=-1) / sums[..., 0]
    return value


def _interval(function: Callable[[Floats, int], Floats], sums: Floats, drawn: Floats, k: int, n: int) -> Interval:
    low, high = np.quantile(function(drawn, k), [0.025, 0.975]) if n > 1 else (np.nan, np.nan)
    return Interval(mean=float(function(sums, k)), low=float(low), high=float(high), n=n)


def _draws(n: int, seed: int) -> Floats:
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size=RESAMPLES // 4).astype(np.float64)


def _reach(propensity: Floats, place: NDArray[np.int64], lists: NDArray[np.int64], n_lists: int) -> NDArray[np.int64]:
    """(rows,) last place of the row's ranking that was explored: places before it could hold each other's items."""
    uncertain = propensity < 1
    reach = np.zeros(n_lists, dtype=np.int64)
    np.maximum.at(reach, lists[uncertain], place[uncertain])
    return reach[lists]


class _RewardModel:
    """Expected reward of each row's item at other places: rate of the place times the item's own, shrunk towards 1.

    Fitted on the other half of the users, so that a user's choices do not predict themselves.
    """

    def __init__(
        self, rows: pd.DataFrame, place: NDArray[np.int64], reward: Floats, users: NDArray[np.int64], k: int
    ) -> None:
        self._half = users % 2
        items, _ = pd.factorize(rows[ITEM])
        self._items, n_items = items, int(items.max()) + 1
        shown = place > 0
        last = max(k, int(place.max()))
        self._rate, self._lift = np.zeros((2, last + 1)), np.ones((2, n_items))
        for half in (0, 1):
            fitted = shown & (self._half != half) if (self._half != half).any() else shown
            counts = np.bincount(place[fitted], minlength=last + 1)
            rate = np.bincount(place[fitted], weights=reward[fitted], minlength=last + 1) / np.maximum(counts, 1)
            expected = np.bincount(items[fitted], weights=rate[place[fitted]], minlength=n_items)
            gained = np.bincount(items[fitted], weights=reward[fitted], minlength=n_items)
            self._rate[half], self._lift[half] = rate, (gained + _PRIOR) / (expected + _PRIOR)

    def at(self, places: NDArray[np.int64]) -> Floats:
        """(rows,) of each row's item at these places; 0 means nowhere."""
        found: Floats = self._rate[self._half, places] * self._lift[self._half, self._items]
        return np.where(places > 0, found, 0.0)
