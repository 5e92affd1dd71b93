"""Vectors of items from anywhere: a candidate generator's factors, or embeddings of their pictures, sounds or texts."""

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.schema import ITEM, validate_item_vectors
from reranker.data.table_io import read_table
from reranker.errors import DataError
from reranker.types import IntArray, ItemId
from reranker.utils.id_json import encode_ids

logger = logging.getLogger(__name__)

COLLABORATIVE = "collaborative"
"""Name of tables that a candidate generator's item space gave."""

_SAME = 0.99  # correlation from which two tables are taken for one space as it is
_ALIGNED = 0.6  # and from which a rotation of the one is taken for the other
_CHECKED_SHARE = 0.25


@dataclass(frozen=True, kw_only=True, eq=False)
class VectorTable:
    """One vector an item, at unit length: only directions count, as for the likeness of items in collaborative space.

    Attributes:
        item_ids: the items that have a vector.
        vectors: (n_items, d) float32.
        name: where they come from: "collaborative", or the name of a file.
    """

    item_ids: Sequence[ItemId]
    vectors: NDArray[np.float32]
    name: str = COLLABORATIVE

    @classmethod
    def build(
        cls, item_ids: Sequence[ItemId], vectors: NDArray[np.float32], name: str = COLLABORATIVE
    ) -> "VectorTable":
        """From (len(item_ids), d) vectors of any length; rows of zeros are left out, and counted in the log.

        Raises:
            DataError: no item has a vector.
        """
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        kept = np.flatnonzero(lengths > 0)
        if not len(kept):
            raise DataError(f"table {name!r}: none of its {len(item_ids)} items has a vector other than zeros")
        if len(kept) < len(item_ids):
            logger.info("table %r: %d of %d items have no vector", name, len(item_ids) - len(kept), len(item_ids))
        return cls(
            item_ids=[item_ids[row] for row in kept],
            vectors=(vectors[kept] / lengths[kept, None]).astype(np.float32),
            name=name,
        )

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, name: str = "item_vectors") -> "VectorTable":
        """From `item_id` and a column `vector` of lists, or numeric columns. Raises DataError for any other table."""
        item_ids, vectors = validate_item_vectors(frame, name)
        return cls.build(item_ids, vectors, name)

    @classmethod
    def read(cls, path: Path, items: Iterable[ItemId] = ()) -> "VectorTable":
        """From a file that `read_table` takes, whose ids are of the kind of `items` where a CSV does not say.

        Raises:
            DataError: it is missing, or no such table.
        """
        return cls.from_frame(read_table(path, known={ITEM: items}), path.name)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """d: numbers an item."""
        return int(self.vectors.shape[1])

    @cached_property
    def sha256(self) -> str:
        """Hash of ids and vectors."""
        ids = json.dumps(encode_ids(self.item_ids)).encode()
        return hashlib.sha256(ids + b"\0" + self.vectors.astype("<f4").tobytes()).hexdigest()

    @cached_property
    def _index(self) -> dict[ItemId, int]:
        return {item: row for row, item in enumerate(self.item_ids)}

    def rows(self, item_ids: Iterable[ItemId]) -> IntArray:
        """Row of each item; -1 for an item without a vector."""
        return np.array([self._index.get(item, -1) for item in item_ids], dtype=np.int64)

    def require_items(self, item_ids: Iterable[ItemId], domain: str) -> None:
        """Logs how many of a domain's items have a vector.

        Raises:
            DataError: none has.
        """
        rows = self.rows(item_ids)
        found = int((rows >= 0).sum())
        if not found:
            raise DataError(
                f"item vectors of {self.name!r}: none of the {len(rows)} items of domain {domain!r} is among its "
                f"{len(self)} ids (such as {self.item_ids[0]!r}). Are the ids of one type, and of this catalogue?"
            )
        logger.info("domain %r: %d of %d items have no vector and get no token", domain, len(rows) - found, len(rows))

    def extended(self, other: "VectorTable") -> "VectorTable":
        """This table and, behind it, the items that only `other` has, moved into this table's space.

        Where both tables place the items they share alike, they are of one space and the vectors are taken as they
        are. Otherwise `other` may be another fit of a factor model, whose space is rotated against this one: the
        rotation that takes the shared items nearest to where they lie here (orthogonal Procrustes, Schönemann 1966) is
        fitted on three quarters of them and must bring the rest near too.

        Raises:
            DataError: other widths, or the tables are of different spaces.
        """
        if other.dim != self.dim:
            raise DataError(
                f"item vectors of {other.name!r} have {other.dim} numbers, those of {self.name!r} {self.dim}"
            )
        here = self.rows(other.item_ids)
        shared = np.flatnonzero(here >= 0)
        rotation = self._rotation(other.vectors[shared], here[shared], other.name)
        new = np.flatnonzero(here < 0)
        moved = other.vectors[new] if rotation is None else other.vectors[new] @ rotation
        return VectorTable(
            item_ids=[*self.item_ids, *(other.item_ids[row] for row in new)],
            vectors=np.concatenate([self.vectors, moved.astype(np.float32)]),
            name=self.name,
        )

    def _rotation(self, vectors: NDArray[np.float32], rows: IntArray, name: str) -> NDArray[np.float32] | None:
        """(d, d) from the other space into this one; None where they are the same."""
        mine = self.vectors[rows]
        if len(rows) and _correlation(vectors, mine) >= _SAME:
            return None
        order = np.random.default_rng(0).permutation(len(rows))
        checked, fitted = np.split(order, [round(_CHECKED_SHARE * len(rows))])
        near = 0.0
        if len(fitted) > self.dim:  # fewer leave the rotation open
            near = _correlation(vectors[checked] @ _procrustes(vectors[fitted], mine[fitted]), mine[checked])
        if near < _ALIGNED:
            raise DataError(
                f"item vectors of {name!r} are of another space than those of {self.name!r} that the item tokens were "
                f"trained on: {len(rows)} items are in both, and no rotation brings them together (correlation "
                f"{near:.2f}, needed {_ALIGNED}). Train item tokens on these vectors"
            )
        return _procrustes(vectors, mine)


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Of all numbers of two tables, each about its mean: what all items share (embeddings often do) says nothing."""
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    return float((one * other).sum() / max(1e-9, np.linalg.norm(one) * np.linalg.norm(other)))


def _procrustes(vectors: NDArray[np.float32], targets: NDArray[np.float32]) -> NDArray[np.float32]:
    """(d, d) orthogonal R that minimises |vectors R - targets|."""
    left, _, right = np.linalg.svd(vectors.T.astype(np.float64) @ targets)
    return np.asarray(left @ right, dtype=np.float32)
