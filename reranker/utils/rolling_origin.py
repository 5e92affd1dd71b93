"""Windows of a rolling-origin backtest: lists of earlier and earlier times, each with what was chosen next.

Tashman 2000, Out-of-sample tests of forecasting accuracy (doi:10.1016/S0169-2070(00)00065-0).
"""

import logging
from collections.abc import Callable
from typing import TypeVar

from reranker.errors import DataError

DEFAULT_WINDOWS = 5
"""Windows at most: each user's newest choice, the one before it, ..."""

ENOUGH_LISTS = 2000
"""Lists with a chosen item in them from which on no earlier window is made."""

logger = logging.getLogger(__name__)

Window = TypeVar("Window")


def rolling_origin(
    newest: Callable[[], Window],
    earlier: Callable[[Window], Window],
    n_lists: Callable[[Window], int],
    most: int = DEFAULT_WINDOWS,
) -> list[Window]:
    """Windows from the newest back: `most`, or fewer where `ENOUGH_LISTS` are found before or histories end.

    Args:
        newest: makes the newest one.
        earlier: makes the one before; where a DataError says that there is too little for it, what was found so far
            has to do, and the log says why.
        n_lists: how many lists of a window hold a chosen item.
        most: windows.

    Raises:
        DataError: of `newest`.
    """
    found = [newest()]
    while len(found) < most and sum(map(n_lists, found)) < ENOUGH_LISTS:
        try:
            found.append(earlier(found[-1]))
        except DataError as error:  # histories are too short, or the first stage finds nothing of them
            logger.info("there is no window before the newest %d: %s", len(found), error)
            break
    return found
