"""Tables of a report, as HTML and as Markdown."""

from collections.abc import Sequence
from html import escape


def html_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table that scrolls within its own width; all cells are escaped, and a narrow head breaks before an @."""
    head = "".join(f"<th>{escape(cell).replace('@', '<wbr>@')}</th>" for cell in header)
    rows = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in body)
    return f'<div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """One line a row."""
    rows = [header, ["---"] * len(header), *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(text: str) -> str:
    value, bracket, interval = escape(text).partition(" [")
    return f"<td class=wrap>{value} <span>[{interval}</span></td>" if bracket else f"<td>{value}</td>"
