"""Which tokens of a prompt make a title likely: integrated gradients of its log-likelihood, by captum.

Sundararajan, Taly & Yan (2017), "Axiomatic Attribution for Deep Networks". The path goes from a baseline, in which each
attributed token is the mean of the embedding table, to the prompt. Attributed are the words of the history and of the
query; line breaks and marks stay, so that the baseline is a list, too, of items that say nothing. The effects of all
tokens add up to the difference in log-likelihood, but for what a sum of finitely many steps leaves.
"""

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reranker.errors import ConfigError
from reranker.prompting import RenderedPrompt
from reranker.types import ScoringRequest, TokenSequence

if TYPE_CHECKING:
    import torch

    from reranker.engines.torch.packed_lm import PackedLM

STEPS, MOST_STEPS = 32, 256
"""Points of the path at which gradients are taken (Gauss-Legendre): twice as many until the effects add up."""

TOLERANCE = 0.05
"""Share of the difference that may be left over."""

_READ_TOGETHER = 4  # points of the path a pass: memory
_OF_THE_USER = ("history", "query")
_NO_WORD = frozenset(string.punctuation + string.whitespace)


@dataclass(frozen=True, kw_only=True)
class TokenEffect:
    """What one token of the prompt does to a title's log-likelihood.

    Attributes:
        text: of the token.
        position: in the prompt.
        effect: nats.
    """

    text: str
    position: int
    effect: float


@dataclass(frozen=True, kw_only=True)
class TokenAttribution:
    """A title's log-likelihood, divided among the words of the history and the query, token by token.

    Attributes:
        log_likelihood: of the title behind the prompt, nats.
        baseline: the same where every attributed token says nothing.
        tokens: in the order of the prompt.
    """

    log_likelihood: float
    baseline: float
    tokens: tuple[TokenEffect, ...]

    @property
    def gap(self) -> float:
        """What the effects leave of the difference, nats: at most `TOLERANCE` of it, or `MOST_STEPS` were too few, or
        the arithmetic (bfloat16) too coarse."""
        return self.log_likelihood - self.baseline - sum(one.effect for one in self.tokens)

    def strongest(self, n: int) -> list[TokenEffect]:
        """The tokens with the largest effects either way, largest first."""
        return sorted(self.tokens, key=lambda one: -abs(one.effect))[:n]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "log_likelihood": self.log_likelihood,
            "baseline": self.baseline,
            "gap": self.gap,
            "tokens": [{"text": one.text, "position": one.position, "effect": one.effect} for one in self.tokens],
        }


def require_captum() -> None:
    """Raises ConfigError where captum is not installed."""
    try:
        import captum.attr  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"attributions to tokens need captum ({error}): pip install 'reranker[explain]'") from error


def attribute_tokens(
    lm: "PackedLM",
    prompt: RenderedPrompt,
    number: int,
    decode: Callable[[list[int]], str],
    steps: int = STEPS,
    most_steps: int = MOST_STEPS,
) -> TokenAttribution:
    """Divides the log-likelihood of one candidate's title among the words of the user's history and query.

    Args:
        lm: the model that scores.
        prompt: of the likelihood scorer.
        number: of the candidate in the prompt.
        decode: token ids -> text.
        steps: points of the path.
        most_steps: that are tried where fewer leave too much over.

    Raises:
        ConfigError: captum is not installed.
    """
    require_captum()
    import torch
    from captum.attr import IntegratedGradients

    prefix, candidate = prompt.request.prefix, prompt.request.candidates[number]
    asked = [at for span in prompt.spans if span.kind in _OF_THE_USER for at in range(span.start, span.end)]
    texts = {at: decode([int(prefix.token_ids[at])]) for at in asked}
    words = [at for at, text in texts.items() if not _NO_WORD.issuperset(text)]
    positions = np.setdiff1d(np.array(words, dtype=np.int64), prefix.vector_positions)
    shown = lm.embed(prefix.token_ids[positions].tolist()).detach().float()
    with_vectors, mine = _with_vectors(prefix, positions, shown.cpu().numpy())
    request = ScoringRequest(prefix=with_vectors, candidates=(candidate,))
    others = torch.from_numpy(with_vectors.vectors).to(shown)

    def log_likelihood(paths: "torch.Tensor") -> "torch.Tensor":
        """(n,) of (n, n_positions, dim) embeddings of the attributed tokens."""
        read = [others.index_copy(0, torch.from_numpy(mine).to(paths.device), one) for one in paths]
        return torch.stack([values.sum() for values in lm.differentiable_log_probs(_rows(request, len(read)), read)])

    if not len(positions):
        alone = float(log_likelihood(shown[None]).detach()) if len(others) else _plain(lm, request)
        return TokenAttribution(log_likelihood=alone, baseline=alone, tokens=())
    nothing = lm.mean_embedding().float().expand_as(shown)
    with torch.no_grad():
        full, baseline = log_likelihood(torch.stack([shown, nothing])).double().tolist()
    while True:
        taken: Any = IntegratedGradients(log_likelihood).attribute(
            shown[None], baselines=nothing[None], n_steps=steps, internal_batch_size=min(_READ_TOGETHER, steps)
        )
        effects = taken[0].double().sum(dim=-1).tolist()
        tokens = [
            TokenEffect(text=texts[position], position=position, effect=effect)
            for position, effect in zip(positions.tolist(), effects, strict=True)
        ]
        found = TokenAttribution(log_likelihood=full, baseline=baseline, tokens=tuple(tokens))
        steps *= 2
        if abs(found.gap) <= TOLERANCE * abs(full - baseline) or steps > most_steps:
            return found


def told(attribution: TokenAttribution, n: int) -> str:
    """The strongest effects in a line."""
    strongest = ", ".join(f"{one.effect:+.3f} {one.text!r}" for one in attribution.strongest(n))
    return (
        f"log-likelihood {attribution.log_likelihood:.3f}, {attribution.baseline:.3f} where the history says nothing: "
        f"{strongest or 'no token of a history'} (left over {attribution.gap:+.3f})"
    )


def _rows(request: ScoringRequest, n: int) -> Sequence[Any]:
    """The request's one row, n times."""
    from reranker.engines.torch.packing import pack

    (row,) = pack(request, 0, request.longest, labels=False)
    return [row] * n


def _plain(lm: "PackedLM", request: ScoringRequest) -> float:
    return float(lm.log_probs(_rows(request, 1), None)[0].sum())


def _with_vectors(
    sequence: TokenSequence, positions: np.ndarray, embeddings: np.ndarray
) -> tuple[TokenSequence, np.ndarray]:
    """The same sequence with vectors at these positions, too; and which of its vectors stand there."""
    every = np.union1d(sequence.vector_positions, positions)
    vectors = np.zeros((len(every), embeddings.shape[-1]), dtype=np.float32)
    mine = np.searchsorted(every, positions)
    vectors[mine] = embeddings
    if not sequence.is_plain:
        vectors[np.searchsorted(every, sequence.vector_positions)] = sequence.vectors
    if not len(every):
        return sequence, mine
    return TokenSequence(token_ids=sequence.token_ids, vectors=vectors, vector_positions=every), mine
