"""Small worlds with taste in them, engines that watch, and settings that fit the byte tokenizer."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from candidate_gen import PopularityGenerator
from reranker import Dataset, Reranker, RerankerConfig
from reranker.engines.scripted import ScriptedEngine
from reranker.fusion import ConditionalLogit, FusionHead, FusionModel, Order
from reranker.prompting import PromptSettings
from reranker.types import ScoringRequest, SpanScores

PROMPT = PromptSettings(title_tokens=64, history_tokens=2048)
"""The byte tokenizer spends a token a letter."""

GROUPS = ("zorblax zomzik", "mipfen mippel", "quxard quxley", "vantow vanvik")
"""Words of the titles of each taste: no letter pair of one occurs in another."""


def config(**settings: Any) -> RerankerConfig:
    """Quick settings for the scripted engine."""
    given = {"engine": "scripted", "prompt": PROMPT, "n_candidates": 12, "fit_users": None, **settings}
    return RerankerConfig(**given)


def items(per_group: int = 8) -> pd.DataFrame:
    """Items named after their taste: g0i3 is the fourth item of the first taste."""
    rows = [
        {"item_id": f"g{group}i{number}", "title": f"{words} {number}"}
        for group, words in enumerate(GROUPS)
        for number in range(per_group)
    ]
    return pd.DataFrame(rows)


def taste_dataset(users: int = 48, seed: int = 0, per_group: int = 8, ordered: bool = True) -> Dataset:
    """Each user has one taste and chooses 5 different items of it: the next item is of the same taste."""
    rng = np.random.default_rng(seed)
    rows = [
        {"user_id": f"u{user}", "item_id": f"g{user % len(GROUPS)}i{number}"}
        for user in range(users)
        for number in rng.choice(per_group, 5, replace=False)
    ]
    return _dataset(rows, items(per_group), rng, ordered)


def random_dataset(users: int = 48, seed: int = 0) -> Dataset:
    """Users choose 5 items at random: nothing tells the next one."""
    rng = np.random.default_rng(seed)
    table = items()
    rows = [
        {"user_id": f"u{user}", "item_id": item}
        for user in range(users)
        for item in rng.choice(table["item_id"], 5, replace=False)
    ]
    return _dataset(rows, table, rng, ordered=True)


def cold_logs(users: int = 48, seed: int = 0) -> tuple[Dataset, pd.DataFrame, pd.DataFrame]:
    """Lists of 8 items that nobody ever chose, two of each taste in random order: only the titles tell them apart.

    Returns the data set up to now, the lists and what the users chose from them.
    """
    rng = np.random.default_rng(seed)
    data = taste_dataset(users, seed)
    table = items(per_group=20)
    lists, held_out = [], []
    for user in range(users):
        proposed = [f"g{group}i{number}" for group in range(4) for number in rng.choice(range(8, 20), 2, replace=False)]
        lists += [
            {"user_id": f"u{user}", "item_id": item, "rank": rank}
            for rank, item in enumerate(rng.permutation(proposed), start=1)
        ]
        held_out.append({"user_id": f"u{user}", "item_id": proposed[2 * (user % 4)], "timestamp": 10_000})
    data = Dataset(interactions=data.interactions, items=table, domain="toy")
    return data, pd.DataFrame(lists), pd.DataFrame(held_out)


def fitted(engine: ScriptedEngine | None = None, **settings: Any) -> Reranker:
    """A Reranker fitted on tastes, behind popular candidates."""
    data = taste_dataset()
    generator = PopularityGenerator().fit(data.interactions)
    return Reranker(config(**settings), engine or ScriptedEngine()).fit(data, generator)


def served(fusion_model: FusionModel, order: Order, from_known: int = 0) -> FusionModel:
    """The fusion with a guard that serves `order` to users of whom that many interactions are known."""
    return replace(fusion_model, guard=fusion_model.guard.overruled(order, from_known))


def table(rows: Iterable[Sequence[Any]], columns: str = "user_id item_id score") -> pd.DataFrame:
    """A DataFrame of `rows`; ids keep their Python types."""
    names = columns.split()
    frame = pd.DataFrame(
        {
            name: pd.Series(list(values), dtype=object)
            for name, values in zip(names, zip(*rows, strict=True), strict=True)
        }
    )
    return frame.astype({name: float for name in ("score",) if name in names})


def lists_for(users: Iterable[Any], chosen: Sequence[Any], seed: int = 0) -> pd.DataFrame:
    """The same items for every user, each with a different random score, rows of all users mixed."""
    rng = np.random.default_rng(seed)
    rows = [(user, item) for user in users for item in chosen]
    scores = rng.permutation(len(rows)) / 7.0
    return table([(*rows[row], scores[row]) for row in rng.permutation(len(rows))])


def in_order(frame: pd.DataFrame) -> dict[Any, list[Any]]:
    """user -> items, best first, from a ranking."""
    return {user: part["item_id"].tolist() for user, part in frame.groupby("user_id", sort=False)}


def weights_of(head: FusionHead) -> dict[str, float]:
    """column -> weight."""
    logit: ConditionalLogit = head.logit
    return dict(zip(head.columns, logit.weights.tolist(), strict=True))


class WatchedEngine(ScriptedEngine):
    """A scripted engine that keeps every request it was sent."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.calls: list[list[ScoringRequest]] = []
        self.states_read = 0

    def span_states(self, requests: Sequence[ScoringRequest]) -> list[NDArray[np.float32]]:
        self.states_read += sum(len(request.candidates) for request in requests)
        return super().span_states(requests)

    def span_log_likelihoods(self, requests: Sequence[ScoringRequest]) -> list[SpanScores]:
        self.calls.append(list(requests))
        return super().span_log_likelihoods(requests)

    def label_log_probs(
        self, requests: Sequence[ScoringRequest], label_token_ids: Sequence[int]
    ) -> list[NDArray[np.float64]]:
        self.calls.append(list(requests))
        return super().label_log_probs(requests, label_token_ids)

    def prefixes(self) -> list[str]:
        """The text of every prefix sent, soft tokens left out."""
        return [
            self.tokenizer.decode(np.delete(request.prefix.token_ids, request.prefix.vector_positions).tolist())
            for call in self.calls
            for request in call
        ]


class SpyGenerator:
    """A candidate generator that remembers what it and its clones were fitted on, and proposes what it is told to."""

    name = "spy"

    def __init__(self, proposes: Sequence[Any], fits: list[pd.DataFrame] | None = None) -> None:
        self.proposes = list(proposes)
        self.fits = [] if fits is None else fits

    def clone(self) -> Self:
        return type(self)(self.proposes, self.fits)

    def fit(self, interactions: pd.DataFrame) -> Self:
        self.fits.append(interactions)
        return self

    def recommend(self, user_ids: Iterable[Any], n: int, exclude_seen: bool = True) -> pd.DataFrame:
        return table(
            [(user, item, 1.0 / rank) for user in user_ids for rank, item in enumerate(self.proposes[:n], start=1)]
        )

    def save(self, directory: Path) -> None:
        directory.mkdir()

    @classmethod
    def load(cls, directory: Path) -> Self:
        return cls([])


def _dataset(rows: list[dict[str, Any]], table: pd.DataFrame, rng: np.random.Generator, ordered: bool) -> Dataset:
    frame = pd.DataFrame(rows)
    if ordered:
        frame["timestamp"] = frame.groupby("user_id").cumcount() * 100 + rng.integers(0, 50, len(frame))
    return Dataset(interactions=frame, items=table, domain="toy")
