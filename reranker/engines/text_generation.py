"""What engines that write share: drawing a token, and making text of tokens as they come."""

from collections.abc import Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from reranker.protocols import PromptTokenizer
from reranker.types import GenerationPiece, GenerationRequest

_BROKEN = "\ufffd"  # what a tokenizer makes of a character whose bytes are not all there
_PATIENCE = 16  # tokens after which a character that is still broken stays broken


def draw(logits: NDArray[np.float32], request: GenerationRequest, rng: np.random.Generator) -> int:
    """The next token.

    Args:
        logits: (vocabulary,).
        request: temperature and top_p.
        rng: where chance comes from.
    """
    if request.temperature == 0:
        return int(logits.argmax())
    centred = logits.astype(np.float64) - logits.max()
    shares = np.exp(centred / request.temperature)
    shares /= shares.sum()
    tokens = np.arange(len(shares))
    if request.top_p < 1:
        tokens = np.argsort(-shares, kind="stable")
        tokens = tokens[: int(np.searchsorted(np.cumsum(shares[tokens]), request.top_p)) + 1]
    heights = np.cumsum(shares[tokens])
    place = int(np.searchsorted(heights, rng.random() * heights[-1], side="right"))
    return int(tokens[min(place, len(tokens) - 1)])


class Transcript:
    """Text of tokens as they come: whole characters only, and never a part of a stop text.

    Args:
        tokenizer: the engine's.
        stop: texts that end the answer.

    Attributes:
        stopped: a stop text came.
    """

    def __init__(self, tokenizer: PromptTokenizer, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self._shown = 0  # tokens whose text is in _held or was given away
        self._context = 0  # where decoding begins: a token's text may depend on the one before
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """Text that the token makes certain; may be empty."""
        if token in self._tokenizer.special_ids:
            return ""
        self._ids.append(token)
        fresh = self._fresh()
        if fresh.endswith(_BROKEN) and len(self._ids) - self._shown < _PATIENCE:
            return ""
        self._take(fresh)
        return self._certain()

    def rest(self) -> str:
        """What was held back, when nothing more comes."""
        if self.stopped:
            return ""
        self._take(self._fresh())
        text = self._certain()
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _fresh(self) -> str:
        before = self._tokenizer.decode(self._ids[self._context : self._shown])
        return self._tokenizer.decode(self._ids[self._context :])[len(before) :]

    def _take(self, fresh: str) -> None:
        self._held += fresh
        self._context, self._shown = self._shown, len(self._ids)

    def _certain(self) -> str:
        found = [place for place in map(self._held.find, self._stop) if place >= 0]
        if found:
            self.stopped = True
            text, self._held = self._held[: min(found)], ""
            return text
        kept = max(
            (
                length
                for stop in self._stop
                for length in range(1, min(len(stop), len(self._held) + 1))
                if self._held.endswith(stop[:length])
            ),
            default=0,
        )
        cut = len(self._held) - kept
        text, self._held = self._held[:cut], self._held[cut:]
        return text


def written(
    tokens: Generator[int], request: GenerationRequest, tokenizer: PromptTokenizer
) -> Generator[GenerationPiece]:
    """Pieces of text from tokens, until the model ends, a stop text comes or `max_tokens` are there.

    Args:
        tokens: as the model draws them; closed at the end.
        request: what was asked for.
        tokenizer: the engine's.
    """
    transcript = Transcript(tokenizer, request.stop)
    try:
        for count, token in enumerate(tokens, start=1):
            if token in tokenizer.end_ids:
                yield GenerationPiece(text=transcript.rest(), tokens=1, finish_reason="stop")
                return
            text = transcript.add(token)
            last = count == request.max_tokens
            if last:
                text += transcript.rest()
            if transcript.stopped:
                yield GenerationPiece(text=text, tokens=1, finish_reason="stop")
                return
            yield GenerationPiece(text=text, tokens=1, finish_reason="length" if last else None)
            if last:
                return
    finally:
        tokens.close()
