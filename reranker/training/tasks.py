"""Tasks of meta-learning: what users chose next from lists that a candidate generator proposed at that moment."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker.data.catalog import LONGEST_HISTORY, Catalog
from reranker.data.dataset import Dataset
from reranker.data.schema import CATEGORY, ITEM, TIMESTAMP, USER
from reranker.data.splits import without_newest
from reranker.errors import DataError
from reranker.fusion import FEATURES, FusionHead
from reranker.fusion.head import assign_folds
from reranker.pipeline.windows import ValidationFold, fold_from_generator
from reranker.prompting import PromptRenderer
from reranker.protocols import CandidateGenerator
from reranker.scoring import reference_histories
from reranker.soft_tokens import VectorTable
from reranker.types import ItemId, UserId

Item = Mapping[str, object]

REFERENCES = 2
"""Reference histories in training, at most: serving reads an item behind them once, training in every step."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Episode:
    """One user's list and what was chosen from it.

    Attributes:
        domain: name of the domain.
        user_id: whose list it is.
        history: the support set: the user's items before that moment, oldest first.
        candidates: the list, as the candidate generator ordered it.
        chosen: (n_candidates,) the query set: True where the user chose the item next; at least one.
        evidence: (n_candidates,) log-odds from interaction features alone, by a head that has not seen this list.
        history_ids: ids of the history's items.
        candidate_ids: ids of the candidates.
    """

    domain: str
    user_id: UserId
    history: tuple[Item, ...]
    candidates: tuple[Item, ...]
    history_ids: tuple[ItemId, ...]
    candidate_ids: tuple[ItemId, ...]
    chosen: NDArray[np.bool_]
    evidence: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskDomain:
    """The episodes of one domain and how its prompts are written.

    Attributes:
        name: of the domain.
        episodes: lists that hold a chosen item.
        popular: items, drawn by popularity as extra negatives; most popular first.
        popular_ids: their ids.
        popularity: (len(popular),) how often each was chosen.
        renderer: of the domain's templates.
        space: item vectors of the collaborative space at the earliest replayed moment: they know of no choice in
            `episodes`.
    """

    name: str
    episodes: Sequence[Episode]
    popular: Sequence[Item]
    popular_ids: Sequence[ItemId]
    popularity: NDArray[np.float64]
    renderer: PromptRenderer
    space: VectorTable

    @classmethod
    def build(
        cls,
        data: Dataset,
        generator: CandidateGenerator,
        renderer: PromptRenderer,
        *,
        n_candidates: int = 50,
        rounds: int = 1,
        hold_out: int = 2,
        min_history: int = 3,
        seed: int = 0,
    ) -> "TaskDomain":
        """Replays the domain: for each round a candidate generator is fitted on what came before and proposes lists.

        Args:
            data: the domain; without timestamps there is no earlier and later, so one round with random choices.
            generator: the kind of stage; clones of it are fitted.
            renderer: of the domain's templates.
            n_candidates: length of a list.
            rounds: choices replayed a user: the newest that may be seen, the one before it, ...
            hold_out: newest interactions of each user that nothing here may see (they are judged on).
            min_history: users need this many interactions before the choice.
            seed: of cross-fitting and of random choices.

        Raises:
            DataError: no list of the first round holds a chosen item.
        """
        ordered = TIMESTAMP in data.interactions
        episodes: list[Episode] = []
        for number in range(rounds if ordered else 1):
            past = without_newest(data, hold_out + (number if ordered else 0), seed)
            try:
                fold = fold_from_generator(past, generator, n_candidates, min_history, seed)
                episodes += _episodes(data, fold, seed)
                earliest = fold.evidence
            except DataError:
                if number == 0:
                    raise
                break  # histories are too short for another round
        counts = without_newest(data, hold_out, seed).interactions[ITEM].value_counts()
        return cls(
            name=data.domain,
            episodes=episodes,
            popular=Catalog(data.items).items(counts.index.tolist()),
            popular_ids=counts.index.tolist(),
            popularity=np.asarray(counts, dtype=np.float64),
            renderer=renderer,
            space=VectorTable.build(earliest.item_ids, earliest.vectors),
        )

    def read_by(self, renderer: PromptRenderer, references: int, seed: int = 0) -> "TaskDomain":
        """The same by another renderer, which is given references: at most `REFERENCES` of those that are served."""
        histories = reference_histories(self.popular, min(references, REFERENCES), seed)
        return replace(self, renderer=renderer.referring_to(histories))

    def split(self, share: float, seed: int) -> tuple["TaskDomain", "TaskDomain"]:
        """The domain with this share of its users left out, and the domain with them alone."""
        users = list(dict.fromkeys(one.user_id for one in self.episodes))
        chosen = np.random.default_rng(seed).permutation(len(users))[: round(share * len(users))]
        apart = {users[number] for number in chosen}
        return (
            replace(self, episodes=[one for one in self.episodes if one.user_id not in apart]),
            replace(self, episodes=[one for one in self.episodes if one.user_id in apart]),
        )


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How drawn episodes are varied, so that a prompt does not learn them by heart.

    Attributes:
        history_dropout: chance of each history item to be left out.
        category_dropout: chance of each history item to lose its category.
        order_jitter: chance of each pair of neighbours in the history to change places.
    """

    history_dropout: float = 0.0
    category_dropout: float = 0.0
    order_jitter: float = 0.0

    def apply(self, episode: Episode, random: np.random.Generator) -> Episode:
        """The episode with a varied history; its newest item is never left out."""
        history = list(zip(episode.history, episode.history_ids, strict=True))
        last = len(history) - 1
        kept = [one for place, one in enumerate(history) if place == last or random.random() >= self.history_dropout]
        for place in range(len(kept) - 1):
            if random.random() < self.order_jitter:
                kept[place], kept[place + 1] = kept[place + 1], kept[place]
        shown = [{**one, CATEGORY: ""} if random.random() < self.category_dropout else one for one, _ in kept]
        return replace(episode, history=tuple(shown), history_ids=tuple(item_id for _, item_id in kept))


class TaskSampler:
    """Draws episodes; a draw depends on the seed and the step alone, so that a resumed run sees the same.

    Args:
        domains: at least one with episodes; drawn with probability ∝ (episodes)^temperature.
        negatives: candidates kept beside the chosen ones, drawn from the list alike (McFadden 1978: a conditional logit
            on such a sample estimates that of the whole list).
        popular_share: share of these that is drawn from the catalogue by popularity instead. They get the evidence of
            the list's least likely candidate.
        temperature: 1 follows the sizes, 0 treats all domains alike.
        augmentation: of the histories.
        seed: of every draw.

    Raises:
        DataError: there is no episode.
    """

    def __init__(
        self,
        domains: Sequence[TaskDomain],
        *,
        negatives: int = 15,
        popular_share: float = 0.0,
        temperature: float = 0.5,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.domains = {domain.name: domain for domain in domains if domain.episodes}
        if not self.domains:
            raise DataError("there is no list with a chosen item in it, so there is nothing to learn from")
        sizes = np.array([len(domain.episodes) for domain in self.domains.values()], dtype=np.float64)
        self._shares = sizes**temperature / (sizes**temperature).sum()
        self._negatives = negatives
        self._popular_share = popular_share
        self._augmentation = augmentation or Augmentation()
        self._seed = seed

    def batch(self, step: int, n: int) -> list[Episode]:
        """n episodes of any domains."""
        random = np.random.default_rng((self._seed, step))
        names = list(self.domains)
        return [self._draw(self.domains[names[random.choice(len(names), p=self._shares)]], random) for _ in range(n)]

    def task(self, step: int, n: int) -> tuple[str, list[Episode], list[Episode]]:
        """A domain and 2n of its episodes in two halves, support and query, by different users where there are enough.

        Raises:
            DataError: the drawn domain has fewer than two episodes.
        """
        random = np.random.default_rng((self._seed, step, 1))
        domain = list(self.domains.values())[random.choice(len(self.domains), p=self._shares)]
        if len(domain.episodes) < 2:
            raise DataError(f"domain {domain.name!r} has {len(domain.episodes)} episode; a task needs two")
        drawn = random.permutation(len(domain.episodes))[: 2 * n].tolist()
        episodes = [self._thin(domain, domain.episodes[number], random) for number in drawn]
        half = len(episodes) // 2
        return domain.name, episodes[:half], episodes[half:]

    def fixed(self, most: int) -> Iterator[Episode]:
        """The same at most `most` episodes of each domain at every call, not augmented: what validation reads."""
        for domain in self.domains.values():
            random = np.random.default_rng((self._seed, 0, 2))
            for number in random.permutation(len(domain.episodes))[:most].tolist():
                yield self._thin(domain, domain.episodes[number], random, vary=False)

    def _draw(self, domain: TaskDomain, random: np.random.Generator) -> Episode:
        return self._thin(domain, domain.episodes[int(random.integers(len(domain.episodes)))], random)

    def _thin(self, domain: TaskDomain, episode: Episode, random: np.random.Generator, vary: bool = True) -> Episode:
        chosen, others = np.flatnonzero(episode.chosen), np.flatnonzero(~episode.chosen)
        n_popular = round(self._popular_share * min(self._negatives, len(others)))
        kept = random.permutation(others)[: max(0, self._negatives - n_popular)]
        rows = np.sort(np.concatenate([chosen, kept]))  # as the candidate generator ordered them
        candidates = [episode.candidates[row] for row in rows]
        candidate_ids = [episode.candidate_ids[row] for row in rows]
        evidence = episode.evidence[rows]
        if n_popular:
            share = domain.popularity / domain.popularity.sum()
            extra = random.choice(len(share), min(n_popular, len(share)), replace=False, p=share)
            listed = set(episode.candidate_ids)
            popular = [int(number) for number in extra if domain.popular_ids[number] not in listed]
            candidates += [domain.popular[number] for number in popular]
            candidate_ids += [domain.popular_ids[number] for number in popular]
            evidence = np.concatenate([evidence, np.full(len(popular), episode.evidence.min())])
        flags = np.zeros(len(candidates), dtype=np.bool_)
        flags[: len(rows)] = episode.chosen[rows]
        return replace(
            self._augmentation.apply(episode, random) if vary else episode,
            candidates=tuple(candidates),
            candidate_ids=tuple(candidate_ids),
            chosen=flags,
            evidence=evidence,
        )


def _episodes(data: Dataset, fold: ValidationFold, seed: int) -> Iterator[Episode]:
    """The covered lists of a fold, with evidence cross-fitted over users."""
    covered = fold.choices.covered_lists()
    if len(covered) < 2:
        raise DataError(f"domain {data.domain!r}: {len(covered)} lists hold a chosen item; at least two are needed")
    folds = assign_folds(fold.list_index, fold.chosen, seed=seed)
    evidence = np.zeros(len(folds))
    for number in np.unique(folds):
        mine = folds == number
        head = FusionHead.fit(dict(FEATURES), fold.features[~mine], fold.list_index[~mine], fold.chosen[~mine])
        evidence[mine] = head.score(fold.features[mine])
    catalog = Catalog(data.items)
    ids = fold.evidence.item_ids
    by_list: dict[Any, Any] = fold.candidates.groupby(fold.list_index, sort=False).indices
    for number in covered:
        rows = by_list[number]
        user = fold.candidates[USER].iloc[rows[0]]
        history = [ids[row] for row in fold.evidence.histories.get(user, ())][-LONGEST_HISTORY:]
        proposed = fold.candidates[ITEM].iloc[rows].tolist()
        yield Episode(
            domain=data.domain,
            user_id=user,
            history=tuple(catalog.items(history)),
            candidates=tuple(catalog.items(proposed)),
            history_ids=tuple(history),
            candidate_ids=tuple(proposed),
            chosen=fold.chosen[rows],
            evidence=evidence[rows],
        )
