"""Spaces in which texts are compared: one for each of their parts, and for each reader of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from reranker.errors import ModelError
from reranker.utils.spaces import EmbeddingSpace, Vectors


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemSpaces:
    """Where items lie by what is read of them.

    Parts are kept apart for the projection because in one mean a long description, or many categories, drown the title.

    Attributes:
        names: of title and category in one.
        parts: of each part by itself; None where no item has it.
    """

    names: EmbeddingSpace
    parts: tuple[EmbeddingSpace | None, ...]

    @classmethod
    def fit(cls, states: Vectors) -> "ItemSpaces":
        """From (n_items, 1 + n_parts, dim) states of `StateStore.states`.

        Raises:
            ModelError: they are no numbers, or all of them zero.
        """
        if not np.isfinite(states).all() or not states.any():
            raise ModelError(
                "the model's hidden states of all texts are zero, or not finite: its weights are damaged or were not "
                "loaded; load it anew, or try dtype 'float32'"
            )
        names, *parts = np.moveaxis(states, 1, 0)
        there = [part[part.any(axis=-1)] for part in parts]
        return cls(
            names=EmbeddingSpace.fit(names),
            parts=tuple(EmbeddingSpace.fit(part) if len(part) else None for part in there),
        )

    def near(self, states: Vectors) -> Vectors:
        """(..., 1 + n_parts, dim) states -> (..., n) unit vectors of the names; products are cosines."""
        return self.names.place(states[..., 0, :])

    def whole(self, states: Vectors) -> Vectors:
        """(..., 1 + n_parts, dim) states -> (..., n): a unit vector a part, zeros where an item has none."""
        placed = [
            space.place(states[..., 1 + number, :], None) * states[..., 1 + number, :].any(axis=-1, keepdims=True)
            for number, space in enumerate(self.parts)
            if space is not None
        ]
        return np.concatenate(placed, axis=-1)


@dataclass(frozen=True, kw_only=True, eq=False)
class JointSpaces:
    """What several readers of a text see of it, side by side: hidden states of an LM, and words.

    Each reader has spaces of its own: in one space the loudest would be the only one heard. Where the LM knows what a
    title is about, and where the same words say the same, both tell more than either (`eval.benchmark --table ladder`).

    Attributes:
        readers: the spaces of each; states hold the readers' values one after another.
    """

    readers: tuple[ItemSpaces, ...]

    @classmethod
    def fit(cls, states: Vectors, widths: Sequence[int]) -> "JointSpaces":
        """From (n_items, 1 + n_parts, sum of widths) states.

        Args:
            widths: of each reader's values; one after the first that read nothing at all is left out.

        Raises:
            ModelError: those of the first reader are no numbers, or all of them zero.
        """
        first, *others = np.split(states, np.cumsum(widths)[:-1], axis=-1)
        return cls(readers=tuple(ItemSpaces.fit(one) for one in (first, *filter(np.any, others))))

    def near(self, states: Vectors) -> Vectors:
        """(..., 1 + n_parts, dim) states -> (..., n) unit vectors of the names; products are mean cosines."""
        placed = [space.near(part) for space, part in self._of_readers(states)]
        return np.concatenate(placed, axis=-1) / np.float32(np.sqrt(len(placed)))

    def whole(self, states: Vectors) -> Vectors:
        """(..., 1 + n_parts, dim) states -> (..., n): a unit vector a part and reader, zeros where there is none."""
        return np.concatenate([space.whole(part) for space, part in self._of_readers(states)], axis=-1)

    def _of_readers(self, states: Vectors) -> Iterator[tuple[ItemSpaces, Vectors]]:
        begin = 0
        for space in self.readers:
            end = begin + len(space.names.centre)
            yield space, states[..., begin:end]
            begin = end
