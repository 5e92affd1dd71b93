"""Adapting users in the background, those who wait together."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from reranker.errors import RerankerError
from reranker.pipeline.reranker import Reranker
from reranker.protocols import UserStore
from reranker.soft_tokens import AdaptReport
from reranker.types import UserId

logger = logging.getLogger(__name__)

_USERS_A_LOOK = 500
_USERS_A_BATCH = 32  # so that who wants to be forgotten does not wait for long
_TURN_SECONDS = 0.1  # in which a task ends that has nothing to do


class Adaptation:
    """Adapts users after they did something; all who wait are adapted in one batch.

    Nothing is lost when the process dies: interactions stand in the store before a user is wanted here, and `start`
    looks for users whose context has not seen all of theirs.

    Args:
        reranker: with a context map.
        store: where interactions and contexts are.
        observe: called with what each batch did.
    """

    def __init__(
        self, reranker: Reranker, store: UserStore, observe: Callable[[AdaptReport], None] = lambda report: None
    ) -> None:
        self._reranker, self._store, self._observe = reranker, store, observe
        self._wanted: dict[UserId, None] = {}
        self._wake = asyncio.Event()
        self._at_work = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def waiting(self) -> int:
        return len(self._wanted)

    def start(self, loaded: "asyncio.Future[None]") -> None:
        """Begins to work when the model is loaded; needs a running event loop."""
        self._task = asyncio.create_task(self._run(loaded))

    def adapts_for(self, reranker: Reranker) -> None:
        """Goes on with another version of the bundle; contexts of another map are begun anew when they are wanted."""
        self._reranker = reranker

    def want(self, user: UserId) -> None:
        """Adapts this user soon."""
        self._wanted[user] = None
        self._wake.set()

    async def forget(self, users: Sequence[UserId], remove: Callable[[Sequence[Any]], int]) -> int:
        """Removes every trace of the users from the store with `remove`; returns what that does.

        Waits for the batch in work, which may hold what a user did: its context must not come to a user of the same
        id who comes back.
        """
        for user in users:
            self._wanted.pop(user, None)
        async with self._at_work:
            return await asyncio.to_thread(remove, users)

    async def close(self, seconds: float) -> None:
        """Adapts those who wait, for at most this long."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            try:
                await asyncio.wait_for(self._task, max(seconds, _TURN_SECONDS))
            except TimeoutError:
                logger.warning("%d users were not adapted before shutdown; the next start does it", len(self._wanted))

    async def _run(self, loaded: "asyncio.Future[None]") -> None:
        await asyncio.wait([loaded])
        try:
            for user in await asyncio.to_thread(lambda: list(self._behind())):
                self.want(user)
        except RerankerError as error:
            logger.error("cannot look for users to adapt", exc_info=error)
        while self._wanted or not self._closing:
            await self._wake.wait()
            self._wake.clear()
            async with self._at_work:
                users = list(self._wanted)[:_USERS_A_BATCH]
                for user in users:
                    del self._wanted[user]
                await self._adapt(users)
            if self._wanted:
                self._wake.set()

    async def _adapt(self, users: list[UserId]) -> None:
        """Adapts those of whom something is stored: others were forgotten after they were wanted."""
        try:
            kept = await asyncio.to_thread(self._store.get, users, 0)
            users = [user for user in users if user in kept]
            if not users:
                return
            report = await asyncio.to_thread(self._reranker.adapt, users, store=self._store)
        except Exception:  # the answers go on under the contexts that were there
            logger.exception("%d users could not be adapted", len(users))
        else:
            self._observe(report)
            logger.info("adapted %d users in %.2f s, %d drifted", report.users, report.seconds, report.drifted)

    def _behind(self) -> Iterator[UserId]:
        """Users who did something that their context has not seen (the process died, or was too slow to shut down), or
        whose context is of another map or bundle."""
        users = list(self._store.user_ids())
        for begin in range(0, len(users), _USERS_A_LOOK):
            for user, state in self._store.get(users[begin : begin + _USERS_A_LOOK]).items():
                if (state.interactions or len(state.vector)) and self._reranker.is_behind(state):
                    yield user
