"""Users' histories as training text for the base model: the prompt that is served, read to its end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reranker.data.catalog import Catalog
from reranker.data.dataset import Dataset
from reranker.data.schema import CATEGORY, ITEM, USER
from reranker.errors import DataError
from reranker.prompting import PromptRenderer
from reranker.types import ItemId, TokenSequence

Item = Mapping[str, object]


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingSequence:
    """A prompt with its answer.

    Attributes:
        tokens: the whole text; vectors are soft tokens, which are read and never predicted.
        scored_from: first position whose token has to be predicted.
    """

    tokens: TokenSequence
    scored_from: int

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, kw_only=True, eq=False)
class DomainTexts:
    """One domain to learn from: who chose what, and how its prompts are written.

    Attributes:
        data: interactions without anything that will be judged on.
        renderer: of the domain's templates; its history budgets bound a sequence.
        soft_prompt: the domain's soft tokens, or None.
    """

    data: Dataset
    renderer: PromptRenderer
    soft_prompt: TokenSequence | None = None


class SequenceSampler:
    """Draws training sequences; the draw depends on the seed and the step alone, so a resumed run sees the same.

    A sequence is a random stretch of one user's history that ends in a candidate, as `PromptRenderer.likelihood` writes
    it. Categories of half the items are left out, because candidates are scored without theirs.

    Args:
        domains: at least one; a domain is drawn with probability ∝ (interactions)^temperature.
        temperature: 1 follows the sizes, 0 treats all domains alike.
        category_dropout: share of items whose category is left out.
        seed: of every draw.

    Raises:
        DataError: a domain has no user with two interactions.
    """

    def __init__(
        self,
        domains: Sequence[DomainTexts],
        temperature: float = 0.5,
        category_dropout: float = 0.5,
        seed: int = 0,
    ) -> None:
        self._domains = domains
        self._dropout = category_dropout
        self._seed = seed
        self._catalogs = [Catalog(domain.data.items) for domain in domains]
        self._histories = [_histories(domain.data) for domain in domains]
        for domain, histories in zip(domains, self._histories, strict=True):
            if not histories:
                raise DataError(f"domain {domain.data.domain!r}: no user has two interactions, nothing to learn from")
        sizes = np.array([sum(map(len, histories)) for histories in self._histories], dtype=np.float64)
        self.interactions = int(sizes.sum())
        self._shares = sizes**temperature / (sizes**temperature).sum()
        # Long histories hold more stretches: users are drawn by length within a domain.
        self._users = [
            np.array([len(one) for one in histories], dtype=np.float64) / sum(map(len, histories))
            for histories in self._histories
        ]

    def batch(self, step: int, tokens: int) -> list[TrainingSequence]:
        """Sequences of at least `tokens` tokens together."""
        random = np.random.default_rng((self._seed, step))
        drawn: list[TrainingSequence] = []
        while sum(map(len, drawn)) < tokens:
            drawn.append(self._draw(random))
        return drawn

    def _draw(self, random: np.random.Generator) -> TrainingSequence:
        number = int(random.choice(len(self._domains), p=self._shares))
        domain = self._domains[number]
        history = self._histories[number][int(random.choice(len(self._users[number]), p=self._users[number]))]
        # A stretch that is cut on the left by the renderer's budgets: its end decides.
        end = int(random.integers(1, len(history)))
        end = max(end, min(len(history) - 1, domain.renderer.settings.history_items))
        start = max(0, end - domain.renderer.settings.history_items)
        items = [
            self._without_category(item, random) for item in self._catalogs[number].items(history[start : end + 1])
        ]
        prompt = domain.renderer.likelihood(items[:-1], items[-1:], soft_prompt=domain.soft_prompt)
        first = next((span for span in prompt.spans if span.kind == "history"), None)
        return TrainingSequence(
            tokens=TokenSequence.concatenate([prompt.request.prefix, prompt.request.candidates[0].sequence]),
            scored_from=max(1, first.start if first else len(prompt.request.prefix)),
        )

    def _without_category(self, item: Item, random: np.random.Generator) -> Item:
        return {**item, CATEGORY: ""} if random.random() < self._dropout else item


def _histories(data: Dataset) -> list[list[ItemId]]:
    """Item ids of each user with two interactions or more, oldest first."""
    groups = data.interactions.groupby(USER, sort=False)[ITEM]
    return [list(items) for _, items in groups if len(items) > 1]
