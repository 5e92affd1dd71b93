"""Contributions of a head: of a linear one weight times standardised value, of trees SHAP values, less the list's mean.

A linear utility is its own explanation: the Shapley values of its columns, taken against the mean of the list, are
w_c (x_ic - mean_c), and they sum to the score's difference from the list's mean (Lundberg & Lee 2017, section 4.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GROUPS: dict[str, str] = {
    "first_stage": "the first stage's own score and place",
    "collaborative": "taste of others: chosen by the same people as your items",
    "sequence": "what people choose next",
    "popularity": "how many chose it",
    "recency": "how many chose it lately",
    "disliked": "what you dislike, and what others do",
    "category": "categories shared with the history",
    "text": "what its text says beside the history",
    "vectors": "your own vectors of items beside the history",
    "own": "your own columns of items, users and candidates",
    "other": "further features",
}
"""Group of columns -> what it says in words; also the order in which they are shown."""

_PREFIXES: dict[str, str] = {
    "recall_": "first_stage",
    "first_stage_": "first_stage",
    "similarity_": "collaborative",
    "covisit_": "collaborative",
    "co_visit_": "collaborative",
    "transition_": "sequence",
    "popularity": "popularity",
    "recent_popularity": "recency",
    "disliked_": "disliked",
    "category_": "category",
    "llm_": "text",
    "cf_projection_": "text",
    "predicted_popularity": "text",
    "vectors_": "vectors",
    "items.": "own",
    "users.": "own",
    "candidates.": "own",
}


def group_of(column: str) -> str:
    """The group of a column of the fusion head, by how its name begins; "other" for one that nobody grouped."""
    found = [prefix for prefix in _PREFIXES if column.startswith(prefix)]
    return _PREFIXES[max(found, key=len)] if found else "other"


@dataclass(frozen=True, kw_only=True, eq=False)
class Contributions:
    """What each column of a head gives each candidate of one list, against the list's mean.

    Attributes:
        columns: names of the head's columns.
        values: (n_candidates, n_columns) log-odds; a row sums to the candidate's score minus the list's mean.
    """

    columns: tuple[str, ...]
    values: NDArray[np.float64]

    @property
    def groups(self) -> dict[str, NDArray[np.float64]]:
        """Group -> (n_candidates,) sum over its columns; groups that have one, in the order of `GROUPS`."""
        mine = [group_of(name) for name in self.columns]
        return {
            group: self.values[:, [one == group for one in mine]].sum(axis=1) for group in GROUPS if group in set(mine)
        }


def contributions(columns: Sequence[str], given: NDArray[np.float64]) -> Contributions:
    """Exact contributions of one list.

    Args:
        columns: names.
        given: (n_candidates, n_columns) what each column gives each candidate's score, as `FusionHead.contributions`.
    """
    return Contributions(columns=tuple(columns), values=given - given.mean(axis=0))
