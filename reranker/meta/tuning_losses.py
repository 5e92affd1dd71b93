"""What a base model can be adapted to: titles that follow a history, or texts that the same people choose."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from reranker.meta.pairs import PairSampler
from reranker.meta.sequences import SequenceSampler, TrainingSequence
from reranker.types import ScoringRequest, TokenSequence

_CPU_BATCH_TOKENS = 1024  # activations stay near the cache
_CUDA_BATCH_TOKENS = 32768


class TunedLM:
    """The parts of a transformers causal LM; adapters that are put into it later take part.

    Attributes:
        batch_tokens: tokens that are read at once, with padding.
    """

    def __init__(self, lm: Any) -> None:
        self.device: torch.device = lm.device
        self.batch_tokens = _CPU_BATCH_TOKENS if self.device.type == "cpu" else _CUDA_BATCH_TOKENS
        self._trunk, self._head, self._embeddings = lm.base_model, lm.get_output_embeddings(), lm.get_input_embeddings()

    def states(self, sequences: Sequence[TokenSequence]) -> torch.Tensor:
        """(n, longest, dim) last hidden states; those of padding, which stands at the end, mean nothing."""
        ids = np.zeros((len(sequences), max(map(len, sequences))), dtype=np.int64)
        for row, one in enumerate(sequences):
            ids[row, : len(one)] = one.token_ids
        inputs = self._embeddings(torch.from_numpy(ids).to(self.device)).clone()
        for row, one in enumerate(sequences):
            if not one.is_plain:
                inputs[row, torch.from_numpy(one.vector_positions)] = torch.from_numpy(one.vectors).to(inputs)
        # Causal attention hides what stands at the end.
        states: torch.Tensor = self._trunk(inputs_embeds=inputs, use_cache=False).last_hidden_state
        return states

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """(..., vocabulary) of states, in float32."""
        logits: torch.Tensor = self._head(states).float()
        return logits


class NextTitles:
    """Language modelling of histories.

    Args:
        sampler: where the text comes from.
        tokens_per_step: tokens a step, about.
    """

    def __init__(self, sampler: SequenceSampler, tokens_per_step: int) -> None:
        self._sampler = sampler
        self._tokens = tokens_per_step

    def accumulate(self, lm: TunedLM, step: int) -> tuple[float, int]:
        """Mean −log p a scored token."""
        batch = self._sampler.batch(step, self._tokens)
        scored = sum(len(one) - one.scored_from for one in batch)
        total = 0.0
        for part in _parts(list(map(len, batch)), lm.batch_tokens):
            loss = self._loss(lm, [batch[row] for row in part]) / scored
            torch.autograd.backward(loss)
            total += loss.item()
        return total, sum(map(len, batch))

    def _loss(self, lm: TunedLM, part: Sequence[TrainingSequence]) -> torch.Tensor:
        states = lm.states([one.tokens for one in part])
        wanted = np.zeros(states.shape[:2], dtype=np.bool_)
        for row, one in enumerate(part):
            wanted[row, one.scored_from : len(one)] = True
        targets = np.concatenate([one.tokens.token_ids[one.scored_from :] for one in part]).astype(np.int64)
        logits = lm.logits(states[:, :-1][torch.from_numpy(wanted[:, 1:]).to(lm.device)])
        return functional.cross_entropy(logits, torch.from_numpy(targets).to(lm.device), reduction="sum")


class SharedChoices:
    """Hidden states of texts that the same user chose are drawn together (InfoNCE, both ways).

    A text's state is the one that the embedding read-out compares. Texts are read twice, a part at a time: for the loss
    of all, then for the gradients that it has at their states (GradCache, Gao et al. 2021), so that memory does not
    grow with the step.

    Args:
        sampler: where the pairs come from.
        softness: temperature of the cosines.
    """

    def __init__(self, sampler: PairSampler, softness: float) -> None:
        self._sampler = sampler
        self._softness = softness

    def accumulate(self, lm: TunedLM, step: int) -> tuple[float, int]:
        """Mean −log p of a pair's second text among those of the batch, and of the first."""
        batch = self._sampler.batch(step)
        texts = Texts(batch.request)
        with torch.no_grad():
            states = texts.states(lm)
        states.requires_grad_()
        loss = contrast(states, batch.left, batch.right, self._softness)
        (gradients,) = torch.autograd.grad(loss, states)
        for rows, part in texts.parts(lm):
            torch.autograd.backward(part, gradients[rows])
        return loss.item(), texts.tokens


class Texts:
    """Candidates behind their prefix, as a model that is trained reads them.

    Args:
        request: of the embedding read-out.
    """

    def __init__(self, request: ScoringRequest) -> None:
        self._sequences = [TokenSequence.concatenate([request.prefix, one.sequence]) for one in request.candidates]
        # The states are those that the scored tokens follow.
        self._firsts = [len(request.prefix) + one.scored_from - 1 for one in request.candidates]
        self.tokens = sum(map(len, self._sequences))

    def states(self, lm: TunedLM) -> torch.Tensor:
        """(n_texts, dim) mean states in float32, as `ReadsStates.span_states` has them."""
        rows, parts = zip(*self.parts(lm), strict=True)
        return torch.cat(parts)[np.argsort(np.concatenate(rows))]

    def parts(self, lm: TunedLM) -> Iterator[tuple[list[int], torch.Tensor]]:
        """(rows, their states), as many as the model reads at once."""
        for rows in _parts(list(map(len, self._sequences)), lm.batch_tokens):
            read = lm.states([self._sequences[row] for row in rows])
            means = [
                states[self._firsts[row] : len(self._sequences[row]) - 1].float().mean(dim=0)
                for row, states in zip(rows, read, strict=True)
            ]
            yield rows, torch.stack(means)


def contrast(states: torch.Tensor, left: NDArray[np.int64], right: NDArray[np.int64], softness: float) -> torch.Tensor:
    """Mean InfoNCE of pairs over cosines around the batch's mean, both ways, in nats.

    Args:
        states: (n_texts, dim).
        left: (n_pairs,) rows of the first of each pair.
        right: (n_pairs,) rows of the second. A text does not count against a pair that it stands in.
        softness: temperature of the cosines.
    """
    vectors = functional.normalize(states - states.mean(dim=0), dim=1)
    first, second = (torch.from_numpy(rows).to(states.device) for rows in (left, right))
    logits = vectors[first] @ vectors[second].T / softness
    pairs = torch.arange(len(first), device=states.device)
    return (
        functional.cross_entropy(_without_own(logits, first, second), pairs)
        + functional.cross_entropy(_without_own(logits.T, second, first), pairs)
    ) / 2


def _without_own(logits: torch.Tensor, asked: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    own = (answers == asked[:, None]) | (answers == answers[:, None])
    own.fill_diagonal_(False)
    return logits.masked_fill(own, -torch.inf)


def _parts(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Rows of like length together, at most `tokens` with padding; a longer one goes alone."""
    part: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if part and (len(part) + 1) * lengths[part[0]] > tokens:
            yield part
            part = []
        part.append(row)
    if part:
        yield part
