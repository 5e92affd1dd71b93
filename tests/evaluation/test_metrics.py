"""Tiny lists and visible fractions: every number here can be checked by hand."""

from math import log2

import numpy as np
import pytest

from reranker.errors import DataError
from reranker.evaluation.metrics import (
    auc,
    catalogue_metrics,
    check_scores,
    gini,
    metric_name,
    per_user_metrics,
    ranks,
    user_auc,
)
from tests.evaluation.toys import lists_of


def by_rank(lists):
    return -lists.candidates["rank"].to_numpy(dtype=float)


@pytest.mark.parametrize(("place", "expected"), [(1, 1), (2, 1 / log2(3)), (3, 1 / log2(4)), (4, 0)])
def test_one_target_at_each_place(place, expected):
    items = ["a", "b", "c", "d"]
    lists = lists_of({"u": " ".join(items)}, {"u": items[place - 1]})
    row = per_user_metrics(lists, by_rank(lists), "end_to_end", ks=[3]).iloc[0]
    hit = place <= 3
    assert row["ndcg@3"] == pytest.approx(expected)
    assert row["hr@3"] == row["recall@3"] == hit
    assert row["precision@3"] == pytest.approx(hit / 3)
    assert row["f1@3"] == pytest.approx(2 * (1 / 3) / (1 + 1 / 3) if hit else 0)
    assert row["mrr"] == row["map"] == pytest.approx(1 / place)


def test_two_targets_one_missed():
    lists = lists_of({"u": "a b c"}, {"u": "b missing"})
    end = per_user_metrics(lists, by_rank(lists), "end_to_end", ks=[2]).iloc[0]
    assert end["ndcg@2"] == pytest.approx((1 / log2(3)) / (1 + 1 / log2(3)))
    assert end["recall@2"] == pytest.approx(1 / 2)
    assert end["precision@2"] == pytest.approx(1 / 2)
    assert end["f1@2"] == pytest.approx(1 / 2)
    assert end["map"] == pytest.approx((1 / 2) / 2)
    covered = per_user_metrics(lists, by_rank(lists), "covered", ks=[2]).iloc[0]
    assert covered["ndcg@2"] == pytest.approx(1 / log2(3))
    assert covered["recall@2"] == 1
    assert covered["map"] == pytest.approx(1 / 2)


def test_misses_and_empty_lists_count_zero_end_to_end_and_are_left_out_of_covered():
    lists = lists_of({"hit": "a b", "miss": "b c"}, {"hit": "a", "miss": "a", "nothing": "a"})
    end = per_user_metrics(lists, by_rank(lists), "end_to_end", ks=[2])
    assert end["ndcg@2"].tolist() == [1, 0, 0]
    assert end["mrr"].tolist() == [1, 0, 0]
    assert np.isnan(end["novelty@2"].iloc[2])
    covered = per_user_metrics(lists, by_rank(lists), "covered", ks=[2])
    assert covered.index.tolist() == [0]
    assert covered["user_auc"].tolist() == [1]


def test_covered_without_a_covered_user_is_an_error():
    lists = lists_of({"u": "a b"}, {"u": "c"})
    with pytest.raises(DataError, match="no list of 2 holds a target"):
        per_user_metrics(lists, by_rank(lists), "covered")


def test_scores_decide_and_ties_keep_the_first_stage_order():
    lists = lists_of({"u": "a b c d"}, {"u": "d"})
    assert ranks(lists, np.array([0.5, 2.0, 2.0, 0.5])).tolist() == [3, 1, 2, 4]
    assert ranks(lists, np.zeros(4)).tolist() == [1, 2, 3, 4]


def test_constant_scores_equal_the_first_stage_order_in_every_metric():
    lists = lists_of(
        {f"u{n}": " ".join(f"i{m}" for m in range(15)) for n in range(15)}, {f"u{n}": f"i{n}" for n in range(15)}
    )
    constant = per_user_metrics(lists, np.full(225, 7.0), "end_to_end")
    assert constant.equals(per_user_metrics(lists, by_rank(lists), "end_to_end"))
    assert constant["mrr"].tolist() == pytest.approx([1 / (n + 1) for n in range(15)])


def test_many_items_with_nearly_equal_scores_keep_double_precision():
    """trec_eval holds scores in 32 bits; 1 + 1e-9 must still beat 1."""
    lists = lists_of({"u": "a b"}, {"u": "b"})
    row = per_user_metrics(lists, np.array([1.0, 1.0 + 1e-9]), "end_to_end", ks=[1]).iloc[0]
    assert row["hr@1"] == 1


def test_auc_by_counting_pairs():
    # pairs (target, other): 3>1, 3>2, 1=1 (half), 1<2 -> 2.5 of 4
    assert auc(np.array([3.0, 1.0, 1.0, 2.0]), np.array([True, True, False, False])) == pytest.approx(2.5 / 4)
    assert np.isnan(auc(np.array([1.0]), np.array([True])))


def test_user_auc_stays_within_the_list():
    lists = lists_of({"a": "x y z", "b": "x y", "c": "x"}, {"a": "y", "b": "x", "c": "x"})
    values = user_auc(lists, np.array([5.0, 4.0, 1.0, 0.0, 9.0, 1.0]))
    assert values[:2].tolist() == [1 / 2, 0]
    assert np.isnan(values[2])


def test_gini():
    assert gini(np.array([1.0, 1.0, 1.0, 1.0])) == pytest.approx(0)
    assert gini(np.array([0.0, 0.0, 0.0, 8.0])) == pytest.approx(3 / 4)


def test_coverage_counts_distinct_items_of_the_catalogue():
    lists = lists_of({"a": "x y", "b": "x z"}, {"a": "x", "b": "z"}, items=list("hxyzq"))
    values = catalogue_metrics(lists, by_rank(lists), "end_to_end", ks=[1, 2])
    assert values["coverage@1"] == pytest.approx(1 / 5)
    assert values["coverage@2"] == pytest.approx(3 / 5)
    assert values["gini@1"] == pytest.approx(4 / 5)
    assert "auc" not in values


def test_novelty_is_self_information_and_popularity_a_mean_count():
    lists = lists_of({"a": "x y"}, {"a": "y"}, history={"a": "h", "b": "x", "c": "x", "d": "x y"})
    row = per_user_metrics(lists, by_rank(lists), "end_to_end", ks=[1, 2]).iloc[0]
    assert row["novelty@1"] == pytest.approx(-log2(3 / 4))
    assert row["novelty@2"] == pytest.approx((-log2(3 / 4) - log2(1 / 4)) / 2)
    assert row["average_popularity@2"] == pytest.approx((3 + 1) / 2)


def test_scores_are_checked():
    lists = lists_of({"u": "a b"}, {"u": "b"})
    with pytest.raises(DataError, match=r"'llm'.*shape \(3,\) for 2"):
        check_scores(lists, np.zeros(3), "llm")
    with pytest.raises(DataError, match="user 'u', item 'b'"):
        check_scores(lists, np.array([1.0, np.nan]), "llm")


def test_metric_name():
    assert metric_name("ndcg@10") == ("ndcg", 10)
    assert metric_name("mrr") == ("mrr", None)
