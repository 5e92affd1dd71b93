"""Quotes of a CSV that would swallow rows: found before anything is read."""

import gzip
from pathlib import Path
from typing import BinaryIO, cast

from reranker.errors import DataError

_QUOTE = b'"'
_USER = b"user"
_HINT = 'Close the quote, or write a quote within a field as ""'


def require_closed_quotes(path: Path, separator: str, of_pairs: bool = False) -> None:
    """Refuses a CSV or TSV in which a quote swallows what stands behind it.

    A quote opens a field where the field begins. It must close before the end of the file, and a separator or the end
    of the line must follow. In tables of users and items a quoted field may not hold a line with as many separators as
    the header: that is a row between two stray quotes. Tables of items have texts that run over lines.

    Args:
        path: of the file.
        separator: between two fields.
        of_pairs: it is a table of users and items; by default where the header has a column of users.

    Raises:
        DataError: with the line at which the quote opens.
        OSError: the file cannot be read.
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        problem = _problem(cast(BinaryIO, file), separator.encode(), of_pairs)
    if problem is not None:
        line, what = problem
        raise DataError(f"cannot read {path}: line {line}: {what}. {_HINT}")


def _problem(file: BinaryIO, separator: bytes, of_pairs: bool) -> tuple[int, str] | None:
    """(line, what is wrong), or None."""
    header_separators: int | None = None
    opened_at = 0  # line of the quote that is open; 0 for none
    for number, line in enumerate(file, start=1):
        if header_separators is None:
            header_separators = line.count(separator)
            of_pairs = (of_pairs or _USER in line.lower()) and header_separators > 0
        if not opened_at and _QUOTE not in line:
            continue
        if opened_at and of_pairs and line.count(separator) >= header_separators:
            return opened_at, f"the quote that opens here would swallow line {number}, which looks like a row"
        closed, garbage = _ends_open(line, separator, bool(opened_at))
        if garbage:
            return number, "text stands behind a closing quote"
        opened_at = 0 if closed else opened_at or number
    if opened_at:
        return opened_at, "the quote that opens here is never closed"
    return None


def _ends_open(line: bytes, separator: bytes, is_open: bool) -> tuple[bool, bool]:
    """Whether the line ends outside of quotes, and whether text stands behind a closing quote."""
    text = line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
    at = 0
    while True:
        if not is_open:
            if text.startswith(_QUOTE, at):
                is_open, at = True, at + 1
            else:
                end = text.find(separator, at)
                if end < 0:
                    return True, False
                at = end + 1
                continue
        close = text.find(_QUOTE, at)
        if close < 0:
            return False, False
        behind = text[close + 1 : close + 2]
        if behind == _QUOTE:  # a quote within the field
            at = close + 2
        elif behind in (b"", b"\r"):
            return True, False
        elif behind == separator:
            is_open, at = False, close + 2
        else:
            return True, True
