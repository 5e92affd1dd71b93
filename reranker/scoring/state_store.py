"""Hidden states of items' texts, and where they lie in the spaces of a catalogue."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranker.errors import BundleError, ConfigError
from reranker.prompting import TEXT_PARTS, ItemTexts
from reranker.protocols import Engine
from reranker.scoring import span_cache
from reranker.scoring.kept_states import KeptStates
from reranker.scoring.span_cache import Key
from reranker.scoring.state_cache import StateCache, TextsRead
from reranker.scoring.state_file import StateFile, read_states
from reranker.scoring.text_spaces import ItemSpaces, JointSpaces
from reranker.types import IntArray
from reranker.utils.spaces import CFProjection, EmbeddingSpace, PopularityProjection, Vectors, unit

_READERS = ("", "words_")  # what the arrays of each reader's spaces begin with


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


class StateStore:
    """Kept states, and the spaces that they are compared in: what is learned gives another store over the same states.

    Args:
        layer: whose states they are; None for the last one's.
        words: a bag of the text's words stands beside its hidden state.
        kept: the states; none by default.
        spaces: of the catalogue; None compares the states of names as they are.
        cf_projection: None where the candidate generator has no item vectors, or no choices were shown.
        predicted_popularity: None where no choices were shown.
    """

    def __init__(
        self,
        layer: int | None = None,
        words: bool = False,
        *,
        kept: KeptStates | None = None,
        spaces: JointSpaces | None = None,
        cf_projection: CFProjection | None = None,
        predicted_popularity: PopularityProjection | None = None,
    ) -> None:
        self._kept = KeptStates(layer, words) if kept is None else kept
        self.spaces = spaces
        self.cf_projection = cf_projection
        self.predicted_popularity = predicted_popularity
        self._placed: dict[Key, tuple[Vectors, Vectors, np.float32]] = {}  # by the key of an item's longest span

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def layer(self) -> int | None:
        """Whose states they are; None for the last one's."""
        return self._kept.layer

    @property
    def words(self) -> bool:
        """Whether a bag of the text's words stands beside its hidden state."""
        return self._kept.words

    @property
    def texts_read(self) -> TextsRead:
        """What the last `reading` read."""
        return self._kept.texts_read

    @property
    def penalties(self) -> tuple[float, float]:
        """Of the projections to the collaborative space and to popularity; 0 where one is not known."""
        cf_projection, popularity = self.cf_projection, self.predicted_popularity
        return (
            0.0 if cf_projection is None else cf_projection.penalty,
            0.0 if popularity is None else popularity.penalty,
        )

    def reading(self, cache: StateCache | None, progress: bool | None) -> AbstractContextManager[None]:
        """As `KeptStates.reading` has it."""
        return self._kept.reading(cache, progress)

    def without_spaces(self) -> "StateStore":
        """The same states, nothing learned."""
        return StateStore(kept=self._kept)

    def for_catalog(self, engine: Engine, items: ItemTexts) -> "StateStore":
        """With the spaces of names and parts learned from these items; projections are to be learned anew."""
        states, words = self.states(engine, items), self._kept.n_words
        spaces = JointSpaces.fit(states, (states.shape[-1] - words, words) if words else states.shape[-1:])
        return StateStore(kept=self._kept, spaces=spaces)

    def for_choices(
        self, cf_projection: CFProjection | None, predicted_popularity: PopularityProjection | None
    ) -> "StateStore":
        """With other projections."""
        return StateStore(
            kept=self._kept,
            spaces=self.spaces,
            cf_projection=cf_projection,
            predicted_popularity=predicted_popularity,
        )

    def whole(self, engine: Engine, items: ItemTexts) -> Vectors:
        """(n_items, n) as `ItemSpaces.whole` places them: what projections are learned from.

        Raises:
            ConfigError: the spaces of the catalogue were not learned before.
        """
        if self.spaces is None:
            raise ConfigError("what is learned from choices stands on the catalogue's texts: call for_catalog first")
        return self.spaces.whole(self.states(engine, items))

    def look_up(self, engine: Engine, items: ItemTexts) -> Placed:
        """Where the items lie.

        Raises:
            ConfigError: the engine gives no hidden states.
        """
        placed = self._kept.each(engine, items, self._placed_once)
        near, cf_projection, predicted_popularity = zip(*placed, strict=True)
        return Placed(
            near=np.stack(near),
            cf_projection=np.stack(cf_projection),
            predicted_popularity=np.stack(predicted_popularity),
        )

    def states(self, engine: Engine, items: ItemTexts) -> Vectors:
        """(n_items, 1 + n_parts, dim), as `KeptStates.states` has them."""
        return self._kept.states(engine, items)

    def _placed_once(self, key: Key, state: Callable[[], Vectors]) -> tuple[Vectors, Vectors, np.float32]:
        placed = self._placed.get(key)
        if placed is None:  # one by one: in a batch the last bits depend on the other rows
            placed = self._placed[key] = self._place(state())
            if len(self._placed) > span_cache.MOST:
                self._placed.pop(next(iter(self._placed)))
        return placed

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

    def save(self, path: Path) -> None:
        """Writes an npz file without pickle, whose states are read where they lie when it is loaded."""
        arrays: dict[str, NDArray[Any]] = {}
        for name, space in _named(self.spaces).items():
            arrays |= {f"{name}_centre": space.centre, f"{name}_basis": space.basis}
        if self.cf_projection is not None:
            arrays["cf_projection"] = self.cf_projection.weights
            arrays["cf_projection_penalty"] = np.array(self.cf_projection.penalty)
        if self.predicted_popularity is not None:
            arrays["predicted_popularity"] = self.predicted_popularity.weights
            arrays["predicted_popularity_penalty"] = np.array(self.predicted_popularity.penalty)
        self._kept.save(path, arrays)

    @classmethod
    def load(cls, path: Path) -> "StateStore":
        """Reads what `save` wrote.

        Raises:
            BundleError: arrays do not fit each other.
        """
        mapped, arrays = read_states(path)
        found = tuple(filter(None, (_spaces_in(arrays, reader) for reader in _READERS)))
        cf_projection, popularity = arrays.get("cf_projection"), arrays.get("predicted_popularity")
        of_cf, of_popularity = (
            _number(arrays.get(f"{name}_penalty", np.array(0.0)), f"{name}_penalty", path)
            for name in ("cf_projection", "predicted_popularity")
        )
        store = cls(
            kept=KeptStates(
                int(_number(arrays["layer"], "layer", path)) or None,
                bool(_number(arrays["words"], "words", path)),
                mapped,
            ),
            spaces=JointSpaces(readers=found) if found else None,
            cf_projection=None if cf_projection is None else CFProjection(weights=cf_projection, penalty=of_cf),
            predicted_popularity=(
                None if popularity is None else PopularityProjection(weights=popularity, penalty=of_popularity)
            ),
        )
        _require_shapes(store, mapped, path)
        return store


def _number(array: NDArray[Any], name: str, path: Path) -> float:
    """The number in an array without axes."""
    if array.shape != () or array.dtype.kind not in "biuf":
        raise BundleError(f"{path} is damaged: {name} is {array.dtype} of shape {array.shape}, not one number")
    return float(array)


def _require_shapes(store: StateStore, states: StateFile, path: Path) -> None:
    """Raises BundleError where arrays of a file do not fit each other."""
    readers = () if store.spaces is None else store.spaces.readers
    if any(one.names.centre.ndim != 1 for one in readers):
        raise BundleError(f"{path} is damaged: the centre of a space is no vector")
    width = len(readers[0].names.centre) if readers else states.dim  # words are not kept: they are read anew
    whole = sum(part.basis.shape[-1] for one in readers for part in one.parts if part is not None)
    projection, popularity = store.cf_projection, store.predicted_popularity
    spaces = [space for one in readers for space in (one.names, *filter(None, one.parts))]
    floats = [array for space in spaces for array in (space.centre, space.basis)]
    floats += [one.weights for one in (projection, popularity) if one is not None]
    if any(array.dtype != np.float32 for array in floats):
        raise BundleError(f"{path} is damaged: a space or a projection is not of float32")
    if not all(0 <= penalty < np.inf for penalty in store.penalties):
        raise BundleError(f"{path} is damaged: the penalty of a projection is no number of 0 or more")
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
