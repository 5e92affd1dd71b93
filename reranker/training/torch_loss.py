"""Reading episodes with a graph back to the prompt: the likelihood read-out of `reranker.scoring`, differentiable."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from reranker.data.schema import CATEGORY
from reranker.engines.torch.packed_lm import PackedLM
from reranker.engines.torch.packing import PackedRow, batches, pack
from reranker.prompting import ItemVectors, PromptRenderer
from reranker.prompting.text import field_text
from reranker.soft_tokens import ItemTokens
from reranker.training.item_projection import ItemProjection, stand_ins
from reranker.training.objectives import Objective
from reranker.training.tasks import Episode, Item
from reranker.types import ItemId, ScoringRequest, TokenSequence

PROMPT = "prompt"
Values = Mapping[str, torch.Tensor]
"""Parameter name -> value; "prompt" is the (k, dim) soft prompt."""

Shifts = Mapping[str, torch.Tensor]
"""Domain -> (k, dim) what its prompt is, less the one that is learned; nothing for a domain that reads that one."""

UserTokens = Callable[[Sequence[int]], torch.Tensor]
"""Numbers of episodes -> (len, k_user, dim) soft tokens of their users, a graph of its own at every call."""

_ROW_NODES = 1024  # candidate tokens a row


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

    Utility of a candidate = evidence + coefficients · the components of `LikelihoodScoring`: the prompt is trained as
    it is served, and learns what the evidence lacks.

    Args:
        lm: the frozen model.
        renderers: domain -> how its prompts are written.
        objective: of the utilities.
        coefficients: (3,) of sum, mean and gain; may be set anew at any time.
        title_weight: weight of −mean log p of the chosen titles' tokens after the history.
        category_weight: weight of −mean log p of the chosen titles' tokens behind their categories alone.
        evidence: whether the evidence stands in the utility.
        max_tokens: of the rows read together.
        item_tokens: domain -> what gives its items tokens; their projectors are among the values that are read under.
        shifts: of the domains' prompts.
    """

    def __init__(
        self,
        lm: PackedLM,
        renderers: Mapping[str, PromptRenderer],
        objective: Objective,
        coefficients: Sequence[float],
        *,
        title_weight: float = 0.0,
        category_weight: float = 0.0,
        evidence: bool = True,
        max_tokens: int = 2048,
        item_tokens: Mapping[str, ItemTokens] | None = None,
        shifts: Shifts | None = None,
    ) -> None:
        self.coefficients = list(coefficients)
        self.shifts = shifts or {}
        self.title_weight = title_weight
        self.category_weight = category_weight
        self._lm = lm
        self._renderers = renderers
        self.objective = objective
        self._evidence = evidence
        self._max_tokens = max_tokens
        self._item_tokens = item_tokens or {}

    def parts(
        self, values: Values, episodes: Sequence[Episode], user_tokens: UserTokens | None = None, k_user: int = 0
    ) -> Iterator[Part]:
        """Reads episodes of one domain and like length together; each part is a graph of its own.

        Args:
            values: the soft prompt, and the projectors of item tokens.
            episodes: what to read.
            user_tokens: soft tokens of the episodes' users, or None.
            k_user: how many a user has.
        """
        prompt = values[PROMPT]
        placeholder = stand_in(*prompt.shape)
        own = None if user_tokens is None else stand_in(k_user, prompt.shape[1])
        requests = [
            self._renderers[one.domain]
            .likelihood(
                one.history,
                one.candidates,
                soft_prompt=placeholder,
                user_tokens=own,
                history_vectors=self._before(one.domain, one.history_ids),
                candidate_vectors=self._before(one.domain, one.candidate_ids, candidates=True),
            )
            .request
            for one in episodes
        ]
        sizes = [len(request.prefix) + sum(len(one.sequence) for one in request.candidates) for request in requests]
        for numbers in _grouped([one.domain for one in episodes], sizes, self._max_tokens // 2):
            mine = [episodes[number] for number in numbers]
            tokens = None if user_tokens is None else user_tokens(numbers)
            yield self._part(values, placeholder, mine, [requests[number] for number in numbers], tokens)

    def title_loss(self, values: Values, episodes: Sequence[Episode]) -> Iterator[torch.Tensor]:
        """−mean log p of the candidates' title tokens without any history, a list: language modelling of item text.

        With `category_weight`, that much of the same behind their categories is added.
        """
        placeholder = stand_in(*values[PROMPT].shape)
        for one in episodes:
            prompt = prompt_in(one.domain, values, self.shifts)
            request = self._renderers[one.domain].likelihood((), one.candidates, placeholder).request
            loss = mean_losses([[request]], self._sums([request], [prompt], None))[0]
            if self.category_weight:
                loss = loss + self.category_weight * self._category_losses(prompt, one.domain, [one.candidates])[0]
            yield loss

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
        items = ItemProjection(self._item_tokens[domain], values) if domain in self._item_tokens else None
        if items is not None:
            vectors = [
                torch.cat([one, items.at(request.prefix, len(one)).to(prompt)])
                for one, request in zip(vectors, requests, strict=True)
            ]
        # The prior belongs to the item, its own token included, and the domain's prompt: nothing of the user enters.
        before = self._before(domain, list(distinct), candidates=True)
        priors = self._renderers[domain].priors(list(distinct.values()), placeholder, before)
        alone = [one.request for one in priors]
        sums = self._sums([*requests, *alone], [*vectors, *[prompt] * len(alone)], items)
        prior = torch.stack(sums[len(requests) :]).mean(dim=0)
        components = []
        for one, request, total in zip(episodes, requests, sums, strict=False):
            counts = torch.tensor(_counts(request), dtype=total.dtype, device=total.device)
            rows = torch.tensor([row_of[item_id] for item_id in one.candidate_ids], device=total.device)
            components.append(torch.stack([total, total / counts, (total - prior[rows]) / counts], dim=1))
        loss = self._loss(components, episodes)
        if self.category_weight:
            from_category = self._category_losses(prompt, domain, [chosen_items(one) for one in episodes])
            loss = loss + self.category_weight * from_category.sum()
        return Part(loss=loss, components=[one.detach() for one in components], episodes=episodes)

    def _loss(self, components: Sequence[torch.Tensor], episodes: Sequence[Episode]) -> torch.Tensor:
        losses = list_losses(components, episodes, self.coefficients, self.objective, self._evidence)
        return losses.sum() + self.title_weight * title_losses(components, episodes).sum()

    def _category_losses(self, prompt: torch.Tensor, domain: str, lists: Sequence[Sequence[Item]]) -> torch.Tensor:
        renderer, placeholder = self._renderers[domain], stand_in(*prompt.shape)
        requests = [behind_category(renderer, items, placeholder) for items in lists]
        every = [request for each in requests for request in each]
        return mean_losses(requests, self._sums(every, [prompt] * len(every), None) if every else [])

    def _before(self, domain: str, item_ids: Sequence[ItemId], *, candidates: bool = False) -> ItemVectors | None:
        """What stands in for the tokens of items."""
        tokens = self._item_tokens.get(domain)
        if tokens is None or (candidates and not tokens.candidates):
            return None
        return stand_ins(tokens, item_ids)

    def _sums(
        self, requests: Sequence[ScoringRequest], vectors: Sequence[torch.Tensor], items: ItemProjection | None
    ) -> list[torch.Tensor]:
        """Per request: (n_candidates,) Σ log p of the scored tokens.

        Args:
            requests: what is read.
            vectors: per request, what stands at the prefix's soft positions.
            items: gives what stands at those of the candidates.
        """
        rows: list[PackedRow] = [
            row for number, request in enumerate(requests) for row in pack(request, number, _ROW_NODES, labels=False)
        ]
        soft = [vectors[row.request] for row in rows]
        if items is not None:
            soft = [torch.cat([one, items.at(row.nodes).to(one)]) for one, row in zip(soft, rows, strict=True)]
        values = self._lm.differentiable_log_probs(rows, soft)
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
    objective: Objective,
    evidence: bool,
) -> torch.Tensor:
    """(lists,) the objective of lists whose components, (n_candidates, 3) each, were read."""
    weights = components[0].new_tensor(coefficients)
    longest = max(map(len, components))
    chosen = torch.zeros((len(components), longest), dtype=torch.bool, device=weights.device)
    present = torch.zeros_like(chosen)
    padded: list[torch.Tensor] = []
    for row, (one, episode) in enumerate(zip(components, episodes, strict=True)):
        utility = one @ weights
        if evidence:
            utility = utility + torch.from_numpy(episode.evidence).to(utility)
        padded.append(functional.pad(utility, (0, longest - len(one))))
        chosen[row, : len(one)] = torch.from_numpy(episode.chosen).to(chosen.device)
        present[row, : len(one)] = True
    return objective(torch.stack(padded), chosen, present)


def title_losses(components: Sequence[torch.Tensor], episodes: Sequence[Episode]) -> torch.Tensor:
    """(lists,) −mean log p of the chosen titles' tokens after the history: next-title language modelling."""
    picked = [torch.from_numpy(one.chosen).to(read.device) for read, one in zip(components, episodes, strict=True)]
    return torch.stack([-read[rows, 1].mean() for read, rows in zip(components, picked, strict=True)])


def chosen_items(episode: Episode) -> list[Item]:
    """What the user chose from the list."""
    return [item for item, chosen in zip(episode.candidates, episode.chosen, strict=True) if chosen]


def behind_category(
    renderer: PromptRenderer, items: Sequence[Item], soft_prompt: TokenSequence
) -> list[ScoringRequest]:
    """A request for each category: its items' titles, without history, behind the category as what is asked for."""
    groups: dict[str, list[Item]] = {}
    for one in items:
        if category := field_text(one.get(CATEGORY)).strip():
            groups.setdefault(category, []).append(one)
    return [
        renderer.likelihood((), titles, soft_prompt=soft_prompt, query=category).request
        for category, titles in groups.items()
    ]


def mean_losses(requests: Sequence[Sequence[ScoringRequest]], sums: Sequence[torch.Tensor]) -> torch.Tensor:
    """(lists,) −mean log p of the scored tokens of each list's requests, whose sums are given in order; 0 for none."""
    left = iter(sums)
    losses: list[torch.Tensor] = []
    for each in requests:
        count = sum(count for request in each for count in _counts(request))
        losses.append(-torch.cat([next(left) for _ in each]).sum() / count if each else torch.zeros(()))
    return torch.stack([one.to(losses[0].device) for one in losses]) if losses else torch.zeros(0)


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
