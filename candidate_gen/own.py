"""Models trained elsewhere as candidate generators, as they are: implicit, RecTools, LightFM, functions, tables.

`as_generator` finds out what it was given by what it can do; none of these packages is imported here.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from candidate_gen.base import distinct_users, top_n
from candidate_gen.matrix import InteractionMatrix, id_column, lookup
from reranker.data.schema import (
    ITEM,
    RANK,
    SCORE,
    STRENGTH,
    TIMESTAMP,
    USER,
    validate_candidates,
    validate_interactions,
)
from reranker.data.signals import choices_of
from reranker.errors import ConfigError, DataError
from reranker.protocols import CandidateGenerator
from reranker.types import ItemId, UserId

Propose = Callable[[list[UserId], int, bool], pd.DataFrame]
"""Users, places a user, whether seen items stay out -> `user_id, item_id`, and `score` or `rank`."""

Refit = Callable[[pd.DataFrame], Propose]
"""A validated interactions table -> what proposes after learning from it, from scratch."""

_LOWEST = float(np.finfo(np.float32).min)
_WAY_OUT = (
    "the ranker learns on lists that were made before the choices it predicts, so a generator has to be fitted again "
    "on earlier interactions. Keep the lists that yours served at one moment, and give them with what was chosen "
    "afterwards: Reranker.fit(data, candidates=lists, held_out=chosen), or reranker fit --candidates --held-out. Its "
    "lists of today can be reranked as they are"
)


class OwnGenerator:
    """A candidate generator around a model of the user's own.

    Args:
        name: of the model, for messages.
        propose: what proposes now; None for one that is not fitted.
        refit: how a copy learns from other interactions; None where it cannot.
    """

    def __init__(self, name: str, propose: Propose | None, refit: Refit | None = None) -> None:
        self.name = name
        self._propose = propose
        self._refit = refit

    def clone(self) -> Self:
        """An unfitted copy.

        Raises:
            ConfigError: the model cannot be fitted again.
        """
        self._require_refit()
        return type(self)(self.name, None, self._refit)

    def fit(self, interactions: pd.DataFrame) -> Self:
        """Learns anew. Returns self.

        Raises:
            ConfigError: the model cannot be fitted again.
            DataError: the table breaks the interactions contract.
        """
        self._propose = self._require_refit()(validate_interactions(interactions))
        return self

    def recommend(self, user_ids: Iterable[UserId], n: int, exclude_seen: bool = True) -> pd.DataFrame:
        """A candidates table `user_id, item_id, score, rank` (1-based), at most n rows a user, users as given.

        Users for whom the model proposes nothing get no rows.

        Raises:
            ConfigError: not fitted, n < 1, or `user_ids` is one string.
            DataError: what the model proposes is no candidates table.
        """
        users = distinct_users(user_ids, n)
        if self._propose is None:
            raise ConfigError(f"this generator {self.name!r} is not fitted: call fit(interactions) first")
        proposed = self._propose(users, n, exclude_seen)
        proposed = proposed[proposed[USER].isin(users)] if USER in proposed else proposed
        if USER in proposed and proposed.empty:
            frame = pd.DataFrame({USER: id_column([]), ITEM: id_column([]), SCORE: np.zeros(0)})
            frame[RANK] = np.zeros(0, dtype=np.int64)
        else:
            frame = validate_candidates(proposed, f"what {self.name} proposes")
            frame = frame[frame[RANK] <= n]
            order = np.argsort(lookup({user: place for place, user in enumerate(users)}, frame[USER]), kind="stable")
            frame = frame.iloc[order].reset_index(drop=True)
        return frame

    def save(self, directory: Path) -> None:
        """Refused: a model of another package is not ours to store.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"the generator {self.name!r} belongs to another package: save the model by its own means")

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Refused, as `save` is.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{directory}: generators of other packages are not saved; wrap the model with as_generator")

    def _require_refit(self) -> Refit:
        if self._refit is None:
            raise ConfigError(f"the generator {self.name!r} cannot be fitted again: {_WAY_OUT}")
        return self._refit


def as_generator(
    model: Any,
    *,
    user_items: sp.csr_matrix | None = None,
    user_ids: Sequence[UserId] | None = None,
    item_ids: Sequence[ItemId] | None = None,
    dataset: Any = None,
) -> CandidateGenerator:
    """A candidate generator from a trained model, a function or a table, without training anything.

    Args:
        model: a generator already; a model of implicit (with `user_items`), of RecTools (with `dataset`), of LightFM
            (with `user_items`); a function of (users, n) that gives a candidates table or user -> items, best first; or
            a candidates table.
        user_items: (users, items) CSR that the model was trained on.
        user_ids, item_ids: ids of its rows and columns; the numbers themselves by default.
        dataset: the RecTools data set that the model was trained on.

    Raises:
        ConfigError: nothing of this kind is known, or what it needs beside it is missing.
        DataError: ids and matrix are of different sizes.
    """
    if isinstance(model, CandidateGenerator):
        return model
    if isinstance(model, pd.DataFrame):
        table = validate_candidates(model)
        return OwnGenerator("table", lambda users, n, exclude_seen: table)
    name = type(model).__name__
    if dataset is not None:
        return OwnGenerator(name, _rectools(model, dataset), lambda table: _rectools_fitted(model, dataset, table))
    matrix_model = _implicit if hasattr(model, "recommend") else _lightfm if hasattr(model, "predict") else None
    if matrix_model is not None:
        if user_items is None:
            raise ConfigError(
                f"as_generator: {name} proposes for rows of a matrix, or for a data set of its own: give user_items= "
                "(the matrix that it was trained on; user_ids= and item_ids= for its ids), or dataset= of RecTools"
            )
        known = _numbered(user_items, user_ids, item_ids)
        weighted = bool((known.matrix.data != 1).any())
        refit = None
        if (blank := _forgotten(model)) is not None:

            def refit(table: pd.DataFrame) -> Propose:
                fresh, fitted = copy.deepcopy(blank), InteractionMatrix.from_table(table, weighted, scaled=False)
                matrix = fitted.matrix.astype(np.float64)  # implicit's item-kNN takes no others
                matrix.data = np.maximum(matrix.data, 0.0)  # a dislike is seen: few models know what it is beyond that
                fitted = replace(fitted, matrix=matrix)
                quiet = {"show_progress": False} if "show_progress" in signature(fresh.fit).parameters else {}
                fresh.fit(fitted.matrix if matrix_model is _implicit else fitted.matrix.tocoo(), **quiet)
                return matrix_model(fresh, fitted)

        return OwnGenerator(name, matrix_model(model, known), refit)
    if callable(model):
        return OwnGenerator(getattr(model, "__name__", name), _called(model))
    raise ConfigError(
        f"as_generator: nothing is known of {name}: it has no recommend or predict, and is neither a function of "
        "(users, n) nor a candidates table"
    )


def _numbered(
    user_items: sp.csr_matrix, user_ids: Sequence[UserId] | None, item_ids: Sequence[ItemId] | None
) -> InteractionMatrix:
    """The matrix under its ids, columns as they are."""
    matrix = sp.csr_matrix(user_items)
    users: list[UserId] = list(range(matrix.shape[0]) if user_ids is None else user_ids)
    items: list[ItemId] = list(range(matrix.shape[1]) if item_ids is None else item_ids)
    if (len(users), len(items)) != matrix.shape:
        raise DataError(
            f"as_generator: user_items has {matrix.shape[0]} rows and {matrix.shape[1]} columns, but {len(users)} user "
            f"ids and {len(items)} item ids were given"
        )
    counts = np.bincount(matrix.indices, minlength=matrix.shape[1])
    return InteractionMatrix(user_ids=users, item_ids=items, matrix=matrix, popularity=counts / max(len(users), 1))


def _forgotten(model: Any) -> Any | None:
    """A copy of a model that remembers nothing of what it was trained on; None where that cannot be had."""
    if callable(getattr(model, "fit_partial", None)):  # LightFM: `fit` begins anew
        return copy.deepcopy(model)
    learned = [name for name in ("user_factors", "item_factors", "similarity") if hasattr(model, name)]
    if not learned or not callable(getattr(model, "fit", None)):
        return None
    kept = {name: getattr(model, name) for name in learned}
    try:
        for name in learned:  # implicit's ALS goes on from the factors that it has
            setattr(model, name, None)
        fresh = copy.deepcopy(model)
    finally:
        for name, value in kept.items():
            setattr(model, name, value)
    return fresh


def _table(
    users: list[UserId], columns: list[NDArray[Any]], scores: list[NDArray[Any]], items: list[ItemId]
) -> pd.DataFrame:
    lengths = [len(listed) for listed in columns]
    flat = np.concatenate([np.zeros(0, dtype=np.int64), *columns]).astype(np.int64)
    return pd.DataFrame(
        {
            USER: id_column(users).take(np.repeat(np.arange(len(users)), lengths)).reset_index(drop=True),
            ITEM: id_column(items).take(flat).reset_index(drop=True),
            SCORE: np.concatenate([np.zeros(0), *scores]).astype(np.float64),
        }
    )


def _implicit(model: Any, known: InteractionMatrix) -> Propose:
    """implicit's `recommend(rows, user_items, N, filter_already_liked_items)`."""

    def propose(users: list[UserId], n: int, exclude_seen: bool) -> pd.DataFrame:
        rows = lookup(known.user_rows, users)
        found = [user for user, row in zip(users, rows, strict=True) if row >= 0]
        rows = rows[rows >= 0]
        if not len(rows):
            return _table([], [], [], known.item_ids)
        ids, scores = model.recommend(rows, known.matrix[rows], N=n, filter_already_liked_items=exclude_seen)
        # implicit gives a filtered item the lowest score and fills a short list with -1.
        kept = (np.asarray(ids) >= 0) & (np.asarray(scores) > _LOWEST)
        columns = [listed[mask] for listed, mask in zip(np.asarray(ids), kept, strict=True)]
        values = [listed[mask] for listed, mask in zip(np.asarray(scores), kept, strict=True)]
        return _table(found, columns, values, known.item_ids)

    return propose


def _lightfm(model: Any, known: InteractionMatrix) -> Propose:
    """LightFM's `predict(rows, columns)`, over all items."""

    def propose(users: list[UserId], n: int, exclude_seen: bool) -> pd.DataFrame:
        every = np.arange(len(known.item_ids))
        found, columns, values = [], [], []
        for user, row in zip(users, lookup(known.user_rows, users), strict=True):
            if row < 0:
                continue
            scores = np.asarray(model.predict(int(row), every), dtype=np.float32)
            if exclude_seen:
                scores[known.seen.indices[known.seen.indptr[row] : known.seen.indptr[row + 1]]] = -np.inf
            best = top_n(scores, n)
            found.append(user)
            columns.append(best)
            values.append(scores[best])
        return _table(found, columns, values, known.item_ids)

    return propose


def _rectools(model: Any, dataset: Any) -> Propose:
    """RecTools' `recommend(users, dataset, k, filter_viewed)`."""

    def propose(users: list[UserId], n: int, exclude_seen: bool) -> pd.DataFrame:
        known = set(dataset.user_id_map.external_ids.tolist())
        asked = [user for user in users if user in known]
        if not asked:
            return _table([], [], [], [])
        return pd.DataFrame(model.recommend(users=asked, dataset=dataset, k=n, filter_viewed=exclude_seen))

    return propose


def _rectools_fitted(model: Any, dataset: Any, table: pd.DataFrame) -> Propose:
    fresh = copy.deepcopy(model)  # its `fit` begins anew
    table = choices_of(table)
    rows = table[[USER, ITEM]].assign(weight=table.get(STRENGTH, 1.0))
    rows["datetime"] = table[TIMESTAMP] if TIMESTAMP in table else np.arange(len(table))
    if pd.api.types.is_numeric_dtype(rows["datetime"]):
        rows["datetime"] = pd.to_datetime(rows["datetime"], unit="s")
    known = type(dataset).construct(rows)
    fresh.fit(known)
    return _rectools(fresh, known)


def _called(function: Callable[..., Any]) -> Propose:
    """A function of (users, n): a candidates table, or user -> items, best first."""

    def propose(users: list[UserId], n: int, exclude_seen: bool) -> pd.DataFrame:
        answer = function(users, n)
        if isinstance(answer, pd.DataFrame):
            return answer
        if not isinstance(answer, Mapping):
            raise DataError(
                f"a generator function must give a candidates table or user -> items, got {type(answer).__name__}"
            )
        pairs = [(user, item, place) for user in users for place, item in enumerate(answer.get(user, ()), start=1)]
        return pd.DataFrame(
            {
                USER: id_column([user for user, _, _ in pairs]),
                ITEM: id_column([item for _, item, _ in pairs]),
                RANK: np.array([place for _, _, place in pairs], dtype=np.int64),
            }
        )

    return propose
