"""The score log: what it says of a ranking, and when it is on disk."""

import threading
import time

import httpx
import pandas as pd
import pytest

from reranker.errors import ConfigError
from reranker.serve.app import create_app
from reranker.serve.observability.ranking_log import SCHEMA, Entry, ScoreLog, table_of
from reranker.serve.rank_jobs import Ranked
from reranker.serve.settings import ServeSettings
from tests.pipeline import toys
from tests.serve.live import serving, wait_until_ready

ITEMS = ["g1i1", "g0i1", "g2i1", "g3i1"]
SCORES = [1.0, 4.0, 3.0, 2.0]


@pytest.fixture(scope="module")
def fitted():
    reranker = toys.fitted()
    reranker.fusion_model = toys.served(reranker.fusion_model, "fused")
    return reranker


def entry(n=3, **changes):
    ranked = Ranked(order=tuple(reversed(range(n))), scores=tuple(map(float, range(n, 0, -1))), served="fused")
    given = {
        "request_id": "r1",
        "domain": "movies",
        "user": 7,
        "items": [f"i{at}" for at in range(n)],
        "first_stage_scores": None,
    }
    return Entry(**{**given, "ranked": ranked, "top_n": None, "shadow": False, **changes})


def read(folder):
    files = sorted(folder.glob("*.parquet"))
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True) if files else None


def log_of(fitted, folder, asked, **settings):
    app = create_app(fitted, score_log=folder, settings=ServeSettings(**settings))
    with serving(app) as url:
        wait_until_ready(url)
        answers = [httpx.post(f"{url}/v1/rerank", json=body).json() for body in asked]
    return answers, read(folder)


def test_a_ranking_by_hand():
    rows = table_of([entry(first_stage_scores=[0.5, 0.9, 0.5], top_n=2, seconds=1.5)]).to_pandas()
    assert rows["item_id"].tolist() == ["i2", "i1", "i0"]
    assert rows["position"].tolist() == [2, 1, 0]
    assert rows["first_stage_rank"].tolist() == [3, 1, 2]  # of equal scores the first is better
    assert rows["first_stage_score"].tolist() == [0.5, 0.9, 0.5]
    assert rows["rank"].tolist() == [1, 2, 3] and rows["score"].tolist() == [3.0, 2.0, 1.0]
    assert rows["shown"].tolist() == [True, True, False]
    assert set(rows["user_id"]) == {"7"} and set(rows["kind"]) == {"items"}
    assert rows["time"].iloc[0] == pd.Timestamp(1.5, unit="s", tz="UTC")


def test_in_shadow_mode_shown_goes_by_the_order_that_came_in():
    rows = table_of([entry(top_n=1, shadow=True)]).to_pandas()
    assert rows["rank"].tolist() == [1, 2, 3]
    assert rows["shown"].tolist() == [False, False, True] and rows["position"].tolist() == [2, 1, 0]


def test_every_answered_ranking_is_there_after_the_end_and_no_text_is(fitted, tmp_path):
    asked = [
        {"user": "u0", "item_ids": ITEMS, "first_stage_scores": SCORES, "raw_scores": True},
        {"query": "secret wish", "documents": ["secret title", "zorblax"], "history": ["secret past"]},
        {"documents": []},  # refused: not a ranking
    ]
    answers, rows = log_of(fitted, tmp_path / "log", asked)
    assert rows.columns.tolist() == SCHEMA.names and len(rows) == 6
    items = rows[rows["request_id"] == answers[0]["id"]]
    assert items["item_id"].tolist() == [one["item_id"] for one in answers[0]["results"]]
    assert items["score"].tolist() == pytest.approx([one["relevance_score"] for one in answers[0]["results"]])
    assert items.set_index("item_id")["first_stage_rank"].to_dict() == {"g1i1": 4, "g0i1": 1, "g2i1": 2, "g3i1": 3}
    assert set(items["served"]) == {"fused"} and not items["shadow"].any()
    texts = rows[rows["request_id"] == answers[1]["id"]]
    assert texts["item_id"].tolist() == [str(one["index"]) for one in answers[1]["results"]]
    assert set(texts["kind"]) == {"texts"} and texts["user_id"].isna().all() and texts["first_stage_score"].isna().all()
    assert "secret" not in rows.to_string()
    assert [file.suffix for file in (tmp_path / "log").iterdir() if file.stat().st_size] == [".parquet"]


def test_in_shadow_mode_it_holds_the_order_that_would_have_been_served(fitted, tmp_path):
    (plain,), _ = log_of(fitted, tmp_path / "plain", [{"user": "u0", "item_ids": ITEMS}])
    (answer,), rows = log_of(fitted, tmp_path / "shadow", [{"user": "u0", "item_ids": ITEMS}], shadow=True)
    assert [one["item_id"] for one in answer["results"]] == ITEMS
    assert rows["item_id"].tolist() == [one["item_id"] for one in plain["results"]] != ITEMS
    assert set(rows["served"]) == {"fused"} and rows["shadow"].all()


def test_users_can_be_left_out(fitted, tmp_path):
    _, rows = log_of(fitted, tmp_path, [{"user": "u0", "item_ids": ITEMS}], score_log_users=False)
    assert rows["user_id"].isna().all()


@pytest.mark.parametrize(("rows", "seconds"), [(6, 60.0), (1000, 0.05)])
def test_a_file_comes_by_rows_or_by_time(tmp_path, rows, seconds):
    log = ScoreLog(tmp_path, rows=rows, seconds=seconds)
    log.start()
    log.add(entry())
    log.add(entry())
    deadline = time.monotonic() + 10
    while read(tmp_path) is None or len(read(tmp_path)) < 6:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    log.close()
    assert len(read(tmp_path)) == 6


def test_what_the_disk_refuses_waits_and_beyond_a_bound_the_oldest_is_counted_as_lost(tmp_path):
    seen = []
    folder = tmp_path / "log"
    log = ScoreLog(folder, rows=3, most_rows=6, observe=lambda *one: seen.append(one))
    folder.rmdir()
    folder.touch()  # no folder, so nothing can be written into it
    for number in range(3):
        log.add(entry(request_id=f"r{number}"))
    assert not log.flush() and seen == [("lost", 3)]
    folder.unlink()
    log.close()
    assert seen == [("lost", 3), ("written", 6)]
    assert set(read(folder)["request_id"]) == {"r1", "r2"}
    log.add(entry())
    assert seen[-1] == ("lost", 3)


def test_the_counter_says_what_was_written(fitted, tmp_path):
    app = create_app(fitted, score_log=tmp_path, settings=ServeSettings(score_log_rows=4))
    with serving(app) as url:
        wait_until_ready(url)
        httpx.post(f"{url}/v1/rerank", json={"user": "u0", "item_ids": ITEMS})
        deadline = time.monotonic() + 10
        while 'reranker_score_log_rows_total{outcome="written"} 4.0' not in httpx.get(f"{url}/metrics").text:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write the score log"):
        ScoreLog(tmp_path / "file")


def left_behind(folder):
    folder.mkdir(exist_ok=True)
    left = folder / ".scores-20260101T000000Z-0.parquet.0.tmp"
    left.write_text("leaver")
    return left


def test_what_a_killed_server_left_half_written_goes_when_somebody_is_forgotten(tmp_path):
    log = ScoreLog(tmp_path)
    left, another_programs = left_behind(tmp_path), tmp_path / ".other.tmp"
    another_programs.touch()
    log.forget({"leaver"})
    assert not left.exists() and another_programs.exists()


def test_what_a_killed_server_left_half_written_goes_at_the_start(tmp_path):
    left = left_behind(tmp_path)
    log = ScoreLog(tmp_path)
    log.start()
    deadline = time.monotonic() + 10
    while left.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left.exists()
    log.close()


def test_what_another_server_is_writing_is_left_alone(tmp_path):
    log = ScoreLog(tmp_path)
    forgotten = threading.Thread(target=log.forget, args=({"leaver"},))
    with ScoreLog(tmp_path)._alone():
        written_now = left_behind(tmp_path)
        forgotten.start()
        forgotten.join(0.3)
        assert written_now.exists()
        written_now.rename(tmp_path / "whole")
    forgotten.join()
    assert (tmp_path / "whole").exists()


def test_who_is_forgotten_is_in_no_file_of_the_log(fitted, tmp_path):
    folder = tmp_path / "log"
    app = create_app(fitted, score_log=folder, settings=ServeSettings(score_log_rows=4))
    with serving(app) as url:
        wait_until_ready(url)
        for user in ("leaver", "stays", "leaver", None, "leaver"):
            body = {"item_ids": ITEMS, **({} if user is None else {"user": user})}
            assert httpx.post(f"{url}/v1/rerank", json=body).status_code == 200
        assert httpx.get(f"{url}/v1/users/leaver").json() == {"user": "leaver", "domains": {}, "score_log_rows": 12}
        gone = httpx.delete(f"{url}/v1/users/leaver").json()
        assert gone == {"user": "leaver", "forgotten": True, "score_log_rows": 12, "in_bundles": []}
        assert httpx.get(f"{url}/v1/users/leaver").status_code == 404
        assert read(folder)["user_id"].fillna("").value_counts().to_dict() == {"stays": 4, "": 4}
        assert not any(b"leaver" in file.read_bytes() for file in folder.iterdir())
        assert not httpx.delete(f"{url}/v1/users/leaver").json()["forgotten"]
