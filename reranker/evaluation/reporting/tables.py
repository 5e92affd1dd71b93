"""Tables of a report, as HTML and as Markdown."""

from collections.abc import Sequence
from html import escape


def html_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table that scrolls within its own width; all cells are escaped."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    rows = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in body)
    return f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """One line a row."""
    rows = [header, ["---"] * len(header), *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(text: str) -> str:
    wraps = " class=wrap" if " [" in text else ""
    return f"<td{wraps}>{escape(text)}</td>"
