"""Tasks of meta-learning: what users chose next from lists that a candidate generator proposed at that moment."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker.data.catalog import LONGEST_HISTORY, Catalog
from reranker.data.dataset import Dataset
from reranker.data.schema import ITEM, TIMESTAMP, USER
from reranker.data.splits import without_newest
from reranker.errors import DataError
from reranker.fusion import FusionHead
from reranker.fusion.head import assign_folds
from reranker.pipeline.lists import CandidateLists
from reranker.pipeline.windows import window_from_generator
from reranker.prompting import PromptRenderer
from reranker.protocols import CandidateGenerator
from reranker.scoring import calibration_histories
from reranker.types import ItemId, UserId

Item = Mapping[str, object]

CALIBRATION_HISTORIES = 2
"""Calibration histories in training, at most: serving reads an item behind them once, training in every step."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Episode:
    """One user's list and what was chosen from it.

    Attributes:
        domain: name of the domain.
        user_id: whose list it is.
        history: the support set: the user's items before that moment, oldest first.
        candidates: the list, as the candidate generator ordered it.
        chosen: (n_candidates,) the query set: True where the user chose the item next; at least one.
        baseline: (n_candidates,) log-odds from interaction features alone, by a head that has not seen this list.
        candidate_ids: ids of the candidates.
    """

    domain: str
    user_id: UserId
    history: tuple[Item, ...]
    candidates: tuple[Item, ...]
    candidate_ids: tuple[ItemId, ...]
    chosen: NDArray[np.bool_]
    baseline: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskDomain:
    """The episodes of one domain and how its prompts are written.

    Attributes:
        name: of the domain.
        episodes: lists that hold a chosen item.
        popular: items that anyone chose, most popular first; reference histories are drawn from them.
        renderer: of the domain's templates.
    """

    name: str
    episodes: Sequence[Episode]
    popular: Sequence[Item]
    renderer: PromptRenderer

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
                window = window_from_generator(past, generator, n_candidates, min_history, seed)
                episodes += _episodes(data, window, seed)
            except DataError:
                if number == 0:
                    raise
                break  # histories are too short for another round
        counts = without_newest(data, hold_out, seed).interactions[ITEM].value_counts()
        return cls(
            name=data.domain,
            episodes=episodes,
            popular=Catalog(data.items).items(counts.index.tolist()),
            renderer=renderer,
        )

    def calibrated_by(self, n_calibration: int, seed: int = 0) -> "TaskDomain":
        """The same with calibration histories in its renderer, at most `CALIBRATION_HISTORIES` of those served."""
        histories = calibration_histories(self.popular, min(n_calibration, CALIBRATION_HISTORIES), seed)
        return replace(self, renderer=self.renderer.calibrated_by(histories))

    def split(self, share: float, seed: int) -> tuple["TaskDomain", "TaskDomain"]:
        """The domain with this share of its users left out, and the domain with them alone."""
        users = list(dict.fromkeys(one.user_id for one in self.episodes))
        chosen = np.random.default_rng(seed).permutation(len(users))[: round(share * len(users))]
        apart = {users[number] for number in chosen}
        return (
            replace(self, episodes=[one for one in self.episodes if one.user_id not in apart]),
            replace(self, episodes=[one for one in self.episodes if one.user_id in apart]),
        )


class TaskSampler:
    """Draws episodes; a draw depends on the seed and the step alone, so that a resumed run sees the same.

    Args:
        domains: at least one with episodes; drawn with probability ∝ (episodes)^temperature.
        negatives: candidates kept beside the chosen ones, drawn from the list alike (McFadden 1978: a conditional logit
            on such a sample estimates that of the whole list).
        temperature: 1 follows the sizes, 0 treats all domains alike.
        seed: of every draw.

    Raises:
        DataError: there is no episode.
    """

    def __init__(
        self,
        domains: Sequence[TaskDomain],
        *,
        negatives: int = 15,
        temperature: float = 0.5,
        seed: int = 0,
    ) -> None:
        self.domains = {domain.name: domain for domain in domains if domain.episodes}
        if not self.domains:
            raise DataError("there is no list with a chosen item in it, so there is nothing to learn from")
        sizes = np.array([len(domain.episodes) for domain in self.domains.values()], dtype=np.float64)
        self._shares = sizes**temperature / (sizes**temperature).sum()
        self._negatives = negatives
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
        """The same at most `most` episodes of each domain at every call: what validation reads."""
        for domain in self.domains.values():
            random = np.random.default_rng((self._seed, 0, 2))
            for number in random.permutation(len(domain.episodes))[:most].tolist():
                yield self._thin(domain, domain.episodes[number], random)

    def _draw(self, domain: TaskDomain, random: np.random.Generator) -> Episode:
        return self._thin(domain, domain.episodes[int(random.integers(len(domain.episodes)))], random)

    def _thin(self, domain: TaskDomain, episode: Episode, random: np.random.Generator) -> Episode:
        chosen, others = np.flatnonzero(episode.chosen), np.flatnonzero(~episode.chosen)
        kept = random.permutation(others)[: self._negatives]
        rows = np.sort(np.concatenate([chosen, kept]))  # as the candidate generator ordered them
        return replace(
            episode,
            candidates=tuple(episode.candidates[row] for row in rows),
            candidate_ids=tuple(episode.candidate_ids[row] for row in rows),
            chosen=episode.chosen[rows],
            baseline=episode.baseline[rows],
        )


def _episodes(data: Dataset, window: CandidateLists, seed: int) -> Iterator[Episode]:
    """The covered lists of a window, with the baseline's log-odds cross-fitted over users."""
    covered = window.choices.covered_lists()
    if len(covered) < 2:
        raise DataError(f"domain {data.domain!r}: {len(covered)} lists hold a chosen item; at least two are needed")
    folds = assign_folds(window.list_index, window.relevant, seed=seed)
    baseline = np.zeros(len(folds))
    for number in np.unique(folds):
        mine = folds == number
        others = window.features[~mine], window.list_index[~mine], window.relevant[~mine]
        head = FusionHead.fit(window.statistics.columns, *others)
        baseline[mine] = head.score(window.features[mine])
    catalog = Catalog(data.items)
    ids = window.statistics.item_ids
    by_list: dict[Any, Any] = window.candidates.groupby(window.list_index, sort=False).indices
    for number in covered:
        rows = by_list[number]
        user = window.candidates[USER].iloc[rows[0]]
        history = [ids[row] for row in window.statistics.histories.get(user, ())][-LONGEST_HISTORY:]
        proposed = window.candidates[ITEM].iloc[rows].tolist()
        yield Episode(
            domain=data.domain,
            user_id=user,
            history=tuple(catalog.items(history)),
            candidates=tuple(catalog.items(proposed)),
            candidate_ids=tuple(proposed),
            chosen=window.relevant[rows],
            baseline=baseline[rows],
        )
