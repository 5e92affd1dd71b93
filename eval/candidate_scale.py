"""Candidates of a catalogue of a million items, synthetic: seconds and memory of proposing, by each generator.

`python -m eval.candidates --scale` prints it, by wall clock and by processor: on a machine that is busy with other
things, processor seconds over the cores are what proposing would take alone. Items are drawn by Zipf's law, each has
one of 1,000 topics, and its title holds words of the topic; users choose within three topics. Nothing is said of
quality.
"""

import resource
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from candidate_gen import CoVisitGenerator, TextGenerator
from eval.checks import Check, at_most, machine, report, reported
from reranker.data.schema import ITEM, TIMESTAMP, TITLE, USER
from reranker.protocols import CandidateGenerator

TOPICS, WORDS_A_TOPIC, TITLE_WORDS = 1000, 50, 6
CHOICES = 30
MOST_SECONDS, MOST_GIB, CORES = 60.0, 4.0, 2


def synthetic(items: int, users: int, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Interactions and the item table; every item was chosen at least once."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, WORDS_A_TOPIC, (items, TITLE_WORDS))
    topics = np.arange(items) % TOPICS
    titles = [
        " ".join(f"w{topic}x{word}" for word in row) for topic, row in zip(topics.tolist(), words.tolist(), strict=True)
    ]
    a_topic = items // TOPICS
    tastes = rng.integers(0, TOPICS, (users, 3))
    topic = np.take_along_axis(tastes, rng.integers(0, 3, (users, CHOICES)), axis=1)
    place = np.minimum((a_topic ** rng.random((users, CHOICES))).astype(np.int64) - 1, a_topic - 1)
    chosen = topic + TOPICS * np.maximum(place, 0)
    everyone = np.arange(items) % users  # each item by somebody, so that all are in the catalogue
    table = pd.DataFrame(
        {
            USER: np.concatenate([np.repeat(np.arange(users), CHOICES), everyone]),
            ITEM: np.concatenate([chosen.ravel(), np.arange(items)]),
        }
    )
    table[TIMESTAMP] = rng.permutation(len(table))
    return table, pd.DataFrame({ITEM: np.arange(items), TITLE: titles})


def run(out: Path, say: Callable[[str], None], items: int = 1_000_000, asked: int = 10_000) -> list[Check]:
    """Fits and proposes 50 items for `asked` users by each generator."""
    table, listed = synthetic(items, max(asked, items // 10))
    say(f"{items} items, {len(table)} interactions of {table[USER].nunique()} users")
    makers: dict[str, Callable[[], CandidateGenerator]] = {
        "co_visit": CoVisitGenerator,
        "text": lambda: TextGenerator(listed),
    }
    checks: list[Check] = []
    search = "faiss" if find_spec("faiss") else "exact"
    for name, make in makers.items():
        began = time.perf_counter(), time.process_time()
        generator = make().fit(table)
        fitted = time.perf_counter(), time.process_time()
        say(f"{name}: fitted in {fitted[0] - began[0]:.0f} s, {_peak_gib():.2f} GiB")
        proposed = generator.recommend(range(asked), n=50)
        done = time.perf_counter(), time.process_time()
        assert len(proposed) == 50 * asked
        checks += [
            reported(f"{name}: fit", fitted[0] - began[0], "s"),
            reported(f"{name}: fit, processor", fitted[1] - began[1], "s"),
            at_most(f"{name}: propose for {asked} users", done[0] - fitted[0], MOST_SECONDS, "s"),
            at_most(
                f"{name}: the same, processor over {CORES} cores", (done[1] - fitted[1]) / CORES, MOST_SECONDS, "s"
            ),
            at_most(f"{name}: peak memory so far", _peak_gib(), MOST_GIB, "GiB"),
        ]
        del generator, proposed
    report(checks, out, machine(("numpy", "scipy"), items=items, asked=asked, search=search), say)
    return checks


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
