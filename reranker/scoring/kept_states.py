"""Hidden states of items' texts, computed once a text and kept."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from reranker.engines.lexical import WordVectors
from reranker.engines.slices import in_slices
from reranker.errors import ConfigError
from reranker.prompting import ItemTexts
from reranker.protocols import Engine, ReadsStates, StopsAtLayer, n_layers
from reranker.scoring.span_cache import SPANS_PER_REQUEST, Key, Missing, SpanStore
from reranker.scoring.state_cache import StateCache, TextsRead
from reranker.scoring.state_file import StateFile, write_states
from reranker.types import CandidateSpan, ScoringRequest
from reranker.utils.progress import progress_bar
from reranker.utils.spaces import Vectors

Taken = TypeVar("Taken")

_SHORT = 63  # tokens: shorter texts are read together
_PORTION_SECONDS = 2.0  # a kill loses some of these; a GPU gets larger portions

_NAMES = 2  # parts that make up an item's name: title and category


class KeptStates(SpanStore[Vectors]):
    """Hidden states of spans, in half precision, keyed by content.

    Args:
        layer: whose states they are; None for the last one's.
        words: a bag of the text's words stands beside its hidden state. It is cheap, and is not kept.
        mapped: states in a file, read where they lie.
    """

    def __init__(self, layer: int | None = None, words: bool = False, mapped: StateFile | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.words = words
        self.texts_read = TextsRead()
        self._word_vectors = WordVectors()
        self._mapped = mapped
        self._cache: StateCache | None = None
        self._shows_progress: bool | None = False

    def __len__(self) -> int:
        return len(self._values) + (0 if self._mapped is None else len(self._mapped))

    @property
    def n_words(self) -> int:
        """Width of the words' vectors behind a state; 0 where they are not read."""
        return self._word_vectors.dim if self.words else 0

    @contextmanager
    def reading(self, cache: StateCache | None, progress: bool | None) -> Iterator[None]:
        """Texts read inside are a catalogue's: their states go to the cache or come from there, behind a bar.

        Args:
            cache: where states are kept on disk, for all programs; None for nowhere.
            progress: as `progress_bar` has it.
        """
        self.texts_read = TextsRead(directory=None if cache is None else cache.directory)
        before, self._cache, self._shows_progress = (self._cache, self._shows_progress), cache, progress
        try:
            yield
        finally:
            self._cache, self._shows_progress = before

    def states(self, engine: Engine, items: ItemTexts) -> Vectors:
        """(n_items, 1 + n_parts, dim): of title and category in one, then of each part, zeros where an item has none.

        `dim` is the model's, and that of the words' vectors behind it where they are read.

        Raises:
            ConfigError: the engine gives no hidden states.
        """
        with self._lock:
            keys = self._keys(engine, items)
            return np.stack([self._state(engine, *one) for one in zip(items.parts, keys, strict=True)])

    def _keys(self, engine: Engine, items: ItemTexts) -> list[list[Key | None]]:
        """Per item the keys of its spans, under which there are states now."""
        # Texts of like length together, those that begin alike side by side: engines compute what they share once.
        longest = items.longest
        order = sorted(range(len(longest)), key=lambda number: _place_in_reading(longest[number]))
        spans = [span for number in order for span in items.parts[number] if span is not None]
        (keys,) = self._known(engine, [(items.prefix, spans)])
        rest = iter(keys)
        keyed: list[list[Key | None]] = [[] for _ in order]
        for number in order:
            keyed[number] = [None if span is None else next(rest) for span in items.parts[number]]
        return keyed

    def _compute(self, engine: Engine, missing: Missing) -> None:
        """From disk what is there; the rest in portions of some seconds, each kept as soon as it was read."""
        wanted = [(prompt, name) for prompt, (_, spans) in missing.items() for name in spans]
        found = self._cache.get(engine, wanted) if self._cache and wanted else {}
        self._values.update(cast(dict[Key, Vectors], found))
        self.texts_read = self.texts_read.more(kept=len(found))
        left = [key for key in wanted if key not in found]
        if not left:
            return
        size, done = SPANS_PER_REQUEST, 0
        with progress_bar(len(wanted), "text", "reading texts", self._shows_progress, done=len(found)) as bar:
            while done < len(left):
                part, began = left[done : done + size], time.perf_counter()
                portion: Missing = {}
                for prompt, name in part:
                    prefix, spans = missing[prompt]
                    portion.setdefault(prompt, (prefix, {}))[1][name] = spans[name]
                super()._compute(engine, portion)
                if self._cache:
                    self._cache.put(engine, {key: self._values[key] for key in part})
                self.texts_read = self.texts_read.more(read=len(part))
                bar.update(len(part))
                done += len(part)
                if time.perf_counter() - began < _PORTION_SECONDS:
                    size *= 2

    def _state(self, engine: Engine, spans: Sequence[CandidateSpan | None], keys: Sequence[Key | None]) -> Vectors:
        """(1 + n_parts, dim) of one item."""
        states = [
            None if key is None or span is None else self._with_words(engine, span, self._get(key))
            for span, key in zip(spans, keys, strict=True)
        ]
        lengths = [0 if span is None else max(1, len(span.sequence) - span.scored_from) for span in spans]
        named = [(length, state) for length, state in zip(lengths[:_NAMES], states, strict=False) if state is not None]
        name = sum((length * state for length, state in named), np.float32(0)) / sum(length for length, _ in named)
        return np.stack([name, *(np.zeros_like(name) if state is None else state for state in states)])

    def _with_words(self, engine: Engine, span: CandidateSpan, state: Vectors) -> Vectors:
        """(dim,) of one part: its hidden state and, where they are read, its words."""
        if not self.words:
            return state.astype(np.float32)
        text = engine.tokenizer.decode(span.sequence.token_ids[span.scored_from - 1 : -1].tolist())
        return np.concatenate([state.astype(np.float32), self._word_vectors.of(text)])

    def _find(self, key: Key) -> Vectors | None:
        value = super()._find(key)
        return self._mapped.get(key) if value is None and self._mapped is not None else value

    def save(self, path: Path, arrays: dict[str, NDArray[Any]]) -> None:
        """Writes the states and further arrays to an npz file without pickle."""
        own = {"layer": np.array(self.layer or 0), "words": np.array(self.words)}
        write_states(path, self._mapped, dict(self._values), own | arrays)

    def each(
        self, engine: Engine, items: ItemTexts, take: Callable[[Key, Callable[[], Vectors]], Taken]
    ) -> list[Taken]:
        """What `take` makes of each item: it gets the key of its longest span, and what gives (1 + n_parts, dim).

        Threads take turns meanwhile, so that none drops what another one is about to use.
        """
        with self._lock:
            return [
                take([key for key in keys if key is not None][-1], partial(self._state, engine, spans, keys))
                for spans, keys in zip(items.parts, self._keys(engine, items), strict=True)
            ]

    def _read(self, engine: Engine, requests: Sequence[ScoringRequest]) -> list[Sequence[Vectors]]:
        if not isinstance(engine, ReadsStates):
            raise ConfigError(
                f"the engine {engine.name!r} gives no hidden states, which the embedding scorer compares: take "
                "engine='torch' or 'vllm', or scorer='likelihood'"
            )
        read = engine.span_states
        if self.layer is not None:
            if n_layers(engine) < self.layer:
                raise ConfigError(
                    f"texts are read by the states of layer {self.layer}, and the engine {engine.name!r} shows those "
                    "of the last layer only: take engine='torch', or fit again with layer=0"
                )
            read = partial(cast(StopsAtLayer, engine).span_states, layer=self.layer)
        return [list(states.astype(np.float16)) for states in in_slices(read, requests)]

    def _model_key(self, engine: Engine) -> bytes:
        own = super()._model_key(engine)
        return own if self.layer is None else own + f"|layer {self.layer}".encode()


def _place_in_reading(longest: CandidateSpan) -> tuple[int, bytes]:
    """Sort key of texts that are to be read: their length, by powers of 2 from `_SHORT` on, then their tokens."""
    sequence = longest.sequence
    return max(len(sequence), _SHORT).bit_length(), sequence.token_ids.astype(">u8").tobytes()
