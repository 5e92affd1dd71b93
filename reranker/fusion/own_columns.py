"""Columns of the user's own tables, found by name and brought to one scale.

A number is placed among the values of its table (its mid-rank, from -0.5 to 0.5), so that units, skew and outliers do
not matter; truth values and dates are numbers, too. A text is a category.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.column_names import meant
from reranker.data.schema import CANDIDATE_COLUMNS, ITEM, QUERY, USER
from reranker.errors import BundleError, ConfigError, DataError
from reranker.prompting.text import field_text

Source = Literal["candidates", "items", "users"]
Kind = Literal["number", "category"]
SOURCES: tuple[Source, ...] = ("candidates", "items", "users")

MOST_KNOTS = 256
"""Quantiles that are kept of a number's values."""

MOST_VALUES = 10
"""Values of a candidates' category that get a column each: the most frequent ones."""

_MOST_UNIQUE = 0.5  # share of different texts from which on a column is no category but a name or a description
_FEW = 20  # values that a category may have in a table of any size


@dataclass(frozen=True, kw_only=True)
class OwnColumn:
    """One column of the user's tables.

    Attributes:
        source: the table.
        name: of the column.
        kind: how it is read.
        has_missing: a value was missing, so that this is told by a column of its own.
        knots: of a number: values in rising order.
        places: of a number: where each of them stands, from -0.5 to 0.5.
        values: of a candidates' category: those with a column of their own.
        of_list: of a candidates' number: it is the same throughout each list, so it is about the moment and acts on
            interaction features.
    """

    source: Source
    name: str
    kind: Kind
    has_missing: bool = False
    knots: tuple[float, ...] = ()
    places: tuple[float, ...] = ()
    values: tuple[str, ...] = ()
    of_list: bool = False

    @classmethod
    def of(cls, source: Source, values: pd.Series, of_list: bool = False) -> "OwnColumn":
        """Looks at the values of a table, one row an item, user or candidate.

        Args:
            source: the table.
            values: the column.
            of_list: it is the same throughout each list of candidates.

        Raises:
            ConfigError: nothing is there, all are the same, texts that hardly repeat, or texts that are the same
                throughout each list.
        """
        name, where = str(values.name), f"the column {values.name!r} of the {source}"
        present = values[values.notna()]
        numbers = as_numbers(present)
        n_different = len(set(present.map(field_text))) if numbers is None else len(np.unique(numbers))
        if n_different < (1 if values.isna().any() else 2):
            raise ConfigError(
                f"features: {where} holds {'nothing' if present.empty else 'one value only'}: leave it out"
            )
        has_missing = bool(values.isna().any())
        if numbers is not None:
            knots, places = _scale(numbers)
            return cls(
                source=source,
                name=name,
                kind="number",
                has_missing=has_missing,
                knots=knots,
                places=places,
                of_list=of_list,
            )
        if of_list:
            raise ConfigError(
                f"features: {where} is the same text throughout each list, so it tells no candidate from another: give "
                "numbers (hours since the last visit), which act on the interaction features"
            )
        if n_different > max(_FEW, _MOST_UNIQUE * len(present)):
            raise ConfigError(
                f"features: {where} holds {n_different} different texts in {len(present)} rows, so it is a name or a "
                "description and no category: leave it out, or give a column whose values repeat"
            )
        frequent = present.map(field_text).value_counts().index[:MOST_VALUES].tolist() if source == "candidates" else []
        return cls(source=source, name=name, kind="category", has_missing=has_missing, values=tuple(frequent))

    @property
    def key(self) -> str:
        """How it is asked for, whatever other tables hold."""
        return f"{self.source}.{self.name}"

    def scaled(self, values: pd.Series) -> NDArray[np.float64]:
        """(rows,) places of numbers among those of the table it was learned from; NaN where missing.

        Raises:
            DataError: a value is no number.
        """
        present = values.notna().to_numpy()
        result = np.full(len(values), np.nan)
        if present.any():
            numbers = as_numbers(values[present])
            if numbers is None:
                raise DataError(
                    f"features: the column {self.name!r} of the {self.source} held numbers, now other values"
                )
            result[present] = np.interp(numbers, self.knots, self.places)
        return result

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "name": self.name,
            "kind": self.kind,
            "has_missing": self.has_missing,
            "knots": list(self.knots),
            "places": list(self.places),
            "values": list(self.values),
            "of_list": self.of_list,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "OwnColumn":
        """Reads what `to_json` wrote.

        Raises:
            BundleError: a field is missing or of another kind.
        """
        try:
            knots, places = (tuple(float(value) for value in data[name]) for name in ("knots", "places"))
            column = cls(
                source=data["source"],
                name=str(data["name"]),
                kind=data["kind"],
                has_missing=bool(data["has_missing"]),
                knots=knots,
                places=places,
                values=tuple(map(str, data["values"])),
                of_list=bool(data.get("of_list", False)),
            )
            if column.source not in SOURCES or column.kind not in ("number", "category"):
                raise ValueError(f"unknown source {column.source!r} or kind {column.kind!r}")
            if len(knots) != len(places) or not np.isfinite([*knots, *places]).all() or (np.diff(knots) <= 0).any():
                raise ValueError(f"the scale of {column.name!r} does not rise")
            if (column.kind == "number") != bool(knots):
                raise ValueError(f"the column {column.name!r} has no scale, or one too many")
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"own features: not what this version writes ({error!r}); fit the bundle again"
            ) from error
        return column


def as_numbers(values: pd.Series) -> NDArray[np.float64] | None:
    """(rows,) numbers, truth values as 0 and 1, dates as seconds; None where a present value is something else."""
    values = values.infer_objects()
    if pd.api.types.is_datetime64_any_dtype(values):
        times = pd.to_datetime(values, utc=True).dt.tz_localize(None)
        return times.to_numpy(dtype="datetime64[ns]").astype(np.int64) / 1e9
    if pd.api.types.is_bool_dtype(values) or pd.api.types.is_numeric_dtype(values):
        numbers = values.to_numpy(dtype=np.float64)
        return numbers if np.isfinite(numbers).all() else None
    texts = values.map(field_text)
    try:
        numbers = pd.to_numeric(texts).to_numpy(dtype=np.float64)
    except ValueError:
        try:
            return as_numbers(pd.to_datetime(texts, format="ISO8601", utc=True))
        except ValueError:
            return None
    return numbers if np.isfinite(numbers).all() else None


def resolved(
    names: Sequence[str], items: pd.DataFrame, users: pd.DataFrame | None, candidates: pd.DataFrame | None
) -> tuple[OwnColumn, ...]:
    """The columns that are asked for, each found in one of the tables.

    Args:
        names: of columns; "items.price" names the table, too.
        items: item table.
        users: `user_id` and further columns, or None.
        candidates: lists with further columns, or None where a generator makes them.

    Raises:
        ConfigError: a column is nowhere, in two tables, asked for twice, or cannot be a feature.
    """
    tables = {"candidates": candidates, "items": items, "users": users}
    there = {source: _further(table) for source, table in tables.items() if table is not None}
    found = [_found(name, there) for name in names]
    if repeated := sorted({f"{source}.{name}" for source, name in found if found.count((source, name)) > 1}):
        raise ConfigError(f"features: {', '.join(repeated)} is asked for twice")
    columns = []
    for source, name in found:
        table = tables[source]
        assert table is not None
        columns.append(OwnColumn.of(source, table[name], source == "candidates" and _is_of_lists(table, name)))
    return tuple(columns)


def _is_of_lists(candidates: pd.DataFrame, name: str) -> bool:
    """Whether a column is the same throughout each list."""
    of_users = candidates.groupby(USER, sort=False)[name]
    return bool((of_users.nunique(dropna=False) <= 1).all() and (of_users.size() > 1).any())


def unused(
    names: Sequence[str], items: pd.DataFrame, users: pd.DataFrame | None, candidates: pd.DataFrame | None = None
) -> list[str]:
    """Columns of candidates, items and users that could be features and are not asked for."""
    found = []
    tables: dict[Source, pd.DataFrame | None] = {"candidates": candidates, "items": items, "users": users}
    for source, table in tables.items():
        if table is None:
            continue
        for name in _further(table):
            if name in names or f"{source}.{name}" in names:
                continue
            try:
                OwnColumn.of(source, table[name], source == "candidates" and _is_of_lists(table, name))
            except ConfigError:
                continue
            found.append(f"{source}.{name}")
    return found


_OURS = {ITEM, USER, QUERY, *CANDIDATE_COLUMNS, "title", "category", "description"}


def _further(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table.columns if str(name) not in _OURS]


def _found(name: str, there: Mapping[str, Sequence[str]]) -> tuple[Any, str]:
    source, point, column = name.partition(".")
    if point and source in there and column in there[source]:
        return source, column
    holding = [source for source, names in there.items() if name in names]
    if len(holding) > 1:
        ways = " or ".join(f"{source}.{name}" for source in holding)
        raise ConfigError(f"features: {name!r} is a column of {' and '.join(holding)}: ask for {ways}")
    if not holding:
        shown = "; ".join(f"{source}: {', '.join(names) or 'none'}" for source, names in there.items())
        every = [column for names in there.values() for column in names]
        raise ConfigError(f"features: no table has a column {name!r}. There are, {shown}.{meant([name], every)}")
    return holding[0], name


def _scale(numbers: NDArray[np.float64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Values in rising order and their mid-ranks, as many as are kept."""
    values, counts = np.unique(numbers, return_counts=True)
    places = (np.cumsum(counts) - counts / 2) / len(numbers) - 0.5
    if len(values) > MOST_KNOTS:
        kept = np.unique(np.searchsorted(places, np.linspace(places[0], places[-1], MOST_KNOTS)))
        values, places = values[kept], places[kept]
    return tuple(values.tolist()), tuple(places.tolist())


def codes_of(values: pd.Series, known: Mapping[str, int]) -> NDArray[np.int64]:
    """(rows,) number of each category; -1 where it is missing or unknown."""
    texts: list[Hashable] = [field_text(value) for value in values]
    return np.array([known.get(str(text), -1) if text else -1 for text in texts], dtype=np.int64)
