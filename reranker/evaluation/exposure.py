"""Who is shown: exposure of providers, categories and popularity bands, and how well lists fit each user's own mix.

Exposure of a shown item is its position's weight 1 / log2(rank + 1) (Singh & Joachims 2018, "Fairness of Exposure in
Rankings"). Calibration is the divergence KL(p || (1 - a) q + a p) of a user's list q from what the user chose before, p
(Steck 2018, "Calibrated Recommendations", a = 0.01): 0 where the list has the user's own mix, at most ln 100.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from reranker.data.schema import ITEM, USER
from reranker.evaluation.item_groups import ItemGroups, item_groups
from reranker.evaluation.metrics import Scores, gini, ranks
from reranker.evaluation.runner import Results, Run
from reranker.pipeline.lists import FoldLists
from reranker.types import IntArray
from reranker.utils.statistics import Interval, mean_interval

SMOOTHING = 0.01
_RESAMPLES = 500

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class GroupShare:
    """How much of what is shown is of one group.

    Attributes:
        group: its name.
        share: of all exposure; low and high are the 95 % interval by bootstrap over users, NaN for a single user.
        of_catalogue: share of the catalogue's items.
        of_choices: share of the interactions that systems learned from.
    """

    group: str
    share: float
    low: float
    high: float
    of_catalogue: float
    of_choices: float


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """Exposure of the groups of one grouping under one system.

    Attributes:
        grouping: "provider", "category" or "popularity".
        k: places of a list that are shown.
        groups: largest share first.
        gini: inequality of the groups' exposure: 0 equal, near 1 where one group takes all; with its interval.
        coverage: share of the groups of the catalogue that anyone is shown.
        miscalibration: mean over users; None where no user has a history and a list.
        over_baseline: the same minus that of the baseline's lists, paired by user; below 0 is closer to users' mixes.
        no_history: users with a list and without a history, who are not in `miscalibration`.
    """

    domain: str
    split: str
    system: str
    grouping: str
    k: int
    groups: tuple[GroupShare, ...]
    gini: Interval
    coverage: float
    miscalibration: Interval | None
    over_baseline: Interval | None
    no_history: int

    def record(self) -> dict[str, object]:
        """For results.json."""
        return asdict(self)


def exposures(results: Results, k: int = 10, provider: str | None = None) -> list[Exposure]:
    """Of every system's first seed, on the first list length, by every grouping.

    Args:
        results: of an evaluation.
        k: places of a list that are shown.
        provider: column of the item table that names providers.

    Raises:
        DataError: the item table has no such column.
    """
    baseline, n = results.settings.baseline, results.settings.candidates[0]
    first: dict[tuple[int, str], Run] = {}
    for run in results.runs:
        if run.lists.n == n and len(run.lists.candidates):
            first.setdefault((id(run.lists), run.system), run)
    groupings = {key: item_groups(run.lists.fold, provider) for (key, _), run in first.items()}
    return [
        _exposure(run, grouping, k, first.get((key, baseline)))
        for (key, _), run in first.items()
        for grouping in groupings[key]
    ]


def _exposure(run: Run, grouping: ItemGroups, k: int, baseline: Run | None) -> Exposure:
    lists = run.lists
    by_user = shown_by_user(lists, run.scores, grouping, k)
    sums = np.asarray(by_user.sum(axis=0), dtype=np.float64).ravel()
    drawn = _resampled(by_user)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0) if by_user.shape[0] > 1 else [np.full(len(sums), np.nan)] * 2
    shares, catalogue = sums / sums.sum(), grouping.catalogue_shares()
    choices = grouping.shares_of(lists.fold.train[ITEM])
    exists = (catalogue > 0) | (sums > 0)
    order = [number for number in np.argsort(-shares, kind="stable").tolist() if exists[number]]
    mine, no_history = miscalibrations(lists, run.scores, grouping, k)
    theirs = None if baseline is None or baseline is run else miscalibrations(lists, baseline.scores, grouping, k)[0]
    inequality = [gini(row[exists]) for row in drawn] if by_user.shape[0] > 1 else [np.nan]
    ends = np.quantile(inequality, [0.025, 0.975])
    return Exposure(
        domain=lists.fold.domain,
        split=lists.fold.split,
        system=run.system,
        grouping=grouping.name,
        k=k,
        groups=tuple(
            GroupShare(
                group=grouping.groups[number],
                share=float(shares[number]),
                low=float(low[number]),
                high=float(high[number]),
                of_catalogue=float(catalogue[number]),
                of_choices=float(choices[number]),
            )
            for number in order
        ),
        gini=Interval(mean=gini(shares[exists]), low=float(ends[0]), high=float(ends[1]), n=by_user.shape[0]),
        coverage=float((sums[catalogue > 0] > 0).mean()),
        miscalibration=mean_interval(mine) if len(mine) else None,
        over_baseline=mean_interval(mine - theirs) if theirs is not None and len(mine) else None,
        no_history=no_history,
    )


def shown_by_user(lists: FoldLists, scores: Scores, grouping: ItemGroups, k: int) -> sparse.csr_array:
    """(users with a list, groups) exposure in the first k places of each user's list."""
    ranked = ranks(lists, scores)
    top = np.flatnonzero(ranked <= k)
    listed = np.unique(lists.list_index, return_inverse=True)[1]
    weights = 1.0 / np.log2(ranked[top] + 1.0)
    shape = (int(listed.max()) + 1, len(top))
    of_user = sparse.csr_array((weights, (listed[top], np.arange(len(top)))), shape=shape)
    return sparse.csr_array(of_user @ grouping.of(lists.candidates[ITEM].iloc[top]))


def miscalibrations(lists: FoldLists, scores: Scores, grouping: ItemGroups, k: int) -> tuple[Floats, int]:
    """Divergence of each user's first k places from the user's own mix.

    Returns:
        (users with a list and a history,) divergences, and how many users have a list and no history.
    """
    top = np.flatnonzero(ranks(lists, scores) <= k)
    n_users = len(lists.fold.users)
    shown = _mixes(lists.list_index[top], grouping.of(lists.candidates[ITEM].iloc[top]), n_users)
    history = lists.fold.history
    positions = {user: position for position, user in enumerate(lists.fold.users)}
    users = np.asarray(history[USER].map(positions).fillna(-1), dtype=np.int64)
    known = users >= 0
    chosen = _mixes(users[known], grouping.of(history[ITEM][known]), n_users)
    has_list, has_history = (np.asarray(mix.sum(axis=1)).ravel() > 0 for mix in (shown, chosen))
    both = np.flatnonzero(has_list & has_history)
    return divergence(chosen[both], shown[both]), int((has_list & ~has_history).sum())


def divergence(chosen: sparse.csr_array, shown: sparse.csr_array) -> Floats:
    """(users,) KL(p || (1 - a) q + a p) in nats, of (users, groups) shares p and q."""
    p = sparse.coo_array(chosen)
    q = np.asarray(shown[p.row, p.col], dtype=np.float64).ravel()
    terms = p.data * np.log(p.data / ((1 - SMOOTHING) * q + SMOOTHING * p.data))
    sums: Floats = np.bincount(p.row, weights=terms, minlength=p.shape[0]).astype(np.float64)
    return np.maximum(sums, 0.0)  # rounding


def _mixes(users: IntArray, membership: sparse.csr_array, n_users: int) -> sparse.csr_array:
    """(n_users, groups) mean membership of each user's rows; 0 of users without one."""
    counts = np.maximum(np.bincount(users, minlength=n_users), 1)
    shape = (n_users, len(users))
    mean = sparse.csr_array((1.0 / counts[users], (users, np.arange(len(users)))), shape=shape)
    mixed = sparse.csr_array(mean @ membership)
    mixed.eliminate_zeros()
    return mixed


def _resampled(by_user: sparse.csr_array, seed: int = 0) -> Floats:
    """(resamples, groups) shares of exposure with users drawn again."""
    n = by_user.shape[0]
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size=_RESAMPLES).astype(np.float64)
    sums = np.asarray(draws @ by_user, dtype=np.float64)
    shares: Floats = sums / np.maximum(sums.sum(axis=1, keepdims=True), 1e-300)
    return shares


def exposure_cells(found: Sequence[Exposure]) -> list[list[str]]:
    """Rows under `HEADER`, formatted."""
    return [
        [
            f"{one.domain} · {one.system}",
            one.grouping,
            f"{one.gini.mean:.3f} [{one.gini.low:.3f}, {one.gini.high:.3f}]",
            f"{one.coverage:.1%} of {sum(group.of_catalogue > 0 for group in one.groups)}",
            "" if one.miscalibration is None else _cell(one.miscalibration),
            "" if one.over_baseline is None else str(one.over_baseline),
        ]
        for one in found
    ]


HEADER = ("", "groups", "Gini", "coverage", "miscalibration", "minus that of the list that came in")


def share_rows(found: Sequence[Exposure], most: int = 8) -> tuple[list[str], list[list[str]]]:
    """Shares of the `most` largest groups of one grouping, a column a system: header and rows.

    Args:
        found: of one domain, split and grouping; the first one's groups are shown.
        most: groups; how many more there are is the last row.
    """
    named = [group.group for group in found[0].groups]
    of = [{group.group: group for group in one.groups} for one in found]
    rows = []
    for name in named[:most]:
        one = of[0][name]
        cells = [f"{shares[name].share:.1%} [{shares[name].low:.1%}, {shares[name].high:.1%}]" for shares in of]
        rows.append([name, *cells, f"{one.of_choices:.1%}", f"{one.of_catalogue:.1%}"])
    if len(named) > most:
        rest = named[most:]
        cells = [f"{sum(shares[name].share for name in rest if name in shares):.1%}" for shares in of]
        totals = [sum(getattr(of[0][name], what) for name in rest) for what in ("of_choices", "of_catalogue")]
        rows.append([f"({len(rest)} more)", *cells, *(f"{total:.1%}" for total in totals)])
    return ["", *(one.system for one in found), "of choices", "of the catalogue"], rows


def _cell(value: Interval) -> str:
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"
