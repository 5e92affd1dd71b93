"""Controls: what a reranker has to beat before anyone should care.

The learned controls see the interaction features of the fusion head, by the same code, fitted on the same validation
lists.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.schema import CATEGORY, DESCRIPTION, ITEM, RANK, SCORE, TITLE, USER
from reranker.errors import ConfigError, DataError
from reranker.evaluation.metrics import popularity
from reranker.fusion import ConditionalLogit, standardise_within_lists
from reranker.fusion.features import LAST_ITEMS
from reranker.pipeline.lists import FoldLists
from reranker.prompting.text import field_text
from reranker.types import IntArray, UserId

Features = NDArray[np.float64]
Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts -> (len(texts), dim) vectors of unit length."""

_TEXT_COLUMNS = (TITLE, CATEGORY, DESCRIPTION)


class FirstStageOrder:
    """The list as it came in."""

    name = "first_stage"
    stochastic = False

    def fit(self, lists: Sequence[FoldLists]) -> Self:
        return self

    def score(self, lists: FoldLists) -> Features:
        return -lists.candidates[RANK].to_numpy(dtype=np.float64)


class Popularity:
    """The most chosen first; ties in first-stage order."""

    name = "popularity"
    stochastic = False

    def fit(self, lists: Sequence[FoldLists]) -> Self:
        return self

    def score(self, lists: FoldLists) -> Features:
        return popularity(lists)


class RandomOrder:
    """A random permutation of every list: the floor."""

    name = "random"
    stochastic = True

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, lists: Sequence[FoldLists]) -> Self:
        return self

    def score(self, lists: FoldLists) -> Features:
        return np.random.default_rng(self.seed).random(len(lists.candidates))


class LinearControl:
    """Conditional logit on the interaction features: the fusion head without the LLM."""

    name = "baseline"
    stochastic = False

    def __init__(self, l2: float = 1.0) -> None:
        self.l2 = l2
        self.logit: ConditionalLogit | None = None

    def fit(self, lists: Sequence[FoldLists]) -> Self:
        features, list_index, relevant = stacked(lists, lambda part: part.features)
        self.logit = ConditionalLogit.fit(features, list_index, relevant, l2=self.l2)
        return self

    def score(self, lists: FoldLists) -> Features:
        return np.asarray(_fitted(self.logit, self.name).score(lists.features))


class GradientBoosted:
    """LambdaMART (Burges 2010) by LightGBM on the interaction features: what a non-linear ranker gets out of them."""

    name = "gradient_boosted"
    stochastic = False

    def __init__(self, trees: int = 100, leaves: int = 15, learning_rate: float = 0.05, seed: int = 0) -> None:
        self.trees = trees
        self.parameters = {
            "objective": "lambdarank",
            "num_leaves": leaves,
            "learning_rate": learning_rate,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbose": -1,
        }
        self.booster: Any = None

    def fit(self, lists: Sequence[FoldLists]) -> Self:
        try:
            import lightgbm
        except ImportError as error:
            raise ConfigError("the gradient-boosted control needs lightgbm: pip install 'reranker[eval]'") from error
        features, list_index, relevant = stacked(lists, lambda part: part.features)
        if not relevant.any():
            raise DataError("gradient_boosted: no validation list contains a target, so there is nothing to learn from")
        order = np.argsort(list_index, kind="stable")  # LightGBM takes lists as runs of rows
        sizes = np.bincount(list_index)
        data = lightgbm.Dataset(features[order], label=relevant[order].astype(np.int64), group=sizes[sizes > 0])
        self.booster = lightgbm.train(self.parameters, data, num_boost_round=self.trees)
        return self

    def score(self, lists: FoldLists) -> Features:
        return np.asarray(_fitted(self.booster, self.name).predict(lists.features), dtype=np.float64)


class TextSimilarity:
    """Interaction features plus likeness of a candidate's text to the history's last items, by conditional logit.

    Args:
        embed: texts -> unit vectors; a `SentenceEncoder` is the reference.
        l2: ridge of the conditional logit.
        alone: without the interaction features, as the LLM alone is.
    """

    stochastic = False

    def __init__(self, embed: Embed, l2: float = 1.0, *, alone: bool = False) -> None:
        self.name = "text_alone" if alone else "text_similarity"
        self.embed = embed
        self.l2 = l2
        self.alone = alone
        self.logit: ConditionalLogit | None = None

    def fit(self, lists: Sequence[FoldLists]) -> Self:
        features, list_index, relevant = stacked(lists, self.features)
        self.logit = ConditionalLogit.fit(features, list_index, relevant, l2=self.l2)
        return self

    def score(self, lists: FoldLists) -> Features:
        return np.asarray(_fitted(self.logit, self.name).score(self.features(lists)))

    def features(self, lists: FoldLists) -> Features:
        """(rows, 5): first-stage score, minus log rank, likeness to the last item, best and mean of the last five.

        (rows, 3) without the first two, where the texts stand alone.
        """
        rows = {item: row for row, item in enumerate(lists.fold.items[ITEM])}
        vectors = self.embed(_texts(lists.fold.items))
        vectors = np.vstack([vectors, np.zeros((1, vectors.shape[1]), dtype=vectors.dtype)])  # last row: unknown item
        unknown = len(rows)
        newest: dict[UserId, IntArray] = {
            user: np.asarray(part.tail(LAST_ITEMS).map(rows).fillna(unknown), dtype=np.int64)
            for user, part in lists.fold.history.groupby(USER, sort=False)[ITEM]
        }
        candidates = np.asarray(lists.candidates[ITEM].map(rows).fillna(unknown), dtype=np.int64)
        raw = np.zeros((len(candidates), 5))
        raw[:, 0] = lists.candidates[SCORE]
        raw[:, 1] = -np.log(lists.candidates[RANK])
        for user, positions in lists.candidates.groupby(USER, sort=False).indices.items():
            history = newest.get(user)
            if history is not None:
                likeness = vectors[candidates[positions]] @ vectors[history].T
                raw[positions, 2] = likeness[:, -1]
                raw[positions, 3] = likeness.max(axis=1)
                raw[positions, 4] = likeness.mean(axis=1)
        return standardise_within_lists(raw[:, 2:] if self.alone else raw, lists.list_index)


def _texts(items: pd.DataFrame) -> list[str]:
    """What an item's text is to the controls: all that the embedding scorer reads of it."""
    columns = [items[name].map(field_text) if name in items else [""] * len(items) for name in _TEXT_COLUMNS]
    return [
        title + (f" ({category})" if category else "") + (f": {description}" if description else "")
        for title, category, description in zip(*columns, strict=True)
    ]


def stacked(
    lists: Sequence[FoldLists], features: Callable[[FoldLists], Features]
) -> tuple[Features, IntArray, NDArray[np.bool_]]:
    """Features, list numbers and targets of several folds under one another.

    Raises:
        DataError: there are no lists.
    """
    if not lists:
        raise DataError("nothing to fit on: give at least one validation fold's lists")
    offsets = np.cumsum([0, *(len(part.fold.users) for part in lists[:-1])])
    return (
        np.vstack([features(part) for part in lists]),
        np.concatenate([part.list_index + offset for part, offset in zip(lists, offsets, strict=True)]),
        np.concatenate([part.relevant for part in lists]),
    )


def _fitted(model: Any, name: str) -> Any:
    if model is None:
        raise ConfigError(f"system {name!r} must be fitted before it can score: call fit(validation lists) first")
    return model
