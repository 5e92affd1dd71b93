"""Contexts adapted to users over HTTP: used by the next answer, forgotten at once, not lost by a kill."""

import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import numpy as np
import pandas as pd
import pytest

from reranker.pipeline.text_ranking import TextList
from reranker.serve.app import create_app
from reranker.stores import SqliteUserStore
from tests.pipeline.adaptive import that_reads
from tests.serve.live import serving, wait_until_ready
from tests.serve.process import Process

ITEMS = ["g0i1", "g1i1", "g2i1", "g3i1", "g1i6", "g2i6"]


class GatedStore(SqliteUserStore):
    """Contexts are not written while the gate is shut."""

    def __init__(self, path):
        super().__init__(path)
        self.open = threading.Event()
        self.open.set()
        self.reached = threading.Event()

    def put_contexts(self, states):
        self.reached.set()
        assert self.open.wait(30)
        super().put_contexts(states)


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    return that_reads(tmp_path_factory.mktemp("adaptive"))


@pytest.fixture
def store(tmp_path):
    return GatedStore(tmp_path / "users.db")


@pytest.fixture
def server(reranker, store):
    with serving(create_app(reranker, store=store)) as url:
        wait_until_ready(url)
        yield url


def did(url, user, *items):
    rows = [{"item_id": item} for item in items]
    answer = httpx.post(f"{url}/v1/users/{user}/interactions", json={"interactions": rows}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def kept(url, user):
    answer = httpx.get(f"{url}/v1/users/{user}", timeout=60)
    return answer.json()["domains"]["toy"] if answer.status_code == 200 else None


def adapted(url, user, support):
    """What is kept once the context has seen so many interactions."""
    deadline = time.monotonic() + 60
    while (found := kept(url, user)) is None or found["support"] != support:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def scores(url, **fields):
    answer = httpx.post(f"{url}/v1/rerank", json={"item_ids": ITEMS, "raw_scores": True, **fields}, timeout=60).json()
    return {one["item_id"]: one["relevance_score"] for one in answer["results"]}


def counted(url, name):
    return float(re.search(rf"^{name} (\S+)$", httpx.get(f"{url}/metrics").text, re.MULTILINE)[1])


def test_the_next_answer_uses_the_context(server, reranker, store):
    before = len(reranker.history("u3"))
    assert did(server, "u3", "g1i0")["adapts"]
    found = adapted(server, "u3", before + 1)
    assert len(found["context"]) == 4 and np.abs(found["context"]).max() > 0 and found["updated_at"] > 0
    history = [*reranker.history("u3"), "g1i0"]
    table = pd.DataFrame({"user_id": "u3", "item_id": ITEMS, "rank": range(1, 7)})
    expected = reranker.rerank(table, interactions={"u3": history}, states=store.get(["u3"])).to_frame()
    answered = scores(server, user="u3")
    assert answered == pytest.approx(dict(zip(expected["item_id"], expected["score"], strict=True)), abs=1e-5)
    without = scores(server, history=history)  # the same history, no context
    assert max(abs(answered[item] - without[item]) for item in ITEMS) > 1e-4


def test_adaptations_and_drift_are_counted(server):
    did(server, "new", "g1i0", "g1i1", "g1i2")
    loss = adapted(server, "new", 3)
    assert counted(server, "reranker_adaptations_total") == 1 and counted(server, "reranker_adapt_queue") == 0
    did(server, "new", "g3i0")
    adapted(server, "new", 4)
    assert counted(server, "reranker_adaptations_total") == 2
    assert counted(server, "reranker_adapt_seconds_count") == 2
    assert counted(server, "reranker_drifted_total") in (0, 1) and loss["support"] == 3


def test_forgetting_waits_for_the_adaptation_under_way(server, store, tmp_path):
    store.open.clear()
    did(server, "leaver", "g1i0", "g1i1")
    assert store.reached.wait(30)
    with ThreadPoolExecutor(1) as pool:
        gone = pool.submit(httpx.delete, f"{server}/v1/users/leaver", timeout=60)
        time.sleep(0.3)
        assert not gone.done()
        store.open.set()
        assert gone.result().json()["forgotten"]
    assert kept(server, "leaver") is None
    for file in tmp_path.glob("users.db*"):
        assert b"leaver" not in file.read_bytes()
    did(server, "leaver", "g3i0")  # who comes back is a new user who did one thing
    assert len(adapted(server, "leaver", 1)["interactions"]) == 1


def test_who_is_forgotten_stays_forgotten_whatever_comes_while_it_is_done(server, store, tmp_path):
    store.open.clear()
    did(server, "other", "g1i0")  # its adaptation keeps the other users waiting
    assert store.reached.wait(30)
    with ThreadPoolExecutor(1) as pool:
        gone = pool.submit(httpx.delete, f"{server}/v1/users/u3", timeout=60)  # whose history is in the bundle
        time.sleep(0.3)
        did(server, "u3", "g1i0", "g1i1")
        store.open.set()
        assert gone.result().json()["forgotten"]
    did(server, "later", "g1i0")
    adapted(server, "later", 1)  # whoever waited before was looked at by then
    left = kept(server, "u3")
    assert left["interactions"] == left["context"] == [] and left["support"] == 0
    for file in tmp_path.glob("users.db*"):
        assert b"u3" not in file.read_bytes()


def test_texts_are_ranked_under_the_users_context(server, reranker, store):
    titles = reranker.titles(ITEMS)

    def ranked(**fields):
        asked = {"documents": titles, "query": "", "raw_scores": True, **fields}
        answer = httpx.post(f"{server}/v1/rerank", json=asked, timeout=60).json()
        return [one["relevance_score"] for one in sorted(answer["results"], key=lambda one: one["index"])]

    before = len(reranker.history("u5"))
    did(server, "u5", "g1i0")
    adapted(server, "u5", before + 1)
    history = [*reranker.history("u5"), "g1i0"]
    listed = TextList(query="", documents=titles, history=reranker.titles(history), state=store.get(["u5"])["u5"])
    expected = {one.index: one.score for one in reranker.rank_texts([listed])[0].documents}
    assert ranked(user="u5") == pytest.approx([expected[at] for at in range(len(titles))], abs=1e-5)
    assert np.abs(np.subtract(ranked(user="u5"), ranked(history=reranker.titles(history)))).max() > 1e-4


def test_what_a_kill_interrupted_is_done_at_the_next_start(reranker, tmp_path, monkeypatch):
    monkeypatch.setenv("RERANKER_MODELS", str(reranker.config.model))
    bundle, users = tmp_path / "bundle", tmp_path / "users.db"
    reranker.save(bundle)
    for attempt in range(5):  # a machine that is fast enough has adapted them all before the signal arrives
        server = Process(bundle, "--users-db", users)
        wanted = [f"user{attempt}-{number}" for number in range(12)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(partial(did, server.url), wanted, ["g1i0"] * 12, ["g2i0"] * 12))
        server.end(signal.SIGKILL)
        left = SqliteUserStore(users)
        states = left.get(wanted)
        left.close()
        assert len(states) == 12
        if interrupted := sum(state.support == 0 for state in states.values()):
            break
    assert interrupted > 0
    server = Process(bundle, "--users-db", users)
    try:
        for user in wanted:
            found = adapted(server.url, user, 2)
            assert [one["item_id"] for one in found["interactions"]] == ["g1i0", "g2i0"] and len(found["context"]) == 4
    finally:
        server.end(signal.SIGTERM)
