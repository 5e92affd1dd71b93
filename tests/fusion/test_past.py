"""Updating a head by new choices comes close to fitting it on all of them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from reranker.errors import BundleError
from reranker.fusion import FEATURES, Choices, ConditionalLogit, FusionHead
from reranker.fusion.guard import decide, vetoed
from reranker.fusion.head import RIDGES
from reranker.fusion.judged import JudgedLists
from reranker.fusion.model import FusionModel as FusionModel
from reranker.fusion.past import PastChoices
from tests.fusion.test_model import WORDS, fold, readings

TRUTH = np.array([1.0, -0.5, 0.2])


def lists(users, seed, truth=TRUTH):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((users, 10, len(truth)))
    chosen = np.zeros((users, 10), dtype=bool)
    chosen[np.arange(users), (features @ truth + rng.gumbel(size=(users, 10))).argmax(axis=1)] = True
    return features.reshape(-1, len(truth)), np.repeat(np.arange(users), 10), chosen.ravel()


def test_information_of_one_choice_between_two_by_hand():
    features, list_index = np.array([[1.0], [0.0]]), np.array([0, 0])
    logit = ConditionalLogit(weights=np.zeros(1), log_likelihood=0.0, n_choices=1)
    assert logit.information(features, list_index, np.array([True, False])) == pytest.approx(0.25)  # p (1 - p)


def test_information_is_the_second_derivative():
    rows = lists(40, 0)
    logit = ConditionalLogit.fit(*rows)
    step = 1e-4

    def gradient(weights):
        def at(delta):
            return replace(logit, weights=weights + delta).log_likelihood_of(*rows)

        return np.array([(at(step * unit) - at(-step * unit)) / (2 * step) for unit in np.eye(3)])

    numeric = [
        (gradient(logit.weights - step * unit) - gradient(logit.weights + step * unit)) / (2 * step)
        for unit in np.eye(3)
    ]
    np.testing.assert_allclose(logit.information(*rows), np.array(numeric), atol=1e-3 * np.abs(numeric).max())


@pytest.mark.parametrize("l2", [1.0, 30.0])
def test_an_update_comes_close_to_a_fit_on_all(l2):
    old, new = lists(600, 1), lists(150, 2)
    columns = {"a": "", "b": "", "c": ""}
    first = FusionHead.fit(columns, *old, l2)
    updated = FusionHead.fit(columns, *new, l2, first.past)
    both = tuple(np.concatenate(parts) for parts in ((old[0], new[0]), (old[1], new[1] + 600), (old[2], new[2])))
    whole = FusionHead.fit(columns, *both, l2)
    alone = FusionHead.fit(columns, *new, l2)
    error = np.abs(updated.logit.weights - whole.logit.weights).max()
    assert error < 0.005 < np.abs(alone.logit.weights - whole.logit.weights).max()
    assert updated.past.n_choices == 750
    third = lists(100, 3)
    again = FusionHead.fit(columns, *third, l2, updated.past)
    every = tuple(
        np.concatenate(parts) for parts in ((both[0], third[0]), (both[1], third[1] + 750), (both[2], third[2]))
    )
    assert np.abs(again.logit.weights - FusionHead.fit(columns, *every, l2).logit.weights).max() < 0.01


def test_what_is_faded_counts_less():
    old, new = lists(600, 1), lists(150, 2, -TRUTH)
    columns = {"a": "", "b": "", "c": ""}
    past = FusionHead.fit(columns, *old).past
    weights = [FusionHead.fit(columns, *new, 1.0, past.faded(share)).logit.weights[0] for share in (1.0, 0.2, 0.0)]
    assert weights[0] > weights[1] > weights[2]
    assert weights[2] == pytest.approx(FusionHead.fit(columns, *new).logit.weights[0], abs=1e-4)


def halves(choices: Choices, n: int) -> tuple[Choices, Choices]:
    def part(numbers):
        rows = np.isin(choices.list_index, numbers)
        fields = {name: getattr(choices, name)[rows] for name in ("features", "chosen", "first_stage_rank")}
        of_list = {name: getattr(choices, name)[numbers] for name in ("n_relevant", "n_known")}
        index = choices.list_index[rows] - numbers[0]
        return Choices(list_index=index, users=[choices.users[number] for number in numbers], **fields, **of_list)

    every = np.arange(len(choices.users))
    return part(every[:n]), part(every[n:])


def test_a_model_is_updated_as_a_whole():
    choices = fold(users=500, strength=0.5)
    old, new = halves(choices, 400)
    said = readings(choices, range(500), strength=1.5)
    first = FusionModel.fit(old, {number: said[number] for number in range(400)}, WORDS)
    updated = FusionModel.fit(new, {number: said[400 + number] for number in range(100)}, WORDS, past=first)
    whole = FusionModel.fit(choices, said, WORDS)
    assert np.abs(updated.features.logit.weights - whole.features.logit.weights).max() < 0.02
    assert np.abs(updated.fused.logit.weights - whole.fused.logit.weights).max() < 0.1
    assert len(updated.judged.users) == 500 and updated.guard.serve == "fused"
    assert updated.guard.fused_minus_baseline.n == 500
    read = json.loads(json.dumps(updated.to_json()))
    again = FusionModel.from_json(read)
    np.testing.assert_array_equal(again.fused.past.information, updated.fused.past.information)


def test_a_model_without_past_choices_is_not_updated():
    choices = fold(users=60, strength=0.5)
    said = readings(choices, range(60), strength=1.0)
    model = FusionModel.fit(choices, said, WORDS)
    bare = replace(model, features=replace(model.features, past=None))
    with pytest.raises(BundleError, match="holds no past choices"):
        FusionModel.fit(choices, said, WORDS, past=bare)
    with pytest.raises(BundleError, match="other columns"):
        FusionModel.fit(choices, said, {"other": ""}, past=model)
    broken = model.fused.past.to_json() | {"gradient": [1.0]}
    with pytest.raises(BundleError, match="shapes"):
        PastChoices.from_json(broken, len(FEATURES) + 2)


def test_a_window_that_shows_harm_vetoes_what_all_windows_say():
    n = 400
    first, better = np.full(n, 0.2), np.full(n, 0.3) + np.random.default_rng(0).normal(0, 0.01, n)
    decision = decide(first, better, better + 0.01, np.full(n, 9))
    assert decision.serve == "fused"
    few, users = np.full(30, 0.3), np.arange(30)
    noise = np.random.default_rng(1).normal(0, 0.01, 30)
    assert vetoed(decision, few, few + noise, few + noise, users).serve == "fused"  # not decided
    assert vetoed(decision, few, few + noise, few - 0.1 + noise, users).serve == "baseline"
    vetoes = vetoed(decision, few, few - 0.1 + noise, few - 0.1 + noise, users)
    assert vetoes.serve == "first_stage" and vetoes.by_history == ()


def test_judged_lists_keep_the_newest_and_forget_users():
    def judged(users, value):
        ones = np.ones(len(users), dtype=int)
        return JudgedLists(ndcg=np.full((len(users), 3), value), n_known=ones, users=users, recall=ones * value)

    both = judged(["a", "b"], 1.0).before(judged(["a", "c"], 0.0), most=3)
    assert both.users == ["a", "b", "a"] and both.ndcg[:, 0].tolist() == [1, 1, 0]
    assert both.without({"a"}).users == ["b"] and len(both.without({"a", "b"}).ndcg) == 0


def test_the_ridge_of_more_choices_stays_and_that_of_fewer_is_chosen_anew():
    choices = fold(users=300, strength=0.5)
    old, new = halves(choices, 200)
    said = readings(choices, range(300), strength=1.5)
    first = FusionModel.fit(old, {number: said[number] for number in range(200)}, WORDS)
    assert first.fused.past.n_choices > new.chosen.sum()
    kept = replace(first, fused=replace(first.fused, past=replace(first.fused.past, l2=7.0)))
    mine = {number: said[200 + number] for number in range(100)}
    assert FusionModel.fit(new, mine, WORDS, past=kept).fused.past.l2 == 7.0
    few = replace(kept, fused=replace(kept.fused, past=kept.fused.past.faded(0.01)))
    assert FusionModel.fit(new, mine, WORDS, past=few).fused.past.l2 in RIDGES
