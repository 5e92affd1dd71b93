"""The records that travel between the layers. No heavy imports: numpy only."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reranker.errors import EngineError, PromptError

UserId = Hashable
ItemId = Hashable
IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenSequence:
    """Positions of a prompt: token ids, some of them replaced by vectors (a soft prompt).

    Attributes:
        token_ids: (length,) int64. The id at a vector position is a placeholder that no model ever reads.
        vectors: (n_vectors, dim) float32, in order of position. (0, 0) when the sequence is plain text.
        vector_positions: (n_vectors,) int64, strictly increasing.
    """

    token_ids: IntArray
    vectors: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    vector_positions: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __post_init__(self) -> None:
        if self.token_ids.ndim != 1 or self.vectors.ndim != 2:
            raise PromptError(
                "a token sequence needs token_ids of shape (length,) and vectors of shape (n, dim), "
                f"got {self.token_ids.shape} and {self.vectors.shape}"
            )
        if len(self.vectors) != len(self.vector_positions):
            raise PromptError(f"{len(self.vectors)} vectors were given {len(self.vector_positions)} positions")
        positions = self.vector_positions
        if len(positions) and (
            positions[0] < 0 or positions[-1] >= len(self.token_ids) or bool((np.diff(positions) <= 0).any())
        ):
            raise PromptError(f"vector positions must increase within 0..{len(self.token_ids) - 1}, got {positions}")

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def is_plain(self) -> bool:
        """True when every position is an ordinary token."""
        return len(self.vectors) == 0

    def split(self, length: int) -> list["TokenSequence"]:
        """Consecutive parts of `length` positions; the last may be shorter."""
        parts = []
        for start in range(0, len(self), length):
            first, last = np.searchsorted(self.vector_positions, [start, start + length])
            part = TokenSequence(token_ids=self.token_ids[start : start + length])
            if first < last:
                part = TokenSequence(
                    token_ids=part.token_ids,
                    vectors=self.vectors[first:last],
                    vector_positions=self.vector_positions[first:last] - start,
                )
            parts.append(part)
        return parts

    @classmethod
    def from_tokens(cls, token_ids: Sequence[int]) -> "TokenSequence":
        return cls(token_ids=np.asarray(token_ids, dtype=np.int64).reshape(-1))

    @classmethod
    def from_vectors(cls, vectors: NDArray[np.float32]) -> "TokenSequence":
        """A sequence of nothing but vectors, (k, dim): a soft prompt."""
        return cls(
            token_ids=np.zeros(len(vectors), dtype=np.int64),
            vectors=np.asarray(vectors, dtype=np.float32),
            vector_positions=np.arange(len(vectors), dtype=np.int64),
        )

    @classmethod
    def concatenate(cls, parts: Sequence["TokenSequence"]) -> "TokenSequence":
        """One sequence after another; vector positions move along."""
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        with_vectors = [(part, offset) for part, offset in zip(parts, offsets, strict=False) if not part.is_plain]
        token_ids = [part.token_ids for part in parts]
        if not with_vectors:
            return cls(token_ids=np.concatenate(token_ids) if token_ids else np.zeros(0, dtype=np.int64))
        return cls(
            token_ids=np.concatenate(token_ids),
            vectors=np.concatenate([part.vectors for part, _ in with_vectors]),
            vector_positions=np.concatenate([part.vector_positions + offset for part, offset in with_vectors]),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class CandidateSpan:
    """What follows the shared prefix for one candidate.

    Attributes:
        sequence: separator, title and terminator (likelihood), or candidate text and verbaliser cue (labels).
        scored_from: index in `sequence` of the first token whose log-probability counts. Must be >= 1, so that the
            logit of every scored token comes from this span and not from the shared prefix: then the prefix can stay
            in a KV cache that keeps no logits. Label scorers ignore it.
    """

    sequence: TokenSequence
    scored_from: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.scored_from <= len(self.sequence):
            raise PromptError(
                f"scored_from must lie in 1..{len(self.sequence)} (the span's length), got {self.scored_from}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoringRequest:
    """One user's list: a prefix shared by every candidate, and the candidates, who never see each other."""

    prefix: TokenSequence
    candidates: tuple[CandidateSpan, ...]

    def __post_init__(self) -> None:
        if len(self.prefix) == 0:
            raise PromptError("a scoring request needs a prefix of at least one token")
        if not self.candidates:
            raise PromptError("a scoring request needs at least one candidate")

    @property
    def tokens(self) -> int:
        """Positions that are read: the prefix once, and each candidate."""
        return len(self.prefix) + sum(len(candidate.sequence) for candidate in self.candidates)

    @property
    def longest(self) -> int:
        """Positions of the longest single prompt, prefix and candidate together."""
        return len(self.prefix) + max(len(candidate.sequence) for candidate in self.candidates)


@dataclass(frozen=True, kw_only=True, eq=False)
class SpanScores:
    """Log-likelihood of each candidate's scored tokens given the prefix, in nats.

    Attributes:
        sums: (n_candidates,) float64, Σ log p over the scored tokens.
        counts: (n_candidates,) int64, how many tokens were scored.
    """

    sums: NDArray[np.float64]
    counts: IntArray

    def __post_init__(self) -> None:
        if self.sums.shape != self.counts.shape:
            raise EngineError(f"the engine returned {self.sums.shape} sums for {self.counts.shape} counts")

    @property
    def means(self) -> NDArray[np.float64]:
        return self.sums / self.counts


@dataclass(frozen=True, kw_only=True, eq=False)
class GenerationRequest:
    """A text to be written after a prompt.

    Attributes:
        prompt: tokens and vectors, at least one.
        max_tokens: tokens written, at most.
        temperature: 0 takes the likeliest token each time; 1 draws from the model's own distribution.
        top_p: draws from the likeliest tokens only that together have this probability.
        stop: texts that end the answer and do not appear in it.
        seed: the same seed draws the same text from the same engine; None draws anew.
    """

    prompt: TokenSequence
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        if len(self.prompt) == 0 or self.max_tokens < 1:
            raise PromptError(
                f"writing needs a prompt of at least one token and max_tokens of at least 1, got {len(self.prompt)} "
                f"and {self.max_tokens}"
            )
        if not self.temperature >= 0 or not 0 < self.top_p <= 1 or "" in self.stop:
            raise PromptError(
                "writing needs temperature >= 0, top_p above 0 and up to 1, and no empty stop text, got "
                f"{self.temperature}, {self.top_p} and {self.stop}"
            )


@dataclass(frozen=True, kw_only=True)
class GenerationPiece:
    """What was written since the piece before.

    Attributes:
        text: may be empty while a character or a stop text is not complete.
        tokens: how many tokens it took.
        finish_reason: of the last piece: "stop" (the model ended, or a stop text came) or "length"; None before.
    """

    text: str
    tokens: int
    finish_reason: Literal["stop", "length"] | None = None


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Which base model an engine runs.

    Attributes:
        model_id: what the user asked for: a known name, a Hugging Face id or a local path.
        sha256: hash of the weights on disk, as `reranker.hub.weights_sha256` computes it; "" for a remote model.
        dim: width of the token embeddings.
        vocab_size: rows of the embedding table that are real tokens.
        max_length: context window in tokens.
    """

    model_id: str
    sha256: str
    dim: int
    vocab_size: int
    max_length: int


class Signal(NamedTuple):
    """What an interaction says beyond that it was.

    Attributes:
        event: its kind, such as "purchase" or "dislike".
        rating: on the scale of the bundle's ratings.
        weight: how much it counts, beside event or rating a factor of their strength; below 0 alone a dislike.
    """

    event: str | None = None
    rating: float | None = None
    weight: float | None = None


UserInteraction: TypeAlias = tuple[ItemId, float | None] | tuple[ItemId, float | None, Signal]
"""Item, timestamp or None, and what it says where it says something."""


@dataclass(frozen=True, kw_only=True, eq=False)
class UserState:
    """All that is kept about one user: a context vector and what the user did since the bundle was fitted.

    Attributes:
        user_id: as the caller gave it.
        vector: (dim,) float32, dim <= 64: context vector z; (0,) until the user is adapted.
        support: how many interactions `vector` was adapted on.
        support_loss: mean loss a token on them at the last step of adaptation, in nats; NaN before any adaptation.
        step_scale: factor on the learned step sizes; drift raises it.
        interactions: oldest first.
        updated_at: seconds since the epoch.
        context_map: `ContextMap.mark` of the map that `vector` was adapted under; "" where that is not known.
        history: hash of what the bundle knew of the user when `vector` was adapted; "" where that is not known.
    """

    user_id: UserId
    vector: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, dtype=np.float32))
    support: int = 0
    support_loss: float = float("nan")
    step_scale: float = 1.0
    interactions: tuple[UserInteraction, ...] = ()
    updated_at: float = 0.0
    context_map: str = ""
    history: str = ""
