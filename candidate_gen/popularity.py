"""The most chosen items, the same for everyone: the baseline that every candidate generator should beat."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from candidate_gen.base import ScoringGenerator
from candidate_gen.matrix import InteractionMatrix
from reranker.types import IntArray


class PopularityGenerator(ScoringGenerator):
    """Score = share of the users who chose the item, 0..1. A user who repeats a choice counts once."""

    name = "popularity"

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def _fit(self, fitted: InteractionMatrix) -> None:
        """The counts are part of the matrix already."""

    def _score(self, fitted: InteractionMatrix, rows: IntArray) -> NDArray[np.float32]:
        return np.tile(fitted.popularity.astype(np.float32), (len(rows), 1))
