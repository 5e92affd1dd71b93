"""`explain` over HTTP."""

import httpx
import pytest

from reranker.engines.scripted import ScriptedEngine
from reranker.serve.app import create_app
from reranker.serve.auth import Keys, new_key, read_keys
from reranker.serve.settings import ServeSettings
from tests.pipeline import toys
from tests.serve.live import serving, wait_until_ready

ITEMS = ["g0i1", "g1i1", "g2i1", "g3i1", "g1i6", "g2i6"]


@pytest.fixture(scope="module")
def reranker():
    return toys.fitted(ScriptedEngine(), scorer="embedding")


def ask(url, key=None, **fields):
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return httpx.post(f"{url}/v1/rerank", json={"item_ids": ITEMS, **fields}, headers=headers, timeout=60)


def test_each_result_says_why(reranker):
    with serving(create_app(reranker)) as url:
        wait_until_ready(url)
        asked = {"history": ["g1i0", "g1i2"], "order": "fused", "raw_scores": True}
        answer = ask(url, explain="zh", **asked).json()
        plain = ask(url, **asked).json()
        few = ask(url, explain=True, top_n=2, **asked).json()
        texts = httpx.post(f"{url}/v1/rerank", json={"documents": ["a", "b"], "explain": True})
    assert [one["item_id"] for one in answer["results"]] == [one["item_id"] for one in plain["results"]]
    mean = sum(one["relevance_score"] for one in plain["results"]) / len(ITEMS)
    for one in answer["results"]:
        why = one["explanation"]
        assert why["above_mean"] == pytest.approx(one["relevance_score"] - mean)
        assert sum(why["contributions"].values()) == pytest.approx(why["above_mean"])
        assert {effect["item_id"] for effect in why["history"]} == {"g1i0", "g1i2"}
    assert any("您" in one["explanation"]["sentence"] for one in answer["results"])
    assert "explanation" not in plain["results"][0]
    assert len(few["results"]) == 2 and few["results"][1]["explanation"]["sentence"]
    assert texts.status_code == 422 and texts.json()["error"]["param"] == "explain"


def test_who_may_not_read_users_sends_the_history_along(reranker, tmp_path):
    file = tmp_path / "keys"
    rank, admin = (new_key(file, name, scopes) for name, scopes in (("r", ["rank"]), ("a", ["rank", "admin"])))
    with serving(create_app(reranker, keys=Keys(read_keys(file)))) as url:
        wait_until_ready(url)
        refused = ask(url, rank, user="u1", explain=True)
        assert refused.status_code == 403 and "history" in refused.json()["error"]["message"]
        assert ask(url, rank, history=["g1i0"], explain=True).status_code == 200
        assert ask(url, admin, user="u1", explain=True).json()["results"][0]["explanation"]["history"]


def test_shadow_mode_says_that_it_explains_nothing(reranker):
    with serving(create_app(reranker, settings=ServeSettings(shadow=True))) as url:
        wait_until_ready(url)
        answer = ask(url, history=["g1i0"], explain=True).json()
    assert answer["meta"]["not_used"] == ["explain"] and "explanation" not in answer["results"][0]
