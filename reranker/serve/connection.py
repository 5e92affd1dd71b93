"""Work for a caller who may go away."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request

from reranker.serve.problems import ProblemError

T = TypeVar("T")


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the caller goes away. The body has to be read before.

    Raises:
        ProblemError: 499 when the caller went away.
    """
    mine = asyncio.current_task()
    watch = asyncio.ensure_future(_gone(request))

    def leave(watch: "asyncio.Task[None]") -> None:
        if mine is not None and not watch.cancelled():
            mine.cancel()

    watch.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if mine is None or not watch.done() or watch.cancelled():
            raise
        mine.uncancel()
        raise ProblemError(499, "the caller went away", code="cancelled") from None
    finally:
        watch.remove_done_callback(leave)
        watch.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
