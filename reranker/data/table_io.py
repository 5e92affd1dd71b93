"""Tables in files: parquet, CSV and its kin, JSON lines. What stands in them is checked by `schema`."""

import json
import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence
from numbers import Number
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from reranker.data.formats import TAKEN, TableFormat, files_under, holds_text, is_text, open_rows, table_format
from reranker.data.id_matching import of_known_kind
from reranker.data.parquet_files import read_parquet, tell_unread_folders
from reranker.data.row_blocks import HEADER_AGAIN, KEY_TWICE, NO_OBJECT, NO_ROW, RejectedLine, RowFile, tell_spaced
from reranker.data.schema import CATEGORY, DESCRIPTION, ITEM, TITLE, USER, VECTOR
from reranker.data.text_values import IdKind, inferred
from reranker.errors import DataError
from reranker.utils.atomic_io import whole_file

logger = logging.getLogger(__name__)

_TEXTS = (TITLE, CATEGORY, DESCRIPTION)
_SHOWN_CHARACTERS = 200


def read_table(
    path: Path | str, ids: Sequence[str] = (USER, ITEM), known: Mapping[str, Iterable[Hashable]] | None = None
) -> pd.DataFrame:
    """Reads a file of `formats.TABLE_SUFFIXES`, or a directory of such, of one kind.

    In a CSV only an empty field is missing; title, category and description stay as they are written.

    Args:
        ids: columns of ids, which stay as they are written in texts: "007" is another id than "7".
        known: what `like_known` takes.

    Raises:
        DataError: the file is missing, of another type, or unreadable; a line of a CSV is no row.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"no table at {path}: the file does not exist")
    try:
        return like_known(_read(path, ids, known or {}), path, known or {})
    except (OSError, ValueError, DataError) as error:
        raise DataError(f"cannot read {path} as a table: {error}") from error


def read_dataset(interactions: Path, items: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two tables about the same items; what one of them says of their ids' kind decides for a CSV.

    Raises:
        DataError: as `read_table`.
    """
    chosen, listed = read_table(interactions), read_table(items)
    if ITEM not in chosen or ITEM not in listed:  # whoever validates them says so
        return chosen, listed
    listed = like_known(listed, items, {ITEM: chosen[ITEM]})
    return like_known(chosen, interactions, {ITEM: listed[ITEM]}), listed


def like_known(frame: pd.DataFrame, path: Path, known: Mapping[str, Iterable[Hashable]]) -> pd.DataFrame:
    """The table with ids of the kind that they have elsewhere.

    A CSV does not say whether 7 is a number or a text: it is a text where those known are texts. Numbers of parquet
    become texts only where some are known as such.

    Args:
        path: what the table was read from.
        known: column -> ids known so far; may be many.
    """
    texts = [name for name, ids in known.items() if name in frame and are_texts(ids)]
    if holds_text(path):
        numbers = [name for name in texts if pd.api.types.is_integer_dtype(frame[name])]
        return frame.astype(dict.fromkeys(numbers, str))  # loses nothing: see `IdKind`
    return frame.assign(**{name: of_known_kind(frame[name], list(known[name]), str(path)) for name in texts})


def are_texts(known: Iterable[Hashable]) -> bool:
    """True where ids that look like numbers must be texts: a text is known, and no number."""
    if isinstance(known, pd.Series):
        known = known.dropna()
    found = False
    for one in known:
        if isinstance(one, str):
            found = True
        elif isinstance(one, Number):
            return False
    return found


def write_table(frame: pd.DataFrame, path: Path | str) -> None:
    """Writes .parquet or .csv; no reader ever sees half a table.

    Raises:
        DataError: the type is unknown, or a column cannot be stored (ids of mixed types in parquet).
        OSError: the disk refused; the old file, if any, is untouched.
    """
    path = Path(path)
    if path.suffix not in (".parquet", ".csv"):
        raise DataError(f"cannot write {path}: tables are written as .parquet or .csv")
    try:
        with whole_file(path) as temporary:
            if path.suffix == ".parquet":
                _refuse_tuple_ids(frame, path)
                plain = frame.copy(deep=False)
                plain.attrs = {}
                plain.to_parquet(temporary, index=False)
            else:
                frame.to_csv(temporary, index=False)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(
            f"cannot write {path}: {error}. Values of several types in one column cannot be stored: convert them to str"
        ) from error


def _refuse_tuple_ids(frame: pd.DataFrame, path: Path) -> None:
    """Parquet would take tuples, and give back arrays, which are no ids any more."""
    for column in (USER, ITEM):
        if (
            column in frame
            and frame[column].dtype == object
            and any(isinstance(value, tuple) for value in frame[column])
        ):
            raise DataError(f"cannot write {path}: column {column!r} holds tuples. Convert these ids to str")


def _read(path: Path, ids: Sequence[str], known: Mapping[str, Iterable[Hashable]]) -> pd.DataFrame:
    files = _tables_under(path) if path.is_dir() else [path]
    if all(table_format(file) == TableFormat.PARQUET for file in files):
        return read_parquet(files, path)
    if not all(map(is_text, files)):
        raise DataError("it holds text beside parquet; give one kind" if path.is_dir() else f"expected {TAKEN}")
    tables = [_texts_of(file, ids, inside=path.is_dir()) for file in files]
    tell_unread_folders(files, path, tables[0][0].column_names)
    for file, (table, _) in zip(files, tables, strict=True):
        if set(table.column_names) != set(tables[0][0].column_names):
            raise DataError(f"{file} has other columns than {files[0]}; give all of them one header")
    return _frame(
        pa.concat_tables([table.select(tables[0][0].column_names) for table, _ in tables]),
        ids,
        set().union(*(quoted for _, quoted in tables)),
        path,
        known,
    )


def _tables_under(folder: Path) -> list[Path]:
    files = sorted(file for file in files_under(folder) if table_format(file) is not None)
    if not files:
        raise DataError(f"the folder holds no table; give a file or a folder of {TAKEN}")
    return files


def _texts_of(file: Path, ids: Sequence[str], inside: bool) -> tuple[Any, set[str]]:
    """(a pyarrow table of texts, columns in which JSON says that numbers are texts).

    Raises:
        DataError: a line is no row.
    """
    first: RejectedLine | None = None
    bad, blocks = 0, list[Any]()
    try:
        rows: RowFile = open_rows(file, ids)
        tell_spaced(rows, file)
        for block in rows.blocks():
            blocks.append(block.rows)
            bad += len(block.rejected)
            first = first or next(iter(block.rejected), None)
    except DataError as error:
        raise DataError(f"{file.name}: {error}" if inside else str(error)) from error
    if first is not None:
        raise DataError(f"{f'{file.name}: ' if inside else ''}{_why(first, bad - 1, len(rows.columns))}")
    empty = pa.table({name: pa.array([], pa.string()) for name in rows.columns})
    return pa.concat_tables([empty, *blocks], promote_options="default"), set(getattr(rows, "quoted", ()))


def _why(line: RejectedLine, others: int, width: int) -> str:
    more = f" (and {others} more such lines)" if others else ""
    counts = f", {line.fields} where the header has {width}" if line.reason == NO_ROW else ""
    hint = {
        NO_ROW: "Put fields that hold a separator in double quotes",
        NO_OBJECT: "Write one object a line",
        HEADER_AGAIN: "Take it out, or give the files that were joined as a folder",
        KEY_TWICE: "Give each key one value",
    }.get(
        line.reason,
        'Close the quote, or write a quote within a field as "". If a text is meant to run over lines, '
        "store the table as parquet or JSON lines",
    )
    return f"line {line.number}: {line.reason}{counts}: {line.text[:_SHOWN_CHARACTERS]!r}{more}. {hint}"


def _frame(
    table: Any, ids: Sequence[str], quoted: set[str], path: Path, known: Mapping[str, Iterable[Hashable]]
) -> pd.DataFrame:
    """Texts as what they stand for, a whole column at once."""
    columns: dict[str, pd.Series] = {}
    for name in table.column_names:
        values = table.column(name).combine_chunks()
        if name in ids:
            kind = IdKind()
            if name not in quoted:
                kind.see(values)
            kind.keep_spaces_of(known.get(name, ()))
            for line in kind.told(name):
                logger.warning("%s: %s", path, line)
            columns[name] = pd.Series(kind.read(values).to_pandas())
        elif name == VECTOR:
            columns[name] = _vectors(values)
        else:
            columns[name] = pd.Series(values.to_pandas()) if name in (*_TEXTS, *quoted) else inferred(values)
    return pd.DataFrame(columns)


def _vectors(values: Any) -> pd.Series:
    """Lists of numbers that are written as JSON; other texts stay, for whoever validates them."""
    try:
        lists = [None if value is None else json.loads(value) for value in values.to_pylist()]
    except ValueError:
        return inferred(values)
    return pd.Series(lists, dtype=object)
