"""Results that can be held: rankings and scores of every order."""

import numpy as np
import pandas as pd
import pytest

from reranker import RankingResult, Reranker
from reranker.data.catalog import Catalog
from reranker.data.schema import RANKING_COLUMNS
from reranker.engines.scripted import ScriptedEngine
from reranker.pipeline.results import ServedScores
from tests.pipeline import toys


def result(k=None, users=2):
    """Two items a user; the second user keeps the first-stage order."""
    lists = pd.DataFrame(
        {
            "user_id": np.repeat([f"u{number}" for number in range(users)], 2),
            "item_id": ["a", "<b>"] * users,
            "score": [2.0, 1.0] * users,
            "rank": [1, 2] * users,
        }
    )
    orders = ["first_stage" if number == 1 else "fused" for number in range(users)]
    served = ServedScores(
        order="fused",
        orders=orders,
        guard=["baseline"] * users,
        n_known=np.array([3, *[0] * (users - 1)]),
        scores=np.array([value for order in orders for value in ([0.5, 1.5] if order == "fused" else [2.0, 1.0])]),
        prompt_tokens=np.arange(users),
    )
    catalog = Catalog(pd.DataFrame({"item_id": ["a"], "title": ["Alien"]}))
    return RankingResult(lists, served, catalog, k)


def test_the_table_has_every_row_and_titles_where_they_are_asked_for():
    table = result().to_frame()
    assert list(table) == RANKING_COLUMNS and table.attrs == {}
    assert table["item_id"].tolist() == ["<b>", "a", "a", "<b>"]
    assert table["rank"].tolist() == [1, 2, 1, 2] and table["first_stage_rank"].tolist() == [2, 1, 1, 2]
    assert table["score_scale"].tolist() == ["log_odds", "log_odds", "first_stage", "first_stage"]
    assert result().to_frame(titles=True)["title"].tolist() == ["(untitled)", "Alien", "Alien", "(untitled)"]


def test_a_table_that_was_changed_leaves_the_result_as_it_is():
    ranked = result()
    table = ranked.to_frame()
    table["score"] = 7.0
    assert ranked.to_frame()["score"].tolist() == [1.5, 0.5, 2.0, 1.0]


def test_lists_are_items_of_users_best_first():
    assert result().to_lists() == {"u0": ["<b>", "a"], "u1": ["a", "<b>"]}
    assert result(k=1).to_lists() == {"u0": ["<b>"], "u1": ["a"]} and len(result(k=1)) == 2


def test_what_came_with_them_is_one_entry_a_user():
    ranked = result(k=1)
    assert ranked.users == ("u0", "u1") and ranked.orders == ("fused", "first_stage")
    assert ranked.guard == ("baseline", "baseline") and ranked.prompt_tokens.tolist() == [0, 1]
    assert (ranked.report.users_kept, ranked.report.unknown_users, ranked.report.unknown_items) == (1, 1, 2)


def test_it_prints_the_first_lists_with_titles():
    shown = str(result(users=5))
    assert shown.splitlines()[0] == "RankingResult(5 users, 10 rows, served: fused to 4, first_stage to 1)"
    assert shown.splitlines()[0] == repr(result(users=5))
    assert shown.count("Alien") == 3 and "u3" not in shown
    assert shown.splitlines()[-1] == "... and 2 more users; to_frame() has every row"
    assert "more" not in str(result()) and repr(result(users=1)) == "RankingResult(1 users, 2 rows, served: fused)"


def test_notebooks_show_texts_as_texts():
    shown = result()._repr_html_()
    assert "&lt;b&gt;" in shown and "<b>" not in shown and shown.count("<table") == 1


@pytest.fixture(scope="module")
def reranker():
    return toys.fitted()


def test_scores_of_every_order_are_rows_of_the_candidates(reranker):
    lists = reranker.generator.recommend(["u1", "u2"], 5)
    scores = reranker.score_all(lists)
    table = scores.to_frame(lists.index)
    assert list(table) == ["first_stage", "baseline", "llm", "fused"] and len(table) == len(lists)
    for order in ("first_stage", "baseline", "fused"):
        np.testing.assert_array_equal(scores.of(order), table[order])
    served = reranker.rerank(lists, order="fused").to_frame().set_index(["user_id", "item_id"])["score"]
    pd.testing.assert_series_equal(
        served, pd.Series(scores.fused, lists.set_index(["user_id", "item_id"]).index, name="score")[served.index]
    )
    assert len(scores.prompt_tokens) == 2 and (scores.prompt_tokens > 0).all()


def test_a_reranker_says_what_it_is(reranker):
    said = repr(reranker)
    assert said.startswith("Reranker(domain 'toy' (48 users, 32 items), model 'smollm2-135m', engine 'scripted', ")
    assert f"serves '{reranker.fusion_model.guard.serve}'" in said
    assert str(reranker) == f"{said}\n{reranker.fusion_model.guard.summary()}"
    unfitted = Reranker(toys.config(), ScriptedEngine())
    assert repr(unfitted).startswith("Reranker(not fitted, model ") and str(unfitted) == repr(unfitted)
