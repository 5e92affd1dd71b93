"""Ids as they come over HTTP: JSON makes strings of what a table may hold as numbers, and the other way round."""

from collections.abc import Container, Iterable

from reranker.types import ItemId


def as_known(value: str | int, known: Container[ItemId]) -> str | int:
    """The id as the bundle has it: as given, or else the same digits as a number or as text."""
    if value in known:
        return value
    other: str | int = str(value)
    if isinstance(value, str):
        if not value.isascii() or not value.isdigit():
            return value
        other = int(value)
    return other if other in known else value


def all_as_known(values: Iterable[str | int], known: Container[ItemId]) -> list[str | int]:
    """`as_known` of each."""
    return [value if value in known else as_known(value, known) for value in values]
