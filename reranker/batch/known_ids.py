"""Ids of the bundle against those of a run's candidates: of one kind, and most of the items known."""

import logging
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from reranker.batch.inputs import InputTable
from reranker.data.id_matching import MOST, most_unknown, written_otherwise
from reranker.data.schema import ITEM, USER
from reranker.data.table_io import are_texts
from reranker.errors import DataError
from reranker.types import ItemId, UserId

logger = logging.getLogger(__name__)

_LOOKED_AT = 1000


@dataclass(frozen=True, kw_only=True)
class KnownIds:
    """Ids that the bundle knows.

    Attributes:
        users: with a history.
        items: of the item table.
    """

    users: Sequence[UserId]
    items: Sequence[ItemId]

    @cached_property
    def texts(self) -> frozenset[str]:
        """The columns of ids that are texts."""
        return frozenset(name for name, ids in self.columns.items() if are_texts(ids))

    def of_known_kind(self, table: InputTable, texts: AbstractSet[str]) -> InputTable:
        """The table with numbers as texts where ids are texts elsewhere and some of the numbers are among the known.

        Args:
            table: as it was opened.
            texts: columns of ids that are texts elsewhere.
        """
        types = dict(table.types)
        for name in sorted(texts & self.texts):
            if types[name] == pa.int64() and self._any_known(table, name):
                logger.warning("candidates: the numbers in %s are read as texts, as these ids are in the bundle", name)
                types[name] = pa.string()
        return replace(table, types=types)

    def require_most(
        self, table: InputTable, where: str, *, of_users: bool, what: str = "candidates"
    ) -> dict[str, int]:
        """Refuses a table of which most rows hold an item that is not known, or a user that is written otherwise.

        Ids of another kind than the known ones are left to the ranking, which refuses them.

        Args:
            table: candidates or interactions of the run.
            where: it lies.
            of_users: users are looked at: no newer histories were given.
            what: the table is called.

        Returns:
            For each column that was looked at, how many rows hold an id that is not known.

        Raises:
            DataError: most are unknown.
        """
        found = dict[str, int]()
        for name, known in (self.columns if of_users else {ITEM: self.items}).items():
            values = _array(known, table.types[name])
            if values is None or not len(values):
                continue
            rows, unknown, examples = 0, 0, dict[Any, None]()
            for batch in table.only(name).batches():
                ids = batch.column(name).drop_null()
                missing = ids.filter(pc.invert(pc.is_in(ids, value_set=values)))
                rows, unknown = rows + len(ids), unknown + len(missing)
                if len(missing) and len(examples) < _LOOKED_AT:
                    examples |= dict.fromkeys(pc.unique(missing).to_pylist())
            found[name] = unknown
            if unknown <= MOST * rows:
                continue
            some = pd.Series(list(examples)[:_LOOKED_AT], dtype=object, name=name)
            if name == ITEM or written_otherwise(known, list(some)):  # users may well be new
                owner = "the bundle's item table" if name == ITEM else "the bundle's histories"
                raise DataError(most_unknown(known, some, unknown, rows, f"{what} {where}", owner))
        return found

    @property
    def columns(self) -> dict[str, Sequence[Any]]:
        """The ids by their column."""
        return {USER: self.users, ITEM: self.items}

    def _any_known(self, table: InputTable, name: str) -> bool:
        values = _array(self.columns[name], pa.string())
        numbers = (batch.column(name) for batch in table.only(name).batches())
        return any(pc.any(pc.is_in(ids.cast(pa.string()), value_set=values)).as_py() for ids in numbers)


def _array(ids: Sequence[Any], kind: pa.DataType) -> Any | None:
    """The ids as an array of a type; None where they are not of it."""
    try:
        return pa.array(list(ids), kind)
    except (pa.ArrowException, TypeError, OverflowError):
        return None
