"""Work for a caller who may go away."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request

from reranker.serve.errors import ProblemError

T = TypeVar("T")

_PATIENCE = 0.25  # seconds; most work is done by then, and watching costs as much of the event loop as answering


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the caller goes away. The body has to be read before.

    A caller who goes away in the first quarter of a second is noticed after it.

    Raises:
        ProblemError: 499 when the caller went away.
    """
    mine = asyncio.current_task()
    watch: asyncio.Task[None] | None = None

    def look() -> None:
        nonlocal watch
        watch = asyncio.create_task(_gone(request))
        watch.add_done_callback(leave)

    def leave(watch: "asyncio.Task[None]") -> None:
        if mine is not None and not watch.cancelled():
            mine.cancel()

    timer = asyncio.get_running_loop().call_later(_PATIENCE, look)
    try:
        return await work
    except asyncio.CancelledError:
        if mine is None or watch is None or not watch.done() or watch.cancelled():
            raise
        mine.uncancel()
        raise ProblemError(499, "the caller went away", code="cancelled") from None
    finally:
        timer.cancel()
        if watch is not None:
            watch.remove_done_callback(leave)
            watch.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
