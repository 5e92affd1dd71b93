"""implicit: a model with reranked `recommend`, for code that already calls it."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from reranker.data.schema import ITEM, RANK, SCORE, USER
from reranker.errors import ConfigError, DataError
from reranker.pipeline.reranker import Reranker
from reranker.types import ItemId, UserId

_LOWEST = float(np.finfo(np.float32).min)


class ImplicitModel(Protocol):
    """What is asked of a model of the package implicit: its `recommend`."""

    def recommend(self, userid: Any, user_items: Any, N: int = 10, **options: Any) -> tuple[Any, Any]: ...  # noqa: N803


class RerankedRecommender:
    """Recommends as the wrapped model does, in the Reranker's order.

    The model proposes `n_candidates` items, the Reranker orders them, the best N come back in implicit's shapes.
    Histories are the ones that the Reranker was fitted with.

    Args:
        model: a fitted model of the package implicit, or anything with its `recommend`.
        reranker: fitted on the same users and items.
        user_ids, item_ids: the Reranker's id of each row and column of the matrix; the numbers themselves by default.
        n_candidates: items asked of the model; more where N is larger.

    Raises:
        ConfigError: n_candidates < 1.
    """

    def __init__(
        self,
        model: ImplicitModel,
        reranker: Reranker,
        user_ids: Sequence[UserId] | None = None,
        item_ids: Sequence[ItemId] | None = None,
        n_candidates: int = 50,
    ) -> None:
        if n_candidates < 1:
            raise ConfigError(f"n_candidates must be at least 1, got {n_candidates}")
        self.model = model
        self.reranker = reranker
        self.n_candidates = n_candidates
        self._user_ids = user_ids
        self._item_ids = item_ids

    def recommend(
        self,
        userid: int | Sequence[int] | NDArray[np.int64],
        user_items: csr_matrix,
        N: int = 10,  # noqa: N803  implicit's name
        filter_already_liked_items: bool = True,
        filter_items: Sequence[int] | None = None,
        recalculate_user: bool = False,
        items: Sequence[int] | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """implicit's `recommend`, reranked.

        Args:
            userid: a row of the matrix, or several.
            user_items: (users, items) matrix of what these users chose, as implicit wants it.
            N: items a user.
            filter_already_liked_items, filter_items, recalculate_user, items: handed to the model.

        Returns:
            ids and scores, each (N,) for one user and (len(userid), N) for several. A list that is shorter is filled
            with id -1 and the lowest float, as implicit does.

        Raises:
            DataError: a user twice, a user or item number without an id, or what `Reranker.rerank` raises.
        """
        one = np.isscalar(userid)
        users = np.atleast_1d(np.asarray(userid, dtype=np.int64))
        if len(np.unique(users)) < len(users):
            raise DataError("userid holds a user twice: ask for each once")
        proposed, scores = self.model.recommend(
            users,
            user_items,
            N=max(N, self.n_candidates),
            filter_already_liked_items=filter_already_liked_items,
            filter_items=filter_items,
            recalculate_user=recalculate_user,
            items=items,
        )
        ids, values = self._reranked(users, np.asarray(proposed), np.asarray(scores, dtype=np.float64), N)
        return (ids[0], values[0]) if one else (ids, values)

    def _reranked(
        self, users: NDArray[np.int64], proposed: NDArray[Any], scores: NDArray[np.float64], n: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        ids = np.full((len(users), n), -1, dtype=np.int32)
        values = np.full((len(users), n), _LOWEST, dtype=np.float64)
        # implicit gives a filtered item the lowest score and fills a short list with -1.
        rows, columns = np.nonzero((proposed >= 0) & (scores > _LOWEST))
        numbers = proposed[rows, columns]
        if not len(numbers):
            return ids, values
        names = [_id(self._user_ids, user, "user") for user in users]
        row_of = {name: row for row, name in enumerate(names)}
        items = {_id(self._item_ids, number, "item"): number for number in np.unique(numbers)}
        item_of = {number: name for name, number in items.items()}
        lists = pd.DataFrame(
            {
                USER: pd.Series([names[row] for row in rows], dtype=object),
                ITEM: pd.Series([item_of[number] for number in numbers], dtype=object),
                SCORE: scores[rows, columns],
            }
        )
        ranked = self.reranker.rerank(lists, n).to_frame()
        at = ranked[USER].map(row_of).to_numpy(), ranked[RANK].to_numpy() - 1
        ids[at] = ranked[ITEM].map(items).to_numpy()
        values[at] = ranked[SCORE].to_numpy()
        return ids, values


def _id(names: Sequence[Any] | None, number: int, kind: str) -> Any:
    if names is None:
        return int(number)
    if number >= len(names):
        raise DataError(f"{kind} {number} has no id: {kind}_ids holds {len(names)}")
    return names[number]
