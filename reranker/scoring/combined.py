"""Several read-outs of the same lists, side by side."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reranker.scoring.protocol import Scoring, ScoringList


class CombinedScoring:
    """The components of all parts; before anything is learned, the first part alone counts."""

    def __init__(self, parts: Sequence[Scoring]) -> None:
        first, *rest = parts
        self.parts = parts
        self.name = "+".join(part.name for part in parts)
        self.components = {name: words for part in parts for name, words in part.components.items()}
        others = np.zeros(sum(len(part.components) for part in rest))
        self.default_coefficients = np.concatenate([first.default_coefficients, others])

    def score_components(self, lists: Sequence[ScoringList]) -> list[NDArray[np.float64]]:
        """Per list: (n_candidates, components of all parts)."""
        return [
            np.concatenate(values, axis=1)
            for values in zip(*(part.score_components(lists) for part in self.parts), strict=True)
        ]
