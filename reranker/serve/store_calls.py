"""Calls of user stores: in threads of their own, each with a deadline, so many at most."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from reranker.serve.errors import ProblemError

Result = TypeVar("Result")


class StoreCalls:
    """Runs calls of stores that may hang.

    A call that was given up holds its thread until it returns; others wait for a free one, no longer than their
    deadline.

    Args:
        at_once: threads.
        queue: calls that may wait.
        seconds: for one call, waiting included.

    Attributes:
        held: calls that wait or are in work; one that was given up is in work until it returns.
    """

    def __init__(self, *, at_once: int = 8, queue: int = 256, seconds: float = 5.0) -> None:
        self._most = at_once + queue
        self._seconds = seconds
        self.held = 0
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="reranker-store")

    async def run(self, call: Callable[..., Result], *arguments: Any, seconds: float | None = None) -> Result:
        """The result of `call(*arguments)`.

        Args:
            call: may block.
            arguments: of it.
            seconds: another deadline.

        Raises:
            ProblemError: 503 where too many calls wait, 504 past the deadline: a write may still be done then.
        """
        if self.held >= self._most:
            message = f"{self.held} calls wait for the user store"
            raise ProblemError(503, message, code="store_busy", retry_after=1.0)
        loop, limit = asyncio.get_running_loop(), self._seconds if seconds is None else seconds
        self.held += 1
        work = self._threads.submit(call, *arguments)

        def release() -> None:
            self.held -= 1

        def ended(_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(release)

        work.add_done_callback(ended)
        try:
            async with asyncio.timeout(limit):
                return await asyncio.wrap_future(work)
        except TimeoutError:
            message = f"the user store did not answer within {limit:g} s; what was to be written may still be written"
            raise ProblemError(504, message, code="store_timeout", retry_after=1.0) from None

    def close(self) -> None:
        """Takes no more calls; those that wait are dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)
