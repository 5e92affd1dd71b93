"""Label scorer: log-probabilities of a few label words after each candidate. Cheap on big instruction-tuned LMs."""

from collections.abc import Sequence

import numpy as np

from reranker.engines.slices import in_slices
from reranker.prompting import PromptRenderer
from reranker.protocols import Engine
from reranker.scoring.base import ListScores, Scorer, ScoringList


class LabelScorer(Scorer):
    """Log-probabilities of the verbaliser's labels; by default the first (positive) minus the mean of the others."""

    name = "labels"

    def __init__(self, engine: Engine, renderer: PromptRenderer) -> None:
        self._engine = engine
        self._renderer = renderer
        self._label_token_ids = renderer.label_token_ids()
        words = [engine.tokenizer.decode([token_id]).strip() for token_id in self._label_token_ids]
        self.components = {f"llm_label_{word}": f'log-probability that the answer is "{word}"' for word in words}
        self.default_coefficients = np.full(len(words), -1.0 / max(1, len(words) - 1))
        self.default_coefficients[0] = 1.0

    def read(self, lists: Sequence[ScoringList]) -> list[ListScores]:
        """Per list: (n_candidates, n_labels) log-probabilities in nats."""
        requests = [
            self._renderer.labels(
                one.history,
                one.candidates,
                soft_prompt=one.soft_prompt,
                user_tokens=one.user_tokens,
                query=one.query,
            ).request
            for one in lists
        ]
        scores = in_slices(lambda part: self._engine.label_log_probs(part, self._label_token_ids), requests)
        return [
            ListScores(components=log_probs, prompt_tokens=request.tokens)
            for log_probs, request in zip(scores, requests, strict=True)
        ]
