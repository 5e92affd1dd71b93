"""What each item of a history does to a candidate: the score with it minus the score without it (leave one out).

The first-stage list stays as it came: what is measured is what the reranker makes of the history. Effects of single
items do not add up, because the items left over move up into windows such as "the last five"; `deletion` measures
whether they hold together.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

HISTORY_ITEMS = 20
"""Newest items of a history that are left out one by one: older ones reach no feature and no text comparison."""

T = TypeVar("T")
ScoreHistories = Callable[[Sequence[Sequence[T]]], NDArray[np.float64]]
"""(n_histories, n_candidates) scores of one list under each of several histories."""


def without_each(history: Sequence[T], most: int = HISTORY_ITEMS) -> tuple[list[int], list[list[T]]]:
    """Positions of the newest `most` items, newest first, and the history without each of them."""
    positions = list(range(len(history) - 1, max(-1, len(history) - 1 - most), -1))
    return positions, [[*history[:at], *history[at + 1 :]] for at in positions]


def centred(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., n_candidates) scores minus their list's mean: all that scores of different lists can be compared by."""
    difference: NDArray[np.float64] = scores - scores.mean(axis=-1, keepdims=True)
    return difference


def history_effects(
    score: ScoreHistories[T], history: Sequence[T], most: int = HISTORY_ITEMS
) -> tuple[list[int], NDArray[np.float64]]:
    """Leave-one-out effects on every candidate of one list.

    Args:
        score: scores the list under other histories.
        history: the user's items, oldest first.
        most: newest items that are left out, one by one.

    Returns:
        Positions in `history`, newest first, and (n_positions, n_candidates) effects in log-odds against the list's
        mean: above 0 where the item of the history moved the candidate up.
    """
    positions, shorter = without_each(history, most)
    if not positions:
        return [], np.zeros((0, 0))
    scores = centred(score([list(history), *shorter]))
    return positions, scores[0] - scores[1:]
