"""The never-worse guard: a new order is served only where a validation fold says it beats the order that came in."""

from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from reranker.bootstrap import Interval, mean_interval
from reranker.errors import BundleError, ConfigError
from reranker.types import IntArray

Order = Literal["fused", "features", "recall"]
"""Which order is served: LLM and evidence, evidence alone, or the recall order untouched."""

METRIC = "NDCG@10"


def as_order(name: str) -> Order:
    """The order called `name`.

    Raises:
        ConfigError: there is none.
    """
    for order in get_args(Order):
        if name == order:
            return cast(Order, order)
    raise ConfigError(f"unknown order {name!r}: it must be one of {', '.join(get_args(Order))}")


@dataclass(frozen=True, kw_only=True)
class GuardDecision:
    """What is served, and why.

    Attributes:
        serve: the order served.
        fused_minus_recall, fused_minus_features, features_minus_recall: NDCG@10 differences on the validation fold by
            paired bootstrap over users, weights cross-fitted; a user whose item recall missed counts as 0.
    """

    serve: Order
    fused_minus_recall: Interval
    fused_minus_features: Interval
    features_minus_recall: Interval

    def in_words(self) -> str:
        """One sentence for the log and for `bundle.yaml`."""
        n = self.fused_minus_recall.n
        if self.serve == "recall":
            return (
                f"serving the recall order: on {n} validation users neither the fused order ({self.fused_minus_recall} "
                f"{METRIC}) nor the evidence alone ({self.features_minus_recall}) beats it with the interval above 0"
            )
        if self.serve == "features":
            return (
                f"serving the evidence without the LLM: on {n} validation users it beats the recall order "
                f"({self.features_minus_recall} {METRIC}) and the LLM does not add to it ({self.fused_minus_features})"
            )
        return (
            f"serving the fused order: on {n} validation users it beats the recall order ({self.fused_minus_recall} "
            f"{METRIC}); against the evidence alone {self.fused_minus_features}"
        )

    def to_json(self) -> dict[str, Any]:
        names = ("fused_minus_recall", "fused_minus_features", "features_minus_recall")
        intervals: dict[str, Interval] = {name: getattr(self, name) for name in names}
        return {"serve": self.serve, **{name: {**value.to_dict(), "n": value.n} for name, value in intervals.items()}}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "GuardDecision":
        """Reads what `to_json` wrote.

        Raises:
            BundleError: a field is missing or of another kind.
        """
        try:
            if data["serve"] not in get_args(Order):
                raise ValueError(f"unknown order {data['serve']!r}")
            return cls(
                serve=data["serve"],
                fused_minus_recall=Interval(**data["fused_minus_recall"]),
                fused_minus_features=Interval(**data["fused_minus_features"]),
                features_minus_recall=Interval(**data["features_minus_recall"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"guard: not what this version writes ({error!r}); fit the bundle again") from error


def decide(
    recall: NDArray[np.float64], features: NDArray[np.float64], fused: NDArray[np.float64], seed: int = 0
) -> GuardDecision:
    """Chooses the order to serve from (n_users,) NDCG@10 values of the three orders on the validation fold.

    An order is eligible when its 95 % interval against the recall order lies above 0. Among the eligible the higher
    mean is served, so the LLM is dropped where it takes away from the evidence; where both order alike, reading with
    the LLM would be for nothing.
    """
    fused_minus_recall = mean_interval(fused - recall, seed=seed)
    features_minus_recall = mean_interval(features - recall, seed=seed)
    fused_minus_features = mean_interval(fused - features, seed=seed)
    serve: Order = "recall"
    if fused_minus_recall.low > 0 and (fused_minus_features.mean > 0 or not features_minus_recall.low > 0):
        serve = "fused"
    elif features_minus_recall.low > 0:
        serve = "features"
    return GuardDecision(
        serve=serve,
        fused_minus_recall=fused_minus_recall,
        fused_minus_features=fused_minus_features,
        features_minus_recall=features_minus_recall,
    )


def ndcg_by_list(
    scores: NDArray[np.float64], list_index: IntArray, chosen: NDArray[np.bool_], n_relevant: IntArray, k: int = 10
) -> NDArray[np.float64]:
    """(n_lists,) NDCG@k with binary gains; ties keep row order (Järvelin & Kekäläinen 2002, log2 discount).

    Args:
        n_relevant: (n_lists,) relevant items of each user, proposed or not: the ideal list holds all of them.
    """
    order = np.lexsort((-scores, list_index))
    lists = list_index[order]
    starts = np.searchsorted(lists, np.arange(len(n_relevant)))
    ranks = np.arange(len(order)) - starts[lists]
    gains = np.where(chosen[order] & (ranks < k), 1.0 / np.log2(ranks + 2.0), 0.0)
    dcg = np.bincount(lists, weights=gains, minlength=len(n_relevant))
    ideal = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(k) + 2.0))])[np.minimum(n_relevant, k)]
    ndcg: NDArray[np.float64] = np.divide(dcg, ideal, out=np.zeros_like(dcg), where=ideal > 0)
    return ndcg
