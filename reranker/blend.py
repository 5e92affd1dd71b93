"""What `Reranker.fit` learns: read-out coefficients, fusion weights and the guard's decision."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker.errors import BundleError
from reranker.folds import ValidationFold
from reranker.fusion import (
    FEATURES,
    ConditionalLogit,
    FusionHead,
    GuardDecision,
    cross_fitted_scores,
    decide,
    ndcg_by_list,
    standardise_within_lists,
)
from reranker.scoring import Scoring
from reranker.types import IntArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Blend:
    """How components of the LLM and evidence become one order.

    Attributes:
        coefficients: (n_components,) of the LLM alone; differences within a list are log-odds.
        fused: head over evidence and LLM components.
        features: head over evidence alone: what the guard falls back on, and the control of every comparison.
        guard: which order is served, and why.
    """

    coefficients: NDArray[np.float64]
    fused: FusionHead
    features: FusionHead
    guard: GuardDecision

    @classmethod
    def fit(
        cls, fold: ValidationFold, components: dict[int, NDArray[np.float64]], scoring: Scoring, l2: float, seed: int
    ) -> "Blend":
        """Fits everything on the fold.

        Args:
            fold: lists and choices.
            components: list number -> (n_candidates, n_components), for the lists the LLM scored. They must contain a
                chosen item: other lists count as 0 for every order, whatever the LLM says of them.
        """
        scored = np.isin(fold.list_index, list(components))
        rows = np.flatnonzero(scored)
        _, list_index = np.unique(fold.list_index[rows], return_inverse=True)
        evidence, chosen = fold.features[rows], fold.chosen[rows]
        raw = np.concatenate([components[number] for number in np.unique(fold.list_index[rows])])
        llm = standardise_within_lists(raw, list_index)
        both = np.concatenate([evidence, llm], axis=1)
        guard = _guard(fold, rows, list_index, both, l2, seed)
        return cls(
            coefficients=_coefficients(raw, list_index, chosen, l2),
            fused=FusionHead.fit({**FEATURES, **scoring.components}, both, list_index, chosen, l2),
            features=FusionHead.fit(dict(FEATURES), fold.features, fold.list_index, fold.chosen, l2),
            guard=guard,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "coefficients": self.coefficients.tolist(),
            "fused": self.fused.to_json(),
            "features": self.features.to_json(),
            "guard": self.guard.to_json(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Blend":
        """Reads what `to_json` wrote.

        Raises:
            BundleError: a field is missing or of another kind.
        """
        try:
            return cls(
                coefficients=np.asarray(data["coefficients"], dtype=np.float64),
                fused=FusionHead.from_json(data["fused"]),
                features=FusionHead.from_json(data["features"]),
                guard=GuardDecision.from_json(data["guard"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"fusion.json is not what this version writes ({error!r}); fit again") from error


def _coefficients(
    raw: NDArray[np.float64], list_index: IntArray, chosen: NDArray[np.bool_], l2: float
) -> NDArray[np.float64]:
    """Weights of the raw components: fitted at unit scale, so that the ridge treats them alike, then scaled back."""
    spread = raw.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    fitted = ConditionalLogit.fit((raw - raw.mean(axis=0)) / spread, list_index, chosen, l2)
    coefficients: NDArray[np.float64] = fitted.weights / spread
    return coefficients


def _guard(
    fold: ValidationFold, rows: IntArray, list_index: IntArray, both: NDArray[np.float64], l2: float, seed: int
) -> GuardDecision:
    """Compares the orders on the scored users and a matching share of the users whose item recall missed."""
    chosen = fold.chosen[rows]
    evidence = both[:, : len(FEATURES)]
    n_relevant = fold.n_relevant[np.unique(fold.list_index[rows])]
    orders = {
        "recall": -fold.candidates["rank"].to_numpy(dtype=np.float64)[rows],
        "features": cross_fitted_scores(evidence, list_index, chosen, l2, seed=seed),
        "fused": cross_fitted_scores(both, list_index, chosen, l2, seed=seed),
    }
    covered = len(np.unique(fold.list_index[fold.chosen]))
    missed = round((len(fold.n_relevant) - covered) * len(n_relevant) / covered)
    values = {
        name: np.concatenate([ndcg_by_list(scores, list_index, chosen, n_relevant), np.zeros(missed)])
        for name, scores in orders.items()
    }
    return decide(values["recall"], values["features"], values["fused"], seed)
