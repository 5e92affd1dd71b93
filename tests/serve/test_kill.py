"""What is left of users and of the score log after kill -9."""

import contextlib
import signal
import sqlite3
import threading
import time

import httpx
import pandas as pd
import pytest

from tests.pipeline import toys
from tests.serve.process import Process

ITEMS = ["g1i1", "g0i1", "g2i1", "g3i1"]
WRITERS = 4


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("kill") / "bundle"
    toys.fitted().save(path)
    return path


class Writer(threading.Thread):
    """Appends one interaction after another for a user, until the server is gone."""

    def __init__(self, url, user):
        super().__init__()
        self.url, self.user = url, user
        self.sent, self.acknowledged = [], []

    def run(self):
        with httpx.Client(timeout=30) as client, contextlib.suppress(httpx.TransportError):
            while True:
                self.sent.append(f"{self.user}-{len(self.sent)}")
                row = {"interactions": [{"item_id": self.sent[-1], "timestamp": len(self.sent)}]}
                answer = client.post(f"{self.url}/v1/users/{self.user}/interactions", json=row)
                assert answer.status_code == 200
                self.acknowledged.append(self.sent[-1])


@pytest.mark.parametrize("acknowledged", [1, 60])
def test_a_kill_loses_no_acknowledged_interaction(bundle, tmp_path, acknowledged):
    users = tmp_path / "users.db"
    server = Process(bundle, "--users-db", users)
    writers = [Writer(server.url, f"user{number}") for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    while sum(len(writer.acknowledged) for writer in writers) < acknowledged:
        time.sleep(0.001)
    server.end(signal.SIGKILL)
    for writer in writers:
        writer.join()
    assert server.process.returncode == -signal.SIGKILL

    server = Process(bundle, "--users-db", users)
    try:
        for writer in writers:
            answer = httpx.get(f"{server.url}/v1/users/{writer.user}")
            rows = answer.json()["domains"]["toy"]["interactions"] if answer.status_code == 200 else []
            stored = [row["item_id"] for row in rows]
            assert stored in (writer.acknowledged, writer.sent)  # the last one sent may be there without an answer
        body = {"user": writers[0].user, "item_ids": ITEMS}
        answer = httpx.post(f"{server.url}/rerank", json=body)
        assert answer.status_code == 200 and len(answer.json()["results"]) == len(ITEMS)
        with contextlib.closing(sqlite3.connect(users)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        server.end(signal.SIGTERM)


def test_a_kill_leaves_whole_files_of_the_score_log_and_an_end_leaves_all_rows(bundle, tmp_path):
    log, limits = tmp_path / "log", tmp_path / "limits.yaml"
    limits.write_text(f"score_log_rows: {len(ITEMS)}\n")

    def logged():
        return [one for file in log.glob("*.parquet") for one in pd.read_parquet(file)["request_id"].unique()]

    def ask(server, name):
        answer = httpx.post(f"{server.url}/rerank", json={"item_ids": ITEMS}, headers={"x-request-id": name})
        assert answer.status_code == 200

    server = Process(bundle, "--score-log", log, "--config", limits)
    ask(server, "first")
    deadline = time.monotonic() + 20
    while "first" not in logged():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for number in range(20):
        ask(server, f"before the kill {number}")
    server.end(signal.SIGKILL)
    survived = logged()  # reads every file
    assert len(survived) == len(set(survived)) and "first" in survived

    server = Process(bundle, "--score-log", log)
    for number in range(20):
        ask(server, f"before the end {number}")
    server.end(signal.SIGTERM)
    assert {f"before the end {number}" for number in range(20)} <= set(logged())
