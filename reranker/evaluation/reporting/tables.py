"""A table of a report."""

from collections.abc import Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """A head and rows of as many cells, formatted but not escaped; as text, it is Markdown."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        return "\n".join(f"| {' | '.join(row)} |" for row in (self.header, ["---"] * len(self.header), *self.rows))
