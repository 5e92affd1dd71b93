"""Tables in files: parquet, CSV and TSV. What stands in them is checked by `tables`."""

import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from reranker.errors import DataError
from reranker.files import whole_file
from reranker.tables import ITEM, USER


def read_table(path: Path | str, ids: Sequence[str] = (USER, ITEM)) -> pd.DataFrame:
    """Reads a .parquet, .csv or .tsv file (also .gz), or a directory of parquet files.

    Args:
        ids: columns of ids, which stay as they are written in texts: "007" is another id than "7".

    Raises:
        DataError: the file is missing, of another type, or unreadable.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"no table at {path}: the file does not exist")
    try:
        return _reader(path, ids)(path)
    except (OSError, ValueError, EOFError, zlib.error) as error:  # the last two: a damaged .gz
        raise DataError(f"cannot read {path} as a table: {error}") from error


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
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if path.is_dir() or suffix == ".parquet":
        return pd.read_parquet
    if suffix == ".csv":
        return partial(_read_csv, ids=ids)
    if suffix == ".tsv":
        return partial(_read_csv, ids=ids, sep="\t")
    raise ValueError("expected .parquet, .csv or .tsv")


def _read_csv(path: Path, ids: Sequence[str], sep: str = ",") -> pd.DataFrame:
    """Ids become numbers only where that loses nothing."""
    # Whole columns at once: else each block of rows would be of a type of its own.
    frame = pd.read_csv(path, sep=sep, dtype=dict.fromkeys(ids, str), low_memory=False)
    for column in ids:
        if column in frame:
            with suppress(ValueError, OverflowError):
                numbers = frame[column].astype(np.int64)
                if (numbers.astype(str) == frame[column]).all():
                    frame[column] = numbers
    return frame
