"""A score log under pseudonyms: it names nobody, and still finds, exports and forgets."""

import json

import httpx
import pandas as pd
import pytest

from reranker.engines.scripted import ScriptedEngine
from reranker.errors import ConfigError
from reranker.evaluation.logs import judge_log, read_score_log
from reranker.serve.app import create_app
from reranker.serve.settings import ServeSettings
from reranker.stores import SqliteUserStore
from reranker.utils.pseudonyms import Pseudonyms
from tests.cli.command import refused, run
from tests.pipeline import toys
from tests.serve.live import serving, wait_until_ready

ITEMS = ["g0i1", "g1i1", "g2i1", "g3i1"]


@pytest.fixture(scope="module")
def reranker():
    return toys.fitted(ScriptedEngine(), scorer="embedding")


@pytest.fixture
def key(tmp_path):
    (tmp_path / "users.key").write_text("a secret of more than sixteen bytes\n")
    return tmp_path / "users.key"


def app(reranker, tmp_path, key, **settings):
    store = SqliteUserStore(tmp_path / "users.sqlite")
    given = ServeSettings(score_log_key=key, score_log_rows=4, score_log_seconds=0.05, **settings)
    return create_app(reranker, store=store, settings=given, score_log=tmp_path / "log")


def rank(url, user):
    assert httpx.post(f"{url}/v1/rerank", json={"item_ids": ITEMS, "user": user}).status_code == 200


def test_files_name_nobody_and_users_are_found_and_forgotten(reranker, tmp_path, key):
    with serving(app(reranker, tmp_path, key)) as url:
        wait_until_ready(url, 60)
        for user in ("u1", "u2", "u1"):
            rank(url, user)
        shown = httpx.get(f"{url}/v1/users/u1", params={"logged_rows": True}).json()
        assert shown["score_log_rows"] == 8 and len(shown["score_log"]) == 8
        assert {row["item_id"] for row in shown["score_log"]} == set(ITEMS)
        assert "score_log" not in httpx.get(f"{url}/v1/users/u1").json()
        gone = httpx.delete(f"{url}/v1/users/u1").json()
        assert gone["forgotten"] and gone["score_log_rows"] == 8
        assert httpx.get(f"{url}/v1/users/u1").json()["score_log_rows"] == 0
        assert httpx.get(f"{url}/v1/users/u2").json()["score_log_rows"] == 4
    log = read_score_log(tmp_path / "log")
    assert set(log["user_id"]) == {Pseudonyms.read(key).of("u2")}
    assert all(b"u2" not in file.read_bytes() for file in (tmp_path / "log").glob("*.parquet"))


def test_outcomes_are_joined_by_the_key(reranker, tmp_path, key):
    with serving(app(reranker, tmp_path, key)) as url:
        wait_until_ready(url, 60)
        rank(url, "u1")
    chosen = pd.DataFrame({"user_id": ["u1"], "item_id": ["g1i1"]})
    assert "1 of 1 outcomes joined" in judge_log(tmp_path / "log", chosen, pseudonyms=Pseudonyms.read(key)).log
    assert "0 of 1 outcomes joined" in judge_log(tmp_path / "log", chosen).log


def test_a_key_that_cannot_be_read_stops_the_start(reranker, tmp_path):
    with pytest.raises(ConfigError, match="cannot read the key"):
        app(reranker, tmp_path, tmp_path / "none")


def test_everything_of_a_user_is_exported(reranker, tmp_path, key):
    reranker.save(tmp_path / "bundle")
    with serving(app(reranker, tmp_path, key)) as url:
        wait_until_ready(url, 60)
        rows = {"interactions": [{"item_id": "g0i3", "timestamp": 5.0}]}
        assert httpx.post(f"{url}/v1/users/u1/interactions", json=rows).status_code == 200
        rank(url, "u1")
    places = ("--bundle", tmp_path / "bundle", "--users-db", tmp_path / "users.sqlite", "--score-log", tmp_path / "log")
    asked = ("users", "export", "--user", "u1", "--out", tmp_path / "u1.json", "--user-key", key)
    said, _ = run(*asked, *places)
    assert "1 in bundles, 1 in stores, 4 in score logs" in said
    found = json.loads((tmp_path / "u1.json").read_text())
    (kept,) = found["bundles"]
    assert [row["item_id"] for row in kept["interactions"]] == reranker.history("u1")
    assert kept["interactions"][0].keys() == {"item_id", "title", "timestamp"} and kept["learned_from"]
    judged = reranker.fusion_model.judged
    assert len(kept["judged_lists"]) == list(judged.users).count("u1")
    assert found["stores"][0]["interactions"] == [{"item_id": "g0i3", "timestamp": 5.0}]
    assert [row["rank"] for row in found["score_logs"]] == [1, 2, 3, 4]
    said, _ = run("users", "export", "--user", "nobody", "--out", tmp_path / "nobody.json", *places)
    assert "0 in bundles, 0 in stores, 0 in score logs" in said
    assert "there is no store" in refused(*asked, "--users-db", tmp_path / "none.sqlite")
    assert "there is no folder" in refused(*asked, "--score-log", tmp_path / "none")
    assert "--bundle, --users-db, --score-log" in refused(*asked)
    assert not (tmp_path / "none.sqlite").exists()
