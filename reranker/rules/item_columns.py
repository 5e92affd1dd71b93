"""Columns of the item table as rules read them: for the items of some lists, whatever the catalogue's size."""

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.categories import category_names
from reranker.data.column_names import meant
from reranker.data.schema import CATEGORY, ITEM
from reranker.errors import ConfigError
from reranker.prompting.text import field_text
from reranker.rules.settings import Range, Rules
from reranker.types import ItemId


class ItemColumns:
    """Values of items by id and column.

    Args:
        items: a validated item table.
    """

    def __init__(self, items: pd.DataFrame) -> None:
        self._items = items
        self._rows = pd.Index(items[ITEM].astype(object))

    def require(self, rules: Rules) -> None:
        """Refuses rules about columns that the item table lacks.

        Raises:
            ConfigError: with the columns that there are.
        """
        there = [str(name) for name in self._items.columns if name != ITEM]
        if missing := [name for name in rules.columns if name not in there]:
            raise ConfigError(
                f"rules: the item table has no column {', '.join(map(repr, missing))}; it has {', '.join(there)}."
                f"{meant(missing, there)}"
            )

    def known(self, item: ItemId) -> ItemId | None:
        """The id as the table has it, a number for its digits and the other way round; None for an unknown item."""
        for form in (item, str(item), _number(item)):
            if form is not None and form in self._rows:
                return form
        return None

    def of(self, items: Sequence[ItemId], columns: Iterable[str]) -> pd.DataFrame:
        """(len(items), columns) values; missing for unknown items."""
        rows = self._rows.get_indexer(pd.Index(pd.Series(list(items), dtype=object)))
        taken = {name: self._items[name].take(np.maximum(rows, 0)).reset_index(drop=True) for name in columns}
        values = pd.DataFrame(taken, index=pd.RangeIndex(len(items)))
        return values.where(np.broadcast_to(rows[:, None] >= 0, values.shape)) if (rows < 0).any() else values


def matches(values: pd.DataFrame, where: Mapping[str, Any], now: datetime) -> NDArray[np.bool_]:
    """(rows,) True where every column of a condition holds.

    Args:
        values: columns of items, one row an item.
        where: column -> `Range`, or values of which one has to be equal, as texts.
        now: what `within_days` counts back from.

    Raises:
        ConfigError: a range of dates for a column of numbers, or the other way round.
    """
    found = np.ones(len(values), dtype=np.bool_)
    for column, wanted in where.items():
        if isinstance(wanted, Range):
            found &= _within(values[column], wanted, column, now)
        else:
            texts = {field_text(value) for value in wanted}
            found &= np.array([not texts.isdisjoint(parts) for parts in parts_of(values[column])], dtype=np.bool_)
    return found


def parts_of(values: pd.Series) -> list[tuple[str, ...]]:
    """The values of each row as texts: several of a category, one of any other column, none where it is missing."""
    texts = [field_text(value).strip() for value in values]
    if values.name == CATEGORY:
        return [category_names(text) for text in texts]
    return [(text,) if text else () for text in texts]


def _within(values: pd.Series, wanted: Range, column: str, now: datetime) -> NDArray[np.bool_]:
    low, high = wanted.at_least, wanted.at_most
    if wanted.within_days is not None:
        low = now - timedelta(days=wanted.within_days)
    is_number = isinstance(low if low is not None else high, float)
    present = values.notna().to_numpy()
    are_numbers = pd.api.types.is_numeric_dtype(values) or all(_is_number(value) for value in values[present])
    if present.any() and is_number != are_numbers:
        raise ConfigError(
            f"rules: the column {column!r} holds {'numbers' if are_numbers else 'no numbers'}, so the range "
            f"({wanted}) needs {'numbers' if are_numbers else 'dates (2026-01-31)'}, too"
        )
    found = present.copy()
    if not present.any():
        return found
    known = pd.to_numeric(values) if is_number else pd.to_datetime(values, format="ISO8601", utc=True, errors="coerce")
    found &= known.notna().to_numpy()
    if low is not None:
        found &= (known >= _comparable(low)).to_numpy()
    if high is not None:
        found &= (known <= _comparable(high)).to_numpy()
    return found


def _comparable(bound: float | date | datetime) -> Any:
    """A number as it is; a date as a time in UTC."""
    if isinstance(bound, float):
        return bound
    time = pd.Timestamp(bound)
    return time.tz_localize(UTC) if time.tzinfo is None else time.tz_convert(UTC)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _number(item: Hashable) -> int | None:
    """The whole number whose digits a text is."""
    if not isinstance(item, str) or not re.fullmatch(r"0|-?[1-9][0-9]{0,18}", item):
        return None
    return int(item)
