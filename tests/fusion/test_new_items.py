"""Heads for items that nobody chose, judged on pages whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest

from reranker.errors import BundleError
from reranker.fusion import FEATURES, FusionModel
from reranker.fusion.boosted import BoostedTrees, TreesVerdict
from reranker.fusion.new_items import NewItemPages, NewItemsVerdict, judge_new_items
from reranker.utils.statistics import Interval, ndcg_by_list
from tests.fusion.test_model import WORDS, fold, readings


def pages_of(users: int, strength: float, seed: int = 5) -> NewItemPages:
    """Pages on which features say nothing and one component tells the chosen item with the given strength."""
    choices = fold(users=users, strength=0.0, seed=seed)
    read = readings(choices, range(users), strength=strength, seed=seed + 1)
    return NewItemPages(choices=choices, raw=np.concatenate([read[number] for number in range(users)]))


def fitted(of_pages: float, of_known: float = 0.0) -> FusionModel:
    choices = fold(users=400, strength=1.5)
    known = readings(choices, range(400), strength=of_known)
    return FusionModel.fit(choices, known, WORDS, pages=pages_of(200, of_pages))


def test_what_is_read_is_worth_something_on_pages_where_it_tells_the_choice() -> None:
    baseline = fitted(of_pages=0.0).features
    judged = judge_new_items(pages_of(200, strength=3.0), baseline, WORDS)
    assert judged.verdict.gains and judged.verdict.gain.n == 200
    assert judged.head.logit.weights[0] > 1.0
    assert judged.verdict.read == pytest.approx(judged.ndcg["fused"].mean())
    assert judged.verdict.gain.mean == pytest.approx((judged.ndcg["fused"] - judged.ndcg["baseline"]).mean())
    assert "are ranked among themselves" in judged.verdict.summary() and "200 users" in judged.verdict.summary()


def test_the_judged_weights_are_those_of_other_users() -> None:
    """Noise of as many components as there are pages would be learned by heart."""
    pages = pages_of(60, strength=0.0, seed=11)
    noise = np.random.default_rng(1).standard_normal((len(pages.raw), 60))
    words = {f"noise{number}": "noise" for number in range(60)}
    baseline = fitted(of_pages=0.0).features
    judged = judge_new_items(replace(pages, raw=noise), baseline, words)
    lists, chosen, relevant = pages.choices.list_index, pages.choices.chosen, pages.choices.n_relevant
    by_heart = ndcg_by_list(judged.head.score(noise), lists, chosen, relevant).mean()
    assert by_heart > judged.verdict.read + 0.1
    assert not judged.verdict.gains and "are ranked like all others" in judged.verdict.summary()


def test_new_items_have_a_head_only_where_pages_show_a_gain() -> None:
    worth, not_worth = fitted(of_pages=3.0), fitted(of_pages=0.0)
    assert worth.new_items is not None and worth.new_items_verdict is not None
    assert not_worth.new_items is None and not_worth.new_items_verdict is not None
    assert set(worth.new_items_validation) == {"baseline", "fused"}


def test_where_the_baseline_is_served_new_items_are_ranked_among_themselves_beside_it() -> None:
    model = fitted(of_pages=3.0)
    model = replace(model, guard=model.guard.overruled("baseline"))
    served = model.guarded()
    assert served.guard.serve == "fused" and served.guard.only_new_items and served.guard.judged == "baseline"
    assert served.guard.margin == model.guard.baseline_minus_first_stage
    assert "known items by the baseline, new ones" in served.guard.summary()
    random = np.random.default_rng(3)
    features, raw = random.standard_normal((8, len(FEATURES))), random.standard_normal((8, 1))
    lists, new = np.repeat([0, 1], 4), np.array([False, True, True, False, False, True, False, False])
    scores = served.orders(features, raw, lists, new)
    assert scores["fused"][~new] == pytest.approx(scores["baseline"][~new])
    assert scores["fused"][5] == pytest.approx(scores["baseline"][5])  # the only new one of its list
    assert scores["fused"][[1, 2]].mean() == pytest.approx(scores["baseline"][[1, 2]].mean())
    assert (scores["fused"][1] > scores["fused"][2]) == (raw[1, 0] > raw[2, 0])
    loaded = FusionModel.from_json(served.to_json())
    assert loaded.guard == served.guard and loaded.new_items_verdict == served.new_items_verdict
    assert np.array_equal(loaded.orders(features, raw, lists, new)["fused"], scores["fused"])
    assert not served.guard.overruled("baseline").only_new_items


def test_trees_that_rank_no_more_in_the_fused_order_are_not_said_to() -> None:
    model, nothing = fitted(of_pages=3.0), Interval(mean=0.1, low=0.05, high=0.15, n=400)
    of_baseline, of_fused = TreesVerdict(used=False, gain=nothing), TreesVerdict(used=True, gain=nothing)
    both = {"baseline": of_baseline, "fused": of_fused}
    trees = replace(model.fused, trees=BoostedTrees(model=""))
    served = replace(model, fused=trees, trees=both, guard=model.guard.overruled("baseline")).guarded()
    assert served.fused.trees is None and served.trees == {"baseline": of_baseline}
    assert served.trees_summary() == [of_baseline.summary("baseline")]


@pytest.mark.parametrize("serve", ["fused", "first_stage"])
def test_other_decisions_are_served_as_they_are(serve) -> None:
    model = fitted(of_pages=3.0)
    model = replace(model, guard=model.guard.overruled(serve))
    assert model.guarded() is model


def test_the_baseline_stays_the_baseline_where_pages_show_nothing_or_there_were_none() -> None:
    choices = fold(users=400, strength=1.5)
    without = FusionModel.fit(choices, readings(choices, range(400), strength=0.0), WORDS)
    for model in (fitted(of_pages=0.0), without):
        model = replace(model, guard=model.guard.overruled("baseline"))
        assert model.guarded() is model


def test_an_update_keeps_the_verdict_and_can_serve_the_fused_order_again() -> None:
    model = fitted(of_pages=3.0)
    served = replace(model, guard=model.guard.overruled("baseline")).guarded()
    choices = fold(users=300, strength=1.5, seed=9)
    plain, updated = (
        FusionModel.fit(choices, readings(choices, range(300), strength=2.0), WORDS, past=past)
        for past in (model, served)
    )
    assert updated.new_items_verdict == model.new_items_verdict and updated.new_items is model.new_items
    assert updated.fused.logit.weights == pytest.approx(plain.fused.logit.weights)
    assert updated.guard == plain.guard


def test_the_summary_says_where_the_served_order_reads_no_new_items() -> None:
    model = fitted(of_pages=3.0)
    verdict = model.new_items_verdict
    assert verdict is not None and verdict.gains
    beside = replace(model, guard=model.guard.overruled("baseline"))
    assert beside.reads_no_new_items == beside.guarded().reads_no_new_items == ""
    assert "are ranked among themselves" in verdict.summary(beside.reads_no_new_items)
    kept = replace(model, guard=model.guard.overruled("first_stage")).reads_no_new_items
    assert "are ranked like all others, for the first-stage order is served" in verdict.summary(kept)
    trees = BoostedTrees(model="")
    boosted = replace(model, fused=replace(model.fused, trees=trees), features=replace(model.features, trees=trees))
    for order in ("baseline", "fused"):
        boosted = replace(boosted, guard=model.guard.overruled(order))
        assert boosted.guarded() is boosted
        assert "are ranked like all others, for trees rank" in verdict.summary(boosted.reads_no_new_items)


@pytest.mark.parametrize("bad", [{}, {"baseline": "x"}, {"baseline": 0.1, "read": float("nan"), "gain": {}}])
def test_a_verdict_that_is_none_is_refused(bad) -> None:
    with pytest.raises(BundleError, match="new items"):
        NewItemsVerdict.from_json(bad)
