"""Which jobs are read between the slices of which."""

import asyncio
import time

import pytest

from reranker.engines.slices import _SLICING, Slicing, in_turns
from reranker.serve.batcher import Batcher

SLICES = 8


async def in_order(arriving):
    """Names of the jobs in the order of their answers.

    The first one waits, before its first slice ends, until all others stand in the queue.

    Args:
        arriving: (name, tokens) of each; a job of n tokens has n slices, at most SLICES.
    """
    ended, all_wait = [], asyncio.Event()
    loop = asyncio.get_running_loop()

    def work(jobs):
        for _ in in_turns(range(min(SLICES, max(tokens for _, tokens in jobs)))):
            asyncio.run_coroutine_threadsafe(all_wait.wait(), loop).result()
        ended.extend(name for name, _ in jobs)
        return [name for name, _ in jobs]

    batcher = Batcher(work, batch=2, queue=99, wait_seconds=0, tokens_of=lambda job: job[1], slicing=Slicing(10, 0.0))
    batcher.start()
    tasks = []
    for job in arriving:
        tasks.append(asyncio.create_task(batcher.submit(job, timeout=30)))
        while len(tasks) == 1 and (batcher.waiting or not batcher.held):
            await asyncio.sleep(0.001)  # the first one is in work
    while batcher.waiting < len(arriving) - 1:
        await asyncio.sleep(0.001)
    all_wait.set()
    answers = await asyncio.gather(*tasks)
    assert [one.answer for one in answers] == [name for name, _ in arriving]
    await batcher.close(1)
    return ended


def test_a_fast_engine_makes_no_long_job_short_whose_preparation_is_slow():
    """The engine's slices grow without end; 100,000 tokens that take 50 ms before it stay long at 10 ms a slice."""
    sliced_jobs = []

    def work(jobs):
        (tokens,) = jobs
        current = _SLICING.get()
        sliced_jobs.append(current is not None)
        if current is not None:
            current.measured(tokens, 1e-6)  # the engine
        time.sleep(0.05)
        return jobs

    async def ask():
        slicing = Slicing(1000, 0.01)
        batcher = Batcher(work, batch=2, queue=9, wait_seconds=0, tokens_of=lambda job: job, slicing=slicing)
        batcher.start()
        for _ in range(20):
            await batcher.submit(100_000, timeout=30)
        await batcher.close(1)

    asyncio.run(ask())
    assert all(sliced_jobs)


@pytest.mark.parametrize(
    ("arriving", "expected"),
    [
        ([("huge", 4000), ("short", 10), ("as huge", 4000)], ["short", "huge", "as huge"]),
        ([("huge", 4000), ("as huge", 4000), ("far shorter", 1000)], ["far shorter", "huge", "as huge"]),
        ([("huge", 4000), ("not far", 1001), ("short", 9)], ["short", "huge", "not far"]),
        ([("huge", 4000), ("long", 900), ("shorter", 200), ("short", 1)], ["short", "shorter", "long", "huge"]),
        ([("short", 5), ("huge", 4000), ("short too", 5)], ["short", "short too", "huge"]),
    ],
)
def test_what_is_read_between_slices(arriving, expected):
    assert asyncio.run(in_order(arriving)) == expected
