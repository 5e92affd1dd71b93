"""What the routes stand on: the domains, their queue, users, keys and counters."""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from starlette.types import Scope

from reranker.engines.slices import Slicing
from reranker.protocols import VLLMHost
from reranker.serve.auth import Key, Keys
from reranker.serve.background_adaptation import Adaptation
from reranker.serve.batcher import Batcher
from reranker.serve.domains import Domain, Domains
from reranker.serve.errors import ProblemError
from reranker.serve.exploration import Shown, explore
from reranker.serve.generation.queue import Generations
from reranker.serve.generation.vllm import VLLMTexts
from reranker.serve.observability.access_log import Books, access_log
from reranker.serve.observability.drift import DriftWatch
from reranker.serve.observability.metrics import Metrics
from reranker.serve.observability.ranking_log import ScoreLog
from reranker.serve.observability.tracing import Tracing
from reranker.serve.rank_jobs import Job, Ranked, answer, tokens_of
from reranker.serve.reloading import Reloading
from reranker.serve.settings import ServeSettings
from reranker.serve.store_calls import StoreCalls
from reranker.utils.pseudonyms import Pseudonyms

logger = logging.getLogger(__name__)

_Found = TypeVar("_Found")
_LOOK_SECONDS = 0.25  # between two looks at the models' processes


class Service:
    """What the routes stand on.

    Args:
        domains: fitted bundles, with their users; all are read in one thread.
        settings: limits.
        keys: who is let in.
        score_log: folder that gets the rankings; None keeps none.
        tracing: makes spans; None makes none.
        when_loaded: called in the engine's thread once the models are loaded.
        when_dead: called in the event loop once a model's process is gone.
    """

    def __init__(
        self,
        domains: Domains,
        settings: ServeSettings,
        keys: Keys,
        score_log: Path | None = None,
        tracing: Tracing | None = None,
        when_loaded: Callable[[], None] = lambda: None,
        when_dead: Callable[[], None] = lambda: None,
    ) -> None:
        self.domains = domains
        self.settings = settings
        self.keys = keys
        self._loaded = False
        self.failure = ""
        self.metrics = Metrics(
            waiting=lambda: self.batcher.waiting,
            adapting=lambda: self.adapting,
            ranking=lambda: self.batcher.held,
            writing=lambda: self.generations.held,
            storing=lambda: self.stores.held,
        )
        self.books = Books(self.metrics.request_done)
        self.batcher: Batcher[Job, Ranked] = Batcher(
            answer,
            batch=settings.batch,
            queue=settings.queue,
            wait_seconds=settings.batch_wait_ms / 1000,
            observe=self.metrics.batch_done,
            tokens_of=tokens_of,
            slicing=Slicing(settings.slice_tokens, settings.slice_seconds),
        )
        self.stores = StoreCalls(at_once=settings.store_calls, seconds=settings.store_seconds)
        self.generations = Generations(at_once=settings.generations, queue=settings.generation_queue)
        self.hosted: dict[str, VLLMTexts] = {}  # by model name, where vLLM answers for the model
        self.tracing = tracing
        self._when_loaded = when_loaded
        self._when_dead = when_dead
        self._watch: asyncio.Task[None] | None = None
        self._drained_at: float | None = None  # of the event loop's clock
        self.closed = False  # all that was promised is kept
        self.adaptations = {
            one.name: Adaptation(one.reranker, one.store, self.metrics.adapted)
            for one in domains
            if one.store is not None and one.reranker.llm_scorer.contexts is not None
        }
        self.score_log: ScoreLog | None = None
        self._one_at_a_time = asyncio.Lock()
        self.reloading = Reloading(self)
        self._draws = np.random.default_rng(None if settings.explore is None else settings.explore.seed)
        self.coins = np.random.default_rng(None if settings.experiment is None else settings.experiment.seed)
        self.drift = None if settings.drift is None else DriftWatch(settings.drift, self.metrics.drift_done)
        for one in domains:
            self._tell_guard(one)
        if score_log is not None:
            self.score_log = ScoreLog(
                score_log,
                rows=settings.score_log_rows,
                seconds=settings.score_log_seconds,
                observe=lambda outcome, rows: self.metrics.logged.labels(outcome).inc(rows),
                pseudonyms=None if settings.score_log_key is None else Pseudonyms.read(settings.score_log_key),
            )

    @property
    def adapting(self) -> int:
        """Users whose contexts wait to be adapted."""
        return sum(one.waiting for one in self.adaptations.values())

    @property
    def dead(self) -> bool:
        """The process that ran a model is gone; only another start of this server helps."""
        return any(one.dead for one in self.domains)

    @property
    def ready(self) -> bool:
        """All models are loaded, and live."""
        return self._loaded and not self.dead

    @property
    def not_ready(self) -> ProblemError:
        """Why nothing is answered."""
        if self.dead:
            return ProblemError(
                503, "the model's process is gone; this server must be started again", code="engine_dead"
            )
        if self.failure:
            return ProblemError(503, f"the model cannot be loaded: {self.failure}", code="not_loaded")
        return ProblemError(503, "the model is being loaded", code="not_ready", retry_after=2.0)

    def start(self) -> None:
        """Begins to work; needs a running event loop."""
        warm = self.batcher.start(self._warm_up)
        self._watch = asyncio.create_task(self._watch_models())
        self.reloading.listen()
        for adaptation in self.adaptations.values():
            adaptation.start(warm)
        if self.score_log is not None:
            self.score_log.start()

    def begin_drain(self) -> None:
        """The time to drain begins, also for `close`; needs a running event loop."""
        if self._drained_at is None:
            self._drained_at = asyncio.get_running_loop().time() + self.settings.drain_seconds

    def _drain_left(self) -> float:
        """Seconds until what is in work is given up."""
        self.begin_drain()
        if self.dead or self._drained_at is None:
            return 0.0
        return max(0.0, self._drained_at - asyncio.get_running_loop().time())

    async def close(self) -> None:
        """Finishes what is in work as far as the time to drain allows, then writes and sends what is left."""
        self.reloading.deafen()
        if self._watch is not None:
            self._watch.cancel()
        drain = self._drain_left()
        await asyncio.gather(self.batcher.close(drain), self.generations.close(drain))
        drain = self._drain_left()
        await asyncio.gather(*(one.close(drain) for one in self.adaptations.values()))
        if self.score_log is not None:
            await asyncio.to_thread(self.score_log.close)
        if self.drift is not None:
            await asyncio.to_thread(self.drift.close)
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)
        self.stores.close()
        for domain in self.domains:
            if domain.store is not None:
                domain.store.close()
        self.closed = True
        self.books.settle()
        for handler in access_log.handlers:  # whoever stopped the server may not wait for the interpreter's own end
            await asyncio.to_thread(handler.flush)

    async def _watch_models(self) -> None:
        while not self.dead:
            await asyncio.sleep(_LOOK_SECONDS)
        problem = self.not_ready
        logger.error("%s", problem)
        self.batcher.fail_all(problem)  # threads that wait for the dead process may never return
        self.generations.fail_all(problem)
        self._when_dead()

    def explored(self, n: int) -> Shown | None:
        """What is shown of a ranking of n items; None where the server explores nothing."""
        if self.settings.explore is None or self.settings.shadow:
            return None
        return explore(n, self.settings.explore, self._draws)

    def take(self, domain: Domain) -> None:
        """New requests go to this domain from now on, in the place of the one of its name."""
        self.domains.take(domain)
        self._tell_guard(domain)
        adaptation = self.adaptations.get(domain.name)
        if adaptation is not None:
            adaptation.adapts_for(domain.reranker)
        if self.hosted:
            self.hosted = self._host()

    def _tell_guard(self, domain: Domain) -> None:
        fusion_model = domain.reranker.fusion_model
        if fusion_model is not None:
            self.metrics.guard_decided(domain.name, fusion_model.guard)

    async def logged_rows(self, users: Sequence[str | int]) -> int:
        """Rows of the score log that name one of these users."""
        return 0 if self.score_log is None else await self._in_log(self.score_log.rows_of, users)

    async def logged(self, users: Sequence[str | int]) -> list[dict[str, Any]]:
        """The rows of the score log that name one of these users."""
        return [] if self.score_log is None else await self._in_log(self.score_log.read, users)

    async def forget_logged(self, users: Sequence[str | int]) -> int:
        """Takes these users' rows out of the score log; returns how many there were."""
        return 0 if self.score_log is None else await self._in_log(self.score_log.forget, users)

    async def _in_log(self, work: Callable[[Collection[str]], _Found], users: Sequence[str | int]) -> _Found:
        async with self._one_at_a_time:  # each holds a thread, which the other requests' stores need, too
            return await asyncio.to_thread(work, set(map(str, users)))

    def key_of(self, scope: Scope) -> Key:
        """The key that came with a request.

        Raises:
            ProblemError: 401 where there is none that is known here.
        """
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, secret = given.decode("latin-1").partition(" ")
        key = self.keys.find(secret.strip() if scheme.lower() == "bearer" else None)
        if key is None:
            raise ProblemError(401, "no such API key: send 'Authorization: Bearer KEY'", code="invalid_api_key")
        return key

    def let_in(self, request: Request, scope: str) -> Key:
        """The key of a request, if it has this scope and is within its rate.

        Raises:
            ProblemError: 401, 403 or 429.
        """
        key = self.key_of(request.scope)
        if not key.may(scope):
            raise ProblemError(403, f"the key {key.name!r} may not {scope}", code="scope_missing")
        wait = self.keys.wait(key)
        if wait:
            raise ProblemError(429, f"the key {key.name!r} is over its rate", code="rate_limited", retry_after=wait)
        request.state.log = {"key": key.name}
        return key

    def _warm_up(self) -> None:
        """Loads the models, so that the first request does not wait for them."""
        try:
            for domain in self.domains:
                domain.reranker.rank("", ["a title", "another"])
                if self.drift is not None:
                    self.drift.watch(domain)
            self.hosted = self._host()
        except Exception as error:  # whatever it is: /ready says so for as long as the server stands
            self.failure = str(error) or type(error).__name__
            logger.exception("this server cannot rank: %s", self.failure)
        else:
            self._when_loaded()
            self._loaded = True

    def _host(self) -> dict[str, VLLMTexts]:
        hosted: dict[str, VLLMTexts] = {}
        for model in self.domains.models():
            domain, with_soft = self.domains.writer(model["id"])
            reader = domain.reranker.llm_scorer
            if isinstance(reader.engine, VLLMHost):
                soft = reader.soft_prompt() if with_soft else None
                hosted[model["id"]] = VLLMTexts(reader.engine, model["id"], soft, self.settings.tool_call_parser)
        return hosted


BEARER = HTTPBearer(auto_error=False, description="a key of `reranker keys add`; none where the server knows no keys")
"""How OpenAPI describes keys; `Service.let_in` checks them."""


def allowed(service: Service, scope: str) -> Any:
    """A dependency that lets only keys with this scope in, at their rate."""

    async def check(request: Request) -> Key:  # not in a thread: it is microseconds of work
        return service.let_in(request, scope)

    async def check_as_described(request: Request, _: Annotated[object, Depends(BEARER)]) -> Key:
        return await check(request)

    if service.keys.asked_for:
        return Depends(check_as_described)

    return Depends(check)
