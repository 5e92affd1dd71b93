"""A query beside lists of items: relevance added to what is served without one."""

import numpy as np
import pandas as pd
import pytest

from reranker.scoring.relevance import QueryDocuments, QueryRelevance
from tests.pipeline import toys


@pytest.fixture(scope="module")
def reranker():
    fitted = toys.fitted()
    fitted.fusion_model = toys.served(fitted.fusion_model, "first_stage")
    return fitted


@pytest.fixture
def lists():
    items = ["g0i0", "g1i0", "g2i0", "g3i0"]
    return pd.DataFrame({"user_id": np.repeat(["u0", "u1"], 4), "item_id": items * 2, "rank": [1, 2, 3, 4] * 2})


def test_relevance_is_added_to_the_log_of_the_reciprocal_rank(reranker, lists):
    result = reranker.rerank(lists, queries={"u1": "vantow vanvik"})
    ranked = result.to_frame()
    plain = reranker.rerank(lists).to_frame()
    assert ranked[ranked["user_id"] == "u0"].equals(plain[plain["user_id"] == "u0"])
    asked = ranked[ranked["user_id"] == "u1"]
    assert asked["item_id"].iloc[0] == "g3i0"
    titles = reranker.titles(asked["item_id"])
    read = QueryRelevance(reranker.llm_scorer.engine).read(
        [QueryDocuments(query="vantow vanvik", documents=[("", title) for title in titles])]
    )[0]
    expected = read.log_odds - np.log(asked["first_stage_rank"])
    assert asked["score"].to_numpy() == pytest.approx(expected.to_numpy())
    assert result.prompt_tokens[1] == read.prompt_tokens > 0 == result.prompt_tokens[0]


def test_relevance_is_added_to_the_scores_of_the_fused_order(reranker, lists):
    plain = reranker.rerank(lists, order="fused").to_frame().set_index(["user_id", "item_id"])["score"]
    asked = (
        reranker.rerank(lists, order="fused", queries={"u0": "quxard"})
        .to_frame()
        .set_index(["user_id", "item_id"])["score"]
    )
    added = (asked - plain)["u0"]
    assert added.idxmax() == "g2i0"
    assert (asked - plain)["u1"].abs().max() == 0


def test_an_item_without_text_is_as_relevant_as_the_least(reranker, lists):
    lists["item_id"] = lists["item_id"].replace("g1i0", "new")
    ranked = reranker.rerank(lists, queries={"u0": "untitled mipfen", "u1": "(untitled)"}).to_frame()
    assert (ranked[ranked["item_id"] == "new"]["rank"] > 1).all()


def test_blank_queries_and_those_of_others_change_nothing(reranker, lists):
    assert (
        reranker.rerank(lists, queries={"u0": " ", "nobody": "zorblax"})
        .to_frame()
        .equals(reranker.rerank(lists).to_frame())
    )
