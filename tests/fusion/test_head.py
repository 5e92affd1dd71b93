import json

import numpy as np
import pytest

from reranker.errors import BundleError, DataError
from reranker.fusion import FusionHead, assign_folds, fit_fused

COLUMNS = {"good": "goodness", "noise": "noise"}


def lists(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """n lists of 4 where the candidate with the highest first feature is chosen."""
    features = np.random.default_rng(seed).standard_normal((n, 4, 2))
    chosen = np.zeros((n, 4), dtype=bool)
    chosen[np.arange(n), features[:, :, 0].argmax(axis=1)] = True
    return features.reshape(-1, 2), np.repeat(np.arange(n), 4), chosen.ravel()


def test_words_name_the_strongest_first_with_its_odds() -> None:
    head = FusionHead.fit(COLUMNS, *lists(100))
    first, second = head.summary()
    assert first.startswith("good +") and "goodness" in first and second.startswith("noise")
    weight = head.logit.weights[0]
    assert f"odds x{np.exp(weight):.2f}" in first
    assert head.summary(most=1) == [first]


def test_json_round_trip_scores_the_same() -> None:
    features, list_index, chosen = lists(50)
    head = FusionHead.fit(COLUMNS, features, list_index, chosen)
    again = FusionHead.from_json(json.loads(json.dumps(head.to_json())))
    assert np.array_equal(again.score(features), head.score(features))
    assert again.columns == COLUMNS


def test_columns_must_match_features() -> None:
    with pytest.raises(DataError, match="2 feature columns were given 1 names"):
        FusionHead.fit({"good": "x"}, *lists(10))


@pytest.mark.parametrize("damage", [{"weights": [1.0]}, {"weights": [float("nan"), 1.0]}, {"columns": None}])
def test_damaged_json_is_a_bundle_error(damage: dict[str, object]) -> None:
    with pytest.raises(BundleError, match="fit the bundle again"):
        FusionHead.from_json(FusionHead.fit(COLUMNS, *lists(10)).to_json() | damage)


def test_llm_columns_join_without_moving_the_baseline() -> None:
    features, list_index, chosen = lists(300)
    baseline = FusionHead.fit(COLUMNS, features, list_index, chosen)
    sample = list_index < 20
    llm = np.random.default_rng(1).standard_normal((sample.sum(), 1))
    fused = fit_fused(
        baseline, {"llm": "words"}, np.hstack([features[sample], llm]), list_index[sample], chosen[sample]
    )
    assert list(fused.columns) == ["good", "noise", "llm"]
    alone = FusionHead.fit(COLUMNS, features[sample], list_index[sample], chosen[sample])
    moved = np.abs(fused.logit.weights[:2] - baseline.logit.weights).max()
    assert moved < 0.2 * np.abs(alone.logit.weights - baseline.logit.weights).max()
    assert abs(fused.logit.weights[2]) < 0.5


def test_llm_column_that_knows_the_answer_is_used() -> None:
    features, list_index, chosen = lists(100)
    baseline = FusionHead.fit({"noise": "noise"}, features[:, 1:], list_index, chosen)
    fused = fit_fused(baseline, {"llm": "words"}, features[:, ::-1], list_index, chosen)
    assert fused.logit.weights[1] > 3 * abs(fused.logit.weights[0])


def test_fused_columns_must_match() -> None:
    features, list_index, chosen = lists(10)
    baseline = FusionHead.fit(COLUMNS, features, list_index, chosen)
    with pytest.raises(DataError, match="2 feature columns were given 3 names"):
        fit_fused(baseline, {"llm": "words"}, features, list_index, chosen)


def test_folds_keep_lists_whole_and_spread_the_choices() -> None:
    _, list_index, chosen = lists(23)
    chosen[list_index >= 20] = False  # three lists without a choice
    folds = assign_folds(list_index, chosen)
    by_list = folds.reshape(23, 4)
    assert (by_list == by_list[:, :1]).all()
    assert np.bincount(by_list[:20, 0]).tolist() == [4, 4, 4, 4, 4]
    assert not np.array_equal(folds, assign_folds(list_index, chosen, seed=1))


def test_folds_keep_the_lists_of_a_user_together() -> None:
    _, list_index, chosen = lists(12)
    users = np.array([3, 1, 4, 1, 5, 2, 3, 1, 4, 2, 5, 3])
    folds = assign_folds(list_index, chosen, folds=5, users=users).reshape(12, 4)[:, 0]
    of_user = {user: set(folds[users == user].tolist()) for user in set(users.tolist())}
    assert all(len(one) == 1 for one in of_user.values())
    assert set.union(*of_user.values()) == {0, 1, 2, 3, 4}


def test_a_user_of_many_lists_cannot_be_held_out_of_himself() -> None:
    _, list_index, chosen = lists(4)
    with pytest.raises(DataError, match="at least two users"):
        assign_folds(list_index, chosen, users=np.zeros(4, dtype=np.int64))


def test_lists_of_one_user_are_held_out_together() -> None:
    """Noise that is the same in all lists of a user would look like knowledge if they were not."""
    random = np.random.default_rng(0)
    features, list_index, chosen = lists(20)
    baseline = FusionHead.fit(COLUMNS, features, list_index, chosen)
    llm = random.standard_normal((len(list_index), 30))
    again = np.hstack([features, llm]), list_index, chosen
    copies = [np.concatenate([part] * 4) for part in (again[0], again[2])]
    numbers = np.concatenate([list_index + 20 * copy for copy in range(4)])
    words = {f"llm{n}": "noise" for n in range(30)}
    users = np.tile(np.arange(20), 4)
    fooled = fit_fused(baseline, words, copies[0], numbers, copies[1])
    careful = fit_fused(baseline, words, copies[0], numbers, copies[1], users=users)
    assert np.abs(careful.logit.weights[2:]).max() < 0.2 * np.abs(fooled.logit.weights[2:]).max()


def test_folds_need_two_lists() -> None:
    _, list_index, chosen = lists(1)
    with pytest.raises(DataError, match="at least two"):
        assign_folds(list_index, chosen)
