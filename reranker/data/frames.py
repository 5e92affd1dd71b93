"""Whatever holds a table, as a pandas frame: the one edge at which frames of other libraries and paths are taken."""

from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import narwhals as nw
import pandas as pd

from reranker.data.formats import TAKEN
from reranker.data.parquet_files import with_columns
from reranker.data.table_io import like_known, read_dataset, read_table
from reranker.errors import DataError

Table: TypeAlias = Any
"""A pandas frame, whatever narwhals takes (polars, pyarrow, modin, DuckDB, ...), or the path of a file or folder."""

_COLUMNS = frozenset(
    [
        "user_id",
        "item_id",
        "timestamp",
        "datetime",
        "event",
        "rating",
        "weight",
        "strength",
        "score",
        "rank",
        "title",
        "vector",
    ]
)


def as_frame(table: Table, name: str = "table", known: Mapping[str, Iterable[Hashable]] | None = None) -> pd.DataFrame:
    """A pandas frame of the table; ids in a named index are columns.

    Args:
        table: pandas, polars or pyarrow, anything else that narwhals takes, or a path that `read_table` takes.
        name: of the table, for errors.
        known: column -> ids known so far, whose kind those of a file take; see `like_known`.

    Raises:
        DataError: it is no table, or the file cannot be read.
    """
    if isinstance(table, pd.DataFrame):
        is_named = any(level in _COLUMNS for level in table.index.names if isinstance(level, str))
        return with_columns(table) if is_named else table
    if isinstance(table, str | Path):
        return read_table(table, known=known)
    found = nw.from_native(table, pass_through=True)
    if isinstance(found, nw.LazyFrame):
        found = found.collect("pyarrow")
    if isinstance(found, nw.DataFrame):
        return with_columns(found.to_pandas())
    kind = f"{type(table).__module__}.{type(table).__qualname__}".removeprefix("builtins.")
    raise DataError(
        f"table {name!r} must be a pandas, polars or pyarrow table, or the path of a file ({TAKEN}), got {kind}"
    )


def as_dataset(interactions: Table, items: Table) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two tables about the same items; where a file does not say what its ids are, the other table does.

    Raises:
        DataError: as `as_frame`.
    """
    paths = [isinstance(table, str | Path) for table in (interactions, items)]
    if all(paths):
        return read_dataset(Path(interactions), Path(items))
    chosen, listed = as_frame(interactions, "interactions"), as_frame(items, "items")
    if "item_id" in chosen and "item_id" in listed:
        if paths[0]:
            chosen = like_known(chosen, Path(interactions), {"item_id": listed["item_id"]})
        if paths[1]:
            listed = like_known(listed, Path(items), {"item_id": chosen["item_id"]})
    return chosen, listed
