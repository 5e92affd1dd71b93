import json

import numpy as np
import pytest

from reranker.errors import BundleError, DataError
from reranker.fusion import FusionHead, cross_fitted_scores

COLUMNS = {"good": "goodness", "noise": "noise"}


def lists(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """n lists of 4 where the candidate with the highest first feature is chosen."""
    features = np.random.default_rng(seed).standard_normal((n, 4, 2))
    chosen = np.zeros((n, 4), dtype=bool)
    chosen[np.arange(n), features[:, :, 0].argmax(axis=1)] = True
    return features.reshape(-1, 2), np.repeat(np.arange(n), 4), chosen.ravel()


def test_words_name_the_strongest_first_with_its_odds() -> None:
    head = FusionHead.fit(COLUMNS, *lists(100))
    first, second = head.in_words()
    assert first.startswith("good +") and "goodness" in first and second.startswith("noise")
    weight = head.logit.weights[0]
    assert f"odds x{np.exp(weight):.2f}" in first
    assert head.in_words(most=1) == [first]


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


def test_cross_fitting_never_sees_the_list_it_scores() -> None:
    # Every list's chosen item is marked by a column of its own: only a model that saw the list can use it.
    n = 20
    features = np.zeros((n, 2, n))
    features[np.arange(n), 0, np.arange(n)] = 1.0
    chosen = np.tile([True, False], n)
    scores = cross_fitted_scores(features.reshape(2 * n, n), np.repeat(np.arange(n), 2), chosen)
    assert scores == pytest.approx(np.zeros(2 * n))


def test_cross_fitting_finds_what_generalises() -> None:
    features, list_index, chosen = lists(100)
    scores = cross_fitted_scores(features, list_index, chosen).reshape(100, 4)
    assert (scores.argmax(axis=1) == chosen.reshape(100, 4).argmax(axis=1)).mean() > 0.9


def test_cross_fitting_needs_two_lists() -> None:
    with pytest.raises(DataError, match="at least two"):
        cross_fitted_scores(*lists(1))
