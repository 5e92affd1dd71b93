"""Own features over HTTP: columns of candidates come with the request, those of users go by the user."""

import httpx
import pandas as pd
import pytest

from reranker import Dataset, Reranker
from reranker.serve.app import create_app
from tests.pipeline import toys
from tests.pipeline.test_own_features import served_lists
from tests.serve.live import serving, wait_until_ready


@pytest.fixture(scope="module")
def reranker():
    data, lists, chosen = served_lists()
    users = pd.DataFrame({"user_id": [f"u{number}" for number in range(48)], "age": range(48)})
    data = Dataset(interactions=data.interactions, items=data.items, domain="toy", users=users)
    config = toys.config(scorer="baseline", features=("ctr", "users.age"))
    return Reranker(config).fit(data, candidates=lists, held_out=chosen)


@pytest.fixture(scope="module")
def url(reranker):
    with serving(create_app(reranker)) as address:
        wait_until_ready(address)
        yield address


def ask(url, **fields):
    return httpx.post(f"{url}/v1/rerank", json={"order": "baseline", "raw_scores": True, **fields}, timeout=60)


def test_the_answer_is_what_rerank_gives(reranker, url):
    _, lists, _ = served_lists()
    scores = {}
    for user in ("u3", "u40"):
        mine = lists[lists["user_id"] == user].sort_values("rank")
        expected = reranker.rerank(mine, order="baseline").to_frame()
        asked = {"user": user, "item_ids": mine["item_id"].tolist(), "features": {"ctr": mine["ctr"].tolist()}}
        answer = ask(url, **asked, explain=True).json()
        assert [one["item_id"] for one in answer["results"]] == expected["item_id"].tolist()
        found = [one["relevance_score"] for one in answer["results"]]
        assert found == pytest.approx(expected["score"].tolist())
        for one in answer["results"]:
            assert one["explanation"]["above_mean"] == pytest.approx(one["relevance_score"] - sum(found) / len(found))
        scores[user] = ask(url, **{**asked, "user": None, "history": ["g0i0"]}).json()["results"]
    assert scores["u3"] != scores["u40"]


@pytest.mark.parametrize(
    ("features", "param"),
    [(None, "features"), ({"other": [1, 2]}, "features"), ({"ctr": [1]}, "features.ctr"), ({"ctr": ["x", "y"]}, None)],
)
def test_what_is_missing_or_of_another_kind_is_named(url, features, param):
    answer = ask(url, item_ids=["g0i9", "g1i9"], user="u1", features=features)
    assert answer.status_code == (422 if param else 400)
    assert answer.json()["error"]["param"] == param
    assert "ctr" in answer.text


def test_missing_values_are_taken_and_further_columns_named(url):
    answer = ask(url, item_ids=["g0i9", "g1i9"], user="u1", features={"ctr": [0.5, None], "other": [1, "a"]})
    assert answer.status_code == 200
    assert answer.json()["meta"]["not_used"] == ["features.other"]
    whole = ask(url, item_ids=["g0i9", "g1i9"], user="u1", context={"ctr": 0.5, "device": "phone"})
    each = ask(url, item_ids=["g0i9", "g1i9"], user="u1", features={"ctr": [0.5, 0.5]})
    assert whole.json()["results"] == each.json()["results"]
    assert whole.json()["meta"]["not_used"] == ["context.device"]
    twice = ask(url, item_ids=["g0i9"], user="u1", features={"ctr": [1]}, context={"ctr": 1})
    assert twice.json()["error"]["param"] == "context.ctr"
    assert ask(url, documents=["a"], order=None, context={"ctr": 1}).json()["error"]["param"] == "context"
    assert ask(url, documents=["a"], order=None, features={"ctr": [1]}).json()["error"]["param"] == "features"
