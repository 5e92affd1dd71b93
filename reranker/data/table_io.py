"""Tables in files: parquet, CSV and TSV. What stands in them is checked by `tables`."""

import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv

from reranker.data.csv_quotes import require_closed_quotes
from reranker.data.schema import CATEGORY, DESCRIPTION, ITEM, TITLE, USER
from reranker.errors import DataError
from reranker.utils.atomic_io import whole_file

CSV_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
TABLE_SUFFIXES = (".parquet", *CSV_SUFFIXES)
NO_ROW = "the line has too many or too few fields"
"""Why a line of a CSV is no row."""

_TEXTS = (TITLE, CATEGORY, DESCRIPTION)
_BLOCK_BYTES = 1 << 24  # no row may be longer
_SHOWN_CHARACTERS = 200


def read_table(
    path: Path | str, ids: Sequence[str] = (USER, ITEM), known: Mapping[str, Iterable[Hashable]] | None = None
) -> pd.DataFrame:
    """Reads a .parquet, .csv or .tsv file (also .gz), or a directory of such, of one kind.

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
        return like_known(_reader(path, ids)(path), path, known or {})
    except (OSError, ValueError, EOFError, zlib.error) as error:  # the last two: a damaged .gz
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

    A CSV does not say whether 7 is a number or a text: it is a text where those known are texts. What other files say
    stays.

    Args:
        path: what the table was read from.
        known: column -> ids known so far; may be many.
    """
    if not holds_csv(path):
        return frame
    texts = [name for name, ids in known.items() if name in frame and are_texts(ids)]
    numbers = [name for name in texts if pd.api.types.is_integer_dtype(frame[name])]
    return frame.astype(dict.fromkeys(numbers, str))  # loses nothing: see `_as_numbers`


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


def is_csv(file: Path) -> bool:
    """True for CSV and TSV, also .gz."""
    return file.name.endswith(CSV_SUFFIXES)


def holds_csv(path: Path) -> bool:
    """True for a CSV or TSV, and for a folder with one."""
    return bool(_csvs_in(path)) if path.is_dir() else is_csv(path)


def separator_of(file: Path) -> str:
    """What stands between two fields of a CSV or TSV."""
    return "\t" if file.name.endswith((".tsv", ".tsv.gz")) else ","


def files_under(folder: Path) -> Iterator[Path]:
    """The files of a folder and of those in it, linked ones too; names that begin with . or _ are left out.

    A folder is looked into once, by its own name where it has one here, so that links may lead back to where they are.

    Raises:
        DataError: a link leads nowhere.
    """
    for inner in folders_under(folder):
        yield from (entry for entry in _entries(inner) if entry.is_file())


def folders_under(folder: Path) -> Iterator[Path]:
    """The folder and the folders in it, as `files_under` looks into them."""
    seen: set[Path] = set()
    folders, links = [folder], list[Path]()
    while folders or links:
        inner = (folders or links).pop(0)
        if (place := inner.resolve()) in seen:
            continue
        seen.add(place)
        yield inner
        for entry in _entries(inner):
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(entry)


def _entries(folder: Path) -> list[Path]:
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith((".", "_")))
    for entry in entries:
        if entry.is_symlink() and not entry.exists():
            raise DataError(f"{entry} is a link to {entry.readlink()}, which does not exist: mend or remove it")
    return entries


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


def _reader(path: Path, ids: Sequence[str]) -> Callable[[Path], pd.DataFrame]:
    if path.is_dir():
        return partial(_read_csvs, ids=ids) if holds_csv(path) else pd.read_parquet
    if is_csv(path):
        return partial(_read_csv, ids=ids)
    if path.suffix == ".parquet":
        return pd.read_parquet
    raise ValueError("expected .parquet, .csv or .tsv")


def _csvs_in(folder: Path) -> list[Path]:
    return sorted(filter(is_csv, files_under(folder)))


def _read_csvs(folder: Path, ids: Sequence[str]) -> pd.DataFrame:
    files = _csvs_in(folder)
    if any(file.suffix == ".parquet" for file in files_under(folder)):
        raise ValueError("it holds CSV beside parquet; give one kind")
    frames = [_written(file, ids) for file in files]
    for file, frame in zip(files, frames, strict=True):
        if set(frame) != set(frames[0]):
            raise ValueError(f"{file} has other columns than {files[0]}; give all of them one header")
    return _as_numbers(pd.concat(frames, ignore_index=True), ids)


def _read_csv(path: Path, ids: Sequence[str]) -> pd.DataFrame:
    return _as_numbers(_written(path, ids), ids)


def _written(path: Path, ids: Sequence[str]) -> pd.DataFrame:
    """A CSV as it is written: ids and texts are texts."""
    separator = separator_of(path)
    require_closed_quotes(path, separator)
    _require_rows(path, separator)
    # Whole columns at once: else each block of rows would be of a type of its own.
    return pd.read_csv(
        path,
        sep=separator,
        dtype=dict.fromkeys((*ids, *_TEXTS), str),
        low_memory=False,
        keep_default_na=False,
        na_values=[""],
    )


def _as_numbers(frame: pd.DataFrame, ids: Sequence[str]) -> pd.DataFrame:
    """Ids become numbers only where that loses nothing."""
    for column in ids:
        if column in frame:
            with suppress(ValueError, OverflowError):
                numbers = frame[column].astype(np.int64)
                if (numbers.astype(str) == frame[column]).all():
                    frame[column] = numbers
    return frame


def _require_rows(path: Path, separator: str) -> None:
    """Refuses lines that are no rows: pandas would fill them up, or take the first column for names of rows.

    Raises:
        ValueError: some line has more or fewer fields than the first.
    """
    bad: list[Any] = []

    def keep(line: Any) -> str:
        bad.append(line)
        return "skip"

    rows = pacsv.open_csv(
        pa.input_stream(str(path), compression="detect"),
        read_options=pacsv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False, autogenerate_column_names=True),
        parse_options=pacsv.ParseOptions(delimiter=separator, newlines_in_values=True, invalid_row_handler=keep),
        convert_options=pacsv.ConvertOptions(include_columns=["f0"], column_types={"f0": pa.string()}),
    )
    for _ in rows:
        pass
    if bad:
        first, more = bad[0], f" (and {len(bad) - 1} more such lines)" if len(bad) > 1 else ""
        raise ValueError(
            f"line {first.number}: {NO_ROW}, {first.actual_columns} where the header has {first.expected_columns}: "
            f"{first.text[:_SHOWN_CHARACTERS]!r}{more}. Put fields that hold a separator in double quotes"
        )
