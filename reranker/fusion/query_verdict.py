"""What the relevance of queries is worth beside the personal order: its weight, learned, and the guard's word on it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker.errors import BundleError
from reranker.fusion.conditional_logit import ConditionalLogit
from reranker.fusion.guard import METRIC, by_user
from reranker.fusion.head import CROSS_FITTING_FOLDS, assign_folds
from reranker.types import IntArray
from reranker.utils.statistics import Interval, mean_interval, ndcg_by_list

_LEAST_TRUST = 0.1
"""Weight of the personal score, at least: one that logs contradict counts little, and is not turned around."""

FIXED_WEIGHT = 1.0
"""Of the relevance where no log had queries: independent evidence beside the personal score."""


@dataclass(frozen=True, kw_only=True)
class QueryVerdict:
    """Relevance of queries on the lists of the fit that had one.

    Attributes:
        weight: of the relevance (log-odds) beside the personal score, fitted on all of these lists.
        gain: NDCG@10 of personal score and relevance minus that of the personal score alone, cross-fitted, by paired
            bootstrap over users.
        n_lists: lists with a query and a choice.
    """

    weight: float
    gain: Interval
    n_lists: int

    @property
    def keeps(self) -> bool:
        """Whether relevance counts: where it rather adds than takes away."""
        return self.gain.mean > 0 and self.weight > 0

    @property
    def served_weight(self) -> float:
        """Of the relevance when lists with queries are served."""
        return self.weight if self.keeps else 0.0

    def summary(self) -> str:
        """For people, one line."""
        used = f"count {self.weight:.2f} times their log-odds" if self.keeps else "do not count"
        return f"queries {used}: {self.gain} {METRIC} over the personal order alone, on {self.n_lists} lists with one"

    def to_json(self) -> dict[str, Any]:
        return {"weight": self.weight, "gain": {**self.gain.to_dict(), "n": self.gain.n}, "n_lists": self.n_lists}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "QueryVerdict":
        """Reads what `to_json` wrote.

        Raises:
            BundleError: a field is missing or of another kind.
        """
        try:
            weight = float(data["weight"])
            if not np.isfinite(weight):
                raise ValueError(f"weight {weight}")
            return cls(weight=weight, gain=Interval(**data["gain"]), n_lists=int(data["n_lists"]))
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"queries: not what this version writes ({error!r}); fit the bundle again") from error


def judge_relevance(
    personal: NDArray[np.float64],
    relevance: NDArray[np.float64],
    list_index: IntArray,
    chosen: NDArray[np.bool_],
    n_relevant: IntArray,
    users: IntArray,
    l2: float = 1.0,
    seed: int = 0,
) -> QueryVerdict:
    """Fits the weight of the relevance beside the personal score, and judges both against the latter alone.

    P(item) ∝ exp(a · personal + b · relevance), with a ridge that draws a to 1 and b to 0; the weight is b / a, with a
    of .1 at least.

    Args:
        personal: (rows,) cross-fitted scores of the order that is served.
        relevance: (rows,) log-odds.
        list_index: (rows,) 0-based number of the list a row belongs to; every list has a chosen row.
        chosen: (rows,) True where the item was chosen.
        n_relevant: (n_lists,) what the user chose, proposed or not.
        users: (n_lists,) number of each list's user.
        l2: ridge penalty.
        seed: of cross-fitting and of the bootstrap.

    Raises:
        DataError: fewer than two users.
    """
    columns = np.stack([personal, relevance], axis=1)

    def weight_on(rows: NDArray[np.bool_]) -> float:
        lists = np.unique(list_index[rows], return_inverse=True)[1]
        fitted = ConditionalLogit.fit(columns[rows], lists, chosen[rows], l2, centre=np.array([1.0, 0.0])).weights
        return float(fitted[1] / max(fitted[0], _LEAST_TRUST))

    folds = assign_folds(list_index, chosen, CROSS_FITTING_FOLDS, seed, users)
    both = personal.copy()
    for number in np.unique(folds):
        mine = folds == number
        both[mine] += weight_on(~mine) * relevance[mine]
    gains = [ndcg_by_list(scores, list_index, chosen, n_relevant) for scores in (both, personal)]
    return QueryVerdict(
        weight=weight_on(np.ones(len(personal), dtype=np.bool_)),
        gain=mean_interval(by_user(gains[0] - gains[1], users), seed=seed),
        n_lists=len(n_relevant),
    )
