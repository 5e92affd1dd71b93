"""First places in the mix of the user's own history: Steck (2018), "Calibrated Recommendations".

Places are filled one by one with the item i that is best by (1 - s) relevance(i) - s KL(p || (1 - a) q + a p), where p
is the mix of the history, q that of the list with i, and a = 0.01.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from reranker.rules.settings import Calibration
from reranker.types import IntArray

SMOOTHING = 0.01


def mix_of(values: Sequence[tuple[str, ...]]) -> dict[str, float]:
    """Value -> share; an item of several values counts partly for each, one without any not at all."""
    known = [parts for parts in values if parts]
    mix: dict[str, float] = {}
    for parts in known:
        for part in parts:
            mix[part] = mix.get(part, 0.0) + 1.0 / len(parts) / len(known)
    return mix


def calibrated(
    scores: NDArray[np.float64],
    values: Sequence[tuple[str, ...]],
    mix: Mapping[str, float],
    wanted: Calibration,
) -> IntArray:
    """(n,) positions of a list, the first of them near the mix, the others as they were.

    Args:
        scores: (n,) descending.
        values: of each item.
        mix: of the user's history, adding up to 1; an empty one leaves the list as it is.
        wanted: strength and places.
    """
    n, among = len(scores), min(wanted.among, len(scores))
    if among < 2 or not wanted.strength or not mix:
        return np.arange(n)
    pool = scores[:among]
    spread = float(pool[0] - pool[-1])
    relevance = (pool - pool[-1]) / spread if spread > 0 else np.zeros(among)
    number = {value: place for place, value in enumerate(mix)}
    share = np.array(list(mix.values()))
    of_item = np.zeros((among, len(mix)))  # values outside the mix take room in a list, and no column here
    for row, parts in enumerate(values[:among]):
        for part in parts:
            if part in number:
                of_item[row, number[part]] = 1.0 / len(parts)
    has_value = np.array([bool(parts) for parts in values[:among]])
    left, chosen = np.ones(among, dtype=np.bool_), []
    total, count = np.zeros(len(mix)), 0
    for _ in range(min(wanted.first, among)):
        q = (total + of_item) / np.maximum(count + has_value, 1)[:, None]
        off = (share * np.log(share / ((1 - SMOOTHING) * q + SMOOTHING * share))).sum(axis=1)
        worth = np.where(left, (1 - wanted.strength) * relevance - wanted.strength * off, -np.inf)
        best = int(np.argmax(worth))
        chosen.append(best)
        left[best] = False
        total, count = total + of_item[best], count + int(has_value[best])
    taken = np.array(chosen, dtype=np.int64)
    return np.concatenate([taken, np.setdiff1d(np.arange(n), taken)])
