"""A server of a bundle that was fitted on lists with queries."""

import httpx
import pytest

from reranker.serve.app import create_app
from tests.pipeline.test_query_fitting import fitted
from tests.serve.live import serving, wait_until_ready


def answer(reranker, **asked):
    with serving(create_app(reranker)) as url:
        wait_until_ready(url, 30)
        return httpx.post(f"{url}/v1/rerank", json=asked, timeout=60).json()


@pytest.mark.parametrize("matters", [True, False])
def test_a_judged_query_counts_as_fit_found(matters):
    reranker, lists, _ = fitted(matters)
    mine = lists[lists["user_id"] == "u0"]
    items, query = mine["item_id"].tolist(), mine["query"].iloc[0]
    found = answer(reranker, user="u0", item_ids=items, query=query, raw_scores=True)
    assert found["meta"]["query_judged"] is True
    expected = reranker.rerank(mine).to_frame()
    assert [one["item_id"] for one in found["results"]] == expected["item_id"].tolist()
    assert [one["relevance_score"] for one in found["results"]] == pytest.approx(expected["score"].tolist(), abs=1e-6)
