"""Adapting users in the background, those who wait together."""

import asyncio
import logging

from reranker.errors import RerankerError
from reranker.pipeline import Reranker
from reranker.protocols import UserStore
from reranker.types import UserId

logger = logging.getLogger(__name__)


class Adaptation:
    """Adapts users after they did something; all who wait are adapted in one batch.

    Nothing is lost when the process dies: interactions stand in the store before a user is wanted here, and the next
    ones of that user adapt to all that the context has not seen.

    Args:
        reranker: with a context map.
        store: where interactions and contexts are.
    """

    def __init__(self, reranker: Reranker, store: UserStore) -> None:
        self._reranker, self._store = reranker, store
        self._wanted: dict[UserId, None] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    def start(self) -> None:
        """Begins to work; needs a running event loop."""
        self._task = asyncio.create_task(self._run())

    def want(self, user: UserId) -> None:
        """Adapts this user soon."""
        self._wanted[user] = None
        self._wake.set()

    async def close(self, seconds: float) -> None:
        """Adapts those who wait, for at most this long."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            try:
                await asyncio.wait_for(self._task, seconds)
            except TimeoutError:
                logger.warning(
                    "%d users were not adapted before shutdown; their next interactions are", len(self._wanted)
                )

    async def _run(self) -> None:
        while self._wanted or not self._closing:
            await self._wake.wait()
            self._wake.clear()
            users, self._wanted = list(self._wanted), {}
            if not users:
                continue
            try:
                report = await asyncio.to_thread(self._reranker.adapt, users, store=self._store)
                logger.info("adapted %d users in %.2f s, %d drifted", report.users, report.seconds, report.drifted)
            except RerankerError as error:  # the answers go on under the contexts that were there
                logger.error("%d users could not be adapted: %s", len(users), error)
