"""First places that differ, by pyversity: MMR (Carbonell & Goldstein 1998) and DPP (Chen et al. 2018)."""

import re

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyversity import diversify

from reranker.prompting.text import field_text
from reranker.rules.settings import Diversity
from reranker.types import IntArray

_WORD = re.compile(r"\w+")


def diversified(scores: NDArray[np.float64], values: pd.DataFrame, wanted: Diversity) -> IntArray:
    """(n,) positions of a list, the first of them different from each other, the others as they were.

    Args:
        scores: (n,) descending.
        values: (n, columns) of the items, those of `wanted.by` among them.
    """
    n, among = len(scores), min(wanted.among, len(scores))
    if among < 2 or not wanted.strength:
        return np.arange(n)
    pool = scores[:among]
    spread = float(pool[0] - pool[-1])
    relevance = (pool - pool[-1]) / spread if spread > 0 else np.zeros(among)
    chosen = diversify(
        word_vectors(values.iloc[:among][list(wanted.by)]),
        relevance,
        k=min(wanted.first, among),
        strategy=wanted.method,
        diversity=wanted.strength,
    ).indices.astype(np.int64)
    return np.concatenate([chosen, np.setdiff1d(np.arange(n), chosen)])


def word_vectors(values: pd.DataFrame) -> NDArray[np.float32]:
    """(n, words) tf-idf of each row's words, those of each column apart; a word of every row tells nothing."""
    rows: list[int] = []
    words: list[tuple[str, str]] = []
    for column in values:
        for row, value in enumerate(values[column]):
            found = set(_WORD.findall(field_text(value).casefold()))
            rows += [row] * len(found)
            words += [(str(column), word) for word in sorted(found)]
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
    vectors = np.zeros((len(values), max(1, len(numbers))), dtype=np.float32)
    vectors[rows, [numbers[word] for word in words]] = 1.0
    within = vectors.sum(axis=0)
    idf: NDArray[np.float32] = np.log(len(values) / np.maximum(within, 1.0)).astype(np.float32)
    return vectors * idf
