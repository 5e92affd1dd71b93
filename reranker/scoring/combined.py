"""Several scorers of the same lists, side by side."""

from collections.abc import Sequence

import numpy as np

from reranker.scoring.base import ListScores, Scorer, ScoringList


class CombinedScorer(Scorer):
    """The components of all parts; before anything is learned, the first part alone counts."""

    def __init__(self, parts: Sequence[Scorer]) -> None:
        first, *rest = parts
        self.parts = parts
        self.name = "+".join(part.name for part in parts)
        self.components = {name: words for part in parts for name, words in part.components.items()}
        others = np.zeros(sum(len(part.components) for part in rest))
        self.default_coefficients = np.concatenate([first.default_coefficients, others])

    def read(self, lists: Sequence[ScoringList]) -> list[ListScores]:
        """Per list: the components of all parts, and the tokens they read together."""
        return [
            ListScores(
                components=np.concatenate([one.components for one in readings], axis=1),
                prompt_tokens=sum(one.prompt_tokens for one in readings),
            )
            for readings in zip(*(part.read(lists) for part in self.parts), strict=True)
        ]
