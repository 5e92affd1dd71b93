"""Parquet files as one table: folders of parts, empty ones, hive partitions, an index that pandas kept, old times."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from reranker.data.text_values import IdKind
from reranker.errors import DataError

logger = logging.getLogger(__name__)

INT96_UNIT = "us"
"""Times of Spark and Impala are int96; read as nanoseconds, years after 2262 would wrap."""

_NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"


def read_parquet(files: Sequence[Path], root: Path) -> pd.DataFrame:
    """The rows of files in their order, with columns for folders named `key=value` on the way from `root`.

    Parts may lack values, even all of them, and their numbers may be of other widths. What pandas kept as a named
    index is a column.

    Raises:
        DataError: a file is no parquet, a text is no UTF-8, or a column is of types that do not go together.
    """
    folders = folder_values(files, root)
    tables = []
    for at, file in enumerate(files):
        try:
            table = pq.read_table(file, partitioning=None, coerce_int96_timestamp_unit=INT96_UNIT)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"cannot read {file.name} as parquet: {error}") from error
        for name in table.column_names:
            require_utf8(table.column(name), name, file)
        for name, values in folders.items():
            if name not in table.column_names:
                table = table.append_column(name, pa.repeat(values[at], len(table)))
        tables.append(table)
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"the files hold columns of types that do not go together: {error}. Store one type") from error
    return with_columns(table.to_pandas())


def require_utf8(column: pa.Array | pa.ChunkedArray, name: str, file: Path, first: int = 0) -> None:
    """Refuses bytes that are no text in a column of texts: nothing looks at them before they are used.

    Args:
        column: of any type.
        name: of it.
        file: where it stands.
        first: row of the file that the column begins with.

    Raises:
        DataError: a text is no UTF-8.
    """
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{file.name}: column {name!r}, row {first + _first_bad(column) + 1}: a text that is no UTF-8 ({error}). "
            "Store the table with texts in UTF-8"
        ) from error


def _first_bad(column: pa.Array | pa.ChunkedArray) -> int:
    """0-based row of the first value that is not valid; of a column that holds one."""
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            column.slice(low, middle - low).validate(full=True)
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low


def folder_values(files: Sequence[Path], root: Path) -> dict[str, Any]:
    """Hive partitions: name -> a pyarrow array with the value of each file, numbers where all are."""
    found: list[dict[str, str]] = []
    for file in files:
        parts = file.relative_to(root).parts[:-1] if file != root else ()
        pairs = (part.split("=", 1) for part in parts if "=" in part)
        found.append({name: unquote(value) for name, value in pairs})
    values = {}
    for name in dict.fromkeys(name for one in found for name in one):
        texts = pa.array([None if (text := one.get(name)) == _NULL_FOLDER else text for one in found], pa.string())
        kind = IdKind()
        kind.see(texts)
        values[name] = kind.read(texts)
    return values


def tell_unread_folders(files: Sequence[Path], root: Path, columns: Sequence[str]) -> None:
    """Says which columns named by folders (`key=value`) are not read, because the files are text.

    Args:
        files: tables in text.
        root: folder that was given.
        columns: those of the files themselves.
    """
    unread = [name for name in folder_values(files, root) if name not in columns]
    if unread:
        logger.warning(
            "%s: %s named by folders is not read, for the tables are text: give it a column in the files, or store "
            "them as parquet",
            root,
            ", ".join(map(repr, unread)),
        )


def with_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the named levels of its index as columns; what has no name only counts rows."""
    named = [level for level in frame.index.names if level is not None and level not in frame.columns]
    return frame.reset_index(level=named) if named else frame
