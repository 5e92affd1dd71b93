"""One client's long list does not stop the others: slices, cancellation between them, budgets."""

import threading
import time

import httpx
import pytest

from candidate_gen import PopularityGenerator
from reranker import Reranker
from reranker.engines.scripted import ScriptedEngine
from reranker.pipeline.text_ranking import TextList
from reranker.serve.app import create_app
from reranker.serve.domains import Domain
from reranker.serve.rank_jobs import ItemList, Job, answer, tokens_of
from reranker.serve.settings import ServeSettings
from tests.pipeline import toys
from tests.serve.live import serving, until, wait_until_ready

SHORT = ["mipfen mippel 7", "zorblax zomzik 7"]
LONG = [f"{toys.GROUPS[number % 4]} {number}" for number in range(60)]


class Stepping(ScriptedEngine):
    """Each call waits for a permit, once they are asked for; remembers how many candidates each call read."""

    def __init__(self):
        super().__init__()
        self.permits = None
        self.reached = threading.Semaphore(0)
        self.calls = []

    def span_log_likelihoods(self, requests):
        self.calls.append(sum(len(one.candidates) for one in requests))
        if self.permits is not None:
            self.reached.release()
            assert self.permits.acquire(timeout=20)
        return super().span_log_likelihoods(requests)


@pytest.fixture(scope="module")
def fitted():
    data = toys.taste_dataset()
    return Reranker(toys.config(), Stepping()).fit(data, PopularityGenerator().fit(data.interactions))


@pytest.fixture
def engine(fitted):
    engine = fitted.llm_scorer.engine
    engine.calls.clear()
    yield engine
    if engine.permits is not None:
        engine.permits.release(100_000)
    engine.permits = None


@pytest.fixture
def url(fitted, engine):
    settings = ServeSettings(slice_tokens=500, slice_seconds=0, max_request_tokens=2000, batch_wait_ms=0)
    with serving(create_app(fitted, settings=settings)) as url:
        wait_until_ready(url)
        yield url
        if engine.permits is not None:
            engine.permits.release(100_000)


def ask(url, documents, timeout=30):
    return httpx.post(f"{url}/v1/rerank", json={"query": "q", "documents": documents}, timeout=timeout)


def test_a_short_list_is_answered_between_two_slices_of_a_long_one(url, engine, fitted):
    expected = [one.index for one in fitted.rank("q", LONG)]
    engine.calls.clear()
    engine.reached, engine.permits = threading.Semaphore(0), threading.Semaphore(0)
    found = []
    long = threading.Thread(target=lambda: found.append(ask(url, LONG)))
    long.start()
    assert engine.reached.acquire(timeout=20)  # the long one is in its first slice
    short = threading.Thread(target=lambda: found.append(ask(url, SHORT)))
    short.start()
    until(lambda: "reranker_queue 1.0" in httpx.get(f"{url}/metrics").text)
    while short.is_alive():
        engine.permits.release()
        short.join(0.05)
    assert len(found) == 1 and len(found[0].json()["results"]) == len(SHORT) and long.is_alive()
    engine.permits.release(100_000)
    long.join()
    assert [one["index"] for one in found[1].json()["results"]] == expected


def test_a_long_list_ends_at_the_next_slice_when_its_client_has_gone(url, engine):
    engine.reached, engine.permits = threading.Semaphore(0), threading.Semaphore(0)
    with pytest.raises(httpx.ReadTimeout):
        ask(url, LONG, timeout=1.5)
    time.sleep(0.3)  # the server is told
    calls = len(engine.calls)
    engine.permits.release(100_000)
    assert ask(url, SHORT).status_code == 200
    assert len(engine.calls) - calls <= 3  # those of the short list


@pytest.mark.parametrize("name", ["documents", "history"])
def test_one_endless_text_is_refused_for_its_words_are_counted_at_once(url, name):
    texts = ["short", {"title": "x", "text": "y " * 200_001}]
    body = {"documents": ["a", "b"], "query": "q", name: texts}
    answer = httpx.post(f"{url}/v1/rerank", json=body, timeout=30)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (413, f"{name}.1", "too_long")


def test_looking_at_words_is_work_too():
    """The model reads 9 tokens of each document, whatever its length: 1,600 characters more are 533 // 16 of work."""
    fitted = toys.fitted()
    domain = Domain(fitted, None)
    short, long = (
        tokens_of(Job(domain=domain, ranks=TextList(query="q", documents=["x" * n], max_tokens_per_doc=9)))
        for n in (3_000, 4_600)
    )
    assert short > 9 and 533 // 16 <= long - short <= 1 + 533 // 16


def test_more_tokens_than_the_budget_are_refused_with_the_limit(url):
    answer = ask(url, ["word " * 400 for _ in range(100)])
    assert answer.status_code == 413
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == ("documents", "too_many_tokens") and "2000" in error["message"]


def test_rows_of_one_list_never_reach_the_next(fitted):
    domain = Domain(fitted, None)
    lists = [
        ItemList(items=["g0i1", "g1i1", "g2i1"], first_stage_scores=[0.9, 0.5, -3.4028234663852886e38]),
        ItemList(items=["g2i1", "g0i1", "g1i1"], first_stage_scores=[0.9, 0.5, 0.1]),
    ]
    first, second = answer([Job(domain=domain, ranks=one) for one in lists])
    assert sorted(first.order) == sorted(second.order) == [0, 1, 2]
    (alone,) = answer([Job(domain=domain, ranks=lists[1])])
    assert second.order == alone.order and second.scores == pytest.approx(alone.scores)
