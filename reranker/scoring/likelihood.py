"""The likelihood read-out: how much more likely this user's history makes a candidate's title."""

from collections.abc import Sequence

import numpy as np

from reranker.prompting import PromptRenderer
from reranker.protocols import Engine
from reranker.scoring.priors import PriorStore
from reranker.scoring.protocol import ListReading, Scoring, ScoringList


class LikelihoodScoring(Scoring):
    """s = a·Σ log p(title | history) + b·mean log p(title | history) − c·log p(title | no history), in nats.

    The prior keeps long and unusual titles from losing, and famous ones from winning, whatever the history says. The
    default (a, b, c) = (.15, .5, .15) is a start for a model that nothing was learned for; `Reranker.fit` learns them.
    """

    name = "likelihood"

    def __init__(self, engine: Engine, renderer: PromptRenderer, priors: PriorStore | None = None) -> None:
        self.components = {
            "llm_sum": "log-likelihood of the title given the history",
            "llm_mean": "log-likelihood of the title given the history, a token",
            "llm_prior": "log-likelihood of the title without any history",
        }
        self.default_coefficients = np.array([0.15, 0.5, -0.15])
        self.priors = PriorStore() if priors is None else priors
        self._engine = engine
        self._renderer = renderer

    def read(self, lists: Sequence[ScoringList]) -> list[ListReading]:
        """Per list: (n_candidates, 3) sum, mean and prior, in nats."""
        requests = [
            self._renderer.likelihood(
                one.history,
                one.candidates,
                soft_prompt=one.soft_prompt,
                user_tokens=one.user_tokens,
                query=one.query,
                history_vectors=one.history_vectors,
                candidate_vectors=one.candidate_vectors,
            ).request
            for one in lists
        ]
        # The prior belongs to the item, its own token included, and the domain's prompt: nothing of the user enters.
        strangers = [
            self._renderer.prior(one.candidates[:1], soft_prompt=one.soft_prompt).request.prefix for one in lists
        ]
        priors = self.priors.look_up(
            self._engine,
            [(prefix, request.candidates) for prefix, request in zip(strangers, requests, strict=True)],
        )
        scores = self._engine.span_log_likelihoods(requests)
        return [
            ListReading(components=np.stack([spans.sums, spans.means, prior], axis=1), prompt_tokens=request.tokens)
            for spans, prior, request in zip(scores, priors, requests, strict=True)
        ]
