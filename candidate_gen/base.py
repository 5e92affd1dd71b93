"""What every candidate generator with a score for each (user, item) pair shares: top n, fallback, save and load.

A stage adds three things: `_fit` (learn), `_score` (a dense block of scores) and `_arrays`/`_restore` (its state).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from candidate_gen.matrix import InteractionMatrix, id_column, lookup
from candidate_gen.storage import read_stage, write_stage
from reranker.data.schema import ITEM, RANK, SCORE, USER
from reranker.errors import BundleError, ConfigError
from reranker.types import IntArray, ItemId, UserId
from reranker.utils.id_json import decode_ids, encode_ids

_SCORES_PER_BLOCK = 2**23  # 64 MB of float64 at a time, whatever the size of the catalogue


class ScoringGenerator(ABC):
    """A candidate generator that can score every item of the catalogue for a user.

    `recommend` lists are exact: sorted by score, ties by popularity. A user whose unseen catalogue is shorter than n
    gets fewer rows; one who has nothing left gets none. Without `exclude_seen`, disliked items alone are left out.
    Unknown users get the most popular items, with the share of users who chose each (0..1) as score.
    """

    name: str
    use_weights: bool = False
    _fitted: InteractionMatrix | None = None

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, JSON values."""

    def clone(self) -> Self:
        """An unfitted copy with the same settings."""
        return type(self)(**self.settings)

    def fit(self, interactions: pd.DataFrame) -> Self:
        """Learns from an interactions table. Returns self.

        Raises:
            DataError: the table breaks the interactions contract.
            ConfigError: an optional package is missing.
        """
        fitted = InteractionMatrix.from_table(interactions, self.use_weights)
        self._fit(fitted)
        self._fitted = fitted
        return self

    @property
    def user_ids(self) -> list[UserId]:
        """The users that `fit` saw."""
        return list(self._require_fitted().user_ids)

    @property
    def item_ids(self) -> list[ItemId]:
        """The catalogue that `fit` saw, most popular first."""
        return list(self._require_fitted().item_ids)

    def recommend(self, user_ids: Iterable[UserId], n: int, exclude_seen: bool = True) -> pd.DataFrame:
        """A candidates table `user_id, item_id, score, rank` (1-based), at most n rows a user, users as given.

        A user given twice is answered once. See the class for short lists and unknown users.

        Raises:
            ConfigError: not fitted, n < 1, or `user_ids` is one string.
        """
        fitted = self._require_fitted()
        users = distinct_users(user_ids, n)
        rows = lookup(fitted.user_rows, users)
        columns: list[IntArray] = [np.zeros(0, dtype=np.int64)] * len(users)
        scores: list[NDArray[np.float32]] = [np.zeros(0, dtype=np.float32)] * len(users)
        unknown = np.flatnonzero(rows < 0)
        if len(unknown):
            popular = np.arange(min(n, len(fitted.item_ids)))
            for position in unknown:
                columns[position], scores[position] = popular, fitted.popularity[popular].astype(np.float32)
        known = np.flatnonzero(rows >= 0)
        block = self._users_per_block(fitted)
        for start in range(0, len(known), block):
            positions = known[start : start + block]
            best = self._best(fitted, rows[positions], n, exclude_seen)
            for position, (best_columns, best_scores) in zip(positions, best, strict=True):
                columns[position], scores[position] = best_columns, best_scores
        return candidates_table(users, columns, scores, fitted)

    def save(self, directory: Path) -> None:
        """Writes generator.json and generator.npz under `directory`, never pickle.

        Raises:
            ConfigError: not fitted.
            DataError: an id is of a type that cannot be stored.
        """
        fitted = self._require_fitted()
        header = {
            "class": type(self).__name__,
            "settings": self.settings,
            "user_ids": encode_ids(fitted.user_ids),
            "item_ids": encode_ids(fitted.item_ids),
        }
        arrays = {
            "interaction_data": fitted.matrix.data,
            "interaction_indices": fitted.matrix.indices,
            "interaction_indptr": fitted.matrix.indptr,
            "popularity": fitted.popularity,
            **self._arrays(),
        }
        write_stage(Path(directory), header, arrays)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            BundleError: a file is missing, damaged, or holds another kind of candidate generator.
        """
        header, arrays = read_stage(Path(directory), cls.__name__)
        try:
            stage = cls(**header["settings"])
            user_ids, item_ids = decode_ids(header["user_ids"]), decode_ids(header["item_ids"])
            cells = (arrays["interaction_data"], arrays["interaction_indices"], arrays["interaction_indptr"])
            matrix = sp.csr_matrix(cells, shape=(len(user_ids), len(item_ids)))
            stage._restore(arrays)
            stage._fitted = InteractionMatrix(
                user_ids=user_ids, item_ids=item_ids, matrix=matrix, popularity=arrays["popularity"]
            )
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise BundleError(
                f"the candidate generator in {directory} is damaged: {error}. Fit and save it again"
            ) from error
        return stage

    @abstractmethod
    def _fit(self, fitted: InteractionMatrix) -> None:
        """Learns the stage's own state."""

    @abstractmethod
    def _score(self, fitted: InteractionMatrix, rows: IntArray) -> NDArray[np.float32]:
        """(len(rows), items) scores, a fresh array that the caller may overwrite."""

    def _best(
        self, fitted: InteractionMatrix, rows: IntArray, n: int, exclude_seen: bool
    ) -> list[tuple[IntArray, NDArray[np.float32]]]:
        """Per row: columns of the n best items and their scores, best first, ties by column."""
        scores = self._unseen_scores(fitted, rows, exclude_seen)
        tops = [top_n(user_scores, n) for user_scores in scores]
        return [(top, user_scores[top]) for top, user_scores in zip(tops, scores, strict=True)]

    def _unseen_scores(
        self, fitted: InteractionMatrix, rows: IntArray, exclude_seen: bool = True
    ) -> NDArray[np.float32]:
        """(len(rows), items) scores, -inf where the user has seen the item, or at least where it is disliked."""
        scores = self._score(fitted, rows)
        scores[left_out(fitted, exclude_seen)[rows].nonzero()] = -np.inf
        return scores

    def _users_per_block(self, fitted: InteractionMatrix) -> int:
        """Users that are handed to `_best` at once."""
        return max(1, _SCORES_PER_BLOCK // len(fitted.item_ids))

    def _arrays(self) -> Mapping[str, NDArray[Any]]:
        """The stage's own state, to be saved."""
        return {}

    def _restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:  # noqa: B027 - a stage without state needs none
        """Takes back what `_arrays` gave."""

    def _require_fitted(self) -> InteractionMatrix:
        if self._fitted is None:
            raise ConfigError(
                f"this {type(self).__name__} is not fitted: call fit(interactions) or load(directory) first"
            )
        return self._fitted


def left_out(fitted: InteractionMatrix, exclude_seen: bool) -> sp.csr_matrix:
    """(users, items) CSR of ones: what is not proposed."""
    return fitted.seen if exclude_seen else fitted.disliked


def distinct_users(user_ids: Iterable[UserId], n: int) -> list[UserId]:
    """The users asked for, each once, in order.

    Raises:
        ConfigError: n < 1, or a single string where a list of users is meant.
    """
    if isinstance(user_ids, str | bytes):
        raise ConfigError(f"recommend needs a list of user ids, got the single id {user_ids!r}: pass [{user_ids!r}]")
    if n < 1:
        raise ConfigError(f"recommend needs n >= 1 items a user, got {n}")
    return list(dict.fromkeys(user_ids))


def top_n(scores: NDArray[np.float32], n: int) -> IntArray:
    """Positions of the n highest scores, best first, ties by position; -inf is never among them."""
    if n < len(scores):
        threshold = np.partition(scores, len(scores) - n)[len(scores) - n]
        positions = np.flatnonzero((scores >= threshold) & (scores > -np.inf))
    else:
        positions = np.flatnonzero(scores > -np.inf)
    return positions[np.argsort(-scores[positions], kind="stable")][:n]


def candidates_table(
    users: list[UserId],
    columns: list[IntArray],
    scores: list[NDArray[np.float32]],
    fitted: InteractionMatrix,
) -> pd.DataFrame:
    """One candidates table from each user's columns and scores, best first."""
    lengths = [len(listed) for listed in columns]
    flat = np.concatenate([np.zeros(0, dtype=np.int64), *columns])
    return pd.DataFrame(
        {
            USER: id_column(users).take(np.repeat(np.arange(len(users)), lengths)).reset_index(drop=True),
            ITEM: id_column(fitted.item_ids).take(flat).reset_index(drop=True),
            SCORE: np.concatenate([np.zeros(0, dtype=np.float32), *scores]).astype(np.float64),
            RANK: np.concatenate([np.zeros(0, dtype=np.int64), *(np.arange(1, length + 1) for length in lengths)]),
        }
    )
