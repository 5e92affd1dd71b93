"""The lexical engine: reads texts as bags of words. No model, no download, no GPU; it is what an LM has to beat.

A word is a fixed random vector, seeded by the word, and a text the mean of its words: a random projection of its
word counts, which keeps their inner products up to noise of 1/√dim (Johnson & Lindenstrauss 1984). Everything above
the engine (spaces, projections, weights, guard) is the same as for an LM, so the difference between the two is what
the LM knows beyond words. Likelihoods are those of a smoothed unigram model of the prefix (Jelinek-Mercer; Zhai &
Lafferty 2004).
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from reranker.engines.validation import check_labels, check_requests, check_token_ids
from reranker.types import CandidateSpan, ModelInfo, ScoringRequest, SpanScores, TokenSequence

LEXICAL = "lexical"
"""The engine's name, and its model's."""

DIM = 1024
VOCABULARY = 1 << 62
"""Token ids are 62-bit hashes of the pieces, so that they mean the same in every process."""

MOST_KNOWN = 1_000_000
"""Pieces whose text is remembered; further ones can be read but not decoded."""

KEPT_BYTES = 256 << 20
"""Vectors of words that are kept for the next text, at most; others are drawn again."""

_BACKGROUND_WORDS = 1 << 16  # an unseen word is one of so many
_FROM_PREFIX = 0.9  # probability mass on the words of the prefix
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_PIECE = re.compile(rf"\s*[{_CJK}]|\s*[^\W{_CJK}]+|\s*[^\w\s]|\s+")


class WordTokenizer:
    """One token a word with the space before it; Chinese, Japanese and Korean characters and signs stand alone."""

    opening_ids: tuple[int, ...] = ()
    end_ids: frozenset[int] = frozenset()
    special_ids: frozenset[int] = frozenset()

    def __init__(self) -> None:
        self._pieces: dict[int, str] = {}

    def encode(self, text: str) -> list[int]:
        token_ids = []
        for piece in _PIECE.findall(text):
            token_id = _hash(piece) % VOCABULARY
            if token_id in self._pieces or len(self._pieces) < MOST_KNOWN:
                self._pieces[token_id] = piece
            token_ids.append(token_id)
        return token_ids

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(self._pieces.get(token_id, "\ufffd") for token_id in token_ids)

    def encode_prompt(self, text: str) -> list[int]:
        return self.encode(text)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        return self.encode("".join(f"{message['role']}: {message['content']}\n" for message in messages))

    def word(self, token_id: int) -> str:
        """The word of a token, as `_word` has it; an id that was never encoded here is a word of its own."""
        piece = self._pieces.get(token_id)
        return f"\ufffd{token_id}" if piece is None else _word(piece)


class WordVectors:
    """A fixed random vector a word, and the mean of those of a text.

    Args:
        dim: width of a vector.
    """

    def __init__(self, dim: int = DIM) -> None:
        self.dim = dim
        self._most = KEPT_BYTES // (4 * dim)
        self._vectors: dict[str, NDArray[np.float32]] = {"": np.zeros(dim, dtype=np.float32)}

    def vector(self, word: str) -> NDArray[np.float32]:
        """(dim,) of one word, the same in every process; zeros for ""."""
        vector = self._vectors.get(word)
        if vector is None:
            vector = np.random.default_rng(_hash(word)).standard_normal(self.dim).astype(np.float32)
            if len(self._vectors) < self._most:
                self._vectors[word] = vector
        return vector

    def mean(self, words: Iterable[str]) -> NDArray[np.float32]:
        """(dim,) mean of the vectors of the words that are not ""; zeros without any."""
        read = [self.vector(word) for word in words if word]
        if not read:
            return np.zeros(self.dim, dtype=np.float32)
        mean: NDArray[np.float32] = np.stack(read).mean(axis=0)
        return mean

    def of(self, text: str) -> NDArray[np.float32]:
        """(dim,) mean of the vectors of a text's words."""
        return self.mean(map(_word, _PIECE.findall(text)))


class LexicalEngine:
    """Reads texts as bags of words.

    Args:
        dim: width of a word's vector.
        max_length: longest request, in words.
    """

    name = LEXICAL

    def __init__(self, *, dim: int = DIM, max_length: int = 8192) -> None:
        self.tokenizer = WordTokenizer()
        self.model = ModelInfo(model_id=LEXICAL, sha256="", dim=dim, vocab_size=VOCABULARY, max_length=max_length)
        self._vectors = WordVectors(dim)

    def embed_tokens(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        check_token_ids(token_ids, self.model)
        rows = [self._vectors.vector(self.tokenizer.word(int(token_id))) for token_id in token_ids]
        return np.stack(rows) if rows else np.zeros((0, self.model.dim), dtype=np.float32)

    def span_states(self, requests: Sequence[ScoringRequest]) -> list[NDArray[np.float32]]:
        """Per request: (n_candidates, dim) mean of the words' vectors; signs and soft tokens say nothing."""
        check_requests(requests, self.model, targets_are_scored=False)
        return [np.stack([self._state(span) for span in request.candidates]) for request in requests]

    def span_log_likelihoods(self, requests: Sequence[ScoringRequest]) -> list[SpanScores]:
        """Per request: Σ log p(word | words before), p = .9 · share of the words before + .1 / 65,536; signs cost 0."""
        check_requests(requests, self.model, targets_are_scored=True)
        scores = []
        for request in requests:
            prefix = Counter(self._words(request.prefix))
            sums = [self._log_likelihood(prefix, span) for span in request.candidates]
            counts = [len(span.sequence) - span.scored_from for span in request.candidates]
            scores.append(SpanScores(sums=np.array(sums), counts=np.array(counts)))
        return scores

    def label_log_probs(
        self, requests: Sequence[ScoringRequest], label_token_ids: Sequence[int]
    ) -> list[NDArray[np.float64]]:
        check_requests(requests, self.model, targets_are_scored=False)
        check_labels(label_token_ids, self.model)
        labels = [self.tokenizer.word(int(label)) for label in label_token_ids]
        read = []
        for request in requests:
            prefix = self._words(request.prefix)
            before = [Counter(prefix + self._words(span.sequence)) for span in request.candidates]
            read.append(np.array([[_log_prob(label, seen, seen.total()) for label in labels] for seen in before]))
        return read

    def close(self) -> None:
        """Nothing to free."""

    def _state(self, span: CandidateSpan) -> NDArray[np.float32]:
        return self._vectors.mean(self._words(span.sequence, span.scored_from - 1, -1))

    def _log_likelihood(self, prefix: Counter[str], span: CandidateSpan) -> float:
        seen, total, scored = prefix.copy(), prefix.total() - prefix[""], 0.0
        del seen[""]
        for position, word in enumerate(self._words(span.sequence)):
            if not word:
                continue
            if position >= span.scored_from:
                scored += _log_prob(word, seen, total)
            seen[word] += 1
            total += 1
        return scored

    def _words(self, sequence: TokenSequence, begin: int = 0, end: int | None = None) -> list[str]:
        vectors = set() if sequence.is_plain else set(sequence.vector_positions.tolist())
        words = [
            "" if position in vectors else self.tokenizer.word(token_id)
            for position, token_id in enumerate(sequence.token_ids.tolist())
        ]
        return words[max(begin, 0) : end]


def _word(piece: str) -> str:
    """A piece without spaces, case and accents' spelling variants; "" for signs and spaces."""
    word = unicodedata.normalize("NFKC", piece).strip().casefold()
    return word if any(character.isalnum() for character in word) else ""


def _log_prob(word: str, seen: Mapping[str, int], total: int) -> float:
    share = seen.get(word, 0) / total if total else 1.0 / _BACKGROUND_WORDS
    return float(np.log(_FROM_PREFIX * share + (1.0 - _FROM_PREFIX) / _BACKGROUND_WORDS))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
