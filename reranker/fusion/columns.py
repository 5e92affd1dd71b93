"""What the fusion head sees of an LLM's components."""

import numpy as np
from numpy.typing import NDArray

from reranker.fusion.conditional_logit import standardise_within_lists
from reranker.fusion.features import FEATURES
from reranker.types import IntArray

_POPULARITY = list(FEATURES).index("popularity")
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


def llm_words(components: dict[str, str]) -> dict[str, str]:
    """Name -> what it says in words, of the columns of `llm_columns`."""
    return components | {f"{name}_x_popularity": f"{words}; of popular items" for name, words in components.items()}
