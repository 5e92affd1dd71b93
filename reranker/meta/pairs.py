"""Pairs of items that one user chose within a few interactions, as the embedding read-out reads their texts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reranker.catalog import Catalog
from reranker.errors import DataError
from reranker.meta.sequences import DomainTexts, domain_shares, histories_of
from reranker.types import ScoringRequest


@dataclass(frozen=True, kw_only=True, eq=False)
class PairBatch:
    """Pairs of one domain.

    Attributes:
        request: each text once, behind what the read-out puts before it.
        left: (n_pairs,) the earlier chosen ones, as rows of `request.candidates`.
        right: (n_pairs,) the later chosen ones.
    """

    request: ScoringRequest
    left: NDArray[np.int64]
    right: NDArray[np.int64]


class PairSampler:
    """Draws pairs; the draw depends on the seed and the step alone, so a resumed run sees the same.

    All pairs of a step are of one domain, so that telling domains apart helps nobody. Users are drawn by the length of
    their histories.

    Args:
        domains: at least one; a domain is drawn with probability ∝ (interactions)^temperature.
        pairs: a step.
        window: interactions between the two, at most.
        temperature: 1 follows the sizes, 0 treats all domains alike.
        seed: of every draw.

    Raises:
        DataError: a domain has no user with two interactions.
    """

    def __init__(
        self, domains: Sequence[DomainTexts], pairs: int, window: int, temperature: float = 0.5, seed: int = 0
    ) -> None:
        self._domains = domains
        self._pairs = pairs
        self._window = window
        self._seed = seed
        self._catalogs = [Catalog(domain.data.items) for domain in domains]
        self._histories = [histories_of(domain.data) for domain in domains]
        self._shares = domain_shares(self._histories, temperature)

    def batch(self, step: int) -> PairBatch:
        """The pairs of a 0-based step; an item that was chosen again is no pair with itself.

        Raises:
            DataError: nobody chose two different items.
        """
        random = np.random.default_rng((self._seed, step))
        number = int(random.choice(len(self._domains), p=self._shares))
        histories = self._histories[number]
        lengths = np.array([len(one) for one in histories], dtype=np.float64)
        drawn = []
        for user in random.choice(len(histories), self._pairs, p=lengths / lengths.sum()):
            history = histories[user]
            earlier = int(random.integers(0, len(history) - 1))
            later = int(random.integers(earlier + 1, min(earlier + self._window, len(history) - 1) + 1))
            drawn.append((history[earlier], history[later]))
        chosen = [pair for pair in drawn if pair[0] != pair[1]]
        if not chosen:
            raise DataError(
                f"domain {self._domains[number].data.domain!r}: none of {self._pairs} drawn pairs has two different "
                "items; give a domain where users choose more than one"
            )
        rows = {item: row for row, item in enumerate(dict.fromkeys(item for pair in chosen for item in pair))}
        left, right = np.array([[rows[one] for one in pair] for pair in chosen], dtype=np.int64).reshape(-1, 2).T
        items = self._catalogs[number].items(list(rows))
        return PairBatch(request=self._domains[number].renderer.embedding(items).request, left=left, right=right)
