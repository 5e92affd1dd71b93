"""How far back lists are replayed to learn from."""

import logging
from collections.abc import Callable
from typing import TypeVar

from reranker.errors import DataError

MOMENTS = 5
"""Moments at most: each user's newest choice, the one before it, ..."""

ENOUGH_LISTS = 2000
"""Lists with a chosen item in them from which on no earlier moment is replayed."""

logger = logging.getLogger(__name__)

Moment = TypeVar("Moment")


def replay(
    first: Callable[[], Moment],
    earlier: Callable[[Moment], Moment],
    n_lists: Callable[[Moment], int],
    most: int = MOMENTS,
) -> list[Moment]:
    """Moments from the newest back: `most`, or fewer where `ENOUGH_LISTS` are found before or histories end.

    Args:
        first: makes the newest one.
        earlier: makes the one before; where a DataError says that there is too little for it, what was found so far
            has to do, and the log says why.
        n_lists: how many lists of a moment hold a chosen item.

    Raises:
        DataError: of `first`.
    """
    found = [first()]
    while len(found) < most and sum(map(n_lists, found)) < ENOUGH_LISTS:
        try:
            found.append(earlier(found[-1]))
        except DataError as error:  # histories are too short, or the first stage finds nothing of them
            logger.info("no moment before the newest %d is replayed: %s", len(found), error)
            break
    return found
