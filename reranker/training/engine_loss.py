"""Reading episodes through an engine: what `TorchLoss` computes, without gradients and wherever the model runs."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from reranker.prompting import PromptRenderer
from reranker.protocols import Engine
from reranker.scoring import LikelihoodScoring, ScoringList
from reranker.training.objectives import Objective
from reranker.training.tasks import Episode
from reranker.training.torch_loss import (
    Part,
    Shifts,
    Values,
    behind_category,
    chosen_items,
    list_losses,
    mean_losses,
    prompt_in,
    title_losses,
)
from reranker.types import TokenSequence


class EngineLoss:
    """The loss of episodes under a prompt, by the read-out that serves.

    Args:
        engine: any that reads soft prompts.
        renderers: domain -> how its prompts are written.
        objective: of the utilities.
        coefficients: (3,) of sum, mean and gain; may be set anew at any time.
        title_weight, category_weight: as there.
        evidence: whether the evidence stands in the utility.
        shifts: of the domains' prompts.
    """

    def __init__(
        self,
        engine: Engine,
        renderers: Mapping[str, PromptRenderer],
        objective: Objective,
        coefficients: Sequence[float],
        *,
        title_weight: float = 0.0,
        category_weight: float = 0.0,
        evidence: bool = True,
        shifts: Shifts | None = None,
    ) -> None:
        self.coefficients = list(coefficients)
        self.title_weight = title_weight
        self.category_weight = category_weight
        self._engine, self._renderers, self._shifts = engine, renderers, shifts or {}
        self.objective, self._evidence = objective, evidence

    def parts(self, values: Values, episodes: Sequence[Episode]) -> Iterator[Part]:
        """As `TorchLoss.parts`, one part a domain, without a graph.

        Raises:
            EngineError: the engine takes no vectors, or a prompt does not fit.
        """
        for domain in dict.fromkeys(one.domain for one in episodes):
            vectors = prompt_in(domain, values, self._shifts).detach().float().cpu().numpy()
            soft = TokenSequence.from_vectors(np.ascontiguousarray(vectors))
            mine = [one for one in episodes if one.domain == domain]
            lists = [ScoringList(history=one.history, candidates=one.candidates, soft_prompt=soft) for one in mine]
            # No store of priors: those of a prompt that is tried once are of no use later.
            scored = LikelihoodScoring(self._engine, self._renderers[domain]).score_components(lists)
            components = [torch.from_numpy(one) for one in scored]
            losses = list_losses(components, mine, self.coefficients, self.objective, self._evidence)
            loss = losses.sum() + self.title_weight * title_losses(components, mine).sum()
            if self.category_weight:
                loss = loss + self.category_weight * self._category_losses(domain, mine, soft).sum()
            yield Part(loss=loss, components=components, episodes=mine)

    def _category_losses(self, domain: str, episodes: Sequence[Episode], soft: TokenSequence) -> torch.Tensor:
        requests = [behind_category(self._renderers[domain], chosen_items(one), soft) for one in episodes]
        scored = self._engine.span_log_likelihoods([request for each in requests for request in each])
        return mean_losses(requests, [torch.from_numpy(one.sums) for one in scored])
