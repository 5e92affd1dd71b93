"""Item vectors of the user's own: of pictures, sounds or a model of theirs, from a table or an npz file."""

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.frames import Table, as_frame
from reranker.data.id_matching import most_unknown, of_known_kind
from reranker.data.schema import ITEM, VECTOR, one_row_each, refuse_rows, require_ids_like
from reranker.data.table_io import are_texts
from reranker.errors import DataError
from reranker.types import IntArray, ItemId
from reranker.utils.spaces import EmbeddingSpace, Vectors, sampled

MOST_NUMBERS = 8192
"""Width of a vector, at most: a space of it takes its square in memory and its cube in time."""

MOST_DIRECTIONS = 512
"""Of the vectors, the loudest, that projections are learned from."""

_NAME = "item_vectors"
_ROWS_AT_A_TIME = 20_000


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemVectors:
    """Vectors of items, and the space they are compared in.

    Attributes:
        ids: the items that have one, each once.
        values: (n_items, d) of them, none without a number other than 0.
        space: learned from a sample of them.
        n_unknown: vectors left out, for no table knows their item.
    """

    ids: Sequence[ItemId]
    values: Vectors
    space: EmbeddingSpace
    n_unknown: int = 0

    @classmethod
    def of(cls, table: Table, known: pd.Series, space: EmbeddingSpace | None = None) -> "ItemVectors":
        """From a table or a file.

        Args:
            table: `item_id` and a column `vector` of lists, or `item_id` and numeric columns: whatever `as_frame`
                takes; or the path of an npz file with the arrays `item_id` and `vector`. A row of nothing but missing
                values, or zeros, is an item without a vector.
            known: ids of the items that there are.
            space: to place them in; learned from them by default.

        Raises:
            DataError: it cannot be read, an id is missing, twice or of another kind, a number is not finite, vectors
                are of several widths or of another one than the space's, or no item that there is has one.
        """
        if isinstance(table, ItemVectors):
            return table
        is_npz = isinstance(table, str | Path) and Path(table).suffix.lower() == ".npz"
        frame = _read_npz(Path(table), known) if is_npz else as_frame(table, _NAME, {ITEM: known})
        ids, values = validate_item_vectors(frame, _NAME)
        given = pd.Series(ids, dtype=object, name=ITEM)
        require_ids_like(known, given.infer_objects(), _NAME)
        _require_width(values.shape[1], space)
        there = given.isin(known.tolist()).to_numpy()
        said = values.any(axis=1)
        if not there.any():
            raise DataError(
                most_unknown(known.tolist(), given, len(given), len(given), f"table {_NAME!r}", "the item table")
            )
        kept = np.flatnonzero(there & said)
        if not len(kept):
            raise DataError(f"table {_NAME!r}: every vector of an item that there is is missing or zero")
        values = values[kept]
        return cls(
            ids=[ids[row] for row in kept.tolist()],
            values=values,
            space=EmbeddingSpace.fit(values[np.sort(sampled(len(values)))]) if space is None else space,
            n_unknown=int((~there).sum()),
        )

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return int(self.values.shape[1])

    @cached_property
    def row_of(self) -> dict[ItemId, int]:
        """Row of each item."""
        return {item: row for row, item in enumerate(self.ids)}

    @cached_property
    def near(self) -> Vectors:
        """(n_items + 1, n) unit vectors along the loudest directions; the last row, of no item, is 0."""
        return self.placed(None)

    def whole(self, rows: IntArray) -> Vectors:
        """(n_rows, n) of these rows, as projections are learned from them."""
        return self.space.place(self.values[rows], MOST_DIRECTIONS)

    def placed(self, weights: Vectors | None) -> Vectors:
        """(n_items + 1, n): `near`, or `whole` times (n, ...) weights; a block of rows at a time."""
        parts = []
        for begin in range(0, len(self.values), _ROWS_AT_A_TIME):
            rows = np.arange(begin, min(begin + _ROWS_AT_A_TIME, len(self.values)))
            parts.append(self.space.place(self.values[rows]) if weights is None else self.whole(rows) @ weights)
        whole = np.concatenate(parts)
        return np.concatenate([whole, np.zeros((1, *whole.shape[1:]), dtype=np.float32)])

    def with_more(self, newer: "ItemVectors") -> "ItemVectors":
        """With further vectors of the same space, which stand in for those of the same items."""
        kept = np.array([item not in newer.row_of for item in self.ids], dtype=np.bool_)
        return ItemVectors(
            ids=[*(item for item, stays in zip(self.ids, kept, strict=True) if stays), *newer.ids],
            values=np.concatenate([self.values[kept], newer.values]),
            space=self.space,
        )

    def summary(self, items: Collection[ItemId]) -> str:
        """How many of these items have a vector, for people, one line."""
        without = sum(item not in self.row_of for item in items)
        has = f"item vectors of {self.width} numbers: {len(items) - without:,} of {len(items):,} items have one"
        others = f"; not used, of items in no table: {self.n_unknown:,}" if self.n_unknown else ""
        return f"{has}{', the others are compared by what else is known' if without else ''}{others}"


def _require_width(width: int, space: EmbeddingSpace | None) -> None:
    if space is not None and width != len(space.centre):
        raise DataError(f"table {_NAME!r}: vectors of {width} numbers, those known have {len(space.centre)}")
    if not 2 <= width <= MOST_NUMBERS:
        raise DataError(
            f"table {_NAME!r}: vectors of {width} numbers; 2 to {MOST_NUMBERS:,} are taken. Project longer ones first"
        )


def _read_npz(path: Path, known: pd.Series) -> pd.DataFrame:
    """A table with one column a number.

    Raises:
        DataError: it cannot be read, or holds other arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, NDArray[Any]] = {name: file[name] for name in (ITEM, VECTOR) if name in file.files}
            found = list(file.files)
    except FileNotFoundError:
        raise DataError(f"no item vectors at {path}: the file does not exist") from None
    except Exception as error:  # zip, zlib and NumPy's header parser raise a dozen kinds of what damaged files hold
        raise DataError(
            f"cannot read item vectors from {path}: {error}. Write them by numpy.savez(path, item_id=ids, "
            "vector=vectors), ids as texts or whole numbers"
        ) from error
    if len(arrays) < 2:
        raise DataError(f"{path} needs the arrays {ITEM!r} and {VECTOR!r}; it has {', '.join(found) or 'none'}")
    ids, values = arrays[ITEM], arrays[VECTOR]
    if ids.ndim != 1 or ids.dtype.kind not in "iuU" or values.ndim != 2 or values.dtype.kind not in "iuf":
        raise DataError(
            f"{path}: {ITEM!r} must be a row of texts or whole numbers, is {ids.dtype} of shape {ids.shape}; "
            f"{VECTOR!r} a matrix of numbers, is {values.dtype} of shape {values.shape}"
        )
    if len(ids) != len(values):
        raise DataError(f"{path}: {len(ids)} ids and {len(values)} vectors; give one vector an id")
    column = pd.Series(ids if ids.dtype.kind != "U" else ids.astype(object), name=ITEM)
    if are_texts(known):
        column = of_known_kind(column, known.tolist(), str(path))
    return pd.concat([column, pd.DataFrame(values)], axis=1)


def validate_item_vectors(
    frame: pd.DataFrame, name: str = "item_vectors"
) -> tuple[list[Hashable], NDArray[np.float32]]:
    """Item ids and their (n_items, d) vectors; zeros for an item whose vector is missing.

    The numbers of a vector stand in one column `vector` of lists, or in numeric columns of their own.

    Raises:
        DataError: empty table, missing, unhashable or duplicate item_id, columns that are no numbers, vectors of
            different lengths, or a number that is not finite.
    """
    frame = one_row_each(frame, [ITEM], name)
    values = _listed_vectors(frame, name) if VECTOR in frame else _numeric_columns(frame, name)
    values[np.isnan(values).all(axis=1)] = 0.0
    infinite = np.asarray(~np.isfinite(values).all(axis=1))
    refuse_rows(frame, ITEM, infinite, "has a vector with numbers that are not finite", name)
    return frame[ITEM].tolist(), values.astype(np.float32)


def _listed_vectors(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """(rows, d) from a column of lists; NaN where there is none."""
    present = frame[VECTOR].notna().to_numpy()
    lengths = frame[VECTOR].map(lambda value: len(value) if isinstance(value, list | tuple | np.ndarray) else 0)
    dim = max(1, *lengths)
    counted = frame.assign(**{VECTOR: lengths})
    wrong = present & (lengths.to_numpy() != dim)
    refuse_rows(counted, VECTOR, wrong, f"is a list of another length than {dim}; shown are the lengths", name)
    values = np.full((len(frame), dim), np.nan)
    if present.any():
        try:
            values[present] = np.array(frame[VECTOR][present].tolist(), dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"table {name!r}, column {VECTOR!r}: each row must list numbers, nothing else ({error})"
            ) from error
    return values


def _numeric_columns(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """(rows, d) of all columns but the id."""
    columns = frame.drop(columns=ITEM)
    other = [str(column) for column, dtype in columns.dtypes.items() if not pd.api.types.is_numeric_dtype(dtype)]
    if other or columns.empty:
        raise DataError(
            f"table {name!r} needs {ITEM!r} and a column {VECTOR!r} of lists, or {ITEM!r} and nothing but numeric "
            f"columns; {', '.join(map(repr, other)) or 'further columns'} "
            f"{'hold no numbers' if other else 'are missing'}"
        )
    return columns.to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
