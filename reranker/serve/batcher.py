"""Requests that arrive together are read together: one thread owns the engine, a bounded queue stands before it.

A long job is read alone and in slices. Between two of them the short jobs that wait are read, one batch a slice, or
else one that is far shorter than it, in slices of its own. A job whose caller has gone is given up.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from reranker.engines.slices import AbandonedError, Slicing, sliced
from reranker.serve.errors import ProblemError

logger = logging.getLogger(__name__)

_LOOP_SECONDS = 5.0  # that a slice waits for the event loop
_FAR_SHORTER = 4  # times: such a job is read between the slices of a longer one
_TURNS = 4  # of the loop from an answer to its last byte: waking the caller, routing, sending

Job = TypeVar("Job")
Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Done(Generic[Answer]):
    """An answer and what it took.

    Attributes:
        answer: what `work` gave.
        waited: seconds in the queue.
        worked: seconds that its batch took.
        batch: jobs in that batch.
    """

    answer: Answer
    waited: float
    worked: float
    batch: int


@dataclass(frozen=True, eq=False)
class _Waiting(Generic[Job, Answer]):
    job: Job
    future: "asyncio.Future[Done[Answer]]"
    since: float
    tokens: int


_Batch = Sequence[_Waiting[Job, Answer]]


class Batcher(Generic[Job, Answer]):
    """Collects jobs into batches.

    Args:
        work: jobs -> an answer or an exception for each, in their order; called in one thread of its own.
        batch: jobs given to `work` together, at most.
        queue: jobs that may wait.
        wait_seconds: how long a lone job waits for company.
        observe: called with the size of each batch and its seconds.
        tokens_of: a job -> tokens that the engine will read for it, about.
        slicing: how long jobs are cut; those of more than its tokens are long.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Job]], Sequence[Answer | Exception]],
        *,
        batch: int,
        queue: int,
        wait_seconds: float,
        observe: Callable[[int, float], None] = lambda size, seconds: None,
        tokens_of: Callable[[Job], int] = lambda job: 0,
        slicing: Slicing | None = None,
    ) -> None:
        self._work = work
        self._batch = batch
        self._wait = wait_seconds
        self._observe = observe
        self._tokens_of = tokens_of
        self._slicing = slicing or Slicing(1024, 0.0)
        self._least = self._slicing.tokens
        self._pace = replace(
            self._slicing
        )  # of whole jobs: preparing texts takes its time, too, however fast the engine
        self._stopped = False
        self._held: set[_Waiting[Job, Answer]] = set()  # those who wait or are in work
        self._most = queue
        self._waiting: dict[_Waiting[Job, Answer], None] = {}  # in order of arrival
        self._arrived, self._idle = asyncio.Event(), asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reranker-engine")
        self._closing = False
        self._loop: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def held(self) -> int:
        """Jobs that wait or are in work, and whose callers wait for them."""
        return len(self._held)

    def start(self, first: Callable[[], None] = lambda: None) -> "asyncio.Future[None]":
        """Begins to work; needs a running event loop.

        Args:
            first: called in the thread before any job.

        Returns:
            Done when `first` is.
        """
        begun = asyncio.get_running_loop().run_in_executor(self._thread, first)
        self._loop = asyncio.create_task(self._run())
        return begun

    async def submit(self, job: Job, timeout: float) -> Done[Answer]:
        """The answer to a job. A caller that is cancelled takes its job out of the queue.

        Raises:
            ProblemError: 503 when the queue is full or the server shuts down, 504 when it took longer than `timeout`.
        """
        if self._closing:
            raise ProblemError(503, "the server is shutting down", code="shutting_down", retry_after=5.0)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Done[Answer]] = loop.create_future()
        if len(self._waiting) >= self._most:
            raise ProblemError(503, f"{self._most} requests are waiting already", code="overloaded", retry_after=1.0)
        waiting = _Waiting(job, future, time.perf_counter(), self._tokens_of(job))
        self._waiting[waiting] = None
        self._held.add(waiting)
        self._idle.clear()
        self._arrived.set()
        timer = loop.call_later(timeout, _expire, future, timeout)
        try:
            return await future
        finally:
            timer.cancel()
            self._waiting.pop(waiting, None)
            self._held.discard(waiting)

    def fail_all(self, problem: ProblemError) -> None:
        """Answers everybody with this at once, and whoever comes later: nothing will be read any more."""
        self._closing = self._stopped = True
        for waiting in list(self._held):
            _fail(waiting.future, problem)

    async def close(self, drain_seconds: float) -> None:
        """Takes no more jobs and finishes those it has, as far as the time allows."""
        self._closing = True
        if self._loop is not None:
            try:
                if not self._idle.is_set():
                    await asyncio.wait_for(self._idle.wait(), drain_seconds)
            except TimeoutError:
                logger.warning("shut down with %d requests in the queue", self.waiting)
            self._loop.cancel()
        self._stopped = True  # a job in slices ends at the next one
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            wanted = await self._take()
            if wanted:
                self._hand_out(*await loop.run_in_executor(self._thread, self._read, wanted, loop))
            await _let_out()

    def _read(
        self, wanted: "_Batch[Job, Answer]", loop: asyncio.AbstractEventLoop
    ) -> "tuple[_Batch[Job, Answer], Sequence[Answer | Exception], float, float]":
        """A batch, its answers, when it began and how long it took; called in the engine's thread."""
        started, elsewhere = time.perf_counter(), 0.0
        slicing = None

        def between() -> None:
            nonlocal elsewhere
            begun = time.perf_counter()
            self._between(wanted, loop)
            elsewhere += time.perf_counter() - begun

        if self._is_long(wanted[0]):
            slicing = replace(self._slicing, between=between)
        answers: Sequence[Answer | Exception]
        try:
            with sliced(slicing):
                answers = self._work([one.job for one in wanted])
        except Exception as error:
            if not isinstance(error, AbandonedError):
                logger.exception("a batch of %d failed", len(wanted))
            answers = [error] * len(wanted)
        if slicing is not None:
            self._slicing.tokens = slicing.tokens
        worked = time.perf_counter() - started
        if not any(isinstance(one, Exception) for one in answers):
            self._pace.measured(sum(one.tokens for one in wanted), worked - elsewhere)
        return wanted, answers, started, worked

    def _hand_out(
        self,
        wanted: "_Batch[Job, Answer]",
        answers: Sequence[Answer | Exception],
        started: float,
        worked: float,
    ) -> None:
        self._observe(len(wanted), worked)
        for one, answer in zip(wanted, answers, strict=True):
            if isinstance(answer, Exception):
                _fail(one.future, answer)
            elif not one.future.done():
                waited = started - one.since
                one.future.set_result(Done(answer=answer, waited=waited, worked=worked, batch=len(wanted)))

    def _between(self, held: "_Batch[Job, Answer]", loop: asyncio.AbstractEventLoop) -> None:
        """Between two slices: gives up what nobody waits for, and reads one batch of short jobs or one far shorter."""
        if self._stopped or all(one.future.done() for one in held):
            raise AbandonedError("nobody waits for this ranking any more")
        asked: Future[_Batch[Job, Answer]] = Future()

        def take() -> None:
            if asked.set_running_or_notify_cancel():
                asked.set_result(self._take_short() or self._take_shorter(held[0].tokens // _FAR_SHORTER))

        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(take)
        try:
            others = asked.result(_LOOP_SECONDS)
        except TimeoutError:
            if asked.cancel():
                return
            others = asked.result()
        if others:
            done = self._read(others, loop)
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._hand_out, *done)

    def _is_long(self, one: _Waiting[Job, Answer]) -> bool:
        return one.tokens > min(self._slicing.tokens, max(self._least, self._pace.tokens))

    def _take_short(self) -> "_Batch[Job, Answer]":
        taken = [one for one in self._live() if not self._is_long(one)][: self._batch]
        for one in taken:
            del self._waiting[one]
        return taken

    def _take_shorter(self, most: int) -> "_Batch[Job, Answer]":
        """The first job of so many tokens at most."""
        taken = [one for one in self._live() if one.tokens <= most][:1]
        for one in taken:
            del self._waiting[one]
        return taken

    async def _take(self) -> "_Batch[Job, Answer]":
        """The jobs of the next batch, at least one unless its caller went away while it waited for company."""
        while not (live := self._live()):
            self._idle.set()
            self._arrived.clear()
            await self._arrived.wait()
        if len(live) == 1 and self._wait:
            await asyncio.sleep(self._wait)
            live = self._live()
        if live and self._is_long(live[0]):
            del self._waiting[live[0]]
            return live[:1]
        return self._take_short()

    def _live(self) -> list[_Waiting[Job, Answer]]:
        """Those that wait and were not given up; what was goes with its caller, at the loop's next turn."""
        return [one for one in self._waiting if not one.future.done()]


async def _let_out() -> None:
    """Gives the loop its turns to send what is answered: the next batch would hold the interpreter meanwhile."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


def _expire(future: "asyncio.Future[Any]", timeout: float) -> None:
    _fail(future, ProblemError(504, f"no answer within {timeout:g} s", code="timeout", retry_after=1.0))


def _fail(future: "asyncio.Future[Any]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
