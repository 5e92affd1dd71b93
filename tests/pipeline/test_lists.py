import numpy as np
import pandas as pd
import pytest

from candidate_gen import ALSGenerator, PopularityGenerator, make_generator
from reranker.data.splits import cold_items, leave_last_k, new_items
from reranker.errors import DataError
from reranker.fusion import FEATURES
from reranker.pipeline.lists import FoldLists, propose
from reranker.pipeline.windows import windows_from_generator
from tests.evaluation.toys import lists_of


def test_relevance_is_aligned_with_rows_and_users():
    lists = lists_of({"a": "x y z", "b": "x y"}, {"b": "q", "a": "z q"})
    assert lists.fold.users == ["b", "a"]
    assert lists.list_index.tolist() == [1, 1, 1, 0, 0]
    assert lists.relevant.tolist() == [False, False, True, False, False]
    assert lists.n_relevant.tolist() == [1, 2]
    assert lists.n_found.tolist() == [0, 1]
    assert lists.covered.tolist() == [False, True]


def test_first_stage_never_sees_the_test_and_positives_are_not_injected(chain):
    fold = leave_last_k(chain)
    lists = propose(fold, PopularityGenerator(), 3)
    assert lists.candidates.groupby("user_id").size().eq(3).all()
    assert 0 < lists.covered.sum() < len(fold.users)
    assert lists.label("end_to_end") == "end_to_end"


def test_injected_positives_are_labelled(chain):
    fold = leave_last_k(chain)
    lists = propose(fold, PopularityGenerator(), 3, inject=True)
    assert lists.covered.all()
    assert lists.candidates.groupby("user_id").size().eq(3).all()
    assert lists.label("covered") == "covered+injected"


def test_cold_items_get_the_second_half_of_every_list_the_same_for_all(chain):
    fold = cold_items(chain, share=0.25)
    lists = propose(fold, PopularityGenerator(), 6)
    tails = lists.candidates[lists.candidates["rank"] > 3].groupby("user_id").item_id.agg(tuple)
    assert tails.nunique() == 1
    assert set(tails.iloc[0]) == set(fold.cold_items)
    assert lists.covered.all()


def test_a_list_of_new_items_holds_the_chosen_one_among_others_in_a_random_order(chain):
    fold = new_items(chain, share=0.5)
    assert len(fold.cold_items) == 6
    lists = propose(fold, PopularityGenerator(), 4)
    assert lists.covered.all()
    assert lists.candidates.groupby("user_id").size().eq(4).all()
    assert set(lists.candidates.item_id) <= set(fold.cold_items)
    chosen = lists.candidates.merge(fold.held_out, on=["user_id", "item_id"])
    assert len(chosen) == len(fold.users)
    assert chosen["rank"].nunique() > 1
    pd.testing.assert_frame_equal(lists.candidates, propose(fold, PopularityGenerator(), 4).candidates)
    assert propose(fold, PopularityGenerator(), 50).candidates.groupby("user_id").size().eq(6).all()


def test_top_keeps_the_head_of_each_list():
    lists = lists_of({"a": "x y z", "b": "p q"}, {"a": "z", "b": "p"})
    assert lists.top(2).candidates.item_id.tolist() == ["x", "y", "p", "q"]
    assert lists.top(2).covered.tolist() == [False, True]


def test_parts_of_lists_share_the_statistics_that_were_worked_out():
    lists = lists_of({"a": "x y z", "b": "p q"}, {"a": "z", "b": "p"})
    known = lists.statistics
    assert lists.top(2).statistics is known
    assert lists.of_users(lists.covered).statistics is known


def test_candidates_of_strangers_are_refused(chain):
    fold = leave_last_k(chain)
    table = PopularityGenerator().fit(fold.train).recommend(["nobody"], n=2)
    with pytest.raises(DataError, match="outside the test fold, first 'nobody'"):
        FoldLists(fold=fold, candidates=table, n=2)


@pytest.mark.parametrize(
    "generator", [PopularityGenerator(), ALSGenerator(factors=4)], ids=["without item vectors", "with"]
)
def test_the_judge_knows_what_fit_knows(chain, generator):
    judged = propose(leave_last_k(chain), generator, 3)
    (fitted, *_) = windows_from_generator(chain, generator, 3, min_history=1)
    rows = ["user_id", "item_id"]
    ours = pd.DataFrame(judged.features, columns=list(FEATURES)).join(judged.candidates[rows])
    theirs = pd.DataFrame(fitted.features, columns=list(FEATURES)).join(fitted.candidates[rows])
    both = ours.merge(theirs, on=rows, suffixes=("", "_fit"))
    assert len(both) > 5 and both["similarity_last"].abs().sum() > 0
    np.testing.assert_allclose(both[list(FEATURES)], both[[f"{name}_fit" for name in FEATURES]], atol=1e-6)


def test_cold_items_that_a_generator_proposes_by_itself_stand_in_no_list_twice(chain):
    fold = cold_items(chain, share=0.25)
    generator = make_generator("popularity", items=fold.items, new_share=0.5)
    expected = propose(fold, PopularityGenerator(), 6).candidates
    of_cold = propose(fold, generator, 6).candidates
    tails = [lists[lists.item_id.isin(fold.cold_items)] for lists in (of_cold, expected)]
    pairs = [set(zip(tail.user_id, tail.item_id, strict=True)) for tail in tails]
    assert pairs[0] == pairs[1]
