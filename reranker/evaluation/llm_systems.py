"""The LLM as judged systems: each scorer as it comes, the LLM alone with learned coefficients, and the fusion.

Systems of one domain share the readings, so that a list is read by the model once a scorer.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from reranker.errors import ConfigError
from reranker.evaluation.base import ReadingCost
from reranker.evaluation.baselines import stacked
from reranker.evaluation.score_cache import Components, ScoreCache
from reranker.fusion import ConditionalLogit, FusionModel, standardise_within_lists
from reranker.pipeline.fitting import serve
from reranker.pipeline.lists import FoldLists
from reranker.types import IntArray


class _LLMSystem:
    """What the systems that use readings share."""

    stochastic = False

    def __init__(self, readings: ScoreCache) -> None:
        self.readings = readings

    @property
    def fingerprint(self) -> str:
        """Changes with the model and every setting."""
        return self.readings.fingerprint

    def reading_cost(self, lists: FoldLists) -> ReadingCost | None:
        """What reading `lists` took; None while they are unread."""
        return self.readings.cost(lists)


class _LearnedSystem(_LLMSystem):
    """An LLM system that is fitted on lists, of which the model reads at most `fit_users`."""

    def __init__(self, readings: ScoreCache, fit_users: int | None = 500, l2: float = 1.0) -> None:
        super().__init__(readings)
        self.fit_users = fit_users
        self.l2 = l2

    @property
    def fingerprint(self) -> str:
        return f"{super().fingerprint}|{self.fit_users}|{self.l2}"


class ZeroShot(_LLMSystem):
    """A scorer with its default coefficients: nothing learned, nothing mixed in."""

    def __init__(self, name: str, readings: ScoreCache) -> None:
        super().__init__(readings)
        self.name = name

    def fit(self, lists: Sequence[FoldLists]) -> Self:
        return self

    def score(self, lists: FoldLists) -> Components:
        raw = self.readings.of(lists)
        scores: Components = raw @ self.readings.reader(lists.fold.domain).scorer.default_coefficients
        return scores


class LLMAlone(_LearnedSystem):
    """A scorer with coefficients learned on the validation lists; no interaction features."""

    name = "llm"

    def __init__(self, readings: ScoreCache, fit_users: int | None = 500, l2: float = 1.0) -> None:
        super().__init__(readings, fit_users, l2)
        self._logit: ConditionalLogit | None = None

    def fit(self, lists: Sequence[FoldLists]) -> Self:
        training = self.readings.training_lists(lists, self.fit_users)
        self._logit = ConditionalLogit.fit(*stacked(training, self._features), l2=self.l2)
        return self

    def score(self, lists: FoldLists) -> Components:
        if self._logit is None:
            raise ConfigError(f"system {self.name!r} must be fitted before it can score: call fit(validation lists)")
        return self._logit.score(self._features(lists))

    def _features(self, lists: FoldLists) -> Components:
        return standardise_within_lists(self.readings.of(lists), lists.list_index)


class _FittedSystem(_LearnedSystem):
    """A system that is fitted by `fit_ranker`, as the product is."""

    name: str

    def __init__(self, readings: ScoreCache, fit_users: int | None = 500, l2: float = 1.0) -> None:
        super().__init__(readings, fit_users, l2)
        self.fusion_model: FusionModel | None = None

    def fit(self, lists: Sequence[FoldLists]) -> Self:
        """Fits weights and guard.

        Raises:
            DataError: no list holds a target.
        """
        self.fusion_model = self.readings.fitted(lists, self.fit_users, self.l2)
        return self

    def _fitted(self) -> FusionModel:
        if self.fusion_model is None:
            raise ConfigError(f"system {self.name!r} must be fitted before it can score: call fit(validation lists)")
        return self.fusion_model


class Fused(_FittedSystem):
    """Interaction features and LLM in one conditional logit: what the product serves when its guard lets it."""

    name = "fused"

    def score(self, lists: FoldLists) -> Components:
        return self._fitted().orders(lists.features, self.readings.of(lists), lists.list_index, lists.is_new)["fused"]

    def priors(self, lists: FoldLists) -> Components:
        """(rows,) log-likelihood of each title for anybody, in nats, for the leak checks."""
        names = list(self.readings.reader(lists.fold.domain).scorer.components)
        raw = self.readings.of(lists)
        if "llm_gain" not in names:
            return np.zeros(len(raw))
        total, mean, gain = (raw[:, names.index(name)] for name in ("llm_sum", "llm_mean", "llm_gain"))
        tokens = np.divide(total, mean, out=np.ones(len(raw)), where=mean != 0)
        priors: Components = total - gain * tokens
        return priors


class Served(_FittedSystem):
    """What the product serves: the fused order, the baseline or the first-stage order, as its guard decides."""

    name = "served"

    def fit(self, lists: Sequence[FoldLists]) -> Self:
        domains = {part.domain for part in lists}
        if len(domains) != 1:
            raise ConfigError(f"system {self.name!r} is fitted on windows of one domain, got {sorted(domains)}")
        super().fit(lists)
        self.fusion_model = self._fitted().guarded()
        return self

    def score(self, lists: FoldLists) -> Components:
        def read(rows: NDArray[np.bool_]) -> tuple[Components, IntArray]:
            users = np.unique(lists.list_index[rows])
            return self.readings.of(lists)[rows], np.zeros(len(users), dtype=np.int64)  # the cache counts tokens

        return serve(
            self._fitted(),
            None,
            lists.n_known,
            -lists.first_stage_rank.astype(np.float64),  # equal scores that came in keep their order when served
            lists.list_index,
            lambda rows: lists.is_new[rows],
            lambda rows: lists.features[rows],
            read,
        ).scores

    def reading_cost(self, lists: FoldLists) -> ReadingCost | None:
        """The share of the users who are served the fused order: the model has no part in the others."""
        cost = super().reading_cost(lists)
        if self.fusion_model is None:
            return cost
        guard = self.fusion_model.guard
        if guard.serve != "fused":
            return ReadingCost(tokens=0, seconds=0.0)
        reads = guard.holds_for(lists.n_known)
        if guard.only_new_items:
            reads &= np.bincount(lists.list_index, weights=lists.is_new, minlength=len(reads)) > 1
        share = float(reads.mean())
        return cost and ReadingCost(tokens=round(cost.tokens * share), seconds=cost.seconds * share)
