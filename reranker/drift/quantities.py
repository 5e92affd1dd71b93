"""What is watched of a list: scores, raw features, and what the bundle does not know."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.item_lists import Candidates, ItemLists
from reranker.data.schema import USER, validate_candidates
from reranker.errors import DataError
from reranker.fusion.columns import FEATURES, N_RAW_FEATURES
from reranker.pipeline.reranker import Reranker
from reranker.types import IntArray, UserId

UNKNOWN_ITEMS, UNKNOWN_USERS, SCORE_OF_HEAD = "unknown_items", "unknown_users", "score"

QUANTITIES: dict[str, str] = {
    SCORE_OF_HEAD: "the served score of a candidate against its list's mean (log-odds)",
    UNKNOWN_ITEMS: "share of candidates that are not in the catalogue",
    UNKNOWN_USERS: "share of lists of users without a history",
    "history_length": "interactions known of the user (log)",
    "list_length": "candidates of a list",
    **dict(list(FEATURES.items())[:N_RAW_FEATURES]),
}
"""Quantity -> what it is; features are raw, before they are standardised within lists."""

SHARES = frozenset({UNKNOWN_ITEMS, UNKNOWN_USERS})
"""Quantities of which each value is 0 or 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ListValues:
    """Quantities of the candidates of some lists.

    Attributes:
        values: quantity -> (rows,) value of each candidate, NaN where there is none; a quantity of a list stands at
            each of its candidates.
        list_index: (rows,) 0-based number of the candidate's list, not falling.
    """

    values: Mapping[str, NDArray[np.float64]]
    list_index: IntArray

    @property
    def n_lists(self) -> int:
        """How many lists there are."""
        return int(self.list_index[-1]) + 1 if len(self.list_index) else 0

    def take(self, numbers: IntArray | range) -> "ListValues":
        """The lists of these numbers, in this order."""
        wanted = np.asarray(numbers, dtype=np.int64)
        begins = np.searchsorted(self.list_index, wanted, side="left")
        lengths = np.searchsorted(self.list_index, wanted, side="right") - begins
        starts = np.cumsum(lengths) - lengths
        rows = np.arange(lengths.sum()) + np.repeat(begins - starts, lengths)
        return ListValues(
            values={name: column[rows] for name, column in self.values.items()},
            list_index=np.repeat(np.arange(len(wanted)), lengths),
        )

    @classmethod
    def joined(cls, parts: list["ListValues"]) -> "ListValues":
        """The lists of all parts, in their order."""
        begins = np.concatenate([[0], np.cumsum([one.n_lists for one in parts])])
        return cls(
            values={name: np.concatenate([one.values[name] for one in parts]) for name in QUANTITIES},
            list_index=np.concatenate([one.list_index + begin for one, begin in zip(parts, begins, strict=False)]),
        )


def measure(
    reranker: Reranker,
    lists: Candidates,
    scores: NDArray[np.float64],
    histories: Mapping[UserId, IntArray] | None = None,
) -> ListValues:
    """Every quantity of candidate lists.

    Args:
        reranker: fitted.
        lists: validated candidates.
        scores: (rows,) as served, in log-odds; NaN where the first-stage order was served.
        histories: user id -> rows of the statistics' index, oldest first; the bundle's own by default.

    Raises:
        DataError: nothing was fitted.
    """
    data, _ = reranker.fitted()
    listed = ItemLists.of(lists)
    list_index = listed.list_index
    known = data.statistics.n_known(listed.users, histories)
    lengths = np.bincount(list_index, minlength=len(listed.users))
    raw = data.statistics.raw_features(listed, histories)
    values = dict(zip(FEATURES, raw.T, strict=False))
    # Rounded, so that equal scores stay equal, in whatever order the mean was summed.
    above_mean = np.round(scores - (np.bincount(list_index, weights=scores) / lengths)[list_index], 9)
    values |= {
        SCORE_OF_HEAD: above_mean,
        UNKNOWN_ITEMS: np.array([item not in data.catalog for item in listed.items], dtype=np.float64),
        UNKNOWN_USERS: (known == 0).astype(np.float64)[list_index],
        "history_length": np.log1p(known.astype(np.float64))[list_index],
        "list_length": lengths.astype(np.float64)[list_index],
    }
    return ListValues(values={name: values[name] for name in QUANTITIES}, list_index=list_index)


def can_make_reference(reranker: Reranker) -> bool:
    """Whether lists of the bundle can be made and scored without the model reading prompts."""
    reads_prompts = not reranker.llm_scorer.config.compares_states
    serves = reranker.fitted()[1].guard.serve
    return reranker.generator is not None and not (reads_prompts and serves == "fused")


def reference_values(reranker: Reranker, lists: int, seed: int = 0) -> ListValues:
    """Lists as the bundle was fitted for: of its users, drawn at random, by its candidate generator and its head.

    Args:
        reranker: fitted.
        lists: how many, at most.
        seed: of the draw.

    Raises:
        DataError: nothing was fitted, or the bundle holds no candidate generator.
    """
    data, fusion_model = reranker.fitted()
    if reranker.generator is None:
        raise DataError(
            "the bundle holds no candidate generator, so it cannot say what its lists look like: compare with the "
            "first window of lists (reference: first)"
        )
    users = list(data.statistics.histories)
    drawn = np.random.default_rng(seed).permutation(len(users))[:lists]
    table = reranker.generator.recommend([users[number] for number in sorted(drawn)], reranker.config.n_candidates)
    table = validate_candidates(table)
    guard = fusion_model.guard
    scores = np.full(len(table), np.nan)
    if guard.serve != "first_stage":
        head, columns = reranker.head_columns(table, guard.serve)
        list_index, listed = pd.factorize(table[USER])
        holds = guard.holds_for(data.statistics.n_known(listed))[list_index]
        scores[holds] = head.score(columns)[holds]
    return measure(reranker, table, scores)
