"""The encoder engine: a sentence encoder reads texts whole, in the place of a causal LM.

What an LM has to beat where words are not enough. Everything above the engine is the same as for an LM. It has no
likelihoods of its own: those are the word counts' of the lexical engine.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reranker.engines.lexical import LEXICAL, VOCABULARY, LexicalEngine
from reranker.engines.sentence_encoder import MAX_TOKENS, SentenceEncoder
from reranker.engines.validation import check_requests
from reranker.protocols import Tokenizer
from reranker.types import CandidateSpan, ModelInfo, ScoringRequest

ENCODER = "encoder"
"""The engine's name."""

WITHOUT_LM = frozenset({LEXICAL, ENCODER})
"""Engines whose likelihoods are word counts."""

LLM = "llm"


def reader_of(engine: str) -> str:
    """What reads texts by an engine of this name: "lexical", "encoder" or "llm"."""
    return engine if engine in WITHOUT_LM else LLM


_BULLET = "-"  # of the templates, before a title


class EncoderEngine(LexicalEngine):
    """Reads texts by a sentence encoder.

    Args:
        encoder: a folder or a Hugging Face id; MiniLM by default.
        max_tokens: where a longer text is cut, in the encoder's tokens.
        max_length: longest request, in words.

    Raises:
        ConfigError, ModelError: as `SentenceEncoder` does.
    """

    name = ENCODER

    def __init__(
        self, *, encoder: Path | str | None = None, max_tokens: int = MAX_TOKENS, max_length: int = 8192
    ) -> None:
        self._encoder = SentenceEncoder(encoder, max_tokens=max_tokens, keeps=False)
        super().__init__(dim=self._encoder.dim, max_length=max_length)
        self.model = ModelInfo(
            model_id=self._encoder.model_id,
            sha256=self._encoder.sha256,
            dim=self._encoder.dim,
            vocab_size=VOCABULARY,
            max_length=max_length,
        )
        self.arithmetic = f"{ENCODER}-{self.model.sha256}-{max_tokens}"

    @property
    def text_tokenizer(self) -> Tokenizer:
        """The encoder's own."""
        return self._encoder

    @property
    def max_text_tokens(self) -> int:
        """What the encoder can take, less its marks at both ends."""
        return self._encoder.positions - 2

    def text_pieces(self, text: str) -> list[tuple[str, bool]]:
        """What stands behind each token of the encoder, and whether it knows it."""
        return self._encoder.pieces(text)

    def text_vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts), dim) unit vectors of texts up to `max_text_tokens`; zeros for a text without a word."""
        vectors = np.zeros((len(texts), self.model.dim), dtype=np.float32)
        there = [place for place, text in enumerate(texts) if text.strip()]
        vectors[there] = self._encoder.whole([texts[place] for place in there])
        return vectors

    def span_states(self, requests: Sequence[ScoringRequest]) -> list[NDArray[np.float32]]:
        """Per request: (n_candidates, dim) unit vectors of the candidates' texts without their last token; zeros where
        there is no text."""
        check_requests(requests, self.model, targets_are_scored=False)
        texts = [self._text(span) for request in requests for span in request.candidates]
        vectors = np.zeros((len(texts), self.model.dim), dtype=np.float32)
        there = [place for place, text in enumerate(texts) if text]
        vectors[there] = self._encoder([texts[place] for place in there])  # together: alike lengths in one batch
        ends = np.cumsum([len(request.candidates) for request in requests])
        return np.split(vectors, ends[:-1]) if requests else []

    def _text(self, span: CandidateSpan) -> str:
        """What the scored tokens follow, as a text of its own."""
        tokens = span.sequence.token_ids[max(span.scored_from - 1, 0) : -1]
        return self.tokenizer.decode(tokens.tolist()).strip().removeprefix(_BULLET).strip()
