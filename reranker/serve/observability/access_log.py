"""What is counted and logged of each request."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from pydantic_core import to_json

access_log = logging.getLogger("reranker.access")

_LATER = 0.005  # seconds; a burst of answers is out by then


class Books:
    """Counts requests and logs each as one line of JSON, a moment after it was answered.

    Requests that are read together are answered together: the others' answers go before the keeping of books, which
    takes the event loop a seventh of what a ranking does.

    Args:
        count: called with route, status and seconds of each.
    """

    def __init__(self, count: Callable[[str, int, float], None]) -> None:
        self._count = count
        self._open: list[tuple[float, dict[str, Any]]] = []

    def add(self, seconds: float, line: dict[str, Any]) -> None:
        """Takes an answered request; `line` holds its `route` and `status`, and nothing that the user wrote."""
        if not self._open:
            asyncio.get_running_loop().call_later(_LATER, self.settle)
        self._open.append((seconds, line))

    def settle(self) -> None:
        """Counts and logs what was taken so far."""
        taken, self._open = self._open, []
        for seconds, line in taken:
            self._count(line["route"], line["status"], seconds)
            access_log.info(to_json(line).decode())
