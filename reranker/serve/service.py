"""What the routes stand on: the Reranker, its queue, users, keys and counters."""

import asyncio
import time
from pathlib import Path
from typing import Any

from fastapi import Depends, Request

from reranker.pipeline import Reranker
from reranker.protocols import UserStore
from reranker.ranking import TextList
from reranker.serve.adaptation import Adaptation
from reranker.serve.batcher import Batcher
from reranker.serve.generations import Generations
from reranker.serve.keys import Key, Keys
from reranker.serve.metrics import Metrics
from reranker.serve.problems import ProblemError
from reranker.serve.score_log import ScoreLog
from reranker.serve.settings import ServeSettings
from reranker.serve.tracing import Tracing
from reranker.serve.work import ItemList, Ranked, answer
from reranker.types import UserState


class Service:
    """What the routes stand on.

    Args:
        reranker: fitted, with its engine.
        store: where users' new interactions go; None offers no personal state.
        settings: limits.
        keys: who is let in.
        score_log: folder that gets the rankings; None keeps none.
        tracing: makes spans; None makes none.
    """

    def __init__(
        self,
        reranker: Reranker,
        store: UserStore | None,
        settings: ServeSettings,
        keys: Keys,
        score_log: Path | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.reranker = reranker
        self.store = store
        self.settings = settings
        self.keys = keys
        self.name = reranker.reader.domain
        self.base = reranker.reader.model.model_id
        self.created = int(time.time())
        self.items = frozenset(reranker.item_ids)
        self.users = frozenset(reranker.user_ids)
        self.ready = False
        self.batcher: Batcher[TextList | ItemList, Ranked] = Batcher(
            lambda jobs: answer(reranker, jobs, self.items),
            batch=settings.batch,
            queue=settings.queue,
            wait_seconds=settings.batch_wait_ms / 1000,
            observe=lambda size, seconds: self.metrics.batch_done(size, seconds),
        )
        self.generations = Generations(at_once=settings.generations, queue=settings.generation_queue)
        self.metrics = Metrics(lambda: self.batcher.waiting)
        self.tracing = tracing
        self.adaptation: Adaptation | None = None
        if store is not None and reranker.reader.contexts is not None:
            self.adaptation = Adaptation(reranker, store)
        self.score_log: ScoreLog | None = None
        if score_log is not None:
            self.score_log = ScoreLog(
                score_log,
                rows=settings.score_log_rows,
                seconds=settings.score_log_seconds,
                observe=lambda outcome, rows: self.metrics.logged.labels(outcome).inc(rows),
            )

    def start(self) -> None:
        """Begins to work; needs a running event loop."""
        self.batcher.start()
        if self.adaptation is not None:
            self.adaptation.start()
        if self.score_log is not None:
            self.score_log.start()

    async def close(self) -> None:
        """Finishes what is in work, then writes and sends what is left."""
        drain = self.settings.drain_seconds
        await asyncio.gather(self.batcher.close(drain), self.generations.close(drain))
        if self.adaptation is not None:
            await self.adaptation.close(drain)
        if self.score_log is not None:
            await asyncio.to_thread(self.score_log.close)
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)
        if self.store is not None:
            self.store.close()

    def warm_up(self) -> None:
        """Loads the model, so that the first request does not wait for it."""
        self.reranker.rank("", ["a title", "another"])
        self.ready = True

    def states(self) -> UserStore:
        if self.store is None:
            raise ProblemError(404, "this server keeps no users: start it with --users-db", code="no_user_store")
        return self.store

    async def known_of(self, user: str | int) -> tuple[list[Any], UserState | None]:
        """What the user chose before the bundle was fitted and since, oldest first; and what the store keeps."""
        before = self.reranker.history(user) if user in self.users else []
        if self.store is None:
            return before, None
        state = (await asyncio.to_thread(self.store.get, [user])).get(user)
        return (before + [item for item, _ in state.interactions], state) if state else (before, None)


def allowed(service: Service, scope: str) -> Any:
    """A dependency that lets only keys with this scope in, at their rate."""

    async def check(request: Request) -> Key:  # not in a thread: it is microseconds of work
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        key = service.keys.find(secret.strip() if scheme.lower() == "bearer" else None)
        if key is None:
            raise ProblemError(401, "no such API key: send 'Authorization: Bearer KEY'", code="invalid_api_key")
        if not key.may(scope):
            raise ProblemError(403, f"the key {key.name!r} may not {scope}", code="scope_missing")
        wait = service.keys.wait(key)
        if wait:
            raise ProblemError(429, f"the key {key.name!r} is over its rate", code="rate_limited", retry_after=wait)
        request.state.log = {"key": key.name}
        return key

    return Depends(check)


def check_model(service: Service, name: str | None) -> None:
    """Raises ProblemError (404) for a name that is neither the domain's model nor the base model."""
    if name not in (None, service.name, service.base):
        message = f"no model {name!r} here; there are {service.name!r} and its base {service.base!r}"
        raise ProblemError(404, message, param="model", code="model_not_found")
