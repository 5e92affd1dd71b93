"""CSV and its kin by one grammar: every line is part of a row, or rejected with its number.

Blocks without quotes go through pyarrow; the others through Python's `csv` in strict mode (RFC 4180). A quote that goes
wrong costs its own line: the line behind it is read as if the quote were not there.
"""

import csv
import io
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from reranker.data.row_blocks import (
    BEHIND_QUOTE,
    BREAK_IN_VALUE,
    HEADER_AGAIN,
    NO_ROW,
    OPEN_QUOTE,
    SWALLOWS_ROWS,
    RejectedLine,
    RowBlock,
)
from reranker.data.text_blocks import LONGEST_LINE, count_lines, text_blocks
from reranker.errors import DataError

SEPARATORS = (",", ";", "\t", "|")
"""Of a CSV; the first that stands in the header separates. In a .tsv the tab is looked for first."""

MOVIELENS_SEPARATOR = "::"
MOVIELENS_HEADERS = {4: ["user_id", "item_id", "rating", "timestamp"], 3: ["item_id", "title", "category"]}
"""Columns of ratings.dat and movies.dat by their number."""

_UNIT = "\x1f"  # stands for the separator of two characters, which no reader takes
_EXCEL = re.compile(r"sep=(\W)")  # the first line that tells Excel the separator
_LINE_END = re.compile(r"\r\n|\n|\r")
_LETTERS, _DIGITS = re.compile(r"[^\W\d_]+"), re.compile(r"\d+")
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


class DelimitedFile:
    """A CSV, TSV, or MovieLens .dat file, by gzip or not; values are texts, and an empty field is missing.

    A first line `sep=;`, as Excel takes it, says the separator. Where a space stands behind every separator of the
    header, those of the rows are left out, too; names of columns are read without spaces around them.

    Args:
        path: of the file.
        one_line: columns whose values have one line each, in a table of users and items.
        pairs: it is a table of users and items: no quoted field of it may hold a line with as many separators as the
            header. By default where a column is called after users. Tables of items have texts that run over lines; of
            those only lines that look like rows in every way, or that have an id like that of their row, are refused.

    Attributes:
        columns: names.
        separator: between the fields of a line.
        is_spaced: a space stands behind every separator of the header.

    Raises:
        DataError: there is no header, it names a column twice, or its line cannot be read.
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path, one_line: Collection[str] = (), pairs: bool | None = None) -> None:
        self._path = path
        name = path.name.lower().removesuffix(".gz")
        self._movielens = name.endswith(".dat")
        self.is_spaced = False
        csv.field_size_limit(max(csv.field_size_limit(), 4 * LONGEST_LINE))  # else fields end at 131,072 characters
        start = next(self._texts(), (1, b""))[1].decode()
        lines = list(io.StringIO(start, newline=""))
        blank = next((at for at, line in enumerate(lines) if line.strip("\r\n")), len(lines))
        if blank == len(lines):
            raise DataError("it is empty: the first line must name the columns")
        if (separator := _EXCEL.fullmatch(lines[blank].rstrip("\r\n"))) is not None and blank + 1 < len(lines):
            blank, self.separator = blank + 1, separator[1]
        else:
            self.separator = self._separator(lines[blank], tab_first=name.endswith(".tsv"))
        header, used = self._header(lines[blank:], blank + 1)
        self._skipped_lines = used and blank + used
        self._header_fields = header if used else None
        self._header_text = "".join(lines[blank : blank + used]).strip("\r\n").encode()
        header = [name.strip(" ") for name in header]
        self.columns: tuple[str, ...] = tuple(name or f"Unnamed: {at}" for at, name in enumerate(header))
        repeated = sorted({name for name in header if name and header.count(name) > 1})
        if repeated:
            raise DataError(f"the header names {', '.join(map(repr, repeated))} more than once: name each column anew")
        self._pairs = any("user" in name.lower() for name in header) if pairs is None else pairs
        self._one_line = [at for at, name in enumerate(header) if name in one_line]
        self._id = next(iter(self._one_line), None)

    def blocks(self, columns: Sequence[str] | None = None) -> Iterator[RowBlock]:
        """All rows from the first on, a block at a time.

        Args:
            columns: wanted; all by default.

        Raises:
            DataError: the file cannot be read, with the line.
        """
        wanted = list(self.columns if columns is None else columns)
        skip, row, line, rest = self._skipped_lines, 0, 1, b""
        for number, block in self._texts():
            text = rest + block
            if skip:
                text, line, skip = _behind(text, skip), number + skip, 0
            found, rest = self._plain(text, wanted, row), b""
            if found is None:
                found, rest = self._quoted(text, wanted, row, line, at_end=False)
            row += len(found.rows) + len(found.rejected)
            line += count_lines(text) - count_lines(rest)
            yield found
        if rest:
            yield self._quoted(rest, wanted, row, line, at_end=True)[0]

    def _texts(self) -> Iterator[tuple[int, bytes]]:
        for number, block in text_blocks(self._path, maybe_latin_1=self._movielens):
            yield number, block.replace(MOVIELENS_SEPARATOR.encode(), _UNIT.encode()) if self._movielens else block

    def _separator(self, header: str, tab_first: bool) -> str:
        if self._movielens:
            return _UNIT
        bare = _QUOTED.sub("", header)
        order = ("\t", *SEPARATORS) if tab_first else SEPARATORS
        return next((one for one in order if one in bare), order[0])

    def _header(self, lines: Sequence[str], number: int) -> tuple[list[str], int]:
        """(names of the columns, lines they take)."""
        if self._movielens:
            first = lines[0].rstrip("\r\n").split(_UNIT)
            if "item_id" in first:
                return first, 1
            if len(first) not in MOVIELENS_HEADERS:
                raise DataError(
                    f"line {number}: {len(first)} fields between {MOVIELENS_SEPARATOR!r}. A .dat file is read as those "
                    "of MovieLens: ratings with 4 fields, movies with 3. Write others as CSV with a header"
                )
            return MOVIELENS_HEADERS[len(first)], 0
        bare = _QUOTED.sub("", lines[0]).split(self.separator)
        self.is_spaced = len(bare) > 1 and all(name.startswith(" ") for name in bare[1:])
        reader = self._reader(lines)
        try:
            return next(reader), reader.line_num
        except csv.Error as error:
            raise DataError(f"line {number}: a quote in the header is not closed, or text stands behind it") from error

    def _reader(self, lines: Any) -> Any:
        if self._movielens:
            return csv.reader(lines, delimiter=self.separator, quoting=csv.QUOTE_NONE, strict=True)
        return csv.reader(lines, delimiter=self.separator, strict=True, skipinitialspace=self.is_spaced)

    def _plain(self, text: bytes, wanted: Sequence[str], row: int) -> RowBlock | None:
        """The rows by pyarrow; None where quotes, old ends of lines or lines that are no rows ask for a closer look."""
        if (not self._movielens and b'"' in text) or text.count(b"\r") != text.count(b"\r\n"):
            return None
        if self._header_text and (text.startswith(self._header_text) or b"\n" + self._header_text in text):
            return None
        options = {
            "read_options": pacsv.ReadOptions(
                column_names=self.columns, use_threads=False, block_size=min(len(text) + 1, (1 << 31) - 1)
            ),
            "parse_options": pacsv.ParseOptions(delimiter=self.separator, quote_char=False, double_quote=False),
            "convert_options": pacsv.ConvertOptions(
                column_types=dict.fromkeys(self.columns, pa.string()),
                strings_can_be_null=True,
                null_values=[""],  # by default "NA" and the like too, which can be ids
                include_columns=wanted,
            ),
        }
        if not text.strip(b"\r\n"):
            text = b""
        try:
            rows = pacsv.read_csv(pa.BufferReader(text), **options) if text else _table(wanted, [])
        except pa.ArrowInvalid:
            return None
        if self.is_spaced:
            rows = pa.table([_without_first_spaces(rows.column(name)) for name in wanted], names=wanted)
        return RowBlock(rows=rows, numbers=np.arange(row, row + len(rows)))

    def _quoted(self, text: bytes, wanted: Sequence[str], row: int, line: int, at_end: bool) -> tuple[RowBlock, bytes]:
        """The rows, and what begins with a quote that is still open."""
        cursor = _Cursor(list(io.StringIO(text.decode(), newline="")))
        reader, width = self._reader(cursor), len(self.columns)
        places = [self.columns.index(name) for name in wanted]
        rows, numbers, rejected, rest = list[list[str]](), list[int](), list[RejectedLine](), b""
        while (start := cursor.at) < len(cursor.lines):
            problem, fields = "", list[str]()
            try:
                fields = next(reader)
            except csv.Error:
                problem = OPEN_QUOTE if cursor.is_dry else BEHIND_QUOTE
            if problem == OPEN_QUOTE and not at_end and cursor.characters_from(start) <= LONGEST_LINE:
                rest = "".join(cursor.lines[start:]).encode()
                break
            if not problem and not fields:  # a blank line
                continue
            if not problem and len(fields) != width:
                problem = NO_ROW
            if not problem and fields == self._header_fields:
                problem = HEADER_AGAIN
            if not problem and cursor.at > start + 1:
                problem = self._swallowed(fields, cursor.lines[start + 1 : cursor.at])
            if problem:
                rejected.append(
                    RejectedLine(
                        number=line + start,
                        row=row,
                        text=cursor.lines[start].rstrip("\r\n").replace(_UNIT, MOVIELENS_SEPARATOR),
                        reason=problem,
                        fields=len(fields) if problem == NO_ROW else None,
                    )
                )
                cursor.go_to(start + 1)
            else:
                rows.append([fields[place] for place in places])
                numbers.append(row)
            row += 1
        block = RowBlock(rows=_table(wanted, rows), numbers=np.array(numbers, dtype=np.int64), rejected=rejected)
        return block, rest

    def _swallowed(self, fields: Sequence[str], inner: Sequence[str]) -> str:
        """Why a row may not run over these lines behind its first one; "" where it may."""
        separators = len(self.columns) - 1
        if separators and self._pairs and any(line.count(self.separator) >= separators for line in inner):
            return SWALLOWS_ROWS
        if separators and not self._pairs:
            first = _LINE_END.split(fields[0])
            if len(first) > 1 and not self._looks_like_row(first[0], fields):
                # What stands behind the end of the first field, on its last line, are the row's own other fields.
                inner = [*first[1:], *inner[len(first) - 1 :]]
            if any(self._looks_like_row(line, fields) for line in inner):
                return SWALLOWS_ROWS
        return BREAK_IN_VALUE if any(_is_broken(fields[at]) for at in self._one_line) else ""

    def _looks_like_row(self, line: str, row: Sequence[str]) -> bool:
        """As many separators as the header, and an id written like that of the row around it; or none of the
        separators beside a space, as in prose, and a first field that can be an id."""
        fields = line.rstrip("\r\n").split(self.separator)
        if len(fields) != len(self.columns):
            return False
        if self.is_spaced:
            fields = [field.removeprefix(" ") for field in fields]
        if self._id is not None and (shape := _shape(fields[self._id])) and shape == _shape(row[self._id]):
            return True
        first = fields[0]
        return (
            first != ""
            and not any(character.isspace() for character in first)
            and all(field == field.strip() for field in fields[1:])
        )


class _Cursor:
    """Lines for `csv.reader`, which can be led back."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.at = 0
        self.is_dry = False

    def __iter__(self) -> "_Cursor":
        return self

    def __next__(self) -> str:
        if self.at == len(self.lines):
            self.is_dry = True
            raise StopIteration
        self.at += 1
        return self.lines[self.at - 1]

    def go_to(self, at: int) -> None:
        self.at, self.is_dry = at, False

    def characters_from(self, start: int) -> int:
        return sum(map(len, self.lines[start:]))


def _is_broken(value: str) -> bool:
    return "\n" in value or "\r" in value


def _shape(value: str) -> str:
    """How an id with a number in it is written: "SKU 12" and "SKU 7" are alike; "" without a number."""
    value = value.strip().strip('"')
    return _DIGITS.sub("9", _LETTERS.sub("a", value)) if _DIGITS.search(value) else ""


def _without_first_spaces(values: Any) -> Any:
    """What `csv` reads with `skipinitialspace`."""
    values = pc.utf8_ltrim(values, " ")
    return pc.if_else(pc.equal(values, ""), pa.scalar(None, values.type), values)


def _behind(text: bytes, lines: int) -> bytes:
    """The text without its first lines."""
    stream = io.StringIO(text.decode(), newline="")
    for _ in range(lines):
        stream.readline()
    return stream.read().encode()


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    arrays = [pa.array([value or None for value in column], pa.string()) for column in columns]
    return pa.table(arrays, names=list(names))
