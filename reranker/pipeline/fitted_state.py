"""A Reranker's parts, and what they say of the fitted domain."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from reranker.config import RerankerConfig
from reranker.data.catalog import Item
from reranker.data.schema import ITEM
from reranker.data.signals import Signals
from reranker.errors import DataError
from reranker.fusion import FusionModel
from reranker.fusion.ladder import Ladder
from reranker.pipeline.domain import DomainData
from reranker.pipeline.llm_scorer import LLMScorer
from reranker.pipeline.manifest import BundleIdentity
from reranker.pipeline.summary import Summary, generator_name
from reranker.protocols import CandidateGenerator, Engine
from reranker.rules import ItemColumns
from reranker.soft_tokens import ContextMap
from reranker.soft_tokens.prompt_bank import PromptBank
from reranker.types import ItemId, UserId, UserState


class FittedState:
    """The parts of a Reranker.

    Attributes:
        config: the settings.
        llm_scorer: the language model's half: engine, prompts, scorer.
        fusion_model: what `fit` learned, or None.
        generator: the candidate generator the Reranker was fitted with, or None.
        states: adapted users, as `adapt` left them; empty after `fit` and `load`.
        ladder: what each rung was worth on the data, where `ladder.climb` chose this Reranker, or None.
        fitted_at: when `fit` or a refresh ended, UTC; None before, and of a bundle that an earlier version saved.
    """

    def __init__(
        self,
        config: RerankerConfig | None = None,
        engine: Engine | None = None,
        prompts: PromptBank | None = None,
        contexts: ContextMap | None = None,
    ) -> None:
        """Takes a ready engine, or loads the one `config` names when it is first needed."""
        self.config = config or RerankerConfig()
        self.llm_scorer = LLMScorer(self.config, "generic", prompts or PromptBank(), engine=engine, contexts=contexts)
        self.states: dict[UserId, UserState] = {}
        self.fusion_model: FusionModel | None = None
        self.ladder: Ladder | None = None
        self.generator: CandidateGenerator | None = None
        self.fitted_at: datetime | None = None
        self._data: DomainData | None = None
        self._saved: tuple[BundleIdentity, DomainData | None, FusionModel | None] | None = None

    def __repr__(self) -> str:
        return f"Reranker({self._described()})"

    def __str__(self) -> str:
        served = "" if self.fusion_model is None else f"\n{self.fusion_model.guard.summary()}"
        return f"{self!r}{served}"

    def _described(self) -> str:
        """Domain, base model, scorer and what is served, in a line."""
        config = self.config
        reads = f"model {config.model!r}, engine {config.engine!r}, scoring {config.scorer!r}"
        if self._data is None or self.fusion_model is None:
            return f"not fitted, {reads}"
        sizes = f"{len(self._data.statistics.histories)} users, {len(self._data.items)} items"
        return f"domain {self.llm_scorer.domain!r} ({sizes}), {reads}, serves {self.fusion_model.guard.serve!r}"

    def summary(self) -> Summary:
        """What this is: what it learned from and when, what it serves and why, absolute figures, what may help.

        Raises:
            DataError: nothing was fitted.
        """
        data = self._require_data()
        if self.fusion_model is None:
            raise DataError("nothing was fitted: call fit, or load a bundle")
        return Summary.of(
            self.config,
            self.llm_scorer.domain,
            self.llm_scorer.model.model_id,
            self.fusion_model,
            data.statistics,
            items=len(data.items),
            generator=generator_name(self.generator),
            ladder=self.ladder,
            fitted=self.fitted_at,
        )

    @property
    def identity(self) -> BundleIdentity | None:
        """The bundle that this is, as it was saved or loaded; None where it was changed since, or never saved."""
        if self._saved is None or self._saved[1] is not self._data or self._saved[2] is not self.fusion_model:
            return None
        return self._saved[0]

    def mark_fitted(self) -> None:
        """Keeps that what is known now was learned now."""
        self.fitted_at = datetime.now(UTC)

    def _is_saved_as(self, identity: BundleIdentity | None) -> None:
        self._saved = None if identity is None else (identity, self._data, self.fusion_model)

    def history(self, user_id: UserId) -> list[ItemId]:
        """What the user chose before `fit`, oldest first; empty for a new user."""
        return self._require_data().statistics.history(user_id)

    def disliked(self, user_id: UserId) -> list[ItemId]:
        """What the user disliked before `fit`, the last word last; nothing where no row says so."""
        statistics = self._require_data().statistics
        rows = {} if statistics.dislikes is None else statistics.dislikes.of_users
        return [statistics.item_ids[row] for row in rows.get(user_id, ())]

    @property
    def signals(self) -> Signals:
        """How the fitted domain's interactions are read."""
        return self._require_data().signals

    def titles(self, item_ids: Sequence[ItemId]) -> list[str]:
        """Titles of the catalogue; "(untitled)" for an unknown item."""
        return self._require_data().catalog.titles(item_ids)

    def item_fields(self, item_ids: Sequence[ItemId]) -> list[Item]:
        """Column -> value of each item of the catalogue, without its id; an unknown item is "(untitled)"."""
        return self._require_data().catalog.items(item_ids)

    @property
    def candidate_columns(self) -> list[str]:
        """Columns of the candidates, beside ids, scores and ranks, that the ranker was fitted with."""
        return self._require_data().candidate_columns

    @property
    def judged_queries(self) -> bool:
        """Whether `fit` judged what queries are worth, on lists that had some."""
        return self.fusion_model is not None and self.fusion_model.queries is not None

    @property
    def counts_queries(self) -> bool:
        """Whether a query changes an order: by a fixed weight, or by one that `fit` found to add."""
        verdict = None if self.fusion_model is None else self.fusion_model.queries
        return verdict is None or verdict.keeps

    def n_without_vector(self, item_ids: Iterable[ItemId]) -> int | None:
        """How many of these items have no item vector of the user's own; None where the ranker goes by no such."""
        own = self._require_data().statistics.own_vectors
        return None if own is None else sum(item not in own.vectors.row_of for item in item_ids)

    @property
    def item_columns(self) -> ItemColumns:
        """The fitted domain's item table as rules read it."""
        return self._require_data().item_columns

    @property
    def item_ids(self) -> list[ItemId]:
        """The items of the fitted domain's catalogue."""
        return list(self._require_data().items[ITEM])

    @property
    def user_ids(self) -> list[UserId]:
        """The users whose history the fitted domain holds."""
        return list(self._require_data().statistics.histories)

    def _require_data(self) -> DomainData:
        if self._data is None:
            raise DataError("this Reranker knows no domain yet: call fit(data, generator) or load a bundle first")
        return self._data

    def fitted(self) -> tuple[DomainData, FusionModel]:
        """What `fit` learned: items and statistics of the domain, and weights and guard.

        Raises:
            DataError: nothing was fitted.
        """
        data = self._require_data()
        if self.fusion_model is None:
            raise DataError("this Reranker was not fitted: call fit(data, generator) or load a bundle first")
        return data, self.fusion_model
