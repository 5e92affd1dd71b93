"""Events and ratings over HTTP count as those of the tables that the bundle was fitted on."""

import json
import re

import httpx
import pandas as pd
import pytest
from typer.testing import CliRunner

from candidate_gen import PopularityGenerator
from reranker import Reranker
from reranker.cli.app import app as commands
from reranker.data.signals import Signals
from reranker.serve.app import create_app
from reranker.serve.domains import Domain
from reranker.stores import SqliteUserStore
from reranker.types import Signal, UserState
from tests.pipeline import toys
from tests.pipeline.test_signals import with_events
from tests.serve.live import serving, wait_until_ready

ITEMS = ["g1i0", "g2i0", "g3i0"]


@pytest.fixture(scope="module")
def reranker():
    data = with_events(Signals(event_weights={"hide": -5}, rating_scale=(1, 5)))
    generator = PopularityGenerator().fit(data.interactions)
    return Reranker(toys.config(scorer="baseline"), toys.WatchedEngine()).fit(data, generator)


@pytest.fixture
def url(reranker, tmp_path):
    with serving(create_app(reranker, store=SqliteUserStore(tmp_path / "users.db"))) as address:
        wait_until_ready(address, 30)
        yield address


def did(url, user, *rows):
    return httpx.post(f"{url}/v1/users/{user}/interactions", json={"interactions": list(rows)}, timeout=60)


def scores(url, user, **fields):
    body = {"item_ids": ITEMS, "user": user, "raw_scores": True, "order": "baseline", **fields}
    answer = httpx.post(f"{url}/v1/rerank", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return {one["item_id"]: one["relevance_score"] for one in answer.json()["results"]}


def in_tables(reranker, **given):
    table = toys.table([("new", item, 1.0 / rank) for rank, item in enumerate(ITEMS, start=1)])
    frame = reranker.rerank(table, order="baseline", **given).to_frame()
    return dict(zip(frame["item_id"], frame["score"], strict=True))


def test_a_dislike_over_http_is_one_of_the_table(url, reranker, tmp_path):
    rows = [
        {"item_id": "g0i0", "event": "purchase"},
        {"item_id": "g1i1", "event": "Hide", "timestamp": 2.0},
        {"item_id": "g1i2", "rating": 1},
        {"item_id": "g2i1", "event": "view"},
        {"item_id": "g2i1", "event": "dislike"},
    ]
    answer = did(url, "new", *rows)
    assert answer.status_code == 200, answer.text
    assert answer.json()["appended"][1:3] == [
        {"item_id": "g1i1", "timestamp": 2.0, "event": "Hide"},
        {"item_id": "g1i2", "timestamp": None, "rating": 1.0},
    ]
    table = pd.DataFrame(rows)[["item_id", "event", "rating"]].assign(user_id="new")
    assert scores(url, "new") == pytest.approx(in_tables(reranker, interactions=table), abs=1e-6)
    alone = in_tables(reranker, interactions={"new": ["g0i0"]})
    assert scores(url, "new") != pytest.approx(alone, abs=1e-3)
    assert scores(url, "new", history=["g0i0"]) == pytest.approx(alone, abs=1e-6)  # of whom nothing else is said
    kept = httpx.get(f"{url}/v1/users/new").json()["domains"]["toy"]["interactions"]
    assert [row.get("event") for row in kept] == ["purchase", "Hide", None, "view", "dislike"]
    where = ["--users-db", str(tmp_path / "users.db"), "--out", str(tmp_path / "export.json")]
    CliRunner().invoke(commands, ["users", "export", "--user", "new", *where], catch_exceptions=False)
    exported = json.loads((tmp_path / "export.json").read_text())["stores"][0]["interactions"]
    assert exported == kept


def test_a_weight_over_http_is_one_of_the_table(url, reranker):
    rows = [
        {"item_id": "g0i0", "weight": 3.0},
        {"item_id": "g1i1", "weight": -1.0},
        {"item_id": "g1i2", "event": "purchase", "weight": 0.5},
        {"item_id": "g2i1", "event": "view", "weight": 0.0},
    ]
    answer = did(url, "weighed", *rows)
    assert answer.status_code == 200, answer.text
    assert [row["weight"] for row in answer.json()["appended"]] == [3.0, -1.0, 0.5, 0.0]
    strong = [("g0i0", 3.0), ("g1i1", -1.0), ("g1i2", 2.5), ("g2i1", 0.0)]  # a purchase counts 5
    table = pd.DataFrame(strong, columns=["item_id", "weight"]).assign(user_id="new")
    assert scores(url, "weighed") == pytest.approx(in_tables(reranker, interactions=table), abs=1e-6)
    kept = httpx.get(f"{url}/v1/users/weighed").json()["domains"]["toy"]["interactions"]
    assert kept == answer.json()["appended"]


def test_what_came_since_outweighs_what_the_bundle_knows(reranker, tmp_path):
    domain = Domain(reranker, SqliteUserStore(tmp_path / "users.db"))
    before, rejected = reranker.history("u0"), reranker.disliked("u0")
    assert domain.history("u0", None) == before and domain.disliked("u0", None) == rejected
    turned = UserState(
        user_id="u0", interactions=((before[0], None, Signal("dislike")), (rejected[0], None, Signal("like")))
    )
    assert domain.history("u0", turned) == [*before[1:], rejected[0]]
    assert domain.disliked("u0", turned) == [*rejected[1:], before[0]]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"event": "hover"}, "nothing is known of the event 'hover'.*hide"),
        ({"rating": 7}, "the rating 7 lies outside the scale 1-5"),
        ({"event": ""}, "event"),
        ({"rating": "five"}, "rating"),
        ({"event": "view", "weight": -1}, "the weight -1 is below 0 beside an event or rating"),
    ],
)
def test_what_cannot_be_read_is_refused_and_nothing_is_stored(url, row, problem):
    answer = did(url, "other", {"item_id": "g0i0"}, {"item_id": "g0i1", **row})
    assert answer.status_code == 422
    assert re.search(problem, answer.text)
    assert "interactions" in answer.text and httpx.get(f"{url}/v1/users/other").status_code == 404
