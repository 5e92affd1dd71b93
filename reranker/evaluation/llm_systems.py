"""The LLM as judged systems: each scorer as it comes, the LLM alone with learned coefficients, and the fusion.

Systems of one domain share the readings, so that a list is read by the model once a scorer.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np

from reranker.data.schema import RANK
from reranker.errors import ConfigError
from reranker.evaluation.base import ReadingCost
from reranker.evaluation.baselines import stacked
from reranker.evaluation.score_cache import Components, ScoreCache
from reranker.fusion import (
    FEATURES,
    Choices,
    ConditionalLogit,
    FusionHead,
    FusionModel,
    fit_fused,
    llm_columns,
    llm_words,
    standardise_within_lists,
    user_numbers,
)
from reranker.pipeline.lists import FoldLists


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


class Fused(_LearnedSystem):
    """What the product serves when its guard lets it: interaction features and LLM in one conditional logit."""

    name = "fused"

    def __init__(self, readings: ScoreCache, fit_users: int | None = 500, l2: float = 1.0) -> None:
        super().__init__(readings, fit_users, l2)
        self.head: FusionHead | None = None

    def fit(self, lists: Sequence[FoldLists]) -> Self:
        training = self.readings.training_lists(lists, self.fit_users)
        words = llm_words(self.readings.reader(lists[0].fold.domain).scorer.components)
        baseline = FusionHead.fit(dict(FEATURES), *stacked(lists, lambda part: part.features), l2=self.l2)
        users = user_numbers((part.fold.domain, user) for part in lists for user in part.fold.users)
        self.head = fit_fused(baseline, words, *stacked(training, self._features), l2=self.l2, users=users)
        return self

    def score(self, lists: FoldLists) -> Components:
        if self.head is None:
            raise ConfigError(f"system {self.name!r} must be fitted before it can score: call fit(validation lists)")
        return self.head.score(self._features(lists))

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

    def _features(self, lists: FoldLists) -> Components:
        llm = llm_columns(lists.features, self.readings.of(lists), lists.list_index)
        return np.concatenate([lists.features, llm], axis=1)


class Served(_LearnedSystem):
    """What the product serves: the fused order, the baseline or the first-stage order, as its guard decides."""

    name = "served"

    def __init__(self, readings: ScoreCache, fit_users: int | None = 500, l2: float = 1.0) -> None:
        super().__init__(readings, fit_users, l2)
        self.fusion_model: FusionModel | None = None

    def fit(self, lists: Sequence[FoldLists]) -> Self:
        domains = {part.fold.domain for part in lists}
        if len(domains) != 1:
            raise ConfigError(f"system {self.name!r} is fitted on windows of one domain, got {sorted(domains)}")
        components: dict[int, Components] = {}
        before = 0
        for part in self.readings.training_lists(lists, self.fit_users):
            raw, numbers = self.readings.of(part), np.unique(part.list_index)
            components |= {before + int(number): raw[part.list_index == number] for number in numbers}
            before += len(part.fold.users)
        words = self.readings.reader(domains.pop()).scorer.components
        self.fusion_model = FusionModel.fit(
            Choices.joined([_choices(part) for part in lists]), components, words, self.l2
        )
        return self

    def score(self, lists: FoldLists) -> Components:
        if self.fusion_model is None:
            raise ConfigError(f"system {self.name!r} must be fitted before it can score: call fit(validation lists)")
        guard, generator = self.fusion_model.guard, -lists.candidates[RANK].to_numpy(dtype=np.float64)
        if guard.serve == "first_stage":
            return generator
        if guard.serve == "baseline":
            scores = self.fusion_model.features.score(lists.features)
        else:
            scores = self.fusion_model.orders(lists.features, self.readings.of(lists), lists.list_index)[guard.serve]
        return np.where(guard.holds_for(lists.n_known)[lists.list_index], scores, generator)

    def reading_cost(self, lists: FoldLists) -> ReadingCost | None:
        """The share of the users who are served the fused order: the model has no part in the others."""
        cost = super().reading_cost(lists)
        if self.fusion_model is None:
            return cost
        guard = self.fusion_model.guard
        if guard.serve != "fused":
            return ReadingCost(tokens=0, seconds=0.0)
        share = float(guard.holds_for(lists.n_known).mean())
        return cost and ReadingCost(tokens=round(cost.tokens * share), seconds=cost.seconds * share)


def _choices(lists: FoldLists) -> Choices:
    return Choices(
        features=lists.features,
        list_index=lists.list_index,
        chosen=lists.relevant,
        first_stage_rank=lists.candidates[RANK].to_numpy(dtype=np.int64),
        n_relevant=lists.n_relevant,
        n_known=lists.n_known,
        users=lists.fold.users,
    )
