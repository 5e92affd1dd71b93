"""What queries are worth: their weight is learned on lists that have some, on logs whose truth is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from reranker import Dataset, Reranker
from reranker.errors import BundleError, ConfigError, DataError
from reranker.evaluation.own_lists import OwnLists, judge_lists
from reranker.fusion.query_verdict import FIXED_WEIGHT, QueryVerdict, judge_relevance
from reranker.pipeline.ladder import climb
from reranker.refresh import refresh
from reranker.utils.statistics import Interval
from tests.pipeline import toys

WORDS = [group.split()[0] for group in toys.GROUPS]


def logs(matters: bool, users: int = 200, seed: int = 0) -> tuple[Dataset, pd.DataFrame, pd.DataFrame]:
    """Lists of 8 items, two of each taste in a random order, under a query for a random taste.

    The user chooses an item of the query's taste, or else one of the user's own, whatever the query is.
    """
    rng = np.random.default_rng(seed)
    data = toys.taste_dataset(users, seed)
    lists, held_out = [], []
    for user in range(users):
        asked = int(rng.integers(4))
        proposed = [f"g{group}i{number}" for group in range(4) for number in rng.choice(8, 2, replace=False)]
        wanted = proposed[2 * (asked if matters else user % 4)]
        lists += [(f"u{user}", item, rank, WORDS[asked]) for rank, item in enumerate(rng.permutation(proposed), 1)]
        held_out.append((f"u{user}", wanted, 10_000))
    return (
        data,
        pd.DataFrame(lists, columns=["user_id", "item_id", "rank", "query"]),
        pd.DataFrame(held_out, columns=["user_id", "item_id", "timestamp"]),
    )


def fitted(matters: bool, **settings):
    data, lists, held_out = logs(matters)
    reranker = Reranker.from_pretrained("untrained", engine="lexical", **{"scorer": "baseline", **settings})
    return reranker.fit(data, candidates=lists, held_out=held_out), lists, held_out


def hits(ranked, held_out):
    best = ranked.to_frame().groupby("user_id").head(2)
    return held_out.merge(best, on=["user_id", "item_id"]).shape[0] / len(held_out)


@pytest.fixture(scope="module")
def where_it_matters():
    return fitted(True)


def test_a_query_that_decides_gets_its_weight_and_is_served_by_it(where_it_matters, tmp_path):
    reranker, lists, held_out = where_it_matters
    verdict = reranker.fusion_model.queries
    assert verdict.keeps and verdict.gain.low > 0.2 and verdict.n_lists == 200
    assert "queries count" in verdict.summary() and "on 200 lists with one" in verdict.summary()
    assert hits(reranker.rerank(lists), held_out) > hits(reranker.rerank(lists.drop(columns="query")), held_out) + 0.3
    reranker.save(tmp_path / "b")
    loaded = Reranker.load(tmp_path / "b")
    assert loaded.fusion_model.queries == verdict and loaded.judged_queries
    pd.testing.assert_frame_equal(loaded.rerank(lists).to_frame(), reranker.rerank(lists).to_frame())


def test_the_weight_is_that_of_the_relevance_in_the_scores(where_it_matters):
    reranker, lists, _ = where_it_matters
    model = reranker.fusion_model

    def added():
        ranked = reranker.rerank(lists, order="first_stage").to_frame().set_index(["user_id", "item_id"])
        return (ranked["score"] + np.log(ranked["first_stage_rank"])).sort_index()

    weighed = added()
    reranker.fusion_model = replace(model, queries=None)
    fixed = added()
    reranker.fusion_model = model
    assert weighed.to_numpy() == pytest.approx(model.queries.weight * fixed.to_numpy())
    assert fixed.abs().max() > 0.1


def test_a_query_that_says_nothing_is_left_out_or_counts_next_to_nothing():
    reranker, lists, held_out = fitted(False)
    verdict = reranker.fusion_model.queries
    assert verdict.gain.low <= 0.01 and verdict.served_weight < 0.2
    with_them, without = (hits(reranker.rerank(one), held_out) for one in (lists, lists.drop(columns="query")))
    assert with_them >= without - 0.02


def test_without_queries_in_the_lists_nothing_is_judged_and_the_weight_is_fixed():
    data, lists, held_out = logs(True)
    reranker = Reranker.from_pretrained("untrained", engine="lexical", scorer="baseline")
    reranker.fit(data, candidates=lists.drop(columns="query"), held_out=held_out)
    assert reranker.fusion_model.queries is None and not reranker.judged_queries and FIXED_WEIGHT == 1
    of_column = reranker.rerank(lists)
    queries = dict(zip(lists["user_id"], lists["query"], strict=True))
    pd.testing.assert_frame_equal(
        of_column.to_frame(), reranker.rerank(lists.drop(columns="query"), queries=queries).to_frame()
    )
    with pytest.raises(ConfigError, match="queries= was given, and the candidates have a column 'query', too"):
        reranker.rerank(lists, queries=queries)


def test_a_list_has_one_query_and_blank_ones_are_none(where_it_matters):
    reranker, lists, _ = where_it_matters
    two = lists.assign(query=[f"{text} {rank}" for text, rank in zip(lists["query"], lists["rank"], strict=True)])
    with pytest.raises(DataError, match=r"column 'query': the list of user 'u0' has .* and .*; a list has one query"):
        reranker.rerank(two)
    blank = lists.assign(query=None)
    pd.testing.assert_frame_equal(
        reranker.rerank(blank).to_frame(), reranker.rerank(lists.drop(columns="query")).to_frame()
    )


def test_few_lists_with_queries_teach_nothing(caplog):
    data, lists, held_out = logs(True)
    few = lists.assign(query=lists["query"].where(lists["user_id"].isin([f"u{user}" for user in range(9)])))
    reranker = Reranker.from_pretrained("untrained", engine="lexical", scorer="baseline")
    reranker.fit(data, candidates=few, held_out=held_out)
    assert reranker.fusion_model.queries is None
    assert "9 users have a list with a query and a choice, and it takes 20" in caplog.text


def test_every_rung_of_the_ladder_judges_them_and_a_refresh_keeps_the_verdict():
    data, lists, held_out = logs(True)
    llm = Reranker(toys.config(scorer="embedding"), toys.WatchedEngine())
    served = climb(llm, data, candidates=lists, held_out=held_out)
    verdict = served.fusion_model.queries
    assert verdict is not None and verdict.keeps
    newer = held_out.assign(timestamp=20_000)
    refresh(served, newer, candidates=lists.drop(columns="query"))
    assert served.fusion_model.queries == verdict


def test_the_learned_weight_is_the_one_that_made_the_choices():
    rng = np.random.default_rng(0)
    n_lists, n = 4000, 5
    personal, relevance = rng.normal(size=(2, n_lists, n))
    utility = personal + 2.0 * relevance + rng.gumbel(size=(n_lists, n))
    chosen = utility == utility.max(axis=1, keepdims=True)
    index, users = np.repeat(np.arange(n_lists), n), np.arange(n_lists)
    ones = np.ones(n_lists, dtype=np.int64)
    verdict = judge_relevance(personal.ravel(), relevance.ravel(), index, chosen.ravel(), ones, users)
    assert verdict.weight == pytest.approx(2.0, abs=0.15) and verdict.keeps
    noise = judge_relevance(utility.ravel(), relevance.ravel(), index, chosen.ravel(), ones, users)
    assert noise.served_weight < 0.05


def test_a_damaged_verdict_is_named():
    good = QueryVerdict(weight=1.5, gain=Interval(mean=0.1, low=0.05, high=0.15, n=40), n_lists=44)
    assert QueryVerdict.from_json(good.to_json()) == good
    for change in ({"weight": float("nan")}, {"gain": {}}):
        with pytest.raises(BundleError, match="queries: not what this version writes"):
            QueryVerdict.from_json(good.to_json() | change)


def test_lists_of_ones_own_are_judged_with_their_queries():
    data, lists, held_out = logs(True)
    llm = Reranker(toys.config(scorer="embedding"), toys.WatchedEngine())
    report = judge_lists(llm, data, OwnLists.of(data, [(lists, held_out)]), ("first_stage", "lexical"))
    assert list(report.queries) == ["lexical"] and report.queries["lexical"].keeps
    assert "lexical: queries count" in report.summary() and "query" not in " ".join(report.unused)
    assert report.to_json()["queries"]["lexical"]["n_lists"] == 200
