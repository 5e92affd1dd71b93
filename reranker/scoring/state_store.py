"""Hidden states of items' texts, computed once a text, and where they lie in the spaces of the catalogue."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from reranker.engines.lexical import WordVectors
from reranker.engines.slices import in_slices
from reranker.errors import BundleError, ConfigError
from reranker.prompting import TEXT_PARTS, ItemTexts
from reranker.protocols import Engine, ReadsStates, StopsAtLayer, n_layers
from reranker.scoring.span_cache import SPANS_PER_REQUEST, Key, Missing, SpanStore
from reranker.scoring.state_cache import StateCache, TextsRead
from reranker.scoring.state_file import StateFile, read_states, write_states
from reranker.scoring.text_spaces import (
    CFProjection,
    EmbeddingSpace,
    ItemSpaces,
    JointSpaces,
    PopularityProjection,
    Vectors,
    unit,
)
from reranker.types import CandidateSpan, IntArray, ScoringRequest
from reranker.utils.progress import progress_bar

_SHORT = 63  # tokens: shorter texts are read together
_PORTION_SECONDS = 2.0  # a kill loses some of these; a GPU gets larger portions

_READERS = ("", "words_")  # what the arrays of each reader's spaces begin with

_NAMES = 2  # parts that make up an item's name: title and category


@dataclass(frozen=True, kw_only=True, eq=False)
class Placed:
    """Items where they are compared.

    Attributes:
        near: (n_items, n_directions) unit vectors in the space of names.
        cf_projection: (n_items, n_factors) unit vectors in the collaborative space; (n_items, 0) without one.
        predicted_popularity: (n_items,) what `PopularityProjection` tells; 0 where it was not learned.
    """

    near: Vectors
    cf_projection: Vectors
    predicted_popularity: Vectors

    def take(self, rows: IntArray) -> "Placed":
        """These items, in this order."""
        return Placed(
            near=self.near[rows],
            cf_projection=self.cf_projection[rows],
            predicted_popularity=self.predicted_popularity[rows],
        )


class StateStore(SpanStore[Vectors]):
    """Hidden states of spans (in half precision), and the spaces of the catalogue once they are known.

    Attributes:
        spaces: None compares the states of names as they are.
        cf_projection: None where the candidate generator has no item vectors, or none were shown.
        predicted_popularity: None where no choices were shown.
        layer: whose states they are; None for the last one's.
        words: a bag of the text's words stands beside its hidden state. It is cheap, and is not kept.
    """

    def __init__(self, layer: int | None = None, words: bool = False) -> None:
        super().__init__()
        self.layer = layer
        self.words = words
        self._word_vectors = WordVectors()
        self.spaces: JointSpaces | None = None
        self.cf_projection: CFProjection | None = None
        self.predicted_popularity: PopularityProjection | None = None
        self.texts_read = TextsRead()
        self._mapped: StateFile | None = None
        self._cache: StateCache | None = None
        self._shows_progress: bool | None = False
        self._placed: dict[Key, tuple[Vectors, Vectors, np.float32]] = {}  # by the key of an item's longest span

    def __len__(self) -> int:
        return len(self._values) + (0 if self._mapped is None else len(self._mapped))

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

    def learn(self, engine: Engine, items: ItemTexts) -> None:
        """Learns the spaces of names and parts from these items; projections are to be learned anew."""
        states, words = self.states(engine, items), self._word_vectors.dim
        self.spaces = JointSpaces.fit(states, (states.shape[-1] - words, words) if self.words else states.shape[-1:])
        self.keep_choices(None, None)

    def keep_choices(
        self, cf_projection: CFProjection | None, predicted_popularity: PopularityProjection | None
    ) -> None:
        """What is told of choices from now on; what was placed is placed anew."""
        self.cf_projection, self.predicted_popularity = cf_projection, predicted_popularity
        self._placed = {}

    def whole(self, engine: Engine, items: ItemTexts) -> Vectors:
        """(n_items, n) as `ItemSpaces.whole` places them: what projections are learned from.

        Raises:
            ConfigError: the spaces of the catalogue were not learned before.
        """
        if self.spaces is None:
            raise ConfigError("what is learned from choices stands on the catalogue's texts: call learn first")
        return self.spaces.whole(self.states(engine, items))

    def look_up(self, engine: Engine, items: ItemTexts) -> Placed:
        """Where the items lie.

        Raises:
            ConfigError: the engine gives no hidden states.
        """
        with self._lock:
            placed = []
            for spans, keys in zip(items.parts, self._keys(engine, items), strict=True):
                longest = [key for key in keys if key is not None][-1]
                if longest not in self._placed:  # one by one: in a batch the last bits depend on the other rows
                    self._placed[longest] = self._place(self._state(engine, spans, keys))
                placed.append(self._placed[longest])
        near, cf_projection, predicted_popularity = zip(*placed, strict=True)
        return Placed(
            near=np.stack(near),
            cf_projection=np.stack(cf_projection),
            predicted_popularity=np.stack(predicted_popularity),
        )

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

    def _place(self, state: Vectors) -> tuple[Vectors, Vectors, np.float32]:
        cf_projection, predicted_popularity = np.zeros(0, dtype=np.float32), np.float32(0)
        if self.spaces is None:
            return unit(state[0]), cf_projection, predicted_popularity
        whole = self.spaces.whole(state)
        if self.cf_projection is not None:
            cf_projection = self.cf_projection.place(whole)
        if self.predicted_popularity is not None:
            predicted_popularity = np.float32(self.predicted_popularity.of(whole))
        return self.spaces.near(state), cf_projection, predicted_popularity

    def _find(self, key: Key) -> Vectors | None:
        value = super()._find(key)
        return self._mapped.get(key) if value is None and self._mapped is not None else value

    def _drop(self, key: Key) -> None:
        super()._drop(key)
        self._placed.pop(key, None)

    def save(self, path: Path) -> None:
        """Writes an npz file without pickle, whose states are read where they lie when it is loaded."""
        arrays = {"layer": np.array(self.layer or 0), "words": np.array(self.words)}
        for name, space in _named(self.spaces).items():
            arrays |= {f"{name}_centre": space.centre, f"{name}_basis": space.basis}
        if self.cf_projection is not None:
            arrays["cf_projection"] = self.cf_projection.weights
        if self.predicted_popularity is not None:
            arrays["predicted_popularity"] = self.predicted_popularity.weights
        write_states(path, self._mapped, dict(self._values), arrays)

    @classmethod
    def load(cls, path: Path) -> "StateStore":
        """Reads what `save` wrote."""
        mapped, arrays = read_states(path)
        store = cls(int(arrays["layer"]) or None, bool(arrays["words"]))
        store._mapped = mapped
        readers = [_spaces_in(arrays, reader) for reader in _READERS]
        if found := tuple(filter(None, readers)):
            store.spaces = JointSpaces(readers=found)
        if "cf_projection" in arrays:
            store.cf_projection = CFProjection(weights=arrays["cf_projection"])
        if "predicted_popularity" in arrays:
            store.predicted_popularity = PopularityProjection(weights=arrays["predicted_popularity"])
        _require_shapes(store, mapped, path)
        return store

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


def _require_shapes(store: StateStore, states: StateFile, path: Path) -> None:
    """Raises BundleError where arrays of a file do not fit each other."""
    readers = () if store.spaces is None else store.spaces.readers
    if any(one.names.centre.ndim != 1 for one in readers):
        raise BundleError(f"{path} is damaged: the centre of a space is no vector")
    width = len(readers[0].names.centre) if readers else states.dim  # words are not kept: they are read anew
    whole = sum(part.basis.shape[-1] for one in readers for part in one.parts if part is not None)
    projection, popularity = store.cf_projection, store.predicted_popularity
    fits = {
        "states": not len(states) or states.dim == width,
        "spaces": all(
            space.centre.shape == one.names.centre.shape and space.basis.shape[:-1] == space.centre.shape
            for one in readers
            for space in (one.names, *filter(None, one.parts))
        ),
        "cf_projection": projection is None or (projection.weights.ndim, len(projection.weights)) == (2, whole),
        "predicted_popularity": popularity is None or popularity.weights.shape == (whole,),
    }
    if wrong := [name for name, right in fits.items() if not right]:
        raise BundleError(f"{path} is damaged: the shapes of {', '.join(wrong)} do not fit the other arrays")


def _place_in_reading(longest: CandidateSpan) -> tuple[int, bytes]:
    """Sort key of texts that are to be read: their length, by powers of 2 from `_SHORT` on, then their tokens."""
    sequence = longest.sequence
    return max(len(sequence), _SHORT).bit_length(), sequence.token_ids.astype(">u8").tobytes()


def _named(spaces: JointSpaces | None) -> dict[str, EmbeddingSpace]:
    """Name -> space, as they are saved."""
    named: dict[str, EmbeddingSpace] = {}
    for reader, one in zip(_READERS, () if spaces is None else spaces.readers, strict=False):
        parts = zip(TEXT_PARTS, one.parts, strict=True)
        named |= {f"{reader}names": one.names}
        named |= {f"{reader}{name}": space for name, space in parts if space is not None}
    return named


def _spaces_in(arrays: Mapping[str, NDArray[Any]], reader: str) -> ItemSpaces | None:
    """A reader's spaces among saved arrays; None where there are none."""
    found = {
        name: EmbeddingSpace(centre=arrays[f"{reader}{name}_centre"], basis=arrays[f"{reader}{name}_basis"])
        for name in ("names", *TEXT_PARTS)
        if f"{reader}{name}_centre" in arrays
    }
    return ItemSpaces(names=found["names"], parts=tuple(found.get(part) for part in TEXT_PARTS)) if found else None
