"""A server that ends in time: what is in work has the seconds to drain, all of the end together."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import uvicorn

from reranker.serve.state import Service

logger = logging.getLogger(__name__)

_CLOSE_SECONDS = 5.0  # behind the drain: writing the score log, closing stores, sending spans, ending an engine


class DrainingServer(uvicorn.Server):
    """uvicorn's server, all of whose end takes `drain_seconds` and the time to close, at most.

    Args:
        config: of uvicorn; its own time to drain is set here.
        service: of the app.
        leave: ends the process at once with an exit code. Called where a thread is still at work when the time is over,
            in a batch that cannot be cut, say: the interpreter would wait for it.
    """

    def __init__(self, config: uvicorn.Config, service: Service, leave: Callable[[int], object]) -> None:
        seconds: Any = service.settings.drain_seconds  # uvicorn says that it is whole
        config.timeout_graceful_shutdown = seconds
        super().__init__(config)
        self._service = service
        self._leave = leave

    async def shutdown(self, sockets: Any = None) -> None:
        """Drains and closes; called by uvicorn once."""
        self._service.begin_drain()
        timer = threading.Timer(self._service.settings.drain_seconds + _CLOSE_SECONDS, self._give_up)
        timer.daemon = True
        timer.start()
        await super().shutdown(sockets)

    def _give_up(self) -> None:
        logger.warning("ends with work left: a thread did not come back within %g s of the drain", _CLOSE_SECONDS)
        self._leave(0 if self._service.closed else 1)
