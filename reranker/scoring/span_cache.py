"""What a model says of spans behind a prompt: computed once per span and prompt, and kept."""

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import islice
from typing import Generic, TypeVar

from reranker.protocols import Engine
from reranker.types import CandidateSpan, ScoringRequest, TokenSequence

SPANS_PER_REQUEST = 256

MOST = 1_000_000
"""Values that a store holds: some 300 MB of priors, 2 GB of states of 576 dimensions."""

Value = TypeVar("Value")
Key = tuple[str, str]
"""Hash of model weights and prompt, hash of the span."""

Missing = dict[str, tuple[TokenSequence, dict[str, CandidateSpan]]]
"""Hash of the prompt -> its tokens, and hash of a span -> the span."""


class SpanStore(ABC, Generic[Value]):
    """Values of spans, keyed by content.

    Another model, template or soft prompt never meets a stale value. A model without a hash (a remote one) goes by its
    name. Texts that clients send are kept, too, so the oldest go when there are more than `MOST`. Threads take
    turns, so that none drops what another one is about to use.

    Args:
        most: values held, `MOST` by default.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._values: dict[Key, Value] = {}
        self._lock = threading.RLock()
        self._computing = 0  # a call may come from between two slices of another one's work, in the same thread

    def __len__(self) -> int:
        return len(self._values)

    def values(
        self, engine: Engine, prompts: Sequence[tuple[TokenSequence, Sequence[CandidateSpan]]]
    ) -> list[list[Value]]:
        """Per (prefix, spans): a value a span; whatever is missing is computed in one engine call."""
        with self._lock:
            return [[self._get(key) for key in keys] for keys in self._known(engine, prompts)]

    def _known(
        self, engine: Engine, prompts: Sequence[tuple[TokenSequence, Sequence[CandidateSpan]]]
    ) -> list[list[Key]]:
        """Per (prefix, spans): the keys of the spans, under all of which there are values now."""
        if not self._computing:
            self._drop_oldest()
        keyed: list[list[Key]] = []
        missing: Missing = {}
        model = self._model_key(engine)
        # The same prefixes stand before many lists, and the same lists behind many prefixes.
        prefixes = {id(prefix): prefix for prefix, _ in prompts}
        prompt_names = {place: _digest([model, *_content(prefix)]) for place, prefix in prefixes.items()}
        lists = {id(spans): spans for _, spans in prompts}
        span_names = {place: list(map(_span_digest, spans)) for place, spans in lists.items()}
        for prefix, spans in prompts:
            prompt = prompt_names[id(prefix)]
            keys = [(prompt, name) for name in span_names[id(spans)]]
            keyed.append(keys)
            for key, span in zip(keys, spans, strict=True):
                if self._find(key) is None:
                    missing.setdefault(prompt, (prefix, {}))[1][key[1]] = span
        self._compute(engine, missing)
        return keyed

    def _model_key(self, engine: Engine) -> bytes:
        return (engine.model.sha256 or engine.model.model_id).encode()

    def _find(self, key: Key) -> Value | None:
        return self._values.get(key)

    def _get(self, key: Key) -> Value:
        value = self._find(key)
        assert value is not None  # `_known` saw to that
        return value

    def _drop_oldest(self) -> None:
        for key in list(islice(self._values, max(0, len(self._values) - (MOST if self._most is None else self._most)))):
            self._drop(key)

    def _drop(self, key: Key) -> None:
        self._values.pop(key, None)

    @abstractmethod
    def _read(self, engine: Engine, requests: Sequence[ScoringRequest]) -> list[Sequence[Value]]:
        """Per request: a value a candidate."""

    def _compute(self, engine: Engine, missing: Missing) -> None:
        keys: list[list[Key]] = []
        requests: list[ScoringRequest] = []
        for prompt, (prefix, spans) in missing.items():
            names = list(spans)
            for start in range(0, len(names), SPANS_PER_REQUEST):
                part = names[start : start + SPANS_PER_REQUEST]
                keys.append([(prompt, name) for name in part])
                requests.append(ScoringRequest(prefix=prefix, candidates=tuple(spans[name] for name in part)))
        if not requests:
            return
        self._computing += 1
        try:
            read = self._read(engine, requests)
        finally:
            self._computing -= 1
        for part_keys, values in zip(keys, read, strict=True):
            self._values.update(zip(part_keys, values, strict=True))


def _span_digest(span: CandidateSpan) -> str:
    return _digest([*_content(span.sequence), str(span.scored_from).encode()])


def _content(sequence: TokenSequence) -> list[bytes]:
    return [sequence.token_ids.tobytes(), sequence.vector_positions.tobytes(), sequence.vectors.tobytes()]


def _digest(parts: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:32]
