"""A real engine without a model: deterministic scores from a plain function.

The fake at the boundary, for tests of everything above the engines and for trying the pipeline without a download.
It follows the whole `Engine` contract, so code that works on it works on the real engines.
"""

from collections.abc import Callable, Generator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from reranker.engines.text_generation import draw, written
from reranker.engines.validation import check_generation, check_labels, check_requests, check_token_ids
from reranker.types import (
    CandidateSpan,
    GenerationPiece,
    GenerationRequest,
    IntArray,
    ModelInfo,
    ScoringRequest,
    SpanScores,
    TokenSequence,
)

LogProb = Callable[[IntArray, IntArray], NDArray[np.float64]]
"""(prefix ids, span ids) -> (len(span),) log p(token | prefix, span so far), in nats."""

BYTES = 256
_REPEATED = 0.9  # probability mass on what followed the same token before; the rest is spread evenly


class ByteTokenizer:
    """One token a UTF-8 byte: no vocabulary file, and every text comes back as it went in. Byte 0 ends an answer."""

    opening_ids: tuple[int, ...] = ()
    end_ids = frozenset({0})
    special_ids = frozenset({0})

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", errors="replace"))

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(token_ids).decode("utf-8", errors="replace")

    def encode_prompt(self, text: str) -> list[int]:
        return self.encode(text)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        lines = [f"{message['role']}: {message['content']}\n" for message in messages]
        return self.encode("".join(lines) + "assistant: ")


class ScriptedEngine:
    """Scores with a function instead of a model.

    Args:
        log_prob: (prefix ids, span ids) -> log p of each span token, in nats. By default a bigram model of the prefix:
            a title whose letter pairs occur in the history scores higher. A vector is read as the token whose
            embedding is nearest, so soft prompts count too. `generate` continues a prompt one token after the other.
        dim: width of the made-up embedding table.
        max_length: context window in tokens.
        model_id: the name in `model`.
    """

    name = "scripted"

    def __init__(
        self,
        log_prob: LogProb | None = None,
        *,
        dim: int = 16,
        max_length: int = 8192,
        model_id: str = "scripted",
    ) -> None:
        self.tokenizer = ByteTokenizer()
        self.model = ModelInfo(model_id=model_id, sha256="", dim=dim, vocab_size=BYTES, max_length=max_length)
        self._log_prob = log_prob
        self._embeddings = np.random.default_rng(0).standard_normal((BYTES, dim)).astype(np.float32)

    def embed_tokens(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        check_token_ids(token_ids, self.model)
        return self._embeddings[np.asarray(token_ids, dtype=np.int64).reshape(-1)]

    def span_log_likelihoods(self, requests: Sequence[ScoringRequest]) -> list[SpanScores]:
        check_requests(requests, self.model, targets_are_scored=True)
        return [self._score(request) for request in requests]

    def label_log_probs(
        self, requests: Sequence[ScoringRequest], label_token_ids: Sequence[int]
    ) -> list[NDArray[np.float64]]:
        check_requests(requests, self.model, targets_are_scored=False)
        check_labels(label_token_ids, self.model)
        return [self._label(request, np.asarray(label_token_ids, dtype=np.int64)) for request in requests]

    def span_states(self, requests: Sequence[ScoringRequest]) -> list[NDArray[np.float32]]:
        """Means of made-up embeddings: texts with the same letters are alike."""
        check_requests(requests, self.model, targets_are_scored=False)
        return [np.stack([self._state(span) for span in request.candidates]) for request in requests]

    def generate(self, request: GenerationRequest) -> Generator[GenerationPiece]:
        check_generation(request, self.model)
        return written(self._tokens(request), request, self.tokenizer)

    def close(self) -> None:
        """Nothing to free."""

    def _tokens(self, request: GenerationRequest) -> Generator[int]:
        rng = np.random.default_rng(request.seed)
        read, every = self._read(request.prompt), np.arange(BYTES)
        log_prob = self._log_prob
        while True:
            if log_prob is None:
                logits = _PrefixBigrams(read).log_prob(np.full_like(every, read[-1]), every)
            else:
                logits = np.array([log_prob(read, every[token : token + 1])[0] for token in every])
            token = draw(logits.astype(np.float32), request, rng)
            yield token
            read = np.append(read, token)

    def _score(self, request: ScoringRequest) -> SpanScores:
        prefix = self._read(request.prefix)
        spans = [self._read(candidate.sequence) for candidate in request.candidates]
        starts = np.array([candidate.scored_from for candidate in request.candidates])
        lengths = np.array([len(span) for span in spans])
        tokens = np.concatenate(spans)
        first = np.cumsum(lengths) - lengths
        if self._log_prob is None:
            log_probs = _PrefixBigrams(prefix).log_prob(*_transitions(prefix, tokens, first))
        else:
            log_probs = np.concatenate([self._log_prob(prefix, span) for span in spans])
        within = np.arange(len(tokens)) - np.repeat(first, lengths)
        scored = np.where(within >= np.repeat(starts, lengths), log_probs, 0.0)
        return SpanScores(sums=np.add.reduceat(scored, first), counts=lengths - starts)

    def _state(self, span: CandidateSpan) -> NDArray[np.float32]:
        before = self._read(span.sequence)[span.scored_from - 1 : -1]
        if not len(before):
            return np.zeros(self.model.dim, dtype=np.float32)
        mean: NDArray[np.float32] = self._embeddings[before].mean(axis=0)
        return mean

    def _label(self, request: ScoringRequest, labels: IntArray) -> NDArray[np.float64]:
        prefix = self._read(request.prefix)
        spans = [self._read(candidate.sequence) for candidate in request.candidates]
        log_prob = self._log_prob
        if log_prob is None:
            last = np.array([span[-1] for span in spans])
            previous, following = np.broadcast_arrays(last[:, None], labels[None, :])
            return _PrefixBigrams(prefix).log_prob(previous, following)
        return np.array([[log_prob(prefix, np.append(span, label))[-1] for label in labels] for span in spans])

    def _read(self, sequence: TokenSequence) -> IntArray:
        """Token ids with each vector replaced by the token whose embedding is nearest."""
        if sequence.is_plain:
            return sequence.token_ids
        squared = (self._embeddings**2).sum(axis=1) - 2.0 * sequence.vectors @ self._embeddings.T
        token_ids = sequence.token_ids.copy()
        token_ids[sequence.vector_positions] = squared.argmin(axis=1)
        return token_ids


def bigram_log_prob(prefix_ids: IntArray, span_ids: IntArray) -> NDArray[np.float64]:
    """The default `LogProb`: p(t | previous) = 0.9 · count(previous, t) / count(previous) in the prefix + 0.1 / 256.

    Where the prefix never continues `previous`, every token has p = 1 / 256.
    """
    return _PrefixBigrams(prefix_ids).log_prob(*_transitions(prefix_ids, span_ids, np.zeros(1, dtype=np.int64)))


class _PrefixBigrams:
    """Which byte follows which in a prefix, (256, 256) counts."""

    def __init__(self, prefix_ids: IntArray) -> None:
        self._counts = np.zeros((BYTES, BYTES))
        np.add.at(self._counts, (prefix_ids[:-1], prefix_ids[1:]), 1.0)
        self._totals = self._counts.sum(axis=1)

    def log_prob(self, previous: IntArray, following: IntArray) -> NDArray[np.float64]:
        totals = self._totals[previous]
        repeated = _REPEATED * self._counts[previous, following] / np.maximum(totals, 1.0)
        result: NDArray[np.float64] = np.log(np.where(totals > 0, repeated + (1.0 - _REPEATED) / BYTES, 1.0 / BYTES))
        return result


def _transitions(prefix: IntArray, tokens: IntArray, first: IntArray) -> tuple[IntArray, IntArray]:
    """(previous, following) of every token of spans laid end to end; each span's first token follows the prefix."""
    previous = np.empty_like(tokens)
    previous[1:] = tokens[:-1]
    previous[first] = prefix[-1]
    return previous, tokens
