"""The endpoint over HTTP on loopback, with the scripted engine."""

import concurrent.futures
import json
import logging
import socket
import threading
import time
from copy import copy

import httpx
import numpy as np
import pandas as pd
import pytest

from candidate_gen import PopularityGenerator
from reranker import Reranker
from reranker.engines.scripted import ScriptedEngine
from reranker.errors import EngineError
from reranker.serve.app import create_app
from reranker.serve.auth import Keys, new_key, read_keys
from reranker.serve.settings import ServeSettings
from reranker.stores import SqliteUserStore
from tests.pipeline import toys
from tests.serve.live import serving, wait_until_ready

TITLES = ["mipfen mippel 7", "zorblax zomzik 7", "quxard quxley 7", "vantow vanvik 7"]
HISTORY = ["zorblax zomzik 1", "zorblax zomzik 2"]
ITEMS = ["g1i1", "g0i1", "g2i1", "g3i1", "g0i7", "g1i7"]


class Gate(ScriptedEngine):
    """An engine that waits while the gate is shut, and fails on demand."""

    def __init__(self):
        super().__init__()
        self.open = threading.Event()
        self.open.set()
        self.fail = False
        self.poison = None
        self.dead = False
        self.calls = []

    def span_log_likelihoods(self, requests):
        self.calls.append(len(requests))
        assert self.open.wait(20)
        if self.fail:
            raise EngineError("the engine is out of order")
        read = [span.sequence.token_ids.tolist() for one in requests for span in one.candidates]
        if self.poison and any(self.poison in self.tokenizer.decode(ids) for ids in read):
            raise ValueError(f"cannot read {self.poison}")
        return super().span_log_likelihoods(requests)


@pytest.fixture(scope="module")
def fitted():
    """Fitted on tastes; whatever the guard found, the fused order is served."""
    engine = Gate()
    data = toys.taste_dataset()
    reranker = Reranker(toys.config(), engine).fit(data, PopularityGenerator().fit(data.interactions))
    reranker.fusion_model = toys.served(reranker.fusion_model, "fused")
    return reranker


@pytest.fixture
def engine(fitted):
    engine = fitted.llm_scorer.engine
    yield engine
    engine.fail = False
    engine.poison = None
    engine.dead = False
    engine.open.set()


@pytest.fixture
def server(fitted, tmp_path):
    """Base URL of a server that keeps users and knows no keys."""
    with serving(create_app(fitted, store=SqliteUserStore(tmp_path / "users.db"))) as url:
        wait_until_ready(url)
        yield url


def post(url, path="/v1/rerank", headers=None, **body):
    return httpx.post(f"{url}{path}", json=body, headers=headers, timeout=30)


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_texts_come_back_in_the_order_of_rank(server, fitted, path):
    expected = fitted.rank("anything", TITLES, history=HISTORY)
    answer = post(server, path, query="anything", documents=TITLES, history=HISTORY).json()
    assert [one["index"] for one in answer["results"]] == [one.index for one in expected]
    chances = np.array([one["relevance_score"] for one in answer["results"]])
    assert (np.diff(chances) <= 0).all() and (chances > 0).all() and (chances < 1).all()
    assert chances == pytest.approx([one.relevance for one in expected])
    assert answer["meta"]["scored_by"] == ["bm25", "llm", "history"] and answer["meta"]["calibrated"]
    assert answer["meta"]["served"] == "llm" and answer["model"] == "toy"
    assert "document" not in answer["results"][0]  # null breaks clients


def test_objects_raw_scores_top_n_and_documents(server, fitted):
    documents = [{"text": TITLES[0], "year": 1}, TITLES[1]]
    body = {"query": "q", "documents": documents, "history": [{"title": HISTORY[0]}], "top_n": 1}
    answer = post(server, **body, raw_scores=True, return_documents=True).json()
    best = fitted.rank("q", TITLES[:2], history=HISTORY[:1])[0]
    assert answer["results"] == [
        {"index": best.index, "relevance_score": pytest.approx(best.score), "document": {"text": TITLES[1]}}
    ]


def test_a_users_items_come_back_as_rerank_orders_them(server, fitted):
    table = pd.DataFrame({"user_id": "u0", "item_id": ITEMS, "score": [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]})
    expected = fitted.rerank(table).to_frame()
    answer = post(server, user="u0", item_ids=ITEMS, first_stage_scores=[6, 5, 4, 3, 2, 1], raw_scores=True).json()
    assert [one["item_id"] for one in answer["results"]] == expected["item_id"].tolist()
    assert [one["relevance_score"] for one in answer["results"]] == pytest.approx(expected["score"].tolist())
    assert answer["meta"] | {"served": "fused", "unknown_items": 0} == answer["meta"]


def test_the_guard_decides_user_by_user_unless_an_order_is_asked_for(fitted, engine):
    guarded = copy(fitted)
    guarded.fusion_model = toys.served(fitted.fusion_model, "fused", from_known=3)
    bodies = [
        {"history": ["g1i2", "g1i3", "g1i4"]},
        {"history": ["g1i2", "g1i3"]},
        {},
        {"history": ["g1i2", "g1i3"], "order": "fused"},
        {"history": ["g1i2", "g1i3", "g1i4"], "order": "first_stage"},
        {"history": ["g1i2", "g1i3"], "order": "baseline"},
    ]
    table = pd.DataFrame({"user_id": "one", "item_id": ITEMS, "rank": range(1, len(ITEMS) + 1)})
    with serving(create_app(guarded)) as url, concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
        wait_until_ready(url)
        engine.open.clear()  # so that they are ranked together
        asked = [pool.submit(post, url, item_ids=ITEMS, raw_scores=True, **body) for body in bodies]
        time.sleep(0.5)
        engine.open.set()
        answers = [one.result().json() for one in asked]
    assert [one["meta"]["served"] for one in answers] == [
        "fused",
        "first_stage",
        "first_stage",
        "fused",
        "first_stage",
        "baseline",
    ]
    decided = [one["meta"].get("guard") for one in answers]
    assert decided == [None, None, None, "first_stage", "fused", "first_stage"]  # said where the caller overruled it
    for body, answer in zip(bodies, answers, strict=True):
        history = {"one": body.get("history", [])}
        expected = fitted.rerank(table, interactions=history, order=answer["meta"]["served"]).to_frame()
        assert [one["item_id"] for one in answer["results"]] == expected["item_id"].tolist()


def test_a_list_at_the_limit_is_ranked_whole(server):
    documents = [f"{TITLES[number % 4]} {number}" for number in range(2000)]
    answer = post(server, query="", documents=documents, history=HISTORY).json()
    assert sorted(one["index"] for one in answer["results"]) == list(range(2000))
    assert all(documents[one["index"]].startswith("zorblax") for one in answer["results"][:500])


def test_what_is_not_read_is_said(server):
    answer = post(server, user="u0", item_ids=ITEMS, query="a film", instruction="kindly").json()
    assert answer["meta"]["not_used"] == ["instruction"] and answer["meta"]["known_user"]
    assert answer["meta"]["query_judged"] is False
    assert "not_used" not in post(server, user="u0", item_ids=ITEMS).json()["meta"]
    own = post(server, user="u0", item_ids=ITEMS, documents=["x"] * len(ITEMS), history=["g1i2"]).json()["meta"]
    assert own["not_used"] == ["documents", "user"] and "known_user" not in own
    assert not post(server, user="typo", item_ids=ITEMS).json()["meta"]["known_user"]
    others = {"truncate_prompt_tokens": 5, "priority": 1}
    asked = {"documents": [{"title": "x", "text": "y " * 99, "year": 1}], "max_tokens_per_doc": 9}
    meta = post(server, **asked, **others, query="q").json()["meta"]
    assert sorted(meta["not_used"]) == sorted([*others, "documents.year"])
    assert meta["cut_documents"] == [0] and "fields_not_read" not in meta and "query_cut" not in meta
    assert "max_tokens_per_doc" in post(server, **asked, history=["x"]).json()["meta"]["not_used"]
    fields = post(server, **asked, query="q", rank_fields=["year"]).json()["meta"]
    assert fields["not_used"] == ["documents.title", "documents.text"] and "cut_documents" not in fields
    nothing = post(server, **asked, query="q", rank_fields=["month"])
    assert nothing.status_code == 400 and "month" in nothing.json()["error"]["message"]


def test_a_query_beside_item_ids_counts(server, fitted):
    asked = {"user": "u0", "item_ids": ITEMS, "raw_scores": True}
    plain = post(server, **asked).json()
    found = post(server, **asked, query=fitted.titles(ITEMS[-1:])[0]).json()
    assert found["results"][0]["item_id"] == ITEMS[-1] != plain["results"][0]["item_id"]
    assert found["meta"]["served"] == plain["meta"]["served"] and "query_judged" not in plain["meta"]
    assert post(server, **asked, query=" ").json()["results"] == plain["results"]
    shares = post(server, item_ids=ITEMS, query="zorblax", order="first_stage").json()["results"]
    assert sum(one["relevance_score"] for one in shares) == pytest.approx(1)


def test_defaults_of_other_servers_clients_are_taken(server):
    plain = post(server, documents=TITLES, history=HISTORY, raw_scores=True).json()["results"]
    nothing = dict.fromkeys(("query", "return_documents", "top_n", "instruction", "user", "truncation"))
    asked = {"documents": TITLES, "history": HISTORY, **nothing}
    assert post(server, **{**asked, "use_activation": False, "top_n": 0}).json()["results"] == plain
    shares = post(server, **{**asked, "use_activation": True}).json()["results"]
    assert sum(one["relevance_score"] for one in shares) == pytest.approx(1)


def test_title_and_text_of_a_document_are_both_read(server):
    both = [{"title": "x", "text": one} for one in TITLES]
    joined = [f"x: {one}" for one in TITLES]
    asked = {"history": HISTORY, "raw_scores": True}
    assert (
        post(server, documents=both, **asked).json()["results"]
        == post(server, documents=joined, **asked).json()["results"]
    )


def test_an_answer_is_json_whatever_came_in(server):
    body = b'{"documents": [{"text": "x", "year": NaN}], "return_documents": true}'
    answer = httpx.post(f"{server}/rerank", content=body, headers={"content-type": "application/json"})
    assert json.loads(answer.text, parse_constant=pytest.fail)["results"][0]["document"]["year"] is None


def test_texts_of_a_history_are_as_long_as_documents_and_ids_as_500_characters(server):
    said = "zorblax zomzik " * 100
    plain = post(server, documents=TITLES, history=[said])
    assert plain.status_code == 200, plain.text
    as_object = post(server, documents=TITLES, history=[{"text": said}]).json()
    assert plain.json()["results"] == as_object["results"]
    longest = ["a" * 500, 10**500 - 1, 1 - 10**499]
    answer = post(server, item_ids=longest, history=["b" * 500, 10**500 - 1], user="c" * 500)
    assert answer.status_code == 200 and answer.json()["meta"]["unknown_items"] == 3


def test_ids_with_slashes(server):
    rows = [{"item_id": "g3i2"}]
    path = "/v1/users/a%2Fb%2Finteractions/interactions"
    assert post(server, path, interactions=rows).json()["user"] == "a/b/interactions"
    assert httpx.get(f"{server}/v1/users/a%2Fb%2Finteractions").json()["domains"]["toy"]["interactions"]
    assert httpx.delete(f"{server}/v1/users/a%2Fb%2Finteractions").json()["forgotten"]
    assert post(server, "/v1/users/a%00/interactions", interactions=rows).json()["error"]["param"] == "user"
    assert post(server, "/v1/users//interactions", interactions=rows).status_code == 405
    for user in ("line", "line%0A", "line%0Aend"):  # three users
        post(server, f"/v1/users/{user}/interactions", interactions=rows)
    assert httpx.delete(f"{server}/v1/users/line%0A").json() == {
        "user": "line\n",
        "forgotten": True,
        "score_log_rows": 0,
        "in_bundles": [],
    }
    left = [httpx.get(f"{server}/v1/users/{user}").status_code for user in ("line", "line%0A", "line%0Aend")]
    assert left == [200, 404, 200]


def test_rows_that_fill_up_a_list_are_refused_by_name(server):
    body = {
        "user": "u0",
        "item_ids": ["g0i1", "g1i1", "g2i1"],
        "first_stage_scores": [0.9, 0.5, -3.4028234663852886e38],
    }
    answer = post(server, **body)
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "first_stage_scores.2"
    assert "leave such items out" in answer.json()["error"]["message"]


def test_inline_history_goes_before_the_stored_one_and_unknown_items_are_counted(server):
    cf_projection = post(server, user="u0", item_ids=[*ITEMS, "new"], history=["g1i2", "g1i3", "g1i4"]).json()
    assert cf_projection["results"][0]["item_id"] in ("g1i1", "g1i7")
    assert cf_projection["meta"]["unknown_items"] == 1
    new_user = post(server, item_ids=ITEMS, history=["g1i2", "g1i3", "g1i4"]).json()
    assert new_user["results"][0]["item_id"] == cf_projection["results"][0]["item_id"]


def test_interactions_change_the_next_answer_until_they_are_forgotten(server, fitted, tmp_path):
    def best():
        return post(server, user="someone-new-77", item_ids=ITEMS).json()["results"][0]["item_id"]

    before = best()
    rows = [{"item_id": f"g3i{number}", "timestamp": number} for number in (2, 3, 4)]
    state = post(server, "/v1/users/someone-new-77/interactions", interactions=rows).json()
    assert [one["item_id"] for one in state["appended"]] == ["g3i2", "g3i3", "g3i4"]
    assert best() == "g3i1" != before
    known = httpx.get(f"{server}/v1/users/u0").json()["domains"]["toy"]
    assert known["in_bundle"] and known["bundle_history"] == fitted.history("u0") and not known["interactions"]
    shown = httpx.get(f"{server}/v1/users/someone-new-77").json()["domains"]["toy"]
    assert shown["interactions"] == state["appended"] and not shown["in_bundle"]
    gone = httpx.delete(f"{server}/v1/users/someone-new-77").json()
    assert gone["forgotten"] and best() == before
    assert httpx.get(f"{server}/v1/users/someone-new-77").status_code == 404
    for file in tmp_path.glob("users.db*"):
        assert b"someone-new-77" not in file.read_bytes()


def test_texts_for_a_user_follow_the_users_titles(server):
    answer = post(server, user="u0", documents=TITLES, query="").json()
    assert answer["results"][0]["index"] == 1  # u0 has the first taste


def test_together_they_are_read_together_and_nobody_gets_anothers_list(server, fitted, engine):
    users = [f"u{number}" for number in range(16)]
    expected = {
        user: fitted.rerank(pd.DataFrame({"user_id": user, "item_id": ITEMS, "rank": range(1, 7)}))
        .to_frame()["item_id"]
        .tolist()
        for user in users
    }
    assert len({tuple(one) for one in expected.values()}) > 4
    engine.calls.clear()
    engine.open.clear()
    with concurrent.futures.ThreadPoolExecutor(17) as pool:
        first = pool.submit(post, server, documents=["x", "y"])  # keeps the engine busy
        while not engine.calls:
            time.sleep(0.005)
        answers = {user: pool.submit(post, server, user=user, item_ids=ITEMS) for user in users}
        while "reranker_queue 16.0" not in httpx.get(f"{server}/metrics").text:
            time.sleep(0.02)
        engine.open.set()
        for user, answer in answers.items():
            found = answer.result().json()["results"]
            assert [one["item_id"] for one in found] == expected[user]
            assert sorted(one["index"] for one in found) == list(range(6))
        assert first.result().status_code == 200
    assert 16 in engine.calls


def test_a_failure_that_nobody_foresaw_takes_no_other_list_with_it(server, engine, caplog):
    engine.open.clear()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        first = pool.submit(post, server, documents=["x"])
        time.sleep(0.2)
        engine.poison = "zomzik"
        bad = pool.submit(post, server, documents=["zomzik"], headers={"x-request-id": "mine-7"})
        good = pool.submit(post, server, documents=["mipfen", "mippel"])
        time.sleep(0.2)
        with caplog.at_level(logging.INFO, logger="reranker.access"):
            engine.open.set()
            assert [one.result().status_code for one in (first, bad, good)] == [200, 500, 200]
            httpx.get(f"{server}/metrics")  # the books are settled by then
    assert bad.result().headers["x-request-id"] == "mine-7"
    assert bad.result().json()["error"]["code"] == "failed" and "zomzik" not in bad.result().text
    line = next(json.loads(one.message) for one in caplog.records if '"error"' in one.message)
    assert line["request_id"] == "mine-7" and line["error"] == "ValueError" and line["status"] == 500
    assert any("span_log_likelihoods" in where for where in line["at"])
    assert "zomzik" not in caplog.text  # what a message quotes stays out of the log


def test_a_full_queue_says_when_to_come_back(fitted, engine):
    with serving(create_app(fitted, settings=ServeSettings(queue=2, batch=1, batch_wait_ms=0))) as url:
        wait_until_ready(url)
        engine.open.clear()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(post, url, documents=["x"]) for _ in range(8)]
            while sum(one.done() for one in waiting) < 5:  # one in work, two in the queue
                time.sleep(0.01)
            engine.open.set()
            answers = [one.result() for one in waiting]
    refused = [one for one in answers if one.status_code == 503]
    assert len(refused) == 5 and sum(one.status_code == 200 for one in answers) == 3
    assert refused[0].headers["retry-after"] and refused[0].json()["error"]["code"] == "overloaded"


def test_timeouts_and_engine_failures(fitted, engine):
    with serving(create_app(fitted, settings=ServeSettings(timeout_seconds=0.3))) as url:
        wait_until_ready(url)
        engine.fail = True
        answer = post(url, documents=["x"])
        assert answer.status_code == 500 and "out of order" in answer.json()["error"]["message"]
        engine.fail = False
        engine.open.clear()
        assert post(url, documents=["x"]).status_code == 504
        engine.open.set()
        assert post(url, documents=["x"]).status_code == 200


def test_a_model_that_cannot_be_loaded_is_told(fitted, engine):
    engine.fail = True
    with serving(create_app(fitted)) as url:
        while (answer := httpx.get(f"{url}/ready")).json()["error"]["code"] == "not_ready":
            time.sleep(0.02)
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "not_loaded"
        assert post(url, documents=["x"]).json()["error"]["code"] == "not_loaded"
        assert "out of order" in answer.json()["error"]["message"]
        assert httpx.get(f"{url}/health").status_code == 200


def test_the_probes_tell_that_the_engine_died(fitted, engine):
    with serving(create_app(fitted)) as url:
        wait_until_ready(url)
        engine.dead = True
        for path in ("/ready", "/health"):
            answer = httpx.get(f"{url}{path}")
            assert answer.status_code == 503 and answer.json()["error"]["code"] == "engine_dead"
        engine.dead = False
        assert [httpx.get(f"{url}{path}").status_code for path in ("/ready", "/health")] == [200, 200]


def test_a_caller_that_goes_away_frees_its_place(fitted, engine):
    with serving(create_app(fitted, settings=ServeSettings(batch=1, batch_wait_ms=0, queue=1))) as url:
        wait_until_ready(url)
        engine.calls.clear()
        engine.open.clear()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            first = pool.submit(post, url, documents=["x"])
            while not engine.calls:
                time.sleep(0.01)
            for _ in range(3):  # more than may wait
                with pytest.raises(httpx.ReadTimeout):
                    httpx.post(f"{url}/rerank", json={"documents": ["y"]}, timeout=0.3)
            while "reranker_queue 0.0" not in httpx.get(f"{url}/metrics").text:
                time.sleep(0.01)
            engine.open.set()
            assert first.result().status_code == 200
        assert post(url, documents=["x"]).status_code == 200
        assert len(engine.calls) == 2  # "y" was never read


def test_shadow_mode_answers_the_order_that_came_in(fitted):
    with serving(create_app(fitted, settings=ServeSettings(shadow=True))) as url:
        wait_until_ready(url)
        answer = post(url, user="u0", item_ids=ITEMS).json()
    assert [one["item_id"] for one in answer["results"]] == ITEMS
    assert answer["meta"]["served"] == "first_stage"


def test_keys_scopes_and_rates(fitted, tmp_path):
    file = tmp_path / "keys.json"
    ranks = new_key(file, "shop", ["rank"], per_minute=3)
    adapts = new_key(file, "app", ["rank", "adapt"])
    admin = new_key(file, "us", ["admin"])
    assert ranks not in file.read_text() and file.stat().st_mode & 0o077 == 0
    app = create_app(fitted, store=SqliteUserStore(tmp_path / "u.db"), keys=Keys(read_keys(file)))
    rows = {"interactions": [{"item_id": "g1i1"}]}
    with serving(app) as url:
        wait_until_ready(url)

        def status(secret, path="/v1/rerank", method="POST", **body):
            headers = {"authorization": f"Bearer {secret}"} if secret else {}
            return httpx.request(method, f"{url}{path}", json=body or None, headers=headers).status_code

        assert status(None, documents=["x"]) == status("wrong", documents=["x"]) == 401
        for path in ("/v1/rerank", "/v1/chat/completions", "/v1/users/u1/interactions"):
            assert status(None, path, colour="red") == 401  # before the body is looked at
            new_users = httpx.post(f"{url}{path}", content=b"x" * 5_000_000)
            assert new_users.status_code == 401 and new_users.headers["connection"] == "close"
        assert status(ranks, "/v1/users/u1/interactions", **rows) == 403
        assert status(adapts, "/v1/users/u1/interactions", **rows) == 200
        assert status(adapts, "/v1/users/u1", "DELETE") == 403
        assert status(admin, "/v1/users/u1", "DELETE") == 200
        assert [status(ranks, documents=["x"]) for _ in range(4)] == [200, 200, 200, 429]
        limited = post(url, documents=["x"], headers={"authorization": f"Bearer {ranks}"})
        assert 1 <= int(limited.headers["retry-after"]) <= 21
        assert limited.json()["error"]["type"] == "rate_limit_error"


def test_keys_are_described_where_they_are_asked_for(fitted, server, tmp_path):
    new_key(tmp_path / "keys.json", "shop", ["rank"])
    with serving(create_app(fitted, keys=Keys(read_keys(tmp_path / "keys.json")))) as url:
        described = httpx.get(f"{url}/openapi.json").json()
    assert described["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    guarded = {
        path for path, operations in described["paths"].items() if any("security" in one for one in operations.values())
    }
    assert {"/rerank", "/v1/chat/completions", "/v1/users/{user}", "/v1/models"} <= guarded
    assert not guarded & {"/health", "/ready", "/metrics"}
    assert "securitySchemes" not in httpx.get(f"{server}/openapi.json").json()["components"]
    refusal = described["paths"]["/rerank"]["post"]["responses"]["422"]["content"]["application/json"]["schema"]
    assert refusal == {"$ref": "#/components/schemas/Refusal"}


def test_models_health_metrics_and_request_ids(server):
    card = httpx.get(f"{server}/v1/models").json()["data"][0]
    assert card["id"] == "toy" and card["object"] == "model" and card["card"]["serves"] == "fused"
    assert httpx.get(f"{server}/v1/models/toy").json() == card
    assert httpx.get(f"{server}/v1/models/other").json()["error"]["code"] == "model_not_found"
    assert httpx.get(f"{server}/health").json() == {"status": "ok"}
    assert [httpx.head(f"{server}{path}").status_code for path in ("/", "/health", "/ready")] == [200, 200, 200]
    assert httpx.get(f"{server}/v1/rerank").status_code == 405
    assert httpx.get(f"{server}/v1/rerank").headers["allow"] == "POST"
    answer = post(server, documents=TITLES, headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == answer.json()["id"] == "mine-1"
    assert len(post(server, documents=TITLES, headers={"x-request-id": "x" * 500}).headers["x-request-id"]) == 32
    text = httpx.get(f"{server}/metrics").text
    assert 'reranker_requests_total{route="/v1/rerank",status="200"} 2.0' in text
    assert "reranker_documents_total 8.0" in text


def test_log_lines_hold_no_words_of_the_user(server, caplog):
    with caplog.at_level(logging.INFO, logger="reranker.access"):
        post(server, query="secret wish", documents=["secret title"])
        httpx.get(f"{server}/v1/users/secret-name")
        httpx.get(f"{server}/metrics")  # the books are settled by then
    entries = [json.loads(record.message) for record in caplog.records if record.name == "reranker.access"]
    lines = [line for line in entries if line["route"].startswith("/v1/")]
    assert [(line["route"], line["status"]) for line in lines] == [("/v1/rerank", 200), ("/v1/users/{user}", 404)]
    assert lines[0]["documents"] == 1 and "secret" not in caplog.text


BAD = [
    ({}, 422, "documents"),
    ({"documents": []}, 422, "documents"),
    ({"documents": 7}, 422, "documents"),
    ({"documents": ["x"] * 2001}, 413, "documents"),
    ({"documents": ["x"] * 10_000}, 413, "documents"),
    ({"item_ids": [f"i{number}" for number in range(10_000)]}, 413, "item_ids"),
    ({"documents": ["x", 3]}, 422, "documents.1"),
    ({"documents": ["x"], "top_n": -1}, 422, "top_n"),
    ({"documents": ["x"], "model": "gpt"}, 404, "model"),
    ({"documents": ["x"], "domain": "shoes"}, 404, "domain"),
    ({"documents": ["x"], "first_stage_scores": [1.0]}, 422, "first_stage_scores"),
    ({"documents": ["x"], "order": "fused"}, 422, "order"),
    ({"item_ids": ["a"], "order": "best"}, 422, "order"),
    ({"documents": ["x"], "colour": "red"}, 422, "colour"),
    ({"item_ids": ["a", "a"]}, 422, "item_ids"),
    ({"item_ids": ["a", "b"], "first_stage_scores": [1.0]}, 422, "first_stage_scores"),
    ({"item_ids": ["a"], "first_stage_scores": ["high"]}, 422, "first_stage_scores.0"),
    ({"item_ids": ["a", "b"], "documents": ["x"]}, 422, "documents"),
    ({"item_ids": ["a"], "history": [{"title": "x"}]}, 422, "history"),
    ({"item_ids": ["a"], "history": ["x"] * 1001}, 413, "history"),
    ({"documents": ["a", "\x00"]}, 422, "documents.1"),
    ({"documents": ["a"], "query": "\x00"}, 422, "query"),
    ({"documents": ["  "]}, 422, "documents.0"),
    ({"documents": ["x", {"year": 1999}]}, 422, "documents.1"),
    ({"documents": ["x", {"text": 5}]}, 422, "documents.1.text"),
    ({"documents": ["x"], "TopN": 2}, 422, "TopN"),
    ({"documents": ["x"], "history": [{"title": ["a"]}]}, 422, "history.0.title"),
    ({"documents": ["x"], "history": ["a", ""]}, 422, "history.1"),
    ({"documents": ["x"], "user": "a" * 501}, 422, "user"),
    ({"documents": ["x"], "user": 10**500}, 422, "user"),
    ({"item_ids": [1, "a" * 501]}, 422, "item_ids.1"),
    ({"item_ids": [1, 10**999]}, 422, "item_ids.1"),
    ({"item_ids": [1, -(10**499)]}, 422, "item_ids.1"),
    ({"item_ids": ["a"], "history": ["a", "b" * 501]}, 422, "history.1"),
    ({"item_ids": ["a"], "history": ["a", 10**500]}, 422, "history.1"),
]


@pytest.mark.parametrize(("body", "status", "param"), BAD, ids=[str(one[0])[:40] for one in BAD])
def test_bad_requests_name_the_field(server, body, status, param):
    answer = post(server, **body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["param"] == param and error["message"] and error["type"]


def test_bad_bodies(fitted):
    with serving(create_app(fitted, settings=ServeSettings(max_body_bytes=2000, body_seconds=0.5))) as url:
        wait_until_ready(url)
        headers = {"content-type": "application/json"}
        broken = httpx.post(f"{url}/rerank", content=b'{"documents": [', headers=headers)
        assert broken.status_code == 400 and broken.json()["error"]["code"] == "invalid_json"
        for path in ("/rerank", "/v1/chat/completions"):
            alien = httpx.post(f"{url}{path}", content=b'{"model": "\xff"}', headers=headers)
            assert alien.status_code == 400 and alien.json()["error"]["code"] == "invalid_json"
        infinite = httpx.post(
            f"{url}/rerank", content=b'{"item_ids": ["a"], "first_stage_scores": [Infinity]}', headers=headers
        )
        assert infinite.status_code == 422 and infinite.json()["error"]["param"] == "first_stage_scores.0"
        assert post(url, documents=["x" * 3000]).status_code == 413
        chunks = httpx.post(f"{url}/rerank", content=(b"x" * 500 for _ in range(10)), headers=headers)
        assert chunks.status_code == 413
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as slow:
            head = b"POST /rerank HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            slow.sendall(head + b"content-length: 50\r\n\r\n{")
            assert b" 408 " in slow.recv(4096).split(b"\r\n")[0]
        assert post(url, "/nowhere").json()["error"]["code"] == "not_served"
        no_users = post(url, "/v1/users/u1/interactions", interactions=[{"item_id": "a"}])
        assert no_users.status_code == 404 and "--users-db" in no_users.json()["error"]["message"]


def test_shutting_down_finishes_what_is_in_work(fitted, engine):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with serving(create_app(fitted)) as url:
            wait_until_ready(url)
            engine.calls.clear()
            engine.open.clear()
            answer = pool.submit(post, url, documents=TITLES)
            while not engine.calls:
                time.sleep(0.01)
            threading.Timer(0.3, engine.open.set).start()
        assert answer.result().status_code == 200


def test_documents_that_read_alike_are_named(server):
    answer = post(server, query="mipfen", documents=["mipfen 1", "zorblax 2", "mipfen 1", "zorblax 2"]).json()
    assert answer["meta"]["alike_documents"] == [2, 3]


def test_an_item_that_stands_twice_is_named(server):
    answer = post(server, user="u0", item_ids=["g1i1", "g0i1", "g0i1"])
    assert answer.status_code == 422
    assert "item_ids holds the item 'g0i1' twice" in answer.json()["error"]["message"]
