"""Rows that fill up lists which were too short: no candidates, whatever else stands in them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

FILLER = "the score is implicit's for no item (the lowest 32-bit float)"
"""Why such a row is left out."""

_LOWEST = float(np.finfo(np.float32).min)
_DIGITS = 1e-6  # a CSV has eight digits of it


def is_filler(scores: NDArray[Any]) -> NDArray[np.bool_]:
    """(rows,) True where `implicit` wrote its filler: item -1, or a filtered item, with the lowest 32-bit float.

    Source: `implicit` 0.7, `recommend` and `topk`, which fill lists shorter than N and mark filtered items so.
    """
    return np.asarray(np.abs(scores / _LOWEST - 1) < _DIGITS, dtype=bool)
