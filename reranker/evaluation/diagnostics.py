"""Why a system scores as it does: order dependence, how personal it is, what it knows by title, calibration, ties."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import kendalltau

from reranker.data.schema import ITEM, RANK, TITLE, USER
from reranker.errors import DataError
from reranker.evaluation.base import System
from reranker.evaluation.metrics import Scores, per_user_metrics
from reranker.fusion.conditional_logit import log_softmax_within_lists
from reranker.pipeline.lists import FoldLists, ListProtocol
from reranker.types import IntArray
from reranker.utils.statistics import Interval, mean_interval

LENGTH_EDGES = (1, 3, 6, 11, 21, 51)
"""Lower ends of the history-length buckets, in interactions."""


@dataclass(frozen=True, kw_only=True)
class OrderInvariance:
    """How much the order of the candidates in the input moves the order of the output.

    Attributes:
        kendall_tau: mean Kendall tau-b between the scores of the list as it came and shuffled; 1 is invariant.
        position_preference: mean correlation between an item's place in the shuffled input and its place in the output;
            0 is no preference, 1 copies the input.
        max_score_change: largest change of any score.
    """

    kendall_tau: float
    position_preference: float
    max_score_change: float


RowShuffle = tuple[IntArray, FoldLists]
"""(rows,) old position of each row, and the lists in that order."""


def row_shuffles(lists: FoldLists, shuffles: int = 3, seed: int = 0) -> list[RowShuffle]:
    """The same lists in shuffled row order, first-stage rank and score travelling with the item."""
    rng = np.random.default_rng(seed)
    orders = [np.lexsort((rng.random(len(lists.list_index)), lists.list_index)) for _ in range(shuffles)]
    return [(order, replace(lists, candidates=lists.candidates.iloc[order].reset_index(drop=True))) for order in orders]


def order_invariance(system: System, lists: FoldLists, shuffles: Sequence[RowShuffle] | None = None) -> OrderInvariance:
    """Scores the same candidates in shuffled row order.

    Args:
        shuffles: of `row_shuffles`, three by default; give the same ones to several systems that share readings.

    Raises:
        DataError: no list has two candidates.
    """
    base = system.score(lists)
    taus, preferences, changes = [], [], []
    for order, shuffled in row_shuffles(lists) if shuffles is None else shuffles:
        scores = system.score(shuffled)
        changes.append(float(np.abs(scores - base[order]).max()))
        bounds = np.flatnonzero(np.diff(lists.list_index[order])) + 1
        for new, old in zip(np.split(scores, bounds), np.split(base[order], bounds), strict=True):
            if len(new) > 1:
                taus.append(_tau(new, old))
                preferences.append(_tau(new, -np.arange(len(new))))
    if not taus:
        raise DataError("order invariance needs a list with at least two candidates")
    return OrderInvariance(
        kendall_tau=float(np.mean(taus)), position_preference=float(np.mean(preferences)), max_score_change=max(changes)
    )


def shuffled_users(lists: FoldLists, seed: int = 0) -> FoldLists:
    """The same lists with every user's history replaced by another test user's: what is left is not personal.

    Raises:
        DataError: fewer than two test users.
    """
    fold = lists.fold
    users = fold.users
    if len(users) < 2:
        raise DataError("the shuffled-user test needs at least two test users")
    order = np.random.default_rng(seed).permutation(len(users))
    owner = {users[order[i]]: users[order[i - 1]] for i in range(len(users))}  # a cycle: nobody keeps their own

    def swapped(frame: pd.DataFrame) -> pd.DataFrame:
        new = frame[USER].map(lambda user: owner.get(user, user))
        return frame.assign(**{USER: new.astype(frame[USER].dtype)})

    return lists.of_fold(replace(fold, train=swapped(fold.train), history=swapped(fold.history)))


def obfuscated_titles(lists: FoldLists, seed: int = 0) -> FoldLists:
    """The same lists with neutral titles and every other text of the items blank; numbers, such as a year, stay."""
    items = lists.fold.items.copy()
    numbers = np.random.default_rng(seed).permutation(len(items))
    items[TITLE] = [f"Item {number + 1}" for number in numbers]
    for column in items.columns.drop([ITEM, TITLE]):
        if not pd.api.types.is_numeric_dtype(items[column]):
            items[column] = ""
    return lists.of_fold(replace(lists.fold, items=items))


def gain_lost(
    system: System,
    lists: FoldLists,
    changed: FoldLists,
    metric: str = "ndcg@10",
    protocol: ListProtocol = "end_to_end",
) -> Interval:
    """Metric on the true lists minus the metric when the system sees `changed`; paired by user.

    Large for `shuffled_users`: the gain is personal. Large for `obfuscated_titles`: it comes from the text.
    """
    true = per_user_metrics(lists, system.score(lists), protocol)[metric]
    other = per_user_metrics(lists, system.score(changed), protocol)[metric]
    return mean_interval((true - other).to_numpy(dtype=np.float64))


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Predicted against observed chance that a candidate is the target.

    Attributes:
        predicted, observed: (bins,) mean probability and share of targets in bins of equal size.
        counts: (bins,) candidates in the bin.
        error: expected calibration error, Σ counts/total · |predicted − observed| (Naeini et al. 2015).
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    counts: NDArray[np.int64]
    error: float


def calibration(lists: FoldLists, scores: Scores, bins: int = 10) -> Calibration:
    """Of the softmax of the scores within each covered list, in bins that hold equally many candidates.

    Raises:
        DataError: no list holds a target.
    """
    counted = lists.covered[lists.list_index]
    if not counted.any():
        raise DataError("calibration needs at least one list that holds a target")
    groups = np.unique(lists.list_index[counted], return_inverse=True)[1].astype(np.int64)
    probability = np.exp(log_softmax_within_lists(scores[counted], groups))
    order = np.argsort(probability, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    relevant = lists.relevant[counted]
    predicted = np.array([probability[part].mean() for part in parts])
    observed = np.array([relevant[part].mean() for part in parts])
    counts = np.array([len(part) for part in parts], dtype=np.int64)
    error = float((counts * np.abs(predicted - observed)).sum() / counts.sum())
    return Calibration(predicted=predicted, observed=observed, counts=counts, error=error)


def tied_share(lists: FoldLists, scores: Scores) -> float:
    """Share of candidates whose score another candidate of the same list has too; 1 for constant scores."""
    same = pd.DataFrame({"list": lists.list_index, "score": scores})
    return float(same.duplicated(keep=False).mean())


def history_length_buckets(lists: FoldLists) -> list[str]:
    """(users,) bucket of each test user's history length, such as "6-10" or "51+"."""
    lengths = lists.fold.history.groupby(USER, sort=False).size().reindex(lists.fold.users).fillna(0)
    return [_bucket(int(length)) for length in lengths]


def popularity_bands(interactions: pd.DataFrame) -> pd.Series:
    """Item -> band: "head" items make up half of all interactions, "middle" the next 30 %, "tail" the rest."""
    counts = interactions[ITEM].value_counts()
    before = (counts.cumsum() - counts) / counts.sum()
    return pd.cut(before, [-0.1, 0.5, 0.8, 1.0], right=False, labels=["head", "middle", "tail"]).astype(str)


def item_popularity_buckets(lists: FoldLists) -> list[str]:
    """(users,) band of the user's first target, as `popularity_bands` has it; "new" was never chosen in training."""
    names = popularity_bands(lists.fold.train)
    first = lists.fold.held_out.drop_duplicates(USER)[ITEM]
    return [str(name) for name in first.map(names).fillna("new")]


def by_bucket(values: pd.Series, buckets: Sequence[str]) -> pd.DataFrame:
    """Mean and 95 % interval of per-user values in each bucket: `bucket, mean, low, high, n_users`.

    Args:
        values: per user, indexed by position in `fold.users` as `per_user_metrics` gives them.
        buckets: (users,) one a test user.
    """
    names = pd.Series(list(buckets)).reindex(values.index)
    rows = []
    for bucket in sorted(names.unique(), key=_bucket_order):
        interval = mean_interval(values[names == bucket].to_numpy(dtype=np.float64))
        rows.append({"bucket": bucket, **interval.to_dict(), "n_users": interval.n})
    return pd.DataFrame(rows)


def rank_movement(lists: FoldLists, ranked: NDArray[np.int64]) -> NDArray[np.int64]:
    """(targets found,) places that each target in a list moved up against the first-stage order."""
    return np.asarray(lists.candidates[RANK].to_numpy() - ranked, dtype=np.int64)[lists.relevant]


def _bucket_order(name: str) -> tuple[int, str]:
    """Lengths by their lower end, popularity from head to new."""
    digits = name.rstrip("+").split("-")[0]
    named = ("head", "middle", "tail", "new")
    return (int(digits) if digits.isdigit() else named.index(name), name)


def _bucket(length: int) -> str:
    if length == 0:
        return "0"
    lower = [edge for edge in LENGTH_EDGES if edge <= length][-1]
    following = LENGTH_EDGES[LENGTH_EDGES.index(lower) + 1 :]
    return f"{lower}-{following[0] - 1}" if following else f"{lower}+"


def _tau(left: NDArray[np.float64], right: NDArray[np.float64] | NDArray[np.int64]) -> float:
    """Kendall tau-b; two constant lists agree, a constant and an ordered one do not correlate."""
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return 1.0 if np.ptp(left) == np.ptp(right) == 0 else 0.0
    return float(kendalltau(left, right).statistic)
