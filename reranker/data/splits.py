"""Splits: what the first stage may see, what is known of the test users, and what they chose next.

Targets are what is to be predicted (`Dataset.targets`): choices, or those of `Signals.target_events`. They are new to
the user: a held-out row whose (user, item) pair is also in the training part is a repeat, is dropped from the targets
and counted. So "training and targets share no pair" holds for every fold and can be checked, but for data with repeats.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.dataset import Dataset, in_sequence
from reranker.data.schema import ITEM, TIMESTAMP, USER
from reranker.data.signals import Signals
from reranker.data.user_rows import (
    id_codes,
    last_target_places,
    last_targets,
    pairs_in,
    row_places,
    rows_of_user,
    targets_behind,
)
from reranker.errors import DataError
from reranker.types import ItemId, UserId

if TYPE_CHECKING:
    from reranker.data.item_vectors import ItemVectors


@dataclass(frozen=True, kw_only=True, eq=False)
class Fold:
    """One split of one domain.

    Attributes:
        domain: name of the domain.
        split: label of the split, for instance "leave_last_1"; goes into every result.
        ordered: True when time decided the split; only then may results speak of sequence or recency.
        seed: of the random choices in the split; 0 where there are none.
        items: the item table, cold items included.
        train: interactions that the first stage, statistics and prompts may see.
        history: what is known of each test user when the list is ranked; rows of `train`.
        held_out: `user_id, item_id`, distinct: what the test users chose.
        cold_items: items that nobody chose in `train`, on purpose; empty in most splits.
        only_new: lists hold cold items alone, and weights are fitted on lists of known ones, as `fit` fits them.
        counts: what the split left out and why, in users or rows.
        resplit: makes the same split of another data set; how `validation` is built.
        sources: folds of other domains; when given, everything that is learned is learned there.
        item_vectors: vectors of the user's own, of the items; or None.
        signals: how the interactions are read.
    """

    domain: str
    split: str
    ordered: bool
    seed: int
    items: pd.DataFrame
    train: pd.DataFrame
    history: pd.DataFrame
    held_out: pd.DataFrame
    resplit: Callable[[Dataset], "Fold"]
    cold_items: tuple[ItemId, ...] = ()
    only_new: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    sources: tuple["Fold", ...] = ()
    item_vectors: "ItemVectors | None" = None
    signals: Signals = field(default_factory=Signals)

    def __post_init__(self) -> None:
        if self.held_out.empty:
            raise DataError(
                f"domain {self.domain!r}, split {self.split!r}: the test fold is empty, so nothing can be measured "
                f"(left out: {dict(self.counts)}). It needs users with at least two interactions"
            )

    @property
    def users(self) -> list[UserId]:
        """The test users, in order of appearance in `held_out`."""
        return list(self.held_out[USER].unique())

    @property
    def data(self) -> Dataset:
        """The training part as a data set."""
        return Dataset(
            interactions=self.train,
            items=self.items,
            domain=self.domain,
            item_vectors=self.item_vectors,
            signals=self.signals,
        )

    def validation(self) -> "Fold":
        """The same split of the training part: where weights are fitted, so that nothing is fitted on test users.

        Raises:
            DataError: the training part is too small to be split again.
        """
        return self.resplit(self.data)

    def sample_users(self, n: int, seed: int = 0) -> "Fold":
        """The fold with at most n test users, drawn at random; training stays as it is."""
        users = self.users
        if len(users) <= n:
            return self
        drawn = np.sort(np.random.default_rng(seed).choice(len(users), size=n, replace=False))
        keep = {users[position] for position in drawn}
        return replace(
            self,
            history=self.history[self.history[USER].isin(keep)].reset_index(drop=True),
            held_out=self.held_out[self.held_out[USER].isin(keep)].reset_index(drop=True),
            counts={**self.counts, "users_not_sampled": len(users) - n},
        )


def leave_last_k(data: Dataset, k: int = 1) -> Fold:
    """Each user's last k targets are held out, of those of one time any. Users with k or fewer interactions only train.

    What a user did after the first of them is no part of training.

    Raises:
        DataError: no timestamps, or no user is left to test.
    """
    _require_order(data, f"leave_last_{k}")
    rows = data.interactions
    held, first = last_targets(rows, data.targets, k)
    later = row_places(rows) > first
    return _fold(
        data,
        rows[~held & ~later],
        rows[held],
        split=f"leave_last_{k}",
        counts=_removed(later & ~held),
        resplit=partial(leave_last_k, k=k),
    )


def leave_random_k(data: Dataset, k: int = 1, seed: int = 0) -> Fold:
    """k random targets of each user are held out: for domains without order. Says nothing about sequence."""
    shuffled = _shuffled(data, seed)
    rows = shuffled.interactions
    targets = shuffled.targets
    held = targets & (targets_behind(rows, targets) < k) & (rows_of_user(rows) > k)
    return _fold(
        shuffled,
        rows[~held],
        rows[held],
        split=f"leave_random_{k}",
        seed=seed,
        resplit=partial(leave_random_k, k=k, seed=seed),
    )


def global_temporal(data: Dataset, test_share: float = 0.1) -> Fold:
    """One moment for everyone: what came before it trains, the newest `test_share` of the rows is the test.

    Users without an interaction before the cut are left out and counted.

    Raises:
        DataError: no timestamps, or the cut leaves one side empty.
    """
    split = f"global_temporal_{test_share:g}"
    _require_order(data, split)
    rows = data.interactions
    cut = rows[TIMESTAMP].iloc[min(len(rows) - 1, int(len(rows) * (1 - test_share)))]
    after = (rows[TIMESTAMP] >= cut).to_numpy()
    train, later = rows[~after], rows[after & data.targets]
    known = later[USER].isin(train[USER]).to_numpy()
    counts = {"users_without_history": int(later.loc[~known, USER].nunique())} | _removed(after & ~data.targets)
    return _fold(
        data,
        train,
        later[known],
        split=split,
        counts=counts,
        resplit=partial(global_temporal, test_share=test_share),
    )


def cold_users(data: Dataset, k: int = 1, share: float = 0.2, seed: int = 0) -> Fold:
    """Random users of whom only k interactions are known: the last target is held out, the k before are the support.

    Everything else of theirs is removed from training too. Of as many others, too, only k interactions and the next
    choice are known, so that what is fitted learns from new users as well. What is learned is learned as in
    `Reranker.fit`, from the last interactions of all. Without timestamps a random order stands in.
    """
    ordered = _has_order(data)
    source = data if ordered else _shuffled(data, seed)
    rows = source.interactions
    last = last_target_places(rows, source.targets)
    cold = _draw(rows.loc[last >= k, USER], share, seed)
    is_cold = rows[USER].isin(cold).to_numpy()
    validated = _draw(rows.loc[(last >= k) & ~is_cold, USER], share, seed + 1)
    age = last - row_places(rows)
    held = is_cold & (age == 0)
    removed = (is_cold | rows[USER].isin(validated).to_numpy()) & ((age > k) | (age < 0))
    return _fold(
        source,
        rows[~held & ~removed],
        rows[held],
        split=f"cold_users_{k}" if ordered else f"cold_users_{k}_random",
        seed=seed,
        ordered=ordered,
        counts={"interactions_removed": int(removed.sum())},
        resplit=leave_last_k if ordered else partial(leave_random_k, seed=seed),
    )


def cold_items(data: Dataset, share: float = 0.1, seed: int = 0) -> Fold:
    """Random items that training never sees; held out is a user's last target among them.

    What a test user did after the target is removed as well, so the history holds the past only.
    """
    ordered = _has_order(data)
    source = data if ordered else _shuffled(data, seed)
    rows = source.interactions
    cold = _draw(rows[ITEM], share, seed)
    is_cold = rows[ITEM].isin(cold).to_numpy()
    position = np.arange(len(rows))
    target = (
        pd.Series(np.where(is_cold & source.targets, position, -1))
        .groupby(id_codes(rows[USER]))
        .transform("max")
        .to_numpy()
    )
    there = pd.Series(~is_cold & (position < target))
    known = there.groupby(id_codes(rows[USER])).transform("any").to_numpy(dtype=bool)
    held = (position == target) & known
    later = (target >= 0) & known & (position > target)
    return _fold(
        source,
        rows[~is_cold & ~later],
        rows[held],
        split=f"cold_items_{share:g}" if ordered else f"cold_items_{share:g}_random",
        seed=seed,
        ordered=ordered,
        cold=tuple(cold),
        counts={"interactions_removed": int((is_cold & ~held).sum() + (later & ~is_cold).sum())},
        resplit=partial(cold_items, share=share, seed=seed + 1),
    )


def new_items(data: Dataset, share: float = 0.1, seed: int = 0) -> Fold:
    """`cold_items` as a page of new arrivals has them: which of the new items does a user choose?

    Lists hold cold items alone, and weights are those that `fit` learns, which knows no list with a new item. In lists
    of known and new items, as `cold_items` makes them, weights also learn how often the choice is a new one, which is
    always there and seldom in a shop.
    """
    fold = cold_items(data, share, seed)
    return replace(
        fold,
        split=fold.split.replace("cold_items", "new_items"),
        only_new=True,
        resplit=leave_last_k if fold.ordered else partial(leave_random_k, seed=seed),
    )


def unseen_domain(folds: Mapping[str, Fold], held_out: str) -> Fold:
    """The fold of one domain, with everything that is learned learned on the other domains.

    Recall and item statistics still belong to the held-out domain: they are its data, not what was learned.

    Raises:
        DataError: the domain is unknown, or there is no other.
    """
    if held_out not in folds or len(folds) < 2:
        raise DataError(f"unseen domain {held_out!r}: needs it and at least one other domain, got {sorted(folds)}")
    fold = folds[held_out]
    sources = tuple(other for name, other in folds.items() if name != held_out)
    return replace(fold, split=f"unseen_domain_{fold.split}", sources=sources)


class Split(Protocol):
    """How the command line cuts."""

    def __call__(self, data: Dataset, support: int, seed: int = 0) -> Fold:
        """The fold; `support` of cold users, `seed` of what is drawn, where anything is."""


SPLITS: dict[str, Split] = {
    "leave-last": lambda data, support, seed=0: leave_last_k(data),
    "leave-random": lambda data, support, seed=0: leave_random_k(data, seed=seed),
    "temporal": lambda data, support, seed=0: global_temporal(data),
    "cold-users": lambda data, support, seed=0: cold_users(data, support, seed=seed),
    "cold-items": lambda data, support, seed=0: cold_items(data, seed=seed),
    "new-items": lambda data, support, seed=0: new_items(data, seed=seed),
}
"""Name on the command line -> split."""

UNDRAWN = ("leave-last", "temporal")
"""Splits by time alone, which no seed changes."""


def default_split(data: Dataset) -> str:
    """Leave the last out, or a random one where there is no order in time."""
    return "leave-last" if _has_order(data) else "leave-random"


def _fold(
    data: Dataset,
    train: pd.DataFrame,
    held: pd.DataFrame,
    *,
    split: str,
    resplit: Callable[[Dataset], Fold],
    seed: int = 0,
    ordered: bool | None = None,
    cold: tuple[ItemId, ...] = (),
    counts: Mapping[str, int] | None = None,
) -> Fold:
    twice = held.duplicated([USER, ITEM]).to_numpy()
    repeats = twice if data.signals.allows_repeats else pairs_in(held, train) | twice
    held_out = held.loc[~repeats, [USER, ITEM]].reset_index(drop=True)
    untested = data.interactions[USER].nunique() - held_out[USER].nunique()
    return Fold(
        domain=data.domain,
        split=split,
        ordered=data.has_order if ordered is None else ordered,
        seed=seed,
        items=data.items,
        train=train.reset_index(drop=True),
        history=train[train[USER].isin(held_out[USER])].reset_index(drop=True),
        held_out=held_out,
        resplit=resplit,
        cold_items=cold,
        counts={**(counts or {}), "repeats_dropped": int(repeats.sum()), "users_not_tested": int(untested)},
        item_vectors=data.item_vectors,
        signals=data.signals,
    )


def _removed(rows: NDArray[np.bool_]) -> dict[str, int]:
    """Interactions that are in no part of a fold, where there are some."""
    return {"interactions_removed": int(rows.sum())} if rows.any() else {}


def _has_order(data: Dataset) -> bool:
    """One and the same time on every row orders nothing."""
    return data.has_order and len(data.interactions) > 0 and data.interactions[TIMESTAMP].nunique() > 1


def _require_order(data: Dataset, split: str) -> None:
    if not _has_order(data):
        problem = "all its timestamps are equal" if data.has_order else "its interactions have no timestamp column"
        raise DataError(
            f"domain {data.domain!r}: split {split!r} claims an order in time, but {problem}. Use "
            "leave_random_k(seed=...), whose results say nothing about sequence, or add timestamps"
        )


def _shuffled(data: Dataset, seed: int) -> Dataset:
    """Rows in random order and without timestamps, so that no later step can take them for a sequence."""
    rows = in_sequence(data.interactions.drop(columns=TIMESTAMP, errors="ignore"), seed)
    return data.with_interactions(rows)


def _draw(ids: pd.Series, share: float, seed: int) -> list[ItemId]:
    """A random share of the distinct ids, at least one; an empty list of none."""
    distinct = list(ids.unique())
    size = min(len(distinct), max(1, round(len(distinct) * share)))
    chosen = np.random.default_rng(seed).permutation(len(distinct))[:size]
    return [distinct[position] for position in sorted(chosen)]


def without_newest(data: Dataset, n: int, seed: int = 0) -> Dataset:
    """The data without each user's newest n interactions; users with fewer keep none.

    Where there is no order, they are the n that `fit` and the judge hold out, by the same seed.
    """
    if n == 0:
        return data
    rows = data.interactions if data.has_order else in_sequence(data.interactions, seed)
    age = rows.groupby(USER, sort=False).cumcount(ascending=False)
    return data.with_interactions(rows[age.to_numpy() >= n].sort_index().reset_index(drop=True))
