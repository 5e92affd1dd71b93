"""log p(title | no history): computed once per item and prompt, and kept."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.protocols import Engine
from reranker.tables import read_table, write_table
from reranker.types import CandidateSpan, ScoringRequest, TokenSequence

SPANS_PER_REQUEST = 256

_PROMPT, _SPAN, _LOG_PROB = "prompt", "span", "log_prob"


class PriorStore:
    """Log-likelihood of candidate spans behind a prompt without history, keyed by content.

    A key is (hash of model weights and prior prompt, hash of the span), so another model, template or soft prompt never
    meets a stale value. A model without a hash (a remote one) goes by its name.
    """

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], float] = {}

    def __len__(self) -> int:
        return len(self._values)

    def look_up(
        self, engine: Engine, prompts: Sequence[tuple[TokenSequence, Sequence[CandidateSpan]]]
    ) -> list[NDArray[np.float64]]:
        """Per (prior prefix, spans): (n_spans,) Σ log p in nats; whatever is missing is computed in one engine call."""
        keyed = []
        missing: dict[str, tuple[TokenSequence, dict[str, CandidateSpan]]] = {}
        for prefix, spans in prompts:
            prompt = _digest([(engine.model.sha256 or engine.model.model_id).encode(), *_content(prefix)])
            keys = [_digest([*_content(span.sequence), str(span.scored_from).encode()]) for span in spans]
            keyed.append((prompt, keys))
            for key, span in zip(keys, spans, strict=True):
                if (prompt, key) not in self._values:
                    missing.setdefault(prompt, (prefix, {}))[1][key] = span
        self._compute(engine, missing)
        return [np.array([self._values[prompt, key] for key in keys]) for prompt, keys in keyed]

    def save(self, path: Path) -> None:
        """Writes a parquet file `prompt, span, log_prob`."""
        rows = [(prompt, span, value) for (prompt, span), value in self._values.items()]
        write_table(pd.DataFrame(rows, columns=[_PROMPT, _SPAN, _LOG_PROB]), path)

    @classmethod
    def load(cls, path: Path) -> "PriorStore":
        """Reads what `save` wrote."""
        store = cls()
        frame = read_table(path)
        keys: Iterable[tuple[str, str]] = zip(frame[_PROMPT], frame[_SPAN], strict=True)
        store._values = dict(zip(keys, map(float, frame[_LOG_PROB]), strict=True))
        return store

    def _compute(self, engine: Engine, missing: dict[str, tuple[TokenSequence, dict[str, CandidateSpan]]]) -> None:
        keys: list[list[tuple[str, str]]] = []
        requests: list[ScoringRequest] = []
        for prompt, (prefix, spans) in missing.items():
            names = list(spans)
            for start in range(0, len(names), SPANS_PER_REQUEST):
                part = names[start : start + SPANS_PER_REQUEST]
                keys.append([(prompt, name) for name in part])
                requests.append(ScoringRequest(prefix=prefix, candidates=tuple(spans[name] for name in part)))
        if not requests:
            return
        for part_keys, scores in zip(keys, engine.span_log_likelihoods(requests), strict=True):
            self._values.update(zip(part_keys, map(float, scores.sums), strict=True))


def _content(sequence: TokenSequence) -> list[bytes]:
    return [sequence.token_ids.tobytes(), sequence.vector_positions.tobytes(), sequence.vectors.tobytes()]


def _digest(parts: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:32]
