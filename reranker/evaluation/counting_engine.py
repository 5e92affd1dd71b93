"""An engine around an engine, which counts what is read."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from reranker.errors import ConfigError
from reranker.protocols import Engine, ReadsStates, StopsAtLayer, n_layers
from reranker.types import ModelInfo, ScoringRequest, SpanScores


class WrappedEngine:
    """Does what the engine inside does."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.name = engine.name
        self.model: ModelInfo = engine.model
        self.tokenizer = engine.tokenizer
        self.arithmetic = getattr(engine, "arithmetic", "")

    def embed_tokens(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        return self.engine.embed_tokens(token_ids)

    def span_log_likelihoods(self, requests: Sequence[ScoringRequest]) -> list[SpanScores]:
        return self.engine.span_log_likelihoods(requests)

    def label_log_probs(
        self, requests: Sequence[ScoringRequest], label_token_ids: Sequence[int]
    ) -> list[NDArray[np.float64]]:
        return self.engine.label_log_probs(requests, label_token_ids)

    @property
    def n_layers(self) -> int:
        """Layers after which the engine can stop."""
        return n_layers(self.engine)

    def span_states(self, requests: Sequence[ScoringRequest], layer: int | None = None) -> list[NDArray[np.float32]]:
        """The engine's own, where it shows its states; `ConfigError` otherwise."""
        if not isinstance(self.engine, ReadsStates):
            raise ConfigError(f"the engine {self.name!r} gives no hidden states")
        if layer is None:
            return self.engine.span_states(requests)
        return cast(StopsAtLayer, self.engine).span_states(requests, layer)

    @property
    def packed_lm(self) -> object:
        """The torch engine's model, where that is the engine."""
        return getattr(self.engine, "packed_lm", None)

    def close(self) -> None:
        self.engine.close()


class CountingEngine(WrappedEngine):
    """Counts the prompt tokens it is given; a prefix counts once a request."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.tokens = 0

    def span_log_likelihoods(self, requests: Sequence[ScoringRequest]) -> list[SpanScores]:
        self._count(requests)
        return super().span_log_likelihoods(requests)

    def label_log_probs(
        self, requests: Sequence[ScoringRequest], label_token_ids: Sequence[int]
    ) -> list[NDArray[np.float64]]:
        self._count(requests)
        return super().label_log_probs(requests, label_token_ids)

    def span_states(self, requests: Sequence[ScoringRequest], layer: int | None = None) -> list[NDArray[np.float32]]:
        states = super().span_states(requests, layer)
        self._count(requests)
        return states

    def _count(self, requests: Sequence[ScoringRequest]) -> None:
        for request in requests:
            self.tokens += request.tokens
