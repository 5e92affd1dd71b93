"""The likelihood scorer: how much more likely this user's history makes a candidate's title."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from reranker.engines.slices import in_slices
from reranker.prompting import PromptRenderer
from reranker.protocols import Engine
from reranker.scoring.base import ListScores, Scorer, ScoringList
from reranker.scoring.calibration import PriorStore
from reranker.types import ScoringRequest, TokenSequence

LIKELIHOOD_COMPONENTS = {
    "llm_sum": "log-likelihood of the title given the history",
    "llm_mean": "log-likelihood of the title given the history, a token",
    "llm_gain": "how much likelier than for anybody the history makes the title, a token (log)",
}


class LikelihoodScorer(Scorer):
    """s = a·Σ log p(title | history) + b·mean log p(title | history) + c·(Σ log p(title | history) − prior) / tokens.

    The prior is how likely the title is for anybody: the mean of Σ log p(title | r) over the renderer's calibration
    histories r, or log p(title | no history) where there are none. It keeps long and unusual titles from losing, and
    famous ones from winning, whatever the history says. Calibration histories tell more: at the beginning of a list a
    model expects other titles than in its middle, and that is no news of the user. The default (a, b, c) = (0, .5, 1)
    is a start for a model that nothing was learned for; `Reranker.fit` learns them.

    Args:
        engine: reads titles.
        renderer: of the domain's prompts.
        priors: kept likelihoods behind the calibration histories.
    """

    name = "likelihood"

    def __init__(self, engine: Engine, renderer: PromptRenderer, priors: PriorStore | None = None) -> None:
        self.components = dict(LIKELIHOOD_COMPONENTS)
        self.default_coefficients = np.array([0.0, 0.5, 1.0])
        self.priors = PriorStore() if priors is None else priors
        self._engine = engine
        self._renderer = renderer

    def read(self, lists: Sequence[ScoringList]) -> list[ListScores]:
        """Per list: (n_candidates, 3) sum, mean and gain, in nats."""
        requests = [
            self._renderer.likelihood(
                one.history,
                one.candidates,
                soft_prompt=one.soft_prompt,
                user_tokens=one.user_tokens,
                query=one.query,
            ).request
            for one in lists
        ]
        priors = self._look_up_priors(lists, requests)
        scores = in_slices(self._engine.span_log_likelihoods, requests)
        return [
            ListScores(
                components=np.stack([spans.sums, spans.means, (spans.sums - prior) / spans.counts], axis=1),
                prompt_tokens=request.tokens,
            )
            for spans, prior, request in zip(scores, priors, requests, strict=True)
        ]

    def _look_up_priors(
        self, lists: Sequence[ScoringList], requests: Sequence[ScoringRequest]
    ) -> list[NDArray[np.float64]]:
        """Per list: (n_candidates,). A prior belongs to the item and the domain's prompt: nothing of the user
        enters."""
        longest: dict[int, tuple[int, ScoringList, int]] = {}  # histories are cut to leave room for it
        for one, request in zip(lists, requests, strict=True):
            sizes = [len(span.sequence) for span in request.candidates]
            size, number = max(zip(sizes, range(len(sizes)), strict=True), default=(0, 0))
            if id(one.soft_prompt) not in longest or size > longest[id(one.soft_prompt)][0]:
                longest[id(one.soft_prompt)] = size, one, number
        prefixes: dict[int, list[TokenSequence]] = {}
        for prompt, (_, one, number) in longest.items():
            behind = self._renderer.priors(one.candidates[number : number + 1], one.soft_prompt)
            prefixes[prompt] = [rendered.request.prefix for rendered in behind]
        asked = [
            [(prefix, request.candidates) for prefix in prefixes[id(one.soft_prompt)]]
            for one, request in zip(lists, requests, strict=True)
        ]
        found = iter(self.priors.look_up(self._engine, list(chain.from_iterable(asked))))
        return [np.mean([next(found) for _ in each], axis=0) for each in asked]
