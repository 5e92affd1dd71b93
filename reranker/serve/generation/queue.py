"""Texts that are being written: so many at once in threads of their own, a bounded queue before them."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from reranker.serve.errors import ProblemError

logger = logging.getLogger(__name__)

Piece = TypeVar("Piece")
_END = object()


class Generations:
    """Runs texts beside the ranking.

    Args:
        at_once: texts written at the same time.
        queue: texts that may wait.
    """

    def __init__(self, *, at_once: int, queue: int) -> None:
        self._most = at_once + queue
        self._held = 0
        self._closing = False
        self._gone: set[threading.Event] = set()
        self._mails: set[asyncio.Queue[Any]] = set()  # of those who wait for pieces
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="reranker-writer")

    @property
    def held(self) -> int:
        """Texts that are written or wait."""
        return self._held

    async def pieces(self, write: Callable[[], Generator[Piece]], timeout: float) -> AsyncGenerator[Piece]:
        """The pieces of one text as they come. Closing the generator ends the work.

        Args:
            write: begins the text; called in one of the threads.
            timeout: seconds for the whole text, waiting included.

        Raises:
            ProblemError: 503 when the queue is full or the server shuts down, 504 when it took longer than `timeout`.
        """
        if self._closing:
            raise ProblemError(503, "the server is shutting down", code="shutting_down", retry_after=5.0)
        if self._held >= self._most:
            raise ProblemError(503, f"{self._held} texts are being written already", code="overloaded", retry_after=2.0)
        loop = asyncio.get_running_loop()
        mail: asyncio.Queue[Any] = asyncio.Queue()
        gone = threading.Event()

        def send(one: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                loop.call_soon_threadsafe(mail.put_nowait, one)

        def release() -> None:
            self._held -= 1
            self._gone.discard(gone)

        def ended(_: object) -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(release)

        self._held += 1
        self._gone.add(gone)
        self._mails.add(mail)
        work = self._threads.submit(_work, write, gone, send)
        work.add_done_callback(ended)
        until = loop.time() + timeout
        try:
            while True:
                try:
                    async with asyncio.timeout_at(until):
                        one = await mail.get()
                except TimeoutError:
                    raise ProblemError(504, f"not written within {timeout:g} s", code="timeout") from None
                if isinstance(one, Exception):
                    raise one
                if one is _END:
                    return
                yield one
        finally:
            self._mails.discard(mail)
            gone.set()
            work.cancel()

    def fail_all(self, problem: ProblemError) -> None:
        """Ends every text with this at once, and takes no more."""
        self._closing = True
        for mail in self._mails:
            mail.put_nowait(problem)

    async def close(self, drain_seconds: float) -> None:
        """Takes no more texts and lets those it has end, as far as the time allows."""
        self._closing = True
        until = asyncio.get_running_loop().time() + drain_seconds
        while self._held and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.05)
        if self._held:
            logger.warning("shut down with %d texts unfinished", self._held)
        for gone in self._gone:
            gone.set()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _work(write: Callable[[], Generator[Any]], gone: threading.Event, send: Callable[[object], None]) -> None:
    try:
        if gone.is_set():
            return
        with contextlib.closing(write()) as pieces:
            for piece in pieces:
                send(piece)
                if gone.is_set():
                    return
        send(_END)
    except Exception as error:
        send(error)
