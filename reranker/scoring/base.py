"""What a scorer has to do: turn users' lists into numbers that a conditional logit can weigh."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reranker.prompting import Item
from reranker.types import TokenSequence


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoringList:
    """One list to score, in words.

    Attributes:
        history: the user's items, oldest first; empty for a new user.
        candidates: the items to score; at least one.
        soft_prompt: the domain's soft tokens, or None.
        user_tokens: the user's own soft tokens, or None.
        query: a free text request, or None.
    """

    history: Sequence[Item]
    candidates: Sequence[Item]
    soft_prompt: TokenSequence | None = None
    user_tokens: TokenSequence | None = None
    query: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ListScores:
    """What was read of a list.

    Attributes:
        components: (n_candidates, n_components).
        prompt_tokens: positions the engine read for this list; priors, which belong to the items, are not among them.
    """

    components: NDArray[np.float64]
    prompt_tokens: int


class Scorer(Protocol):
    """One way to read preferences out of a causal LM. Implementations are checked by `tests/contracts/scoring.py`.

    Components of a candidate do not depend on the order of the list.

    Attributes:
        name: as `config.ScorerName` has it, parts joined by "+".
        components: component name -> what it says, in words.
        default_coefficients: (n_components,) weights that turn components into a score before anything is learned.
    """

    name: str
    components: dict[str, str]
    default_coefficients: NDArray[np.float64]

    def read(self, lists: Sequence[ScoringList]) -> list[ListScores]:
        """What the model says of each list, and the tokens it read for that."""

    def score_components(self, lists: Sequence[ScoringList]) -> list[NDArray[np.float64]]:
        """Per list: (n_candidates, n_components), of `read`."""
        return [one.components for one in self.read(lists)]
