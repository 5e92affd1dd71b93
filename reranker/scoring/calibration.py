"""How likely a title is whoever the user is: computed once per item and prompt, and kept."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.table_io import read_table, write_table
from reranker.engines.slices import in_slices
from reranker.errors import BundleError
from reranker.protocols import Engine
from reranker.scoring.span_cache import SpanStore
from reranker.types import CandidateSpan, ScoringRequest, TokenSequence
from reranker.utils.untrusted import require_small_parquet

REFERENCE_ITEMS = 12
"""Items in a history that stands for nobody in particular."""

_MOST_NATS = 1e9  # of a text: more than the longest has
_PROMPT, _SPAN, _LOG_PROB = "prompt", "span", "log_prob"

OneItem = TypeVar("OneItem")


def calibration_histories(items: Sequence[OneItem], count: int, seed: int = 0) -> list[list[OneItem]]:
    """Histories of random items of a catalogue; none where it is so small that they would be much alike."""
    if len(items) < 4 * REFERENCE_ITEMS:
        return []
    rng = np.random.default_rng(seed)
    rows = [rng.choice(len(items), REFERENCE_ITEMS, replace=False) for _ in range(count)]
    return [[items[row] for row in drawn] for drawn in rows]


class PriorStore(SpanStore[float]):
    """Log-likelihood of candidate spans behind prompts in which nothing of the user stands."""

    def look_up(
        self, engine: Engine, prompts: Sequence[tuple[TokenSequence, Sequence[CandidateSpan]]]
    ) -> list[NDArray[np.float64]]:
        """Per (prior prefix, spans): (n_spans,) Σ log p in nats; whatever is missing is computed in one engine call."""
        return [np.array(values) for values in self.values(engine, prompts)]

    def save(self, path: Path) -> None:
        """Writes a parquet file `prompt, span, log_prob`."""
        rows = [(prompt, span, value) for (prompt, span), value in list(self._values.items())]
        write_table(pd.DataFrame(rows, columns=[_PROMPT, _SPAN, _LOG_PROB]), path)

    @classmethod
    def load(cls, path: Path) -> "PriorStore":
        """Reads what `save` wrote.

        Raises:
            BundleError: a value is no log-likelihood, or the file unpacks to far more than it is.
        """
        store = cls()
        require_small_parquet(path)
        frame = read_table(path)
        keys: Iterable[tuple[str, str]] = zip(frame[_PROMPT], frame[_SPAN], strict=True)
        values = frame[_LOG_PROB].to_numpy(dtype=np.float64)
        if not (np.abs(values) <= _MOST_NATS).all():
            raise BundleError(f"{path} is damaged: {_LOG_PROB!r} holds a value that is no log-likelihood of a text")
        store._values = dict(zip(keys, values.tolist(), strict=True))
        return store

    def _read(self, engine: Engine, requests: Sequence[ScoringRequest]) -> list[Sequence[float]]:
        return [scores.sums.tolist() for scores in in_slices(engine.span_log_likelihoods, requests)]
