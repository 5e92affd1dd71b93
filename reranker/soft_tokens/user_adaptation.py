"""Adapting contexts to users: gradient steps on the likelihood of what they chose, many users at once.

The support loss is next-title language modelling of the user's own history, read once behind the domain's prompt and
the user's soft tokens. Contexts of a batch are one leaf, so a forward and a backward pass serve all its users.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from reranker.engines.torch.attention import Beginning
from reranker.engines.torch.packed_lm import PackedLM
from reranker.engines.torch.packing import batches, pack, split_prefixes
from reranker.errors import DataError
from reranker.prompting import PromptRenderer
from reranker.soft_tokens.support import DRIFT_NATS, AdaptReport, Support
from reranker.soft_tokens.user_context import SUPPORT_ITEMS, ContextMap, history_features
from reranker.types import ScoringRequest, TokenSequence, UserState

_DRIFT_SCALE, _MAX_SCALE = 1.5, 4.0
_USERS_PER_CALL = 512


class SupportReader:
    """Support losses and their gradients in the contexts.

    Args:
        lm: the frozen model.
        max_tokens: of the rows read together.
    """

    def __init__(self, lm: PackedLM, max_tokens: int = 2048) -> None:
        self._lm = lm
        self._max_tokens = max_tokens

    def gradients(
        self,
        requests: Sequence[ScoringRequest],
        contexts: torch.Tensor,
        prompt: torch.Tensor | None,
        tokens: Callable[[torch.Tensor, Sequence[int]], torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The gradient of each user's support loss in their context.

        Args:
            requests: per user, `PromptRenderer.continuation`.
            contexts: (users, d).
            prompt: (k_domain, dim) in front of the user's tokens, or None.
            tokens: contexts (some, d) and the numbers of their users -> (some, k, dim) soft tokens.

        Returns:
            (users, d) gradients, (users,) losses: −mean log p of a token, in nats.
        """
        behind: Beginning = {}
        common, rest = _common_beginning(requests, 0 if prompt is None else len(prompt))
        if len(common):
            behind, requests, prompt = self._lm.remember(common, prompt), rest, None
        gradient = torch.zeros_like(contexts)
        losses = contexts.new_zeros(len(requests))
        for numbers in batches([one.tokens for one in requests], self._max_tokens):
            with torch.enable_grad():
                leaf = contexts[numbers].detach().requires_grad_()
                loss = self._losses([requests[number] for number in numbers], tokens(leaf, numbers), prompt, behind)
                gradient[numbers] = torch.autograd.grad(loss.sum(), leaf)[0]
            losses[numbers] = loss.detach().to(losses)
        return gradient, losses

    def _losses(
        self, requests: Sequence[ScoringRequest], tokens: torch.Tensor, prompt: torch.Tensor | None, behind: Beginning
    ) -> torch.Tensor:
        rows = [row for number, one in enumerate(requests) for row in pack(one, number, 1, labels=False)]
        vectors = [one if prompt is None else torch.cat([prompt.detach().to(one), one]) for one in tokens]
        return torch.stack([-one.mean() for one in self._lm.differentiable_log_probs(rows, vectors, behind)])


class ContextAdapter:
    """Adapts users' contexts under a trained map.

    Args:
        lm: the frozen model.
        renderer: of the domain.
        prompt: the domain's soft tokens, or None.
        contexts: the trained map.
        steps: gradient steps a user.
        max_tokens: of the rows read together.
    """

    def __init__(
        self,
        lm: PackedLM,
        renderer: PromptRenderer,
        prompt: TokenSequence | None,
        contexts: ContextMap,
        *,
        steps: int = 2,
        max_tokens: int = 2048,
    ) -> None:
        self._lm, self._renderer, self._prompt, self._map, self._steps = lm, renderer, prompt, contexts, steps
        self._reader = SupportReader(lm, max_tokens)

    def adapt(self, users: Sequence[Support], progress: bool = False) -> tuple[list[UserState], AdaptReport]:
        """New states, in the order given.

        A user with an adapted state goes on from it and only `items` are read, so that new interactions cost what they
        are; others start from the text of their history.

        Raises:
            DataError: a state holds a context that was adapted under another map.
            PromptError: an item's prompt does not fit the model.
        """
        begun = time.perf_counter()
        for one in users:
            if len(one.state.vector) and not self._map.reads(one.state):
                raise DataError(
                    f"user {one.state.user_id!r} has a context of {len(one.state.vector)} floats of another map than "
                    f"this one, which reads {self._map.dim}. Give a fresh state and all of the user's items"
                )
        states = [one.state for one in users]
        with_items = [number for number, one in enumerate(users) if one.items]
        sums = np.zeros(2)
        drifted = tokens = 0
        with tqdm(total=len(with_items), unit="user", desc="adapt", disable=not progress) as bar:
            for begin in range(0, len(with_items), _USERS_PER_CALL):
                numbers = with_items[begin : begin + _USERS_PER_CALL]
                adapted = self._adapt([users[number] for number in numbers])
                for number, (state, first, read) in zip(numbers, adapted, strict=True):
                    drifted += _drifted(states[number], first)
                    tokens += read
                    sums += (first, state.support_loss)
                    states[number] = state
                bar.update(len(numbers))
        before, after = (float(one) for one in sums / len(with_items)) if with_items else (float("nan"), float("nan"))
        report = AdaptReport(
            users=len(with_items),
            new_users=len(users) - len(with_items),
            drifted=drifted,
            tokens=tokens,
            loss_before=before,
            loss_after=after,
            seconds=time.perf_counter() - begun,
        )
        return states, report

    def _adapt(self, users: Sequence[Support]) -> list[tuple[UserState, float, int]]:
        """Per user: the new state, the loss before it and the tokens read."""
        placeholder = TokenSequence.from_vectors(self._map.base)
        requests = [
            self._renderer.continuation(one.items, self._prompt, placeholder, SUPPORT_ITEMS).request for one in users
        ]
        values = context_tensors(self._map, self._lm.device)
        support = [one.state.support + len(one.items) for one in users]
        counts = torch.tensor(support, device=self._lm.device)
        vectors = torch.from_numpy(self._starts(users, requests)).to(self._lm.device)
        prompt = None if self._prompt is None else torch.from_numpy(self._prompt.vectors).to(self._lm.device)
        scales = torch.tensor([[one.state.step_scale] for one in users], device=self._lm.device)
        losses: list[torch.Tensor] = []

        def tokens(leaf: torch.Tensor, numbers: Sequence[int]) -> torch.Tensor:
            return user_tokens(values, leaf, counts[list(numbers)])

        for step in range(self._steps):
            gradient, loss = self._reader.gradients(requests, vectors, prompt, tokens)
            losses.append(loss)
            if step == 0:
                rising = [_drifted(one.state, first) for one, first in zip(users, loss.tolist(), strict=True)]
                grown = (scales * _DRIFT_SCALE).clamp(max=_MAX_SCALE)
                settled = 1 + (scales - 1) / _DRIFT_SCALE
                scales = torch.where(torch.tensor(rising, device=scales.device)[:, None], grown, settled)
            vectors = vectors - scales * values["rates"] * unit(gradient)
        moment = time.time()
        results = []
        for number, one in enumerate(users):
            state = replace(
                one.state,
                vector=vectors[number].float().cpu().numpy(),
                support=support[number],
                support_loss=losses[-1][number].item(),
                step_scale=scales[number].item(),
                updated_at=moment,
                context_map=self._map.mark,
            )
            results.append((state, losses[0][number].item(), self._steps * requests[number].tokens))
        return results

    def _starts(self, users: Sequence[Support], requests: Sequence[ScoringRequest]) -> NDArray[np.float32]:
        embeddings = [self._lm.embed(span_tokens(one)).detach().float().cpu().numpy() for one in requests]
        fresh = self._map.start(history_features(embeddings, [len(one.items) for one in users]))
        starts = [one.state.vector if len(one.state.vector) else start for one, start in zip(users, fresh, strict=True)]
        return np.asarray(starts, dtype=np.float32)


def context_tensors(contexts: ContextMap, device: torch.device) -> dict[str, torch.Tensor]:
    """The map's parameters by name."""
    names = ("base", "directions", "amortise", "rates", "log_shrinkage")
    return {name: torch.from_numpy(getattr(contexts, name).copy()).to(device) for name in names}


def user_tokens(values: Mapping[str, torch.Tensor], contexts: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """(users, k, dim) soft tokens of (users, d) contexts: `ContextMap.tokens`, differentiable.

    Args:
        values: parameters of a `ContextMap` by name.
        contexts: (users, d).
        counts: (users,) interactions each was adapted on.
    """
    gate = counts / (counts + values["log_shrinkage"].exp())
    return values["base"] + torch.einsum("ud,dke->uke", gate[:, None] * contexts, values["directions"])


def unit(gradient: torch.Tensor) -> torch.Tensor:
    """(users, d) at unit root mean square for each user; zeros stay."""
    return gradient / gradient.square().mean(dim=-1, keepdim=True).sqrt().clamp_min(1e-12)


def span_tokens(request: ScoringRequest) -> list[int]:
    """Token ids of the history in a `PromptRenderer.continuation`."""
    return [int(token) for token in request.candidates[0].sequence.token_ids]


def _common_beginning(
    requests: Sequence[ScoringRequest], vectors: int
) -> tuple[TokenSequence, Sequence[ScoringRequest]]:
    """What stands before the users' own tokens, where it is the same for all, and the requests without it.

    It does not depend on the contexts: its activations serve every user, and no gradient goes there.

    Args:
        requests: whose first `vectors` vectors are the domain's, and the next the user's.
        vectors: of the domain.
    """
    first = requests[0].prefix
    length = int(first.vector_positions[vectors]) if len(first.vector_positions) > vectors else 0
    beginning = first.token_ids[:length]
    if not length or any(not np.array_equal(one.prefix.token_ids[:length], beginning) for one in requests):
        return TokenSequence.from_tokens([]), requests
    return split_prefixes(requests, length)


def _drifted(state: UserState, loss: float) -> bool:
    return loss > state.support_loss + DRIFT_NATS  # False where nothing was adapted yet: NaN
