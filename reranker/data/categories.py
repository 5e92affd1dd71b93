"""Several categories in one text, as files hold them."""

import ast
import json
import re
from collections.abc import Iterable

_LONGEST = 10_000  # characters that are looked at as a list
_SEPARATOR = re.compile(r"\s*[,;|]\s*")


def category_names(text: str) -> tuple[str, ...]:
    """The categories in a text, separated by commas, semicolons or bars; each once, in the order they stand."""
    return tuple(dict.fromkeys(filter(None, _SEPARATOR.split(text.strip()))))


def readable_categories(value: object) -> object:
    """Categories of an item as one text with commas: of "A|B|C", of "['A', 'B']" and of a list; others as they are.

    CSV files hold lists as Python or JSON writes them.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text[:1] in "[(" and text[-1:] in "])" and len(text) <= _LONGEST:
        listed = _listed(text)
        if listed is not None:
            return ", ".join(one for one in listed if one)
    if "|" in text:
        return ", ".join(part.strip() for part in text.split("|") if part.strip())
    return value


def _listed(text: str) -> list[str] | None:
    """The texts in a list of texts and numbers that Python or JSON wrote; None for anything else."""
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(found, Iterable) and not isinstance(found, str | bytes | dict):
            parts = list(found)
            if all(part is None or isinstance(part, str | int | float) for part in parts):
                return ["" if part is None else str(part).strip() for part in parts]
    return None
