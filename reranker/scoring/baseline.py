"""No scorer: lists go by interactions alone."""

from collections.abc import Sequence

import numpy as np

from reranker.scoring.base import ListScores, Scorer, ScoringList

BASELINE = "baseline"


class NoScorer(Scorer):
    """Says nothing of any candidate, and costs nothing: what is left is the ranker on interaction features."""

    name = BASELINE

    def __init__(self) -> None:
        self.components: dict[str, str] = {}
        self.default_coefficients = np.zeros(0)

    def read(self, lists: Sequence[ScoringList]) -> list[ListScores]:
        """Per list: (n_candidates, 0)."""
        return [ListScores(components=np.zeros((len(one.candidates), 0)), prompt_tokens=0) for one in lists]
