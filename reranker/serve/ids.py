"""Ids as they come over HTTP: JSON makes strings of what a table may hold as numbers, and the other way round."""

from collections.abc import Container, Iterable

from reranker.types import ItemId

_LONGEST = 20  # digits of a number that a table can hold


def as_known(value: str | int, known: Container[ItemId]) -> str | int:
    """The id as the bundle has it: as given, or else the same digits as a number or as text.

    An id that the bundle does not have is text, so that 7 and "7" are one.
    """
    if value in known:
        return value
    other = other_form(value)
    return other if other is not None and other in known else str(value)


def other_form(value: str | int) -> str | int | None:
    """The same digits as text or as a number; None for text that no number is written as ("007")."""
    if isinstance(value, int):
        return str(value)
    if not value.isascii() or not value.isdigit() or len(value) > _LONGEST or str(int(value)) != value:
        return None
    return int(value)


def forms_of(value: str | int) -> list[str | int]:
    """The id, and its other form, if it has one."""
    other = other_form(value)
    return [value] if other is None else [value, other]


def all_as_known(values: Iterable[str | int], known: Container[ItemId]) -> list[str | int]:
    """`as_known` of each."""
    return [value if value in known else as_known(value, known) for value in values]
