import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.errors import DataError
from reranker.fusion import ConditionalLogit, standardise_within_lists
from reranker.fusion.conditional_logit import log_softmax_within_lists


def test_standardise_by_hand() -> None:
    features = np.array([[1.0, 5.0], [3.0, 5.0], [10.0, 0.0], [20.0, 1.0], [30.0, 2.0]])
    result = standardise_within_lists(features, np.array([0, 0, 1, 1, 1]))
    third = np.sqrt(1.5)  # (30 - 20) / sqrt((100 + 0 + 100) / 3)
    assert result[:, 0] == pytest.approx([-1, 1, -third, 0, third])
    assert result[:, 1] == pytest.approx([0, 0, -third, 0, third])  # constant in the first list: nothing to tell apart


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e3))
def test_standardise_forgets_shift_and_scale(shift: float, scale: float) -> None:
    base = np.array([[0.0], [1.0], [4.0]])
    moved = standardise_within_lists(base * scale + shift, np.zeros(3, dtype=np.int64))
    assert moved == pytest.approx(standardise_within_lists(base, np.zeros(3, dtype=np.int64)), abs=1e-4)


def test_log_softmax_by_hand() -> None:
    log_p = log_softmax_within_lists(np.log([1.0, 3.0, 2.0, 2.0]), np.array([0, 0, 1, 1]))
    assert np.exp(log_p) == pytest.approx([0.25, 0.75, 0.5, 0.5])


def test_log_softmax_survives_huge_utilities() -> None:
    assert np.exp(log_softmax_within_lists(np.array([1e4, 1e4]), np.array([0, 0]))) == pytest.approx([0.5, 0.5])


def test_fit_finds_the_closed_form() -> None:
    # Two candidates, x = 1 and 0; x = 1 was chosen 3 times of 4: w = log(3) without a penalty.
    features = np.array([[1.0], [0.0]] * 4)
    chosen = np.array([True, False] * 3 + [False, True])
    fitted = ConditionalLogit.fit(features, np.repeat(np.arange(4), 2), chosen, l2=1e-9)
    assert fitted.weights == pytest.approx([np.log(3)], abs=1e-4)
    assert fitted.log_likelihood == pytest.approx(0.75 * np.log(0.75) + 0.25 * np.log(0.25), abs=1e-6)
    assert fitted.n_choices == 4


def test_fit_recovers_the_weights_that_made_the_choices() -> None:
    rng = np.random.default_rng(0)
    true = np.array([1.5, -0.7, 0.0])
    features = rng.standard_normal((4000 * 10, 3))
    utilities = (features @ true + rng.gumbel(size=len(features))).reshape(4000, 10)
    chosen = np.zeros((4000, 10), dtype=bool)
    chosen[np.arange(4000), utilities.argmax(axis=1)] = True
    fitted = ConditionalLogit.fit(features, np.repeat(np.arange(4000), 10), chosen.ravel())
    assert fitted.weights == pytest.approx(true, abs=0.06)


def test_ridge_pulls_towards_zero() -> None:
    features, chosen = np.array([[1.0], [0.0]]), np.array([True, False])
    lists = np.zeros(2, dtype=np.int64)
    weak = ConditionalLogit.fit(features, lists, chosen, l2=0.1).weights[0]
    strong = ConditionalLogit.fit(features, lists, chosen, l2=10.0).weights[0]
    assert 0 < strong < weak


def test_lists_without_a_choice_teach_nothing() -> None:
    features = np.array([[1.0], [0.0], [5.0], [-5.0]])
    chosen = np.array([True, False, False, False])
    both = ConditionalLogit.fit(features, np.array([0, 0, 1, 1]), chosen)
    one = ConditionalLogit.fit(features[:2], np.array([0, 0]), chosen[:2])
    assert both.weights == pytest.approx(one.weights)


def test_nothing_chosen_is_an_error() -> None:
    with pytest.raises(DataError, match="no list contains a chosen item"):
        ConditionalLogit.fit(np.ones((2, 1)), np.zeros(2, dtype=np.int64), np.zeros(2, dtype=bool))


def test_not_finite_features_are_named() -> None:
    features = np.array([[1.0, np.nan], [0.0, 1.0]])
    with pytest.raises(DataError, match=r"columns \[1\]"):
        ConditionalLogit.fit(features, np.zeros(2, dtype=np.int64), np.array([True, False]))


def test_a_list_is_standardised_as_if_it_were_alone() -> None:
    mine, huge = np.array([[0.1], [0.2], [0.4]]), np.array([[1.7e18], [1.6e18]])
    alone = standardise_within_lists(mine, np.zeros(3, dtype=np.int64))
    beside = standardise_within_lists(np.concatenate([mine, huge]), np.array([0, 0, 0, 1, 1]))
    np.testing.assert_array_equal(beside[:3], alone)
    np.testing.assert_allclose(beside[3:, 0], [1, -1])
    assert not standardise_within_lists(np.full((3, 1), 0.1 + 0.2), np.zeros(3, dtype=np.int64)).any()
