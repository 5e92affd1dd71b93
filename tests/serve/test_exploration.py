"""Exploring and experiments over HTTP, as the score log has them."""

import httpx
import pandas as pd
import pytest
from typer.testing import CliRunner

from reranker.cli.app import app
from reranker.engines.scripted import ScriptedEngine
from reranker.errors import ConfigError
from reranker.evaluation.logs import judge_log
from reranker.serve.app import create_app
from reranker.serve.exploration import Experiment
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


MIXED = {"name": "mix", "kind": "interleaving", "arms": {"old": "first_stage", "new": "fused"}, "seed": 3}


def test_two_orders_share_a_list_and_the_log_says_whose_each_item_is(reranker, tmp_path):
    users = [f"u{number}" for number in range(20)]
    found, asked_for, log = answers(reranker, tmp_path, users, experiment=MIXED, explore={"share": 1.0})
    assert asked_for["meta"]["served"] == "fused"
    assert log[log["request_id"] == asked_for["id"]]["team"].isna().all()
    for user, one in zip(users, found, strict=True):
        assert one["meta"]["served"] == "interleaved" and "explored" not in one["meta"] and "arm" not in one["meta"]
        rows = log[log["request_id"] == one["id"]].sort_values("place")
        shown = [result["item_id"] for result in one["results"]]
        assert rows["item_id"].tolist() == shown and rows["propensity"].isna().all()
        assert [one["relevance_score"] for one in one["results"]] == [1 / place for place in range(1, 7)]
        orders = {"old": ITEMS, "new": best(reranker, user)}
        taken = []
        for item, team in zip(shown, rows["team"], strict=True):
            assert item == next(other for other in orders[team] if other not in taken)
            taken.append(item)
        for first in range(0, 6, 2):  # each round both pick once
            assert set(rows["team"].iloc[first : first + 2]) == {"old", "new"}
    assert len({tuple(result["item_id"] for result in one["results"]) for one in found}) > 4


def best(reranker, user):
    lists = pd.DataFrame({"user_id": user, "item_id": ITEMS, "rank": range(1, 7)})
    return reranker.rerank(lists, order="fused").to_frame()["item_id"].tolist()


def test_only_a_share_of_the_users_is_in_an_experiment(reranker, tmp_path):
    users = [f"u{number}" for number in range(40)]
    found, _, _ = answers(reranker, tmp_path, users, experiment={**MIXED, "share": 0.5})
    taken = [one["meta"]["served"] == "interleaved" for one in found]
    assert 10 < sum(taken) < 30
    assert taken == [Experiment.model_validate({**MIXED, "share": 0.5}).takes(user) for user in users]


def test_reasons_and_rules_are_of_one_order(reranker, tmp_path):
    body = {"item_ids": ITEMS, "user": "u1"}
    with serving(create_app(reranker, settings=ServeSettings.from_mapping({"experiment": MIXED}))) as url:
        wait_until_ready(url, 60)
        asked = [{**body, **more} for more in ({"explain": True}, {"rules": {"exclude": {"items": ["g0i1"]}}}, {})]
        served = [httpx.post(f"{url}/v1/rerank", json=one, timeout=60).json()["meta"]["served"] for one in asked]
    assert served == ["fused", "fused", "interleaved"]


def test_the_command_finds_the_order_that_users_prefer(reranker, tmp_path):
    """Each user chooses what one of the two orders puts first."""
    users = [f"u{number}" for number in range(40)]
    answers(reranker, tmp_path / "log", users, experiment=MIXED)
    for name, wanted in (("new", lambda user: best(reranker, user)[0]), ("old", lambda user: ITEMS[0])):
        chosen = pd.DataFrame({"user_id": users, "item_id": [wanted(user) for user in users]})
        chosen.to_csv(tmp_path / "chosen.csv", index=False)
        call = ["evaluate", "--score-log", str(tmp_path / "log"), "--outcomes", str(tmp_path / "chosen.csv")]
        said = CliRunner().invoke(app, call)
        assert said.exit_code == 0 and "interleaved: new wins" in said.output, said.output
        assert f": {name} is preferred" in said.output


@pytest.mark.parametrize(
    "settings",
    [
        {"experiment": {**MIXED, "arms": {"a": "fused", "b": "guard", "c": "first_stage"}}},
        {"experiment": {**MIXED, "arms": {"a": "fused", "b": "fused"}}},
        {"experiment": {**MIXED, "arms": {"a": "fused"}}},
        {"experiment": {**MIXED, "kind": "mixed"}},
        {"experiment": {**MIXED, "share": 0}},
        {"explore": {"share": 0}},
        {"explore": {"share": 0.1, "first": 1}},
        {"experiment": {"name": "x", "arms": {"a": "fused"}}},
        {"experiment": {"name": "x", "arms": {"a": "fused", "b": "best"}}},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ConfigError, match=r"explore|experiment"):
        ServeSettings.from_mapping(settings)
