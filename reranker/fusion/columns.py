"""What the fusion head sees: interaction features by name, and what a reader of items says, an LLM for instance."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reranker.fusion.conditional_logit import standardise_within_lists
from reranker.types import IntArray

FEATURES: dict[str, str] = {
    "first_stage_score": "the candidate generator's score",
    "first_stage_rank": "a better place in the first-stage list (minus log rank)",
    "popularity": "how many chose it (log)",
    "recent_popularity": "how many chose it lately (log)",
    "similarity_last": "likeness to the newest item of the history (cosine in collaborative space)",
    "similarity_best": "likeness to the most alike of the last five (cosine in collaborative space)",
    "similarity_mean": "mean likeness to the last five (cosine in collaborative space)",
    "covisit_last": "chosen by the same users as the newest item",
    "covisit_mean": "chosen by the same users as the last five",
    "transition_last": "how often it directly followed the newest item (log)",
    "category_overlap": "shares categories with the last five",
    "similarity_best_50": "likeness to the most alike of the last fifty (cosine in collaborative space)",
    "covisit_best_50": "chosen by the same users as the one of the last fifty for which that is most so",
    "popularity_x_length": "popularity, for users with a long history",
    "first_stage_x_length": "the first-stage score, for users with a long history",
}
"""Feature name -> what it says in words; also the column order."""

N_RAW_FEATURES = 13
"""The first of `FEATURES`, which are measured; those behind them are products with the length of the history."""

DISLIKE_FEATURES: dict[str, str] = {
    "disliked_similarity": "likeness to the most alike of the last five disliked (cosine in collaborative space)",
    "disliked_covisit": "chosen by the same users as the last five disliked",
    "disliked_share": "how many of those who know it dislike it",
}
"""Interaction features behind `FEATURES`, where the interactions say how strong they are."""

_POPULARITY = list(FEATURES).index("popularity")
_TIMES_POPULARITY = "_x_popularity"
_SCALE = 0.5  # of a product beside what it is made of: the ridge pulls it four times as hard


def llm_columns(features: NDArray[np.float64], raw: NDArray[np.float64], list_index: IntArray) -> NDArray[np.float64]:
    """(rows, 2 n_components): the components z-scored within lists, and each times the candidate's popularity.

    How much a text tells depends on how much the interactions told already, which is little of an item that few chose.

    Args:
        features: (rows, n_features) interaction features, those of `FEATURES` first.
        raw: (rows, n_components) what the LLM says.
        list_index: (rows,) number of the list a row belongs to.
    """
    said = standardise_within_lists(raw, np.unique(list_index, return_inverse=True)[1])
    return np.hstack([said, _SCALE * said * features[:, [_POPULARITY]]])


def content_columns(columns: Sequence[str]) -> IntArray:
    """Places, among names of a head's features, of those that a new item has, too: own columns and own vectors."""
    interactions = FEATURES.keys() | DISLIKE_FEATURES.keys()
    own = [
        place for place, name in enumerate(columns) if name not in interactions and not name.endswith(_TIMES_POPULARITY)
    ]
    return np.array(own, dtype=np.int64)


def with_new_items(
    values: NDArray[np.float64], content: NDArray[np.float64], list_index: IntArray, is_new: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(rows, n_values + n_content): new items of a list differ by their content alone.

    What interactions say of an item that nobody chose is noise, its place in the first-stage list above all. Such a row
    gets the mean of the list's new items in the place of its values, so that the group stands where it stood, and its
    content behind them; the other rows have zeros there.

    Args:
        values: (rows, n_values) of the head for items that somebody chose.
        content: (rows, n_content) what is known of new items, too.
        list_index: (rows,) 0-based number of the list a row belongs to.
        is_new: (rows,) True where nobody chose the item.
    """
    beside = np.zeros_like(content)
    beside[is_new] = content[is_new] - _means(content[is_new], list_index[is_new])
    values = values.copy()
    values[is_new] = _means(values[is_new], list_index[is_new])
    return np.hstack([values, beside])


def _means(values: NDArray[np.float64], groups: IntArray) -> NDArray[np.float64]:
    """(rows, n) each row's mean over its group."""
    numbers = np.unique(groups, return_inverse=True)[1]
    sums = np.zeros((numbers.max(initial=-1) + 1, values.shape[1]))
    np.add.at(sums, numbers, values)
    means: NDArray[np.float64] = (sums / np.bincount(numbers)[:, None])[numbers]
    return means


def new_item_words(words: dict[str, str]) -> dict[str, str]:
    """Name -> what it says in words, of the content behind the values in `with_new_items`."""
    return {f"{name}_of_new": f"{said}; of items that nobody chose" for name, said in words.items()}


def llm_words(components: dict[str, str]) -> dict[str, str]:
    """Name -> what it says in words, of the columns of `llm_columns`."""
    return components | {
        f"{name}{_TIMES_POPULARITY}": f"{words}; of popular items" for name, words in components.items()
    }
