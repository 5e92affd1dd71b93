"""A store that hangs or is locked holds nobody for longer than its deadline."""

import sqlite3
import threading
from contextlib import closing

import httpx
import pytest

from reranker.serve.app import create_app
from reranker.serve.settings import ServeSettings
from reranker.stores import SqliteUserStore
from tests.pipeline import toys
from tests.serve.live import serving, until, wait_until_ready

BODY = {"user": "u0", "item_ids": ["g1i1", "g0i1", "g2i1", "g3i1"], "raw_scores": True}


class Hanging(SqliteUserStore):
    """Reads hang while the gate is shut."""

    def __init__(self, path):
        super().__init__(path)
        self.open = threading.Event()

    def get(self, user_ids, last=None):
        assert self.open.wait(30)
        return super().get(user_ids, last)


@pytest.fixture(scope="module")
def fitted():
    return toys.fitted()


@pytest.fixture
def hanging(tmp_path):
    store = Hanging(tmp_path / "users.db")
    yield store
    store.open.set()


def served_by(fitted, store, **settings):
    return serving(create_app(fitted, store=store, settings=ServeSettings(store_seconds=0.2, **settings)))


def test_more_rankings_than_threads_are_all_refused_in_time_and_answered_afterwards(fitted, hanging):
    with served_by(fitted, hanging, store_calls=2) as url:
        wait_until_ready(url)
        for _ in range(5):
            answer = httpx.post(f"{url}/rerank", json=BODY, timeout=10)
            assert (answer.status_code, answer.json()["error"]["code"]) == (504, "store_timeout")
        assert httpx.post(f"{url}/rerank", json={**BODY, "user": None}, timeout=10).status_code == 200
        hanging.open.set()
        assert httpx.post(f"{url}/rerank", json=BODY, timeout=10).status_code == 200


def test_calls_that_hang_are_counted_until_they_return(fitted, hanging):
    with served_by(fitted, hanging, store_calls=2) as url:
        wait_until_ready(url)

        def counted(calls):
            return f"reranker_store_calls {calls:.1f}" in httpx.get(f"{url}/metrics", timeout=10).text

        assert counted(0)
        for in_work in (1, 2, 2):  # the third one waits for a thread, and leaves when it is given up
            assert httpx.post(f"{url}/rerank", json=BODY, timeout=10).status_code == 504
            assert counted(in_work)
        hanging.open.set()
        until(lambda: counted(0))


def test_stateless_ranks_by_the_bundle_alone_and_says_so(fitted, hanging):
    with served_by(fitted, hanging, on_store_failure="stateless") as url:
        wait_until_ready(url)
        without = httpx.post(f"{url}/rerank", json=BODY, timeout=10).json()
        hanging.open.set()
        with_empty_store = httpx.post(f"{url}/rerank", json=BODY, timeout=10).json()
    assert without["meta"]["state"] == "store_failed" and without["meta"]["known_user"]
    assert "state" not in with_empty_store["meta"]
    assert without["results"] == with_empty_store["results"]


def test_rankings_are_answered_while_another_process_writes(fitted, tmp_path):
    store = SqliteUserStore(tmp_path / "users.db", timeout_seconds=0.2)
    store.append("u0", [("g0i1", None)])
    with served_by(fitted, store) as url, closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        wait_until_ready(url)
        other.execute("BEGIN IMMEDIATE")
        assert httpx.post(f"{url}/rerank", json=BODY, timeout=10).status_code == 200
        row = {"interactions": [{"item_id": "g1i1"}]}
        answer = httpx.post(f"{url}/v1/users/u0/interactions", json=row, timeout=10)
        assert answer.status_code in (503, 504) and answer.headers["retry-after"]
        other.execute("ROLLBACK")


def test_a_ranking_reads_the_newest_interactions_only(fitted, tmp_path):
    asked = []

    class Noting(SqliteUserStore):
        def get(self, user_ids, last=None):
            asked.append(last)
            return super().get(user_ids, last)

    with served_by(fitted, Noting(tmp_path / "users.db"), max_history=7) as url:
        wait_until_ready(url)
        assert httpx.post(f"{url}/rerank", json=BODY, timeout=10).status_code == 200
    assert asked == [7]
