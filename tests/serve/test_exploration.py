"""Exploring and experiments over HTTP, as the score log has them."""

import httpx
import pandas as pd
import pytest

from reranker.engines.scripted import ScriptedEngine
from reranker.errors import ConfigError
from reranker.evaluation.logs import judge_log
from reranker.serve.app import create_app
from reranker.serve.settings import ServeSettings
from tests.pipeline import toys
from tests.serve.live import serving, wait_until_ready

ITEMS = ["g0i1", "g1i1", "g2i1", "g3i1", "g1i6", "g2i6"]


@pytest.fixture(scope="module")
def reranker():
    return toys.fitted(ScriptedEngine(), scorer="embedding")


def answers(reranker, folder, users, **settings):
    with serving(create_app(reranker, settings=ServeSettings.from_mapping(settings), score_log=folder)) as url:
        wait_until_ready(url, 60)
        with httpx.Client(timeout=60) as client:
            found = [client.post(f"{url}/v1/rerank", json={"item_ids": ITEMS, "user": user}).json() for user in users]
            fixed = {"item_ids": ITEMS, "user": "u1", "order": "fused"}
            asked_for = client.post(f"{url}/v1/rerank", json=fixed).json()
    log = pd.concat([pd.read_parquet(file) for file in folder.glob("scores-*.parquet")])
    return found, asked_for, log


def test_the_log_says_what_was_shown_with_which_chance(reranker, tmp_path):
    explore = {"share": 0.5, "first": 4, "seed": 1}
    found, asked_for, log = answers(reranker, tmp_path, ["u1"] * 30, explore=explore)
    explored = [one for one in found if one["meta"].get("explored")]
    assert 5 < len(explored) < 25 and "explored" not in asked_for["meta"]
    for one in found:
        scores = [result["relevance_score"] for result in one["results"]]
        assert scores == sorted(scores, reverse=True)  # a caller that sorts by score keeps what was drawn
        rows = log[log["request_id"] == one["id"]].sort_values("place")
        assert rows["item_id"].tolist() == [result["item_id"] for result in one["results"]]
        moved = rows["place"] != rows["rank"]
        assert rows["propensity"].tolist() == [
            1.0 if place > 4 else 0.5 / 4 + (0.0 if gone else 0.5)
            for place, gone in zip(rows["place"], moved, strict=True)
        ]
    assert (log[log["request_id"] == asked_for["id"]]["propensity"] == 1).all()
    chosen = pd.DataFrame({"user_id": ["u1"], "item_id": ["g1i1"]})
    assert judge_log(tmp_path, chosen, k=2).values[0].unsupported == 0


def test_an_arm_is_served_its_order_and_logged(reranker, tmp_path):
    users = [f"u{number}" for number in range(12)]
    experiment = {"name": "spring", "arms": {"control": "first_stage", "fused": "fused"}}
    found, asked_for, log = answers(reranker, tmp_path, users, experiment=experiment)
    assert {one["meta"]["arm"] for one in found} == {"control", "fused"} and "arm" not in asked_for["meta"]
    for one in found:
        assert one["meta"]["served"] == {"control": "first_stage", "fused": "fused"}[one["meta"]["arm"]]
    assert log.groupby("user_id")["arm"].nunique().le(1).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"explore": {"share": 0}},
        {"explore": {"share": 0.1, "first": 1}},
        {"experiment": {"name": "x", "arms": {"a": "fused"}}},
        {"experiment": {"name": "x", "arms": {"a": "fused", "b": "best"}}},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ConfigError, match=r"explore|experiment"):
        ServeSettings.from_mapping(settings)
