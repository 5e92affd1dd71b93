"""Files that are taken for tables: the one list, for every command and both ways of ranking."""

from collections.abc import Collection, Iterator
from enum import StrEnum
from pathlib import Path

from reranker.data.delimited import DelimitedFile
from reranker.data.json_lines import JsonLinesFile
from reranker.data.row_blocks import RowFile
from reranker.data.schema import ALIASES, EVENT, RANK, RATING, SCORE, STRENGTH, TIMESTAMP, WEIGHT
from reranker.errors import DataError


class TableFormat(StrEnum):
    """How a file holds its rows."""

    PARQUET = "parquet"
    DELIMITED = "delimited"
    JSON_LINES = "json lines"


TABLE_SUFFIXES = {
    ".parquet": TableFormat.PARQUET,
    ".pq": TableFormat.PARQUET,
    ".csv": TableFormat.DELIMITED,
    ".tsv": TableFormat.DELIMITED,
    ".dat": TableFormat.DELIMITED,
    ".jsonl": TableFormat.JSON_LINES,
    ".ndjson": TableFormat.JSON_LINES,
}
"""Ends of names, in any case; those of text also with .gz behind them.

.csv: UTF-8 or UTF-16, fields between commas, semicolons, tabs or bars, a header. .tsv: tabs first. .dat: as MovieLens
writes ratings and movies, `1::1193::5::978300760`. .jsonl: an object a line.
"""

TAKEN = f"{', '.join(TABLE_SUFFIXES)} (text also as .gz)"
_ONE_LINE = (SCORE, RANK, TIMESTAMP, EVENT, RATING, WEIGHT, STRENGTH, *ALIASES)


def table_format(file: Path) -> TableFormat | None:
    """How the file holds its rows, by its name; None where it is no table."""
    name = file.name.lower()
    packed = name.endswith(".gz")
    found = TABLE_SUFFIXES.get(Path(name.removesuffix(".gz")).suffix)
    return None if packed and found == TableFormat.PARQUET else found


def is_text(file: Path) -> bool:
    """True for a table in text: it does not say what is a number and what an id."""
    return table_format(file) not in (None, TableFormat.PARQUET)


def holds_text(path: Path) -> bool:
    """True for a table in text, and for a folder with one."""
    return any(map(is_text, files_under(path))) if path.is_dir() else is_text(path)


def open_rows(file: Path, ids: Collection[str], pairs: bool | None = None) -> RowFile:
    """The rows of a table in text, by the one reader that every command takes.

    Args:
        file: of a format other than parquet.
        ids: columns of ids.
        pairs: as `DelimitedFile` has it.

    Raises:
        DataError: it cannot be opened, or its header is wrong.
        OSError: the file cannot be read.
    """
    if table_format(file) == TableFormat.JSON_LINES:
        return JsonLinesFile(file)
    return DelimitedFile(file, (*ids, *_ONE_LINE), pairs)


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
