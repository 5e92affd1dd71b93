"""The guard of own features and vectors: whether they are kept, and which know what they are to predict."""

import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker.errors import BundleError, DataError
from reranker.fusion.choices import Choices
from reranker.fusion.guard import METRIC, by_user
from reranker.fusion.head import CROSS_FITTING_FOLDS, FusionHead, assign_folds
from reranker.fusion.own_vectors import WORDS as VECTOR_WORDS
from reranker.types import IntArray
from reranker.utils.statistics import Interval, mean_interval, ndcg_by_list

logger = logging.getLogger(__name__)

LEAK = 0.98
"""AUC within lists from which on, or below 1 - this, a column is taken for the outcome itself."""

FEWEST_LISTS = 20
"""Lists with a choice below which an AUC says nothing."""


@dataclass(frozen=True, kw_only=True)
class OwnVerdict:
    """What own features were worth on the validation windows.

    Attributes:
        features: their names.
        gain: NDCG@10 of the baseline with them minus without, cross-fitted, by paired bootstrap over users.
    """

    features: tuple[str, ...]
    gain: Interval

    @property
    def keeps(self) -> bool:
        """Whether they are used: where they rather add than take away."""
        return self.gain.mean > 0

    def summary(self) -> str:
        """For people, one line."""
        used, of_vectors = "are used" if self.keeps else "are not used", set(self.features) <= set(VECTOR_WORDS)
        what, which = ("item vectors", "") if of_vectors else ("own features", f" ({', '.join(self.features)})")
        return f"{what} {used}: {self.gain} {METRIC} over the baseline without them{which}"

    def to_json(self) -> dict[str, Any]:
        return {"features": list(self.features), "gain": {**self.gain.to_dict(), "n": self.gain.n}}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "OwnVerdict":
        """Reads what `to_json` wrote.

        Raises:
            BundleError: a field is missing or of another kind.
        """
        try:
            return cls(features=tuple(map(str, data["features"])), gain=Interval(**data["gain"]))
        except (KeyError, TypeError) as error:
            raise BundleError(f"own features: not what this version writes ({error!r}); fit again") from error


def judge_own(
    choices: Choices, l2: float = 1.0, seed: int = 0, before: int | None = None, allowed: Collection[str] = ()
) -> OwnVerdict:
    """Judges the last features of `choices` over those before them: by default own ones over interaction features.

    Args:
        choices: of the validation windows.
        l2: ridge penalty.
        seed: of cross-fitting and of the bootstrap.
        before: how many features stand before those that are judged; the interaction features by default.
        allowed: features that may tell the choice almost without fail, because the caller knows that they are honest.

    Raises:
        DataError: a feature is the outcome itself.
    """
    before = choices.n_interaction if before is None else before
    refuse_leaks(choices, before, allowed)
    values = [cross_fitted(one, l2, seed) for one in (choices, first_columns(choices, before))]
    gain = mean_interval(by_user(values[0] - values[1], choices.user_numbers), seed=seed)
    return OwnVerdict(features=tuple(choices.columns)[before:], gain=gain)


def first_columns(choices: Choices, n: int | None = None) -> Choices:
    """The same choices with the first features alone: by default the interaction features."""
    n = choices.n_interaction if n is None else n
    return replace(choices, features=choices.features[:, :n], columns=dict(list(choices.columns.items())[:n]))


def refuse_leaks(choices: Choices, before: int, allowed: Collection[str] = ()) -> None:
    """Refuses features behind the first `before` that separate what was chosen from what was not nearly without fail.

    A column that is written after the choice, as a date of purchase is, does; so may vectors that were trained on it.
    An honest one may, too, where one candidate of a list is to the user's taste: those `allowed` are told in the log.

    Raises:
        DataError: with the columns.
    """
    lists = choices.covered_lists()
    if len(lists) < FEWEST_LISTS:
        return
    rows = np.isin(choices.list_index, lists)
    numbers, chosen = np.unique(choices.list_index[rows], return_inverse=True)[1], choices.chosen[rows]
    leaking: list[str] = []
    for at, name in list(enumerate(choices.columns))[before:]:
        auc = auc_within_lists(choices.features[rows, at], numbers, chosen)
        if max(auc, 1 - auc) < LEAK:
            continue
        if name in allowed:
            logger.warning("features: %s (AUC %.3f) tells the choice almost without fail and is allowed to", name, auc)
        else:
            leaking.append(f"{name} (AUC {auc:.3f})")
    if leaking:
        of_vectors = set(list(choices.columns)[before:]) <= set(VECTOR_WORDS)
        whole = "item_vectors" if of_vectors else leaking[0].partition(" ")[0].partition(":")[0].partition("=")[0]
        raise DataError(
            f"features: {', '.join(leaking)} tells almost without fail which candidate was chosen, so it was written "
            "after the choice (vectors: trained on it) and cannot be known when a list is served: leave it out. If you "
            f"know that it was there before each choice, allow it: --allow-leaks {whole}, or "
            f"allow_leaks=({whole!r},) in the settings"
        )


def auc_within_lists(values: NDArray[np.float64], list_index: IntArray, chosen: NDArray[np.bool_]) -> float:
    """Mean over lists of the chance that a chosen row is above one that is not; ties count as one half.

    Args:
        values: (rows,)
        list_index: (rows,) 0-based numbers; every list has a chosen row.
        chosen: (rows,)
    """
    order = np.lexsort((values, list_index))
    lists, ranked, hits = list_index[order], values[order], chosen[order].astype(np.float64)
    starts = np.searchsorted(lists, np.arange(lists[-1] + 1))
    new = np.append(True, (np.diff(ranked) != 0) | (np.diff(lists) != 0))
    tie = np.cumsum(new) - 1
    places = np.arange(len(order)) - starts[lists] + 1.0
    mid_ranks = (np.bincount(tie, weights=places) / np.bincount(tie))[tie]
    sizes, n_chosen = np.bincount(lists).astype(np.float64), np.bincount(lists, weights=hits)
    sums = np.bincount(lists, weights=mid_ranks * hits)
    pairs = n_chosen * (sizes - n_chosen)
    counted = pairs > 0
    above = sums - n_chosen * (n_chosen + 1) / 2
    return float((above[counted] / pairs[counted]).mean()) if counted.any() else 0.5


def cross_fitted(choices: Choices, l2: float = 1.0, seed: int = 0) -> NDArray[np.float64]:
    """(n_lists,) NDCG@10 of heads that were fitted on other users."""
    folds = assign_folds(choices.list_index, choices.chosen, CROSS_FITTING_FOLDS, seed, choices.user_numbers)
    scores = np.zeros(len(folds))
    for number in np.unique(folds):
        mine = folds == number
        head = FusionHead.fit(
            dict(choices.columns), choices.features[~mine], choices.list_index[~mine], choices.chosen[~mine], l2
        )
        scores[mine] = head.score(choices.features[mine])
    return ndcg_by_list(scores, choices.list_index, choices.chosen, choices.n_relevant)
