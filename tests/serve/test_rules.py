"""`rules` over HTTP."""

import httpx
import pyarrow.parquet as pq
import pytest

from reranker.serve.app import create_app
from reranker.serve.settings import ServeSettings
from tests.pipeline import toys
from tests.serve.live import serving, wait_until_ready

ITEMS = ["g0i1", "g1i1", "g2i1", "g3i1", "g1i6", "g2i6"]


@pytest.fixture(scope="module")
def reranker():
    return toys.fitted(scorer="baseline")


@pytest.fixture(scope="module")
def url(reranker, tmp_path_factory):
    with serving(create_app(reranker)) as address:
        wait_until_ready(address)
        yield address


def ask(url, **fields):
    return httpx.post(f"{url}/v1/rerank", json={"item_ids": ITEMS, "history": ["g1i0"], **fields}, timeout=60)


def places(answer):
    return [one["item_id"] for one in answer.json()["results"]]


def test_rules_of_a_request_hold_and_are_counted(url):
    plain = places(ask(url))
    rules = {"exclude": [{"items": ["g1i1"]}], "pin": [{"item": "g3i1", "place": 1}, {"item": "zz", "place": 2}]}
    answer = ask(url, rules=rules)
    rest = [item for item in plain if item not in ("g1i1", "g3i1")]
    assert places(answer) == ["g3i1", *rest]
    counts = answer.json()["meta"]["rules"]
    assert (counts["excluded"], counts["pinned"]) == (1, 1)
    assert counts["unmet"] == {"pin zz at 2": 1}
    assert counts["without_effect"] == ["item zz"]
    for one in answer.json()["results"]:
        assert ITEMS[one["index"]] == one["item_id"]
    assert "rules" not in ask(url).json()["meta"]
    assert places(ask(url, rules=rules, top_n=2)) == ["g3i1", rest[0]]


def test_explanations_stay_with_their_items(url):
    asked = {"order": "baseline", "explain": True}
    plain = {one["item_id"]: one["explanation"] for one in ask(url, **asked).json()["results"]}
    answer = ask(url, **asked, rules={"pin": [{"item": "g3i1", "place": 1}]}, top_n=3).json()
    assert len(answer["results"]) == 3 and answer["results"][0]["item_id"] == "g3i1"
    for one in answer["results"]:
        assert one["explanation"] == plain[one["item_id"]]


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"rules": {"caps": [{"column": "brand", "most": 1}]}}, 422, "rules"),
        ({"rules": {"pin": [{"item": "g0i1", "place": 0}]}}, 422, "rules.pin.0.place"),
        ({"rules": {"pins": []}}, 422, "rules.pins"),
        ({"rules": {}, "item_ids": None, "documents": ["a", "b"], "history": None}, 422, "rules"),
    ],
)
def test_rules_that_make_no_sense_name_the_field(url, fields, status, param):
    answer = ask(url, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_everything_excluded_is_an_empty_answer_and_is_logged(reranker, tmp_path):
    with serving(create_app(reranker, score_log=tmp_path / "log")) as address:
        wait_until_ready(address)
        empty = ask(address, rules={"exclude": [{"items": ITEMS}]})
        some = ask(address, rules={"exclude": [{"items": ITEMS[:2]}]}, first_stage_scores=[6, 5, 4, 3, 2, 1])
    assert (empty.status_code, places(empty)) == (200, [])
    logged = pq.read_table(tmp_path / "log").to_pandas()
    assert logged["item_id"].tolist() == places(some)
    assert dict(zip(logged["item_id"], logged["first_stage_rank"], strict=True)) == {
        item: rank for rank, item in enumerate(ITEMS, start=1) if rank > 2
    }


def test_shadow_mode_says_that_rules_are_not_used(reranker):
    with serving(create_app(reranker, settings=ServeSettings(shadow=True))) as address:
        wait_until_ready(address)
        answer = ask(address, rules={"exclude": [{"items": ["g0i1"]}]})
    assert places(answer) == ITEMS
    assert answer.json()["meta"]["not_used"] == ["rules"]


def test_calibration_goes_by_the_history_of_the_request(url):
    rules = {"calibration": {"by": "title", "strength": 1, "first": 1}}
    assert places(ask(url, history=["g2i1"], rules=rules))[0] == "g2i1"
    assert places(ask(url, history=["g0i1"], rules=rules))[0] == "g0i1"
    assert ask(url, history=[], rules=rules).json()["meta"]["rules"]["uncalibrated"] == 1
