"""Ids as they come over HTTP: JSON makes strings of what a table may hold as numbers, and the other way round."""

from collections.abc import Container, Iterable
from typing import Any

from reranker.types import ItemId

_LONGEST = 20  # digits of a number that a table can hold
_EXACT = 2**53 - 1  # JavaScript's Number.MAX_SAFE_INTEGER


def as_known(value: str | int, known: Container[ItemId]) -> str | int:
    """The id as the bundle has it: as given, or else the same digits as a number or as text.

    An id that the bundle does not have is text, so that 7 and "7" are one.
    """
    if value in known:
        return value
    other = other_form(value)
    return other if other is not None and other in known else str(value)


def other_form(value: str | int) -> str | int | None:
    """The same number as text or as a number; None for text that no number is written as ("007", "+7", "-0")."""
    if isinstance(value, int):
        return str(value)
    digits = value.removeprefix("-")
    if not digits.isascii() or not digits.isdigit() or len(digits) > _LONGEST or str(int(value)) != value:
        return None
    return int(value)


def forms_of(value: str | int) -> list[str | int]:
    """The id, and its other form, if it has one."""
    other = other_form(value)
    return [value] if other is None else [value, other]


def for_javascript(value: Any) -> Any:
    """The id as JSON that a page can send back: JavaScript rounds numbers beyond 2^53, so they go as text."""
    return str(value) if type(value) is int and abs(value) > _EXACT else value


def all_as_known(values: Iterable[str | int], known: Container[ItemId]) -> list[str | int]:
    """`as_known` of each."""
    return [value if value in known else as_known(value, known) for value in values]
