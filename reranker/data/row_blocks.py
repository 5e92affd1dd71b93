"""Rows of a text file, a block at a time: what every reader of text gives, and why a line is no row."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

NO_ROW = "the line has too many or too few fields"
"""Why a line of a CSV is no row."""

OPEN_QUOTE = "the quote that opens in the line is never closed"
SWALLOWS_ROWS = "the quote that opens in the line would swallow lines that look like rows"
BREAK_IN_VALUE = "the quote that opens in the line ends lines later, in a column whose values have one line"
BEHIND_QUOTE = "text stands behind a closing quote"
HEADER_AGAIN = "the line is the header once more, as where files were joined"
NO_OBJECT = "the line is no JSON object"
KEY_TWICE = "the line names a key twice"


@dataclass(frozen=True, kw_only=True)
class RejectedLine:
    """A line that is no row.

    Attributes:
        number: of the line in the file, from 1.
        row: which row of the file it would be, from 0; rejected lines count.
        text: the line without its end.
        reason: one of those above.
        fields: how many there are, where that is the reason.
    """

    number: int
    row: int
    text: str
    reason: str
    fields: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class RowBlock:
    """Rows that follow each other, and the lines between them that are no rows.

    Attributes:
        rows: a pyarrow table; texts as they are written, null where nothing is.
        numbers: (rows,) which row of the file each is, from 0; rejected lines count.
        rejected: in their order.
    """

    rows: Any
    numbers: NDArray[np.int64]
    rejected: Sequence[RejectedLine] = ()


class RowFile(Protocol):
    """A text file that holds a table."""

    @property
    def columns(self) -> Sequence[str]:
        """Names of the columns, as the file begins."""
        ...

    def blocks(self, columns: Sequence[str] | None = None) -> Iterator[RowBlock]:
        """All rows from the first on, a block at a time.

        Args:
            columns: wanted; all by default.

        Raises:
            DataError: the file cannot be read.
        """
        ...


def tell_spaced(rows: RowFile, file: Path) -> None:
    """Says where the spaces behind a file's separators are left out."""
    if getattr(rows, "is_spaced", False):
        logger.warning(
            "%s: a space stands behind every separator of the header: rows are read without such spaces", file
        )
