"""The end of a server: in time, and said to those who waited in the shape of every other error."""

import asyncio
import json
import socket
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import pytest
import uvicorn

from candidate_gen import PopularityGenerator
from reranker import Reranker
from reranker.engines.scripted import ScriptedEngine
from reranker.serve.app import create_app
from reranker.serve.draining import DrainingServer
from reranker.serve.http_limits import BoundedHttp
from reranker.serve.settings import ServeSettings
from tests.pipeline import toys
from tests.serve.live import wait_until_ready

DRAIN = 0.5


class Gate(ScriptedEngine):
    """Reads, and writes from the second piece on, when it is let."""

    def __init__(self):
        super().__init__()
        self.open, self.reached = threading.Event(), threading.Event()
        self.open.set()

    def span_log_likelihoods(self, requests):
        self._wait()
        return super().span_log_likelihoods(requests)

    def generate(self, request):
        pieces = super().generate(request)
        yield next(pieces)
        self._wait()
        yield from pieces

    def _wait(self):
        self.reached.set()
        assert self.open.wait(30)


@pytest.fixture(scope="module")
def fitted():
    data = toys.taste_dataset()
    return Reranker(toys.config(), Gate()).fit(data, PopularityGenerator().fit(data.interactions))


@contextmanager
def draining(fitted):
    """Base URL and a function that stops the server; it tells the seconds that took, and what was left."""
    app, left = create_app(fitted, settings=ServeSettings(drain_seconds=DRAIN)), []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, http=BoundedHttp, log_level="warning", access_log=False)
        server = DrainingServer(config, app.state.service, left.append)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        while not server.started:
            time.sleep(0.01)
        wait_until_ready(url)
        engine = fitted.llm_scorer.engine
        engine.open.clear()
        engine.reached.clear()

        def stop():
            assert engine.reached.wait(20)
            started = time.monotonic()
            server.should_exit = True
            while not app.state.service.closed:
                assert time.monotonic() < started + 20
                time.sleep(0.01)
            return time.monotonic() - started

        try:
            yield url, stop
        finally:
            engine.open.set()
            server.should_exit = True
            thread.join()
        assert not left  # nothing had to be broken off


def test_what_is_not_done_in_time_is_told_so_in_openais_shape_and_the_end_is_kept(fitted):
    answers = []
    with draining(fitted) as (url, stop):
        body = {"documents": ["a b", "c d"], "query": "q"}
        asking = threading.Thread(target=lambda: answers.append(httpx.post(f"{url}/rerank", json=body, timeout=30)))
        asking.start()
        took = stop()
        asking.join()
    (answer,) = answers
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "shutting_down"
    assert answer.headers["x-request-id"] and answer.headers["connection"] == "close"
    assert took < DRAIN + 2  # it had been twice and thrice the drain


def test_a_stream_ends_with_an_event_that_says_why(fitted):
    lines = []

    def ask(url):
        body = {"model": "toy", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 50}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=30) as answer:
            lines.extend(answer.iter_lines())

    with draining(fitted) as (url, stop):
        asking = threading.Thread(target=ask, args=(url,))
        asking.start()
        assert stop() < DRAIN + 2
        asking.join()
    told = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert told[0]["object"] == "chat.completion.chunk" and told[-1]["error"]["code"] == "shutting_down"


def test_a_thread_that_does_not_come_back_is_left_behind(fitted, monkeypatch):
    monkeypatch.setattr("reranker.serve.draining._CLOSE_SECONDS", 0.1)
    codes = []
    for closed in (True, False):
        service = create_app(fitted, settings=ServeSettings(drain_seconds=0)).state.service
        service.closed = closed  # whether all that was promised is kept
        server = DrainingServer(uvicorn.Config(None), service, codes.append)
        server.lifespan = SimpleNamespace(shutdown=lambda: asyncio.sleep(0.5))
        server.servers = []
        asyncio.run(server.shutdown())
    assert codes == [0, 1]
