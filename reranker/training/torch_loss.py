"""Reading episodes with a graph back to the prompt: the likelihood scorer of `reranker.scoring`, differentiable."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from reranker.engines.torch.packed_lm import PackedLM
from reranker.engines.torch.packing import PackedRow, batches, pack
from reranker.prompting import PromptRenderer
from reranker.training.tasks import Episode
from reranker.types import ScoringRequest, TokenSequence

PROMPT = "prompt"
Values = Mapping[str, torch.Tensor]
"""Parameter name -> value; "prompt" is the (k, dim) soft prompt."""

Shifts = Mapping[str, torch.Tensor]
"""Domain -> (k, dim) what its prompt is, less the one that is learned; nothing for a domain that reads that one."""

UserTokens = Callable[[Sequence[int]], torch.Tensor]
"""Numbers of episodes -> (len, k_user, dim) soft tokens of their users, a graph of its own at every call."""

_ROW_NODES = 1024  # candidate tokens a row
_ABSENT = -1e9


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Some episodes of a batch, read together.

    Attributes:
        loss: Σ over the part's lists, differentiable.
        components: per list (n_candidates, 3) sum, mean and gain, detached.
        episodes: the lists.
    """

    loss: torch.Tensor
    components: list[torch.Tensor]
    episodes: Sequence[Episode]


class TorchLoss:
    """The loss of episodes under a prompt.

    Utility of a candidate = baseline + coefficients · the components of `LikelihoodScorer`: the prompt is trained as
    it is served, and learns what the baseline lacks.

    Args:
        lm: the frozen model.
        renderers: domain -> how its prompts are written.
        coefficients: (3,) of sum, mean and gain; may be set anew at any time.
        baseline: whether the baseline's log-odds stand in the utility.
        max_tokens: of the rows read together.
        shifts: of the domains' prompts.
    """

    def __init__(
        self,
        lm: PackedLM,
        renderers: Mapping[str, PromptRenderer],
        coefficients: Sequence[float],
        *,
        baseline: bool = True,
        max_tokens: int = 2048,
        shifts: Shifts | None = None,
    ) -> None:
        self.coefficients = list(coefficients)
        self.shifts = shifts or {}
        self._lm = lm
        self._renderers = renderers
        self._baseline = baseline
        self._max_tokens = max_tokens

    def parts(
        self, values: Values, episodes: Sequence[Episode], user_tokens: UserTokens | None = None, k_user: int = 0
    ) -> Iterator[Part]:
        """Reads episodes of one domain and like length together; each part is a graph of its own.

        Args:
            values: the soft prompt.
            episodes: what to read.
            user_tokens: soft tokens of the episodes' users, or None.
            k_user: how many a user has.
        """
        prompt = values[PROMPT]
        placeholder = stand_in(*prompt.shape)
        own = None if user_tokens is None else stand_in(k_user, prompt.shape[1])
        requests = [
            self._renderers[one.domain]
            .likelihood(one.history, one.candidates, soft_prompt=placeholder, user_tokens=own)
            .request
            for one in episodes
        ]
        sizes = [len(request.prefix) + sum(len(one.sequence) for one in request.candidates) for request in requests]
        for numbers in _grouped([one.domain for one in episodes], sizes, self._max_tokens // 2):
            mine = [episodes[number] for number in numbers]
            tokens = None if user_tokens is None else user_tokens(numbers)
            yield self._part(values, placeholder, mine, [requests[number] for number in numbers], tokens)

    def _part(
        self,
        values: Values,
        placeholder: TokenSequence,
        episodes: Sequence[Episode],
        requests: Sequence[ScoringRequest],
        user_tokens: torch.Tensor | None,
    ) -> Part:
        domain = episodes[0].domain
        prompt = prompt_in(domain, values, self.shifts)
        distinct = {
            item_id: item for one in episodes for item_id, item in zip(one.candidate_ids, one.candidates, strict=True)
        }
        row_of = {item_id: row for row, item_id in enumerate(distinct)}
        vectors = [prompt] * len(requests)
        if user_tokens is not None:
            vectors = [torch.cat([prompt, own.to(prompt)]) for own in user_tokens]
        # The prior belongs to the item and the domain's prompt: nothing of the user enters.
        alone = [one.request for one in self._renderers[domain].priors(list(distinct.values()), placeholder)]
        sums = self._sums([*requests, *alone], [*vectors, *[prompt] * len(alone)])
        prior = torch.stack(sums[len(requests) :]).mean(dim=0)
        components = []
        for one, request, total in zip(episodes, requests, sums, strict=False):
            counts = torch.tensor(_counts(request), dtype=total.dtype, device=total.device)
            rows = torch.tensor([row_of[item_id] for item_id in one.candidate_ids], device=total.device)
            components.append(torch.stack([total, total / counts, (total - prior[rows]) / counts], dim=1))
        loss = list_losses(components, episodes, self.coefficients, self._baseline).sum()
        return Part(loss=loss, components=[one.detach() for one in components], episodes=episodes)

    def _sums(self, requests: Sequence[ScoringRequest], vectors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Per request: (n_candidates,) Σ log p of the scored tokens.

        Args:
            requests: what is read.
            vectors: per request, what stands at the prefix's soft positions.
        """
        rows: list[PackedRow] = [
            row for number, request in enumerate(requests) for row in pack(request, number, _ROW_NODES, labels=False)
        ]
        values = self._lm.differentiable_log_probs(rows, [vectors[row.request] for row in rows])
        sums: list[torch.Tensor | None] = [None] * len(requests)
        for row, log_probs in zip(rows, values, strict=True):
            index = torch.from_numpy(row.pair_candidates).to(log_probs.device)
            empty = log_probs.new_zeros(len(requests[row.request].candidates))
            added = empty.index_add(0, index, log_probs)
            before = sums[row.request]
            sums[row.request] = added if before is None else before + added
        return [one for one in sums if one is not None]


def prompt_in(domain: str, values: Values, shifts: Shifts) -> torch.Tensor:
    """(k, dim) the prompt that lists of a domain are read behind."""
    return values[PROMPT] + shifts[domain] if domain in shifts else values[PROMPT]


def list_losses(
    components: Sequence[torch.Tensor],
    episodes: Sequence[Episode],
    coefficients: Sequence[float],
    baseline: bool,
) -> torch.Tensor:
    """(lists,) `conditional_logit` of lists whose components, (n_candidates, 3) each, were read."""
    weights = components[0].new_tensor(coefficients)
    longest = max(map(len, components))
    chosen = torch.zeros((len(components), longest), dtype=torch.bool, device=weights.device)
    present = torch.zeros_like(chosen)
    padded: list[torch.Tensor] = []
    for row, (one, episode) in enumerate(zip(components, episodes, strict=True)):
        utility = one @ weights
        if baseline:
            utility = utility + torch.from_numpy(episode.baseline).to(utility)
        padded.append(functional.pad(utility, (0, longest - len(one))))
        chosen[row, : len(one)] = torch.from_numpy(episode.chosen).to(chosen.device)
        present[row, : len(one)] = True
    return conditional_logit(torch.stack(padded), chosen, present)


def conditional_logit(utilities: torch.Tensor, chosen: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """(lists,) −log P(chosen | list), summed over the choices of a list (McFadden 1974), in nats.

    Args:
        utilities: (lists, candidates), shorter lists padded.
        chosen: (lists, candidates), bool.
        present: (lists, candidates), bool: False where there is padding.
    """
    log_p = utilities.masked_fill(~present, _ABSENT).log_softmax(dim=-1)
    return -(log_p * chosen).sum(dim=-1)


def tokens_at_once(device: torch.device) -> int:
    """Tokens of rows read together: activations stay near a CPU's cache, or fill a GPU."""
    return 2048 if device.type == "cpu" else 32768


def stand_in(k: int, dim: int) -> TokenSequence:
    """k soft positions whose vectors come later."""
    return TokenSequence.from_vectors(np.zeros((k, dim), dtype=np.float32))


def _counts(request: ScoringRequest) -> list[int]:
    return [len(one.sequence) - one.scored_from for one in request.candidates]


def _grouped(domains: Sequence[str], sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Numbers of like domain and size together, at most `most` tokens; a larger one goes alone."""
    for domain in sorted(set(domains)):
        numbers = [number for number, one in enumerate(domains) if one == domain]
        for batch in batches([sizes[number] for number in numbers], most):
            yield [numbers[place] for place in batch]
